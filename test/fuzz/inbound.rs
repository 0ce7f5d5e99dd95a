//! The whole engine with ports that lead inside: clients on the host's loopback, which reach the guest through the link, or a
//! service without it, socket to socket. Each byte arrives where it should, once and in order; an end is an end and a reset
//! a reset; when time has passed nothing is left of what was open.
//!
//! Both sides of the way without the link are this namespace's loopback.

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsRawFd;
use std::time::Duration;

use etherparse::{NetHeaders, PacketHeaders, TransportHeader};
use nix::sys::eventfd::{EfdFlags, EventFd};
use spelt::app::{Engine, Forwarding, Namespace, Next, Parts, Seat};
use spelt::base::{Addr, Kind as TokenKind, Token};
use spelt::fwd::{Local, Proto, Rule, Side};
use spelt::listen::{Forward, Forwards, Options};
use spelt::sys::signal;
use spelt::sys::sockets::Here;
use spelt::wire::checksum::Sum;
use spelt::wire::emit::{self, Head, PayloadSum};

use super::engine::{SKIPS, descriptors, ends, fields};
use super::peer::{Heard, Peer};
use super::wire::Wire;
use super::world;
use super::{engine, gateway, judge};

/// Of the guest's services behind the link.
const PORT: u16 = 80;
const CLIENTS_MAX: usize = 8;
const PIPES_KEPT: usize = 4;
const MTU: u16 = 1500;

/// How the engine is made, then four bytes a step.
pub fn inbound(data: &[u8]) {
    let [how, script @ ..] = data else { return };
    let before = descriptors();
    {
        let mut world = World::new(how & 1 != 0, how & 2 != 0);
        // A few pipes are kept for the next flow.
        let left = descriptors() + if how & 1 != 0 { 2 * PIPES_KEPT } else { 0 };
        for step in script.chunks_exact(4).take(60) {
            world.step([step[0], step[1], step[2], step[3]]);
        }
        world.wind_up(left);
        // Tests of other threads have descriptors of their own.
        assert!(cfg!(test) || descriptors() <= left, "flows are left");
    }
    assert!(cfg!(test) || descriptors() == before, "descriptors are left");
}

struct World {
    engine: Engine,
    guest: Wire,
    wake: EventFd,
    /// The host's ports, one for each family, and services that they lead to when there is a way without the link.
    ports: [[u16; 2]; 2],
    services: Option<[Service; 2]>,
    peers: Vec<Peer>,
    pairs: Vec<Pair>,
    datagrams: [UdpSocket; 2],
    /// The guest's datagram from this client's port was heard: its answer will be.
    expected: Option<Vec<u8>>,
    heard: bool,
}

struct Service {
    /// Of the listener, or of the socket that keeps its port while it is gone.
    port: u16,
    tcp: Result<TcpListener, socket2::Socket>,
    udp: UdpSocket,
}

