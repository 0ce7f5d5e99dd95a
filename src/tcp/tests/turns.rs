//! Whose turn it is.

use super::super::{ATTENTIVE, BUDGET_BYTES, SHORT_BUDGET_BYTES, Tcp};
use crate::flow::{Id, KeySecret};
use crate::fwd::Outbound;

#[test]
fn a_flow_moves_less_at_a_time_while_others_have_something() {
    let poll = mio::Poll::new().unwrap();
    let registry = poll.registry().try_clone().unwrap();
    let (a, b) = (KeySecret::fixed([1; 16]), KeySecret::fixed([2; 16]));
    let mut tcp = Tcp::new(registry, a, b, Outbound::default(), 1500, 10);
    let [bulk, other] = [0, 1].map(|index| Id { index, generation: 1 });
    for _ in 0..3 {
        for id in [bulk, other] {
            assert_eq!(tcp.budget(id), SHORT_BUDGET_BYTES);
        }
        for _ in 1..ATTENTIVE {
            assert_eq!(tcp.budget(other), SHORT_BUDGET_BYTES);
        }
        // Nobody else has had anything for a while.
        assert_eq!([tcp.budget(other), tcp.budget(other)], [BUDGET_BYTES; 2]);
    }
}
