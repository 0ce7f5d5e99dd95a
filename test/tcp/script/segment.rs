//! Segments as scripts speak of them: what a line says, what comes out of a frame, and whether the two agree.

use std::fmt;

use etherparse::{PacketBuilder, PacketHeaders, TcpOptionElement, TransportHeader};
use spelt::wire::Gso;

use crate::world::{GUEST_MAC, GUEST4, GUEST6, HOST4, HOST6, OUR_MAC, Seen};

pub const FIN: u8 = 1;
pub const SYN: u8 = 2;
pub const RST: u8 = 4;
pub const PSH: u8 = 8;
pub const ACK: u8 = 16;
pub const URG: u8 = 32;

/// Names of the control bits, from the lowest.
pub const FLAGS: [&str; 8] = ["FIN", "SYN", "RST", "PSH", "ACK", "URG", "ECE", "CWR"];

/// A sequence number or a timestamp.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Number {
    /// From the initial one on.
    Relative(i64),
    /// As on the wire.
    Absolute(u32),
    /// From the highest one on that was sent.
    Next(i64),
    /// The latest of a guest's echoes; whatever it is in a segment of the engine.
    Latest,
}

/// What a line says of the window field.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Window {
    Is(u16),
    AtLeast(u16),
    Below(u16),
}

/// What a line says of an option.
#[derive(Clone, Debug, PartialEq)]
pub enum Said<T> {
    /// Nothing: a guest leaves it out, an engine may do as it likes.
    Unmentioned,
    Absent,
    Is(T),
}

impl<T> Said<T> {
    pub fn given(&self) -> Option<&T> {
        if let Said::Is(t) = self { Some(t) } else { None }
    }
}

/// A segment of a script, of either side.
#[derive(Clone, Debug)]
pub struct Segment {
    pub flags: u8,
    /// Where it starts and ends; SYN and FIN are not counted.
    pub seq: Option<(Number, Number)>,
    pub ack: Option<Number>,
    pub window: Option<Window>,
    /// `None`: what the link carries.
    pub mss: Said<Option<u16>>,
    pub scale: Said<u8>,
    pub sack_ok: Said<()>,
    pub stamps: Said<(Number, Number)>,
    pub sacks: Said<Vec<(Number, Number)>>,
    pub urgent: Option<u16>,
    /// Options byte by byte, behind the others.
    pub raw: Vec<u8>,
    /// Segment size of a super-frame of the guest.
    pub gso: Option<u16>,
    pub source_port: Option<u16>,
    pub destination_port: Option<u16>,
    /// The engine begins another connection: numbers count from this SYN on.
    pub anew: bool,
    /// This SYN's number is higher than any the connection before it has used.
    pub beyond: bool,
}

impl Segment {
    pub fn new(flags: u8) -> Segment {
        Segment {
            flags,
            seq: None,
            ack: None,
            window: None,
            mss: Said::Unmentioned,
            scale: Said::Unmentioned,
            sack_ok: Said::Unmentioned,
            stamps: Said::Unmentioned,
            sacks: Said::Unmentioned,
            urgent: None,
            raw: Vec::new(),
            gso: None,
            source_port: None,
            destination_port: None,
            anew: false,
            beyond: false,
        }
    }

    pub fn has(&self, flags: u8) -> bool {
        self.flags & flags == flags
    }
}

/// A segment with all its numbers as on the wire.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Came {
    pub flags: u8,
    pub seq: u32,
    pub ack: u32,
    pub window: u16,
    pub urgent: u16,
    pub mss: Option<u16>,
    pub scale: Option<u8>,
    pub sack_ok: bool,
    pub stamps: Option<(u32, u32)>,
    pub sacks: Vec<(u32, u32)>,
    pub options_len: usize,
    pub payload: Vec<u8>,
}

impl Came {
    pub fn has(&self, flags: u8) -> bool {
        self.flags & flags == flags
    }

    /// The number behind the last one that it takes.
    pub fn end(&self) -> u32 {
        let bits = u32::from(self.has(SYN)) + u32::from(self.has(FIN));
        self.seq.wrapping_add(self.payload.len() as u32 + bits)
    }

    /// The segments of a frame of the engine, super-frames cut as the guest's card would.
    pub fn read(seen: &Seen) -> Result<Vec<Came>, String> {
        let headers = PacketHeaders::from_ethernet_slice(&seen.frame).map_err(|e| e.to_string())?;
        let Some(TransportHeader::Tcp(t)) = headers.transport else { return Err("not TCP".to_owned()) };
        let bits = [t.fin, t.syn, t.rst, t.psh, t.ack, t.urg, t.ece, t.cwr];
        let mut whole = Came {
            flags: bits.iter().enumerate().map(|(n, b)| u8::from(*b) << n).sum(),
            seq: t.sequence_number,
            ack: t.acknowledgment_number,
            window: t.window_size,
            urgent: t.urgent_pointer,
            options_len: t.options.len(),
            ..Came::default()
        };
        for option in t.options_iterator() {
            match option.map_err(|e| format!("option: {e}"))? {
                TcpOptionElement::Noop => {}
                TcpOptionElement::MaximumSegmentSize(n) => whole.mss = Some(n),
                TcpOptionElement::WindowScale(n) => whole.scale = Some(n),
                TcpOptionElement::SelectiveAcknowledgementPermitted => whole.sack_ok = true,
                TcpOptionElement::Timestamp(v, e) => whole.stamps = Some((v, e)),
                TcpOptionElement::SelectiveAcknowledgement(first, rest) => {
                    whole.sacks = [Some(first)].into_iter().chain(rest).flatten().collect();
                }
            }
        }
        let size = match seen.offload.gso {
            Gso::Tcp(size) => usize::from(size),
            _ => seen.payload.len().max(1),
        };
        let mut out: Vec<Came> = Vec::new();
        for part in seen.payload.chunks(size) {
            let seq = whole.seq.wrapping_add(out.iter().map(|c| c.payload.len() as u32).sum());
            // These two bits belong to the last one.
            out.push(Came { seq, flags: whole.flags & !(PSH | FIN), payload: part.to_vec(), ..whole.clone() });
        }
        match out.last_mut() {
            Some(last) => last.flags = whole.flags,
            None => out.push(whole),
        }
        Ok(out)
    }

