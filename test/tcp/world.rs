//! The TCP engine between a link in memory and real sockets on loopback, and a guest that says what a test tells it to.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::{Duration, Instant as Wall};

use etherparse::{NetHeaders, PacketBuilder, PacketHeaders, TcpHeader, TcpOptionElement, TransportHeader};
use spelt::base::{Addr, Clock, Endpoint, Instant, Kind, Mac, PerFamily, Token};
use spelt::flow::{FlowKey, Id, KeySecret, Ready, Via, Wheel};
use spelt::fwd::{Nat, Outbound};
use spelt::guest::mock::MockLink;
use spelt::guest::{Caps, Facts, Frame, L2, ToGuest};
use spelt::tcp::Tcp;
use spelt::wire::{Csum, Offload, Packet, Parsed, parse};

pub const GUEST_MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];
pub const OUR_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
pub const GUEST4: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 2);
pub const HOST4: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
pub const GUEST6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 2);
pub const HOST6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 1);

/// Longer than anything here takes, shorter than anybody's patience.
const PATIENCE: Duration = Duration::from_secs(20);

pub struct World {
    pub tcp: Tcp,
    pub link: MockLink,
    pub timers: Wheel,
    poll: mio::Poll,
    clock: Clock,
    /// When time stopped to pass by itself, if it did.
    frozen: Option<Instant>,
    skipped: Duration,
    l2: L2,
    nat: Nat,
    due: Vec<Token>,
}

impl World {
    pub fn new(caps: Caps, limit: usize) -> World {
        let poll = mio::Poll::new().unwrap();
        let registry = poll.registry().try_clone().unwrap();
        let (a, b) = (KeySecret::fixed([1; 16]), KeySecret::fixed([2; 16]));
        let tcp = Tcp::new(registry, a, b, Outbound::default(), caps.mtu, limit);
        let clock = Clock::start();
        let host = PerFamily::new(Some(HOST4.into()), Some(HOST6.into()));
        World {
            tcp,
            link: MockLink::new(caps),
            timers: Wheel::new(clock.now()),
            poll,
            clock,
            frozen: None,
            skipped: Duration::ZERO,
            l2: L2 {
                our_mac: Mac(OUR_MAC),
                guest_mac: Mac(GUEST_MAC),
                guest_v4: Some(GUEST4.into()),
                guest_v6: Some(GUEST6.into()),
                guest_link_local: None,
                neighbours: Default::default(),
            },
            nat: Nat { gateway: host, map_host_loopback: host, ..Nat::default() },
            due: Vec::new(),
        }
    }

    /// MTU 1500, no offloads.
    pub fn plain() -> World {
        World::new(Caps { csum: false, tso: false, uso: false, mtu: 1500 }, 1000)
    }

    /// Another worker's engine, without a flow yet.
    pub fn beside(&self, limit: usize) -> World {
        World { clock: self.clock, frozen: self.frozen, skipped: self.skipped, ..World::new(self.link.caps(), limit) }
    }

    /// All flows go to another worker, as when this one does not reach the guest any more. Returns how many there were.
    pub fn move_all_to(&mut self, other: &mut World) -> usize {
        let moving = self.tcp.leave(1);
        let count = moving.len();
        let facts = Facts { now: other.now(), l2: &other.l2, nat: &other.nat };
        for flow in moving {
            other.tcp.adopt(flow, &facts, &mut other.link, &mut other.timers);
        }
        self.tcp.audit().unwrap();
        other.tcp.audit().unwrap();
        count
    }

    /// What a tap device with a virtio-net header can do.
    pub fn offloading(mtu: u16) -> World {
        World::new(Caps { csum: true, tso: true, uso: true, mtu }, 1000)
    }

    pub fn now(&self) -> Instant {
        self.frozen.unwrap_or_else(|| self.clock.now()) + self.skipped
    }

    /// From now on time passes for the engine by [`World::skip`] only.
    pub fn freeze(&mut self) {
        self.frozen = Some(self.clock.now());
    }

    /// Lets time pass for the engine without waiting.
    pub fn skip(&mut self, d: Duration) {
        self.skipped += d;
    }

    /// Frames of the guest as one batch; all must belong to one flow.
    pub fn guest_sends(&mut self, frames: &[Vec<u8>]) {
        self.guest_sends_with(frames, Offload::NONE);
    }

