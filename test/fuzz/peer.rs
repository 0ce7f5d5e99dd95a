//! A guest's side of a TCP connection, and the server's: what each has said is known, and so what each may hear. Every byte of
//! both streams follows from its place.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, TcpListener, TcpStream};
use std::time::Duration;

use etherparse::{PacketBuilder, TcpHeader, TcpOptionElement};

use super::world::Options;

/// Addresses of the two ends of the guest's link.
#[derive(Clone, Copy)]
pub struct Ends {
    pub macs: [[u8; 6]; 2],
    pub v4: [Ipv4Addr; 2],
    pub v6: [Ipv6Addr; 2],
}

/// What a guest hears of a segment.
pub struct Heard<'a> {
    pub seq: u32,
    pub ack: u32,
    pub window: u16,
    pub scale: Option<u8>,
    /// Timestamp and its echo.
    pub stamp: Option<(u32, u32)>,
    /// Parts of the guest's stream that it says to have.
    pub blocks: &'a [(u32, u32)],
    pub syn: bool,
    pub fin: bool,
    pub rst: bool,
    pub has_ack: bool,
    pub payload: &'a [u8],
}

impl<'a> Heard<'a> {
    pub fn of(t: &TcpHeader, options: &'a Options, payload: &'a [u8]) -> Heard<'a> {
        Heard {
            seq: t.sequence_number,
            ack: t.acknowledgment_number,
            window: t.window_size,
            scale: options.scale,
            stamp: options.stamp,
            blocks: &options.blocks,
            syn: t.syn,
            fin: t.fin,
            rst: t.rst,
            has_ack: t.ack,
            payload,
        }
    }
}

/// One connection of the guest, which keeps its numbers, and lies about them when the script says so.
pub struct Peer {
    ends: Ends,
    v6: bool,
    /// The host's side has begun it.
    inbound: bool,
    /// Its own and the server's.
    pub ports: (u16, u16),
    iss: u32,
    nxt: u32,
    /// End of all that it ever sent.
    sent: u32,
    irs: Option<u32>,
    rcv: u32,
    /// End of all that ever came.
    came: u32,
    /// Right edge of all windows it ever offered.
    edge: u32,
    /// Of the SYN that the other side has answered, or will.
    syn_window: u16,
    shift: u8,
    heard_ack: Option<u32>,
    /// Its last connection may have ended with a RST: what follows its next SYN is of another, whose SYN-ACK may be lost.
    heard_rst: bool,
    heard_stamp: u32,
    their_edge: u32,
    their_shift: u8,
    /// The next segment says that it has this of the other's stream, behind what it expects.
    block: Option<(i32, i32)>,
    /// It offers timestamps and SACK, and this is its clock.
    clock: Option<u32>,
    server: Server,
}

/// What listens, or does not, and the connections there were.
struct Server {
    listener: TcpListener,
    sockets: Vec<Connection>,
    /// The most that one of them has written.
    written: usize,
}

struct Connection {
    stream: TcpStream,
    written: usize,
    read: usize,
}

const SHIFT: u8 = 3;
const FLAGS: [&str; 16] = [".", ".", ".", ".P", ".P", ".F", "F", "S", "S.", "R", "R.", "SF", "", "SR", ".U", ".FP"];
const WINDOWS: [u16; 4] = [65535, 0, 1, 3000];

/// A byte of the stream to the server, or to the guest, by its place.
fn pattern(to_server: bool, at: u32) -> u8 {
    (at.wrapping_mul(0x9E37_79B1) >> 19) as u8 ^ if to_server { 0x55 } else { 0 }
}

/// True if `a` comes after `b`.
fn after(a: u32, b: u32) -> bool {
    a.wrapping_sub(b) as i32 > 0
}

fn latest(a: u32, b: u32) -> u32 {
    if after(a, b) { a } else { b }
}

/// None at all, a few bytes, a few segments, or more than a window.
fn offset(code: u8) -> i32 {
    let n = i32::from(code as i8 >> 2);
    n * [0, 1, 1460, 50_000][usize::from(code & 3)]
}

