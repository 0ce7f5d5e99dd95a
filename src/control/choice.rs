//! Which flows are listed: those that a filter takes, the first of them in its order. Pure.

use super::protocol::{Filter, Flow, Flows, Sort, protocol_name};
use crate::flow::View;

impl Filter {
    pub fn takes(&self, v: &View) -> bool {
        let ends = || [v.guest, v.remote].into_iter().chain(v.host.into_iter().flat_map(|(a, b)| [a, b]));
        self.may_take(v)
            && self.port.is_none_or(|port| ends().any(|e| e.port == port))
            && self.address.is_none_or(|a| ends().any(|e| e.addr.to_ip() == a))
    }

    /// As far as can be told without knowing all ends.
    pub fn may_take(&self, v: &View) -> bool {
        self.protocol.as_ref().is_none_or(|p| p == protocol_name(v.protocol))
            && self.state.as_ref().is_none_or(|s| s == v.state)
    }

    /// Of flows that it takes: the first in its order, as many as there may be, in no order; and how many there were.
    pub fn choose<T>(&self, all: impl Iterator<Item = T>, view: impl Fn(&T) -> &View) -> (usize, Vec<T>) {
        let limit = self.limit();
        let mut total = 0;
        let mut kept = Vec::new();
        let shorten = |kept: &mut Vec<T>| {
            if kept.len() > limit {
                kept.select_nth_unstable_by_key(limit, |one| self.rank(view(one)));
                kept.truncate(limit);
            }
        };
        for one in all.filter(|one| self.takes(view(one))) {
            total += 1;
            kept.push(one);
            if kept.len() >= 2 * limit.max(SPARE) {
                shorten(&mut kept);
            }
        }
        shorten(&mut kept);
        (total, kept)
    }

    /// What was chosen, in order.
    pub fn list(&self, mut found: Found) -> Flows {
        found.views.sort_by_key(|view| self.rank(view));
        found.views.truncate(self.limit());
        Flows { total: found.total, flows: found.views.iter().map(Flow::from).collect() }
    }

    /// The least comes first.
    fn rank(&self, v: &View) -> u128 {
        match self.sort {
            Sort::Bytes => u128::MAX - u128::from(v.traffic.from_guest.bytes) - u128::from(v.traffic.to_guest.bytes),
            Sort::Age => u128::MAX - v.age.as_nanos(),
            Sort::Idle => v.idle.as_nanos(),
            Sort::Port => u128::from(v.guest.port) << 16 | u128::from(v.remote.port),
        }
    }

    fn limit(&self) -> usize {
        self.limit.unwrap_or(Filter::LIMIT).min(Filter::LIMIT_MAX)
    }
}

/// Kept beyond the limit before it is looked which may go.
const SPARE: usize = 64;

/// What one worker, or all, have of a filter's flows.
#[derive(Clone, Debug, Default)]
pub struct Found {
    pub total: usize,
    /// Those that may be listed.
    pub views: Vec<View>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::{Addr, Endpoint, Instant};
    use crate::flow::Protocol;

    #[test]
    fn the_first_are_listed_and_all_are_counted() {
        let view = |n: u64| {
            let ends = (Endpoint::new(Addr::V4_UNSPECIFIED, (n % 1000) as u16), Endpoint::new(Addr::V4_UNSPECIFIED, 1));
            let mut view =
                View::new(Protocol::Tcp, ends, (Instant::ZERO, Instant::from_nanos(n)), "established", Instant::FAR);
            view.traffic.to_guest.bytes = n * 7919 % 5000;
            view
        };
        let all = || (0..5000).map(view);
        for (sort, limit) in
            [(Sort::Bytes, 10), (Sort::Idle, 1), (Sort::Age, 100), (Sort::Bytes, 0), (Sort::Idle, 9000)]
        {
            let filter = Filter { sort, limit: Some(limit), ..Filter::default() };
            let (total, views) = filter.choose(all(), |view| view);
            assert_eq!((total, views.len()), (5000, limit.min(5000)));
            let whole = Filter { limit: Some(9000), ..filter.clone() };
            let key = |f: &Flow| (f.bytes_to_guest, f.idle.to_bits());
            let expected: Vec<_> = whole.list(Found { total, views: all().collect() }).flows.iter().map(key).collect();
            let got: Vec<_> = filter.list(Found { total, views }).flows.iter().map(key).collect();
            match sort {
                // All are of the same age.
                Sort::Age => assert_eq!(got.len(), limit),
                _ => assert_eq!(got, expected[..limit.min(5000)]),
            }
        }
        let filter = Filter { port: Some(999), ..Filter::default() };
        assert_eq!(filter.choose(all(), |view| view).0, 5);
    }
}
