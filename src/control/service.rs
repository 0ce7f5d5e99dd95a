//! The control socket: whoever may connect asks in JSON, a line a request ([`super::protocol`]), and is answered in order.
//!
//! *Goals.* People and programs see what is going on and change it, while no client, slow, silent, faulty or hostile,
//! delays traffic or another client, or takes more than a fixed share of memory and descriptors.
//!
//! *A thread of its own*, confined as the workers are. It reads, sorts, and writes JSON; a worker only copies out what it
//! is asked for, or does as it is told, between two turns of its loop ([`Backend`]).
//!
//! *Who may.* The socket's directory and file are its owner's alone; the kernel says who connects (`SO_PEERCRED`), and
//! anybody but the owner and root is turned away, should the file's mode have been changed.
//!
//! *A client* has one request in work at a time: while it does not take its reply, nothing is read from it.
//!
//! *Timers*: one, while all places are taken. *Limits*: [`CLIENTS_MAX`] clients; when there are more, whoever has been silent
//! for longest goes, if that was [`SILENT`], and else the newcomer waits in the listen queue. A request is shorter than
//! [`super::session::LINE_BYTES_MAX`]. A client may send a descriptor, which a capture is to be written to: one is kept of each.
//!
//! System calls: accept4, getsockopt (`SO_PEERCRED`), epoll_ctl, epoll_wait, recvmsg, write,
//! fstat, fcntl (`F_GETFL`), close; futex (workers' answers).

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixListener;
use std::str::FromStr;
use std::time::Duration;

use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};
use serde_json::Value;

use super::capture::{Capture, CaptureOptions, Captures};
use super::choice::Found;
use super::protocol::{self, Failure, Filter, Forward, Info, NewForward, Request, json};
use super::session::{Session, Step};
use crate::base::{Clock, Instant};
use crate::sys::unix;

/// `/proc/sys/kernel/overflowuid`, which nobody changes.
const OVERFLOW_UID: u32 = 65534;
/// Clients at a time.
pub const CLIENTS_MAX: usize = 16;
/// After this long without a request a client may have to make room.
pub const SILENT: Duration = Duration::from_secs(10);
/// Between two looks for somebody who waits, when clients have been silent for that long, or could not be accepted.
const LOOK_AGAIN: Duration = Duration::from_secs(1);
/// Requests of one client before others have their turn.
const TURN: usize = 16;

/// What carries out the requests. `Err`: why not, for the client.
pub trait Backend {
    fn info(&self) -> Info;

    /// The effective configuration.
    fn config(&self) -> Value;

    /// # Errors
    /// A worker does not answer.
    fn stats(&self) -> Result<Value, Failure>;

    /// The same, in the text format of OpenMetrics.
    ///
    /// # Errors
    /// A worker does not answer.
    fn metrics(&self) -> Result<String, Failure>;

    /// Of the flows that `filter` takes, those it may list, in no order.
    ///
    /// # Errors
    /// A worker does not answer.
    fn flows(&self, _filter: &Filter) -> Result<Found, Failure> {
        Err(without("flows"))
    }

    /// # Errors
    /// A worker does not answer.
    fn forwards(&self) -> Result<Vec<Forward>, Failure> {
        Err(without("forwards"))
    }

    /// Adds all, or none.
    ///
    /// # Errors
    /// Which of them cannot be had, and why.
    fn add_forwards(&self, _rules: Vec<NewForward>) -> Result<Vec<Forward>, Failure> {
        Err(without("forwards"))
    }

    /// Deletes all, or none.
    ///
    /// # Errors
    /// Which of them there is not.
    fn delete_forwards(&self, _ids: Vec<u64>) -> Result<(), Failure> {
        Err(without("forwards"))
    }

    /// Those that have not ended.
    fn captures(&self) -> Captures {
        Captures::default()
    }

    /// # Errors
    /// There is nothing to write to, or it is not fit for that; the options make no sense; there are too many; the guest has no
    /// interface.
    fn start_capture(&self, _options: CaptureOptions, _output: Option<OwnedFd>) -> Result<Capture, Failure> {
        Err(without("captures"))
    }

    /// Ends all that are named, or none; no name: all. What they came to.
    ///
    /// # Errors
    /// Which of them there is not.
    fn stop_captures(&self, _ids: Vec<u64>) -> Result<Captures, Failure> {
        Err(without("captures"))
    }