impl Peer {
    pub fn new(ends: Ends, v6: bool, port: u16) -> Peer {
        let ip: IpAddr = if v6 { Ipv6Addr::LOCALHOST.into() } else { Ipv4Addr::LOCALHOST.into() };
        let listener = TcpListener::bind((ip, 0)).expect("a listener");
        listener.set_nonblocking(true).expect("a listener");
        let remote = listener.local_addr().expect("a listener").port();
        // Wraps early.
        let iss = u32::MAX - 5000;
        Peer {
            ends,
            v6,
            inbound: false,
            ports: (port, remote),
            iss,
            nxt: iss,
            sent: iss,
            irs: None,
            rcv: 0,
            came: 0,
            edge: 0,
            syn_window: 0,
            shift: 0,
            heard_ack: None,
            heard_rst: false,
            heard_stamp: 0,
            their_edge: 0,
            their_shift: 0,
            block: None,
            clock: None,
            server: Server { listener, sockets: Vec::new(), written: 0 },
        }
    }

    /// A connection that begins with a client on the host, and what a listener of ours would have accepted.
    pub fn inbound(ends: Ends, v6: bool, port: u16) -> (Peer, TcpStream) {
        let mut peer = Peer::new(ends, v6, port);
        let listener = &peer.server.listener;
        let stream = TcpStream::connect(listener.local_addr().expect("a listener")).expect("a client");
        let accepted = listener.accept().expect("a client").0;
        stream.set_nonblocking(true).expect("a socket");
        peer.ports.1 = stream.local_addr().expect("a client").port();
        peer.server.sockets.push(Connection { stream, written: 0, read: 0 });
        (Peer { inbound: true, ..peer }, accepted)
    }

    /// The same, if somebody else accepts the client.
    pub fn of_client(ends: Ends, v6: bool, port: u16, stream: TcpStream) -> Peer {
        let mut peer = Peer::new(ends, v6, port);
        stream.set_nonblocking(true).expect("a socket");
        peer.ports.1 = stream.local_addr().expect("a client").port();
        peer.server.sockets.push(Connection { stream, written: 0, read: 0 });
        Peer { inbound: true, ..peer }
    }

    /// From its SYN on it knows timestamps and SACK.
    pub fn is_modern(&mut self) {
        // Wraps early as well.
        self.clock = Some(u32::MAX - 20);
    }

    /// One step of a script; returns what the guest sends.
    pub fn step(&mut self, [op, a, b, c]: [u8; 4]) -> Vec<Vec<u8>> {
        let window = WINDOWS[usize::from(c & 3)];
        match op & 7 {
            0..=2 => {
                let len = usize::from(c >> 2) * 23;
                if let (1, Some(clock)) = (op & 7, &mut self.clock) {
                    *clock = clock.wrapping_sub(u32::from(b));
                }
                self.block = (op & 7 == 2).then(|| (offset(a), offset(b)));
                vec![self.segment(FLAGS[usize::from(op >> 3 & 15)], [offset(a), offset(b)], window, len)]
            }
            3 => (0..a & 31).map(|_| self.segment(".", [0, 0], 65535, 1400)).collect(),
            4 | 5 => {
                self.server.act(a & 7, usize::from(b) * 257);
                Vec::new()
            }
            // As a guest does that means no harm.
            _ if self.inbound && self.nxt == self.iss && self.irs.is_some() => {
                vec![self.segment("S.", [0, 0], window, 0)]
            }
            _ if self.irs.is_none() => vec![self.segment("S", [0, 0], window, 0)],
            _ => vec![self.segment(".", [0, 0], window, 0)],
        }
    }

