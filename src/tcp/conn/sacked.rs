//! What the guest says it has of ours behind a hole (RFC 2018): only the holes are sent again, when they are losses
//! (RFC 6675).

use super::super::ranges::Ranges;
use super::super::seq::Seq;
use super::{Conn, Verdict};
use crate::wire::SackBlocks;

impl Conn {
    /// An ACK with news, or with progress, after which a loss may be left that was known before. There is no congestion window
    /// to keep: what is known to be lost is sent again at once, and new data goes on as the guest's window permits.
    pub(super) fn on_sacked(&mut self, news: bool, v: &mut Verdict) {
        if self.recover.is_some() {
            v.resend |= news;
        } else if self.lost_before().is_some() {
            self.start_recovery(false, v);
        }
    }

    /// Notes the blocks of an acceptable ACK; true if there was news. Only what was sent and not acknowledged can be meant:
    /// other blocks tell of duplicates (RFC 2883), or are wrong.
    pub(super) fn note_sacked(&mut self, sack: &[u8]) -> bool {
        if !self.sack || sack.is_empty() {
            return false;
        }
        let flight = self.nxt.since(self.una);
        let before = self.sacked().map_or(0, Ranges::bytes);
        for (from, to) in SackBlocks::read(sack).as_slice() {
            let (from_una, to_una) = (from.wrapping_sub(self.una.0), to.wrapping_sub(self.una.0));
            if 0 < from_una && from_una < to_una && to_una <= flight {
                self.loss.get_or_insert_default().sacked.add(Seq(*from), Seq(*to));
            }
        }
        self.sacked().is_some_and(|s| s.bytes() > before)
    }

    pub(super) fn forget_sacked_before_una(&mut self) {
        if let Some(loss) = &mut self.loss {
            loss.sacked.forget_before(self.una);
            self.forget_idle_loss();
        }
    }

    fn sacked(&self) -> Option<&Ranges> {
        self.loss.as_ref().map(|loss| &loss.sacked)
    }

    /// RFC 6675 §2, `DupThresh` and §4: three ranges, or more than two segments.
    fn lost_before(&self) -> Option<Seq> {
        self.sacked()?.lost_before(2 * u32::from(self.mss), 3)
    }

    /// The next part to be sent again in this recovery: where it starts, and its length in bytes, which is not 0.
    pub fn next_hole(&self) -> Option<(Seq, u32)> {
        self.recover?;
        let edge = self.una + self.burst.min(self.in_flight());
        let edge = self.lost_before().filter(|_| !self.after_timeout).map_or(edge, |lost| lost.max(edge));
        let mut from = self.una.max(self.resent);
        if let Some((_, end)) = self.sacked().and_then(|s| s.find(from)) {
            from = end;
        }
        let to = self.sacked().and_then(|s| s.next_after(from)).map_or(edge, |(next, _)| edge.min(next));
        let len = to.since(from);
        (len > 0).then_some((from, len))
    }

    /// `n` bytes from `from` on were sent again.
    pub fn resent(&mut self, from: Seq, n: u32) {
        self.resent = from + n;
    }
}
