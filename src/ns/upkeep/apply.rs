//! From what the interface has of ours to what it is to have, in the guest's namespace.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use netlink_packet_core::{NLM_F_APPEND, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE};
use netlink_packet_route::AddressFamily;
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::address::{AddressAttribute, CacheInfo};
use netlink_packet_route::route::{RouteAttribute, RouteHeader, RouteMessage, RouteType};
use nix::net::if_::if_nametoindex;

use super::super::configure::{add_address, add_route, in_order, to_route_address};
use super::super::{Error, Interface};
use super::Wanted;
use super::steps::{Part, Step, Steps};
use crate::base::{Addr, Family, Prefix};
use crate::sys::netlink::{Change, Netlink};

/// Knows what of the interface is ours, and changes it.
pub struct Keeper {
    netlink: Netlink,
    index: u32,
    interface: Interface,
    /// Ours that have become former ones.
    former: Vec<Prefix>,
    routes: Vec<RouteMessage>,
    /// IPv4 addresses are chosen by the order in which they came, unless routes say which.
    sources: bool,
    resolv_conf: Option<Resolv>,
}

/// A file of ours that the guest sees as its resolv.conf.
pub struct Resolv {
    pub file: File,
    /// What we have written there last.
    pub text: Vec<u8>,
}

impl Keeper {
    /// To be called when the interface has just been made, inside, and nobody else could change it.
    ///
    /// # Errors
    /// The kernel's.
    pub fn new(interface: &Interface, resolv_conf: Option<Resolv>) -> Result<Keeper, Error> {
        let netlink = Netlink::open().map_err(Error::io("cannot open netlink inside the namespace"))?;
        let index = if_nametoindex(interface.name.as_str()).map_err(io::Error::from);
        let index = index.map_err(Error::io(format!("cannot find the interface `{}`", interface.name)))?;
        let routes = messages(index, interface, None);
        let (interface, former) = (interface.clone(), Vec::new());
        Ok(Keeper { netlink, index, interface, former, routes, sources: false, resolv_conf })
    }

    /// Returns the first thing that went wrong, and how many others did. Those are tried again when the same is set again.
    pub(super) fn set(&mut self, wanted: Wanted) -> Result<(), String> {
        let Wanted { addrs, former, routes, resolv_conf } = wanted;
        let ours: Vec<Prefix> = self.interface.addrs.iter().chain(&self.former).copied().collect();
        let former: Vec<Prefix> = former.into_iter().filter(|p| ours.contains(p) && !addrs.contains(p)).collect();
        let carries_v6 = self.interface.ipv6;
        let usable = |f: Family| f == Family::V4 || carries_v6;
        let interface = Interface {
            addrs: addrs.into_iter().filter(|p| usable(p.addr.family())).collect(),
            routes: routes.into_iter().filter(|r| usable(r.family())).collect(),
            ..self.interface.clone()
        };
        self.sources |= former.iter().any(|p| p.addr.is_v4());
        let source = interface.addrs.iter().map(|p| p.addr).find(Addr::is_v4).filter(|_| self.sources);
        let new_routes = messages(self.index, &interface, source);
        let mut steps = Steps::default();
        self.add_addresses(&interface.addrs, &former, &mut steps);
        let mut faults = Vec::new();
        let here = self.routes_here(&new_routes).unwrap_or_else(|e| {
            faults.push(format!("cannot read the routes inside: {e}"));
            self.routes.iter().map(|r| (name(r), Holder::Us)).collect()
        });
        self.change_routes(&new_routes, &here, &mut steps);
        let gone: Vec<Prefix> =
            ours.into_iter().filter(|p| !interface.addrs.contains(p) && !former.contains(p)).collect();
        for prefix in &gone {
            let what = format!("remove address {prefix}");
            steps.push(Step::remove(delete_address(self.index, *prefix), Part::Address(*prefix), what));
        }
        if !gone.is_empty() {
            self.add_again(&interface, &former, &new_routes, &mut steps);
        }
        (self.interface, self.former, self.routes) = (interface, former, new_routes);
        for (step, fault) in steps.apply(&mut self.netlink) {
            self.correct(&step);
            faults.push(fault);
        }
        faults.extend(resolv_conf.and_then(|text| self.write_resolv_conf(text.into_bytes())));
        match faults.len() {
            0 => Ok(()),
            1 => Err(faults.remove(0)),
            n => Err(format!("{}; and {} more", faults[0], n - 1)),
        }
    }

