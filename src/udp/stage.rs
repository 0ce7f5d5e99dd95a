//! Small datagrams of one flow on their way to the host, gathered until something else comes: runs of equal size become
//! one `UDP_SEGMENT` send, and all runs one `sendmmsg`. Copying them is cheaper than a system call each.

use arrayvec::ArrayVec;

use crate::flow::Id;
use crate::sys::dgram::{BATCH_MAX, Run, SEGMENTS_MAX};
use crate::sys::iov::Gather;

/// Datagrams up to this many bytes are staged; a larger one is sent from where it lies.
pub const STAGE_MAX: usize = 2048;
/// Longest run: what fits one IP packet of either family with its headers, for the kernel makes one of it first.
const RUN_MAX: usize = 65_535 - 40 - 8;
/// All runs together.
const BYTES_MAX: usize = 256 * 1024;

/// The gathered datagrams of at most one flow.
#[derive(Debug, Default)]
pub struct Stage {
    pub flow: Option<Id>,
    pub bytes: Vec<u8>,
    pub runs: ArrayVec<Run, BATCH_MAX>,
    /// Datagrams in `runs`.
    pub datagrams: usize,
    /// Datagrams in the last run if it can take more, else 0.
    open: usize,
}

impl Stage {
    /// True if a datagram of `len` bytes of the flow can be added.
    pub fn takes(&self, flow: Id, len: usize) -> bool {
        self.flow == Some(flow) && self.bytes.len() + len <= BYTES_MAX && (self.extends(len) || !self.runs.is_full())
    }

    /// Adds a datagram; the caller has made sure that it is taken, or that the stage is empty.
    pub fn push(&mut self, flow: Id, pieces: &[Gather<'_>], len: usize) {
        self.flow = Some(flow);
        let at = self.bytes.len();
        for p in pieces {
            p.copy_to(&mut self.bytes);
        }
        debug_assert_eq!(self.bytes.len(), at + len);
        self.datagrams += 1;
        if self.extends(len) {
            let run = self.runs.last_mut().expect("only an existing run is open");
            run.len += len;
            // Only the last segment may be shorter.
            self.open = if len == usize::from(run.segment) { self.open + 1 } else { 0 };
        } else {
            self.runs.push(Run { at, len, segment: len as u16 });
            // An empty datagram has no segment size.
            self.open = usize::from(len > 0);
        }
    }

    pub fn clear(&mut self) {
        self.flow = None;
        self.bytes.clear();
        self.runs.clear();
        self.datagrams = 0;
        self.open = 0;
    }

    fn extends(&self, len: usize) -> bool {
        let Some(run) = self.runs.last() else { return false };
        (1..SEGMENTS_MAX).contains(&self.open)
            && (1..=usize::from(run.segment)).contains(&len)
            && run.len + len <= RUN_MAX
    }
}

/// How many datagrams a run makes.
pub fn datagrams(run: &Run) -> usize {
    if run.segment == 0 { 1 } else { run.len.div_ceil(usize::from(run.segment)).max(1) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const FLOW: Id = Id { index: 1, generation: 0 };

    proptest! {
        #[test]
        fn datagrams_come_out_as_they_went_in(sizes in proptest::collection::vec(prop_oneof![Just(700usize), 0..40usize], 1..300)) {
            let mut stage = Stage::default();
            let (mut taken, mut expected) = (Vec::new(), Vec::new());
            for (i, len) in sizes.into_iter().enumerate() {
                let bytes = vec![i as u8; len];
                if i > 0 && !stage.takes(FLOW, len) {
                    break;
                }
                stage.push(FLOW, &[Gather::new(&bytes)], len);
                expected.push(bytes);
            }
            for r in &stage.runs {
                assert!(r.len <= RUN_MAX && datagrams(r) <= SEGMENTS_MAX);
                if r.len == 0 {
                    taken.push(Vec::new());
                } else {
                    taken.extend(stage.bytes[r.at..r.at + r.len].chunks(r.segment.into()).map(<[u8]>::to_vec));
                }
            }
            assert_eq!(stage.datagrams, taken.len());
            assert_eq!(taken, expected);
        }
    }

    #[test]
    fn other_flows_are_not_mixed_in() {
        let mut stage = Stage::default();
        stage.push(FLOW, &[Gather::new(b"abc")], 3);
        assert!(stage.takes(FLOW, 3) && !stage.takes(Id { index: 1, generation: 1 }, 3));
    }
}
