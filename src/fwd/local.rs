//! The way that skips Layer 2: from one namespace's loopback to the other namespace, socket to socket. Pure.

use crate::base::{Addr, Family, PerFamily};

/// Which clients take it, and where it leads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Local {
    /// Off: the link is the only way.
    pub on: bool,
    /// Clients on the host's loopback reach the guest's loopback. Without it they reach its outer address, and services
    /// that it offers to itself alone stay its own.
    pub to_loopback: bool,
}

impl Local {
    /// Where in the guest's namespace a client goes that connected from `from` to `local` on the host; `None`: through
    /// the link. `target`: the rule's. `guest`: the addresses the guest is known by.
    pub fn to_guest(
        &self,
        from: &Addr,
        local: Addr,
        target: Option<Addr>,
        guest: &PerFamily<Option<Addr>>,
    ) -> Option<Addr> {
        if !self.on || !from.is_loopback() {
            return None;
        }
        let other = |f| if f == Family::V4 { Family::V6 } else { Family::V4 };
        let f = from.family();
        // A socket has no family to keep: a guest with IPv4 alone can serve clients at ::1.
        let outer = guest[f].or(guest[other(f)]);
        target.or_else(|| if self.to_loopback && local.is_loopback() { Some(local) } else { outer })
    }

    /// Where on the host a client goes that connected from `from` to `local` in the guest's namespace: to the same
    /// loopback address. `None`: it is not from loopback, and has the link.
    pub fn to_host(from: &Addr, local: Addr) -> Option<Addr> {
        (from.is_loopback() && local.is_loopback()).then_some(local)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn a(s: &str) -> Addr {
        s.parse::<std::net::IpAddr>().unwrap().into()
    }

    fn guest() -> PerFamily<Option<Addr>> {
        PerFamily::new(Some(a("192.0.2.7")), Some(a("2001:db8::7")))
    }

    #[test]
    fn loopback_clients_reach_the_outer_address() {
        let local = Local { on: true, to_loopback: false };
        let to = |from: &str, at: &str| local.to_guest(&a(from), a(at), None, &guest());
        assert_eq!(to("127.0.0.1", "127.0.0.5"), Some(a("192.0.2.7")));
        assert_eq!(to("::1", "::1"), Some(a("2001:db8::7")));
        assert_eq!(to("192.0.2.7", "192.0.2.7"), None);
        assert_eq!(Local::default().to_guest(&a("::1"), a("::1"), None, &guest()), None);
    }

    #[test]
    fn b212_the_same_loopback_address_on_request() {
        let local = Local { on: true, to_loopback: true };
        let to = |from: &str, at: &str| local.to_guest(&a(from), a(at), None, &guest());
        assert_eq!(to("127.0.0.1", "127.0.0.5"), Some(a("127.0.0.5")));
        assert_eq!(to("::1", "::1"), Some(a("::1")));
        // Its own address, from its loopback: there is no such address inside.
        assert_eq!(to("127.0.0.1", "198.51.100.1"), Some(a("192.0.2.7")));
    }

    #[test]
    fn a_rule_with_a_target_and_a_guest_of_one_family() {
        let local = Local { on: true, to_loopback: false };
        let target = Some(a("192.0.2.99"));
        assert_eq!(local.to_guest(&a("127.0.0.1"), a("127.0.0.1"), target, &guest()), target);
        let v4 = PerFamily::new(Some(a("192.0.2.7")), None);
        assert_eq!(local.to_guest(&a("::1"), a("::1"), None, &v4), Some(a("192.0.2.7")));
        assert_eq!(local.to_guest(&a("::1"), a("::1"), None, &PerFamily::default()), None);
    }

    #[test]
    fn b113_the_host_is_reached_at_the_address_that_was_asked_for() {
        assert_eq!(Local::to_host(&a("127.0.0.1"), a("127.0.0.5")), Some(a("127.0.0.5")));
        assert_eq!(Local::to_host(&a("192.0.2.7"), a("192.0.2.7")), None);
    }
}
