//! What the guest sent ahead of a hole (RFC 9293 §3.10.7.4): which parts are held, and how the guest hears of it (RFC 2018).
//! The bytes themselves lie with the flow.

use arrayvec::ArrayVec;

use super::super::ranges::Ranges;
use super::super::seq::Seq;
use super::{Accepted, Conn, Stored, Verdict};
use crate::base::DropReason;
use crate::wire::{SACK_BLOCKS_MAX, SACK_BLOCKS_MAX_STAMPED, SackBlocks};

/// Held beyond the next byte in order at most: more than is under way on a link of no length.
pub const AHEAD_BYTES: u32 = 512 << 10;

#[derive(Clone, Debug, Default)]
pub(super) struct Ahead {
    ranges: Ranges,
    /// Where the last segments began, the newest first.
    newest: ArrayVec<Seq, SACK_BLOCKS_MAX>,
    /// The guest's FIN.
    fin: Option<Seq>,
}

impl Conn {
    /// Segments ahead of a hole may be held from now on, or not: there is place for them.
    pub fn may_hold(&mut self, may: bool) {
        self.may_hold = may;
    }

    pub fn holds_ahead(&self) -> bool {
        self.ahead.is_some()
    }

    /// `len` bytes at `seq`, behind a hole; `fin`: the guest's end after them.
    pub(super) fn hold(&mut self, seq: Seq, len: u32, fin: bool) -> Result<Accepted, DropReason> {
        let take = len.min(self.adv.since(seq)).min((self.rcv_nxt + AHEAD_BYTES).since(seq));
        let whole_fin = fin && take == len;
        if !self.may_hold || (take == 0 && !whole_fin) {
            return Err(DropReason::TcpOutOfOrder);
        }
        let ahead = self.ahead.get_or_insert_default();
        if take > 0 && !ahead.ranges.add(seq, seq + take) {
            return Err(DropReason::TcpOutOfOrder);
        }
        if ahead.newest.is_full() {
            ahead.newest.pop();
        }
        ahead.newest.insert(0, seq);
        if whole_fin {
            ahead.fin = Some(seq + take);
        }
        Ok(Accepted { skip: 0, take: take as usize, ahead: true })
    }

    /// The next byte in order has moved: what was held there counts now. True if the guest's FIN does.
    pub(super) fn catch_up(&mut self, v: &mut Verdict) -> bool {
        let Some(ahead) = &mut self.ahead else { return false };
        ahead.ranges.forget_before(self.rcv_nxt);
        ahead.fin = ahead.fin.filter(|f| *f >= self.rcv_nxt);
        if let Some((from, to)) = ahead.ranges.find(self.rcv_nxt) {
            // Nothing comes after an end.
            let to = ahead.fin.filter(|f| *f < to).unwrap_or(to);
            v.stored = Some(Stored { from, len: to.since(from) });
            self.rcv_nxt = to;
            ahead.ranges.forget_before(to);
        }
        let fin = ahead.fin == Some(self.rcv_nxt);
        if ahead.ranges.is_empty() && ahead.fin.is_none() {
            self.ahead = None;
        }
        fin
    }

    /// A segment that was there before (RFC 2883 §4): told with the next ACK.
    pub(super) fn note_duplicate(&mut self, from: Seq, to: Seq) {
        if self.sack && from < to {
            self.duplicate = Some((from, to));
        }
    }

    /// The blocks of an ACK without payload that is sent now: a duplicate first, then the newest (RFC 2018 §4).
    pub fn sack_blocks(&mut self) -> SackBlocks {
        let mut blocks = SackBlocks::default();
        if let Some((from, to)) = self.duplicate.take() {
            blocks.push((from.0, to.0));
        }
        let Some(ahead) = self.ahead.as_ref().filter(|_| self.sack) else { return blocks };
        let most = if self.stamps.on { SACK_BLOCKS_MAX_STAMPED } else { SACK_BLOCKS_MAX };
        let mut told: ArrayVec<(Seq, Seq), SACK_BLOCKS_MAX> = ArrayVec::new();
        for range in ahead.newest.iter().filter_map(|seq| ahead.ranges.find(*seq)) {
            if !told.contains(&range) && blocks.as_slice().len() < most {
                blocks.push((range.0.0, range.1.0));
                told.push(range);
            }
        }
        blocks
    }
}
