//! Flows whose address the host has no more.

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::{Side, Udp};
use crate::sys::socket;

impl Udp {
    /// The host's network has changed: flows of the guest go on from an address that there is. IPv6 sockets would go on from the
    /// one that has gone, without an error.
    pub(super) fn renew_sources(&mut self) {
        let scope = self.config.outbound.scope;
        let mut known: BTreeMap<IpAddr, bool> = BTreeMap::new();
        for (_, _, flow) in self.table.iter().filter(|(_, _, flow)| flow.started_by == Side::Guest) {
            flow.renew_source(scope, |own| *known.entry(own).or_insert_with(|| socket::has_address(own)));
        }
    }
}
