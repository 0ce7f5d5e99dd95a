//! Address translation. There is none but the few addresses that cannot mean the same on both sides.

use std::ffi::{CStr, CString};
use std::net::{Ipv4Addr, Ipv6Addr};

use crate::base::{Addr, Endpoint, Family, PerFamily};

const DNS_PORTS: [u16; 2] = [53, 853];
/// Link-local (RFC 3927 §2.1), for a guest whose default route names no gateway: it takes every address to be on its link,
/// where we answer for all.
const STAND_IN_V4: Addr = Addr::v4([169, 254, 2, 2]);

/// The translated addresses, each per family; `None` switches a rule off.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Nat {
    /// The gateway as told to the guest; the IPv6 one may be link-local.
    pub gateway: PerFamily<Option<Addr>>,
    /// Our link-local address on the guest link.
    pub our_link_local: Option<Addr>,
    /// Guest packets to this address go to the host's loopback.
    pub map_host_loopback: PerFamily<Option<Addr>>,
    /// Guest packets to this address go to the host's own address that the guest shares.
    pub map_guest_addr: PerFamily<Option<Addr>>,
    /// Guest packets to ports 53 and 853 of this address go to `dns_host`.
    pub dns_forward: PerFamily<Option<Addr>>,
    /// Of either family: the value for a `dns_forward` address of the family it is indexed by.
    pub dns_host: PerFamily<Option<Addr>>,
    /// The guest's assigned address, which may be one of the host's own.
    pub assigned: PerFamily<Option<Addr>>,
    /// More addresses that both the host and the guest have.
    pub shared: Vec<Addr>,
    /// Clients on the host's loopback come in as the gateway even where no address of the guest's leads there.
    pub loopback_clients: bool,
    /// What held before the host's network changed, for a guest that may not have learnt it yet; the latest first.
    pub former: Vec<Former>,
}

/// Rules that hold no more, and still lead somewhere: behind all others.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Former {
    pub map_host_loopback: PerFamily<Option<Addr>>,
    pub dns_forward: PerFamily<Option<Addr>>,
    /// For `dns_forward`, as of now.
    pub dns_host: PerFamily<Option<Addr>>,
    pub assigned: PerFamily<Option<Addr>>,
}

impl Former {
    /// True if all that this leads, `other` leads the same way.
    pub fn is_within(&self, other: &Former) -> bool {
        let pairs = [
            (&self.map_host_loopback, &other.map_host_loopback),
            (&self.dns_forward, &other.dns_forward),
            (&self.assigned, &other.assigned),
        ];
        let within = |f: Family| pairs.iter().all(|(own, others)| own[f].is_none() || own[f] == others[f]);
        within(Family::V4) && within(Family::V6)
    }
}

impl Nat {
    /// Where on the host a packet from the guest to `dst` goes. First match wins.
    pub fn to_host(&self, dst: Endpoint) -> Endpoint {
        let f = dst.addr.family();
        if DNS_PORTS.contains(&dst.port)
            && self.dns_forward.is(&dst.addr)
            && let Some(resolver) = self.dns_host[f]
        {
            return Endpoint::new(resolver, dst.port);
        }
        let former = |n: &Former| n.dns_host[f].filter(|_| n.dns_forward.is(&dst.addr));
        if DNS_PORTS.contains(&dst.port)
            && self.translated(dst.addr).is_none()
            && let Some(resolver) = self.former.iter().find_map(former)
        {
            return Endpoint::new(resolver, dst.port);
        }
        Endpoint::new(self.address_to_host(dst.addr), dst.port)
    }

    /// The same for protocols without ports.
    pub fn address_to_host(&self, dst: Addr) -> Addr {
        // The guest's own address of today leads nowhere but to itself.
        let former = |n: &Former| n.map_host_loopback.is(&dst) && !self.assigned.is(&dst);
        match self.translated(dst) {
            Some(addr) => addr,
            None if self.former.iter().any(former) => loopback(dst.family()),
            None => dst,
        }
    }

    /// Where the rules of now lead.
    fn translated(&self, dst: Addr) -> Option<Addr> {
        let f = dst.family();
        if self.map_host_loopback.is(&dst) {
            return Some(loopback(f));
        }
        self.assigned[f].filter(|_| self.map_guest_addr.is(&dst))
    }

    /// True for addresses whose packets from the guest do not go, or not all, to the station that may have them on a link
    /// of the host, and for the guest's own.
    pub fn is_taken(&self, addr: &Addr) -> bool {
        self.map_host_loopback.is(addr)
            || self.map_guest_addr.is(addr)
            || self.dns_forward.is(addr)
            || self.assigned.is(addr)
            || self.our_link_local == Some(*addr) && !self.gateway.is(addr)
            || *addr == STAND_IN_V4 && self.gateway.v4.is_none()
            || self.former.iter().any(|n| n.map_host_loopback.is(addr) || n.dns_forward.is(addr) || n.assigned.is(addr))
    }

