//! What the guest sent ahead of a hole (RFC 9293 §3.10.7.4): which parts are held, and how the guest hears of it (RFC 2018).
//! The bytes themselves lie with the flow.

use arrayvec::ArrayVec;

use super::super::ranges::Ranges;
use super::super::seq::Seq;
use super::{Accepted, Conn, Loss, Stored, Verdict};
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

impl Ahead {
    pub fn is_empty(&self) -> bool {
        self.ranges.is_empty() && self.fin.is_none()
    }

    /// Takes note of a segment. False: there is no place for it.
    fn add(&mut self, from: Seq, to: Seq) -> bool {
        if from == to {
            return true;
        }
        if !self.ranges.add(from, to) {
            return false;
        }
        // One place for each range, so that the older ones are told as well.
        let range = self.ranges.find(from).unwrap_or((from, to));
        self.newest.retain(|seq| *seq < range.0 || range.1 <= *seq);
        if self.newest.is_full() {
            self.newest.pop();
        }
        self.newest.insert(0, from);
        true
    }

    /// Those of the last segments first, then the others (RFC 2018 §4).
    fn ranges(&self) -> impl Iterator<Item = (Seq, Seq)> + '_ {
        let newest = || self.newest.iter().filter_map(|seq| self.ranges.find(*seq));
        newest().chain(self.ranges.iter().filter(move |r| !newest().any(|n| n == *r)))
    }
}

impl Conn {
    /// Segments ahead of a hole may be held from now on, or not: there is place for them.
    pub fn may_hold(&mut self, may: bool) {
        self.may_hold = may;
    }

    pub fn holds_ahead(&self) -> bool {
        self.loss.as_ref().is_some_and(|loss| !loss.ahead.is_empty())
    }

    /// The next ACK has to be one without payload, for its blocks.
    pub fn has_blocks_to_tell(&self) -> bool {
        self.sack && self.loss.as_ref().is_some_and(|loss| !loss.ahead.is_empty() || loss.duplicate.is_some())
    }

    /// `len` bytes at `seq`, behind a hole; `fin`: the guest's end after them.
    pub(super) fn hold(&mut self, seq: Seq, len: u32, fin: bool) -> Result<Accepted, DropReason> {
        let take = len.min(self.adv.since(seq)).min((self.rcv_nxt + AHEAD_BYTES).since(seq));
        let end = seq + take;
        let whole_fin = fin && take == len;
        if !self.may_hold || (take == 0 && !whole_fin) {
            return Err(DropReason::TcpOutOfOrder);
        }
        let Loss { ahead, duplicate, .. } = &mut **self.loss.get_or_insert_default();
        if self.sack && take > 0 && ahead.ranges.find(seq).is_some_and(|r| end <= r.1) {
            // RFC 2883 §4.2.
            *duplicate = Some((seq, end));
        }
        if !ahead.add(seq, end) {
            return Err(DropReason::TcpOutOfOrder);
        }
        if whole_fin {
            ahead.fin = Some(end);
        }
        Ok(Accepted { skip: 0, take: take as usize, ahead: true })
    }

    /// The next byte in order has moved: what was held there counts now. True if the guest's FIN does.
    pub(super) fn catch_up(&mut self, v: &mut Verdict) -> bool {
        let Some(loss) = &mut self.loss else { return false };
        let ahead = &mut loss.ahead;
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
        self.forget_idle_loss();
        fin
    }

    /// Nothing comes after the guest's end.
    pub(super) fn forget_ahead(&mut self) {
        if let Some(loss) = &mut self.loss {
            loss.ahead = Ahead::default();
            self.forget_idle_loss();
        }
    }

    /// A segment that was there before (RFC 2883 §4): told with the next ACK.
    pub(super) fn note_duplicate(&mut self, from: Seq, to: Seq) {
        if self.sack && from < to {
            self.loss.get_or_insert_default().duplicate = Some((from, to));
        }
    }

    /// The blocks of an ACK without payload that is sent now: a duplicate first, then the newest (RFC 2018 §4).
    pub fn sack_blocks(&mut self) -> SackBlocks {
        let mut blocks = SackBlocks::default();
        let Some(loss) = self.loss.as_mut().filter(|_| self.sack) else { return blocks };
        let most = if self.stamps.on { SACK_BLOCKS_MAX_STAMPED } else { SACK_BLOCKS_MAX };
        for (from, to) in loss.duplicate.take().into_iter().chain(loss.ahead.ranges()).take(most) {
            blocks.push((from.0, to.0));
        }
        self.forget_idle_loss();
        blocks
    }
}
