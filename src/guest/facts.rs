//! What an engine is told at each call and may not change.

use super::L2;
use crate::base::{Addr, DropReason, Endpoint, Instant};
use crate::flow::FlowKey;
use crate::fwd::Nat;

/// The facts of one loop turn.
#[derive(Clone, Copy, Debug)]
pub struct Facts<'a> {
    pub now: Instant,
    pub l2: &'a L2,
    pub nat: &'a Nat,
}

impl Facts<'_> {
    /// Both ends, as the guest is to see them, of a flow that `from` on the host's side begins to the guest's `port`.
    /// `guest`: the address it is to have there, if not the one it is known by.
    ///
    /// # Errors
    /// Why there can be no such flow.
    pub fn inbound(&self, from: Endpoint, guest: Option<Addr>, port: u16) -> Result<FlowKey, DropReason> {
        if from.port == 0 {
            return Err(DropReason::PortZero);
        }
        // No stack takes it from a link (RFC 1122 §3.2.1.3): its client would wait for ever.
        if guest.is_some_and(|a| a.is_loopback()) {
            return Err(DropReason::DestinationAddress);
        }
        let observed = guest.or_else(|| self.l2.guest_addr(&from.addr));
        let shown = self.nat.to_guest(from.addr, observed).ok_or(DropReason::Disabled)?;
        let guest = guest.or_else(|| self.l2.guest_addr(&shown)).ok_or(DropReason::NoFlow)?;
        if guest.family() != shown.family() {
            return Err(DropReason::NoFlow);
        }
        Ok(FlowKey { guest: Endpoint::new(guest, port), remote: Endpoint::new(shown, from.port) })
    }
}