    /// True for addresses that are the guest's, or may be still.
    pub fn is_assigned(&self, addr: &Addr) -> bool {
        self.assigned.is(addr) || self.former.iter().any(|n| n.assigned.is(addr))
    }

    /// The source a guest sees for a packet that came from `src` on the host, or `None` if there is no address to show.
    ///
    /// Clients on the host's loopback have one only where the guest has an address for that loopback: with
    /// `--no-map-gw`, what cannot go from socket to socket is not let in under somebody else's name. A personality that
    /// has no other way for them says so in `loopback_clients`.
    pub fn to_guest(&self, src: Addr, guest: Option<Addr>) -> Option<Addr> {
        let f = src.family();
        if src.is_loopback() {
            return match self.map_host_loopback[f] {
                Some(shown) if src == loopback(f) => Some(shown),
                None if !self.loopback_clients => None,
                _ => self.stand_in(&src),
            };
        }
        if self.is_assigned(&src) || self.shared.contains(&src) || guest == Some(src) || src.is_unspecified() {
            return self.map_guest_addr[f].or_else(|| self.stand_in(&src));
        }
        Some(src)
    }

    /// A gateway address of matching scope, for sources that clash with the guest's own.
    fn stand_in(&self, src: &Addr) -> Option<Addr> {
        match self.gateway[src.family()] {
            Some(g) if src.is_v4() || g.is_link_local() == src.is_link_local() => Some(g),
            None if src.is_v4() => Some(STAND_IN_V4),
            _ => self.our_link_local.filter(|_| !src.is_v4()),
        }
    }
}

fn loopback(f: Family) -> Addr {
    match f {
        Family::V4 => Ipv4Addr::LOCALHOST.into(),
        Family::V6 => Ipv6Addr::LOCALHOST.into(),
    }
}

/// What every socket towards the host's network is bound to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outbound {
    /// Source address, if not the kernel's choice.
    pub addr: PerFamily<Option<Addr>>,
    /// Device, if not the kernel's choice.
    pub device: PerFamily<Option<CString>>,
    /// Interface index for link-local IPv6 destinations; 0: none known.
    pub scope: u32,
}

