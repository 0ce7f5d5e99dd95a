//! The interface inside: made, and configured by one netlink batch. Runs in the namespace, in a process of its own.

use std::fs;
use std::net::IpAddr;
use std::time::Duration;

use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::address::{AddressAttribute, AddressFlags, AddressMessage, AddressScope};
use netlink_packet_route::link::{AfSpecInet6, AfSpecUnspec, In6AddrGenMode, LinkAttribute, LinkFlags, LinkMessage};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteMetric, RouteNextHop, RouteNextHopFlags,
    RouteProtocol, RouteScope, RouteType, RouteVia,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use nix::net::if_::if_nametoindex;

use super::{Error, Interface, Offloads, Tap, device};
use crate::base::{Addr, Family, Hop, Mac, Prefix, Route};
use crate::sys::netlink::{Change, Netlink};
use crate::sys::tun;

/// Makes the tap in the current network namespace, brings `lo` up, and configures what `interface` says.
///
/// # Errors
/// When there is no tap, or the guest would have no connectivity. Lesser faults are warnings of the tap.
pub fn make(interface: &Interface) -> Result<Tap, Error> {
    if interface.loopback_only {
        return bring_up_loopback(interface);
    }
    let (fds, offloads) = device::open(interface)?;
    let index = if_nametoindex(interface.name.as_str())
        .map_err(|e| Error::Failed(format!("cannot find the new interface `{}`: {e}", interface.name)))?;
    let mac = match interface.mac {
        Some(mac) => mac,
        None => {
            Mac(tun::mac(&fds[0]).map_err(Error::io(format!("cannot read the MAC address of `{}`", interface.name)))?)
        }
    };
    let link_local = (interface.configure && interface.ipv6).then(|| eui64_link_local(&mac));
    let mut tap =
        Tap { fds, name: interface.name.clone(), mac, offloads, link_local, warnings: Vec::new(), upkeep: None };
    if interface.configure && interface.ipv6 {
        refuse_router_advertisements(&interface.name);
    }
    apply(interface, index, &mut tap)?;
    Ok(tap)
}

fn bring_up_loopback(interface: &Interface) -> Result<Tap, Error> {
    let mut netlink = Netlink::open().map_err(Error::io("cannot open netlink inside the namespace"))?;
    let outcome = netlink.apply(&[set_link(LOOPBACK_INDEX, true, vec![])]);
    outcome.and_then(|mut o| o.pop().unwrap_or(Ok(()))).map_err(Error::io("cannot bring up `lo`"))?;
    let (offloads, warnings) = (Offloads::default(), Vec::new());
    Ok(Tap {
        fds: Vec::new(),
        name: interface.name.clone(),
        mac: Mac([0; 6]),
        offloads,
        link_local: None,
        warnings,
        upkeep: None,
    })
}

fn apply(interface: &Interface, index: u32, tap: &mut Tap) -> Result<(), Error> {
    let plan = plan(interface, index, tap.link_local);
    let mut netlink = Netlink::open().map_err(Error::io("cannot open netlink inside the namespace"))?;
    let (changes, steps): (Vec<Change>, Vec<Step>) = plan.into_iter().unzip();
    let listener = tap.link_local.is_some().then(listen_for_routes).flatten();
    let outcome = netlink.apply(&changes).map_err(Error::io("cannot configure the namespace by netlink"))?;
    let added: Vec<Addr> = steps.iter().zip(&outcome).filter(|(_, o)| o.is_ok()).filter_map(|(s, _)| s.adds).collect();
    if let Some(listener) = listener {
        await_local_routes(listener, added);
    }
    let mut ipv6_is_off = false;
    for (step, result) in steps.into_iter().zip(outcome) {
        let Err(e) = result else { continue };
        let code = e.raw_os_error().unwrap_or(0);
        match step.weight {
            _ if step.tolerates.contains(&code) => {}
            // conf.IF.disable_ipv6 makes addresses fail with EACCES and routes with whatever follows from that.
            _ if step.family == Some(Family::V6) && (ipv6_is_off || NO_IPV6.contains(&code)) => ipv6_is_off = true,
            Weight::Fatal => return Err(Error::io(format!("cannot {}", step.what))(e)),
            Weight::Warning => tap.warnings.push(format!("cannot {}: {e}", step.what)),
            Weight::Silent => {}
        }
    }
    if ipv6_is_off {
        tap.link_local = None;
        tap.warnings.push("IPv6 is switched off inside the namespace (net.ipv6.conf.*.disable_ipv6)".into());
    }
    Ok(())
}

/// Even without duplicate address detection the kernel makes an IPv6 address's local route, without which nothing that is
/// sent to it arrives, a little later in a worker. It tells when.
fn listen_for_routes() -> Option<Netlink> {
    let netlink = Netlink::open().ok()?;
    netlink.subscribe(RTNLGRP_IPV6_ROUTE).ok().map(|()| netlink)
}

