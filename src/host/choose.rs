//! Which interface is the template, and what the guest gets of it. Pure.

use super::{
    Address, Dump, Error, Interface, LOCAL_LINK_LOCAL, Link, Network, ROUTES_MAX, Select, TableRoute, Template,
};
use super::{Resolv, local_mode};
use crate::base::{Addr, Family, PerFamily, Prefix, Route};

/// Decides from the lists alone; `resolv` stays empty.
///
/// # Errors
/// [`Error::NoInterface`] for a name in `select` that the lists do not have.
pub fn choose(dump: &Dump, select: &Select) -> Result<Network, Error> {
    let mut notices = Vec::new();
    let mut family = |f: Family, on: bool| match on {
        true => template(dump, select, f, &mut notices).map(Some),
        false => Ok(None),
    };
    let families = PerFamily::new(family(Family::V4, select.v4)?, family(Family::V6, select.v6)?);
    let our_link_local = families.v6.as_ref().map_or(LOCAL_LINK_LOCAL, |t| link_local(dump, t));
    Ok(Network { families, our_link_local, resolv: Resolv::default(), notices })
}

/// That the interfaces sockets are to be bound to are there. Later one may go and come back: its flows fail meanwhile.
///
/// # Errors
/// [`Error::NoInterface`].
pub fn check_outbound(dump: &Dump, select: &Select) -> Result<(), Error> {
    let on = [(Family::V4, select.v4), (Family::V6, select.v6)].into_iter().filter(|(_, on)| *on);
    on.filter_map(|(family, _)| select.outbound[family].as_ref()).try_for_each(|name| named(dump, name).map(drop))
}

fn named<'a>(dump: &'a Dump, name: &str) -> Result<&'a Link, Error> {
    dump.links.iter().find(|l| l.name == name).ok_or_else(|| Error::NoInterface(name.into()))
}

fn template(dump: &Dump, select: &Select, family: Family, notices: &mut Vec<String>) -> Result<Template, Error> {
    let link = match select.interface.as_ref().or(select.outbound[family].as_ref()) {
        Some(name) => Some(named(dump, name)?),
        None => preferred(dump, family, notices),
    };
    let Some(link) = link else { return Ok(local(family)) };
    let routes: Vec<&TableRoute> = routes_of(dump, family).filter(|r| r.index == link.index).collect();
    let addresses: Vec<&Address> = own(dump, family, link.index).collect();
    // An interface the user named may have nothing of this family.
    if routes.is_empty() && addresses.is_empty() {
        notices.push(format!("interface {} has no {}: local addresses are used", link.name, name_of(family)));
        return Ok(local(family));
    }
    let default = lowest_metric(routes.iter().copied().filter(|r| r.route.is_default()));
    let preferred_source = default.and_then(|r| r.preferred_source);
    let addr = guest_address(&addresses, preferred_source);
    if routes.len() > ROUTES_MAX {
        notices.push(format!("only {ROUTES_MAX} of {} {} routes are copied", routes.len(), name_of(family)));
    }
    Ok(Template {
        interface: Some(Interface { index: link.index, name: link.name.clone(), mtu: link.mtu }),
        addr,
        gateway: default.and_then(|r| r.route.gateway()).filter(|g| g.family() == family),
        addrs: copied_addresses(&addresses, addr),
        routes: copied_routes(&routes),
    })
}

/// The interface of the default route with the lowest metric; else that of the first route that leads anywhere.
fn preferred<'a>(dump: &'a Dump, family: Family, notices: &mut Vec<String>) -> Option<&'a Link> {
    let find = |r: &TableRoute| dump.links.iter().find(|l| l.index == r.index && !l.loopback);
    // Link-local prefixes lead nowhere.
    let candidates = || routes_of(dump, family).filter(|r| !r.route.dst.addr.is_link_local() && find(r).is_some());
    let defaults = || candidates().filter(|r| r.route.is_default());
    if let Some(best) = lowest_metric(defaults()) {
        let link = find(best)?;
        if defaults().any(|r| r.index != best.index) {
            let text = "several {} default routes: taking the preferred one, through {}";
            notices.push(text.replacen("{}", name_of(family), 1).replacen("{}", &link.name, 1));
        }
        return Some(link);
    }
    candidates().next().and_then(find)
}

