//! What the host's kernel reports about datagrams and echo requests of the guest's: control messages of any bytes, and any bytes
//! of the packet in question that came back. The kernel is to be trusted, what routers have put into their errors is not.

use std::net::{Ipv6Addr, UdpSocket};

use spelt::base::{Addr, Clock, Endpoint, Family, PerFamily};
use spelt::flow::{FlowKey, KeySecret, Wheel};
use spelt::fwd::Nat;
use spelt::guest::mock::MockLink;
use spelt::guest::{Caps, Facts, Frame, L2, Neighbours};
use spelt::icmp::{self, Icmp};
use spelt::sys::errqueue::{self, HostError, Origin};
use spelt::udp::{self, Udp};
use spelt::wire::checksum::Sum;
use spelt::wire::emit::{self, Head, IpFields, PayloadSum};
use spelt::wire::{self, ETH_LEN, Offload, PROTO_ICMP, PROTO_ICMPV6, Parsed};

use super::{gateway, judge};

const PORT: u16 = 40_000;
const IDENTIFIER: u16 = 0x1234;

/// How the packet looks, its length, the length of the control messages, these, and what came back.
pub fn errors(data: &[u8]) {
    let [how, len, control, rest @ ..] = data else { return };
    let (control, quote) = rest.split_at(rest.len().min(usize::from(*control)));
    let error = if how & 1 == 0 { read(control, quote.len()) } else { likely(how & 2 == 0, control) };
    let mut world = World::new(how & 2 == 0);
    let sent = if how & 4 == 0 { world.datagram(usize::from(*len) * 5) } else { world.echo(usize::from(*len) * 5) };
    let Some(sent) = sent else { return };
    // What came back is what was sent, or the beginning of it, if the script is not to choose.
    let honest = how & 8 != 0;
    let quote = if honest { world.comes_back(&sent, quote.len()) } else { quote.to_vec() };
    world.report(how & 4 == 0, &error, &quote);
    for frame in world.link.take() {
        judge::frame(&frame);
        assert!(!world.is_silent(&error), "{error:?} is nothing to tell");
        world.judge(&frame, &sent, honest);
    }
}

/// Of the kernel's control messages: what it says lies in what was given.
fn read(control: &[u8], quoted: usize) -> HostError {
    let mut room = [0u64; 32];
    for (word, bytes) in room.iter_mut().zip(control.chunks(8)) {
        let mut eight = [0; 8];
        eight[..bytes.len()].copy_from_slice(bytes);
        *word = u64::from_ne_bytes(eight);
    }
    let error = errqueue::read(&room, control.len(), quoted);
    assert!(error.quoted == quoted || error.quoted == 0 && error.origin == Origin::Local);
    assert!(error.offender.is_none_or(|a| !a.is_unspecified()));
    error
}

/// An error such as routers send them: the first bytes are type, code and more.
fn likely(v4: bool, bytes: &[u8]) -> HostError {
    let byte = |i: usize| bytes.get(i).copied().unwrap_or(0);
    let kinds = if v4 { [3, 11, 12, 5] } else { [1, 2, 3, 4] };
    let offender = if v4 { [10, 0, 0, byte(4)].into() } else { gateway::addr("2001:db8:1::1").to_ip() };
    HostError {
        errno: nix::Error::EHOSTUNREACH as i32,
        origin: Origin::Icmp,
        kind: kinds[usize::from(byte(0) & 3)],
        code: byte(1) & 15,
        info: u32::from(u16::from_be_bytes([byte(2), byte(3)])),
        offender: Some(offender).filter(|_| byte(4) & 1 == 0),
        quoted: 0,
    }
}

struct World {
    v4: bool,
    udp: Udp,
    icmp: Icmp,
    link: MockLink,
    l2: L2,
    nat: Nat,
    clock: Clock,
    timers: Wheel,
    server: UdpSocket,
    _poll: mio::Poll,
}

impl World {
    fn new(v4: bool) -> World {
        let poll = mio::Poll::new().expect("an event loop");
        let registry = || poll.registry().try_clone().expect("an event loop");
        let secret = || KeySecret::random().expect("random bytes");
        let config = gateway::config();
        let clock = Clock::start();
        let nat = Nat {
            gateway: config.gateway,
            our_link_local: config.our_link_local,
            map_host_loopback: config.gateway,
            assigned: PerFamily::new(config.assigned.v4.map(|a| a.0), config.assigned.v6.map(|a| a.0)),
            ..Nat::default()
        };
        let l2 = L2 {
            our_mac: gateway::OUR_MAC,
            guest_mac: gateway::GUEST_MAC,
            guest_v4: nat.assigned.v4,
            guest_v6: nat.assigned.v6,
            guest_link_local: None,
            neighbours: Neighbours::default(),
        };
        World {
            v4,
            udp: Udp::new(registry(), secret(), udp::Config::default()),
            icmp: Icmp::new(registry(), secret(), icmp::Config::default()),
            link: MockLink::new(Caps { csum: false, tso: false, uso: false, mtu: 1500 }),
            l2,
            nat,
            clock,
            timers: Wheel::new(clock.now()),
            server: UdpSocket::bind(if v4 { "127.0.0.1:0" } else { "[::1]:0" }).expect("a server"),
            _poll: poll,
        }
    }

    fn fields(&self) -> IpFields {
        let f = if self.v4 { Family::V4 } else { Family::V6 };
        let (src, dst) = (self.nat.assigned[f].expect("a guest"), self.nat.gateway[f].expect("a gateway"));
        IpFields { src_mac: gateway::GUEST_MAC, dst_mac: gateway::OUR_MAC, src, dst, ttl: 64, tos: 0, id: 0 }
    }

