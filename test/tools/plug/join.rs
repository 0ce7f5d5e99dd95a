//! What comes from the program goes to the tap; consecutive segments of a flow may do so as one.

use std::fs::File;
use std::io::{IoSlice, Write};
use std::ops::Range;

use arrayvec::ArrayVec;
use spelt::wire::checksum::Sum;
use spelt::wire::vnet::{self, VNET_LEN, VNET_V1_LEN};
use spelt::wire::{Csum, ETH_LEN, Gso, Offload};

/// Writes frames to the tap; the last ones may still be waiting to become one.
pub struct Output<'a> {
    tap: &'a File,
    /// Bytes of the tap's header behind those that are always there.
    more: usize,
    train: Option<Train<'a>>,
    count: &'a mut Written,
}

/// What was counted.
#[derive(Default)]
pub struct Written {
    pub writes: u64,
    /// Frames the tap did not take: its interface is down.
    pub refused: u64,
}

/// Segments of one flow, each where the one before it ends.
struct Train<'a> {
    first: Segment<'a>,
    payloads: ArrayVec<IoSlice<'a>, PARTS>,
    payload_bytes: usize,
    /// A short or pushed segment is the last.
    ended: bool,
    pushed: bool,
}

impl<'a> Output<'a> {
    /// For a tap with headers of `header_len` bytes.
    pub fn new(tap: &'a File, header_len: usize, count: &'a mut Written) -> Output<'a> {
        Output { tap, more: header_len - VNET_LEN, train: None, count }
    }

    /// Whatever `write` writes to the tap goes behind what was given before.
    pub fn other(&mut self, write: impl FnOnce(&File) -> std::io::Result<usize>) {
        self.flush();
        self.count.writes += 1;
        self.count.refused += u64::from(write(self.tap).is_err());
    }

    pub fn whole(&mut self, frame: &[u8]) {
        self.flush();
        self.write(&[IoSlice::new(&[0; VNET_V1_LEN][..VNET_LEN + self.more]), IoSlice::new(frame)]);
    }

    pub fn join(&mut self, segment: Segment<'a>) {
        match &mut self.train {
            Some(train) if train.takes(&segment) => train.push(&segment),
            _ => {
                self.flush();
                self.train = Some(Train::new(segment));
            }
        }
    }

    /// Nothing comes behind what was given.
    pub fn finish(mut self) {
        self.flush();
    }

    fn flush(&mut self) {
        let Some(train) = self.train.take() else { return };
        let (header, head) = train.head();
        let mut parts: ArrayVec<_, { PARTS + 3 }> = ArrayVec::new();
        parts.push(IoSlice::new(&header));
        parts.push(IoSlice::new(&[0; VNET_V1_LEN - VNET_LEN][..self.more]));
        parts.push(IoSlice::new(&head));
        parts.extend(train.payloads);
        self.write(&parts);
    }

    /// A tap takes every frame at once, or refuses it for good: nothing to wait for.
    fn write(&mut self, parts: &[IoSlice]) {
        self.count.writes += 1;
        self.count.refused += u64::from(self.tap.write_vectored(parts).is_err());
    }
}

