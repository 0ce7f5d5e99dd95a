//! Failures of system calls, made to order: for tests. The program as it is shipped has none of this; see feature `faults`.
//!
//! A *plan* belongs to a thread. A test makes one for its own ([`follow`]); in the program each worker takes [`VARIABLE`] from
//! the environment when its event loop begins ([`begin`]): a seed, and how many of 10,000 calls of each kind are to fail, as in
//! `7:100`, and perhaps the only kinds that are to, as in `7:100:send,peek`. Before a wrapper makes its call it asks here.
//!
//! # What fails, and how
//! [`Call::faults`] is the list. A call that fails is not made. One that is *short* is made, for less.
//!
//! * `EAGAIN` and short counts of sockets: a kernel never says "not now", or gives less than there is, without an event as soon
//!   as that has changed (epoll(7); tcp_sendmsg() raises one itself where no acknowledgement could). Made up, they must have one
//!   too, or we would blame the program for waiting: the descriptor is registered anew, which has epoll look at it again.
//! * `EAGAIN` of a datagram's send: no event is awaited, for the datagram is dropped.
//! * `EAGAIN` of a write to a tap: no event either. A kernel has one only if the device's send buffer was made small, which we
//!   do not do.
//! * `ENOMEM`, `ENOBUFS`: the kernel says so of any call that allocates, with more than eight pieces that is each `sendmsg` and
//!   `recvmsg`; of a device whose queue is full; and, of any option, on behalf of a program that the system's administrator has
//!   attached to a control group. No event tells when there is memory again, and none is made up.
//! * `EINTR`: none of our calls waits, so that no signal should ever interrupt one. It is made up all the same.
//! * `EMFILE`, `ENFILE` of what makes descriptors, `ECONNABORTED` of accept, `ENOSPC` of epoll: as in their manuals.
//!
//! # What does not
//! * Reads of a tap and writes to it are never short: a device takes or gives whole frames. Reads have no lack of memory.
//! * To discard is not `EAGAIN`: what was peeked is there.
//! * connect: `EINTR` and `EAGAIN` mean that it goes on, which one that was not made does not.
//! * shutdown: nothing is allocated (tcp_send_fin() insists on its memory), so the only error is that there is no connection.
//! * write to an eventfd: it fails only if it has been told already. To leave it untold would be a fault of the kernel's.
//! * getsockopt of `SO_ERROR`: it takes the error away, and a failure that does not would be another kind of call.
//! * close, epoll_wait (`EINTR` is what signals are for), clocks, and all that is made at the start.

use std::borrow::Cow;
use std::cell::RefCell;
use std::collections::HashMap;
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::{LazyLock, Mutex, PoisonError};

use mio::{Interest, Registry};

use super::iov::{Gather, Scatter};

/// See the module.
pub const VARIABLE: &str = "SPELT_FAULTS";

macro_rules! calls {
    ($($call:ident $name:literal: $($fault:ident)*;)*) => {
        /// A kind of call.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Call { $($call),* }

        impl Call {
            pub const ALL: &[Call] = &[$(Call::$call),*];

            /// What may befall it.
            pub fn faults(self) -> &'static [Fault] {
                match self { $(Call::$call => &[$($fault),*]),* }
            }

            pub fn name(self) -> &'static str {
                match self { $(Call::$call => $name),* }
            }
        }
    };
}

calls! {
    Send "send": SHORT EAGAIN ENOBUFS ENOMEM EINTR;
    Peek "peek": SHORT EAGAIN ENOBUFS ENOMEM EINTR;
    Discard "discard": SHORT ENOBUFS ENOMEM EINTR;
    Receive "receive": SHORT EAGAIN ENOBUFS ENOMEM EINTR;
    Splice "splice": SHORT EAGAIN ENOBUFS ENOMEM EINTR;
    SendDatagram "send_datagram": EAGAIN ENOBUFS ENOMEM EINTR;
    SendDatagrams "send_datagrams": SHORT EAGAIN ENOBUFS ENOMEM EINTR;
    ReceiveDatagrams "receive_datagrams": SHORT EAGAIN ENOBUFS ENOMEM EINTR;
    SendMessages "send_messages": SHORT EAGAIN ENOBUFS ENOMEM EINTR;
    ReceiveMessages "receive_messages": SHORT EAGAIN ENOBUFS ENOMEM EINTR;
    ErrorQueue "error_queue": EAGAIN ENOBUFS ENOMEM EINTR;
    TapRead "tap_read": EAGAIN EINTR;
    TapWrite "tap_write": EAGAIN ENOBUFS ENOMEM EINTR;
    GetOption "get_option": ENOBUFS ENOMEM;
    SetOption "set_option": ENOBUFS ENOMEM;
    Open "open": EMFILE ENFILE ENOBUFS ENOMEM;
    Connect "connect": ENOBUFS ENOMEM;
    Accept "accept": EAGAIN EMFILE ENFILE ENOBUFS ENOMEM EINTR ECONNABORTED;
    Pipe "pipe": EMFILE ENFILE ENOMEM;
    Watch "watch": ENOMEM ENOSPC;
}

