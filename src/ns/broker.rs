//! Sockets of the guest's namespace, without the privilege to enter it: a small process inside makes them on request.
//!
//! Goals: the process that reads the guest's frames needs neither CAP_SYS_ADMIN nor setns(2) while it runs; a new
//! connection does not wait for another process; nothing of this outlives us.
//!
//! The broker is forked at start-up. It enters the namespaces, closes every descriptor but its end of the channel, gives up
//! what it does not need and binds its life to ours (the caller says how) and answers requests one by one until its channel ends. Requests and replies
//! are single messages of a sequenced-packet pair: a [`Wanted`] and a count, an errno and descriptors.
//!
//! Unbound sockets are alike, so we hold a few of each kind: one round trip fetches `BATCH`. Bound ones are made one by
//! one.
//!
//! Ends: the broker goes with its channel, and by its parent-death signal, which also ends a stopped one. Of the two the
//! channel is the one that always works: the signal's sender must be allowed to send it. Every signal but SIGKILL is
//! blocked there, because the terminal's keys are for us to act on. Should it be gone before us, or not answer within
//! `ANSWER_MAX`, it is given up for good: one line in the log, and an error at every request from then on.
//!
//! Threats: the guest does not see it in its PID namespace; where it has none of its own, the broker is undumpable and its
//! memory that of a process of another user namespace, so the guest's root may at most kill it, as it may any process of
//! its user. Started as root, it becomes the user that we become, but in another user namespace, where users have other
//! numbers, it stays root, with nothing of root's but that namespace's low ports. What the broker sends is not trusted
//! further than that it is a descriptor.

pub mod protocol;
mod serve;

use std::fmt::Display;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, poll};
use nix::sched::CloneFlags;
use nix::sys::signal::Signal;
use nix::sys::socket::{setsockopt, sockopt};
use nix::sys::time::TimeVal;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use socket2::Socket;

use self::protocol::{REPLY_BYTES, Request, What};
use super::Error;
use crate::base::Family;
use crate::sys::process::{Cloned, Fork};
use crate::sys::sockets::{Sockets, Transport, Wanted};
use crate::sys::{fdpass, pidfd, process};

pub use serve::answer;

/// Makes sockets in another network namespace. Ends its process when dropped.
#[derive(Debug)]
pub struct Broker {
    process: Cloned,
    /// `None`: given up.
    channel: Option<OwnedFd>,
    ready: bool,
    /// By [`pool_of`].
    pools: [Vec<OwnedFd>; POOLS],
}

impl Broker {
    /// Descriptors it holds at most.
    pub const DESCRIPTORS: usize = POOLS * BATCH + 2;

    /// Forks; the new process enters with `enter`, then gives up its privileges with `confine`. Returns while it does so.
    pub(super) fn start<E: Display>(
        enter: impl FnOnce() -> Result<(), Error>,
        confine: impl FnOnce() -> Result<(), E>,
    ) -> Result<Broker, Error> {
        let (ours, theirs) = fdpass::pair().map_err(Error::io("cannot make a socket pair"))?;
        let forked = process::clone_into(CloneFlags::empty());
        match forked.map_err(Error::io("cannot start a process for sockets in the namespace"))? {
            Fork::Child => {
                drop(ours);
                serve::main(theirs, enter, confine)
            }
            Fork::Parent(process) => {
                Ok(Broker { process, channel: Some(ours), ready: false, pools: [const { Vec::new() }; POOLS] })
            }
        }
    }

    /// Waits until it is ready to serve; else the first request waits. To be called before the user is told that all is
    /// well, and best after our own sandbox is set up: both take their time.
    ///
    /// # Errors
    /// Why it could not enter the namespace or give up its privileges.
    pub fn ready(&mut self) -> Result<(), Error> {
        let Some(channel) = &self.channel else { return Err(Error::Failed(GONE.into())) };
        if self.ready {
            return Ok(());
        }
        let (word, _) = fdpass::recv(channel.as_fd(), protocol::HELLO_BYTES).map_err(Error::io(SILENT))?;
        match word.split_first() {
            Some((&protocol::READY, _)) => {}
            Some((_, text)) => return Err(Error::Failed(String::from_utf8_lossy(text).into_owned())),
            None => return Err(Error::Failed(format!("{SILENT}: it ended without saying why"))),
        }
        // From here on the event loop waits.
        let limit = TimeVal::new(ANSWER_MAX.as_secs() as _, 0);
        setsockopt(channel, sockopt::ReceiveTimeout, &limit)
            .and_then(|()| setsockopt(channel, sockopt::SendTimeout, &limit))
            .map_err(|e| Error::Io { what: SILENT.into(), cause: e.into() })?;
        self.ready = true;
        Ok(())
    }

    /// A socket to ask the kernel about the namespace's sockets (sock_diag(7)). Blocking.
    ///
    /// # Errors
    /// The kernel's; [`io::ErrorKind::BrokenPipe`] when the broker is gone.
    pub fn make_diag(&mut self) -> io::Result<OwnedFd> {
        self.fetch_one(What::Diag)
    }

    pub fn pid(&self) -> i32 {
        self.process.pid
    }

    fn fetch_one(&mut self, what: What) -> io::Result<OwnedFd> {
        let mut got = Vec::new();
        self.fetch(&Request { what, count: 1 }, &mut got)?;
        got.pop().ok_or_else(no_room)
    }

