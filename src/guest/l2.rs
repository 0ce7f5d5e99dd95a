//! Who is who on the guest link.

use super::Neighbours;
use crate::base::{Addr, Mac};

/// MAC and IP addresses of the two ends of the guest link.
#[derive(Clone, Debug)]
pub struct L2 {
    /// The gateway's, that is ours.
    pub our_mac: Mac,
    /// The guest's: learnt from its frames, or known from the tap device. Broadcast until known.
    pub guest_mac: Mac,
    /// Last valid source addresses seen from the guest; until then the assigned ones. Inbound flows go there.
    pub guest_v4: Option<Addr>,
    pub guest_v6: Option<Addr>,
    pub guest_link_local: Option<Addr>,
    /// Stations that are known to the guest by their own MACs. All others are behind ours.
    pub neighbours: Neighbours,
}

impl L2 {
    /// Source MAC for a frame whose IP source is `addr`, and what the guest is told when it asks for `addr`.
    pub fn mac_for(&self, addr: &Addr) -> Mac {
        self.neighbours.mac(addr).unwrap_or(self.our_mac)
    }

    /// Where inbound traffic whose source (as the guest sees it) is `src` goes.
    pub fn guest_addr(&self, src: &Addr) -> Option<Addr> {
        if src.is_v4() {
            self.guest_v4
        } else if src.is_link_local() {
            self.guest_link_local
        } else {
            self.guest_v6
        }
    }
}