/// What befalls a call: an errno, or less than was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Fault(pub i32);

/// Less than was asked for, and at least one.
pub const SHORT: Fault = Fault(0);
const EAGAIN: Fault = Fault(libc::EAGAIN);
const ENOBUFS: Fault = Fault(libc::ENOBUFS);
const ENOMEM: Fault = Fault(libc::ENOMEM);
const EINTR: Fault = Fault(libc::EINTR);
const EMFILE: Fault = Fault(libc::EMFILE);
const ENFILE: Fault = Fault(libc::ENFILE);
const ENOSPC: Fault = Fault(libc::ENOSPC);
const ECONNABORTED: Fault = Fault(libc::ECONNABORTED);

/// One call and what befalls it, in a plan of a test's own.
#[derive(Clone, Copy, Debug)]
pub struct Rule {
    pub call: Call,
    pub fault: Fault,
    /// So many of these calls are let through first.
    pub after: u64,
    /// Then one in so many has the fault; 1: each.
    pub every: u64,
    /// As long as there were fewer than so many.
    pub times: u64,
}

/// This thread follows these rules from now on, and forgets what was counted.
pub fn follow(rules: &[Rule]) {
    let scripted = rules.iter().map(|r| (*r, 0, 0)).collect();
    PLAN.set(Some(Plan { source: Source::Script(scripted), hits: HashMap::new() }));
}

/// How often each fault was made by this thread.
pub fn hits() -> HashMap<(Call, Fault), u64> {
    PLAN.with_borrow(|plan| plan.as_ref().map(|p| p.hits.clone()).unwrap_or_default())
}

/// An event loop begins in this thread.
pub fn begin() {
    let Ok(text) = std::env::var(VARIABLE) else { return };
    PLAN.with_borrow_mut(|plan| {
        if plan.is_none() {
            let dice = Dice::parse(&text).unwrap_or_else(|| panic!("{VARIABLE}={text}: not SEED:RATE[:CALL,...]"));
            *plan = Some(Plan { source: Source::Dice(dice), hits: HashMap::new() });
        }
    });
}

/// It is over: says how often each fault was made, in the log.
pub fn end() {
    if std::env::var_os(VARIABLE).is_none() {
        return;
    }
    let mut all: Vec<String> = hits().iter().map(|((c, f), n)| format!("{}/{}={n}", c.name(), f.0)).collect();
    all.sort_unstable();
    log::warn!("faults made: {}", all.join(" "));
}

/// # Errors
/// Those of the plan.
pub fn may_fail(call: Call, fd: RawFd) -> io::Result<()> {
    match next(call, |f| f != SHORT) {
        None => Ok(()),
        Some(fault) => {
            if fault == EAGAIN {
                look_again(fd);
            }
            Err(io::Error::from_raw_os_error(fault.0))
        }
    }
}

/// How many of `n` the call is to ask for.
pub fn some(call: Call, fd: RawFd, n: usize) -> usize {
    if n < 2 || next(call, |f| f == SHORT).is_none() {
        return n;
    }
    look_again(fd);
    // A little, or nearly all.
    let part = PLAN.with_borrow_mut(|plan| plan.as_mut().map_or(1, |p| p.part(n)));
    part.clamp(1, n - 1)
}

/// The beginning of the list that the call is to send.
pub fn beginning<'p, 'a>(call: Call, fd: RawFd, pieces: &'p [Gather<'a>]) -> Cow<'p, [Gather<'a>]> {
    let all: usize = pieces.iter().map(Gather::len).sum();
    let mut left = some(call, fd, all);
    let mut out = Vec::new();
    for piece in pieces {
        out.push(piece.first(left));
        left -= left.min(piece.len());
        if left == 0 {
            break;
        }
    }
    out.into()
}

