//! The books: which rules there are, which of their ports are open, and which should be. Pure.

use std::collections::BTreeMap;

use nix::errno::Errno;

use super::Handle;
use crate::flow::Via;
use crate::fwd::ports::{Bound, Rule};
use crate::fwd::{Proto, Side};

/// A rule in force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Forward {
    pub rule: Rule,
    /// Where its sockets listen; they lead to the other side.
    pub on: Side,
    /// The option it came from, as the user wrote it.
    pub origin: String,
}

impl Forward {
    /// True if ports that cannot be had are left out.
    pub fn is_lenient(&self) -> bool {
        self.rule.best_effort || self.rule.auto
    }
}

/// Names a forward for as long as the process lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ForwardId(u64);

impl ForwardId {
    /// A number to tell others, from 1 on.
    pub fn number(self) -> u64 {
        self.0 + 1
    }

    /// For flows that come by it.
    pub fn via(self) -> Via {
        Via::forward(self.number())
    }

    /// `None` for 0, which names nothing.
    pub fn from_number(number: u64) -> Option<ForwardId> {
        number.checked_sub(1).map(ForwardId)
    }
}

/// What is to be done about one port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    Open(ForwardId, u16),
    Close(ForwardId, u16),
}

/// What a scan leaves to be opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rest {
    Nothing,
    /// There is no room for them.
    NoRoom,
    /// They were too many for one scan.
    Next,
}

/// All rules with their open ports.
#[derive(Debug, Default)]
pub struct Forwards {
    entries: BTreeMap<ForwardId, Entry>,
    next: u64,
    /// Sockets that lenient forwards may have, all together.
    budget: usize,
    /// Sockets they have.
    used: usize,
    /// What a scan counts, kept for its memory.
    own: Bound,
    seen: Bound,
}

#[derive(Debug)]
struct Entry {
    forward: Forward,
    /// Most ports have one socket; where a device cannot be bound to, each family's loopback has its own.
    open: BTreeMap<u16, (Handle, Option<Handle>)>,
    /// Ports that should be open and cannot be bound, and the kernel's word for why. Of lenient forwards only.
    refused: BTreeMap<u16, Errno>,
    /// Where the next attempt at those begins.
    retry_from: u16,
    /// Connections that came.
    hits: u64,
}

/// A forward that may come back.
#[derive(Debug)]
pub struct TakenOut {
    id: ForwardId,
    entry: Entry,
}

impl TakenOut {
    pub fn id(&self) -> ForwardId {
        self.id
    }

    pub fn forward(&self) -> &Forward {
        &self.entry.forward
    }
}

/// How a forward stands.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Status {
    /// Ports that listen.
    pub open: usize,
    /// Ports that should listen and cannot be bound, and why.
    pub refused: Vec<(u16, Errno)>,
    /// Connections that came.
    pub hits: u64,
}

/// Ports newly opened after one scan; the next scan goes on. A guest that binds everything must not stop the loop.
const OPENS_MAX: usize = 1024;
/// Ports tried again after one scan that could not be bound before, for each rule.
const RETRIES_MAX: usize = 64;

impl Forwards {
    pub fn add(&mut self, forward: Forward) -> ForwardId {
        let id = ForwardId(self.next);
        self.next += 1;
        let entry = Entry { forward, open: BTreeMap::new(), refused: BTreeMap::new(), retry_from: 0, hits: 0 };
        self.entries.insert(id, entry);
        id
    }

    /// Takes a forward out, and returns the sockets to close.
    pub fn take_out(&mut self, id: ForwardId) -> Option<(TakenOut, Vec<Handle>)> {
        let mut entry = self.entries.remove(&id)?;
        let open = std::mem::take(&mut entry.open);
        entry.refused.clear();
        let sockets: Vec<Handle> = open.into_values().flat_map(|(a, b)| [Some(a), b]).flatten().collect();
        if entry.forward.is_lenient() {
            self.used = self.used.saturating_sub(sockets.len());
        }
        Some((TakenOut { id, entry }, sockets))
    }

