//! The engines for datagrams between a guest link and sockets of whatever host this is.

use std::time::Duration;

use mio::{Events, Poll};
use spelt::base::{Addr, Clock, DropReason, Endpoint, Instant, Kind, Mac, PerFamily, Token};
use spelt::flow::{Id, KeySecret, Pending, Ready, Wheel};
use spelt::fwd::Nat;
use spelt::guest::{Caps, Facts, Frame, L2, ToGuest};
use spelt::icmp::{self, Icmp};
use spelt::udp::{self, Udp};
use spelt::wire::checksum::Sum;
use spelt::wire::emit::{self, Head, IpFields, PayloadSum};
use spelt::wire::{self, Parsed, Transport};

/// A link without offloads.
pub const PLAIN: Caps = Caps { csum: false, tso: false, uso: false, mtu: 1500 };

const OUR_MAC: Mac = Mac([4; 6]);
const GUEST_MAC: Mac = Mac([2; 6]);

pub fn addr(s: &str) -> Addr {
    s.parse::<std::net::IpAddr>().unwrap().into()
}

pub fn guest(v4: bool) -> Addr {
    addr(if v4 { "192.0.2.7" } else { "2001:db8::7" })
}

/// What the guest calls the host's loopback.
pub fn gateway(v4: bool) -> Addr {
    addr(if v4 { "192.0.2.1" } else { "2001:db8::1" })
}

/// Header fields of a packet of the guest's.
pub fn fields(dst: Addr, ttl: u8) -> IpFields {
    IpFields { src_mac: GUEST_MAC, dst_mac: OUR_MAC, src: guest(dst.is_v4()), dst, ttl, tos: 0, id: 0 }
}

/// A UDP frame the guest sends, without an offload.
pub fn datagram(src_port: u16, to: Endpoint, ttl: u8, payload: &[u8]) -> Vec<u8> {
    let mut head = Head::new();
    let sum = PayloadSum::Of(Sum::new().add(payload));
    emit::udp(&mut head, &fields(to.addr, ttl), (src_port, to.port), payload.len(), sum);
    [&head, payload].concat()
}

pub fn bytes(n: usize) -> Vec<u8> {
    (0..n as u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect()
}

pub struct World<L> {
    pub poll: Poll,
    pub udp: Udp,
    pub icmp: Icmp,
    pub link: L,
    pub timers: Wheel,
    pub l2: L2,
    pub nat: Nat,
    pub clock: Clock,
    /// Added to the clock.
    pub ahead: Duration,
}

impl<L: ToGuest> World<L> {
    pub fn new(link: L, config: udp::Config) -> World<L> {
        let poll = Poll::new().unwrap();
        let registry = || poll.registry().try_clone().unwrap();
        let clock = Clock::start();
        let both = |f: fn(bool) -> Addr| PerFamily::new(Some(f(true)), Some(f(false)));
        World {
            udp: Udp::new(registry(), KeySecret::fixed([1; 16]), config),
            icmp: Icmp::new(registry(), KeySecret::fixed([1; 16]), icmp::Config::default()),
            link,
            timers: Wheel::new(clock.now()),
            l2: L2 {
                our_mac: OUR_MAC,
                guest_mac: GUEST_MAC,
                guest_v4: Some(guest(true)),
                guest_v6: Some(guest(false)),
                guest_link_local: None,
                neighbours: Default::default(),
            },
            nat: Nat {
                gateway: both(gateway),
                map_host_loopback: both(gateway),
                assigned: both(guest),
                ..Nat::default()
            },
            clock,
            ahead: Duration::ZERO,
            poll,
        }
    }

    pub fn now(&self) -> Instant {
        self.clock.now() + self.ahead
    }

    /// A frame of the guest's, to the engine it is for; what is neither UDP nor ICMP is left alone.
    pub fn take(&mut self, frame: &Frame<'_>) -> Result<(), DropReason> {
        let Ok(Parsed::Ip(p)) = wire::parse(frame.head, frame.len()) else { return Ok(()) };
        let facts = Facts { now: self.now(), l2: &self.l2, nat: &self.nat };
        match p.transport {
            Transport::Udp(_) => self.udp.from_guest(&p, frame, &facts, &mut self.link, &mut self.timers),
            Transport::Icmp(_) => self.icmp.from_guest(&p, frame, &facts, &mut self.link, &mut self.timers),
            _ => Ok(()),
        }
    }

    pub fn flush(&mut self) {
        let facts = Facts { now: self.now(), l2: &self.l2, nat: &self.nat };
        self.udp.flush(&facts, &mut self.link);
    }

    /// One loop turn; true if the link has something to read.
    pub fn turn(&mut self) -> bool {
        let mut events = Events::with_capacity(16);
        let mut link = false;
        let pending = self.udp.pending() == Pending::Turn;
        let wait = Duration::from_millis(if pending { 0 } else { 20 });
        self.poll.poll(&mut events, Some(wait)).unwrap();
        let facts = Facts { now: self.now(), l2: &self.l2, nat: &self.nat };
        for e in &events {
            let t = Token::from_usize(e.token().0).unwrap();
            let id = Id { index: t.index, generation: t.generation };
            let ready = Ready::from(e);
            match t.kind {
                Kind::Udp => self.udp.from_host(id, ready, &facts, &mut self.link),
                Kind::Icmp => self.icmp.from_host(id, ready, &facts, &mut self.link),
                Kind::ListenUdp => self.udp.from_listener(id, ready, &facts, &mut self.link, &mut self.timers),
                Kind::Link => link = true,
                other => panic!("{other:?}"),
            }
        }
        if pending {
            self.udp.resume(&facts, &mut self.link, &mut self.timers);
        }
        link
    }
}