impl World {
    fn new(past_the_link: bool, card: bool) -> World {
        // As in the program. splice(2) to a peer that is gone raises SIGPIPE, and who runs us does not ignore it as Rust does.
        signal::prepare();
        let services = past_the_link.then(|| [true, false].map(Service::new));
        let (link, guest) = Wire::new(card, MTU);
        let mut parts = engine::parts(link);
        parts.common.l2.guest_mac = gateway::GUEST_MAC;
        (parts.common.l2.guest_v4, parts.common.l2.guest_v6) = (Some(fields(true).src), Some(fields(false).src));
        parts.common.udp_timeouts = (Duration::from_secs(30), Duration::from_secs(120));
        let namespace = || Namespace { sockets: Box::new(Here), diag: None };
        parts.forwarding = Forwarding {
            forwards: Forwards::default(),
            options: Options { v4: true, v6: true, freebind: false },
            host: namespace(),
            guest: namespace(),
        };
        parts.local = past_the_link.then_some(Local { on: true, to_loopback: true });
        let mut engine = Engine::new(Parts { ..parts }, Seat::alone().expect("a seat")).expect("an engine");
        let wake = EventFd::from_flags(EfdFlags::EFD_NONBLOCK).expect("an event descriptor");
        let token = mio::Token(Token::only(TokenKind::Quit).to_usize());
        let mut source = mio::unix::SourceFd(&wake.as_raw_fd());
        engine.registry().register(&mut source, token, mio::Interest::READABLE).expect("an event");
        let target = |proto, v4: bool| match (&services, proto) {
            (None, _) => PORT,
            (Some(s), Proto::Tcp) => s[usize::from(!v4)].port,
            (Some(s), Proto::Udp) => s[usize::from(!v4)].udp.local_addr().expect("a service").port(),
        };
        let ports = [Proto::Tcp, Proto::Udp].map(|p| [true, false].map(|v4| open(&mut engine, p, v4, target(p, v4))));
        let client = |v4: bool| {
            let socket = UdpSocket::bind((loopback(v4), 0)).expect("a client");
            socket.connect((loopback(v4), ports[1][usize::from(!v4)])).expect("a client");
            socket.set_nonblocking(true).expect("a client");
            socket
        };
        let datagrams = [client(true), client(false)];
        engine.start();
        let (peers, pairs) = (Vec::new(), Vec::new());
        let mut world =
            World { engine, guest, wake, ports, services, peers, pairs, datagrams, expected: None, heard: false };
        world.turns();
        world
    }

    fn step(&mut self, [op, a, b, c]: [u8; 4]) {
        let v4 = op & 8 == 0;
        match op & 7 {
            0 => self.client(v4),
            1..=3 if self.services.is_some() => {
                let count = self.pairs.len().max(1);
                if let Some(pair) = self.pairs.get_mut(usize::from(op >> 4) % count) {
                    pair.act(a, usize::from(b) << (c & 7));
                }
                self.turns();
                self.pairs.iter_mut().for_each(Pair::look);
            }
            1..=3 => {
                let count = self.peers.len().max(1);
                let Some(peer) = self.peers.get_mut(usize::from(op >> 4) % count) else { return };
                for frame in peer.step([a, b, c, op]) {
                    self.say(&frame);
                }
                self.turns();
            }
            4 | 5 => self.datagram(v4, usize::from(a) * 5, op & 7 == 5),
            6 => {
                self.engine.skip_time(SKIPS[usize::from(a & 3)]);
                self.turns();
            }
            _ => {
                if let Some(services) = &mut self.services {
                    services[usize::from(!v4)].come_or_go(v4);
                }
            }
        }
    }

    fn client(&mut self, v4: bool) {
        if self.peers.len() + self.pairs.len() >= CLIENTS_MAX {
            return;
        }
        let to = SocketAddr::new(loopback(v4), self.ports[0][usize::from(!v4)]);
        let stream = TcpStream::connect(to).expect("a port that is open");
        self.turns();
        let Some(services) = &self.services else {
            self.peers.push(Peer::of_client(ends(), !v4, PORT, stream));
            // Its first segment came before it was known.
            self.turns();
            return;
        };
        let Ok(listener) = &services[usize::from(!v4)].tcp else { return };
        let (served, _) = listener.accept().expect("who is there is reached");
        self.pairs.push(Pair::new(stream, served));
    }

    fn datagram(&mut self, v4: bool, len: usize, answered: bool) {
        let payload: Vec<u8> = (0..len).map(|i| i as u8 ^ v4 as u8).collect();
        let client = &self.datagrams[usize::from(!v4)];
        let port = client.local_addr().expect("a client").port();
        if client.send(&payload).is_err() {
            // An error about an earlier one.
            return;
        }
        (self.expected, self.heard) = (Some(payload.clone()), false);
        self.turns();
        if let Some(services) = &self.services {
            let service = &services[usize::from(!v4)];
            let mut room = [0; 1 << 12];
            let (n, from) = service.udp.recv_from(&mut room).expect("a datagram");
            assert_eq!(room[..n], payload);
            if answered {
                service.udp.send_to(&payload, from).expect("a client");
            }
        } else {
            assert!(self.heard, "a datagram is lost");
            if answered {
                let mut head = Head::new();
                let sum = PayloadSum::Of(Sum::new().add(&payload));
                emit::udp(&mut head, &fields(v4), (PORT, port), payload.len(), sum);
                self.say(&[&head, &payload[..]].concat());
            }
        }
        self.expected = None;
        self.turns();
        let mut room = [0; 1 << 12];
        let came = self.datagrams[usize::from(!v4)].recv(&mut room);
        assert_eq!(came.map(|n| room[..n].to_vec()).ok(), answered.then_some(payload));
    }

