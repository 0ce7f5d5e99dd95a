//! Frames that go from one worker to another.

use crate::guest::Frame;
use crate::wire::Offload;

/// Copies of frames, one behind the other in memory of their own.
#[derive(Debug, Default)]
pub struct Copies {
    memory: Vec<u8>,
    /// Where each ends.
    frames: Vec<(usize, Offload)>,
}

impl Copies {
    pub fn push(&mut self, frame: &Frame<'_>) {
        self.memory.extend_from_slice(frame.head);
        frame.rest.iter().for_each(|piece| piece.copy_to(&mut self.memory));
        self.frames.push((self.memory.len(), frame.offload));
    }

    pub fn is_empty(&self) -> bool {
        self.frames.is_empty()
    }

    /// Bytes of all frames.
    pub fn bytes(&self) -> usize {
        self.memory.len()
    }

    pub fn frames(&self) -> impl Iterator<Item = Frame<'_>> + '_ {
        let mut from = 0;
        self.frames.iter().map(move |(to, offload)| {
            let head = &self.memory[std::mem::replace(&mut from, *to)..*to];
            Frame { head, rest: &[], offload: *offload }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::iov::Gather;

    #[test]
    fn keeps_frames_apart() {
        let mut copies = Copies::default();
        let rest = [Gather::new(b"cd"), Gather::new(b"e")];
        copies.push(&Frame { head: b"ab", rest: &rest, offload: Offload::NONE });
        copies.push(&Frame { head: b"fg", rest: &[], offload: Offload::NONE });
        assert_eq!(copies.frames().map(|f| f.head.to_vec()).collect::<Vec<_>>(), [&b"abcde"[..], b"fg"]);
        assert_eq!(copies.bytes(), 7);
    }
}