    /// Ends the program, as SIGTERM does.
    fn quit(&self);
}

fn without(what: &str) -> Failure {
    Failure::new(protocol::FAILED, format!("this instance has no {what}: it carries no traffic"))
}

/// The socket and its clients.
#[derive(Debug)]
pub struct Service {
    listener: UnixListener,
    owner: Owner,
    poll: Poll,
    clock: Clock,
    sessions: [Option<Session>; CLIENTS_MAX],
    /// Who may have more to say.
    again: [bool; CLIENTS_MAX],
    /// Somebody may wait whom this process could not accept, for want of descriptors or memory.
    short: bool,
}

/// Who may ask, beside root.
#[derive(Clone, Copy, Debug)]
pub struct Owner {
    /// As this process sees it.
    pub uid: u32,
    /// What users that its user namespace does not know look like; root is one of them there. `None`: all are known.
    pub unknown: Option<u32>,
}

const LISTENER: Token = Token(CLIENTS_MAX);

impl Service {
    /// # Errors
    /// The kernel's.
    pub fn new(listener: UnixListener, owner: Owner) -> io::Result<Service> {
        listener.set_nonblocking(true)?;
        let poll = Poll::new()?;
        poll.registry().register(&mut SourceFd(&listener.as_raw_fd()), LISTENER, Interest::READABLE)?;
        Ok(Service {
            listener,
            owner,
            poll,
            clock: Clock::start(),
            sessions: Default::default(),
            again: [false; CLIENTS_MAX],
            short: false,
        })
    }

    /// Serves for as long as the process lives.
    ///
    /// # Errors
    /// Polling failed.
    pub fn run(mut self, backend: &dyn Backend) -> io::Result<()> {
        loop {
            let wait = self.patience();
            self.turn(wait, backend)?;
        }
    }

    /// Serves whoever has something to say, and waits for that as long as this at most; `None`: for ever. For loops that poll
    /// the service's descriptor, and call this with no time when it is readable or [`Service::patience`] is over.
    ///
    /// # Errors
    /// Polling failed.
    pub fn turn(&mut self, wait: Option<Duration>, backend: &dyn Backend) -> io::Result<()> {
        let mut events = Events::with_capacity(CLIENTS_MAX + 1);
        match self.poll.poll(&mut events, wait) {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => return Ok(()),
            other => other?,
        }
        for event in &events {
            match event.token() {
                LISTENER => {}
                Token(slot) => self.again[slot] = true,
            }
        }
        for slot in 0..CLIENTS_MAX {
            if std::mem::take(&mut self.again[slot]) {
                self.again[slot] = self.serve(slot, backend);
            }
        }
        // One that waited may have room now; events of it are gone.
        while let Some(slot) = self.accept() {
            self.again[slot] = true;
        }
        Ok(())
    }

    /// The next client, if there is one and room for it.
    fn accept(&mut self) -> Option<usize> {
        self.short = false;
        loop {
            let slot = self.room()?;
            let (stream, _) = match self.listener.accept() {
                Ok(accepted) => accepted,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(e) => {
                    self.short = e.kind() != io::ErrorKind::WouldBlock;
                    return None;
                }
            };
            if !self.owner.admits(&stream) {
                continue;
            }
            let interest = Interest::READABLE | Interest::WRITABLE;
            let registry = self.poll.registry();
            let prepared = stream
                .set_nonblocking(true)
                .and_then(|()| registry.register(&mut SourceFd(&stream.as_raw_fd()), Token(slot), interest));
            if prepared.is_ok() {
                self.sessions[slot] = Some(Session::new(stream, self.clock.now()));
                return Some(slot);
            }
        }
    }

    /// How long to wait for events: not at all for who has more to say; while all places are taken, until one of them may be
    /// given to somebody who waits, of whom the listener has told once; a moment, if somebody could not be accepted.
    pub fn patience(&self) -> Option<Duration> {
        if self.again.contains(&true) {
            return Some(Duration::ZERO);
        }
        if self.short {
            return Some(LOOK_AGAIN);
        }
        let mut silent_since = None;
        for session in &self.sessions {
            let last_used = session.as_ref()?.last_used;
            silent_since = Some(silent_since.map_or(last_used, |t: Instant| t.min(last_used)));
        }
        let left = silent_since.map(|t| (t + SILENT).since(self.clock.now()))?;
        Some(left.max(LOOK_AGAIN))
    }