    /// A step that was in vain: what it was to add is not there, what it was to remove still is.
    fn correct(&mut self, step: &Step) {
        match (&step.part, step.removes) {
            // It is one of those that are preferred still.
            (Part::Address(p), false) if self.former.contains(p) => {
                self.former.retain(|other| other != p);
                self.interface.addrs.push(*p);
            }
            (Part::Address(p), false) => self.interface.addrs.retain(|other| other != p),
            (Part::Address(p), true) => self.former.push(*p),
            (Part::Route(r), false) => {
                self.routes.retain(|other| other != r);
                self.routes.extend(step.replaces.clone());
            }
            (Part::Route(r), true) => self.routes.push(r.clone()),
        }
    }

    fn add_addresses(&self, addrs: &[Prefix], former: &[Prefix], steps: &mut Steps) {
        for prefix in addrs {
            let what = format!("add address {prefix}");
            if self.former.contains(prefix) && !prefix.addr.is_v4() {
                steps.push(Step::alter(with_preference(self.index, *prefix, FOR_EVER), Part::Address(*prefix), what));
            } else if !self.interface.addrs.contains(prefix) && !self.former.contains(prefix) {
                steps.push(Step::add(add_address(self.index, *prefix), Part::Address(*prefix), what));
            }
        }
        // RFC 4862 §5.5.4: nothing new begins with them.
        for prefix in former.iter().filter(|p| !p.addr.is_v4() && !self.former.contains(p)) {
            let what = format!("deprecate address {prefix}");
            steps.push(Step::alter(with_preference(self.index, *prefix, 0), Part::Address(*prefix), what));
        }
    }

    /// Who has the routes that may change: each that is found in the main table, in its order.
    fn routes_here(&mut self, new: &[RouteMessage]) -> io::Result<Vec<(Name, Holder)>> {
        let changed = new.iter().filter(|r| !self.routes.contains(r));
        let changed: Vec<_> = changed.chain(self.routes.iter().filter(|r| !new.contains(r))).collect();
        let names: Vec<Name> = changed.iter().map(|r| name(r)).collect();
        let (mut all, index) = (Vec::new(), self.index);
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            if changed.iter().all(|r| r.header.address_family != family) {
                continue;
            }
            let mut request = RouteMessage::default();
            (request.header.address_family, request.header.table) = (family, RouteHeader::RT_TABLE_MAIN);
            let mut found = Vec::new();
            self.netlink.dump_into(
                &RouteNetlinkMessage::GetRoute(request),
                &mut found,
                Vec::clear,
                |found, message| {
                    let RouteNetlinkMessage::NewRoute(route) = message else { return };
                    let name = name(&route);
                    if route.header.table == RouteHeader::RT_TABLE_MAIN && names.contains(&name) {
                        found.extend(holders(&route, index).into_iter().map(|holder| (name.clone(), holder)));
                    }
                },
            )?;
            all.append(&mut found);
        }
        Ok(all)
    }

    /// From our routes until now to `new`, without touching those of others. `here`: as of [`Keeper::routes_here`].
    fn change_routes(&self, new: &[RouteMessage], here: &[(Name, Holder)], steps: &mut Steps) {
        let holders = |route: &RouteMessage| {
            let name_of_it = name(route);
            here.iter().filter(move |(name, _)| *name == name_of_it).map(|(_, holder)| *holder)
        };
        let remove = |route: RouteMessage, steps: &mut Steps| {
            let what = format!("remove route {}", shown(&route));
            steps.push(Step::remove(RouteNetlinkMessage::DelRoute(route.clone()), Part::Route(route), what));
        };
        // What is not there any more need not be removed; and the kernel would take another one for it, for what a request
        // does not say fits anything.
        let is_here = |r: &RouteMessage| holders(r).any(|holder| holder == Holder::Us);
        let mut stale: Vec<RouteMessage> =
            self.routes.iter().filter(|r| !new.contains(r) && is_here(r)).cloned().collect();
        for route in new.iter().filter(|r| !self.routes.contains(r)) {
            let old = stale.iter().position(|old| name(old) == name(route)).map(|at| stale.remove(at));
            let mut replaces = None;
            let flags = match old {
                // Exchanged without a moment between.
                Some(old) if holders(route).all(|holder| holder == Holder::Us) => {
                    replaces = Some(old);
                    NLM_F_REPLACE
                }
                // The kernel might exchange another one. Between there is theirs.
                Some(old) => {
                    remove(old, steps);
                    if holders(route).next() == Some(Holder::Us) { 0 } else { NLM_F_APPEND }
                }
                // One of the guest's own comes first.
                None => NLM_F_EXCL,
            };
            let change = (RouteNetlinkMessage::NewRoute(route.clone()), NLM_F_CREATE | flags);
            let mut step = Step::add(change, Part::Route(route.clone()), format!("add route {}", shown(route)));
            step.replaces = replaces;
            steps.push(step);
        }
        stale.into_iter().for_each(|route| remove(route, steps));
    }

    /// With an address the kernel may have removed more: other addresses of the same subnet (`promote_secondaries`), and routes.
    fn add_again(&self, interface: &Interface, former: &[Prefix], routes: &[RouteMessage], steps: &mut Steps) {
        for prefix in interface.addrs.iter().chain(former).filter(|p| p.addr.is_v4()) {
            let what = format!("add address {prefix} again");
            steps.push(Step::add(add_address(self.index, *prefix), Part::Address(*prefix), what));
        }
        // An IPv6 address has one prefix at a time.
        for prefix in interface.addrs.iter().filter(|p| !p.addr.is_v4() && !self.interface.addrs.contains(p)) {
            let what = format!("add address {prefix}");
            steps.push(Step::add(add_address(self.index, *prefix), Part::Address(*prefix), what));
        }
        for route in routes {
            let change = (RouteNetlinkMessage::NewRoute(route.clone()), NLM_F_CREATE | NLM_F_EXCL);
            steps.push(Step::add(change, Part::Route(route.clone()), format!("add route {} again", shown(route))));
        }
    }

    /// A file that somebody else has written to is theirs.
    fn write_resolv_conf(&mut self, text: Vec<u8>) -> Option<String> {
        let Resolv { file, text: last } = self.resolv_conf.as_mut()?;
        if text == *last {
            return None;
        }
        let mut found = vec![0; last.len() + 1];
        let mut write = || -> io::Result<bool> {
            let len = file.read_at(&mut found, 0)?;
            if found[..len] != *last {
                return Ok(false);
            }
            file.write_all_at(&text, 0)?;
            file.set_len(text.len() as u64).map(|()| true)
        };
        match write() {
            Ok(true) => {
                *last = text;
                None
            }
            Ok(false) => {
                self.resolv_conf = None;
                Some("resolv.conf has been changed inside, and stays as it is from now on".into())
            }
            Err(e) => Some(format!("cannot write resolv.conf: {e}")),
        }
    }
}

