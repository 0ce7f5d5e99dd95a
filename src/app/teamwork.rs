//! What reaches one worker and is another's, and what all of them have to know.

use std::sync::mpsc::channel;
use std::time::Duration;

use socket2::Socket;

use super::crew::{Crew, Leaving, Message, Seen};
use super::engine::Engine;
use super::share::Flows;
use crate::base::{Counters, DropReason, Endpoint, Instant, Mac};
use crate::flow::{FlowKey, Heir, Ledger, Via};
use crate::guest::reassembly::Whole;
use crate::guest::{Facts, Frame, Room, ToGuest};
use crate::link::Link;
use crate::wire::{Offload, Parsed, TcpFlags, Transport};

/// Messages of one turn: no flood of them may keep a worker from all else.
const MESSAGES: usize = 16;
/// How long a worker may take to tell what it has counted: longer than any turn.
pub(super) const COUNTING: Duration = Duration::from_secs(1);
/// Flows that are adopted between two looks at how many there may be.
const ADOPTED: usize = 64;

impl Engine {
    /// The other worker that is to have what a frame carries, if one is. Frames that nobody has a flow for are for whoever got
    /// them; what there is only one of, or little (the gateway's, fragments, echo), is the first worker's.
    pub(super) fn elsewhere(&mut self, parsed: &Parsed) -> Option<usize> {
        let me = self.crew.as_ref()?.me;
        let first = (me != 0).then_some(0);
        let packet = match parsed {
            Parsed::Ip(packet) => packet,
            Parsed::Arp { .. } | Parsed::Fragment(_) => return first,
        };
        let key = |guest, remote| FlowKey {
            guest: Endpoint::new(packet.src, guest),
            remote: Endpoint::new(packet.dst, remote),
        };
        // Whoever has no rings any more begins nothing: the frame was on its way when they went.
        let stranded = me != 0 && self.link.room() == Room::Nobody;
        let us = if stranded { Heir::Asked(0) } else { Heir::Us };
        match packet.transport {
            Transport::Tcp(t) => {
                let opens = t.flags & (TcpFlags::SYN | TcpFlags::ACK | TcpFlags::RST) == TcpFlags::SYN;
                self.tcp.elsewhere(&key(t.src_port, t.dst_port), if opens { us } else { Heir::Nobody })
            }
            Transport::Udp(_) if self.gateway.claims(packet) => first,
            Transport::Udp(u) => {
                // There its socket can share the port with the listening one.
                let reserved = me != 0 && self.crew.as_ref().is_some_and(|crew| crew.is_reserved(u.src_port));
                self.udp.elsewhere(&key(u.src_port, u.dst_port), if reserved { Heir::Asked(0) } else { us })
            }
            Transport::Icmp(_) => first,
            Transport::Other(_) => None,
        }
    }

    /// Gives a frame to another worker. `Err`: it is lost.
    pub(super) fn hand_over(&mut self, worker: usize, frame: &Frame<'_>) -> Result<(), DropReason> {
        if self.crew.as_mut().is_some_and(|crew| crew.pack(worker, frame)) {
            return Ok(());
        }
        self.counters.frames_from_guest += 1;
        self.counters.bytes_from_guest += frame.len() as u64;
        self.counters.drop(DropReason::OtherWorker);
        Err(DropReason::OtherWorker)
    }

    /// A packet that came in fragments goes on to whoever has its flow.
    pub(super) fn complete(&mut self, whole: Whole, now: Instant) -> Result<(), DropReason> {
        let Some(worker) = self.elsewhere(&Parsed::Ip(whole.packet)) else {
            let frame = Frame { head: &whole.frame, rest: &[], offload: Offload::NONE };
            self.whole(&whole.packet, &frame, now);
            return Ok(());
        };
        let Some(crew) = &self.crew else { return Ok(()) };
        if !crew.has_room(worker, whole.frame.len()) {
            return Err(DropReason::OtherWorker);
        }
        crew.send(worker, Message::Whole(Box::new(whole)));
        Ok(())
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
        for _ in 0..MESSAGES {
            let Some(crew) = &self.crew else { return };
            let Some(message) = crew.receive() else { return };
            self.obey(message, now.max(self.not_before));
        }
        self.crew.iter().for_each(|crew| crew.wake(crew.me));
    }

    fn obey(&mut self, message: Message, now: Instant) {
        match message {
            Message::Frames(copies) => self.pass(copies.frames(), now),
            Message::Whole(whole) => {
                let outcome = self.complete(*whole, now);
                self.count(outcome);
                self.pass_ends();
            }
            Message::Connection(client, key, via) => self.begin_inbound(client, (key, via), now),
            Message::Forget(via) => self.forget(via),
            Message::Seen(seen, told) => {
                seen.apply(told, &mut self.l2);
                self.guest_may_be_found(now);
            }
            Message::Known(l2) => {
                // It may not know yet what we have learnt.
                self.tell_who_is_who();
                self.l2 = *l2;
                self.crew.iter_mut().for_each(|crew| crew.told = Some(Seen::of(&self.l2)));
                self.guest_may_be_found(now);
            }
            Message::Network(leading) => self.lead_as(*leading),
            Message::Uses(addrs, reply) => drop(reply.send(self.own_uses(&addrs, now))),
            // Who asked and does not wait any more needs no answer; the same below.
            Message::Count(reply) => drop(reply.send(self.own_counters())),
            Message::Rings(rings, generation) => self.take_rings(rings, generation),
            Message::Recall(reply) => drop(reply.send(self.give_rings_back())),
            Message::Unplugged => self.link.disconnect(&mut self.batch, now),
            Message::Leave(reply) => drop(reply.send(self.leave(now))),
            Message::Kicked(ring) => self.kicked(ring),
            Message::Broken => {
                self.recall_rings();
                self.deal_rings();
            }
            Message::MemoryLost => {}
            Message::Stop => self.stopping = true,
        }
    }