    /// One round trip.
    fn fetch(&mut self, request: &Request, into: &mut Vec<OwnedFd>) -> io::Result<()> {
        self.ready().map_err(|e| match self.channel {
            None => gone(),
            Some(_) => self.give_up(&e),
        })?;
        let Some(channel) = &self.channel else { return Err(gone()) };
        match ask(channel.as_fd(), request, into) {
            Ok(Some(0)) => Ok(()),
            Ok(Some(errno)) => Err(io::Error::from_raw_os_error(errno)),
            Ok(None) => Err(self.give_up(&"it closed its channel")),
            // Ours, and no word about the broker; but whether it was sent is open, and so to whom the next reply belongs.
            Err(e) => Err(self.give_up(&e)),
        }
    }

    /// A late answer would be taken for that of a later question, so there is no other try.
    fn give_up(&mut self, why: &dyn Display) -> io::Error {
        log::error!(
            "the process that makes sockets in the guest's namespace (PID {}) does not answer ({why}): what needs new ones \
             fails from now on, restart to have it again",
            self.process.pid
        );
        self.end();
        gone()
    }

    /// It has nothing to put in order, so it need not be asked. Waits a little for the process to vanish.
    fn end(&mut self) {
        if self.channel.take().is_none() {
            return;
        }
        // Refused if we have become another user: then the channel's end does it.
        let _ = pidfd::send_signal(&self.process.pidfd, libc::SIGKILL);
        let mut fds = [PollFd::new(self.process.pidfd.as_fd(), PollFlags::POLLIN)];
        let _ = poll(&mut fds, END_MAX_MS);
        let ended = waitpid(Pid::from_raw(self.process.pid), Some(WaitPidFlag::WNOHANG));
        if matches!(ended, Ok(WaitStatus::Signaled(_, Signal::SIGSYS, _))) {
            log::error!("it made a system call that its filter blocks: this is a bug, please report it");
        }
    }
}

impl Sockets for Broker {
    fn make(&mut self, wanted: &Wanted) -> io::Result<Socket> {
        if wanted.bind.is_some() {
            return Ok(self.fetch_one(What::Socket(*wanted))?.into());
        }
        let n = pool_of(wanted);
        if self.pools[n].is_empty() {
            let mut pool = std::mem::take(&mut self.pools[n]);
            let fetched = self.fetch(&Request { what: What::Socket(*wanted), count: BATCH }, &mut pool);
            self.pools[n] = pool;
            fetched?;
        }
        self.pools[n].pop().map(Socket::from).ok_or_else(no_room)
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        self.end();
    }
}

/// Our side of one round trip: 0 or an errno, and what came with it. `None`: the other side is gone, or is no broker.
///
/// # Errors
/// The kernel's.
pub fn ask(channel: BorrowedFd<'_>, request: &Request, into: &mut Vec<OwnedFd>) -> io::Result<Option<i32>> {
    // Room for a byte too many: a message that is longer than any reply is none.
    let mut reply = [0; REPLY_BYTES + 1];
    let held = into.len();
    fdpass::send(channel, &request.encode(), None)?;
    let len = fdpass::recv_many(channel, &mut reply, into)?;
    // More than was asked for is not ours to keep: there is room for so many.
    into.truncate(held + request.count);
    Ok(protocol::decode_reply(&reply[..len]))
}

fn pool_of(wanted: &Wanted) -> usize {
    usize::from(wanted.transport == Transport::Udp) * 2 + usize::from(wanted.family == Family::V6)
}

fn gone() -> io::Error {
    io::Error::new(io::ErrorKind::BrokenPipe, GONE)
}

/// The answer came without descriptors: they found no place in our table.
fn no_room() -> io::Error {
    io::Error::from_raw_os_error(libc::EMFILE)
}

const POOLS: usize = 4;
/// Sockets of a kind fetched together.
const BATCH: usize = 32;
/// How long one request may hold up the event loop. A broker that runs answers within microseconds.
const ANSWER_MAX: Duration = Duration::from_secs(2);
/// As long as a killed process may take to vanish while others look on.
const END_MAX_MS: u16 = 100;
const GONE: &str = "the process that makes sockets in the guest's namespace is gone";
const SILENT: &str = "cannot hear from the process that makes sockets in the guest's namespace";

#[cfg(test)]
mod tests {
    use super::*;

    const TWO: Request =
        Request { what: What::Socket(Wanted { transport: Transport::Tcp, family: Family::V4, bind: None }), count: 2 };

    /// What we make of this answer, and how many of so many descriptors we keep.
    fn heard(answer: &[u8], with: usize) -> (Option<i32>, usize) {
        let (ours, theirs) = fdpass::pair().unwrap();
        fdpass::send_many(theirs.as_fd(), answer, &vec![ours.as_fd(); with]).unwrap();
        let mut kept = Vec::new();
        let told = ask(ours.as_fd(), &TWO, &mut kept).unwrap();
        (told, kept.len())
    }

    #[test]
    fn no_more_is_kept_than_was_asked_for() {
        assert_eq!(heard(&[0; 4], 1), (Some(0), 1));
        assert_eq!(heard(&[0; 4], 5), (Some(0), 2));
    }

    #[test]
    fn messages_that_are_too_long_are_none() {
        assert_eq!(heard(&[0; 5], 0).0, None);
        let (ours, theirs) = fdpass::pair().unwrap();
        let long = [&TWO.encode()[..], &[0]].concat();
        fdpass::send(ours.as_fd(), &long, None).unwrap();
        assert!(answer(theirs.as_fd()).unwrap());
        let (reply, made) = fdpass::recv(ours.as_fd(), 16).unwrap();
        assert_eq!((protocol::decode_reply(&reply), made.is_none()), (Some(libc::EINVAL), true));
    }
}