/// The first on ties, as the kernel uses them.
fn lowest_metric<'a>(routes: impl Iterator<Item = &'a TableRoute>) -> Option<&'a TableRoute> {
    routes.min_by_key(|r| r.route.metric.unwrap_or(0))
}

/// Those of one family, without IPv6 link-local and multicast ones: the guest's kernel makes its own.
fn routes_of(dump: &Dump, family: Family) -> impl Iterator<Item = &TableRoute> {
    let kernel_made = |a: &Addr| !a.is_v4() && (a.is_link_local() || a.is_multicast());
    dump.routes.iter().filter(move |r| r.route.family() == family && !kernel_made(&r.route.dst.addr))
}

/// An interface's addresses of one family, without IPv6 link-local ones.
fn own(dump: &Dump, family: Family, index: u32) -> impl Iterator<Item = &Address> {
    dump.addresses.iter().filter(move |a| {
        a.index == index
            && a.prefix.addr.family() == family
            && (a.prefix.addr.is_v4() || !a.prefix.addr.is_link_local())
    })
}

/// The address the host itself uses as source for the default route: the route's preferred source, else the first global
/// one that is not deprecated; public before temporary, because the guest keeps it. An IPv4 host may have nothing better
/// than a link-local address.
fn guest_address(addresses: &[&Address], preferred_source: Option<Addr>) -> Option<Prefix> {
    if let Some(a) = addresses.iter().find(|a| Some(a.prefix.addr) == preferred_source) {
        return Some(a.prefix);
    }
    let rank = |a: &&&Address| (!a.global, a.deprecated, a.temporary);
    let best = addresses.iter().min_by_key(rank)?;
    (best.global || best.prefix.addr.is_v4()).then_some(best.prefix)
}

fn copied_addresses(addresses: &[&Address], first: Option<Prefix>) -> Vec<Prefix> {
    let mut copied: Vec<Prefix> = first.into_iter().collect();
    copied.extend(addresses.iter().filter(|a| !a.deprecated && Some(a.prefix) != first).map(|a| a.prefix));
    copied
}

fn copied_routes(routes: &[&TableRoute]) -> Vec<Route> {
    // The default routes survive the limit.
    let (default, other): (Vec<_>, Vec<_>) = routes.iter().partition(|r| r.route.is_default());
    default.into_iter().chain(other).take(ROUTES_MAX).map(|r: &&TableRoute| r.route.clone()).collect()
}

fn link_local(dump: &Dump, template: &Template) -> Addr {
    if let Some(gateway) = template.gateway.filter(Addr::is_link_local) {
        return gateway;
    }
    let index = template.interface.as_ref().map(|i| i.index);
    let own = |a: &&Address| Some(a.index) == index && !a.prefix.addr.is_v4() && a.prefix.addr.is_link_local();
    dump.addresses.iter().find(own).map_or(LOCAL_LINK_LOCAL, |a| a.prefix.addr)
}

fn local(family: Family) -> Template {
    let (addr, gateway) = local_mode(family);
    Template {
        interface: None,
        addr,
        gateway: Some(gateway),
        addrs: addr.into_iter().collect(),
        routes: vec![Route::default_via(gateway)],
    }
}