    fn say(&mut self, frame: &[u8]) {
        if self.guest.send(frame) {
            self.turns();
        }
    }

    fn turns(&mut self) {
        for _ in 0..3 {
            let (mut left, wake) = (3, &self.wake);
            wake.write(1).expect("an event");
            let again = |_| {
                left -= 1;
                if left == 0 {
                    return Next::Stop;
                }
                wake.write(1).expect("an event");
                Next::Continue
            };
            self.engine.run(again).expect("the link stays");
        }
        self.listen();
    }

    fn listen(&mut self) {
        let mut room = [0; 1 << 12];
        while let Some(n) = self.guest.recv(&mut room) {
            judge::frame(&room[..n]);
            self.hear(&room[..n]);
        }
    }

    fn hear(&mut self, frame: &[u8]) {
        let p = PacketHeaders::from_ethernet_slice(frame).expect("the judge has read it");
        let v4 = matches!(p.net, Some(NetHeaders::Ipv4(..)));
        match &p.transport {
            Some(TransportHeader::Udp(u)) if u.destination_port == PORT => {
                assert_eq!(Some(p.payload.slice()), self.expected.as_deref(), "nobody has said this");
                self.heard = true;
                let client = self.datagrams[usize::from(!v4)].local_addr().expect("a client");
                assert_eq!(u.source_port, client.port(), "clients keep their ports");
            }
            Some(TransportHeader::Tcp(t)) => {
                assert!(self.services.is_none(), "there is a way without the link");
                let ports = (t.destination_port, t.source_port);
                let Some(peer) = self.peers.iter_mut().find(|p| p.ports == ports) else { return };
                let options = world::Options::read(t);
                peer.hear(&Heard::of(t, &options, p.payload.slice()));
            }
            _ => {}
        }
    }

    /// Everybody hangs up, and time passes until no more descriptors than these are open.
    fn wind_up(&mut self, left: usize) {
        self.peers.iter_mut().for_each(Peer::hang_up);
        self.peers.clear();
        self.pairs.clear();
        // Longer than two hours of silence and the probes behind them, in steps shorter than any timer's longest.
        for _ in 0..160 {
            if !cfg!(test) && descriptors() <= left {
                break;
            }
            self.engine.skip_time(Duration::from_secs(60));
            self.turns();
        }
    }
}

impl Service {
    fn new(v4: bool) -> Service {
        let tcp = TcpListener::bind((loopback(v4), 0)).expect("a service");
        let udp = UdpSocket::bind((loopback(v4), 0)).expect("a service");
        tcp.set_nonblocking(true).expect("a service");
        udp.set_nonblocking(true).expect("a service");
        Service { port: tcp.local_addr().expect("a service").port(), tcp: Ok(tcp), udp }
    }

    /// Its port stays its own.
    fn come_or_go(&mut self, v4: bool) {
        let reserved = || {
            let domain = if v4 { socket2::Domain::IPV4 } else { socket2::Domain::IPV6 };
            let socket = socket2::Socket::new(domain, socket2::Type::STREAM, None).expect("a socket");
            socket.set_reuse_address(true).expect("a socket");
            socket.set_nonblocking(true).expect("a socket");
            socket
        };
        let socket = reserved();
        let goes = self.tcp.is_ok();
        // The old one has to be closed first.
        self.tcp = Err(reserved());
        socket.bind(&SocketAddr::new(loopback(v4), self.port).into()).expect("a port that was ours a moment ago");
        self.tcp = if goes {
            Err(socket)
        } else {
            socket.listen(16).expect("a service");
            Ok(socket.into())
        };
    }
}

