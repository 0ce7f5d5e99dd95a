//! What netlink lists, reduced to what the choice needs.

use std::net::IpAddr;

use netlink_packet_route::address::{AddressAttribute, AddressFlags, AddressMessage, AddressScope};
use netlink_packet_route::link::{LinkAttribute, LinkExtentMask, LinkMessage};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteMetric, RouteNextHop, RouteNextHopFlags,
    RouteProtocol, RouteScope, RouteType, RouteVia,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use super::Error;
use crate::base::{Addr, Family, Hop, Prefix, Route};
use crate::sys::netlink::{Netlink, news};

/// The three lists, in the kernel's order.
#[derive(Clone, Debug, Default)]
pub struct Dump {
    pub links: Vec<Link>,
    pub addresses: Vec<Address>,
    pub routes: Vec<TableRoute>,
}

impl Dump {
    /// Adds what a datagram lists. For tests: of datagrams that no kernel has sent.
    #[doc(hidden)]
    pub fn take(&mut self, datagram: &[u8]) {
        for message in news(datagram) {
            self.links.extend(link(&message));
            self.addresses.extend(address(&message));
            let families = [AddressFamily::Inet, AddressFamily::Inet6];
            self.routes.extend(families.into_iter().flat_map(|family| table_routes(&message, family)));
        }
    }
}

/// An interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    pub index: u32,
    pub name: String,
    pub mtu: u32,
    pub loopback: bool,
}

/// An address of an interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    pub index: u32,
    pub prefix: Prefix,
    /// Universe scope: neither link nor host.
    pub global: bool,
    pub deprecated: bool,
    /// An RFC 8981 temporary address.
    pub temporary: bool,
}

/// A unicast route of the main table through one interface, with what only the choice needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableRoute {
    pub index: u32,
    pub route: Route,
    pub preferred_source: Option<Addr>,
}

/// Reads the lists of the network namespace this process is in.
///
/// # Errors
/// [`Error::Netlink`].
pub(super) fn read(netlink: &mut Netlink, ipv6: bool) -> Result<Dump, Error> {
    let fail = |what| move |source| Error::Netlink { what, source };
    let mut dump = Dump::default();

    let mut request = LinkMessage::default();
    request.attributes.push(LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats]));
    let links = netlink.dump(&RouteNetlinkMessage::GetLink(request)).map_err(fail("interfaces"))?;
    dump.links = links.iter().filter_map(link).collect();

    let addresses =
        netlink.dump(&RouteNetlinkMessage::GetAddress(AddressMessage::default())).map_err(fail("addresses"))?;
    dump.addresses = addresses.iter().filter_map(address).collect();

    for family in [AddressFamily::Inet, AddressFamily::Inet6].into_iter().take(if ipv6 { 2 } else { 1 }) {
        let mut request = RouteMessage::default();
        request.header.address_family = family;
        // Strict checking makes these filters; without it the kernel lists all tables.
        request.header.table = RouteHeader::RT_TABLE_MAIN;
        let routes = netlink.dump(&RouteNetlinkMessage::GetRoute(request)).map_err(fail("routes"))?;
        dump.routes.extend(routes.iter().flat_map(|m| table_routes(m, family)));
    }
    Ok(dump)
}

fn link(message: &RouteNetlinkMessage) -> Option<Link> {
    let RouteNetlinkMessage::NewLink(m) = message else { return None };
    let loopback = m.header.flags.contains(netlink_packet_route::link::LinkFlags::Loopback);
    let mut found = Link { index: m.header.index, name: String::new(), mtu: 0, loopback };
    for a in &m.attributes {
        match a {
            LinkAttribute::IfName(name) => found.name.clone_from(name),
            LinkAttribute::Mtu(mtu) => found.mtu = *mtu,
            _ => {}
        }
    }
    (!found.name.is_empty()).then_some(found)
}

