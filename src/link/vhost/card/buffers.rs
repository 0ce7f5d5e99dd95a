//! Buffers for the frames of a [`Card`], and what becomes of a frame for which there are none.
//!
//! When the driver has offered no more it will, and its kick tells: what can wait does. A frame that is longer than all that it
//! offers would wait for ever, and others behind it: it is lost. So that there are few, what the buffers hold is learned and
//! told ([`ToGuest::caps`](crate::guest::ToGuest::caps)): datagrams are cut to it, and segments made for it.

use super::super::device::MERGEABLE;
use super::super::ring::Broken;
use super::super::rings::Queue;
use super::super::supply::{Short, Source, Supply};
use super::{COPY_WHOLE, Card, WAITING_BYTES};
use crate::guest::LinkFull;
use crate::wire::vnet::VNET_V1_LEN;

impl Card {
    /// There may be buffers again.
    pub fn writable(&mut self) {
        (self.full, self.too_long) = (false, false);
        self.measure();
        while let Some((header, frame)) = self.waiting.pop_front() {
            match self.with_buffers(|supply, from| supply.send(from, header, &frame)) {
                Ok(()) => {}
                // It came before buffers did, or was made for another driver.
                Err(Short::TooSmall) => self.lost += 1,
                Err(Short::Empty | Short::Broken) => {
                    self.waiting.push_front((header, frame));
                    return;
                }
            }
            self.waiting_bytes -= frame.len();
        }
    }

    /// Learns what a new driver's buffers hold, before the first frame is made for them.
    fn measure(&mut self) {
        if self.ready
            && let Some((supply, mut from)) = self.supply()
            && supply.measure(&mut from) == Err(Short::Broken)
        {
            self.give_up(self.outlet);
        }
    }

    /// A small frame may wait for buffers, if there are not too many.
    pub(super) fn put_off(&mut self, header: [u8; VNET_V1_LEN], frame: &[u8]) -> Result<(), LinkFull> {
        let small = frame.len() <= COPY_WHOLE && self.waiting_bytes + frame.len() <= WAITING_BYTES;
        if !small || !(self.ready || self.away) {
            return Err(LinkFull);
        }
        self.waiting.push_back((header, frame.to_vec()));
        self.waiting_bytes += frame.len();
        Ok(())
    }

    /// Where buffers come from.
    pub(super) fn supply(&mut self) -> Option<(&mut Supply, Source<'_>)> {
        let mergeable = self.rings.has(MERGEABLE);
        let (queue, memory, log) = self.rings.parts(self.outlet);
        let Queue { ring: Some(ring), supply, .. } = queue else { return None };
        Some((supply, Source { ring, memory, log, mergeable }))
    }

    /// Does what needs buffers, once more if some have come meanwhile.
    ///
    /// # Errors
    /// Why not. Of [`Short::Empty`] a kick will tell that it is over.
    pub(super) fn with_buffers<T>(
        &mut self,
        mut act: impl FnMut(&mut Supply, &mut Source<'_>) -> Result<T, Short>,
    ) -> Result<T, Short> {
        // Of a ring that is given up another of our pairs may take the place.
        while self.ready {
            let Some((supply, mut from)) = self.supply() else { break };
            let short = match act(supply, &mut from) {
                Err(short @ (Short::Empty | Short::Broken)) => short,
                done => return done,
            };
            // The driver may wait for what we have put off.
            self.rings.publish(self.outlet);
            match (short, self.listen_for_buffers()) {
                (Short::Empty, Some(Ok(true))) => {}
                (Short::Empty, Some(Ok(false))) => {
                    self.full = true;
                    return Err(Short::Empty);
                }
                _ => {
                    self.patient = false;
                    self.give_up(self.outlet);
                }
            }
        }
        Err(Short::Broken)
    }

    /// Asks to be told of buffers: when a good part of the ring has them again, for each time costs both sides a notification.
    /// If none have come since the last time, of the first one.
    fn listen_for_buffers(&mut self) -> Option<Result<bool, Broken>> {
        let quarter = self.rings.queues[self.outlet].num / 4;
        let full_at = self.full_at;
        let (_, from) = self.supply()?;
        let at = from.ring.seen();
        let patient = full_at != Some(at);
        let told = from.ring.listen_for(if patient { quarter.max(1) } else { 1 }, from.log);
        (self.full_at, self.patient) = (Some(at), patient && quarter > 1);
        Some(told)
    }

    /// There may be buffers, but not so many that the driver tells of them, or there are and for shorter frames: to be looked
    /// at after a while.
    pub fn is_stuck(&self) -> bool {
        self.full && self.patient || self.too_long
    }
}
