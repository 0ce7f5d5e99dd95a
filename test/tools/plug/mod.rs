//! A guest behind a socket without a virtual machine: the guest is a network namespace with a tap, and this relay
//! carries its frames to the socket of the program under test and back, as QEMU (`-netdev stream`) or libkrun does.
//!
//! It must cost less than the program, and lose nothing. So it works in batches, one at a time each way: frames are
//! read from the tap until it is empty or the batch full, and go to the socket with one system call; while the socket
//! is full the tap is not read. What the program sends is read as it comes, hundreds of kilobytes at a time. The tap
//! stays when the relay goes, as a machine's network card does, and the next relay takes it over.
//!
//! | form | from the guest | to the guest |
//! | --- | --- | --- |
//! | plain | its kernel cuts to the MTU and sums | frame by frame; its kernel verifies |
//! | `--offload` | super-frames, cut and summed here | consecutive segments of a flow become one frame, not verified |
//! | `--giant` | super-frames as they are, sums unfinished | as plain |
//! | `--vhost-user` | as the program offers to take it | as it comes; see [`vhost`] |
//!
//! Tests take the plain form, in which the guest's kernel looks at everything; measurements take `--offload`, which at an
//! MTU of 1500 costs a quarter.

mod from_program;
mod join;
mod socket;
mod to_program;
mod vhost;

use std::io::{ErrorKind, stdin};
use std::os::fd::{AsFd, RawFd};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::resource::{UsageWho, getrusage};

use self::from_program::FromProgram;
use self::socket::Socket;
use self::to_program::ToProgram;
use crate::tun;

#[derive(clap::Args)]
#[command(group(clap::ArgGroup::new("socket").required(true).args(["stream", "fd", "vhost_user"])))]
pub struct Options {
    /// The guest's interface: file of its network namespace, colon, name of the tap
    #[arg(long)]
    tap: String,
    /// Connect to a stream socket at this path
    #[arg(long)]
    stream: Option<PathBuf>,
    /// Use this descriptor, a connected socket: stream, or one frame a datagram
    #[arg(long)]
    fd: Option<RawFd>,
    /// Connect to a vhost-user device at this path
    #[arg(long, value_name = "PATH", conflicts_with_all = ["giant", "unfinished"])]
    vhost_user: Option<PathBuf>,
    #[command(flatten)]
    vhost: vhost::Options,
    /// Give the interface this address, six octets with colons
    #[arg(long, value_parser = parse_mac)]
    mac: Option<[u8; 6]>,
    /// Segmentation and checksums are done here, not in the guest
    #[arg(long)]
    offload: bool,
    /// With --offload: leave the checksums of frames to the program unfinished
    #[arg(long, requires = "offload")]
    unfinished: bool,
    /// Pass frames of up to 64 KiB as they are, their checksums unfinished
    #[arg(long, conflicts_with = "offload")]
    giant: bool,
    /// Stop after this time
    #[arg(long, default_value_t = 300)]
    seconds: u64,
}

/// What is done to frames on the way to the program.
#[derive(Clone, Copy)]
struct Form {
    cut: bool,
    sum: bool,
}

pub fn run(options: &Options) -> Result<()> {
    options.vhost_user.as_ref().map_or_else(|| run_socket(options), |path| vhost::run(options, path))
}

fn run_socket(options: &Options) -> Result<()> {
    let tap = tun::open(&options.tap, options.offload || options.giant)?;
    tun::keep(&tap)?;
    if let Some(mac) = options.mac {
        tun::set_mac(&tap, mac)?;
    }
    let mut socket = match (&options.stream, options.fd) {
        (Some(path), _) => Socket::connect(path)?,
        (None, fd) => Socket::given(fd.context("give --stream or --fd")?)?,
    };
    let form = Form { cut: options.offload, sum: !options.giant && !options.unfinished };
    let mut out = ToProgram::new(form);
    let mut back = FromProgram::new(options.offload);
    let mac = tun::mac(&tap)?.map(|octet| format!("{octet:02x}")).join(":");
    println!(r#"{{"ready":true,"mac":"{mac}","kind":"{}"}}"#, socket.kind());

    let end = Instant::now() + Duration::from_secs(options.seconds);
    let (mut wakeups, mut closed) = (0u64, false);
    while !closed {
        let tap_events = if out.is_empty() { PollFlags::POLLIN } else { PollFlags::empty() };
        let room = if out.is_empty() { PollFlags::empty() } else { PollFlags::POLLOUT };
        let input = stdin();
        let mut polled = [
            PollFd::new(tap.as_fd(), tap_events),
            PollFd::new(socket.as_fd(), PollFlags::POLLIN | room),
            PollFd::new(input.as_fd(), PollFlags::POLLIN),
        ];
        let patience = end.saturating_duration_since(Instant::now());
        match poll(&mut polled, PollTimeout::try_from(patience.as_millis()).unwrap_or(PollTimeout::MAX)) {
            Err(Errno::EINTR) => continue,
            other => other?,
        };
        wakeups += 1;
        let [tap_is, socket_is, input_is] = polled.map(|one| one.revents().unwrap_or(PollFlags::empty()));
        if !input_is.is_empty() || Instant::now() >= end || tap_is.contains(PollFlags::POLLERR) {
            break;
        }
        if socket_is.intersects(PollFlags::POLLIN | PollFlags::POLLHUP | PollFlags::POLLERR) {
            closed = is_end(back.carry(&mut socket, &tap))?;
        }
        if tap_is.contains(PollFlags::POLLIN) {
            out.take(&tap)?;
        }
        if !out.is_empty() && !closed {
            closed = is_end(out.send(&mut socket).map(|()| true))?;
        }
    }
    println!(
        r#"{{"to_program":{},"from_program":{},"wakeups":{wakeups},"closed":{closed},"cpu_seconds":{:.6}}}"#,
        out.json(),
        back.json(),
        cpu_seconds()?
    );
    Ok(())
}

/// Whether the program has closed the connection: `going_on` says that it has not, or how it did.
fn is_end(going_on: std::io::Result<bool>) -> Result<bool> {
    match going_on {
        Ok(going_on) => Ok(!going_on),
        Err(error) => match error.kind() {
            ErrorKind::WouldBlock | ErrorKind::Interrupted => Ok(false),
            ErrorKind::BrokenPipe | ErrorKind::ConnectionReset => Ok(true),
            ErrorKind::ConnectionRefused | ErrorKind::NotConnected => Ok(true),
            _ => Err(error.into()),
        },
    }
}

/// User and system time of this process.
fn cpu_seconds() -> Result<f64> {
    let used = getrusage(UsageWho::RUSAGE_SELF)?;
    let seconds = |time: nix::sys::time::TimeVal| time.tv_sec() as f64 + time.tv_usec() as f64 * 1e-6;
    Ok(seconds(used.user_time()) + seconds(used.system_time()))
}

fn parse_mac(text: &str) -> Result<[u8; 6], String> {
    let octets: Option<Vec<u8>> =
        text.split(':').map(|word| u8::from_str_radix(word, 16).ok().filter(|_| word.len() == 2)).collect();
    octets.and_then(|octets| octets.try_into().ok()).ok_or_else(|| "not six octets with colons".to_owned())
}

/// Bytes of the number in front of each frame on a stream.
const PREFIX: usize = 4;