fn address(message: &RouteNetlinkMessage) -> Option<Address> {
    let RouteNetlinkMessage::NewAddress(m) = message else { return None };
    let (mut local, mut peer) = (None, None);
    let mut flags = AddressFlags::from_bits_retain(u32::from(m.header.flags.bits()));
    for a in &m.attributes {
        match a {
            AddressAttribute::Local(addr) => local = Some(*addr),
            AddressAttribute::Address(addr) => peer = Some(*addr),
            // The 32-bit set includes the header's eight.
            AddressAttribute::Flags(all) => flags = *all,
            _ => {}
        }
    }
    // On a point-to-point link IFA_ADDRESS is the peer's; IPv6 sends IFA_LOCAL only there.
    let addr: Addr = local.or(peer)?.into();
    let prefix = checked_prefix(addr, m.header.prefix_len)?;
    // A tentative address that turned out to be a duplicate is not ours.
    if flags.contains(AddressFlags::Dadfailed) {
        return None;
    }
    Some(Address {
        index: m.header.index,
        prefix,
        global: m.header.scope == AddressScope::Universe,
        deprecated: flags.contains(AddressFlags::Deprecated),
        // The same bit means "secondary" for IPv4.
        temporary: !addr.is_v4() && flags.contains(AddressFlags::Secondary),
    })
}

/// One for each interface that the route uses, in the order of their heaviest hops.
fn table_routes(message: &RouteNetlinkMessage, asked: AddressFamily) -> Vec<TableRoute> {
    let Some((ways, route, preferred_source)) = unicast_route(message, asked) else { return Vec::new() };
    let of = |(index, hops): (u32, Vec<Hop>)| {
        let connected = route.connected && hops.iter().all(|h| h.gateway.is_none());
        TableRoute { index, route: Route { hops, connected, ..route.clone() }, preferred_source }
    };
    ways.into_iter().map(of).collect()
}

type Ways = Vec<(u32, Vec<Hop>)>;

/// The ways of a route, and the rest of it. `connected`: unless a way has a gateway.
fn unicast_route(message: &RouteNetlinkMessage, asked: AddressFamily) -> Option<(Ways, Route, Option<Addr>)> {
    let RouteNetlinkMessage::NewRoute(m) = message else { return None };
    let h = &m.header;
    // A kernel without IPv6 answers with IPv4 routes.
    if h.address_family != asked || h.kind != RouteType::Unicast {
        return None;
    }
    // Dead: the interface is down, the kernel does not use the route either.
    if h.flags.intersects(RouteFlags::Cloned | RouteFlags::Dead) {
        return None;
    }
    let family = if asked == AddressFamily::Inet { Family::V4 } else { Family::V6 };
    let mut raw = Attributes { dst: Prefix::any(family).addr, table: u32::from(h.table), ..Attributes::default() };
    m.attributes.iter().for_each(|a| raw.take(a));
    if raw.table != u32::from(RouteHeader::RT_TABLE_MAIN) || raw.special || h.source_prefix_length != 0 || h.tos != 0 {
        return None;
    }
    let dst = checked_prefix(raw.dst, h.destination_prefix_length)?;
    let onlink = h.flags.contains(RouteFlags::Onlink);
    let connected = h.protocol == RouteProtocol::Kernel && h.scope != RouteScope::Host;
    let route = Route { dst, hops: Vec::new(), metric: raw.metric, mtu: raw.mtu, connected };
    Some((raw.ways(onlink), route, raw.preferred_source))
}

/// A route's attributes before they are put in relation.
struct Attributes {
    dst: Addr,
    table: u32,
    index: Option<u32>,
    gateway: Option<Addr>,
    multipath: Vec<RouteNextHop>,
    preferred_source: Option<Addr>,
    metric: Option<u32>,
    mtu: Option<u32>,
    /// It depends on something that we do not copy (encapsulation).
    special: bool,
}

impl Default for Attributes {
    fn default() -> Self {
        Attributes {
            dst: Addr::V4_UNSPECIFIED,
            table: 0,
            index: None,
            gateway: None,
            multipath: Vec::new(),
            preferred_source: None,
            metric: None,
            mtu: None,
            special: false,
        }
    }
}

impl Attributes {
    fn take(&mut self, a: &RouteAttribute) {
        match a {
            RouteAttribute::Destination(addr) => match ip(addr) {
                Some(addr) => self.dst = addr,
                None => self.special = true,
            },
            RouteAttribute::Gateway(addr) => self.gateway = ip(addr),
            RouteAttribute::Via(via) => self.gateway = through(via),
            RouteAttribute::PrefSource(addr) => self.preferred_source = ip(addr),
            RouteAttribute::Oif(index) => self.index = Some(*index),
            RouteAttribute::Table(table) => self.table = *table,
            RouteAttribute::Priority(metric) => self.metric = Some(*metric),
            RouteAttribute::MultiPath(hops) => self.multipath.clone_from(hops),
            RouteAttribute::Metrics(all) => {
                self.mtu = all.iter().find_map(|m| if let RouteMetric::Mtu(n) = m { Some(*n) } else { None });
            }
            RouteAttribute::Encap(_) | RouteAttribute::EncapType(_) => self.special = true,
            _ => {}
        }
    }