/// Has the call fill only the beginning of the room.
pub fn shorten(call: Call, fd: RawFd, room: &mut [Scatter<'_>]) {
    let all: usize = room.iter().map(Scatter::len).sum();
    let mut left = some(call, fd, all);
    for area in room {
        area.truncate(left);
        left -= area.len();
    }
}

/// This is registered now.
pub fn watched(registry: &Registry, fd: RawFd, token: mio::Token, interest: Interest) {
    let watch = Watched { epoll: registry.as_raw_fd(), token, interest };
    WATCHED.lock().unwrap_or_else(PoisonError::into_inner).insert(fd, watch);
}

struct Plan {
    source: Source,
    hits: HashMap<(Call, Fault), u64>,
}

enum Source {
    /// Each with its calls seen and faults made.
    Script(Vec<(Rule, u64, u64)>),
    Dice(Dice),
}

/// Chance, the same for the same seed (xorshift).
struct Dice {
    state: u64,
    /// Of 10,000.
    rate: u64,
    /// Empty: all.
    only: Vec<Call>,
}

#[derive(Clone, Copy)]
struct Watched {
    epoll: RawFd,
    token: mio::Token,
    interest: Interest,
}

thread_local! {
    static PLAN: RefCell<Option<Plan>> = const { RefCell::new(None) };
}

/// Descriptors, and how they are registered. Those that were closed stay: epoll knows better.
static WATCHED: LazyLock<Mutex<HashMap<RawFd, Watched>>> = LazyLock::new(Mutex::default);

/// What befalls this call, of the kind that the place can have.
fn next(call: Call, fits: impl Fn(Fault) -> bool) -> Option<Fault> {
    PLAN.with_borrow_mut(|plan| {
        let plan = plan.as_mut()?;
        let fault = match &mut plan.source {
            Source::Script(rules) => scripted(rules, call, fits),
            Source::Dice(dice) => dice.throw(call, fits),
        }?;
        *plan.hits.entry((call, fault)).or_default() += 1;
        Some(fault)
    })
}

fn scripted(rules: &mut [(Rule, u64, u64)], call: Call, fits: impl Fn(Fault) -> bool) -> Option<Fault> {
    for (rule, seen, made) in rules.iter_mut().filter(|(r, ..)| r.call == call && fits(r.fault)) {
        *seen += 1;
        if *seen > rule.after && (*seen - rule.after - 1).is_multiple_of(rule.every) && *made < rule.times {
            *made += 1;
            return Some(rule.fault);
        }
    }
    None
}

impl Plan {
    fn part(&mut self, n: usize) -> usize {
        match &mut self.source {
            Source::Script(_) => n / 2,
            Source::Dice(dice) => dice.below(n as u64) as usize,
        }
    }
}

impl Dice {
    fn parse(text: &str) -> Option<Dice> {
        let mut parts = text.split(':');
        let seed: u64 = parts.next()?.parse().ok()?;
        let rate = parts.next()?.parse().ok()?;
        let named = |name: &str| Call::ALL.iter().copied().find(|c| c.name() == name);
        let only = parts.next().map(|list| list.split(',').map(named).collect()).unwrap_or(Some(Vec::new()))?;
        Some(Dice { state: seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1, rate, only })
    }

    fn below(&mut self, n: u64) -> u64 {
        self.state ^= self.state << 13;
        self.state ^= self.state >> 7;
        self.state ^= self.state << 17;
        self.state % n
    }

    fn throw(&mut self, call: Call, fits: impl Fn(Fault) -> bool) -> Option<Fault> {
        let faults = || call.faults().iter().copied().filter(|f| fits(*f));
        let count = faults().count() as u64;
        if count == 0 || !self.only.is_empty() && !self.only.contains(&call) || self.below(10_000) >= self.rate {
            return None;
        }
        let nth = self.below(count) as usize;
        faults().nth(nth)
    }
}

/// Has epoll look at a descriptor that is registered once more, and raise an event if there is something to tell.
fn look_again(fd: RawFd) {
    let watched = WATCHED.lock().unwrap_or_else(PoisonError::into_inner).get(&fd).copied();
    let Some(Watched { epoll, token, interest }) = watched else { return };
    // As mio has it.
    let mut events = libc::EPOLLET;
    for (is, bits) in [
        (interest.is_readable(), libc::EPOLLIN | libc::EPOLLRDHUP),
        (interest.is_writable(), libc::EPOLLOUT),
        (interest.is_priority(), libc::EPOLLPRI),
    ] {
        events |= if is { bits } else { 0 };
    }
    let mut event = libc::epoll_event { events: events as u32, u64: token.0 as u64 };
    // SAFETY: the kernel reads one event. A descriptor that is not registered any more, or none of epoll's, is an error.
    unsafe { libc::epoll_ctl(epoll, libc::EPOLL_CTL_MOD, fd, &raw mut event) };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_count_calls_and_faults() {
        follow(&[Rule { call: Call::Send, fault: ENOMEM, after: 1, every: 2, times: 2 }]);
        let failed: Vec<bool> = (0..8).map(|_| may_fail(Call::Send, -1).is_err()).collect();
        assert_eq!(failed, [false, true, false, true, false, false, false, false]);
        assert!(may_fail(Call::Peek, -1).is_ok());
        assert_eq!((some(Call::Send, -1, 10), hits().len()), (10, 1));
        follow(&[Rule { call: Call::Send, fault: SHORT, after: 0, every: 1, times: 9 }]);
        assert_eq!((some(Call::Send, -1, 10), some(Call::Send, -1, 1)), (5, 1));
    }

    #[test]
    fn the_same_seed_is_the_same_chance() {
        let throws = |text: &str| {
            let mut dice = Dice::parse(text).unwrap();
            (0..1000).map(|_| dice.throw(Call::Send, |f| f != SHORT)).collect::<Vec<_>>()
        };
        assert_eq!(throws("7:1000"), throws("7:1000"));
        assert!((50..200).contains(&throws("7:1000").iter().flatten().count()));
        assert_eq!(throws("7:1000:peek,tap_read").iter().flatten().count(), 0);
        assert!(Dice::parse("7:1000:nothing").is_none() && Dice::parse("7").is_none());
    }
}