    /// With numbers that are wrong by `off`, sequence and acknowledgment. A SYN has its own number always.
    fn segment(&mut self, flags: &str, off: [i32; 2], window: u16, len: usize) -> Vec<u8> {
        let has = |c| flags.contains(c);
        let seq = if has('S') { self.iss } else { self.nxt.wrapping_add(off[0] as u32) };
        let ack = self.rcv.wrapping_add(off[1] as u32);
        let first = seq.wrapping_sub(self.iss).wrapping_add(u32::from(has('S'))).wrapping_sub(1);
        let payload: Vec<u8> = (0..len as u32).map(|i| pattern(true, first.wrapping_add(i))).collect();
        let end = seq.wrapping_add(len as u32 + u32::from(has('S')) + u32::from(has('F')));
        if (has('S') && self.nxt == self.iss) || (!has('S') && off[0] == 0) {
            self.nxt = end;
        }
        self.sent = latest(end, self.sent);
        if has('S') {
            self.syn_window = self.syn_window.max(window);
            if std::mem::take(&mut self.heard_rst) {
                (self.heard_ack, self.their_edge) = (None, self.iss);
            }
        }
        if has('.') && self.irs.is_some() && !after(ack, self.came) {
            let shift = if has('S') { 0 } else { self.shift };
            self.edge = latest(ack.wrapping_add(u32::from(window) << shift), self.edge);
        }
        self.frame(flags, seq, ack, window, &payload)
    }

    /// The options of a segment that is sent now.
    fn options(&mut self, syn: bool) -> Vec<TcpOptionElement> {
        let mut options = Vec::new();
        if syn {
            options.extend([TcpOptionElement::MaximumSegmentSize(1460), TcpOptionElement::WindowScale(SHIFT)]);
        }
        if let Some(clock) = &mut self.clock {
            *clock = clock.wrapping_add(1);
            options.push(TcpOptionElement::Timestamp(*clock, self.heard_stamp));
            if syn {
                options.push(TcpOptionElement::SelectiveAcknowledgementPermitted);
            }
        }
        if let Some((from, to)) = self.block.take().filter(|_| !syn) {
            let place = |n: i32| self.rcv.wrapping_add(n as u32);
            options.push(TcpOptionElement::SelectiveAcknowledgement((place(from), place(to)), [None; 3]));
        }
        options
    }

    fn frame(&mut self, flags: &str, seq: u32, ack: u32, window: u16, payload: &[u8]) -> Vec<u8> {
        let Ends { macs, v4, v6 } = self.ends;
        let ethernet = PacketBuilder::ethernet2(macs[0], macs[1]);
        let ip = match self.v6 {
            true => ethernet.ipv6(v6[0].octets(), v6[1].octets(), 64),
            false => ethernet.ipv4(v4[0].octets(), v4[1].octets(), 64),
        };
        let has = |c| flags.contains(c);
        let mut tcp = ip.tcp(self.ports.0, self.ports.1, seq, window);
        if has('S') {
            tcp = tcp.syn();
        }
        tcp = tcp.options(&self.options(has('S'))).expect("room for options");
        tcp = if has('.') { tcp.ack(ack) } else { tcp };
        tcp = if has('F') { tcp.fin() } else { tcp };
        tcp = if has('R') { tcp.rst() } else { tcp };
        tcp = if has('P') { tcp.psh() } else { tcp };
        tcp = if has('U') { tcp.urg(1) } else { tcp };
        let mut frame = Vec::new();
        tcp.write(&mut frame, payload).expect("memory takes what is written");
        frame
    }

