//! What has come by each forward. A flow remembers the forward that its client came by, 4 bytes, and its bytes are added to the
//! account of that when it ends; those of living flows are added when somebody asks. So no packet costs anything.

use std::collections::HashMap;
use std::num::NonZeroU32;

/// The forward that a flow came by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Via(Option<NonZeroU32>);

impl Via {
    /// By none: the guest began.
    pub const NOTHING: Via = Via(None);

    /// By the one with this number, counted from 1. Nothing is counted for those beyond 2^32.
    pub fn forward(number: u64) -> Via {
        Via(u32::try_from(number).ok().and_then(NonZeroU32::new))
    }
}

/// What has come by one forward.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Passed {
    pub flows: u64,
    /// Bytes of payload from clients to what the ports lead to, and back.
    pub to_target: u64,
    pub to_client: u64,
}

/// Accounts of forwards.
#[derive(Clone, Debug, Default)]
pub struct Ledger(HashMap<NonZeroU32, Passed>);

impl Ledger {
    /// A flow begins.
    pub fn begin(&mut self, via: Via) {
        self.add(via, Passed { flows: 1, ..Passed::default() });
    }

    /// A flow has ended, or is looked at, after so many bytes.
    pub fn bytes(&mut self, via: Via, (to_target, to_client): (u64, u64)) {
        self.add(via, Passed { flows: 0, to_target, to_client });
    }

    /// The forward is no more. `flows`: what each living one has come by.
    pub fn forget<'a>(&mut self, via: Via, flows: impl Iterator<Item = &'a mut Via>) {
        flows.filter(|of| **of == via).for_each(|of| *of = Via::NOTHING);
        via.0.and_then(|number| self.0.remove(&number));
    }

    /// Adds all accounts of another, and those of its living flows: what each has come by, and its bytes.
    pub fn add_living(&mut self, other: &Ledger, flows: impl Iterator<Item = (Via, (u64, u64))>) {
        self.add_all(other);
        flows.for_each(|(via, bytes)| self.bytes(via, bytes));
    }

    /// Adds all accounts of another.
    pub fn add_all(&mut self, other: &Ledger) {
        other.0.iter().for_each(|(number, passed)| self.add(Via(Some(*number)), *passed));
    }

    pub fn of(&self, via: Via) -> Passed {
        via.0.and_then(|number| self.0.get(&number)).copied().unwrap_or_default()
    }

    fn add(&mut self, via: Via, more: Passed) {
        let Some(number) = via.0 else { return };
        let account = self.0.entry(number).or_default();
        account.flows += more.flows;
        account.to_target += more.to_target;
        account.to_client += more.to_client;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accounts_are_kept_apart_and_add_up() {
        let (a, b) = (Via::forward(1), Via::forward(2));
        let mut ours = Ledger::default();
        ours.begin(a);
        ours.bytes(a, (5, 7));
        ours.bytes(Via::NOTHING, (100, 100));
        let mut sum = Ledger::default();
        sum.bytes(b, (1, 2));
        sum.add_all(&ours);
        sum.add_all(&ours);
        assert_eq!(sum.of(a), Passed { flows: 2, to_target: 10, to_client: 14 });
        assert_eq!(sum.of(b), Passed { flows: 0, to_target: 1, to_client: 2 });
        let mut flows = [a, b];
        sum.forget(a, flows.iter_mut());
        assert_eq!((sum.of(a), sum.of(Via::NOTHING), flows), (Passed::default(), Passed::default(), [Via::NOTHING, b]));
    }

    #[test]
    fn a_flow_has_four_bytes_more() {
        assert_eq!(size_of::<Via>(), 4);
        assert_eq!((Via::forward(0), Via::forward(1 << 32)), (Via::NOTHING, Via::NOTHING));
    }
}