/// The routes that we make, each after those it depends on. `source`: the address that IPv4 begins with.
fn messages(index: u32, interface: &Interface, source: Option<Addr>) -> Vec<RouteMessage> {
    let message = |route| match add_route(index, route, interface).0 {
        RouteNetlinkMessage::NewRoute(mut m) => {
            let source = source.filter(|_| route.family() == Family::V4);
            m.attributes.extend(source.map(|a| RouteAttribute::PrefSource(to_route_address(&a))));
            Some(m)
        }
        _ => None,
    };
    in_order(interface).into_iter().filter_map(message).collect()
}

/// By what the kernel tells routes of one table apart: family, destination and metric.
type Name = (u8, u8, Option<RouteAttribute>, u32);

/// Whose interface a route leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Holder {
    Us,
    /// Or to none: `unreachable`, `blackhole`, `prohibit`.
    Others,
}

/// One for each way of the route.
fn holders(m: &RouteMessage, index: u32) -> Vec<Holder> {
    let holder = |oif: u32| if oif == index { Holder::Us } else { Holder::Others };
    let ways = m.attributes.iter().flat_map(|a| match a {
        RouteAttribute::Oif(oif) => vec![holder(*oif)],
        RouteAttribute::MultiPath(hops) => hops.iter().map(|hop| holder(hop.interface_index)).collect(),
        _ => Vec::new(),
    });
    let ways: Vec<Holder> = ways.filter(|_| m.header.kind == RouteType::Unicast).collect();
    if ways.is_empty() { vec![Holder::Others] } else { ways }
}

fn name(m: &RouteMessage) -> Name {
    let find = |is: fn(&RouteAttribute) -> bool| m.attributes.iter().find(|a| is(a)).cloned();
    let metric = match find(|a| matches!(a, RouteAttribute::Priority(_))) {
        Some(RouteAttribute::Priority(n)) => n,
        // IP6_RT_PRIO_USER.
        _ if m.header.address_family == AddressFamily::Inet6 => 1024,
        _ => 0,
    };
    let dst = find(|a| matches!(a, RouteAttribute::Destination(_)));
    (u8::from(m.header.address_family), m.header.destination_prefix_length, dst, metric)
}

fn shown(m: &RouteMessage) -> String {
    let dst = m.attributes.iter().find_map(|a| match a {
        RouteAttribute::Destination(netlink_packet_route::route::RouteAddress::Inet(a)) => Some(a.to_string()),
        RouteAttribute::Destination(netlink_packet_route::route::RouteAddress::Inet6(a)) => Some(a.to_string()),
        _ => None,
    });
    dst.map_or("default".into(), |dst| format!("{dst}/{}", m.header.destination_prefix_length))
}

