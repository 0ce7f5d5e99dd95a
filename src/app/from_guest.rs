//! Frames of the guest, to whom they concern: the one place that chooses between the gateway and the engines.

use std::io;

use arrayvec::ArrayVec;

use super::engine::Engine;
use crate::base::{Counters, DropReason, Instant, Mac};
use crate::fwd::Nat;
use crate::guest::{Facts, Frame, L2};
use crate::link::{FRAMES, Input};
use crate::wire::{self, Packet, Parsed, TcpFlags, Transport};

/// Segments of one flow, in order.
type Run<'a> = ArrayVec<(Packet, Frame<'a>), FRAMES>;

impl Engine {
    /// One pass over the link's input.
    pub(super) fn drain_link(&mut self, now: Instant) -> io::Result<Input> {
        self.watchdog.passes += 1;
        let mut batch = std::mem::take(&mut self.batch);
        batch.clear();
        let input = self.link.receive(&mut batch);
        self.pass(batch.frames(), now);
        self.link.release();
        self.batch = batch;
        input
    }

    /// Frames of the guest, from the link or from another worker.
    pub(super) fn pass<'a>(&mut self, frames: impl Iterator<Item = Frame<'a>>, now: Instant) {
        let recording = self.link.tee().is_some_and(|tee| tee.is_recording());
        let mut run = Run::new();
        for frame in frames {
            let parsed = wire::parse(frame.head, frame.len());
            let last = run.last().map(|(last, _)| last);
            if let Some(worker) = self.led_elsewhere(&parsed, last) {
                let outcome = self.hand_over(worker, &frame);
                if recording && outcome.is_err() {
                    self.show(&frame, &parsed, |_| outcome.err());
                }
                continue;
            }
            if recording {
                self.show(&frame, &parsed, |engine| engine.deal_with_alone(frame, &parsed, now));
            } else {
                self.deal_with(frame, &parsed, &mut run, now);
            }
        }
        self.tcp_run(&mut run, now);
        self.udp.flush(&Facts { now, l2: &self.l2, nat: &self.nat }, &mut self.link);
        self.guest_may_be_found(now);
        self.pass_ends();
    }

    /// A frame that is ours. A segment joins the run; it is dealt with when the run ends.
    fn deal_with<'a>(
        &mut self,
        frame: Frame<'a>,
        parsed: &Result<Parsed, DropReason>,
        run: &mut Run<'a>,
        now: Instant,
    ) {
        self.counters.frames_from_guest += 1;
        self.counters.bytes_from_guest += frame.len() as u64;
        let packet = match parsed {
            Ok(Parsed::Ip(packet)) => packet,
            Ok(other) => return self.not_whole(other, &frame, now),
            Err(reason) => return self.counters.drop(*reason),
        };
        if let Transport::Tcp(_) = packet.transport {
            if run.is_full() || run.last().is_some_and(|(last, _)| !same_flow(last, packet)) {
                self.tcp_run(run, now);
            }
            if self.admit(packet, &frame) {
                run.push((*packet, frame));
            }
        } else {
            self.datagram(packet, &frame, now);
        }
    }

    /// The same, to the end, to see why it was dropped, if it was.
    fn deal_with_alone(
        &mut self,
        frame: Frame<'_>,
        parsed: &Result<Parsed, DropReason>,
        now: Instant,
    ) -> Option<DropReason> {
        let before = self.counted().map(Counters::refused);
        let mut run = Run::new();
        self.deal_with(frame, parsed, &mut run, now);
        self.tcp_run(&mut run, now);
        self.udp.flush(&Facts { now, l2: &self.l2, nat: &self.nat }, &mut self.link);
        self.counted().iter().zip(before).find_map(|(counters, before)| counters.refused_since(before))
    }

    /// Has a frame recorded, with what `deal` says of it.
    fn show(
        &mut self,
        frame: &Frame<'_>,
        parsed: &Result<Parsed, DropReason>,
        deal: impl FnOnce(&mut Engine) -> Option<DropReason>,
    ) {
        if let Some(tee) = self.link.tee() {
            tee.dealing_with(frame, parsed);
        }
        let reason = deal(self);
        if let Some(tee) = self.link.tee() {
            tee.dealt_with(reason);
        }
    }

    /// See [`Engine::elsewhere`]; what follows a packet of ours is ours.
    fn led_elsewhere(&mut self, parsed: &Result<Parsed, DropReason>, last: Option<&Packet>) -> Option<usize> {
        self.crew.as_ref()?;
        match (parsed, last) {
            (Ok(Parsed::Ip(packet)), Some(last)) if goes_on(packet) && same_flow(last, packet) => None,
            (Ok(parsed), _) => self.elsewhere(parsed),
            (Err(_), _) => None,
        }
    }

    fn tcp_run(&mut self, run: &mut Run<'_>, now: Instant) {
        if run.is_empty() {
            return;
        }
        let facts = Facts { now, l2: &self.l2, nat: &self.nat };
        self.tcp.from_guest(run, &facts, &mut self.link, &mut self.timers);
        run.clear();
    }

    /// ARP, and fragments, which may complete a packet.
    fn not_whole(&mut self, parsed: &Parsed, frame: &Frame<'_>, now: Instant) {
        let facts = Facts { now, l2: &self.l2, nat: &self.nat };
        let outcome = match parsed {
            Parsed::Arp { src_mac } => {
                let outcome = self.gateway.arp(frame, &facts, &mut self.link);
                if outcome != Err(DropReason::Arp) {
                    learn_mac(&mut self.l2, *src_mac);
                }
                outcome
            }
            Parsed::Fragment(fragment) => match self.reassembly.add(fragment, frame, now) {
                Ok(Some(whole)) => self.complete(whole, now),
                Ok(None) => Ok(()),
                Err(reason) => Err(reason),
            },
            Parsed::Ip(_) => Ok(()),
        };
        self.count(outcome);
    }

    pub(super) fn whole(&mut self, packet: &Packet, frame: &Frame<'_>, now: Instant) {
        if let Transport::Tcp(_) = packet.transport {
            if self.admit(packet, frame) {
                let facts = Facts { now, l2: &self.l2, nat: &self.nat };
                self.tcp.from_guest(&[(*packet, *frame)], &facts, &mut self.link, &mut self.timers);
            }
        } else {
            self.datagram(packet, frame, now);
        }
    }

    /// Everything that is neither TCP nor in pieces.
    fn datagram(&mut self, packet: &Packet, frame: &Frame<'_>, now: Instant) {
        if !self.admit(packet, frame) {
            return;
        }
        let facts = Facts { now, l2: &self.l2, nat: &self.nat };
        let outcome = if self.gateway.claims(packet) {
            self.gateway.answer(packet, frame, &facts, &mut self.link)
        } else {
            match packet.transport {
                Transport::Udp(_) => self.udp.from_guest(packet, frame, &facts, &mut self.link, &mut self.timers),
                Transport::Icmp(_) => self.icmp.from_guest(packet, frame, &facts, &mut self.link, &mut self.timers),
                _ => Err(DropReason::Protocol),
            }
        };
        self.count(outcome);
    }

    /// True for what may go on: a protocol that is on, with the right checksum. The sender's addresses are learnt.
    fn admit(&mut self, packet: &Packet, frame: &Frame<'_>) -> bool {
        let on = match packet.transport {
            Transport::Tcp(_) => self.protocols.tcp,
            Transport::Udp(_) => self.protocols.udp || self.gateway.claims(packet),
            Transport::Icmp(_) => self.protocols.icmp || self.gateway.claims(packet),
            Transport::Other(_) => true,
        };
        let outcome = if !on {
            Err(DropReason::Disabled)
        } else if !checksum_holds(packet, frame) {
            Err(DropReason::TransportChecksum)
        } else {
            learn(&mut self.l2, &self.nat, packet);
            Ok(())
        };
        self.count(outcome);
        outcome.is_ok()
    }

    pub(super) fn count(&mut self, outcome: Result<(), DropReason>) {
        if let Err(reason) = outcome {
            self.counters.drop(reason);
        }
    }
}

