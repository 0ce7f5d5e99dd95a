//! The whole engine as the program runs it, one worker, between a guest's socket and servers on loopback: any frames, in any
//! order, with whatever the host does in between. Each frame is counted, and at most once for a reason; each frame to the
//! guest is right; nothing is left open at the end.
//!
//! No packet leaves this machine, nor reaches a server that is not the script's: those that could are left out.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket};
use std::os::fd::AsRawFd;
use std::time::Duration;

use etherparse::{NetHeaders, PacketHeaders, TransportHeader};
use nix::sys::eventfd::{EfdFlags, EventFd};
use spelt::app::{Common, Engine, Forwarding, Next, Parts, Protocols, Seat};
use spelt::base::{Addr, Clock, Counters, DropReason, Kind as TokenKind, Mac, PerFamily, Token};
use spelt::fwd::{Nat, Outbound};
use spelt::guest::{L2, Neighbours};
use spelt::link::Link;
use spelt::wire::checksum::Sum;
use spelt::wire::emit::{self, Head, IpFields, PayloadSum};
use spelt::wire::{self, ETH_LEN, PROTO_ICMP, PROTO_ICMPV6, PROTO_UDP, Packet, Parsed, Transport, fragment};

use super::peer::{Ends, Heard, Peer};
use super::wire::Wire;
use super::world::Options;
use super::{gateway, judge};

const GUEST_PORT: u16 = 40_000;
const MTU: u16 = 1500;
/// A timer's tick, a delayed answer, a resent segment; the life of anything.
pub const SKIPS: [Duration; 4] =
    [Duration::from_millis(250), Duration::from_secs(3), Duration::from_secs(200), Duration::from_secs(100_000)];

/// A byte for what follows: a step of a connection, a datagram, an echo, pieces of a packet, a frame of any bytes, or time.
pub fn engine(data: &[u8]) {
    play(data, false);
}

/// The same with a vhost-user card.
pub fn engine_card(data: &[u8]) {
    play(data, true);
}

fn play(data: &[u8], card: bool) {
    let before = descriptors();
    let mut world = World::new(card);
    let (mut rest, mut steps) = (data, 0);
    while let [what, tail @ ..] = rest
        && steps < 60
    {
        rest = world.step(*what, tail);
        steps += 1;
    }
    world.wind_up();
    drop(world);
    // Tests of other threads have descriptors of their own.
    assert!(cfg!(test) || descriptors() == before, "descriptors are left");
}

pub fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").map_or(0, Iterator::count)
}

struct World {
    engine: Engine,
    guest: Wire,
    wake: EventFd,
    peers: [Peer; 2],
    /// One for each family; the first byte of a datagram says which it is.
    servers: [UdpSocket; 2],
    /// What was sent last, to be sent again with a fault.
    last: Vec<u8>,
    room: Vec<u8>,
    told: Counters,
    sent: u64,
}

impl World {
    fn new(card: bool) -> World {
        let (link, guest) = Wire::new(card, MTU);
        let seat = Seat::alone().expect("a seat");
        let mut engine = Engine::new(parts(link), seat).expect("an engine");
        let wake = EventFd::from_flags(EfdFlags::EFD_NONBLOCK).expect("an event descriptor");
        let token = mio::Token(Token::only(TokenKind::Quit).to_usize());
        let mut source = mio::unix::SourceFd(&wake.as_raw_fd());
        engine.registry().register(&mut source, token, mio::Interest::READABLE).expect("an event");
        engine.start();
        let server = |ip: IpAddr| {
            let socket = UdpSocket::bind((ip, 0)).expect("a server");
            socket.set_nonblocking(true).expect("a server");
            socket
        };
        let servers = [server(Ipv4Addr::LOCALHOST.into()), server(Ipv6Addr::LOCALHOST.into())];
        let mut peers = [Peer::new(ends(), false, GUEST_PORT), Peer::new(ends(), true, GUEST_PORT)];
        peers[1].is_modern();
        let told = engine.counters();
        World { engine, guest, wake, peers, servers, last: Vec::new(), room: vec![0; 1 << 16], told, sent: 0 }
    }

