//! Who may have how many of the descriptors. Pure.

/// Flows there are, or may be, by engine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flows {
    pub tcp: usize,
    pub udp: usize,
    pub icmp: usize,
    /// Connections past the link: two descriptors each.
    pub spliced_tcp: usize,
    pub spliced_udp: usize,
}

/// More flows of one kind than this would be a table for its own sake.
const FLOWS_MAX: usize = 1 << 17;

impl Flows {
    pub const KINDS: usize = 5;

    pub fn all(&self) -> [usize; Flows::KINDS] {
        [self.tcp, self.udp, self.icmp, self.spliced_tcp, self.spliced_udp]
    }

    /// The sum of both.
    #[must_use]
    pub fn with(&self, other: &Flows) -> Flows {
        let (ours, theirs) = (self.all(), other.all());
        Flows::from(std::array::from_fn(|i| ours[i] + theirs[i]))
    }

    /// What one of so many `workers` may have of these until it looks again, one of each kind at least: what it has, and
    /// its part of what is free, for the others may take theirs at the same time.
    #[must_use]
    pub fn for_one(&self, ours: &Flows, others: &Flows, workers: usize) -> Flows {
        let (all, ours, others) = (self.all(), ours.all(), others.all());
        Flows::from(std::array::from_fn(|i| {
            let left = all[i].saturating_sub(others[i]);
            let free = left.saturating_sub(ours[i]);
            (left - free + free.div_ceil(workers)).max(1)
        }))
    }

    /// Descriptors they have.
    pub fn descriptors(&self) -> usize {
        self.all().iter().zip(COST).map(|(n, cost)| n * cost).sum()
    }

    /// How many there may be of each, given those there are and the `descriptors` for all of them. Each kind may grow into
    /// what is free, but for a part that is kept for each of the others, so that whatever a flood opens, there is always
    /// room for a few of every kind; of datagrams, which anybody can make many flows with, only so far.
    pub fn limits(&self, descriptors: usize) -> Flows {
        let part = |n: usize| (descriptors / n).max(1);
        let most = [descriptors, part(4), part(16).min(1024), descriptors, part(4)];
        let kept = [part(64), part(64), part(128), part(64), part(128)];
        let all = self.all();
        let used: [usize; Flows::KINDS] = std::array::from_fn(|i| all[i] * COST[i]);
        let free = descriptors.saturating_sub(used.iter().sum());
        let unmet: [usize; Flows::KINDS] = std::array::from_fn(|i| kept[i].saturating_sub(used[i]));
        let limit = |i: usize| {
            let for_others: usize = unmet.iter().sum::<usize>() - unmet[i];
            let room = free.saturating_sub(for_others);
            ((used[i] + room).min(most[i]) / COST[i]).clamp(1, FLOWS_MAX)
        };
        Flows { tcp: limit(0), udp: limit(1), icmp: limit(2), spliced_tcp: limit(3), spliced_udp: limit(4) }
    }
}

impl From<[usize; Flows::KINDS]> for Flows {
    fn from([tcp, udp, icmp, spliced_tcp, spliced_udp]: [usize; Flows::KINDS]) -> Flows {
        Flows { tcp, udp, icmp, spliced_tcp, spliced_udp }
    }
}

/// Descriptors of one flow.
const COST: [usize; Flows::KINDS] = [1, 1, 1, 2, 2];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nearly_all_are_for_whoever_comes_first() {
        let limits = Flows::default().limits(19_900);
        assert!(limits.tcp > 18_500 && limits.spliced_tcp >= 9_400, "{limits:?}");
        assert_eq!((limits.udp, limits.icmp), (4975, 1024));
    }

    #[test]
    fn workers_that_grow_at_the_same_time_stay_within_the_limits() {
        let limits = Flows { tcp: 100, udp: 100, icmp: 1, spliced_tcp: 7, spliced_udp: 0 };
        let (ours, others) =
            (Flows { tcp: 10, udp: 90, ..Flows::default() }, Flows { tcp: 30, udp: 30, ..Flows::default() });
        let ours_at_most = limits.for_one(&ours, &others, 4).all();
        // A quarter of the 60 that are free; of what there is too much of, others leave 70.
        assert_eq!(ours_at_most, [25, 70, 1, 2, 1]);
        assert_eq!(limits.for_one(&ours, &others, 1).all(), [70, 70, 1, 7, 1]);
        assert_eq!(limits.for_one(&Flows::default(), &Flows::default(), 4).tcp * 4, 100);
    }

    #[test]
    fn a_crowd_of_one_kind_leaves_room_for_the_others() {
        let crowd = Flows { tcp: Flows::default().limits(1000).tcp, ..Flows::default() };
        let limits = crowd.limits(1000);
        assert_eq!(limits.tcp, crowd.tcp);
        assert!(
            limits.udp >= 15 && limits.icmp >= 7 && limits.spliced_tcp >= 7 && limits.spliced_udp >= 3,
            "{limits:?}"
        );
    }

    proptest::proptest! {
        #[test]
        fn no_kind_grows_into_what_is_not_there(
            descriptors in 100usize..70_000, tcp in 0usize..500, udp in 0usize..500, spliced in 0usize..500,
        ) {
            let now = Flows { tcp, udp, icmp: 3, spliced_tcp: spliced, spliced_udp: 7 };
            let used: usize = now.all().iter().zip(COST).map(|(n, c)| n * c).sum();
            let limits = now.limits(descriptors);
            for ((may, is), cost) in limits.all().into_iter().zip(now.all()).zip(COST) {
                let grows = may.saturating_sub(is) * cost;
                proptest::prop_assert!(grows <= descriptors.saturating_sub(used) || may == 1, "{limits:?}");
            }
        }
    }
}