fn name_of(family: Family) -> &'static str {
    match family {
        Family::V4 => "IPv4",
        Family::V6 => "IPv6",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::Hop;

    fn addr(s: &str) -> Addr {
        s.parse::<std::net::IpAddr>().unwrap().into()
    }

    fn prefix(s: &str) -> Prefix {
        let (a, len) = s.split_once('/').unwrap();
        Prefix::new(addr(a), len.parse().unwrap())
    }

    fn link(index: u32, name: &str) -> Link {
        Link { index, name: name.into(), mtu: 1500, loopback: index == 1 }
    }

    fn address(index: u32, p: &str) -> Address {
        let prefix = prefix(p);
        Address { index, prefix, global: !prefix.addr.is_link_local(), deprecated: false, temporary: false }
    }

    fn route(index: u32, dst: &str, via: Option<&str>, metric: u32) -> TableRoute {
        let route = Route { metric: Some(metric), ..Route::new(prefix(dst), via.map(addr)) };
        TableRoute { index, route, preferred_source: None }
    }

    /// A laptop: wired (2) and wireless (3), both with default routes, and a second address on the wire.
    fn host() -> Dump {
        Dump {
            links: vec![link(1, "lo"), link(2, "eth0"), link(3, "wlan0")],
            addresses: vec![
                address(1, "127.0.0.1/8"),
                address(2, "192.0.2.7/24"),
                address(2, "192.0.2.8/32"),
                address(3, "198.51.100.7/24"),
                address(2, "fe80::7/64"),
                address(2, "2001:db8::7/64"),
                address(2, "2001:db8::99/128"),
            ],
            routes: vec![
                route(3, "0.0.0.0/0", Some("198.51.100.1"), 600),
                route(2, "0.0.0.0/0", Some("192.0.2.1"), 100),
                route(2, "192.0.2.0/24", None, 100),
                route(2, "fe80::/64", None, 256),
                route(2, "::/0", Some("fe80::1:1"), 1024),
            ],
        }
    }

    fn v4(dump: &Dump) -> Template {
        choose(dump, &Select::default()).unwrap().families.v4.unwrap()
    }

    fn v6(dump: &Dump) -> Template {
        choose(dump, &Select::default()).unwrap().families.v6.unwrap()
    }

    #[test]
    fn lowest_metric_wins_whatever_the_order() {
        let t = v4(&host());
        assert_eq!(t.interface.unwrap().name, "eth0");
        assert_eq!((t.gateway, t.addr), (Some(addr("192.0.2.1")), Some(prefix("192.0.2.7/24"))));
        assert_eq!(t.addrs, [prefix("192.0.2.7/24"), prefix("192.0.2.8/32")]);
        assert_eq!(t.routes.len(), 2);
        let network = choose(&host(), &Select::default()).unwrap();
        assert_eq!(network.notices, ["several IPv4 default routes: taking the preferred one, through eth0"]);
        assert_eq!(network.interface_name(), Some("eth0"));
    }

    #[test]
    fn d22_preferred_source_comes_before_the_first_address() {
        let mut d = host();
        d.routes[1].preferred_source = Some(addr("192.0.2.8"));
        let t = v4(&d);
        assert_eq!(t.addr, Some(prefix("192.0.2.8/32")));
        assert_eq!(t.addrs, [prefix("192.0.2.8/32"), prefix("192.0.2.7/24")]);
    }

    #[test]
    fn deprecated_and_temporary_addresses_come_last() {
        let mut d = host();
        d.addresses[5].temporary = true;
        assert_eq!(v6(&d).addr, Some(prefix("2001:db8::99/128")));
        d.addresses[6].deprecated = true;
        assert_eq!(v6(&d).addrs, [prefix("2001:db8::7/64")]);
    }

    #[test]
    fn named_interface_overrides_and_must_exist() {
        let named = |name: &str| Select { interface: Some(name.into()), ..Select::default() };
        let n = choose(&host(), &named("wlan0")).unwrap();
        assert_eq!(n.families.v4.unwrap().gateway, Some(addr("198.51.100.1")));
        assert!(n.families.v6.unwrap().is_local());
        let e = choose(&host(), &named("eth7")).unwrap_err();
        assert_eq!(e.to_string(), "interface `eth7` does not exist; `ip link` lists those that do");
        let out = Select { outbound: PerFamily::new(Some("wlan0".into()), None), ..Select::default() };
        let n = choose(&host(), &out).unwrap();
        assert_eq!(n.families.v4.unwrap().interface.unwrap().name, "wlan0");
        assert_eq!(n.families.v6.unwrap().interface.unwrap().name, "eth0");
        assert!(check_outbound(&host(), &out).is_ok());
    }

    #[test]
    fn an_interface_of_sockets_must_exist_also_where_another_is_the_template() {
        let interface = Some("eth0".into());
        let out = Select { interface, outbound: PerFamily::new(None, Some("eht0".into())), ..Select::default() };
        let e = check_outbound(&host(), &out).unwrap_err();
        assert_eq!(e.to_string(), "interface `eht0` does not exist; `ip link` lists those that do");
        assert!(check_outbound(&host(), &Select { v6: false, ..out.clone() }).is_ok(), "no socket is bound to it");
        assert!(choose(&host(), &out).is_ok(), "one that goes later takes nothing else along");
    }

    #[test]
    fn rhbz2277954_without_a_default_route_the_first_that_leads_anywhere() {
        let mut d = host();
        d.routes = vec![
            route(1, "127.0.0.0/8", None, 0),
            route(2, "169.254.0.0/16", None, 1000),
            route(3, "10.0.0.0/8", Some("198.51.100.2"), 0),
        ];
        let t = v4(&d);
        assert_eq!((t.interface.unwrap().name.as_str(), t.gateway), ("wlan0", None));
        assert_eq!(t.addr, Some(prefix("198.51.100.7/24")));
    }

    #[test]
    fn b128_b129_local_mode_is_a_matter_of_each_family() {
        let mut d = host();
        d.routes.retain(|r| r.route.family() == Family::V6);
        let (four, six) = (v4(&d), v6(&d));
        assert!(four.is_local() && !six.is_local());
        assert_eq!((four.addr, four.gateway), (Some(prefix("169.254.2.1/16")), Some(addr("169.254.2.2"))));
        assert_eq!(four.routes, [Route::default_via(addr("169.254.2.2"))]);
        let n = choose(&Dump::default(), &Select::default()).unwrap();
        let six = n.families.v6.unwrap();
        assert_eq!((six.addr, six.gateway, n.our_link_local), (None, Some(addr("fe80::1")), addr("fe80::1")));
    }

    #[test]
    fn our_link_local_is_the_gateways_or_the_hosts() {
        assert_eq!(choose(&host(), &Select::default()).unwrap().our_link_local, addr("fe80::1:1"));
        let mut d = host();
        d.routes[4] = route(2, "::/0", Some("2001:db8::1"), 1024);
        assert_eq!(choose(&d, &Select::default()).unwrap().our_link_local, addr("fe80::7"));
    }

    #[test]
    fn b122_ipv6_without_a_global_address_still_has_its_interface() {
        let mut d = host();
        d.addresses.retain(|a| a.prefix.addr.is_v4() || a.prefix.addr.is_link_local());
        let t = v6(&d);
        assert_eq!((t.addr, t.addrs.len(), t.gateway), (None, 0, Some(addr("fe80::1:1"))));
        assert_eq!(t.routes.len(), 1);
    }

    #[test]
    fn gateway_of_the_other_family_is_no_gateway() {
        let mut d = host();
        d.routes[1].route.hops = vec![Hop { gateway: Some(addr("fe80::1:1")), weight: 1, onlink: false }];
        assert_eq!(v4(&d).gateway, None);
    }

    #[test]
    fn switched_off_family_is_absent() {
        let n = choose(&host(), &Select { v6: false, ..Select::default() }).unwrap();
        assert!(n.families.v6.is_none() && n.families.v4.is_some());
    }

    #[test]
    fn full_table_is_cut_but_keeps_its_default_route() {
        let mut d = host();
        let many = (0..5000u32).map(|n| route(2, &format!("10.{}.{}.0/24", n / 250, n % 250), Some("192.0.2.1"), 0));
        d.routes.splice(0..0, many);
        let n = choose(&d, &Select::default()).unwrap();
        let routes = n.families.v4.unwrap().routes;
        assert!(routes.len() == ROUTES_MAX && routes[0].is_default());
        assert_eq!(n.notices[1], "only 1024 of 5002 IPv4 routes are copied");
    }
}