    /// The same, with what a card with offloads says of each.
    pub fn guest_sends_with(&mut self, frames: &[Vec<u8>], offload: Offload) {
        let run: Vec<(Packet, Frame<'_>)> = frames
            .iter()
            .map(|f| match parse(f, f.len()) {
                Ok(Parsed::Ip(p)) => (p, Frame { head: f, rest: &[], offload }),
                other => panic!("{other:?}"),
            })
            .collect();
        let facts = Facts { now: self.now(), l2: &self.l2, nat: &self.nat };
        self.tcp.from_guest(&run, &facts, &mut self.link, &mut self.timers);
    }

    /// A client that a listener of ours would have accepted.
    pub fn client_came(&mut self, client: std::net::TcpStream, guest_port: u16) -> bool {
        client.set_nonblocking(true).unwrap();
        let from = client.peer_addr().unwrap();
        self.socket_came(client.into(), from, guest_port)
    }

    /// The same with a socket that need not be what it is said to be: `from` counts.
    pub fn socket_came(&mut self, socket: socket2::Socket, from: SocketAddr, guest_port: u16) -> bool {
        let (guest, host): (Addr, Addr) =
            if from.is_ipv4() { (GUEST4.into(), HOST4.into()) } else { (GUEST6.into(), HOST6.into()) };
        let key = FlowKey { guest: Endpoint::new(guest, guest_port), remote: Endpoint::new(host, from.port()) };
        let facts = Facts { now: self.now(), l2: &self.l2, nat: &self.nat };
        self.tcp.from_listener(socket, (key, Via::NOTHING), &facts, &mut self.link, &mut self.timers).is_ok()
    }

    pub fn link_ready(&mut self) {
        let facts = Facts { now: self.now(), l2: &self.l2, nat: &self.nat };
        self.tcp.link_ready(&facts, &mut self.link, &mut self.timers);
    }

    pub fn event(&mut self, id: Id, ready: Ready) {
        let facts = Facts { now: self.now(), l2: &self.l2, nat: &self.nat };
        self.tcp.from_host(id, ready, &facts, &mut self.link, &mut self.timers);
    }

    pub fn timer(&mut self, id: Id) {
        let facts = Facts { now: self.now(), l2: &self.l2, nat: &self.nat };
        self.tcp.on_timer(id, &facts, &mut self.link, &mut self.timers);
    }

    /// One turn of the event loop that waits `ms` at most; ends with an audit.
    pub fn turn(&mut self, ms: u64) {
        let mut events = mio::Events::with_capacity(256);
        let wait = if self.tcp.has_pending() { 0 } else { ms };
        match self.poll.poll(&mut events, Some(Duration::from_millis(wait))) {
            Ok(()) => {}
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
            Err(e) => panic!("{e}"),
        }
        for e in &events {
            let token = Token::from_usize(e.token().0).unwrap();
            assert_eq!(token.kind, Kind::Tcp);
            self.event(Id { index: token.index, generation: token.generation }, Ready::from(e));
        }
        let now = self.now();
        let mut due = std::mem::take(&mut self.due);
        self.timers.expire(now, &mut due);
        for t in due.drain(..) {
            self.timer(Id { index: t.index, generation: t.generation });
        }
        self.due = due;
        let facts = Facts { now, l2: &self.l2, nat: &self.nat };
        if self.tcp.has_pending() {
            self.tcp.run_pending(&facts, &mut self.link, &mut self.timers);
        }
        self.tcp.flush(&facts, &mut self.link);
        self.tcp.audit().unwrap();
    }

    /// Turns until `done`; `what` is what the test waits for.
    pub fn until(&mut self, what: &str, mut done: impl FnMut(&mut World) -> bool) {
        let end = Wall::now() + PATIENCE;
        while !done(self) {
            assert!(Wall::now() < end, "waited in vain for {what}; {:?}", self.tcp);
            self.turn(1);
        }
    }

    /// Turns until nothing happens for some 20 ms.
    pub fn settle(&mut self) {
        for _ in 0..10 {
            self.turn(2);
        }
    }

    /// A turn or two.
    pub fn settle_briefly(&mut self) {
        self.turn(1);
        self.turn(0);
    }

    /// What was sent to the guest since the last call, read by etherparse, checksums verified.
    pub fn seen(&mut self) -> Vec<Seen> {
        let frames: Vec<_> = self.link.sent.drain(..).collect();
        frames.iter().map(|(f, o)| Seen::read(f, *o)).collect()
    }
}

/// A segment as the guest sees it.
#[derive(Clone, Debug)]
pub struct Seen {
    pub src_port: u16,
    pub dst_port: u16,
    pub seq: u32,
    pub ack: u32,
    pub flags: String,
    pub window: u16,
    pub mss: Option<u16>,
    pub scale: Option<u8>,
    /// Timestamp and its echo.
    pub stamp: Option<(u32, u32)>,
    /// SACK blocks.
    pub blocks: Vec<(u32, u32)>,
    pub payload: Vec<u8>,
    pub offload: Offload,
    pub frame: Vec<u8>,
}

/// Options of a segment of ours, which are all well-formed.
#[derive(Default)]
pub struct Options {
    pub mss: Option<u16>,
    pub scale: Option<u8>,
    /// Timestamp and its echo.
    pub stamp: Option<(u32, u32)>,
    /// SACK blocks.
    pub blocks: Vec<(u32, u32)>,
}

impl Options {
    pub fn read(t: &TcpHeader) -> Options {
        let mut found = Options::default();
        for option in t.options_iterator() {
            match option.unwrap() {
                TcpOptionElement::MaximumSegmentSize(n) => found.mss = Some(n),
                TcpOptionElement::WindowScale(n) => found.scale = Some(n),
                TcpOptionElement::Timestamp(value, echo) => found.stamp = Some((value, echo)),
                TcpOptionElement::SelectiveAcknowledgement(first, others) => {
                    found.blocks = std::iter::once(first).chain(others.into_iter().flatten()).collect();
                }
                _ => {}
            }
        }
        found
    }
}

impl Seen {
    pub fn read(frame: &[u8], offload: Offload) -> Seen {
        let p = PacketHeaders::from_ethernet_slice(frame).unwrap();
        let Some(TransportHeader::Tcp(t)) = p.transport else { panic!("not TCP") };
        let payload = p.payload.slice();
        let checksum = match p.net.unwrap() {
            NetHeaders::Ipv4(ip, _) => {
                assert_eq!(ip.header_checksum, ip.calc_header_checksum());
                t.calc_checksum_ipv4(&ip, payload)
            }
            NetHeaders::Ipv6(ip, _) => t.calc_checksum_ipv6(&ip, payload),
            _ => panic!("not IP"),
        };
        if offload.csum == Csum::Complete {
            assert_eq!(t.checksum, checksum.unwrap(), "checksum");
        }
        let Options { mss, scale, stamp, blocks } = Options::read(&t);
        let flags = [(t.syn, 'S'), (t.fin, 'F'), (t.rst, 'R'), (t.psh, 'P'), (t.ack, '.')];
        assert!(t.syn || t.ack || t.rst, "none of SYN, ACK and RST");
        Seen {
            src_port: t.source_port,
            dst_port: t.destination_port,
            seq: t.sequence_number,
            ack: t.acknowledgment_number,
            flags: flags.iter().filter(|f| f.0).map(|f| f.1).collect(),
            window: t.window_size,
            mss,
            scale,
            stamp,
            blocks,
            payload: payload.to_vec(),
            offload,
            frame: frame.to_vec(),
        }
    }