    /// Tells the others what is new about who is who.
    pub(super) fn tell_who_is_who(&mut self) {
        let Some(crew) = &mut self.crew else { return };
        let seen = Seen::of(&self.l2);
        let Some(told) = crew.told.replace(seen) else { return };
        if crew.me != 0 {
            if told != seen {
                crew.send(0, Message::Seen(seen, told));
            }
        // Where inbound flows go only the first worker has to know.
        } else if std::mem::take(&mut self.neighbours_new) || told.mac != seen.mac {
            crew.others().for_each(|worker| crew.send(worker, Message::Known(Box::new(self.l2.clone()))));
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
    pub(super) fn lead_inbound(&mut self, client: Socket, (key, via): (FlowKey, Via), now: Instant) {
        let heir = self.crew.as_mut().map(|crew| Heir::Worker(crew.choose()));
        match heir.and_then(|heir| self.tcp.elsewhere(&key, heir)).zip(self.crew.as_ref()) {
            Some((worker, crew)) => crew.send(worker, Message::Connection(client, key, via)),
            None => self.begin_inbound(client, (key, via), now),
        }
    }

    fn begin_inbound(&mut self, client: Socket, (key, via): (FlowKey, Via), now: Instant) {
        let facts = Facts { now, l2: &self.l2, nat: &self.nat };
        // What is refused is reset and counted there.
        let _ = self.tcp.from_listener(client, (key, via), &facts, &mut self.link, &mut self.timers);
        self.tcp.disown(&key);
    }

    /// All flows go to the first worker, for we do not reach the guest any more.
    fn leave(&mut self, now: Instant) -> Leaving {
        let facts = Facts { now, l2: &self.l2, nat: &self.nat };
        let udp = self.udp.leave(0, &facts, &mut self.link);
        let tcp = self.tcp.leave(0);
        if let Link::Card(card) = &mut self.link {
            card.disconnect(&mut self.batch);
        }
        self.share_descriptors();
        Leaving { tcp, udp }
    }

    /// Takes over the flows of a worker that cannot reach the guest any more.
    pub(super) fn adopt_flows_of(&mut self, worker: usize) {
        let Some(crew) = &self.crew else { return };
        let (sender, flows) = channel();
        crew.send(worker, Message::Leave(sender));
        // Until they are here their packets must find nobody else.
        let Ok(Leaving { tcp, udp }) = flows.recv() else { return };
        // It may have sent something since we looked at the clock, and timestamps must not go back.
        let now = self.clock.now();
        self.not_before = now;
        log::debug!(worker = worker; "worker {worker} has no queue: {} TCP and {} UDP flows go on here", tcp.len(), udp.len());
        for (n, flow) in tcp.into_iter().enumerate() {
            if n % ADOPTED == 0 {
                self.share_descriptors();
            }
            let facts = Facts { now, l2: &self.l2, nat: &self.nat };
            self.tcp.adopt(flow, &facts, &mut self.link, &mut self.timers);
        }
        for (n, flow) in udp.into_iter().enumerate() {
            if n % ADOPTED == 0 {
                self.share_descriptors();
            }
            let facts = Facts { now, l2: &self.l2, nat: &self.nat };
            self.udp.adopt(flow, &facts, &mut self.link, &mut self.timers);
        }
    }

    /// Descriptors that ports may have beyond those kept for them: flows lend what they do not need, and at most half.
    pub(super) fn lendable_descriptors(&self) -> usize {
        let others = self.crew.as_ref().map_or_else(Flows::default, Crew::flows_of_others);
        self.descriptors.saturating_sub(self.flows().with(&others).descriptors()).min(self.descriptors / 2)
    }

    pub(super) fn flows(&self) -> Flows {
        let (spliced_tcp, spliced_udp) = self.splice.as_ref().map_or((0, 0), |s| (s.tcp_len(), s.udp_len()));
        Flows { tcp: self.tcp.len(), udp: self.udp.len(), icmp: self.icmp.len(), spliced_tcp, spliced_udp }
    }

    /// A forward is no more: what its flows move is nobody's.
    pub(super) fn forget(&mut self, via: Via) {
        self.tcp.forget(via);
        self.udp.forget(via);
        self.splice.iter_mut().for_each(|splice| splice.forget(via));
    }

    /// What has come by forwards to this worker.
    pub(super) fn passed(&self) -> Ledger {
        let mut sums = Ledger::default();
        self.tcp.passed(&mut sums);
        self.udp.passed(&mut sums);
        self.splice.iter().for_each(|splice| splice.passed(&mut sums));
        sums
    }

    /// What the link has counted.
    pub(super) fn of_link(&self) -> Counters {
        let mut all = self.unplugged.clone();
        let (frames, bytes) = self.link.sent();
        (all.frames_to_guest, all.bytes_to_guest) = (all.frames_to_guest + frames, all.bytes_to_guest + bytes);
        all.drop_many(DropReason::LinkFull, self.link.lost());
        all.drop_many(DropReason::Descriptors, self.link.faults());
        all
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