/// A segment of a connection that there is.
fn goes_on(packet: &Packet) -> bool {
    matches!(packet.transport, Transport::Tcp(t) if !t.flags.contains(TcpFlags::SYN))
}

fn same_flow(a: &Packet, b: &Packet) -> bool {
    let ports = |p: &Packet| match p.transport {
        Transport::Tcp(t) => (t.src_port, t.dst_port),
        _ => (0, 0),
    };
    ports(a) == ports(b) && a.src == b.src && a.dst == b.dst
}

fn checksum_holds(packet: &Packet, frame: &Frame<'_>) -> bool {
    let Some(mut sum) = packet.checksum_sum(frame.head, &frame.offload) else { return true };
    if let Some(payload) = frame.head.get(packet.payload..packet.payload + packet.payload_len) {
        sum = sum.add(payload);
    } else {
        let mut scratch = Vec::new();
        sum = sum.add(frame.contiguous(packet.payload, packet.payload_len, &mut scratch));
    }
    sum.is_valid()
}

/// Who sends frames under our own MAC is no guest: something on the way sends back what we said.
fn learn_mac(l2: &mut L2, mac: Mac) {
    if mac != l2.our_mac {
        l2.guest_mac = mac;
    }
}

/// The guest shows which addresses it uses; inbound flows go to the last one of each kind. One that it knows somebody else
/// by is not its own: led there, clients would come back to us.
fn learn(l2: &mut L2, nat: &Nat, packet: &Packet) {
    // One that has no address yet, and asks for it, has a MAC.
    if packet.src.is_unicast() || packet.src.is_unspecified() {
        learn_mac(l2, packet.src_mac);
    }
    if !packet.src.is_unicast() {
        return;
    }
    let slot = if packet.src.is_v4() {
        &mut l2.guest_v4
    } else if packet.src.is_link_local() {
        &mut l2.guest_link_local
    } else {
        &mut l2.guest_v6
    };
    if *slot != Some(packet.src) && (nat.is_assigned(&packet.src) || !nat.is_taken(&packet.src)) {
        *slot = Some(packet.src);
    }
}
