//! From the tap to the socket: a batch of frames, cut to segments where asked, and sent as far as the socket takes it.

use std::fs::File;
use std::io::{ErrorKind, IoSlice, IoSliceMut, Read, Result};

use arrayvec::ArrayVec;
use spelt::wire::checksum::Sum;
use spelt::wire::vnet::{self, VNET_LEN};
use spelt::wire::{Csum, FRAME_MAX, Gso};

use super::socket::{self, Socket};
use super::{Form, PREFIX};

/// One batch, and what was counted.
pub struct ToProgram {
    form: Form,
    /// Frames as they came, each behind room for its length.
    room: Vec<u8>,
    used: usize,
    /// Lengths and headers of the segments that frames were cut into.
    heads: Vec<u8>,
    frames: Vec<Frame>,
    /// The first frame that is not wholly sent, and how much of it is.
    next: usize,
    offset: usize,
    count: Count,
}

/// A frame with its length in front: a head in one of two places, and a payload in the room.
#[derive(Clone, Copy)]
struct Frame {
    head: Part,
    payload: Part,
}

#[derive(Clone, Copy)]
struct Part {
    of: Memory,
    start: usize,
    end: usize,
}

#[derive(Clone, Copy, PartialEq)]
enum Memory {
    Room,
    Heads,
}

#[derive(Default)]
struct Count {
    frames: u64,
    bytes: u64,
    reads: u64,
    writes: u64,
    /// Frames of the guest that were cut.
    cut: u64,
    /// How often the socket did not take all.
    waits: u64,
    /// Frames no socket of this kind can take.
    refused: u64,
}

impl ToProgram {
    pub fn new(form: Form) -> ToProgram {
        ToProgram {
            form,
            room: vec![0; BATCH_BYTES + PREFIX + FRAME_MAX],
            used: 0,
            heads: Vec::new(),
            frames: Vec::new(),
            next: 0,
            offset: 0,
            count: Count::default(),
        }
    }

    /// Whether everything taken is with the program.
    pub fn is_empty(&self) -> bool {
        self.next == self.frames.len()
    }

    /// Reads frames until the tap is empty or the batch full. The previous batch must be gone.
    pub fn take(&mut self, tap: &File) -> Result<()> {
        self.frames.clear();
        self.heads.clear();
        (self.used, self.next, self.offset) = (0, 0, 0);
        while self.used < BATCH_BYTES && self.frames.len() < BATCH_FRAMES {
            let mut header = [0; VNET_LEN];
            let mut parts = [IoSliceMut::new(&mut header), IoSliceMut::new(&mut self.room[self.used + PREFIX..])];
            self.count.reads += 1;
            let n = match (&*tap).read_vectored(&mut parts) {
                Ok(n) => n,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            if let Some(len) = n.checked_sub(VNET_LEN) {
                self.push(len, &header);
            }
        }
        Ok(())
    }

    /// The next `len` bytes of the room, behind the place for the length, are a frame.
    fn push(&mut self, len: usize, header: &[u8; VNET_LEN]) {
        let at = self.used + PREFIX;
        let offload = vnet::read(header).expect("the tap was asked for nothing else");
        if let (Csum::Partial { start, offset }, Gso::Tcp(size)) = (offload.csum, offload.gso)
            && self.form.cut
        {
            self.cut(at, len, usize::from(start), usize::from(offset), usize::from(size));
        } else {
            if let Csum::Partial { start, offset } = offload.csum
                && self.form.sum
            {
                finish(&mut self.room[at..at + len], usize::from(start), usize::from(offset));
            }
            self.room[self.used..at].copy_from_slice(&(len as u32).to_be_bytes());
            let none = Part { of: Memory::Room, start: at + len, end: at + len };
            self.frames.push(Frame { head: Part { start: self.used, ..none }, payload: none });
        }
        self.used = at + len;
    }

    /// Cuts a TCP frame at `at` into segments of `size` payload bytes. `tcp`: where its TCP header starts; `sum_at`:
    /// where the checksum is in that.
    fn cut(&mut self, at: usize, len: usize, tcp: usize, sum_at: usize, size: usize) {
        let mut common = Common::of(&self.room[at..at + len], tcp, sum_at);
        let head_len = common.head.len();
        for from in (head_len..len).step_by(size) {
            let to = (from + size).min(len);
            let payload = &self.room[at + from..at + to];
            let start = self.heads.len();
            self.heads.extend_from_slice(&((head_len + payload.len()) as u32).to_be_bytes());
            self.heads.extend_from_slice(common.next(payload, to == len, self.form.sum));
            let end = self.heads.len();
            self.frames.push(Frame {
                head: Part { of: Memory::Heads, start, end },
                payload: Part { of: Memory::Room, start: at + from, end: at + to },
            });
        }
        self.count.cut += 1;
    }

    /// Sends what the socket takes.
    pub fn send(&mut self, socket: &mut Socket) -> Result<()> {
        while !self.is_empty() {
            self.count.writes += 1;
            let sent = match socket.is_stream() {
                true => socket.send_bytes(&self.gather()),
                false => socket.send_frames(&self.datagrams()),
            };
            match sent {
                Ok(n) if socket.is_stream() => self.sent_bytes(n),
                Ok(n) => self.sent_frames(n),
                Err(error) if error.raw_os_error() == Some(libc::EMSGSIZE) => {
                    self.count.refused += 1;
                    self.next += 1;
                }
                Err(error) => {
                    self.count.waits += u64::from(error.kind() == ErrorKind::WouldBlock);
                    return Err(error);
                }
            }
        }
        Ok(())
    }

    fn gather(&self) -> ArrayVec<IoSlice<'_>, PARTS> {
        let mut slices = ArrayVec::new();
        let mut last: Option<Part> = None;
        let mut skip = self.offset;
        for part in self.frames[self.next..].iter().flat_map(|frame| [frame.head, frame.payload]) {
            let from = part.start + skip.min(part.len());
            skip -= from - part.start;
            if from == part.end {
                continue;
            }
            match &mut last {
                Some(last) if last.of == part.of && last.end == from => last.end = part.end,
                Some(last) => {
                    slices.push(IoSlice::new(self.bytes(*last)));
                    *last = Part { start: from, ..part };
                    // One place stays for what is at hand.
                    if slices.len() == PARTS - 1 {
                        break;
                    }
                }
                None => last = Some(Part { start: from, ..part }),
            }
        }
        slices.extend(last.map(|last| IoSlice::new(self.bytes(last))));
        slices
    }