impl Outbound {
    /// What a socket to `target` is bound to: a device, and a source address that may be unspecified. What stays on this
    /// host or link cannot leave through a device or address of the outer network.
    pub fn binding(&self, target: &Addr) -> (Option<&CStr>, Addr) {
        let family = target.family();
        if target.is_loopback() || target.is_link_local() {
            return (None, Addr::unspecified(family));
        }
        (self.device[family].as_deref(), self.addr[family].unwrap_or(Addr::unspecified(family)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn a(s: &str) -> Addr {
        s.parse::<std::net::IpAddr>().unwrap().into()
    }

    fn nat() -> Nat {
        Nat {
            gateway: PerFamily::new(Some(a("192.0.2.1")), Some(a("fe80::1"))),
            our_link_local: Some(a("fe80::1")),
            map_host_loopback: PerFamily::new(Some(a("192.0.2.1")), Some(a("fe80::1"))),
            dns_forward: PerFamily::new(Some(a("169.254.1.1")), None),
            dns_host: PerFamily::new(Some(a("127.0.0.53")), None),
            assigned: PerFamily::new(Some(a("192.0.2.7")), Some(a("2001:db8::7"))),
            ..Nat::default()
        }
    }

    #[test]
    fn first_match_wins_towards_the_host() {
        let to = |s: &str, port| nat().to_host(Endpoint::new(a(s), port)).addr;
        assert_eq!(to("169.254.1.1", 53), a("127.0.0.53"));
        assert_eq!(to("169.254.1.1", 80), a("169.254.1.1"));
        assert_eq!(to("192.0.2.1", 53), a("127.0.0.1"));
        assert_eq!(to("fe80::1", 80), a("::1"));
        assert_eq!(to("192.0.2.7", 80), a("192.0.2.7"));
        let mapped = Nat { map_guest_addr: PerFamily::new(Some(a("169.254.1.2")), None), ..nat() };
        assert_eq!(mapped.to_host(Endpoint::new(a("169.254.1.2"), 1)).addr, a("192.0.2.7"));
    }

    #[test]
    fn b217_sources_that_clash_are_translated() {
        let from = |s: &str| nat().to_guest(a(s), None);
        assert_eq!(from("127.0.0.1"), Some(a("192.0.2.1")));
        assert_eq!(from("127.9.9.9"), Some(a("192.0.2.1")));
        assert_eq!(from("::1"), Some(a("fe80::1")));
        assert_eq!(from("192.0.2.7"), Some(a("192.0.2.1")));
        assert_eq!(from("2001:db8::7"), Some(a("fe80::1")));
        assert_eq!(from("198.51.100.3"), Some(a("198.51.100.3")));
        assert_eq!(nat().to_guest(a("198.51.100.3"), Some(a("198.51.100.3"))), Some(a("192.0.2.1")));
        let n = Nat { shared: vec![a("192.0.2.8"), a("2001:db8::8")], ..nat() };
        assert_eq!(n.to_guest(a("192.0.2.8"), None), Some(a("192.0.2.1")));
        assert_eq!(n.to_guest(a("2001:db8::8"), None), Some(a("fe80::1")));
        assert!(!n.is_taken(&a("192.0.2.8")), "the guest may come from it");
    }

    /// Defect of a peer: its loopback clients come in under the gateway's address all the same.
    #[test]
    fn d14_without_the_loopback_map_loopback_clients_have_no_address() {
        let n = Nat { map_host_loopback: PerFamily::default(), ..nat() };
        for s in ["127.0.0.1", "127.0.0.9", "::1"] {
            assert_eq!(n.to_guest(a(s), None), None, "{s}");
        }
        for gateway in ["192.0.2.1", "fe80::1"] {
            assert_eq!(n.address_to_host(a(gateway)), a(gateway));
        }
    }

    #[test]
    fn loopback_clients_may_be_let_in_without_a_way_back_to_them() {
        let fd00 = PerFamily::new(Some(a("10.0.2.2")), Some(a("fd00::2")));
        let n = Nat { map_host_loopback: PerFamily::default(), gateway: fd00, loopback_clients: true, ..nat() };
        for (client, shown) in [("127.0.0.1", "10.0.2.2"), ("127.0.0.9", "10.0.2.2"), ("::1", "fd00::2")] {
            assert_eq!(n.to_guest(a(client), None), Some(a(shown)), "{client}");
            assert_eq!(n.address_to_host(a(shown)), a(shown));
        }
    }

    #[test]
    fn addresses_that_are_translated_are_taken() {
        let n = Nat { map_guest_addr: PerFamily::new(Some(a("169.254.1.2")), None), ..nat() };
        for taken in ["192.0.2.1", "fe80::1", "169.254.1.1", "169.254.1.2", "192.0.2.7", "2001:db8::7"] {
            assert!(n.is_taken(&a(taken)), "{taken}");
        }
        for free in ["192.0.2.9", "2001:db8::9", "fe80::2", "169.254.2.2"] {
            assert!(!n.is_taken(&a(free)), "{free}");
        }
    }

    #[test]
    fn a_gateway_that_is_not_translated_is_the_hosts() {
        let n = Nat { map_host_loopback: PerFamily::default(), ..nat() };
        assert!(!n.is_taken(&a("192.0.2.1")) && !n.is_taken(&a("fe80::1")));
        let none = Nat { gateway: PerFamily::default(), ..n };
        assert!(none.is_taken(&a("169.254.2.2")) && none.is_taken(&a("fe80::1")));
    }

    /// A guest in another network, which has not renewed its lease.
    fn moved() -> Nat {
        let former = Former {
            map_host_loopback: nat().map_host_loopback,
            dns_forward: nat().dns_forward,
            dns_host: PerFamily::new(Some(a("198.51.100.53")), None),
            assigned: nat().assigned,
        };
        Nat {
            gateway: PerFamily::new(Some(a("198.51.100.1")), Some(a("fe80::9"))),
            our_link_local: Some(a("fe80::9")),
            map_host_loopback: PerFamily::new(Some(a("198.51.100.1")), Some(a("fe80::9"))),
            assigned: PerFamily::new(Some(a("198.51.100.7")), Some(a("2001:db8:9::7"))),
            former: vec![former],
            ..Nat::default()
        }
    }

    #[test]
    fn former_addresses_lead_on_behind_those_of_now() {
        let to = |s: &str, port| moved().to_host(Endpoint::new(a(s), port)).addr;
        assert_eq!(to("169.254.1.1", 53), a("198.51.100.53"));
        assert_eq!(to("192.0.2.1", 80), a("127.0.0.1"));
        assert_eq!(to("198.51.100.1", 80), a("127.0.0.1"));
        assert_eq!(to("203.0.113.1", 80), a("203.0.113.1"));
        let mut n = moved();
        n.map_guest_addr.v4 = Some(a("192.0.2.1"));
        assert_eq!(n.address_to_host(a("192.0.2.1")), a("198.51.100.7"));
        n.map_guest_addr.v4 = Some(a("169.254.1.1"));
        assert_eq!(n.to_host(Endpoint::new(a("169.254.1.1"), 53)).addr, a("198.51.100.7"));
    }

    #[test]
    fn nobody_else_is_shown_under_an_address_that_the_guest_may_have_still() {
        assert_eq!(moved().to_guest(a("192.0.2.7"), None), Some(a("198.51.100.1")));
        assert!(moved().is_taken(&a("192.0.2.7")) && moved().is_taken(&a("192.0.2.1")));
    }

    #[test]
    fn without_a_gateway_there_is_still_an_address_to_show() {
        let none = PerFamily::default;
        let n = Nat { map_host_loopback: none(), gateway: none(), ..nat() };
        assert_eq!(n.to_guest(a("192.0.2.7"), None), Some(a("169.254.2.2")));
        assert_eq!(n.to_guest(a("2001:db8::7"), None), Some(a("fe80::1")));
    }
}
