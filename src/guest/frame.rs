//! A frame from the guest: a private copy of its headers, its payload left where it is, its offload metadata.

use arrayvec::ArrayVec;

use crate::sys::iov::Gather;
use crate::wire::icmp::quote_max;
use crate::wire::{Offload, Packet};

/// Pieces that `rest` may have; with `head` there is one more.
pub const FRAME_PIECES: usize = 18;
const PIECES_MAX: usize = FRAME_PIECES + 1;

/// A frame as a link delivered it; valid until the link's batch is released.
#[derive(Clone, Copy, Debug)]
pub struct Frame<'a> {
    /// Private memory, from the destination MAC on: at least all headers; the whole frame where the link copies anyway.
    pub head: &'a [u8],
    /// What follows `head`; may be guest memory, which can change at any time.
    pub rest: &'a [Gather<'a>],
    pub offload: Offload,
}

impl<'a> Frame<'a> {
    pub fn len(&self) -> usize {
        self.head.len() + self.rest.iter().map(Gather::len).sum::<usize>()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The `len` bytes from offset `at` on, in pieces, without copying.
    pub fn pieces(&self, mut at: usize, mut len: usize) -> ArrayVec<Gather<'a>, PIECES_MAX> {
        let mut out = ArrayVec::new();
        for piece in std::iter::once(Gather::new(self.head)).chain(self.rest.iter().copied()) {
            if at >= piece.len() {
                at -= piece.len();
                continue;
            }
            let part = piece.skip(at).first(len);
            at = 0;
            len -= part.len();
            if !part.is_empty() {
                out.push(part);
            }
            if len == 0 {
                break;
            }
        }
        out
    }

    /// The `len` bytes from offset `at` on as one private slice: borrowed from `head` if they lie there, else copied
    /// into `scratch`. Shorter than `len` if the frame is.
    pub fn contiguous<'b>(&self, at: usize, len: usize, scratch: &'b mut Vec<u8>) -> &'b [u8]
    where
        'a: 'b,
    {
        if let Some(whole) = self.head.get(at..at + len) {
            return whole;
        }
        scratch.clear();
        for p in self.pieces(at, len) {
            p.copy_to(scratch);
        }
        scratch
    }

    /// As much of `packet`, which is this frame's, from its IP header on, as an ICMP error quotes.
    pub fn quote<'b>(&self, packet: &Packet, scratch: &'b mut Vec<u8>) -> &'b [u8]
    where
        'a: 'b,
    {
        let whole = packet.payload + packet.payload_len - packet.l3;
        self.contiguous(packet.l3, whole.min(quote_max(packet.src.family())), scratch)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_cross_the_seams() {
        let rest = [Gather::new(b"de"), Gather::new(b"fgh")];
        let f = Frame { head: b"abc", rest: &rest, offload: Offload::NONE };
        let mut scratch = Vec::new();
        assert_eq!(f.len(), 8);
        assert_eq!(f.contiguous(1, 2, &mut scratch), b"bc");
        assert_eq!(f.contiguous(2, 4, &mut scratch), b"cdef");
        assert_eq!(f.contiguous(5, 3, &mut scratch), b"fgh");
        assert_eq!(f.contiguous(6, 9, &mut scratch), b"gh");
        assert_eq!(f.contiguous(8, 1, &mut scratch), b"");
    }
}