/// Returns when all of `awaited` have their routes, usually within 0.1 ms. No more than a courtesy: whatever goes wrong,
/// the routes come by themselves.
fn await_local_routes(mut listener: Netlink, mut awaited: Vec<Addr>) {
    while !awaited.is_empty() {
        let Ok(Some(news)) = listener.next_within(LOCAL_ROUTES_WAIT) else { return };
        for m in &news {
            let RouteNetlinkMessage::NewRoute(r) = m else { continue };
            if r.header.kind == RouteType::Local && r.header.destination_prefix_length == 128 {
                awaited.retain(|a| !r.attributes.contains(&RouteAttribute::Destination(to_route_address(a))));
            }
        }
    }
}

/// One change, and what its failure means.
struct Step {
    what: String,
    weight: Weight,
    tolerates: &'static [i32],
    family: Option<Family>,
    /// The IPv6 address it adds.
    adds: Option<Addr>,
}

#[derive(Clone, Copy)]
enum Weight {
    Fatal,
    Warning,
    Silent,
}

/// All changes, each after those it depends on.
fn plan(interface: &Interface, index: u32, link_local: Option<Addr>) -> Vec<(Change, Step)> {
    let name = &interface.name;
    let step = |what: String, weight| Step { what, weight, tolerates: &[], family: None, adds: None };
    let mut plan = vec![(set_link(LOOPBACK_INDEX, true, vec![]), step("bring up `lo`".into(), Weight::Warning))];
    plan.push((
        set_link(index, false, vec![LinkAttribute::TxQueueLen(interface.queue_frames)]),
        step(format!("set the queue length of `{name}` to {}", interface.queue_frames), Weight::Warning),
    ));
    if let Some(mac) = interface.mac {
        plan.push((
            set_link(index, false, vec![LinkAttribute::Address(mac.0.to_vec())]),
            step(format!("set the MAC address of `{name}` to {mac}"), Weight::Fatal),
        ));
    }
    if !interface.configure {
        return plan;
    }
    if let Some(mtu) = interface.mtu {
        plan.push((
            set_link(index, false, vec![LinkAttribute::Mtu(mtu)]),
            step(format!("set the MTU of `{name}` to {mtu}"), Weight::Fatal),
        ));
    }
    if link_local.is_some() {
        // The kernel would check the link-local address it makes itself for duplicates, for a second or two.
        plan.push((address_generation(index, In6AddrGenMode::None), step("-".into(), Weight::Silent)));
    }
    plan.push((set_link(index, true, vec![]), step(format!("bring up `{name}`"), Weight::Fatal)));
    plan.extend(link_local.map(|a| address_step(index, name, Prefix::new(a, 64))));
    plan.extend(interface.addrs.iter().map(|p| address_step(index, name, *p)));
    plan.extend(in_order(interface).into_iter().map(|r| route_step(index, name, r, interface)));
    if link_local.is_some() {
        // Back to the default, for a guest that takes its interface down and up.
        plan.push((address_generation(index, In6AddrGenMode::Eui64), step("-".into(), Weight::Silent)));
    }
    plan
}

fn address_step(index: u32, name: &str, prefix: Prefix) -> (Change, Step) {
    let what = format!("add address {prefix} to `{name}`");
    let family = Some(prefix.addr.family());
    let adds = Some(prefix.addr).filter(|a| !a.is_v4());
    (add_address(index, prefix), Step { what, weight: Weight::Fatal, tolerates: &[libc::EEXIST], family, adds })
}

fn route_step(index: u32, name: &str, route: &Route, interface: &Interface) -> (Change, Step) {
    let what = match route.gateway() {
        Some(gateway) => format!("add route {} via {gateway} on `{name}`", route.dst),
        None => format!("add route {} on `{name}`", route.dst),
    };
    // Without its default route the guest is cut off; a lesser one may depend on what is not copied.
    let weight = if route.is_default() { Weight::Fatal } else { Weight::Warning };
    let tolerates = if route.is_default() { &[libc::EEXIST][..] } else { ROUTE_TOLERATES };
    (add_route(index, route, interface), Step { what, weight, tolerates, family: Some(route.family()), adds: None })
}

/// Routes on the link first, then those through gateways, which must be on the link. Those the kernel makes for an
/// address by itself are left out: they would be there twice.
pub(super) fn in_order(interface: &Interface) -> Vec<&Route> {
    let made_by_kernel = |r: &&Route| on_link(r) && interface.addrs.iter().any(|a| a.network() == r.dst);
    let mut routes: Vec<&Route> = interface.routes.iter().filter(|r| !made_by_kernel(r)).collect();
    routes.sort_by_key(|r| !on_link(r));
    routes
}