    fn sent_bytes(&mut self, count: usize) {
        self.offset += count;
        while let Some(frame) = self.frames.get(self.next)
            && self.offset >= frame.len()
        {
            self.offset -= frame.len();
            self.count.bytes += (frame.len() - PREFIX) as u64;
            self.count.frames += 1;
            self.next += 1;
        }
    }

    fn datagrams(&self) -> ArrayVec<[IoSlice<'_>; 2], { socket::FRAMES }> {
        let slices =
            |frame: &Frame| [IoSlice::new(&self.bytes(frame.head)[PREFIX..]), IoSlice::new(self.bytes(frame.payload))];
        self.frames[self.next..].iter().take(socket::FRAMES).map(slices).collect()
    }

    fn sent_frames(&mut self, count: usize) {
        let sent = &self.frames[self.next..self.next + count];
        self.count.bytes += sent.iter().map(|frame| (frame.len() - PREFIX) as u64).sum::<u64>();
        self.count.frames += count as u64;
        self.next += count;
    }

    fn bytes(&self, part: Part) -> &[u8] {
        let memory = match part.of {
            Memory::Room => &self.room,
            Memory::Heads => &self.heads,
        };
        &memory[part.start..part.end]
    }

    pub fn json(&self) -> String {
        let Count { frames, bytes, reads, writes, cut, waits, refused } = self.count;
        format!(
            r#"{{"frames":{frames},"bytes":{bytes},"reads":{reads},"writes":{writes},{}}}"#,
            format_args!(r#""cut":{cut},"waits":{waits},"refused":{refused}"#)
        )
    }
}

impl Frame {
    fn len(&self) -> usize {
        self.head.len() + self.payload.len()
    }
}

impl Part {
    fn len(&self) -> usize {
        self.end - self.start
    }
}

/// The headers of a frame that is cut, and sums over what all its segments have in common.
struct Common {
    head: ArrayVec<u8, HEAD_MAX>,
    tcp: usize,
    sum_at: usize,
    is_v6: bool,
    id: u16,
    seq: u32,
    flags: [u8; 2],
    /// Of the IPv4 header without length, identification and checksum.
    ip_sum: Sum,
    /// Of the pseudo-header without the length.
    pseudo_sum: Sum,
    /// Of the TCP header without sequence, flags and checksum.
    tcp_sum: Sum,
}

impl Common {
    fn of(frame: &[u8], tcp: usize, sum_at: usize) -> Common {
        let mut head: ArrayVec<u8, HEAD_MAX> = ArrayVec::new();
        let head_len = tcp + usize::from(frame[tcp + 12] >> 4) * 4;
        head.try_extend_from_slice(&frame[..head_len]).expect("no more than all headers there are");
        let is_v6 = frame[12..14] == [0x86, 0xdd];
        let id = u16::from_be_bytes([frame[18], frame[19]]);
        let seq = u32::from_be_bytes(frame[tcp + 4..tcp + 8].try_into().expect("four bytes"));
        let flags = [frame[tcp + 12], frame[tcp + 13]];
        let mut ip_sum = Sum::new();
        if !is_v6 {
            head[16..20].fill(0);
            head[24..26].fill(0);
            ip_sum = ip_sum.add(&head[14..tcp]);
        }
        let pseudo_sum = Sum::new().add(&frame[if is_v6 { 22..54 } else { 26..34 }]).add_u16(6);
        head[tcp + 4..tcp + 8].fill(0);
        head[tcp + 12..tcp + 14].fill(0);
        head[tcp + sum_at..tcp + sum_at + 2].fill(0);
        let tcp_sum = pseudo_sum.add(&head[tcp..]);
        Common { head, tcp, sum_at, is_v6, id, seq, flags, ip_sum, pseudo_sum, tcp_sum }
    }

