//! The bytes of segments ahead of a hole. Which of them there are, the state machine knows.

use std::io;

use super::conn::{AHEAD_BYTES, Stored};
use super::seq::Seq;
use super::*;
use crate::sys::iov::Gather;

impl Flow {
    /// Keeps payload that starts at `seq`, which the state machine has accepted to be held.
    pub(super) fn hold<'a>(&mut self, seq: Seq, pieces: impl IntoIterator<Item = Gather<'a>>) {
        let ring = self.ahead.get_or_insert_with(ring);
        let mut at = seq.0 as usize % RING;
        for piece in pieces {
            let (before, behind) = (piece.first(RING - at), piece.skip(piece.len().min(RING - at)));
            before.copy_to_slice(&mut ring[at..at + before.len()]);
            behind.copy_to_slice(&mut ring[..behind.len()]);
            at = (at + piece.len()) % RING;
        }
    }
}

impl Tcp {
    /// Hands on what was held and is in order now, and lets go of the memory if nothing is held any more.
    pub(super) fn deliver_stored(&mut self, id: Id, stored: Option<Stored>) -> io::Result<()> {
        let Some(flow) = self.flows.get_mut(id) else { return Ok(()) };
        let Some(ring) = flow.ahead.take() else { return Ok(()) };
        let delivered = match stored {
            Some(s) => {
                let at = s.from.0 as usize % RING;
                let (first, len) = (Gather::new(&ring[at..]), s.len as usize);
                let first = first.first(len);
                let second = Gather::new(&ring[..len - first.len()]);
                if second.is_empty() { self.deliver(id, &[first]) } else { self.deliver(id, &[first, second]) }
            }
            None => Ok(()),
        };
        match self.flows.get_mut(id) {
            Some(flow) if flow.conn.holds_ahead() => flow.ahead = Some(ring),
            _ => self.with_holes -= 1,
        }
        delivered
    }
}

/// What is held ahead of a hole, each byte where its sequence number says.
pub(super) type Ring = [u8; RING];

/// Not by way of the stack.
fn ring() -> Box<Ring> {
    vec![0; RING].into_boxed_slice().try_into().expect("it has that length")
}

/// A power of two, so that places follow from sequence numbers across their end as well.
const RING: usize = AHEAD_BYTES as usize;
const _: () = assert!(RING.is_power_of_two());