    /// The frame of a guest.
    pub fn frame(&self, v6: bool, ports: (u16, u16), raw: &[u8]) -> Vec<u8> {
        let eth = PacketBuilder::ethernet2(GUEST_MAC, OUR_MAC);
        let ip = match v6 {
            true => eth.ipv6(GUEST6.octets(), HOST6.octets(), 64),
            false => eth.ipv4(GUEST4.octets(), HOST4.octets(), 64),
        };
        let mut tcp = ip.tcp(ports.0, ports.1, self.seq, self.window);
        tcp = if self.has(FIN) { tcp.fin() } else { tcp };
        tcp = if self.has(SYN) { tcp.syn() } else { tcp };
        tcp = if self.has(RST) { tcp.rst() } else { tcp };
        tcp = if self.has(PSH) { tcp.psh() } else { tcp };
        tcp = if self.has(ACK) { tcp.ack(self.ack) } else { tcp };
        tcp = if self.has(URG) { tcp.urg(self.urgent) } else { tcp };
        tcp = if self.has(1 << 6) { tcp.ece() } else { tcp };
        tcp = if self.has(1 << 7) { tcp.cwr() } else { tcp };
        let mut out = Vec::new();
        let options = [&self.options()[..], raw].concat();
        tcp.options_raw(&options).expect("options fit").write(&mut out, &self.payload).expect("a frame");
        out
    }

    /// Padded with no-operations in front, so that raw ones stand behind and a list they break has been read.
    fn options(&self) -> Vec<u8> {
        let mut o = Vec::new();
        if let Some(mss) = self.mss {
            o.extend([2, 4]);
            o.extend(mss.to_be_bytes());
        }
        if let Some(scale) = self.scale {
            o.extend([3, 3, scale]);
        }
        if self.sack_ok {
            o.extend([4, 2]);
        }
        if let Some((value, echo)) = self.stamps {
            o.extend([8, 10]);
            o.extend(value.to_be_bytes());
            o.extend(echo.to_be_bytes());
        }
        if !self.sacks.is_empty() {
            o.extend([5, 2 + 8 * self.sacks.len() as u8]);
            for (a, b) in &self.sacks {
                o.extend(a.to_be_bytes());
                o.extend(b.to_be_bytes());
            }
        }
        let pad = o.len().wrapping_neg() % 4;
        [vec![1; pad], o].concat()
    }
}

impl Came {
    /// Takes note of options byte by byte, as RFC 9293 §3.2 lets a receiver read them.
    pub fn heed(&mut self, mut raw: &[u8]) {
        while let [kind, rest @ ..] = raw {
            let len = match (kind, rest) {
                (0, _) => return,
                (1, _) => 1,
                (_, [len, ..]) if *len >= 2 && usize::from(*len) <= raw.len() => usize::from(*len),
                _ => return,
            };
            let word = |at: usize| raw[at..at + 4].iter().fold(0, |n, b| n << 8 | u32::from(*b));
            match (kind, len) {
                (2, 4) => self.mss = Some(u16::from_be_bytes([raw[2], raw[3]])),
                (3, 3) => self.scale = Some(raw[2]),
                (4, 2) => self.sack_ok = true,
                (8, 10) => self.stamps = Some((word(2), word(6))),
                _ => {}
            }
            raw = &raw[len..];
        }
    }
}

/// How the numbers of both directions are told to people.
#[derive(Clone, Copy, Debug, Default)]
pub struct Bases {
    pub seq: u32,
    pub ack: u32,
    pub stamp: u32,
    pub echo: u32,
}

/// A segment in the words of a script.
pub struct Told<'a>(pub &'a Came, pub Bases);

impl fmt::Display for Told<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Told(c, b) = self;
        let names: Vec<&str> = (0..8).filter(|n| c.flags >> n & 1 == 1).map(|n| FLAGS[n]).collect();
        write!(f, "{}", if names.is_empty() { "none".to_owned() } else { names.join("+") })?;
        let rel = |n: u32, base: u32| i64::from(n.wrapping_sub(base) as i32);
        write!(f, " seq {}", rel(c.seq, b.seq))?;
        if !c.payload.is_empty() {
            write!(f, "..{}", rel(c.seq, b.seq) + c.payload.len() as i64)?;
        }
        if c.has(ACK) {
            write!(f, " ack {}", rel(c.ack, b.ack))?;
        }
        write!(f, " win {}", c.window)?;
        if let Some(mss) = c.mss {
            write!(f, " mss {mss}")?;
        }
        if let Some(scale) = c.scale {
            write!(f, " wscale {scale}")?;
        }
        if c.sack_ok {
            write!(f, " sackok")?;
        }
        if let Some((value, echo)) = c.stamps {
            write!(f, " ts {} {}", rel(value, b.stamp), rel(echo, b.echo))?;
        }
        for (n, (from, to)) in c.sacks.iter().enumerate() {
            let word = if n == 0 { " sack" } else { "" };
            write!(f, "{word} {}-{}", rel(*from, b.ack), rel(*to, b.ack))?;
        }
        Ok(())
    }
}
