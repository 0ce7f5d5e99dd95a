//! Requests and replies. Both ends are one program: native byte order, no versions.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::base::{Addr, Endpoint, Family};
use crate::sys::fdpass;
use crate::sys::sockets::{Bind, Device, Transport, Wanted};

/// First byte of the broker's first message; any other is followed by a sentence about what went wrong.
pub const READY: u8 = b'R';
pub const FAILED: u8 = b'E';
pub const HELLO_BYTES: usize = 1024;

/// So many of that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    pub what: What,
    pub count: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    Socket(Wanted),
    /// A socket of sock_diag(7).
    Diag,
}

pub const REQUEST_BYTES: usize = size_of::<Raw>();
pub const REPLY_BYTES: usize = size_of::<i32>();

impl Request {
    pub fn encode(&self) -> [u8; REQUEST_BYTES] {
        let mut raw = Raw { count: self.count.min(fdpass::FDS_MAX) as u32, ..Raw::default() };
        if let What::Socket(wanted) = &self.what {
            raw.flags = SOCKET
                | on(wanted.transport == Transport::Udp, UDP)
                | on(wanted.family == Family::V6, V6)
                | wanted.bind.as_ref().map_or(0, |bind| raw.set_bind(bind));
        }
        zerocopy::transmute!(raw)
    }

    /// `None`: nothing [`Request::encode`] makes.
    pub fn decode(bytes: &[u8]) -> Option<Request> {
        let raw = Raw::read_from_bytes(bytes).ok()?;
        let count = usize::try_from(raw.count).ok().filter(|n| (1..=fdpass::FDS_MAX).contains(n))?;
        if raw.flags & SOCKET == 0 {
            return Some(Request { what: What::Diag, count });
        }
        let transport = if raw.is(UDP) { Transport::Udp } else { Transport::Tcp };
        let family = if raw.is(V6) { Family::V6 } else { Family::V4 };
        let wanted = Wanted { transport, family, bind: raw.is(BIND).then(|| raw.bind()) };
        Some(Request { what: What::Socket(wanted), count })
    }
}

/// 0 or an errno.
pub fn decode_reply(bytes: &[u8]) -> Option<i32> {
    bytes.try_into().ok().map(i32::from_ne_bytes)
}

#[derive(Clone, Copy, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct Raw {
    count: u32,
    flags: u32,
    backlog: i32,
    port: u32,
    addr: [u8; 16],
    device: [u8; libc::IFNAMSIZ],
}

const SOCKET: u32 = 1;
const UDP: u32 = 2;
const V6: u32 = 4;
const BIND: u32 = 8;
const ON_DEVICE: u32 = 16;
const ONLY_V6: u32 = 32;
const FREEBIND: u32 = 64;
const LISTEN: u32 = 128;

impl Raw {
    /// Returns the flags that tell of it.
    fn set_bind(&mut self, bind: &Bind) -> u32 {
        self.addr = *bind.local.addr.octets();
        self.port = bind.local.port.into();
        self.device = bind.device.map_or([0; libc::IFNAMSIZ], |d| d.0);
        self.backlog = bind.backlog.unwrap_or(0);
        BIND | on(bind.device.is_some(), ON_DEVICE)
            | on(bind.only_v6, ONLY_V6)
            | on(bind.freebind, FREEBIND)
            | on(bind.backlog.is_some(), LISTEN)
    }

    fn bind(&self) -> Bind {
        Bind {
            local: Endpoint::new(Addr::v6(self.addr), self.port as u16),
            device: self.is(ON_DEVICE).then_some(Device(self.device)),
            only_v6: self.is(ONLY_V6),
            freebind: self.is(FREEBIND),
            backlog: self.is(LISTEN).then_some(self.backlog),
        }
    }

    fn is(&self, flag: u32) -> bool {
        self.flags & flag != 0
    }
}

fn on(condition: bool, flag: u32) -> u32 {
    if condition { flag } else { 0 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn every_field_arrives() {
        for (family, addr) in [(Family::V4, Addr::v4([192, 0, 2, 1])), (Family::V6, Addr::v6([0xfe; 16]))] {
            let plain = Bind::to(Endpoint::new(addr, 65535));
            let full = Bind { device: Device::new("eth0"), only_v6: true, freebind: true, backlog: Some(7), ..plain };
            for bind in [None, Some(plain), Some(full), Some(Bind { backlog: Some(0), ..plain })] {
                for transport in [Transport::Tcp, Transport::Udp] {
                    let request = Request { what: What::Socket(Wanted { transport, family, bind }), count: 1 };
                    assert_eq!(Request::decode(&request.encode()), Some(request));
                }
            }
        }
        let diag = Request { what: What::Diag, count: 1 };
        assert_eq!(Request::decode(&diag.encode()), Some(diag));
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_bounded_request_or_none(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            let request = Request::decode(&bytes);
            prop_assert!(request.is_none_or(|r| (1..=fdpass::FDS_MAX).contains(&r.count)));
        }
    }
}
