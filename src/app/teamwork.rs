//! What reaches one worker and is another's, and what all of them have to know.

use std::sync::mpsc::channel;
use std::time::Duration;

use socket2::Socket;

use super::crew::{Crew, Flows, Message, Seen};
use super::engine::Engine;
use crate::base::{Counters, DropReason, Endpoint, Instant, Mac};
use crate::flow::FlowKey;
use crate::guest::{Facts, Frame};
use crate::wire::{Parsed, TcpFlags, Transport};

/// How long a worker may take to tell what it has counted: longer than any turn.
const COUNTING: Duration = Duration::from_secs(1);

impl Engine {
    /// The other worker that is to have what a frame carries, if one is. Frames that nobody has a flow for are for whoever got
    /// them; what there is only one of, or little (the gateway's, fragments, echo), is the first worker's.
    pub(super) fn elsewhere(&mut self, parsed: &Parsed) -> Option<usize> {
        let crew = self.crew.as_ref()?;
        let first = (crew.me != 0).then_some(0);
        let packet = match parsed {
            Parsed::Ip(packet) => packet,
            Parsed::Arp { .. } | Parsed::Fragment(_) => return first,
        };
        let key = |guest, remote| FlowKey {
            guest: Endpoint::new(packet.src, guest),
            remote: Endpoint::new(packet.dst, remote),
        };
        match packet.transport {
            Transport::Tcp(t) => {
                let opens = t.flags & (TcpFlags::SYN | TcpFlags::ACK | TcpFlags::RST) == TcpFlags::SYN;
                self.tcp.elsewhere(&key(t.src_port, t.dst_port), opens)
            }
            Transport::Udp(_) if self.gateway.claims(packet) => first,
            // There its socket can share the port with the listening one.
            Transport::Udp(u) if crew.reserved().has(u.src_port) => first,
            Transport::Udp(u) => self.udp.elsewhere(&key(u.src_port, u.dst_port), true),
            Transport::Icmp(_) => first,
            Transport::Other(_) => None,
        }
    }

    /// Gives a frame to another worker.
    pub(super) fn hand_over(&mut self, worker: usize, frame: &Frame<'_>) {
        if self.crew.as_mut().is_some_and(|crew| crew.pack(worker, frame)) {
            return;
        }
        self.counters.frames_from_guest += 1;
        self.counters.bytes_from_guest += frame.len() as u64;
        self.counters.drop(DropReason::OtherWorker);
    }

    /// Ends a pass over frames.
    pub(super) fn pass_ends(&mut self) {
        let Some(crew) = &mut self.crew else { return };
        crew.send_parcels();
        self.tcp.settle_claims();
        self.udp.settle_claims();
    }

    /// What other workers have to say.
    pub(super) fn hear(&mut self, now: Instant) {
        while let Some(message) = self.crew.as_ref().and_then(Crew::receive) {
            match message {
                Message::Frames(copies) => self.pass(copies.frames(), now),
                Message::Connection(client, key) => self.begin_inbound(client, key, now),
                Message::Seen(seen) => {
                    seen.apply(&mut self.l2);
                    self.guest_may_be_found(now);
                }
                Message::Known(l2) => {
                    self.l2 = *l2;
                    self.crew.iter_mut().for_each(|crew| crew.told = Some(Seen::of(&self.l2)));
                    self.guest_may_be_found(now);
                }
                // Who asked and does not wait any more needs no answer; the same below.
                Message::Count(reply) => drop(reply.send(self.own_counters())),
                Message::Rings(rings, generation) => self.take_rings(rings, generation),
                Message::Recall(reply) => drop(reply.send(self.give_rings_back())),
                Message::Unplugged => self.link.disconnect(&mut self.batch, now),
                Message::Leave(reply) => drop(reply.send(self.leave(now))),
                Message::MemoryLost => {}
                Message::Stop => self.stopping = true,
            }
        }
    }

    /// Tells the others what is new about who is who.
    pub(super) fn tell_who_is_who(&mut self) {
        let Some(crew) = &mut self.crew else { return };
        let seen = Seen::of(&self.l2);
        let news = std::mem::take(&mut self.neighbours_new);
        match crew.told.replace(seen) {
            // Where inbound flows go only the first worker has to know.
            Some(told) if crew.me == 0 && told.mac == seen.mac && !news => {}
            Some(told) if crew.me != 0 && told == seen => {}
            None if crew.me != 0 => {}
            _ if crew.me != 0 => crew.send(0, Message::Seen(seen)),
            _ => crew.others().for_each(|worker| crew.send(worker, Message::Known(Box::new(self.l2.clone())))),
        }
    }

    /// A guest without a MAC may have one now.
    pub(super) fn guest_may_be_found(&mut self, now: Instant) {
        if self.l2.guest_mac != Mac::BROADCAST && std::mem::take(&mut self.guest_unknown) {
            let facts = Facts { now, l2: &self.l2, nat: &self.nat };
            self.tcp.repeat_syns(&facts, &mut self.link);
        }
    }

    /// A connection that a listener accepted, to the worker that will have it.
    pub(super) fn lead_inbound(&mut self, client: Socket, key: FlowKey, now: Instant) {
        let Some(crew) = &mut self.crew else { return self.begin_inbound(client, key, now) };
        // Whoever has a flow of that name already knows whether it may be replaced.
        let worker = self.tcp.elsewhere(&key, false).unwrap_or_else(|| crew.choose());
        if worker == crew.me {
            return self.begin_inbound(client, key, now);
        }
        crew.send(worker, Message::Connection(client, key));
    }

    fn begin_inbound(&mut self, client: Socket, key: FlowKey, now: Instant) {
        let facts = Facts { now, l2: &self.l2, nat: &self.nat };
        // What is refused is reset and counted there.
        let _ = self.tcp.from_listener(client, key, &facts, &mut self.link, &mut self.timers);
    }

    fn leave(&mut self, now: Instant) -> Flows {
        let facts = Facts { now, l2: &self.l2, nat: &self.nat };
        let udp = self.udp.leave(0, &facts, &mut self.link);
        Flows { tcp: self.tcp.leave(0), udp }
    }

    /// Takes over the flows of a worker that cannot reach the guest any more.
    pub(super) fn adopt_flows_of(&mut self, worker: usize, now: Instant) {
        let Some(crew) = &self.crew else { return };
        let (sender, flows) = channel();
        crew.send(worker, Message::Leave(sender));
        // Until they are here their packets must find nobody else.
        let Ok(flows) = flows.recv() else { return };
        let facts = Facts { now, l2: &self.l2, nat: &self.nat };
        let (link, timers) = (&mut self.link, &mut self.timers);
        flows.tcp.into_iter().for_each(|flow| self.tcp.adopt(flow, &facts, link, timers));
        flows.udp.into_iter().for_each(|flow| self.udp.adopt(flow, &facts, link, timers));
    }

    /// Sums over all workers.
    pub fn counters(&self) -> Counters {
        let mut all = self.own_counters();
        let Some(crew) = &self.crew else { return all };
        let (sender, counters) = channel();
        crew.others().for_each(|worker| crew.send(worker, Message::Count(sender.clone())));
        drop(sender);
        crew.others().map_while(|_| counters.recv_timeout(COUNTING).ok()).for_each(|c| all.add(&c));
        all
    }
}