    /// The headers of the next segment.
    fn next(&mut self, payload: &[u8], is_last: bool, sum: bool) -> &[u8] {
        let (head, tcp) = (&mut self.head, self.tcp);
        let tcp_len = head.len() - tcp + payload.len();
        if self.is_v6 {
            head[18..20].copy_from_slice(&((tcp - 54 + tcp_len) as u16).to_be_bytes());
        } else {
            let ip_len = (tcp - 14 + tcp_len) as u16;
            head[16..18].copy_from_slice(&ip_len.to_be_bytes());
            head[18..20].copy_from_slice(&self.id.to_be_bytes());
            let sum = self.ip_sum.add_u16(ip_len).add_u16(self.id).checksum();
            head[24..26].copy_from_slice(&sum.to_be_bytes());
        }
        let mut flags = self.flags;
        flags[1] &= if is_last { !0 } else { !(FIN | PSH) };
        head[tcp + 4..tcp + 8].copy_from_slice(&self.seq.to_be_bytes());
        head[tcp + 12..tcp + 14].copy_from_slice(&flags);
        let sum = if sum {
            let head = self.tcp_sum.add_u32(tcp_len as u32).add_u32(self.seq).add_u16(u16::from_be_bytes(flags));
            head.add(payload).checksum()
        } else {
            self.pseudo_sum.add_u32(tcp_len as u32).folded()
        };
        head[tcp + self.sum_at..tcp + self.sum_at + 2].copy_from_slice(&sum.to_be_bytes());
        self.id = self.id.wrapping_add(1);
        self.seq = self.seq.wrapping_add(payload.len() as u32);
        // Of all segments the first alone says that the congestion window was reduced (RFC 3168 §6.1.2).
        self.flags[1] &= !CWR;
        head
    }
}

/// Sums from `start` to the end of the frame, where the pseudo-header's sum stands in the field.
fn finish(frame: &mut [u8], start: usize, offset: usize) {
    let field = start + offset;
    if field + 2 > frame.len() {
        return;
    }
    // A datagram's sum of 0 would mean that there is none (RFC 768); for TCP both forms of zero are the same.
    let sum = match Sum::new().add(&frame[start..]).checksum() {
        0 => 0xffff,
        sum => sum,
    };
    frame[field..field + 2].copy_from_slice(&sum.to_be_bytes());
}

/// Ethernet, IP with all options, and TCP with all options.
const HEAD_MAX: usize = 14 + 60 + 60;

const FIN: u8 = 0x01;
const PSH: u8 = 0x08;
const CWR: u8 = 0x80;

/// A batch ends once it has this many bytes: worth one system call, and still in the second-level cache when it goes.
const BATCH_BYTES: usize = 256 << 10;
const BATCH_FRAMES: usize = 512;
/// The most parts one system call takes (IOV_MAX).
const PARTS: usize = 1024;
