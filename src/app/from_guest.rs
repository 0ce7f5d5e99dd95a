//! Frames of the guest, to whom they concern: the one place that chooses between the gateway and the engines.

use std::io;

use arrayvec::ArrayVec;

use super::engine::Engine;
use crate::base::{Counters, DropReason, Instant};
use crate::guest::{Facts, Frame, L2};
use crate::link::{FRAMES, Input};
use crate::wire::{self, Packet, Parsed, Transport};

/// State of this stage: nothing but its counters.
#[derive(Debug, Default)]
pub struct FromGuest {
    pub counters: Counters,
}

impl Engine {
    /// One pass over the link's input.
    pub(super) fn drain_link(&mut self, now: Instant) -> io::Result<Input> {
        self.batch.clear();
        let input = self.tap.receive(&mut self.batch)?;
        let mut run: ArrayVec<(Packet, Frame<'_>), FRAMES> = ArrayVec::new();
        for frame in self.batch.frames() {
            let counters = &mut self.from_guest.counters;
            counters.frames_from_guest += 1;
            counters.bytes_from_guest += frame.len() as u64;
            let packet = match wire::parse(frame.head, frame.len()) {
                Ok(Parsed::Ip(packet)) => packet,
                Ok(Parsed::Arp { .. }) => {
                    let facts = Facts { now, l2: &self.l2, nat: &self.nat };
                    count(counters, self.gateway.arp(&frame, &facts, &mut self.tap));
                    continue;
                }
                Ok(Parsed::Fragment(_)) => continue,
                Err(reason) => {
                    counters.drop(reason);
                    continue;
                }
            };
            if !checksum_holds(&packet, &frame) {
                counters.drop(DropReason::TransportChecksum);
                continue;
            }
            learn(&mut self.l2, &packet);
            let facts = Facts { now, l2: &self.l2, nat: &self.nat };
            if self.gateway.claims(&packet) {
                count(counters, self.gateway.answer(&packet, &frame, &facts, &mut self.tap));
                continue;
            }
            if let Transport::Tcp(_) = packet.transport {
                if run.last().is_some_and(|(last, _)| !same_flow(last, &packet)) {
                    self.tcp.from_guest(&run, &facts, &mut self.tap, &mut self.timers);
                    run.clear();
                }
                run.push((packet, frame));
            }
        }
        let facts = Facts { now, l2: &self.l2, nat: &self.nat };
        self.tcp.from_guest(&run, &facts, &mut self.tap, &mut self.timers);
        Ok(input)
    }
}

fn count(counters: &mut Counters, outcome: Result<(), DropReason>) {
    if let Err(reason) = outcome {
        counters.drop(reason);
    }
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

/// The guest shows which addresses it uses; inbound flows go to the last one of each kind.
fn learn(l2: &mut L2, packet: &Packet) {
    if !packet.src.is_unicast() {
        return;
    }
    l2.guest_mac = packet.src_mac;
    let slot = if packet.src.is_v4() {
        &mut l2.guest_v4
    } else if packet.src.is_link_local() {
        &mut l2.guest_link_local
    } else {
        &mut l2.guest_v6
    };
    *slot = Some(packet.src);
}