    fn key(&self, datagram: bool) -> FlowKey {
        let f = self.fields();
        let (ours, theirs) = if datagram { (PORT, self.port()) } else { (IDENTIFIER, IDENTIFIER) };
        FlowKey { guest: Endpoint::new(f.src, ours), remote: Endpoint::new(f.dst, theirs) }
    }

    fn port(&self) -> u16 {
        self.server.local_addr().expect("a server").port()
    }

    fn datagram(&mut self, len: usize) -> Option<Vec<u8>> {
        let payload = pattern(len);
        let mut head = Head::new();
        let sum = PayloadSum::Of(Sum::new().add(&payload));
        emit::udp(&mut head, &self.fields(), (PORT, self.port()), payload.len(), sum);
        self.say([&head, &payload[..]].concat())
    }

    fn echo(&mut self, len: usize) -> Option<Vec<u8>> {
        let [i0, i1] = IDENTIFIER.to_be_bytes();
        let mut message = vec![if self.v4 { 8 } else { 128 }, 0, 0, 0, i0, i1, 0, 1];
        message.extend(pattern(len));
        let f = self.fields();
        let (proto, sum) = if self.v4 {
            (PROTO_ICMP, Sum::new())
        } else {
            (PROTO_ICMPV6, Sum::pseudo(&f.src, &f.dst, PROTO_ICMPV6, message.len()))
        };
        let sum = sum.add(&message).checksum();
        message[2..4].copy_from_slice(&sum.to_be_bytes());
        let mut head = Head::new();
        emit::ip(&mut head, &f, proto, message.len());
        self.say([&head, &message[..]].concat())
    }

    /// The frame, if it was sent on.
    fn say(&mut self, frame: Vec<u8>) -> Option<Vec<u8>> {
        let Ok(Parsed::Ip(packet)) = wire::parse(&frame, frame.len()) else { panic!("a frame of ours") };
        let facts = Facts { now: self.clock.now(), l2: &self.l2, nat: &self.nat };
        let whole = Frame { head: &frame, rest: &[], offload: Offload::NONE };
        let (link, timers) = (&mut self.link, &mut self.timers);
        let sent = match packet.transport {
            wire::Transport::Udp(_) => self.udp.from_guest(&packet, &whole, &facts, link, timers).map(drop),
            _ => self.icmp.from_guest(&packet, &whole, &facts, link, timers),
        };
        self.udp.flush(&facts, &mut self.link);
        sent.is_ok().then_some(frame)
    }

    /// What the host's kernel gives back of a packet: for datagrams what is behind the header, for echo requests the header as
    /// well, with the identifier and the checksum of the host's side.
    fn comes_back(&self, sent: &[u8], len: usize) -> Vec<u8> {
        let l4 = ETH_LEN + wire::ip_len(self.fields().src.family());
        let mut message = sent[l4..].to_vec();
        if sent[l4..l4 + 2] == PORT.to_be_bytes() {
            return message[8..message.len().min(8 + len)].to_vec();
        }
        let host = 0x4321u16;
        message[4..6].copy_from_slice(&host.to_be_bytes());
        message[2..4].fill(0);
        let loopback = Addr::from(Ipv6Addr::LOCALHOST);
        let sum = if self.v4 { Sum::new() } else { Sum::pseudo(&loopback, &loopback, PROTO_ICMPV6, message.len()) };
        let sum = sum.add(&message).checksum();
        message[2..4].copy_from_slice(&sum.to_be_bytes());
        message.truncate(8 + len);
        message
    }

    fn report(&mut self, datagram: bool, error: &HostError, quote: &[u8]) {
        let facts = Facts { now: self.clock.now(), l2: &self.l2, nat: &self.nat };
        let key = self.key(datagram);
        match datagram {
            true => self.udp.report(&key, (error, quote), &facts, &mut self.link),
            false => self.icmp.report(&key, error, quote, &facts, &mut self.link),
        }
    }

    /// Nobody has to hear of it.
    fn is_silent(&self, error: &HostError) -> bool {
        error.origin == Origin::Local || self.v4 && error.kind == 5
    }

    /// To the guest, in the bounds of its kind, and about the packet that it sent.
    fn judge(&self, frame: &[u8], sent: &[u8], honest: bool) {
        let Ok(Parsed::Ip(p)) = wire::parse(frame, frame.len()) else { panic!("the judge has read it") };
        let f = self.fields();
        assert_eq!((p.dst, frame.len() <= ETH_LEN + if self.v4 { 576 } else { 1280 }), (f.src, true));
        assert!(p.src.is_unicast() && !p.src.is_loopback() && p.src != f.src, "{:?}", p.src);
        let (quote, original) = (&frame[p.l4 + 8..], &sent[ETH_LEN..]);
        let ip_len = wire::ip_len(f.src.family());
        // Addresses, ports or identifier: by these a guest finds whom to tell.
        let addresses = if self.v4 { 12..20 } else { 8..40 };
        assert_eq!(quote[addresses.clone()], original[addresses]);
        let ends = if sent[ETH_LEN + ip_len..][..2] == PORT.to_be_bytes() { 0..4 } else { 4..6 };
        assert_eq!(quote[ip_len..][ends.clone()], original[ip_len..][ends.clone()]);
        if honest {
            assert!(quote.len() <= original.len(), "more than was sent");
            let (mut quote, mut original) = (quote.to_vec(), original[..quote.len()].to_vec());
            if !self.v4 && ends.start == 4 && original.len() < sent.len() - ETH_LEN {
                // Its checksum has the host's addresses in it, and what is missing.
                quote[ip_len + 2..ip_len + 4].fill(0);
                original[ip_len + 2..ip_len + 4].fill(0);
            }
            assert_eq!(quote, original, "the packet as it was sent");
        }
    }
}

fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|i| (i >> 2) as u8).collect()
}
