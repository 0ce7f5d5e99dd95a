//! Prefixes and routes as values, between the netlink reader, the configuration and the namespace set-up.

use std::fmt;

use super::{Addr, Family};

/// An address with the length of its prefix in bits: as assigned to an interface, or a route's destination.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Prefix {
    pub addr: Addr,
    /// 0–32 or 0–128.
    pub len: u8,
}

impl Prefix {
    pub const fn new(addr: Addr, len: u8) -> Prefix {
        Prefix { addr, len }
    }

    /// The destination of a default route.
    pub fn any(family: Family) -> Prefix {
        Prefix::new(Addr::unspecified(family), 0)
    }

    pub fn contains(&self, addr: &Addr) -> bool {
        self.addr.same_prefix(addr, self.len)
    }

    /// The prefix with its host bits cleared.
    #[must_use]
    pub fn network(&self) -> Prefix {
        Prefix::new(self.addr.masked(self.len), self.len)
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.addr, self.len)
    }
}

impl fmt::Debug for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// One way a route's packets may leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hop {
    /// `None`: the destination is on the link. May be IPv6 for an IPv4 route (RFC 5549).
    pub gateway: Option<Addr>,
    /// Share of the traffic among several hops, 1–256.
    pub weight: u16,
    /// The gateway is on the link although no prefix says so.
    pub onlink: bool,
}

/// A unicast route of the main table through one interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    pub dst: Prefix,
    /// At least one.
    pub hops: Vec<Hop>,
    /// Preference, lowest first; `None`: the kernel's default.
    pub metric: Option<u32>,
    /// Path MTU the route is limited to.
    pub mtu: Option<u32>,
    /// The kernel made it for an address of the interface, and will make it again.
    pub connected: bool,
}

impl Route {
    /// A route through one gateway, or on the link without one.
    pub fn new(dst: Prefix, gateway: Option<Addr>) -> Route {
        let hops = vec![Hop { gateway, weight: 1, onlink: false }];
        Route { dst, hops, metric: None, mtu: None, connected: false }
    }

    pub fn default_via(gateway: Addr) -> Route {
        Route::new(Prefix::any(gateway.family()), Some(gateway))
    }

    pub fn is_default(&self) -> bool {
        self.dst.len == 0
    }

    pub fn family(&self) -> Family {
        self.dst.addr.family()
    }

    /// The gateway of the hop with the highest weight, the first on ties.
    pub fn gateway(&self) -> Option<Addr> {
        let best = self.hops.iter().map(|h| h.weight).max()?;
        self.hops.iter().find(|h| h.weight == best)?.gateway
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn network_clears_host_bits() {
        let p = Prefix::new(Addr::v4([192, 0, 2, 77]), 26);
        assert_eq!(p.network().to_string(), "192.0.2.64/26");
        assert!(p.contains(&Addr::v4([192, 0, 2, 127])) && !p.contains(&Addr::v4([192, 0, 2, 128])));
        assert_eq!(Prefix::new(Addr::v4([1, 2, 3, 4]), 0).network(), Prefix::any(Family::V4));
    }

    #[test]
    fn upstream_2024_02_heaviest_hop_is_the_gateway() {
        let hop = |n, weight| Hop { gateway: Some(Addr::v4([10, 0, 0, n])), weight, onlink: false };
        let mut r = Route::default_via(Addr::v4([10, 0, 0, 9]));
        r.hops = vec![hop(1, 1), hop(2, 5), hop(3, 5)];
        assert_eq!(r.gateway(), Some(Addr::v4([10, 0, 0, 2])));
    }
}