    /// What comes is in the window, follows from what was said, and takes back nothing.
    pub fn hear(&mut self, s: &Heard<'_>) {
        assert!(s.syn || s.has_ack || s.rst, "none of SYN, ACK and RST");
        if s.has_ack {
            assert!(!after(s.ack, self.sent) || s.rst, "{} is acknowledged, {} was sent", s.ack, self.sent);
        }
        if s.rst {
            self.heard_rst = true;
            return;
        }
        if s.syn {
            self.begin(s);
            return;
        }
        let Some(irs) = self.irs else {
            // The SYN itself was lost, and this is the answer to something that is no answer to it.
            assert!(s.payload.is_empty() && !s.fin, "data before a SYN");
            return;
        };
        assert_eq!(s.stamp.is_some(), self.clock.is_some(), "timestamps are agreed on in SYNs");
        if let Some((value, _)) = s.stamp {
            assert!(!after(self.heard_stamp, value), "the clock went back");
            self.heard_stamp = value;
        }
        for (from, to) in s.blocks {
            assert!(
                self.clock.is_some() && after(*to, *from) && !after(*to, self.sent),
                "{from} to {to} was never sent"
            );
        }
        let place = s.seq.wrapping_sub(irs).wrapping_sub(1);
        let end = s.seq.wrapping_add(s.payload.len() as u32 + u32::from(s.fin));
        // A probe goes a byte beyond.
        assert!(!after(end, self.edge.wrapping_add(1)), "up to {end}, the window ends at {}", self.edge);
        if !s.payload.is_empty() {
            assert!(!after(irs.wrapping_add(1), s.seq));
            assert!(place as usize + s.payload.len() <= self.server.written, "more than there is");
            let right = |(i, byte): (usize, &u8)| *byte == pattern(false, place.wrapping_add(i as u32));
            assert!(s.payload.iter().enumerate().all(right), "other bytes than were written, from {place} on");
        }
        let heard = self.heard_ack.unwrap_or(s.ack);
        assert!(!after(heard, s.ack), "the acknowledgment moved left, from {heard} to {}", s.ack);
        self.heard_ack = Some(s.ack);
        let edge = s.ack.wrapping_add(u32::from(s.window) << self.their_shift);
        assert!(!after(self.their_edge, edge), "the window moved left, from {} to {edge}", self.their_edge);
        self.their_edge = edge;
        self.came = latest(end, self.came);
        if s.seq == self.rcv {
            self.rcv = end;
        }
    }

    fn begin(&mut self, s: &Heard<'_>) {
        assert!(s.payload.is_empty() && !s.fin);
        // Two that open at once answer each other's SYN.
        assert!(s.has_ack || self.inbound, "a SYN that nobody asked for");
        assert_eq!(s.ack, if s.has_ack { self.iss.wrapping_add(1) } else { 0 });
        if self.irs == Some(s.seq) {
            return;
        }
        self.irs = Some(s.seq);
        self.heard_stamp = s.stamp.map_or(0, |stamp| stamp.0);
        self.rcv = s.seq.wrapping_add(1);
        self.came = self.rcv;
        self.edge = self.rcv.wrapping_add(u32::from(self.syn_window));
        self.heard_ack = s.has_ack.then_some(s.ack);
        self.their_shift = s.scale.unwrap_or(0);
        self.shift = if s.scale.is_some() { SHIFT } else { 0 };
        self.their_edge = if s.has_ack { s.ack.wrapping_add(u32::from(s.window)) } else { self.iss };
    }

    /// Nothing waits any more: all sockets go, with resets.
    pub fn hang_up(&mut self) {
        self.server.act(0, 0);
        self.server.sockets.drain(..).for_each(|c| reset(&c.stream));
    }
}

impl Server {
    fn act(&mut self, what: u8, n: usize) {
        while let Ok((stream, _)) = self.listener.accept() {
            stream.set_nonblocking(true).expect("a socket");
            self.sockets.push(Connection { stream, written: 0, read: 0 });
        }
        let Some(connection) = self.sockets.last_mut() else { return };
        match what {
            0..=2 => connection.read(),
            3..=5 => {
                connection.write(n);
                self.written = self.written.max(connection.written);
            }
            6 => drop(connection.stream.shutdown(Shutdown::Write)),
            _ => {
                reset(&connection.stream);
                self.sockets.pop();
            }
        }
    }
}

fn reset(stream: &TcpStream) {
    let _ = socket2::SockRef::from(stream).set_linger(Some(Duration::ZERO));
}

impl Connection {
    /// What the guest said, from the start, without a gap.
    fn read(&mut self) {
        let mut room = [0; 16 << 10];
        while let Ok(n) = self.stream.read(&mut room) {
            if n == 0 {
                break;
            }
            let right = |(i, byte): (usize, &u8)| *byte == pattern(true, (self.read + i) as u32);
            assert!(room[..n].iter().enumerate().all(right), "other bytes than the guest's, from {} on", self.read);
            self.read += n;
        }
    }

    fn write(&mut self, n: usize) {
        let bytes: Vec<u8> = (0..n).map(|i| pattern(false, (self.written + i) as u32)).collect();
        self.written += self.stream.write(&bytes).unwrap_or(0);
    }
}