    pub fn has(&self, flag: char) -> bool {
        self.flags.contains(flag)
    }
}

/// A guest that keeps its numbers and does nothing of itself.
#[derive(Clone)]
pub struct Guest {
    pub v6: bool,
    pub port: u16,
    pub remote: u16,
    pub nxt: u32,
    pub rcv: u32,
    pub window: u16,
    pub mss: u16,
    pub scale: Option<u8>,
    /// Further options of its SYN, and of all other segments.
    pub syn_options: Vec<TcpOptionElement>,
    pub options: Vec<TcpOptionElement>,
    /// What the host's side offers: the right edge, and its shift.
    pub edge: u32,
    pub shift: u8,
}

impl Guest {
    pub fn new(port: u16, server: SocketAddr) -> Guest {
        let v6 = server.is_ipv6();
        // Wraps early.
        let nxt = u32::MAX - 2000;
        let remote = server.port();
        Guest {
            v6,
            port,
            remote,
            nxt,
            rcv: 0,
            window: 65535,
            mss: 1460,
            scale: Some(7),
            syn_options: Vec::new(),
            options: Vec::new(),
            edge: 0,
            shift: 0,
        }
    }

    /// A frame with the flags (as in [`Seen::flags`]), number and payload given.
    pub fn frame_at(&self, flags: &str, seq: u32, payload: &[u8]) -> Vec<u8> {
        let eth = PacketBuilder::ethernet2(GUEST_MAC, OUR_MAC);
        let ip = match self.v6 {
            true => eth.ipv6(GUEST6.octets(), HOST6.octets(), 64),
            false => eth.ipv4(GUEST4.octets(), HOST4.octets(), 64),
        };
        let mut tcp = ip.tcp(self.port, self.remote, seq, self.window);
        let has = |c| flags.contains(c);
        if has('S') {
            let mut options = vec![TcpOptionElement::MaximumSegmentSize(self.mss)];
            options.extend(self.scale.map(TcpOptionElement::WindowScale));
            options.extend(self.syn_options.iter().cloned());
            tcp = tcp.syn().options(&options).unwrap();
        } else {
            tcp = tcp.options(&self.options).unwrap();
        }
        tcp = if has('.') { tcp.ack(self.rcv) } else { tcp };
        tcp = if has('F') { tcp.fin() } else { tcp };
        tcp = if has('R') { tcp.rst() } else { tcp };
        let mut out = Vec::new();
        tcp.write(&mut out, payload).unwrap();
        out
    }