fn delete_address(index: u32, prefix: Prefix) -> RouteNetlinkMessage {
    match add_address(index, prefix).0 {
        RouteNetlinkMessage::NewAddress(m) => RouteNetlinkMessage::DelAddress(m),
        other => other,
    }
}

/// An address that is there, with another preferred lifetime.
fn with_preference(index: u32, prefix: Prefix, preferred_s: u32) -> Change {
    let (mut message, _) = add_address(index, prefix);
    if let RouteNetlinkMessage::NewAddress(m) = &mut message {
        let mut lifetimes = CacheInfo::default();
        (lifetimes.ifa_preferred, lifetimes.ifa_valid) = (preferred_s, FOR_EVER);
        m.attributes.push(AddressAttribute::CacheInfo(lifetimes));
    }
    (message, NLM_F_REPLACE)
}

const FOR_EVER: u32 = u32::MAX;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::Route;

    fn addr(s: &str) -> Addr {
        s.parse::<std::net::IpAddr>().unwrap().into()
    }

    fn keeper(addrs: &[&str], routes: Vec<Route>) -> Keeper {
        let interface = interface(addrs, routes);
        let routes = messages(1, &interface, None);
        let netlink = Netlink::open().unwrap();
        Keeper { netlink, index: 1, interface, former: Vec::new(), routes, sources: false, resolv_conf: None }
    }

    fn interface(addrs: &[&str], routes: Vec<Route>) -> Interface {
        Interface {
            name: "lo".into(),
            mac: None,
            mtu: None,
            queues: 1,
            fewer_will_do: false,
            queue_frames: 1,
            loopback_only: false,
            configure: true,
            ipv6: true,
            addrs: addrs.iter().map(|a| Prefix::new(addr(a), if a.contains(':') { 64 } else { 24 })).collect(),
            routes,
        }
    }

    #[test]
    fn a_default_route_is_exchanged_and_others_come_before_old_ones_go() {
        let office = Route::new(Prefix::new(addr("203.0.113.0"), 24), Some(addr("192.0.2.9")));
        let k = keeper(&["192.0.2.7"], vec![Route::default_via(addr("192.0.2.1")), office]);
        let new = messages(1, &interface(&["192.0.2.7"], vec![Route::default_via(addr("192.0.2.2"))]), None);
        let here: Vec<_> = k.routes.iter().map(|r| (name(r), Holder::Us)).collect();
        let mut steps = Steps::default();
        k.change_routes(&new, &here, &mut steps);
        assert_eq!(flags(&steps), [NLM_F_CREATE | NLM_F_REPLACE, 0]);
        let last = steps.iter().last().unwrap();
        assert_eq!((last.removes, &last.part), (true, &Part::Route(k.routes[1].clone())));
        assert_eq!(shown(&k.routes[1]), "203.0.113.0/24");
    }

    #[test]
    fn a_default_route_of_somebody_else_is_never_exchanged() {
        use Holder::{Others, Us};
        let k = keeper(&["192.0.2.7"], vec![Route::default_via(addr("192.0.2.1"))]);
        let new = messages(1, &interface(&["192.0.2.7"], vec![Route::default_via(addr("192.0.2.2"))]), None);
        let cases: [(&[Holder], &[u16]); 5] = [
            // Ours is not there any more: what a request to remove it would fit is not.
            (&[], &[NLM_F_CREATE | NLM_F_EXCL]),
            (&[Others], &[NLM_F_CREATE | NLM_F_EXCL]),
            (&[Us, Us], &[NLM_F_CREATE | NLM_F_REPLACE]),
            // In the place that ours had.
            (&[Us, Others], &[0, NLM_F_CREATE]),
            (&[Others, Us], &[0, NLM_F_CREATE | NLM_F_APPEND]),
        ];
        for (holders, expected) in cases {
            let here: Vec<_> = holders.iter().map(|holder| (name(&new[0]), *holder)).collect();
            let mut steps = Steps::default();
            k.change_routes(&new, &here, &mut steps);
            assert_eq!(flags(&steps), expected, "{holders:?}");
        }
    }

    #[test]
    fn a_route_is_ours_if_it_leads_to_our_interface() {
        let of = |kind, attributes: Vec<RouteAttribute>| {
            let mut m = RouteMessage::default();
            (m.header.kind, m.attributes) = (kind, attributes);
            holders(&m, 7)
        };
        let hop = |index| {
            let mut hop = netlink_packet_route::route::RouteNextHop::default();
            hop.interface_index = index;
            hop
        };
        assert_eq!(of(RouteType::Unicast, vec![RouteAttribute::Oif(7)]), [Holder::Us]);
        assert_eq!(of(RouteType::Unicast, vec![RouteAttribute::Oif(8)]), [Holder::Others]);
        let several = vec![RouteAttribute::MultiPath(vec![hop(8), hop(7)])];
        assert_eq!(of(RouteType::Unicast, several), [Holder::Others, Holder::Us]);
        // As `ip route add unreachable default` makes one: with IPv6 it leads to the loopback's.
        assert_eq!(of(RouteType::Unreachable, vec![]), [Holder::Others]);
        assert_eq!(of(RouteType::BlackHole, vec![RouteAttribute::Oif(7)]), [Holder::Others]);
        assert_eq!(of(RouteType::Unicast, vec![]), [Holder::Others]);
    }

    #[test]
    fn what_was_done_in_vain_is_not_taken_for_done() {
        let mut k = keeper(&["192.0.2.7", "2001:db8::7"], vec![Route::default_via(addr("192.0.2.1"))]);
        let (address, former, route) = (k.interface.addrs[0], k.interface.addrs[1], k.routes[0].clone());
        let change = || (RouteNetlinkMessage::DelRoute(route.clone()), 0);
        let old = messages(1, &interface(&["192.0.2.7"], vec![Route::default_via(addr("192.0.2.9"))]), None).remove(0);
        k.correct(&Step::add(change(), Part::Address(address), String::new()));
        let mut exchange = Step::add(change(), Part::Route(route.clone()), String::new());
        exchange.replaces = Some(old.clone());
        k.correct(&exchange);
        assert_eq!((&k.interface.addrs, &k.routes), (&vec![former], &vec![old.clone()]));
        k.correct(&Step::remove(change().0, Part::Address(address), String::new()));
        k.correct(&Step::remove(change().0, Part::Route(route.clone()), String::new()));
        assert_eq!((&k.former, &k.routes), (&vec![address], &vec![old, route.clone()]));
        // It was to be deprecated.
        (k.interface.addrs, k.former) = (vec![], vec![former]);
        k.correct(&Step::alter(change(), Part::Address(former), String::new()));
        assert_eq!((&k.interface.addrs, &k.former), (&vec![former], &vec![]));
    }

    fn flags(steps: &Steps) -> Vec<u16> {
        steps.iter().map(|step| step.change.1).collect()
    }

    #[test]
    fn what_stays_is_not_touched() {
        let routes = vec![Route::default_via(addr("192.0.2.1")), Route::default_via(addr("fe80::1"))];
        let k = keeper(&["192.0.2.7", "2001:db8::7"], routes.clone());
        let mut steps = Steps::default();
        let same = interface(&["192.0.2.7", "2001:db8::7"], routes);
        k.add_addresses(&same.addrs, &[], &mut steps);
        k.change_routes(&messages(1, &same, None), &[], &mut steps);
        assert_eq!(steps.iter().count(), 0);
    }

    #[test]
    fn a_metric_that_the_kernel_chooses_is_one() {
        let with = |gateway: &str, metric| {
            let route = Route { metric, ..Route::default_via(addr(gateway)) };
            name(&messages(1, &interface(&["192.0.2.7"], vec![route]), None)[0])
        };
        assert_eq!(with("192.0.2.1", None), with("192.0.2.2", Some(0)));
        assert_eq!(with("fe80::1", None), with("fe80::2", Some(1024)));
        assert_ne!(with("192.0.2.1", None), with("192.0.2.1", Some(1024)));
    }

    #[test]
    fn a_resolv_conf_that_somebody_else_has_written_stays() {
        let file = tempfile::tempfile().unwrap();
        file.write_all_at(b"nameserver 192.0.2.1\n", 0).unwrap();
        let mut k = keeper(&[], vec![]);
        let content = || std::io::read_to_string(&file).unwrap();
        k.resolv_conf = Some(Resolv { file: file.try_clone().unwrap(), text: b"nameserver 192.0.2.1\n".to_vec() });
        assert_eq!(k.write_resolv_conf(b"short\n".to_vec()), None);
        assert_eq!(content(), "short\n");
        file.write_all_at(b"S", 0).unwrap();
        assert!(k.write_resolv_conf(b"nameserver 192.0.2.2\n".to_vec()).unwrap().contains("changed inside"));
        let mut left = [0; 6];
        file.read_exact_at(&mut left, 0).unwrap();
        assert_eq!(&left, b"Short\n");
    }
}