/// A port of the host's that leads to `target`.
fn open(engine: &mut Engine, proto: Proto, v4: bool, target: u16) -> u16 {
    for _ in 0..20 {
        // Nobody had it a moment ago.
        let socket = UdpSocket::bind((loopback(v4), 0)).expect("a port");
        let port = socket.local_addr().expect("a port").port();
        drop(socket);
        let rule = Rule {
            proto,
            listen: Some(Addr::from(loopback(v4))),
            device: None,
            first: port,
            last: port,
            target_first: target,
            target: None,
            best_effort: false,
            auto: false,
        };
        if engine.add_forward(Forward { rule, on: Side::Host, origin: String::new() }).is_ok() {
            return port;
        }
    }
    panic!("no port is left");
}

fn loopback(v4: bool) -> IpAddr {
    if v4 { Ipv4Addr::LOCALHOST.into() } else { Ipv6Addr::LOCALHOST.into() }
}

/// A client and who serves it, and what each has said.
struct Pair {
    ends: [End; 2],
}

struct End {
    /// `None`: it has reset the connection.
    stream: Option<TcpStream>,
    salt: u8,
    written: usize,
    /// It has said that there is no more.
    ended: bool,
    /// What it has heard of the other.
    read: usize,
    heard_end: bool,
}

impl Pair {
    fn new(client: TcpStream, served: TcpStream) -> Pair {
        let end = |stream: TcpStream, salt| {
            stream.set_nonblocking(true).expect("a socket");
            End { stream: Some(stream), salt, written: 0, ended: false, read: 0, heard_end: false }
        };
        Pair { ends: [end(client, 0), end(served, 0x55)] }
    }

    /// One of the two does something.
    fn act(&mut self, what: u8, n: usize) {
        let end = &mut self.ends[usize::from(what & 1)];
        let Some(stream) = &mut end.stream else { return };
        match what >> 1 & 7 {
            0..=4 if !end.ended => {
                let bytes: Vec<u8> = (0..n).map(|i| pattern(end.salt, end.written + i)).collect();
                end.written += stream.write(&bytes).unwrap_or(0);
            }
            5 => {
                end.ended = true;
                let _ = stream.shutdown(Shutdown::Write);
            }
            6 => {
                let _ = socket2::SockRef::from(&*stream).set_linger(Some(Duration::ZERO));
                end.stream = None;
            }
            _ => {}
        }
    }

    /// What has come is what was said; an end comes behind all of it.
    fn look(&mut self) {
        for (i, j) in [(0, 1), (1, 0)] {
            let End { written, ended, salt, .. } = self.ends[j];
            let gone = self.ends[j].stream.is_none();
            let end = &mut self.ends[i];
            let mut room = [0; 1 << 14];
            while let Some(stream) = end.stream.as_mut().filter(|_| !end.heard_end) {
                match stream.read(&mut room) {
                    Ok(0) => {
                        assert!(ended, "an end that nobody has said");
                        assert!(end.read == written, "an end after {} of {written} bytes", end.read);
                        end.heard_end = true;
                    }
                    Ok(n) => {
                        let right = |(i, byte): (usize, &u8)| *byte == pattern(salt, end.read + i);
                        assert!(room[..n].iter().enumerate().all(right), "other bytes, from {} on", end.read);
                        end.read += n;
                        assert!(end.read <= written, "more than was written");
                    }
                    Err(e) if e.kind() == ErrorKind::WouldBlock => break,
                    Err(e) => {
                        assert!(gone, "{e}, and the other side is there");
                        end.heard_end = true;
                    }
                }
            }
        }
    }
}

fn pattern(salt: u8, at: usize) -> u8 {
    ((at as u32).wrapping_mul(0x9E37_79B1) >> 19) as u8 ^ salt
}
