//! Where virtual machines come in: a listening socket, and what is said of those who come and go.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixListener;

use crate::base::{Instant, RateLimit};
use crate::sys::unix;

/// One client at a time.
#[derive(Debug)]
pub struct Door {
    listener: Option<UnixListener>,
    /// Of log messages about clients, who may come and go as they like.
    news: RateLimit,
}

/// What [`Door::accept`] found at the listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Accepted {
    /// A new client is there; others may wait behind it.
    Client,
    /// Some were turned away, and others may wait.
    Some,
    Nobody,
    /// The host has no means to take who waits; no event will tell when it has.
    Failed,
}

/// Connections that one call takes.
const ACCEPTS: usize = 16;
/// Messages about clients that come and go: in the long run, and at once.
const NEWS_PER_SECOND: u32 = 1;
const NEWS_BURST: u32 = 20;

impl Door {
    /// `listener`: nonblocking; without one nobody ever comes.
    pub fn new(listener: Option<UnixListener>) -> Door {
        Door { listener, news: RateLimit::new(NEWS_PER_SECOND, NEWS_BURST) }
    }

    /// The listener, to poll for readability.
    pub fn fd(&self) -> Option<RawFd> {
        self.listener.as_ref().map(AsRawFd::as_raw_fd)
    }

    /// Gives who waits at the listener to `take`, if there is nobody yet, and closes the connections of those who wait if there
    /// is (`present`: the process, if it is known). To be called at each event of the listener, as the answer says, and when the
    /// client has gone.
    pub fn accept(&mut self, present: Option<Option<i32>>, now: Instant, take: impl FnOnce(OwnedFd)) -> Accepted {
        let Some(listener) = &self.listener else { return Accepted::Nobody };
        for _ in 0..ACCEPTS {
            match listener.accept() {
                Ok((stream, _)) => {
                    let pid = unix::peer_pid(&stream);
                    let Some(first) = present else {
                        self.tell(now, || format!("client connected{}", by(pid)));
                        take(stream.into());
                        return Accepted::Client;
                    };
                    tell(&mut self.news, now, || {
                        format!("another client{} was turned away: one{} is connected", by(pid), by(first))
                    });
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Accepted::Nobody,
                Err(e) => {
                    self.tell(now, || format!("cannot accept a client: {e}"));
                    return Accepted::Failed;
                }
            }
        }
        Accepted::Some
    }

    /// Somebody has gone, for this reason if it is not their own.
    pub fn left(&mut self, pid: Option<i32>, why: Option<String>, now: Instant) {
        let why = why.map_or_else(String::new, |why| format!(": {why}"));
        self.tell(now, || format!("client disconnected{}{why}", by(pid)));
    }

    /// Something about a client, unless there was too much of it.
    pub fn tell(&mut self, now: Instant, text: impl FnOnce() -> String) {
        tell(&mut self.news, now, text);
    }
}

fn tell(limit: &mut RateLimit, now: Instant, text: impl FnOnce() -> String) {
    if limit.allow(now) {
        log::info!("{}", text());
    }
}

/// To follow the word "client".
fn by(pid: Option<i32>) -> String {
    pid.map_or_else(String::new, |pid| format!(" (process {pid})"))
}
