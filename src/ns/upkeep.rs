//! The guest's interface is changed while the guest runs: its addresses, its routes and its resolv.conf.
//!
//! Whoever made the interface stays to change it: init, for a command of ours, which is the guest's anyway and gets no right that
//! it had not; in an existing namespace the short-lived child, which keeps CAP_NET_ADMIN there and nothing else, a netlink
//! socket and its end of the channel. Neither is needed by anybody else: should it be gone, the guest keeps what it has.
//!
//! Requests are all that the one interface is to have ([`Wanted`]), never a netlink message. The other side knows what it has
//! configured, and removes nothing else. New things come before old ones go, so that no packet finds no route.
//!
//! Threats: with init, the other end of the channel is the guest's to take over. We wait for it nowhere, ask again only when it
//! has answered, and take nothing from it but a short text for the log.
//!
//! System calls: sendmsg, recvfrom, at the end wait4; on the other side recvmsg, sendmsg, sendto, recvfrom (netlink), and init's
//! poll, read (signalfd), pread64, pwrite64, ftruncate.

mod apply;
mod protocol;
mod steps;

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::socket::{MsgFlags, recv};
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;

use super::Error;
use crate::base::{Prefix, Route};
use crate::sys::fdpass;

pub(super) use apply::{Keeper, Resolv};

/// All that the guest's interface is to have.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    pub addrs: Vec<Prefix>,
    /// Those that stay for what has begun with them, if they are ours.
    pub former: Vec<Prefix>,
    pub routes: Vec<Route>,
    /// For the file of ours that the guest sees as /etc/resolv.conf, if there is one.
    pub resolv_conf: Option<String>,
}

/// Our end.
#[derive(Debug)]
pub struct Upkeep {
    /// `None`: given up.
    channel: Option<OwnedFd>,
    /// Our child, unless it is somebody else's to wait for.
    pid: Option<i32>,
    /// An answer is to come.
    asked: bool,
    /// To be asked for then.
    next: Option<Wanted>,
}

/// What became of a request.
#[derive(Debug, PartialEq, Eq)]
pub enum Answer {
    Done,
    /// In part; a sentence.
    Failed(String),
    /// There will be no other answer.
    Gone,
}

impl Upkeep {
    /// `channel`: non-blocking from here on. `pid`: a child that ends with it.
    pub(super) fn new(channel: OwnedFd, pid: Option<i32>) -> Result<Upkeep, Error> {
        let nonblocking = fcntl(&channel, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).map_err(io::Error::from);
        nonblocking.map_err(Error::io("cannot prepare to change the guest's interface"))?;
        Ok(Upkeep { channel: Some(channel), pid, asked: false, next: None })
    }

    /// Asks for a change, or remembers to. Does not wait.
    ///
    /// # Errors
    /// There is nobody to ask any more.
    pub fn want(&mut self, wanted: Wanted) -> io::Result<()> {
        if self.asked {
            // What was wanted in between needs no attempt.
            self.next = Some(wanted);
            return Ok(());
        }
        let Some(channel) = &self.channel else { return Err(io::ErrorKind::BrokenPipe.into()) };
        let sent = fdpass::send(channel.as_fd(), &protocol::encode(&wanted), None);
        self.asked = sent.is_ok();
        sent.inspect_err(|_| self.end())
    }

    /// The next answer, if there is one. To be called again until there is none.
    pub fn answer(&mut self) -> Option<Answer> {
        let channel = self.channel.as_ref()?;
        let mut room = [0; protocol::ANSWER_BYTES];
        // By recv(2), for which the kernel closes what descriptors come along; there is no room to take them.
        let answer = match recv(channel.as_raw_fd(), &mut room, MsgFlags::MSG_DONTWAIT) {
            Ok(len) if len > 0 && self.asked => protocol::decode_answer(&room[..len]),
            Err(nix::Error::EAGAIN) => return None,
            // Its end; or nobody has asked, and somebody else is at work there.
            _ => Answer::Gone,
        };
        let asked = std::mem::replace(&mut self.asked, false);
        let more = self.next.take().is_some_and(|next| self.want(next).is_err());
        if answer == Answer::Gone || more {
            self.end();
            // It may end because all does; whoever wants something later finds out.
            return asked.then_some(Answer::Gone);
        }
        Some(answer)
    }

    fn end(&mut self) {
        self.channel = None;
        if let Some(pid) = self.pid.take() {
            let _ = waitpid(Pid::from_raw(pid), Some(WaitPidFlag::WNOHANG));
        }
    }
}

impl AsRawFd for Upkeep {
    fn as_raw_fd(&self) -> RawFd {
        self.channel.as_ref().map_or(-1, AsRawFd::as_raw_fd)
    }
}

/// The other side: serves one request. False: there will be no other.
pub(super) fn serve(channel: &OwnedFd, keeper: &mut Keeper) -> bool {
    let mut room = vec![0; protocol::REQUEST_BYTES + 1];
    let Ok(len @ 1..) = fdpass::recv_many(channel.as_fd(), &mut room, &mut Vec::new()) else { return false };
    let outcome = match protocol::decode(&room[..len]) {
        Some(wanted) => keeper.set(wanted),
        None => Err("a request that cannot be understood".into()),
    };
    fdpass::send(channel.as_fd(), &protocol::encode_answer(&outcome), None).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair() -> (Upkeep, OwnedFd) {
        let (ours, theirs) = fdpass::pair().unwrap();
        (Upkeep::new(ours, None).unwrap(), theirs)
    }

    fn asked(theirs: &OwnedFd) -> Option<Wanted> {
        let mut room = vec![0; protocol::REQUEST_BYTES + 1];
        let len = fdpass::recv_now(theirs.as_fd(), &mut room, &mut Vec::new()).ok()?;
        protocol::decode(&room[..len])
    }

    fn wanted(text: &str) -> Wanted {
        Wanted { resolv_conf: Some(text.into()), ..Wanted::default() }
    }

    #[test]
    fn one_request_at_a_time_and_only_the_last_of_those_that_wait() {
        let (mut upkeep, theirs) = pair();
        ["one", "two", "three"].into_iter().for_each(|text| upkeep.want(wanted(text)).unwrap());
        assert_eq!((asked(&theirs), asked(&theirs)), (Some(wanted("one")), None));
        assert_eq!(upkeep.answer(), None);
        fdpass::send(theirs.as_fd(), &protocol::encode_answer(&Err("no route".into())), None).unwrap();
        assert_eq!(upkeep.answer(), Some(Answer::Failed("no route".into())));
        assert_eq!((asked(&theirs), asked(&theirs)), (Some(wanted("three")), None));
        fdpass::send(theirs.as_fd(), &protocol::encode_answer(&Ok(())), None).unwrap();
        assert_eq!((upkeep.answer(), upkeep.answer()), (Some(Answer::Done), None));
    }

    #[test]
    fn whoever_answers_without_having_been_asked_is_heard_no_more() {
        let (mut upkeep, theirs) = pair();
        fdpass::send(theirs.as_fd(), b"hello", Some(theirs.as_fd())).unwrap();
        assert_eq!(upkeep.answer(), None);
        assert!(upkeep.want(wanted("one")).is_err());
    }

    #[test]
    fn one_that_is_gone_is_noticed() {
        let (mut upkeep, theirs) = pair();
        upkeep.want(wanted("one")).unwrap();
        drop(theirs);
        assert_eq!((upkeep.answer(), upkeep.answer()), (Some(Answer::Gone), None));
    }
}