    /// One step of the script; returns the rest of it.
    fn step<'a>(&mut self, what: u8, rest: &'a [u8]) -> &'a [u8] {
        match what & 7 {
            0..=2 if what & 0xf0 == 0xf0 => self.skip(SKIPS[usize::from(what & 3)]),
            0..=2 => {
                let Some((step, rest)) = rest.split_first_chunk::<4>() else { return &[] };
                for frame in self.peers[usize::from(what >> 3 & 1)].step(*step) {
                    self.say(frame);
                }
                self.turns();
                return rest;
            }
            3 => self.datagram(what & 8 == 0, usize::from(what >> 4) * 90),
            4 => self.echo(what & 8 == 0, usize::from(what >> 4) * 90),
            5 => {
                let Some((step, rest)) = rest.split_first_chunk::<2>() else { return &[] };
                self.pieces(what & 8 == 0, 1500 + usize::from(step[0]) * 60, step[1]);
                return rest;
            }
            6 => {
                let Some((&[at, bits], rest)) = rest.split_first_chunk::<2>() else { return &[] };
                let mut frame = self.last.clone();
                if let Some(byte) = frame.get_mut(usize::from(at)) {
                    *byte ^= bits;
                }
                self.any(frame);
                return rest;
            }
            _ => {
                let Some((len, rest)) = rest.split_first() else { return &[] };
                let (frame, rest) = rest.split_at(rest.len().min(usize::from(*len) * 2));
                self.any(frame.to_vec());
                return rest;
            }
        }
        rest
    }

    /// Time passes, and with it whatever waits for it.
    fn skip(&mut self, time: Duration) {
        self.engine.skip_time(time);
        self.turns();
        self.told = self.engine.counters();
    }

    /// A frame and what comes of it.
    fn say(&mut self, frame: Vec<u8>) {
        let parsed = wire::parse(&frame, frame.len());
        if !self.guest.send(&frame) {
            return;
        }
        self.sent += 1;
        self.turns();
        let counters = self.engine.counters();
        let news = counters.since(&self.told);
        let drops: Vec<_> = news.drops().filter(|(reason, _)| !is_of_host(*reason)).collect();
        assert_eq!(counters.frames_from_guest, self.sent, "a frame is counted");
        match parsed {
            Err(reason) => assert_eq!(drops, [(reason, 1)]),
            // A part takes others with it.
            Ok(Parsed::Fragment(_)) => assert!(drops.len() <= 1, "{drops:?}"),
            Ok(_) => assert!(drops.iter().map(|(_, n)| n).sum::<u64>() <= 1, "{drops:?}"),
        }
        self.told = counters;
        self.last = frame;
    }

    /// Turns of the loop until nothing new comes of what was said.
    fn turns(&mut self) {
        for _ in 0..2 {
            self.wake.write(1).expect("an event");
            self.engine.run(|_| Next::Stop).expect("the link stays");
            // What a turn has put off to its end.
            let (mut last, wake) = (false, &self.wake);
            wake.write(1).expect("an event");
            let again = |_| {
                let stop = std::mem::replace(&mut last, true);
                wake.write(1).expect("an event");
                if stop { Next::Stop } else { Next::Continue }
            };
            self.engine.run(again).expect("the link stays");
        }
        self.listen();
    }

    fn listen(&mut self) {
        let mut room = std::mem::take(&mut self.room);
        while let Some(n) = self.guest.recv(&mut room) {
            judge::frame(&room[..n]);
            assert!(n <= ETH_LEN + usize::from(MTU), "{n} bytes");
            self.hear(&room[..n]);
        }
        self.room = room;
    }

    fn hear(&mut self, frame: &[u8]) {
        let p = PacketHeaders::from_ethernet_slice(frame).expect("the judge has read it");
        let Some(TransportHeader::Tcp(t)) = &p.transport else { return };
        let v4 = matches!(p.net, Some(NetHeaders::Ipv4(..)));
        let peer = &mut self.peers[usize::from(!v4)];
        if peer.ports != (t.destination_port, t.source_port) {
            // Nobody's: a frame of any bytes was answered.
            return;
        }
        let options = Options::read(t);
        peer.hear(&Heard::of(t, &options, p.payload.slice()));
    }

    /// To the server, which gets it as it is, and answers.
    fn datagram(&mut self, v4: bool, len: usize) {
        let payload: Vec<u8> = (0..len).map(|i| i as u8).collect();
        let server = &self.servers[usize::from(!v4)];
        let port = server.local_addr().expect("a server").port();
        let mut head = Head::new();
        let sum = PayloadSum::Of(Sum::new().add(&payload));
        emit::udp(&mut head, &fields(v4), (GUEST_PORT, port), payload.len(), sum);
        self.say([&head, &payload[..]].concat());
        self.serve(v4, Some(&payload));
    }

    /// `expected`: what must have come.
    fn serve(&mut self, v4: bool, expected: Option<&[u8]>) {
        let server = &self.servers[usize::from(!v4)];
        let mut found = expected.is_none();
        while let Ok((n, from)) = server.recv_from(&mut self.room) {
            found |= expected == Some(&self.room[..n]);
            let _ = server.send_to(&self.room[..n], from);
        }
        assert!(found, "a datagram is lost");
        self.turns();
    }

    fn echo(&mut self, v4: bool, len: usize) {
        let mut message = vec![if v4 { 8 } else { 128 }, 0, 0, 0, 0, 1, 0, 1];
        message.resize(8 + len, 0);
        let f = fields(v4);
        let (proto, sum) = if v4 {
            (PROTO_ICMP, Sum::new())
        } else {
            (PROTO_ICMPV6, Sum::pseudo(&f.src, &f.dst, PROTO_ICMPV6, message.len()))
        };
        let sum = sum.add(&message).checksum();
        message[2..4].copy_from_slice(&sum.to_be_bytes());
        let mut head = Head::new();
        emit::ip(&mut head, &f, proto, message.len());
        self.say([&head, &message[..]].concat());
    }

    /// A datagram cut to the MTU, of which those pieces come that the bits name.
    fn pieces(&mut self, v4: bool, len: usize, which: u8) {
        let payload: Vec<u8> = (0..len).map(|i| (i >> 3) as u8).collect();
        let port = self.servers[usize::from(!v4)].local_addr().expect("a server").port();
        let mut head = Head::new();
        let sum = PayloadSum::Of(Sum::new().add(&payload));
        emit::udp(&mut head, &fields(v4), (GUEST_PORT, port), payload.len(), sum);
        let l4 = ETH_LEN + wire::ip_len(fields(v4).src.family());
        let segment = [&head[l4..], &payload[..]].concat();
        let mut frames = Vec::new();
        fragment::cut(&fields(v4), PROTO_UDP, segment.len(), 1280, 7, |head, range| {
            frames.push([head, &segment[range]].concat());
            true
        });
        for (_, frame) in frames.into_iter().enumerate().filter(|(i, _)| which & 1 << (i & 7) != 0) {
            self.say(frame);
        }
        self.serve(v4, None);
    }

    /// Of any bytes, as long as it reaches nobody but us and our servers.
    fn any(&mut self, frame: Vec<u8>) {
        let harmless = match wire::parse(&frame, frame.len()) {
            Ok(Parsed::Ip(p)) => self.is_harmless(&p),
            Ok(Parsed::Fragment(_)) => false,
            Ok(Parsed::Arp { .. }) | Err(_) => true,
        };
        if harmless {
            self.say(frame);
        }
        for v4 in [true, false] {
            self.serve(v4, None);
        }
    }

    fn is_harmless(&self, p: &Packet) -> bool {
        let v4 = p.dst.is_v4();
        let to_us = [fields(true).dst, fields(false).dst].contains(&p.dst);
        let server = &self.servers[usize::from(!v4)];
        match p.transport {
            Transport::Other(_) => true,
            Transport::Icmp(h) => to_us || !v4 && (133..=137).contains(&h.kind),
            Transport::Udp(u) if u.dst_port == 67 => v4,
            Transport::Udp(u) if u.dst_port == 547 => !v4 && p.dst.is_multicast(),
            Transport::Udp(u) => to_us && server.local_addr().is_ok_and(|a| a.port() == u.dst_port),
            // The model of the connection would not know of it.
            Transport::Tcp(_) => false,
        }
    }

    fn wind_up(&mut self) {
        self.peers.iter_mut().for_each(Peer::hang_up);
        self.turns();
        let counters = self.engine.counters();
        assert_eq!(counters.frames_from_guest, self.sent);
    }
}

