//! Timestamps (RFC 7323): what we send, what we echo, and what they tell about round trips and old segments.

use std::time::Duration;

use super::super::seq::Seq;
use super::Conn;
use crate::base::Instant;
use crate::wire::{TcpHeader, TcpOptions, Timestamps};

#[derive(Clone, Copy, Debug)]
pub(super) struct Stamps {
    /// Both SYNs had the option; before the guest's has come: ours has it.
    pub on: bool,
    /// Added to our clock, so that it tells nothing about the process (§7.1).
    offset: u32,
    /// TS.Recent (§4.3): what is echoed; 0 as long as nothing was heard.
    recent: u32,
    /// When that was, in seconds.
    recent_at: u32,
    /// Last.ACK.sent.
    last_ack: Seq,
    /// Our clock when what a timeout gave up was first sent again, until an ACK has told whether it had to be.
    resent_at: Option<u32>,
}

impl Stamps {
    pub fn new(offset: u32) -> Stamps {
        Stamps { on: true, offset, recent: 0, recent_at: 0, last_ack: Seq(0), resent_at: None }
    }

    /// §5.5: what was heard that long ago may as well be from the future. And some systems have no clock yet in their SYN.
    fn recent_counts(&self, now: Instant) -> bool {
        self.recent != 0 && seconds(now).wrapping_sub(self.recent_at) < OUTDATED_SECONDS
    }

    /// §5.4: a tick is a millisecond.
    fn clock(&self, now: Instant) -> u32 {
        self.offset.wrapping_add((now.as_nanos() / 1_000_000) as u32)
    }
}

impl Conn {
    /// From the guest's SYN on.
    pub(super) fn agree_on_stamps(&mut self, t: &TcpHeader, now: Instant) {
        self.stamps.on = t.options.timestamps.is_some();
        self.stamps.recent = t.options.timestamps.map_or(0, |s| s.value);
        self.stamps.recent_at = seconds(now);
        // The SYN itself is about to be acknowledged.
        self.stamps.last_ack = self.rcv_nxt;
    }

    /// Segments of ours have the option.
    pub fn is_stamped(&self) -> bool {
        self.stamps.on
    }

    /// What a segment of ours bears that is sent now.
    pub(super) fn stamp(&self, now: Instant) -> Option<Timestamps> {
        let stamps = &self.stamps;
        stamps.on.then(|| Timestamps { value: stamps.clock(now), echo: stamps.recent })
    }

    /// The acknowledgment number of a segment that is sent now.
    pub fn ack_field(&mut self) -> u32 {
        self.stamps.last_ack = self.rcv_nxt;
        self.rcv_nxt.0
    }

    /// Bytes of the guest, in order, that no acknowledgment has told it of.
    pub fn untold(&self) -> u32 {
        self.rcv_nxt.since(self.stamps.last_ack)
    }

    /// Options of a segment that is no SYN.
    pub fn options(&self, now: Instant) -> TcpOptions {
        TcpOptions { timestamps: self.stamp(now), ..TcpOptions::default() }
    }

    /// §5.3 R1: the segment was sent before others that have arrived, perhaps a whole round of sequence numbers before. A
    /// segment without the option is taken at its word, as by Linux: some stacks leave it away now and then.
    pub(super) fn is_from_the_past(&self, t: &TcpHeader, now: Instant) -> bool {
        let Some(stamp) = t.options.timestamps.filter(|_| self.stamps.on) else { return false };
        is_before(stamp.value, self.stamps.recent) && self.stamps.recent_counts(now)
    }

    /// §4.3 (2): echoed is the first segment that our next ACK is for. Of an acceptable segment up to `end`.
    pub(super) fn note_stamp(&mut self, t: &TcpHeader, end: Seq, now: Instant) {
        let Some(stamp) = t.options.timestamps.filter(|_| self.stamps.on) else { return };
        let newer = !is_before(stamp.value, self.stamps.recent) || !self.stamps.recent_counts(now);
        if newer && Seq(t.seq) <= self.stamps.last_ack && end >= self.rcv_nxt {
            self.stamps.recent = stamp.value;
            self.stamps.recent_at = seconds(now);
        }
    }

    /// How long ago that was sent which an acceptable ACK is for, whether once or again (§4.1).
    pub(super) fn echo_age(&self, t: &TcpHeader, now: Instant) -> Option<Duration> {
        let stamp = t.options.timestamps.filter(|_| self.stamps.on)?;
        let age = self.stamps.clock(now).wrapping_sub(stamp.echo);
        // More than any timeout is no round trip, but a number that was made up.
        (age < 120_000).then(|| Duration::from_millis(age.into()))
    }

    /// What is under way is about to be sent again, for the first time or once more.
    pub(super) fn times_out(&mut self, now: Instant) {
        if !self.after_timeout {
            self.stamps.resent_at = Some(self.stamps.clock(now));
        }
    }

    /// The first ACK with progress after a timeout is for what was sent before it: nothing was lost, it was late (RFC 3522,
    /// Eifel).
    pub(super) fn was_only_late(&mut self, t: &TcpHeader) -> bool {
        let Some(resent_at) = self.stamps.resent_at.take() else { return false };
        t.options.timestamps.is_some_and(|s| self.stamps.on && is_before(s.echo, resent_at))
    }

    /// RFC 6191: a SYN that is older than what the connection has heard is an old duplicate, whatever its number.
    pub(super) fn is_older_than_some(&self, syn: &TcpHeader) -> bool {
        syn.options.timestamps.is_some_and(|s| self.stamps.on && is_before(s.value, self.stamps.recent))
    }

    /// RFC 6191: a SYN that is newer than all of the connection is no old duplicate, whatever its number.
    pub(super) fn is_newer_than_all(&self, syn: &TcpHeader) -> bool {
        syn.options.timestamps.is_some_and(|s| self.stamps.on && is_before(self.stamps.recent, s.value))
    }
}

/// In the modular order of 32 bits.
fn is_before(a: u32, b: u32) -> bool {
    (a.wrapping_sub(b) as i32) < 0
}

fn seconds(now: Instant) -> u32 {
    (now.as_nanos() / 1_000_000_000) as u32
}

/// The sign of a difference changes after 2^31 ticks; the RFC's 24 days (§5.5).
const OUTDATED_SECONDS: u32 = 24 * 86_400;
