//! The two ends of the channel to the process that makes sockets inside, each given any message where the other end should be.
//!
//! Sockets are bound to loopback only.

use std::os::fd::{AsFd, OwnedFd};

use nix::sys::socket::{AddressFamily, SockType, getsockname, getsockopt, sockopt};
use nix::sys::socket::{SockaddrLike, SockaddrStorage};
use spelt::base::{Addr, Family};
use spelt::ns::broker::protocol::{REQUEST_BYTES, Request, What};
use spelt::ns::broker::{answer, ask};
use spelt::sys::fdpass;
use spelt::sys::sockets::{Device, Transport, Wanted};

/// A byte that says who hears the rest: the broker, or we; and with how many descriptors.
pub fn broker(data: &[u8]) {
    let [who, message @ ..] = data else { return };
    match who & 1 {
        0 => hears(message, usize::from(who >> 1 & 3)),
        _ => is_heard(message, usize::from(who >> 1)),
    }
}

/// A request: there is one answer, with so many sockets at most, of the kind that was asked for.
fn hears(message: &[u8], with: usize) {
    let request = Request::decode(message);
    if let Some(request) = &request {
        assert!((1..=fdpass::FDS_MAX).contains(&request.count) && message.len() == REQUEST_BYTES);
        assert_eq!(Request::decode(&request.encode()), Some(*request), "it means the same when it is said again");
        if !is_harmless(request) {
            return;
        }
    }
    let (ours, theirs) = fdpass::pair().expect("a pair of sockets");
    let given: Vec<OwnedFd> = (0..with).map(|_| fdpass::pair().expect("a pair of sockets").0).collect();
    let given: Vec<_> = given.iter().map(AsFd::as_fd).collect();
    fdpass::send_many(ours.as_fd(), message, &given).expect("a socket with room");
    let goes_on = answer(theirs.as_fd()).expect("the other end is there");
    // An empty message is what the end of the channel looks like.
    assert_eq!(goes_on, !message.is_empty());
    if !goes_on {
        return;
    }
    let (mut reply, mut made) = ([0; 16], Vec::new());
    let len = fdpass::recv_now(ours.as_fd(), &mut reply, &mut made).expect("an answer");
    let errno = i32::from_ne_bytes(reply[..len].try_into().expect("four bytes"));
    assert!(fdpass::recv_now(ours.as_fd(), &mut reply, &mut Vec::new()).is_err(), "one answer");
    match request {
        None => assert_eq!((errno, made.len()), (libc_einval(), 0)),
        Some(request) => {
            assert_eq!(errno == 0, !made.is_empty());
            assert!(made.len() <= request.count);
            made.iter().for_each(|socket| is_wanted(socket, &request.what));
        }
    }
}

/// An answer: it is taken for an errno or for no answer at all, and with it no more descriptors than were asked for.
fn is_heard(message: &[u8], with: usize) {
    let (ours, theirs) = fdpass::pair().expect("a pair of sockets");
    let wanted = Wanted { transport: Transport::Udp, family: Family::V6, bind: None };
    let request = Request { what: What::Socket(wanted), count: 1 + message.len() % 8 };
    let event = fdpass::pair().expect("a pair of sockets").0;
    let with = with.min(fdpass::FDS_MAX);
    fdpass::send_many(theirs.as_fd(), message, &vec![event.as_fd(); with]).expect("a socket with room");
    let mut got = vec![fdpass::pair().expect("a pair of sockets").0];
    let answer = ask(ours.as_fd(), &request, &mut got).expect("the other end is there");
    assert_eq!(answer, message.try_into().ok().map(i32::from_ne_bytes));
    assert_eq!(got.len() - 1, with.min(request.count));
    let mut heard = [0; REQUEST_BYTES + 1];
    let len = fdpass::recv_now(theirs.as_fd(), &mut heard, &mut Vec::new()).expect("a request");
    assert_eq!(Request::decode(&heard[..len]), Some(request));
}

/// Nobody else hears of it.
fn is_harmless(request: &Request) -> bool {
    let What::Socket(Wanted { bind: Some(bind), .. }) = &request.what else { return true };
    bind.local.addr.is_loopback() && bind.device.is_none_or(|device| device == Device::LO)
}

fn is_wanted(socket: &OwnedFd, what: &What) {
    let kind = getsockopt(socket, sockopt::SockType).expect("a socket");
    let name: SockaddrStorage = getsockname(std::os::fd::AsRawFd::as_raw_fd(socket)).expect("a socket");
    let What::Socket(wanted) = what else {
        assert_eq!((kind, name.family()), (SockType::Raw, Some(AddressFamily::Netlink)));
        return;
    };
    let of = if wanted.family == Family::V4 { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let transport = if wanted.transport == Transport::Tcp { SockType::Stream } else { SockType::Datagram };
    assert_eq!((kind, name.family()), (transport, Some(of)));
    let (bound, port) = match (name.as_sockaddr_in(), name.as_sockaddr_in6()) {
        (Some(v4), _) => (Addr::from(v4.ip()), v4.port()),
        (_, Some(v6)) => (Addr::from(v6.ip()), v6.port()),
        _ => panic!("{name:?}"),
    };
    if let Some(bind) = wanted.bind {
        assert_eq!(bound, bind.local.addr);
        assert!(bind.local.port == 0 || bind.local.port == port);
    }
    let listens = getsockopt(socket, sockopt::AcceptConn).expect("a socket");
    assert_eq!(listens, wanted.transport == Transport::Tcp && wanted.bind.is_some_and(|b| b.backlog.is_some()));
}

fn libc_einval() -> i32 {
    nix::Error::EINVAL as i32
}
