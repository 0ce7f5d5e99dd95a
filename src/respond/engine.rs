//! The addresses of container networks, from the engine's socket.
//!
//! Who may talk to an engine is as good as root, so whoever reads a stranger's frames must not. A process of its own does
//! (`follow`): it hears the engine's events, reads the networks again when there were any, and sends the addresses, and
//! nothing else, over a pair of sockets to the responder, which never reads anything but addresses there. It keeps its files
//! in sight, for an engine that is started anew has a new socket; all else is given up.
//!
//! The same requests serve Docker and Podman, whose socket speaks Docker's language: `GET /networks/NAME`, `GET /events`.
//!
//! *Timers*: changes come in crowds, and are waited for (`CALM`); an engine that is not there is tried again (`AGAIN`).
//! While it is gone the addresses stay, for containers do.
//! *Limits*: `BODY_MAX` bytes a network, [`ADDRESSES_MAX`] addresses.
//!
//! System calls: socket, connect, sendto, recvfrom, poll, close; those of `logging`.

use std::collections::BTreeSet;
use std::io::{self, Read, Write};
use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::prctl;
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockType, recv, send, socketpair};
use serde_json::Value;

use super::http::{self, Answer};
use crate::base::Addr;
use crate::config::Lacks;
use crate::sandbox;
use crate::sys::process::{self, Fork};
use crate::sys::signal;

/// Networks of one engine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Engine {
    pub socket: PathBuf,
    pub networks: Vec<String>,
}

pub const ADDRESSES_MAX: usize = 4096;
const BODY_MAX: usize = 8 << 20;
const CALM: Duration = Duration::from_millis(50);
/// One that does not end is not waited for any longer.
const CROWD: Duration = Duration::from_millis(500);
const AGAIN: Duration = Duration::from_secs(2);
/// An engine that is busy is given this long for an answer.
const PATIENCE: Duration = Duration::from_secs(20);
/// All networks, containers too: those of Podman's that start and end tell of no network.
const EVENTS: &str = "/events?filters=%7B%22type%22%3A%5B%22container%22%2C%22network%22%5D%7D";

/// The responder's end of the pair.
pub struct Follower(OwnedFd);

impl Follower {
    /// Starts the process. To be called while this one has one thread.
    ///
    /// # Errors
    /// The kernel's, as a sentence.
    pub fn start(engine: Engine, lacks: Lacks) -> anyhow::Result<Follower> {
        let flags = SockFlag::SOCK_CLOEXEC;
        let pair = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, flags);
        let (ours, theirs) = pair.context("cannot make a pair of sockets")?;
        match process::fork().context("cannot make a process to follow the engine")? {
            Fork::Parent(_) => {
                nix::fcntl::fcntl(&ours, nix::fcntl::FcntlArg::F_SETFL(nix::fcntl::OFlag::O_NONBLOCK))
                    .context("cannot make a pair of sockets")?;
                Ok(Follower(ours))
            }
            Fork::Child => {
                drop(ours);
                // What ends the responder ends this: its own signals would only come first.
                let named = prctl::set_name(c"spelt-follower").map_err(anyhow::Error::from);
                let confined = named.and_then(|()| Ok(signal::block_all()?));
                let confined = confined.and_then(|()| Ok(sandbox::stay_among_files(sandbox::Role::FOLLOWER, lacks)?));
                match confined {
                    Ok(()) => follow(&engine, theirs.as_fd()),
                    Err(e) => log::error!("cannot follow the engine: {e:#}"),
                }
                process::exit_now(1)
            }
        }
    }

    /// The addresses that were told last, if any were told.
    ///
    /// # Errors
    /// The process has ended.
    pub fn take(&mut self) -> io::Result<Option<BTreeSet<Addr>>> {
        let mut last = None;
        let mut room = vec![0; ADDRESSES_MAX * 16 + 1];
        loop {
            match recv(self.0.as_raw_fd(), &mut room, MsgFlags::empty()) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(len) => last = Some(read_message(&room[..len])),
                Err(nix::Error::EAGAIN) => return Ok(last),
                Err(nix::Error::EINTR) => {}
                Err(e) => return Err(e.into()),
            }
        }
    }
}

