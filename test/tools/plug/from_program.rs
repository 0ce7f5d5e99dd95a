//! From the socket to the tap: whole frames out of what has come, and consecutive segments of a flow as one.

use std::fs::File;
use std::io::{Error, ErrorKind, Result};
use std::ops::Range;

use spelt::wire::vnet::VNET_LEN;
use spelt::wire::{ETH_LEN, FRAME_MAX};

use super::PREFIX;
use super::join::{Output, Segment, Written};
use super::socket::{self, Socket};

/// What has come and is not at the guest yet, and what was counted.
pub struct FromProgram {
    join: bool,
    room: Vec<u8>,
    /// On a stream: bytes of an unfinished frame.
    held: Range<usize>,
    lengths: Vec<usize>,
    frames: Vec<Range<usize>>,
    count: Count,
    written: Written,
}

#[derive(Default)]
struct Count {
    frames: u64,
    bytes: u64,
    reads: u64,
}

impl FromProgram {
    pub fn new(join: bool) -> FromProgram {
        FromProgram {
            join,
            room: vec![0; socket::FRAMES * STRIDE],
            held: 0..0,
            lengths: Vec::new(),
            frames: Vec::new(),
            count: Count::default(),
            written: Written::default(),
        }
    }

    /// Receives once and delivers every whole frame. Returns whether the connection goes on.
    pub fn carry(&mut self, socket: &mut Socket, tap: &File) -> Result<bool> {
        self.count.reads += 1;
        self.frames.clear();
        let goes_on = if socket.is_stream() { self.read_stream(socket) } else { self.read_datagrams(socket) }?;
        self.count.frames += self.frames.len() as u64;
        let mut output = Output::new(tap, VNET_LEN, &mut self.written);
        for frame in &self.frames {
            let frame = &self.room[frame.clone()];
            self.count.bytes += frame.len() as u64;
            match Segment::of(frame).filter(|_| self.join) {
                Some(segment) => output.join(segment),
                None => output.whole(frame),
            }
        }
        output.finish();
        Ok(goes_on)
    }

    fn read_stream(&mut self, socket: &mut Socket) -> Result<bool> {
        // A frame that has begun goes on behind its beginning; it moves only when the room for it ends.
        if self.held.is_empty() {
            self.held = 0..0;
        } else if self.room.len() - self.held.end < READ_BYTES {
            self.room.copy_within(self.held.clone(), 0);
            self.held = 0..self.held.len();
        }
        let end = (self.held.end + READ_BYTES).min(self.room.len());
        let n = socket.receive_bytes(&mut self.room[self.held.end..end])?;
        self.held.end += n;
        while let Some(prefix) = self.room[self.held.clone()].first_chunk::<PREFIX>() {
            let len = u32::from_be_bytes(*prefix) as usize;
            if !(ETH_LEN..=FRAME_MAX).contains(&len) {
                return Err(Error::new(ErrorKind::InvalidData, format!("a frame of {len} bytes from the program")));
            }
            if self.held.len() < PREFIX + len {
                break;
            }
            let at = self.held.start + PREFIX;
            self.frames.push(at..at + len);
            self.held.start = at + len;
        }
        Ok(n > 0)
    }

    fn read_datagrams(&mut self, socket: &mut Socket) -> Result<bool> {
        self.lengths.clear();
        socket.receive_frames(&mut self.room, STRIDE, &mut self.lengths)?;
        for (nth, len) in self.lengths.iter().enumerate() {
            // An empty datagram is the end of a connection of packets.
            if *len == 0 {
                return Ok(false);
            }
            self.frames.push(nth * STRIDE..nth * STRIDE + len);
        }
        Ok(true)
    }

    pub fn json(&self) -> String {
        let (Count { frames, bytes, reads }, Written { writes, refused }) = (&self.count, &self.written);
        format!(r#"{{"frames":{frames},"bytes":{bytes},"reads":{reads},"writes":{writes},"refused":{refused}}}"#)
    }
}

/// Room for one datagram.
const STRIDE: usize = FRAME_MAX.next_multiple_of(64);
/// Bytes read from a stream at most: more than a socket of the default size holds.
const READ_BYTES: usize = 512 << 10;