    /// The interfaces and the ways out of each: the guest has one interface, behind which the host takes all of them. The
    /// one with the heaviest hop comes first.
    fn ways(&self, onlink: bool) -> Ways {
        if self.multipath.is_empty() {
            let hop = Hop { gateway: self.gateway, weight: 1, onlink };
            return self.index.map(|index| (index, vec![hop])).into_iter().collect();
        }
        let mut ways: Ways = Vec::new();
        // Those whose interface is down the kernel does not use either.
        for h in self.multipath.iter().filter(|h| !h.flags.contains(RouteNextHopFlags::Dead)) {
            match ways.iter_mut().find(|(index, _)| *index == h.interface_index) {
                Some((_, hops)) => hops.push(next_hop(h)),
                None => ways.push((h.interface_index, vec![next_hop(h)])),
            }
        }
        ways.sort_by_key(|(_, hops)| std::cmp::Reverse(hops.iter().map(|h| h.weight).max()));
        ways
    }
}

fn next_hop(h: &RouteNextHop) -> Hop {
    let gateway = h.attributes.iter().find_map(|a| match a {
        RouteAttribute::Gateway(addr) => ip(addr),
        RouteAttribute::Via(via) => through(via),
        _ => None,
    });
    // rtnh_hops is the weight less one.
    Hop { gateway, weight: u16::from(h.hops) + 1, onlink: h.flags.contains(RouteNextHopFlags::Onlink) }
}

fn ip(a: &RouteAddress) -> Option<Addr> {
    match a {
        RouteAddress::Inet(a) => Some((*a).into()),
        RouteAddress::Inet6(a) => Some((*a).into()),
        _ => None,
    }
}

fn through(via: &RouteVia) -> Option<Addr> {
    match via {
        RouteVia::Inet(a) => Some(IpAddr::from(*a).into()),
        RouteVia::Inet6(a) => Some(IpAddr::from(*a).into()),
        _ => None,
    }
}

