//! What the gateway tells its guest: plain values, decided at start, and again when the host's network changes.

use crate::base::{Addr, Family, Mac, PerFamily};
use crate::wire::dhcpv6;

/// Settings of the responders. Nothing here is checked again: addresses are of the family they are filed under.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Our MAC when no better one is known; the DHCPv6 server identifier is made of it, so it should outlive a restart.
    pub our_mac: Mac,
    /// The gateway as told to the guest; without an IPv4 one there is no DHCP server.
    pub gateway: PerFamily<Option<Addr>>,
    /// Our link-local IPv6 address on the guest link; without it there are no router advertisements and no DHCPv6.
    pub our_link_local: Option<Addr>,
    /// The guest's address and prefix length.
    pub assigned: PerFamily<Option<(Addr, u8)>>,
    /// IP MTU of the guest link; `None`: not advertised.
    pub mtu: Option<u16>,
    /// Resolvers, of both families; the first three of each are told.
    pub dns: Vec<Addr>,
    /// Search list; names that are no domain names are left out.
    pub search: Vec<String>,
    pub hostname: Option<String>,
    pub fqdn: Option<String>,
    /// Whether ARP is answered.
    pub arp: bool,
    pub ndp: bool,
    /// Router advertisements; need `ndp`.
    pub ra: bool,
    pub dhcp: bool,
    pub dhcpv6: bool,
    /// What DHCP and DHCPv6 give is good for a while only, so that clients ask again: what they are told may change.
    pub leases_end: bool,
    /// Nobody has chosen the length of the IPv6 prefix: it is that of the host's address.
    pub prefix_is_hosts: bool,
    /// Resolvers in DHCP, DHCPv6 and router advertisements.
    pub dns_in_dhcp: bool,
    /// The search list in the same places.
    pub search_in_dhcp: bool,
    pub v4: bool,
    pub v6: bool,
    /// Start of the random intervals between router advertisements.
    pub seed: u64,
}

impl Config {
    /// Resolvers to tell the guest.
    pub(super) fn resolvers(&self, family: Family) -> impl Iterator<Item = &Addr> {
        let max = if self.dns_in_dhcp { RESOLVERS_MAX } else { 0 };
        self.dns.iter().filter(move |a| a.family() == family).take(max)
    }

    /// Domains to tell the guest.
    pub(super) fn search_list(&self) -> &[String] {
        if self.search_in_dhcp { &self.search } else { &[] }
    }

    /// The server identifier of RFC 8415 §11: the same at every start, so that clients can renew.
    pub(super) fn duid(&self) -> [u8; 10] {
        dhcpv6::duid_ll(self.our_mac)
    }

    /// Our IPv4 and the guest's, if there is a DHCP server.
    pub(super) fn dhcp_addresses(&self) -> Option<(Addr, Addr, u8)> {
        let (guest, len) = self.assigned.v4.filter(|_| self.dhcp && self.v4)?;
        Some((self.gateway.v4?, guest, len))
    }

    /// Of what DHCP and DHCPv6 give.
    pub(super) fn lifetimes(&self) -> Lifetimes {
        if self.leases_end { Lifetimes::SHORT } else { Lifetimes::INFINITE }
    }

    pub(super) fn serves_dhcpv6(&self) -> bool {
        self.dhcpv6 && self.v6 && self.our_link_local.is_some()
    }

    pub(super) fn sends_ra(&self) -> bool {
        self.ra && self.ndp && self.v6 && self.our_link_local.is_some()
    }

    /// True for the addresses under which we are the guest's router.
    pub(super) fn is_router(&self, addr: &Addr) -> bool {
        self.gateway.is(addr) || self.our_link_local == Some(*addr)
    }

    /// True for the broadcast address of the guest's IPv4 subnet.
    pub(super) fn is_directed_broadcast(&self, addr: &Addr) -> bool {
        let Some((guest, len)) = self.assigned.v4.filter(|(_, len)| *len < 31) else { return false };
        let host_bits = u32::MAX.checked_shr(u32::from(len)).unwrap_or(0);
        addr.same_prefix(&guest, len) && addr.to_v4().is_some_and(|a| a.to_bits() & host_bits == host_bits)
    }
}

/// In seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Lifetimes {
    /// When the client asks the same server again ...
    pub renew: u32,
    /// ... and when any.
    pub rebind: u32,
    pub end: u32,
}

impl Lifetimes {
    pub const INFINITE: Lifetimes = Lifetimes { renew: u32::MAX, rebind: u32::MAX, end: u32::MAX };
    /// Clients ask every five minutes, and do for an hour without an answer.
    const SHORT: Lifetimes = Lifetimes { renew: 300, rebind: 3000, end: 3600 };
}

/// More are not read by the resolver of any libc (MAXNS).
const RESOLVERS_MAX: usize = 3;

#[cfg(test)]
mod tests {
    use super::super::testing::{a, config};
    use super::*;

    #[test]
    fn directed_broadcast_needs_a_subnet() {
        let with = |len| Config { assigned: PerFamily::new(Some((a("192.0.2.7"), len)), None), ..config() };
        assert!(with(24).is_directed_broadcast(&a("192.0.2.255")));
        assert!(with(29).is_directed_broadcast(&a("192.0.2.7")));
        assert!(!with(24).is_directed_broadcast(&a("192.0.3.255")));
        assert!(with(0).is_directed_broadcast(&a("255.255.255.255")));
        for len in [31, 32] {
            assert!(!with(len).is_directed_broadcast(&a("192.0.2.7")));
        }
    }

    #[test]
    fn resolvers_are_three_of_a_family_or_none() {
        let mut c = config();
        c.dns = ["192.0.2.1", "2001:db8::1", "192.0.2.2", "192.0.2.3", "192.0.2.4"].map(a).to_vec();
        assert_eq!(c.resolvers(Family::V4).count(), 3);
        assert_eq!(c.resolvers(Family::V6).count(), 1);
        c.dns_in_dhcp = false;
        assert_eq!(c.resolvers(Family::V4).count(), 0);
    }
}