impl AsRawFd for Follower {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

/// A byte that is always there, so that no message is the end; then sixteen for each address. Others are left out.
fn read_message(bytes: &[u8]) -> BTreeSet<Addr> {
    let addr = |b: &[u8]| Some(Addr::v6(b.try_into().ok()?)).filter(is_hosts);
    bytes.get(1..).unwrap_or_default().chunks(16).filter_map(addr).collect()
}

fn message(all: &BTreeSet<Addr>) -> Vec<u8> {
    let mut bytes = vec![0];
    all.iter().take(ADDRESSES_MAX).for_each(|a| bytes.extend_from_slice(a.octets()));
    bytes
}

fn is_hosts(addr: &Addr) -> bool {
    addr.is_unicast() && !addr.is_loopback() && !addr.is_link_local()
}

/// Until the responder is gone.
fn follow(engine: &Engine, responder: BorrowedFd<'_>) {
    let (mut told, mut complained) = (None, false);
    loop {
        let ended = follow_once(engine, responder, &mut told, &mut complained);
        match ended {
            Ok(()) => return,
            Err(e) if !complained => {
                log::warn!("cannot follow the engine at '{}': {e:#}; trying again", engine.socket.display());
                complained = true;
            }
            Err(e) => log::debug!("cannot follow the engine: {e:#}"),
        }
        if is_gone(responder, AGAIN) {
            return;
        }
    }
}

/// `Ok`: the responder is gone.
fn follow_once(
    engine: &Engine,
    responder: BorrowedFd<'_>,
    told: &mut Option<BTreeSet<Addr>>,
    complained: &mut bool,
) -> anyhow::Result<()> {
    // Events first: nothing falls between them and the lists.
    let mut events = request(&engine.socket, EVENTS)?;
    let (mut answer, mut room, mut body) = (Answer::default(), [0; 4096], Vec::new());
    loop {
        let mut all = BTreeSet::new();
        for network in &engine.networks {
            all.append(&mut list(&engine.socket, network).with_context(|| format!("network '{network}'"))?);
        }
        if std::mem::take(complained) {
            log::info!("following the engine at '{}' again", engine.socket.display());
        }
        if told.as_ref() != Some(&all) {
            if send(responder.as_raw_fd(), &message(&all), MsgFlags::MSG_NOSIGNAL).is_err() {
                return Ok(());
            }
            *told = Some(all);
        }
        // The rest of a crowd comes with its first.
        let (mut wait, mut since) = (PollTimeout::NONE, None);
        while since.is_none_or(|at: Instant| at.elapsed() < CROWD) && ready(events.as_fd(), responder, wait)? {
            if is_gone(responder, Duration::ZERO) {
                return Ok(());
            }
            match events.read(&mut room)? {
                0 => bail!("it has ended its events"),
                len => answer.take(&room[..len], &mut body).map_err(anyhow::Error::msg)?,
            }
            // What has happened is of no interest; that something has, is.
            if !body.is_empty() {
                body.clear();
                wait = PollTimeout::try_from(CALM).unwrap_or(PollTimeout::ZERO);
                since.get_or_insert_with(Instant::now);
            }
        }
    }
}

/// False: not within that time. With no limit, there is something.
fn ready(events: BorrowedFd<'_>, responder: BorrowedFd<'_>, wait: PollTimeout) -> io::Result<bool> {
    let mut fds = [PollFd::new(events, PollFlags::POLLIN), PollFd::new(responder, PollFlags::POLLIN)];
    match poll(&mut fds, wait) {
        Ok(count) => Ok(count > 0),
        Err(nix::Error::EINTR) => Ok(true),
        Err(e) => Err(e.into()),
    }
}

fn is_gone(responder: BorrowedFd<'_>, wait: Duration) -> bool {
    let mut fds = [PollFd::new(responder, PollFlags::POLLIN)];
    poll(&mut fds, PollTimeout::try_from(wait).unwrap_or(PollTimeout::MAX)).is_ok_and(|count| count > 0)
}

fn request(socket: &Path, path: &str) -> anyhow::Result<UnixStream> {
    let mut stream = UnixStream::connect(socket).context("cannot connect")?;
    stream.set_write_timeout(Some(PATIENCE))?;
    stream.write_all(http::get(path).as_bytes()).context("it takes no request")?;
    Ok(stream)
}

/// The addresses that a network's containers have now.
fn list(socket: &Path, network: &str) -> anyhow::Result<BTreeSet<Addr>> {
    let mut stream = request(socket, &format!("/networks/{network}"))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let (mut answer, mut room, mut body) = (Answer::default(), [0; 16 << 10], Vec::new());
    let until = Instant::now() + PATIENCE;
    while !answer.is_done() {
        match stream.read(&mut room).context("it does not answer")? {
            0 => break,
            len => answer.take(&room[..len], &mut body).map_err(anyhow::Error::msg)?,
        }
        if body.len() > BODY_MAX || Instant::now() > until {
            bail!("its answer is too long");
        }
    }
    if !answer.is_whole() {
        bail!("its answer is cut short");
    }
    addresses(&body)
}

/// Out of what `GET /networks/NAME` answers.
///
/// # Errors
/// It is no JSON, or none of a network.
pub fn addresses(body: &[u8]) -> anyhow::Result<BTreeSet<Addr>> {
    let network: Value = serde_json::from_slice(body).context("its answer is no JSON")?;
    let containers = match &network["Containers"] {
        Value::Object(all) => all,
        Value::Null => return Ok(BTreeSet::new()),
        _ => bail!("its answer is no network"),
    };
    let texts = containers.values().flat_map(|c| [&c["IPv4Address"], &c["IPv6Address"]]);
    let addr = |v: &Value| v.as_str()?.split('/').next()?.parse::<IpAddr>().ok().map(Addr::from);
    Ok(texts.filter_map(addr).filter(is_hosts).take(ADDRESSES_MAX).collect())
}

#[cfg(test)]
mod tests {
    use super::super::testing::a;
    use super::*;

    #[test]
    fn addresses_come_with_and_without_a_length() {
        let body = br#"{"Name":"web","Containers":{
            "x":{"Name":"one","IPv4Address":"192.0.2.5/26","IPv6Address":"2001:db8::5/112"},
            "y":{"IPv4Address":"192.0.2.6","IPv6Address":""},"z":{"IPv4Address":7,"IPv6Address":"fe80::1/64"}}}"#;
        assert_eq!(addresses(body).unwrap(), [a("192.0.2.5"), a("192.0.2.6"), a("2001:db8::5")].into());
        assert_eq!(addresses(b"{}").unwrap(), BTreeSet::new());
        for wrong in ["", "[", r#"{"Containers":[]}"#] {
            assert!(addresses(wrong.as_bytes()).is_err(), "{wrong}");
        }
    }

    #[test]
    fn messages_hold_addresses_only() {
        let all: BTreeSet<Addr> = [a("192.0.2.5"), a("2001:db8::5")].into();
        assert_eq!(read_message(&message(&all)), all);
        assert_eq!(read_message(&message(&BTreeSet::new())), BTreeSet::new());
        let hostile = [&[0][..], a("ff02::1").octets(), a("::1").octets(), &[7; 5]].concat();
        assert_eq!(read_message(&hostile), BTreeSet::new());
    }
}