    /// Puts a forward back by its name, without sockets.
    pub fn put_back(&mut self, forward: TakenOut) -> ForwardId {
        self.entries.insert(forward.id, forward.entry);
        forward.id
    }

    pub fn get(&self, id: ForwardId) -> Option<&Forward> {
        self.entries.get(&id).map(|e| &e.forward)
    }

    /// In the order they were added.
    pub fn iter(&self) -> impl Iterator<Item = (ForwardId, &Forward)> {
        self.entries.iter().map(|(id, e)| (*id, &e.forward))
    }

    /// A connection came at one of its ports.
    pub fn hit(&mut self, id: ForwardId) {
        if let Some(entry) = self.entries.get_mut(&id) {
            entry.hits += 1;
        }
    }

    pub fn status(&self, id: ForwardId) -> Status {
        let refused = |e: &Entry| e.refused.iter().map(|(port, why)| (*port, *why)).collect();
        let status = |e: &Entry| Status { open: e.open.len(), refused: refused(e), hits: e.hits };
        self.entries.get(&id).map(status).unwrap_or_default()
    }

    /// The sockets of a forward.
    pub fn handles(&self, id: ForwardId) -> impl Iterator<Item = Handle> + '_ {
        self.entries.get(&id).into_iter().flat_map(|e| e.open.values().flat_map(|(a, b)| [Some(*a), *b]).flatten())
    }

    /// The forward there is already that a new one cannot be told apart from.
    pub fn conflict(&self, on: Side, rule: &Rule) -> Option<&Forward> {
        self.iter().map(|(_, f)| f).find(|f| f.on == on && f.rule.conflicts(rule))
    }

    pub fn set_budget(&mut self, sockets: usize) {
        self.budget = sockets;
    }

    /// Sockets that lenient forwards have.
    pub fn used(&self) -> usize {
        self.used
    }

    /// Sockets that lenient forwards may still take.
    pub fn room(&self) -> usize {
        self.budget.saturating_sub(self.used)
    }

    /// Ports that [`super::open_all`] opens as far as it can.
    pub fn lenient_ports(&self, on: Side) -> usize {
        let ports = |r: &Rule| usize::from(r.last - r.first) + 1;
        self.iter().filter(|(_, f)| f.on == on && f.rule.best_effort && !f.rule.auto).map(|(_, f)| ports(&f.rule)).sum()
    }

    /// True if the ports in use in `namespace` matter.
    pub fn follows(&self, namespace: Side) -> bool {
        self.iter().any(|(_, f)| f.rule.auto && f.on != namespace)
    }

    pub fn is_open(&self, id: ForwardId, port: u16) -> bool {
        self.entries.get(&id).is_some_and(|e| e.open.contains_key(&port))
    }

    pub fn open_ports(&self, id: ForwardId) -> impl Iterator<Item = u16> + '_ {
        self.entries.get(&id).into_iter().flat_map(|e| e.open.keys().copied())
    }

    /// A socket listens for this port now. Two at most.
    pub fn opened(&mut self, id: ForwardId, port: u16, socket: Handle) {
        let Some(entry) = self.entries.get_mut(&id) else { return };
        entry.refused.remove(&port);
        entry.open.entry(port).and_modify(|(_, second)| *second = Some(socket)).or_insert((socket, None));
        self.used += usize::from(entry.forward.is_lenient());
    }

    /// Forgets a port, and returns its sockets.
    pub fn closed(&mut self, id: ForwardId, port: u16) -> impl Iterator<Item = Handle> + use<> {
        let mut sockets = [None, None];
        if let Some(entry) = self.entries.get_mut(&id)
            && let Some((first, second)) = entry.open.remove(&port)
        {
            sockets = [Some(first), second];
            if entry.forward.is_lenient() {
                self.used = self.used.saturating_sub(sockets.iter().flatten().count());
            }
        }
        sockets.into_iter().flatten()
    }

    /// A port of a lenient forward cannot be bound. True if it could not be bound before either.
    pub fn refused(&mut self, id: ForwardId, port: u16, why: Errno) -> bool {
        let Some(entry) = self.entries.get_mut(&id) else { return true };
        entry.refused.insert(port, why).is_some()
    }

    /// What to close and to open now that `bound` is in use in `namespace`: closing first, which makes room. Ports that
    /// we listen on there ourselves do not count, or two opposite rules would keep each other alive.
    pub fn changes(&mut self, namespace: Side, bound: &Bound, changes: &mut Vec<Change>) -> Rest {
        self.see(namespace, bound);
        for entry in self.entries.values_mut().filter(|e| e.forward.rule.auto && e.forward.on != namespace) {
            let rule = &entry.forward.rule;
            let seen = if rule.proto == Proto::Tcp { &self.seen.tcp } else { &self.seen.udp };
            entry.refused.retain(|port, _| seen.contains(rule.target_port(*port)));
        }
        let followers = || self.entries.iter().filter(|(_, e)| e.forward.rule.auto && e.forward.on != namespace);
        let seen = |proto| match proto {
            Proto::Tcp => &self.seen.tcp,
            Proto::Udp => &self.seen.udp,
        };
        let mut room = self.room();
        for (id, entry) in followers() {
            let rule = &entry.forward.rule;
            let gone = entry.open.iter().filter(|(port, _)| !seen(rule.proto).contains(rule.target_port(**port)));
            for (port, (_, second)) in gone {
                changes.push(Change::Close(*id, *port));
                room += 1 + usize::from(second.is_some());
            }
        }
        let mut left = room.min(OPENS_MAX);
        let mut rest = Rest::Nothing;
        let mut retried = Vec::new();
        for (id, entry) in followers() {
            let rule = &entry.forward.rule;
            let set = seen(rule.proto);
            let wanted =
                set.within(rule.target_first, rule.target_last()).map(|t| rule.first + (t - rule.target_first));
            let (again, new): (Vec<u16>, Vec<u16>) =
                wanted.filter(|p| !entry.open.contains_key(p)).partition(|p| entry.refused.contains_key(p));
            let (before, after) = again.split_at(again.partition_point(|p| *p < entry.retry_from));
            let again: Vec<u16> = after.iter().chain(before).copied().take(RETRIES_MAX).collect();
            retried.push((*id, again.last().map_or(0, |p| p.wrapping_add(1))));
            let count = new.len() + again.len();
            match room > OPENS_MAX {
                true if new.len() > left => rest = Rest::Next,
                false if count > left => rest = Rest::NoRoom,
                _ => {}
            }
            changes.extend(new.into_iter().chain(again).take(left).map(|port| Change::Open(*id, port)));
            left -= count.min(left);
        }
        for (id, from) in retried {
            if let Some(entry) = self.entries.get_mut(&id) {
                entry.retry_from = from;
            }
        }
        rest
    }

    /// Sets `seen` to what counts as in use.
    fn see(&mut self, namespace: Side, bound: &Bound) {
        self.own.clear();
        for entry in self.entries.values().filter(|e| e.forward.on == namespace) {
            let own = self.own.of(entry.forward.rule.proto);
            entry.open.keys().for_each(|port| own.insert(*port));
        }
        self.seen.clear();
        self.seen.tcp.add(&bound.tcp);
        self.seen.udp.add(&bound.udp);
        self.seen.tcp.subtract(&self.own.tcp);
        self.seen.udp.subtract(&self.own.udp);
        // Services that use both (DNS, QUIC) are often bound late, or only for a moment, with the second protocol.
        self.seen.udp.add(&self.seen.tcp);
    }
}

#[cfg(test)]
mod tests;