fn on_link(route: &Route) -> bool {
    route.hops.iter().all(|h| h.gateway.is_none())
}

/// True if the kernel would refuse the gateway for not being on the link.
fn needs_onlink(gateway: &Addr, interface: &Interface) -> bool {
    let reached = |p: &Prefix| p.len > 0 && p.contains(gateway);
    !(gateway.is_link_local() && !gateway.is_v4()
        || interface.addrs.iter().any(|a| reached(a) && a.addr != *gateway)
        || interface.routes.iter().any(|r| on_link(r) && reached(&r.dst)))
}

fn set_link(index: u32, up: bool, attributes: Vec<LinkAttribute>) -> Change {
    let mut m = LinkMessage::default();
    m.header.index = index;
    if up {
        (m.header.flags, m.header.change_mask) = (LinkFlags::Up, LinkFlags::Up);
    }
    m.attributes = attributes;
    (RouteNetlinkMessage::SetLink(m), 0)
}

fn address_generation(index: u32, mode: In6AddrGenMode) -> Change {
    let inet6 = AfSpecUnspec::Inet6(vec![AfSpecInet6::AddrGenMode(mode)]);
    set_link(index, false, vec![LinkAttribute::AfSpecUnspec(vec![inet6])])
}

pub(super) fn add_address(index: u32, prefix: Prefix) -> Change {
    let mut m = AddressMessage::default();
    let ip = prefix.addr.to_ip();
    m.header.family = family_of(prefix.addr.family());
    m.header.prefix_len = prefix.len;
    m.header.index = index;
    let link_scope = prefix.addr.is_link_local() && !prefix.addr.is_v4();
    m.header.scope = if link_scope { AddressScope::Link } else { AddressScope::Universe };
    m.attributes = vec![AddressAttribute::Local(ip), AddressAttribute::Address(ip)];
    match ip {
        IpAddr::V4(v4) if prefix.len < 31 => {
            let broadcast = u32::from(v4) | (u32::MAX >> prefix.len);
            m.attributes.push(AddressAttribute::Broadcast(broadcast.into()));
        }
        IpAddr::V4(_) => {}
        // Nobody else is on this link: no waiting for duplicate address detection (RFC 4862 §5.4).
        IpAddr::V6(_) => m.attributes.push(AddressAttribute::Flags(AddressFlags::Nodad)),
    }
    (RouteNetlinkMessage::NewAddress(m), NLM_F_CREATE | NLM_F_EXCL)
}

pub(super) fn add_route(index: u32, route: &Route, interface: &Interface) -> Change {
    let mut m = RouteMessage::default();
    m.header.address_family = family_of(route.family());
    m.header.destination_prefix_length = route.dst.len;
    m.header.table = RouteHeader::RT_TABLE_MAIN;
    m.header.protocol = RouteProtocol::Static;
    m.header.kind = RouteType::Unicast;
    // IPv4 wants the truth here; IPv6 knows no scopes of routes.
    m.header.scope =
        if on_link(route) && route.family() == Family::V4 { RouteScope::Link } else { RouteScope::Universe };
    if route.dst.len > 0 {
        m.attributes.push(RouteAttribute::Destination(to_route_address(&route.dst.network().addr)));
    }
    m.attributes.extend(route.metric.map(RouteAttribute::Priority));
    m.attributes.extend(route.mtu.map(|n| RouteAttribute::Metrics(vec![RouteMetric::Mtu(n)])));
    let onlink = |h: &Hop| h.onlink || h.gateway.is_some_and(|g| needs_onlink(&g, interface));
    match &route.hops[..] {
        [one] => {
            m.attributes.push(RouteAttribute::Oif(index));
            m.attributes.extend(one.gateway.map(|g| gateway(&g, route.family())));
            if onlink(one) {
                m.header.flags |= RouteFlags::Onlink;
            }
        }
        several => {
            let hop = |h: &Hop| {
                let mut n = RouteNextHop::default();
                n.interface_index = index;
                // rtnh_hops is the weight less one.
                n.hops = h.weight.clamp(1, 256).wrapping_sub(1) as u8;
                n.attributes.extend(h.gateway.map(|g| gateway(&g, route.family())));
                if onlink(h) {
                    n.flags |= RouteNextHopFlags::Onlink;
                }
                n
            };
            m.attributes.push(RouteAttribute::MultiPath(several.iter().map(hop).collect()));
        }
    }
    (RouteNetlinkMessage::NewRoute(m), NLM_F_CREATE | NLM_F_EXCL)
}

fn gateway(addr: &Addr, family: Family) -> RouteAttribute {
    match (addr.to_ip(), family) {
        (IpAddr::V6(six), Family::V4) => RouteAttribute::Via(RouteVia::Inet6(six)),
        _ => RouteAttribute::Gateway(to_route_address(addr)),
    }
}