fn checked_prefix(addr: Addr, len: u8) -> Option<Prefix> {
    (len <= if addr.is_v4() { 32 } else { 128 }).then_some(Prefix::new(addr, len))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::netlink::messages;

    /// A netlink message of `kind` with attributes `(type, value)`.
    fn datagram(kind: u16, head: &[u8], attributes: &[(u16, &[u8])]) -> Vec<u8> {
        let mut body = head.to_vec();
        for (kind, value) in attributes {
            body.extend((value.len() as u16 + 4).to_ne_bytes());
            body.extend(kind.to_ne_bytes());
            body.extend(*value);
            body.resize(body.len().next_multiple_of(4), 0);
        }
        let mut d = (body.len() as u32 + 16).to_ne_bytes().to_vec();
        d.extend(kind.to_ne_bytes());
        d.extend([0; 10]);
        d.extend(body);
        d
    }

    fn inner(datagram: &[u8]) -> Option<RouteNetlinkMessage> {
        match messages(datagram).pop()?.payload {
            netlink_packet_core::NetlinkPayload::InnerMessage(m) => Some(m),
            _ => None,
        }
    }

    fn routes_of(head: [u8; 12], attributes: &[(u16, &[u8])]) -> Vec<TableRoute> {
        table_routes(&inner(&datagram(NEWROUTE, &head, attributes)).unwrap(), AddressFamily::Inet)
    }

    fn route_of(head: [u8; 12], attributes: &[(u16, &[u8])]) -> Option<TableRoute> {
        let mut all = routes_of(head, attributes);
        assert!(all.len() < 2);
        all.pop()
    }

    const NEWROUTE: u16 = 24;
    const NEWADDR: u16 = 20;
    /// IPv4, main table, protocol static, scope global, unicast; destination length to be filled in.
    const HEAD: [u8; 12] = [2, 0, 0, 0, 254, 4, 0, 1, 0, 0, 0, 0];
    const OIF: u16 = 4;
    const GATEWAY: u16 = 5;
    const METRIC: u16 = 6;
    const PREFSRC: u16 = 7;
    const MULTIPATH: u16 = 9;
    const TABLE: u16 = 15;

    #[test]
    fn default_route() {
        let attributes: [(u16, &[u8]); 5] = [
            (TABLE, &254u32.to_ne_bytes()),
            (GATEWAY, &[192, 0, 2, 1]),
            (OIF, &2u32.to_ne_bytes()),
            (METRIC, &100u32.to_ne_bytes()),
            (PREFSRC, &[192, 0, 2, 7]),
        ];
        let r = route_of(HEAD, &attributes).unwrap();
        let expected = Route { metric: Some(100), ..Route::default_via(Addr::v4([192, 0, 2, 1])) };
        assert_eq!(r, TableRoute { index: 2, route: expected, preferred_source: Some(Addr::v4([192, 0, 2, 7])) });
    }

    #[test]
    fn multipath_is_a_route_of_each_interface_the_heaviest_first() {
        let hop = |index: u32, weight: u8, n: u8| {
            let mut h = vec![16, 0, 0, weight - 1];
            h.extend(index.to_ne_bytes());
            h.extend([8, 0, GATEWAY as u8, 0, 10, 0, 0, n]);
            h
        };
        let r = route_of(HEAD, &[(MULTIPATH, &[hop(2, 1, 1), hop(2, 9, 2)].concat())]).unwrap();
        assert_eq!((r.index, r.route.hops.len(), r.route.gateway()), (2, 2, Some(Addr::v4([10, 0, 0, 2]))));
        let several = [hop(2, 1, 1), hop(3, 5, 2), hop(2, 4, 3), hop(4, 5, 4)].concat();
        let found = routes_of(HEAD, &[(MULTIPATH, &several)]);
        let gateways: Vec<_> = found.iter().map(|r| (r.index, r.route.hops.len(), r.route.gateway())).collect();
        let gateway = |n: u8| Some(Addr::v4([10, 0, 0, n]));
        assert_eq!(gateways, [(3, 1, gateway(2)), (4, 1, gateway(4)), (2, 2, gateway(3))]);
        let mut down = several.clone();
        // rtnh_flags of the second: RTNH_F_DEAD.
        down[16 + 2] = 1;
        let found = routes_of(HEAD, &[(MULTIPATH, &down)]);
        assert_eq!(found.iter().map(|r| r.index).collect::<Vec<_>>(), [4, 2]);
        down.truncate(32);
        down[2] = 1;
        assert_eq!(routes_of(HEAD, &[(MULTIPATH, &down)]), [], "no way is left");
    }

    #[test]
    fn other_tables_kinds_and_families_are_left_out() {
        let oif: (u16, &[u8]) = (OIF, &[2, 0, 0, 0]);
        assert!(route_of(HEAD, &[oif]).is_some());
        assert_eq!(route_of(HEAD, &[oif, (TABLE, &1000u32.to_ne_bytes())]), None);
        for (at, value) in [(0, 10), (1, 33), (3, 16), (4, 255), (7, 6), (8, 1)] {
            let mut head = HEAD;
            head[at] = value;
            assert_eq!(route_of(head, &[oif]), None, "byte {at}");
        }
    }

    #[test]
    fn own_end_of_a_point_to_point_address() {
        let d = datagram(NEWADDR, &[2, 32, 0, 0, 5, 0, 0, 0], &[(1, &[10, 0, 0, 2]), (2, &[10, 0, 0, 1])]);
        let a = address(&inner(&d).unwrap()).unwrap();
        assert_eq!((a.index, a.prefix.to_string().as_str(), a.global), (5, "10.0.0.1/32", true));
    }

    proptest::proptest! {
        #[test]
        fn any_attributes_decode_or_not(
            kind in proptest::sample::select(vec![16u16, NEWADDR, NEWROUTE]),
            family in proptest::sample::select(vec![0u8, 2, 10, 99]),
            head in proptest::collection::vec(proptest::num::u8::ANY, 15),
            attributes in proptest::collection::vec((0..64u16, proptest::collection::vec(proptest::num::u8::ANY, 0..40)), 0..8),
        ) {
            let mut start = head.clone();
            start.insert(0, family);
            if kind == NEWROUTE {
                (start[4], start[7]) = (254, 1);
            }
            let len = if kind == NEWROUTE { 12 } else if kind == NEWADDR { 8 } else { 16 };
            let list: Vec<(u16, &[u8])> = attributes.iter().map(|(k, v)| (*k, &v[..])).collect();
            if let Some(m) = inner(&datagram(kind, &start[..len], &list)) {
                link(&m);
                for p in address(&m).map(|a| a.prefix).into_iter().chain(table_routes(&m, AddressFamily::Inet).iter().map(|r| r.route.dst)) {
                    let longest = if p.addr.is_v4() { 32 } else { 128 };
                    proptest::prop_assert!(p.len <= longest);
                }
            }
        }
    }
}