    pub fn frame(&mut self, flags: &str, payload: &[u8]) -> Vec<u8> {
        let f = self.frame_at(flags, self.nxt, payload);
        let one = |c| u32::from(flags.contains(c));
        self.nxt = self.nxt.wrapping_add(payload.len() as u32 + one('S') + one('F'));
        f
    }

    pub fn send(&mut self, w: &mut World, flags: &str, payload: &[u8]) {
        let f = self.frame(flags, payload);
        w.guest_sends(&[f]);
    }

    pub fn ack(&mut self, w: &mut World) {
        self.send(w, ".", b"");
    }

    /// Opens a connection.
    pub fn connect(&mut self, w: &mut World) {
        self.send(w, "S", b"");
        self.connected(w);
    }

    /// Waits for the answer to the SYN.
    pub fn connected(&mut self, w: &mut World) {
        w.until("the SYN-ACK", |w| !w.link.sent.is_empty());
        let s = w.seen().remove(0);
        assert_eq!((s.flags.as_str(), s.ack), ("S.", self.nxt));
        self.rcv = s.seq.wrapping_add(1);
        self.shift = s.scale.unwrap_or(0);
        self.edge = s.ack.wrapping_add(u32::from(s.window));
        self.ack(w);
        w.turn(0);
    }

    /// Answers the SYN of an inbound connection.
    pub fn accept(w: &mut World) -> Guest {
        w.until("the SYN", |w| !w.link.sent.is_empty());
        let s = w.seen().remove(0);
        assert_eq!((s.flags.as_str(), s.ack), ("S", 0));
        let v6 = s.frame[12..14] == [0x86, 0xdd];
        let ip: IpAddr = if v6 { HOST6.into() } else { HOST4.into() };
        let mut g = Guest::new(s.dst_port, SocketAddr::new(ip, s.src_port));
        g.rcv = s.seq.wrapping_add(1);
        g.shift = s.scale.unwrap();
        g.send(w, "S.", b"");
        g
    }

    /// Takes note of what was seen; returns payload in order and what else there was. ACKs nothing.
    pub fn take(&mut self, seen: &[Seen]) -> Vec<u8> {
        let mut data = Vec::new();
        for s in seen {
            if s.has('.') && !s.has('S') && !s.has('R') {
                let edge = s.ack.wrapping_add(u32::from(s.window) << self.shift);
                assert!(edge.wrapping_sub(self.edge) as i32 >= 0, "the window moved left");
                self.edge = edge;
            }
            if s.seq == self.rcv {
                data.extend_from_slice(&s.payload);
                self.rcv = self.rcv.wrapping_add(s.payload.len() as u32 + u32::from(s.has('F')));
            }
        }
        data
    }

    /// Takes all there is to come, `total` bytes, acknowledging each batch.
    pub fn read(&mut self, w: &mut World, total: usize) -> Vec<u8> {
        let mut data = Vec::new();
        let mut me = self.clone();
        w.until("data for the guest", |w| {
            let seen = w.seen();
            let got = me.take(&seen);
            data.extend_from_slice(&got);
            if !got.is_empty() {
                me.ack(w);
            }
            data.len() >= total
        });
        *self = me;
        data
    }

    /// Sends to a server that does not read, until the window stays shut. Returns how much of `data` that was.
    pub fn fill_up(&mut self, w: &mut World, data: &[u8]) -> usize {
        let (mut sent, mut quiet) = (0, 0);
        while quiet < 20 {
            let n = self.fill(w, &data[sent..]);
            sent += n;
            quiet = if n == 0 { quiet + 1 } else { 0 };
            w.turn(1);
        }
        sent
    }

    /// Sends all the window takes now; returns how much of `data` that was.
    pub fn fill(&mut self, w: &mut World, data: &[u8]) -> usize {
        let seen = w.seen();
        self.take(&seen);
        let room = self.edge.wrapping_sub(self.nxt) as i32;
        let n = data.len().min(room.max(0) as usize);
        for part in data[..n].chunks(1460 * 20) {
            let frames: Vec<_> = part.chunks(1460).map(|c| self.frame(".", c)).collect();
            w.guest_sends(&frames);
        }
        n
    }
}

/// Bytes that tell where they stand.
pub fn pattern(len: usize) -> Vec<u8> {
    pattern_from(0, len)
}

/// The same from the middle on.
pub fn pattern_from(at: u64, len: usize) -> Vec<u8> {
    (0..len as u64).map(|i| at.wrapping_add(i).wrapping_mul(0x9E37_79B9_7F4A_7C15).to_le_bytes()[5]).collect()
}