impl<'a> Train<'a> {
    fn new(first: Segment<'a>) -> Train<'a> {
        let mut train = Train { first, payloads: ArrayVec::new(), payload_bytes: 0, ended: false, pushed: false };
        train.push(&first);
        train
    }

    fn takes(&self, segment: &Segment) -> bool {
        let len = self.payload_bytes + segment.payload.len();
        !self.ended
            && !self.payloads.is_full()
            && segment.payload.len() <= self.first.payload.len()
            && self.first.head.len() - ETH_LEN + len <= usize::from(u16::MAX)
            && segment.seq == self.first.seq.wrapping_add(self.payload_bytes as u32)
            && segment.is_like(&self.first)
    }

    fn push(&mut self, segment: &Segment<'a>) {
        self.payloads.push(IoSlice::new(segment.payload));
        self.payload_bytes += segment.payload.len();
        self.pushed = segment.head[segment.tcp + FLAGS] & PSH != 0;
        self.ended = self.pushed || segment.payload.len() < self.first.payload.len();
    }

    /// The virtio-net header and the frame's own headers of all as one. Its checksum counts as verified.
    fn head(&self) -> ([u8; VNET_LEN], ArrayVec<u8, HEAD_MAX>) {
        let tcp = self.first.tcp;
        let mut head: ArrayVec<u8, HEAD_MAX> = self.first.head.iter().copied().collect();
        let tcp_len = head.len() - tcp + self.payload_bytes;
        let addresses = if self.first.is_v6 {
            head[18..20].copy_from_slice(&(tcp_len as u16).to_be_bytes());
            22..54
        } else {
            head[16..18].copy_from_slice(&((tcp - ETH_LEN + tcp_len) as u16).to_be_bytes());
            head[24..26].fill(0);
            let sum = Sum::new().add(&head[ETH_LEN..tcp]).checksum();
            head[24..26].copy_from_slice(&sum.to_be_bytes());
            26..34
        };
        head[tcp + FLAGS] |= if self.pushed { PSH } else { 0 };
        let pseudo = Sum::new().add(&head[addresses]).add_u16(6).add_u32(tcp_len as u32).folded();
        head[tcp + CHECKSUM..tcp + CHECKSUM + 2].copy_from_slice(&pseudo.to_be_bytes());
        let csum = Csum::Partial { start: tcp as u16, offset: CHECKSUM as u16 };
        let gso = if self.payloads.len() > 1 { Gso::Tcp(self.first.payload.len() as u16) } else { Gso::None };
        let offload = Offload { csum, gso };
        (vnet::write(&offload, self.first.is_v6, head.len()), head)
    }
}

/// A TCP segment that may become part of a larger one: data and an acknowledgement, nothing special.
#[derive(Clone, Copy)]
pub struct Segment<'a> {
    is_v6: bool,
    /// Where the TCP header starts.
    tcp: usize,
    /// All headers.
    head: &'a [u8],
    payload: &'a [u8],
    seq: u32,
}

impl<'a> Segment<'a> {
    pub fn of(frame: &'a [u8]) -> Option<Segment<'a>> {
        let be16 = |at: usize| usize::from(u16::from_be_bytes([frame[at], frame[at + 1]]));
        if frame.len() < 14 + 20 + 20 {
            return None;
        }
        let (is_v6, tcp, end) = match (be16(12), frame[14]) {
            // No options, no fragment, TCP.
            (0x0800, 0x45) if be16(20) & 0x3fff == 0 && frame[23] == 6 => (false, 34, 14 + be16(16)),
            (0x86dd, _) if frame[20] == 6 => (true, 54, 54 + be16(18)),
            _ => return None,
        };
        let doff = frame.get(tcp + 12)? >> 4;
        let head_len = tcp + usize::from(doff) * 4;
        if doff < 5 || end > frame.len() || head_len >= end || frame[tcp + FLAGS] & !PSH != ACK {
            return None;
        }
        let seq = u32::from_be_bytes(frame[tcp + 4..tcp + 8].try_into().expect("four bytes"));
        Some(Segment { is_v6, tcp, head: &frame[..head_len], payload: &frame[head_len..end], seq })
    }

    /// Whether the headers differ in nothing but lengths, sums, sequence, identification and PSH.
    fn is_like(&self, other: &Segment) -> bool {
        let (one, other, tcp) = (self.head, other.head, self.tcp);
        let same = |range: Range<usize>| one[range.clone()] == other[range];
        one.len() == other.len()
            && same(0..16)
            && if tcp == 54 { same(16..18) && same(20..54) } else { same(20..24) && same(26..34) }
            && same(tcp..tcp + 4)
            && same(tcp + 8..tcp + FLAGS)
            && same(tcp + 14..tcp + CHECKSUM)
            && same(tcp + 18..one.len())
    }
}

/// Of a TCP header.
const FLAGS: usize = 13;
const CHECKSUM: usize = 16;
const PSH: u8 = 0x08;
const ACK: u8 = 0x10;

/// Segments of one frame at most.
const PARTS: usize = 128;
/// Ethernet, IPv6, and TCP with every option there is room for.
const HEAD_MAX: usize = 14 + 40 + 60;