pub(super) fn to_route_address(addr: &Addr) -> RouteAddress {
    match addr.to_ip() {
        IpAddr::V4(a) => RouteAddress::Inet(a),
        IpAddr::V6(a) => RouteAddress::Inet6(a),
    }
}

fn family_of(family: Family) -> AddressFamily {
    match family {
        Family::V4 => AddressFamily::Inet,
        Family::V6 => AddressFamily::Inet6,
    }
}

/// The link-local address a kernel makes from a MAC address (RFC 4291 appendix A).
fn eui64_link_local(mac: &Mac) -> Addr {
    let m = mac.0;
    Addr::v6([0xfe, 0x80, 0, 0, 0, 0, 0, 0, m[0] ^ 2, m[1], m[2], 0xff, 0xfe, m[3], m[4], m[5]])
}

/// A configured guest must not configure itself once more from router advertisements. There is no netlink attribute for
/// it; where /proc/sys is read-only the caller's not advertising is what is left.
fn refuse_router_advertisements(name: &str) {
    let _ = fs::write(format!("/proc/sys/net/ipv6/conf/{name}/accept_ra"), "0");
}

/// The same in every network namespace.
const LOOPBACK_INDEX: u32 = 1;
const RTNLGRP_IPV6_ROUTE: u32 = 11;
const LOCAL_ROUTES_WAIT: Duration = Duration::from_millis(100);
const NO_IPV6: &[i32] = &[libc::EACCES, libc::EOPNOTSUPP, libc::EAFNOSUPPORT];
const ROUTE_TOLERATES: &[i32] = &[libc::EEXIST, libc::ENETUNREACH, libc::EHOSTUNREACH];

#[cfg(test)]
mod tests {
    use super::*;

    fn prefix(s: &str) -> Prefix {
        let (addr, len) = s.split_once('/').unwrap();
        Prefix::new(addr.parse::<IpAddr>().unwrap().into(), len.parse().unwrap())
    }

    fn addr(s: &str) -> Addr {
        s.parse::<IpAddr>().unwrap().into()
    }

    fn interface(addrs: &[&str], routes: Vec<Route>) -> Interface {
        Interface {
            name: "eth0".into(),
            mac: None,
            mtu: Some(65520),
            queues: 1,
            fewer_will_do: false,
            queue_frames: Interface::QUEUE_FRAMES,
            loopback_only: false,
            configure: true,
            ipv6: true,
            addrs: addrs.iter().map(|a| prefix(a)).collect(),
            routes,
        }
    }

    #[test]
    fn gateways_come_after_what_reaches_them() {
        let default = Route::default_via(addr("198.51.100.1"));
        let host = Route::new(prefix("198.51.100.1/32"), None);
        let i = interface(&["192.0.2.7/32"], vec![default.clone(), host.clone()]);
        assert_eq!(in_order(&i), [&host, &default]);
    }

    #[test]
    fn connected_routes_are_left_to_the_kernel() {
        let connected = Route::new(prefix("192.0.2.0/24"), None);
        let other = Route::new(prefix("203.0.113.0/24"), None);
        let i = interface(&["192.0.2.7/24"], vec![connected, other.clone()]);
        assert_eq!(in_order(&i), [&other]);
    }

    #[test]
    fn onlink_only_where_no_prefix_reaches_the_gateway() {
        let i = interface(&["192.0.2.7/24", "2001:db8::7/64"], vec![Route::new(prefix("203.0.113.1/32"), None)]);
        for (gateway, needed) in [
            ("192.0.2.1", false),
            ("203.0.113.1", false),
            ("198.51.100.1", true),
            ("fe80::1", false),
            ("2001:db8::1", false),
            ("2001:db8:1::1", true),
        ] {
            assert_eq!(needs_onlink(&addr(gateway), &i), needed, "{gateway}");
        }
    }

    #[test]
    fn link_local_from_mac() {
        assert_eq!(eui64_link_local(&Mac([0x52, 0x54, 0, 0x12, 0x34, 0x56])), addr("fe80::5054:ff:fe12:3456"));
    }

    #[test]
    fn without_configuration_the_tap_stays_down() {
        let i = Interface { configure: false, ..interface(&["192.0.2.7/24"], vec![]) };
        let ups: Vec<u32> = plan(&i, 7, None)
            .iter()
            .filter_map(|((m, _), _)| match m {
                RouteNetlinkMessage::SetLink(l) if l.header.flags.contains(LinkFlags::Up) => Some(l.header.index),
                _ => None,
            })
            .collect();
        assert_eq!(ups, [LOOPBACK_INDEX]);
    }
}