    /// A free place, or that of whoever has been silent for long.
    fn room(&self) -> Option<usize> {
        if let Some(free) = self.sessions.iter().position(Option::is_none) {
            return Some(free);
        }
        let now = self.clock.now();
        let used = |(slot, session): (usize, &Option<Session>)| Some((session.as_ref()?.last_used, slot));
        let (last_used, slot) = self.sessions.iter().enumerate().filter_map(used).min()?;
        (now.since(last_used) >= SILENT).then_some(slot)
    }

    /// True if the client has more to say.
    fn serve(&mut self, slot: usize, backend: &dyn Backend) -> bool {
        let now = self.clock.now();
        for _ in 0..TURN {
            let Some(session) = &mut self.sessions[slot] else { return false };
            match session.step() {
                Step::Wait => return false,
                Step::Gone => {
                    self.sessions[slot] = None;
                    return false;
                }
                Step::Line(line) => {
                    session.last_used = now;
                    let (reply, end) = answer(&line, &mut session.descriptor, backend);
                    if let Some(reply) = reply {
                        session.reply(&reply);
                    }
                    if end {
                        // The connection goes with the process. Whether it was taken, the next step finds out.
                        let _ = session.flush();
                        backend.quit();
                    }
                }
            }
        }
        true
    }
}

impl AsRawFd for Service {
    fn as_raw_fd(&self) -> RawFd {
        self.poll.as_raw_fd()
    }
}

impl Owner {
    /// The user that this process is now. One that makes a user namespace of its own, for which it takes no privilege, will
    /// know none but itself there.
    pub fn here(privileged: bool) -> Owner {
        Owner { uid: nix::unistd::geteuid().as_raw(), unknown: (!privileged).then_some(OVERFLOW_UID) }
    }

    /// Whoever is at the other end may ask.
    pub fn admits(&self, client: &impl AsFd) -> bool {
        unix::peer_uid(client).is_some_and(|uid| uid == self.uid || uid == 0 || Some(uid) == self.unknown)
    }
}

/// `descriptor`: one that the client has sent. `None`: nobody wants to know. True: the program is to end, when that has been said.
fn answer(line: &[u8], descriptor: &mut Option<OwnedFd>, backend: &dyn Backend) -> (Option<Vec<u8>>, bool) {
    if line.trim_ascii().is_empty() {
        return (None, false);
    }
    let (id, request) = protocol::read(line);
    let end = matches!(request, Ok(Request::Quit));
    let outcome = request.and_then(|request| perform(request, descriptor, backend));
    (id.map(|id| protocol::write(&id, outcome)), end)
}

fn perform(request: Request, descriptor: &mut Option<OwnedFd>, backend: &dyn Backend) -> Result<Value, Failure> {
    let value = match request {
        Request::Info => json(&backend.info()),
        Request::Config => backend.config(),
        Request::Stats => backend.stats()?,
        Request::Metrics => serde_json::json!({ "text": backend.metrics()? }),
        Request::Flows(filter) => json(&filter.list(backend.flows(&filter)?)),
        Request::Forwards => json(&protocol::Forwards { forwards: backend.forwards()? }),
        Request::AddForwards(rules) => json(&protocol::Forwards { forwards: backend.add_forwards(rules.forwards)? }),
        Request::DeleteForwards(deleted) => {
            backend.delete_forwards(deleted.ids)?;
            serde_json::json!({})
        }
        Request::Captures => json(&backend.captures()),
        Request::StartCapture(options) => json(&backend.start_capture(options, descriptor.take())?),
        Request::StopCaptures(stopped) => json(&backend.stop_captures(stopped.ids)?),
        Request::LogLevel => serde_json::json!({ "level": log::max_level().as_str() }),
        Request::SetLogLevel(wanted) => {
            set_log_level(&wanted.level)?;
            serde_json::json!({ "level": log::max_level().as_str() })
        }
        Request::Quit => serde_json::json!({}),
    };
    Ok(value)
}

fn set_log_level(level: &str) -> Result<(), Failure> {
    let known = log::LevelFilter::from_str(level).ok().filter(|l| *l != log::LevelFilter::Off);
    let advice =
        || Failure::new(protocol::INVALID_PARAMS, format!("'{level}' is none of error, warn, info, debug, trace"));
    log::set_max_level(known.ok_or_else(advice)?);
    Ok(())
}

#[cfg(test)]
mod tests;