/// What is counted when the host has its say, and not the guest.
fn is_of_host(reason: DropReason) -> bool {
    matches!(reason, DropReason::LinkFull | DropReason::FragmentTimeout)
}

pub fn ends() -> Ends {
    Ends {
        macs: [gateway::GUEST_MAC.0, gateway::OUR_MAC.0],
        v4: [Ipv4Addr::new(192, 0, 2, 7), Ipv4Addr::new(192, 0, 2, 1)],
        v6: [0x7, 0x1].map(|n| Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, n)),
    }
}

pub fn fields(v4: bool) -> IpFields {
    let [src, dst]: [Addr; 2] = if v4 { ends().v4.map(Addr::from) } else { ends().v6.map(Addr::from) };
    let (src_mac, dst_mac) = (gateway::GUEST_MAC, gateway::OUR_MAC);
    IpFields { src_mac, dst_mac, src, dst, ttl: 64, tos: 0, id: 0 }
}

pub fn parts(link: Link) -> Parts {
    let gateway = gateway::config();
    let l2 = L2 {
        our_mac: gateway::OUR_MAC,
        guest_mac: Mac::BROADCAST,
        guest_v4: None,
        guest_v6: None,
        guest_link_local: None,
        neighbours: Neighbours::default(),
    };
    let nat = Nat {
        gateway: gateway.gateway,
        our_link_local: gateway.our_link_local,
        map_host_loopback: gateway.gateway,
        assigned: PerFamily::new(gateway.assigned.v4.map(|a| a.0), gateway.assigned.v6.map(|a| a.0)),
        ..Nat::default()
    };
    let common = Common {
        clock: Clock::start(),
        l2,
        nat,
        outbound: Outbound::default(),
        gateway,
        protocols: Protocols { tcp: true, udp: true, icmp: true },
        descriptors: 64,
        udp_timeouts: (Duration::from_millis(2), Duration::from_millis(4)),
    };
    let forwarding = Forwarding::nothing();
    Parts { link, common, listeners: Vec::new(), forwarding, local: None, neighbours: None, following: None }
}
