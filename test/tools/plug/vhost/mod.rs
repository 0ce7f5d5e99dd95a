//! A guest with a vhost-user network card, without a virtual machine: hypervisor and guest's driver in one.
//!
//! The guest's memory is a file in memory that the program maps too. Frames are read from the tap straight into it, and
//! written to the tap straight from it; offloads of the tap are those that were agreed on, so a guest's kernel cuts and
//! sums just what it would in a machine. With `--offload` consecutive segments of a flow for the guest become one frame,
//! as in its kernel's GRO. Each pair of queues has a queue of the tap and a thread. What the program does that no device
//! may do ends the relay with an error.

mod checks;
mod frontend;
mod memory;
mod pair;
mod ring;
mod to_guest;

use std::io::stdin;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};

use self::frontend::Frontend;
use self::memory::Memory;
use self::pair::{Count, Pair};
use super::cpu_seconds;
use crate::tun;

#[derive(clap::Args)]
// Two groups of one name: builds with assertions refuse them.
#[group(skip)]
pub struct Options {
    /// With --vhost-user: pairs of queues, as far as the program has so many
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=8))]
    pairs: u8,
    /// With --vhost-user: bytes of a buffer for frames to the guest
    #[arg(long, default_value_t = 4096, value_parser = clap::value_parser!(u32).range(1536..=65536))]
    buffer: u32,
    /// With --vhost-user: a feature of virtio not to agree on, by its number
    #[arg(long, value_parser = clap::value_parser!(u8).range(..64))]
    without: Vec<u8>,
    /// With --vhost-user: the guest answers to each pair through the next one
    #[arg(long)]
    cross: bool,
}

/// Tells all threads to stop.
pub struct Stop {
    told: AtomicBool,
    event: EventFd,
}

impl Stop {
    fn new() -> Result<Stop> {
        let event = EventFd::from_flags(EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC)?;
        Ok(Stop { told: AtomicBool::new(false), event })
    }

    pub fn is_told(&self) -> bool {
        self.told.load(Ordering::Relaxed)
    }

    fn tell(&self) {
        self.told.store(true, Ordering::Relaxed);
        // It fails when it has been told very often.
        let _ = self.event.write(1);
    }
}

impl AsFd for Stop {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.event.as_fd()
    }
}

pub fn run(options: &super::Options, path: &Path) -> Result<()> {
    let own = &options.vhost;
    let unwanted = own.without.iter().fold(0, |all, n| all | checks::bit(u32::from(*n)));
    let mut frontend = Frontend::connect(path, own.pairs.into(), unwanted)?;
    let agreed = frontend.agreed;
    let taps = tun::open_queues(&options.tap, frontend.pairs, agreed.offloads())?;
    tun::keep(&taps[0])?;
    if let Some(mac) = options.mac {
        tun::set_mac(&taps[0], mac)?;
    }
    let mac = tun::mac(&taps[0])?.map(|octet| format!("{octet:02x}")).join(":");
    let small = agreed.mergeable().then_some(own.buffer as usize);
    let memory = Arc::new(Memory::new(frontend.pairs, small)?);
    let error = EventFd::from_flags(EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC)?;
    frontend.share(&memory)?;
    // A tap has the guest go on in the queue that a flow was last written to.
    let shift = usize::from(own.cross);
    let outs = (0..taps.len()).map(|nth| taps[(nth + shift) % taps.len()].try_clone());
    let outs = outs.collect::<std::io::Result<Vec<_>>>()?;
    let mut pairs = Vec::new();
    for (nth, ends) in taps.into_iter().zip(outs).enumerate() {
        let pair = Pair::new(&memory, nth, agreed, options.offload, ends)?;
        for (index, ring) in pair.rings().into_iter().enumerate() {
            frontend.start(2 * nth + index, ring, &memory, &error)?;
        }
        pairs.push(pair);
    }
    let (count, features) = (pairs.len(), agreed.0);
    println!(r#"{{"ready":true,"mac":"{mac}","kind":"vhost-user","pairs":{count},"features":{features}}}"#);

    let stop = Stop::new()?;
    let (mut total, mut closed) = (Count::default(), false);
    let work = &|pair: Pair| {
        let done = pair.carry(&stop);
        stop.tell();
        done
    };
    thread::scope(|scope| -> Result<()> {
        let workers: Vec<_> = pairs.into_iter().map(|pair| scope.spawn(move || work(pair))).collect();
        let watched = watch(&frontend, &error, &stop, Duration::from_secs(options.seconds));
        stop.tell();
        for worker in workers {
            total.add(&worker.join().expect("a thread that does not panic")?);
        }
        closed = watched?;
        Ok(())
    })?;
    if !closed {
        for ring in 0..2 * count {
            frontend.stop(ring)?;
        }
    }
    println!(r#"{{{},"closed":{closed},"cpu_seconds":{:.6}}}"#, total.json(), cpu_seconds()?);
    Ok(())
}

/// Returns when it is time to stop, and whether the program has closed the connection.
fn watch(frontend: &Frontend, error: &EventFd, stop: &Stop, time: Duration) -> Result<bool> {
    let end = Instant::now() + time;
    loop {
        let input = stdin();
        let mut polled = [
            PollFd::new(frontend.as_fd(), PollFlags::POLLIN),
            PollFd::new(error.as_fd(), PollFlags::POLLIN),
            PollFd::new(input.as_fd(), PollFlags::POLLIN),
            PollFd::new(stop.as_fd(), PollFlags::POLLIN),
        ];
        let patience = end.saturating_duration_since(Instant::now());
        match poll(&mut polled, PollTimeout::try_from(patience.as_millis()).unwrap_or(PollTimeout::MAX)) {
            Err(Errno::EINTR) => continue,
            other => other.context("cannot wait")?,
        };
        let [socket, error, input, stopped] = polled.map(|one| one.revents().unwrap_or(PollFlags::empty()));
        if !socket.is_empty() {
            let gone = socket.intersects(PollFlags::POLLHUP | PollFlags::POLLERR);
            ensure!(gone, "the program says what nobody asked for");
            return Ok(true);
        }
        if !error.is_empty() {
            bail!("the program has given up a ring");
        }
        if !input.is_empty() || !stopped.is_empty() || Instant::now() >= end {
            return Ok(false);
        }
    }
}
