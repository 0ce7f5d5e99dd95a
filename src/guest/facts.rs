//! What an engine is told at each call and may not change.

use super::L2;
use crate::base::Instant;
use crate::fwd::Nat;

/// The facts of one loop turn.
#[derive(Clone, Copy, Debug)]
pub struct Facts<'a> {
    pub now: Instant,
    pub l2: &'a L2,
    pub nat: &'a Nat,
}
