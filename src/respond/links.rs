//! What this host's kernel knows of links, addresses and routers, as far as it matters who is answered for.
//!
//! The whole is read again when the kernel tells of a change: it is short, and there is one way to be right.
//!
//! System calls: socket, bind, getsockname, setsockopt (at start), sendto, recvfrom.

use std::collections::BTreeSet;

use anyhow::{Context, bail};
use netlink_packet_route::address::{AddressAttribute, AddressMessage};
use netlink_packet_route::link::{LinkAttribute, LinkExtentMask, LinkFlags, LinkLayerType, LinkMessage};
use netlink_packet_route::route::{RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteType};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use crate::base::{Addr, Mac};
use crate::sys::netlink::Netlink;

/// A link of this host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    pub index: u32,
    pub name: String,
    /// `None`: it is no Ethernet.
    pub mac: Option<Mac>,
    pub up: bool,
    /// Addresses of ours on it.
    pub addresses: Vec<Addr>,
    /// Gateways of default routes through it.
    pub routers: Vec<Addr>,
}

impl Link {
    /// The one to ask from: a link-local address, which neighbours always reach, or what there is of IPv4.
    pub fn asks_from(&self, v4: bool) -> Option<Addr> {
        let fits = |a: &&Addr| a.is_v4() == v4 && (v4 || a.is_link_local());
        self.addresses.iter().find(fits).copied()
    }
}

/// All of them.
#[derive(Clone, Debug, Default)]
pub struct Links {
    all: Vec<Link>,
    own: BTreeSet<Addr>,
}

impl From<Vec<Link>> for Links {
    fn from(all: Vec<Link>) -> Links {
        let own = all.iter().flat_map(|l| &l.addresses).copied().collect();
        Links { all, own }
    }
}

impl Links {
    /// Reads them.
    ///
    /// # Errors
    /// The kernel's, as a sentence.
    pub fn read() -> anyhow::Result<Links> {
        Links::read_by(&mut Netlink::open().context("cannot ask the kernel for links")?)
    }

    /// The same over a socket that is open.
    ///
    /// # Errors
    /// See [`Links::read`].
    pub fn read_by(netlink: &mut Netlink) -> anyhow::Result<Links> {
        let mut links = Links::default();
        let mut request = LinkMessage::default();
        request.attributes.push(LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats]));
        for message in netlink.dump(&RouteNetlinkMessage::GetLink(request)).context("cannot list the links")? {
            links.take(&message);
        }
        let request = RouteNetlinkMessage::GetAddress(AddressMessage::default());
        for message in netlink.dump(&request).context("cannot list the addresses")? {
            links.take(&message);
        }
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let mut request = RouteMessage::default();
            request.header.address_family = family;
            request.header.table = RouteHeader::RT_TABLE_MAIN;
            let request = RouteNetlinkMessage::GetRoute(request);
            // One by one: a full table of the Internet's is not kept.
            netlink
                .dump_into(&request, &mut links, |_| {}, |links, message| links.take(&message))
                .context("cannot list the routes")?;
        }
        Ok(links)
    }

    /// Adds what a message lists. Links come before what is on them.
    pub fn take(&mut self, message: &RouteNetlinkMessage) {
        match message {
            RouteNetlinkMessage::NewLink(m) => self.all.extend(link(m)),
            RouteNetlinkMessage::NewAddress(m) => {
                let Some(addr) = address(m) else { return };
                self.own.insert(addr);
                if let Some(link) = self.all.iter_mut().find(|l| l.index == m.header.index) {
                    link.addresses.push(addr);
                }
            }
            RouteNetlinkMessage::NewRoute(m) => {
                for (index, router) in routers(m) {
                    if let Some(link) = self.all.iter_mut().find(|l| l.index == index)
                        && !link.routers.contains(&router)
                    {
                        link.routers.push(router);
                    }
                }
            }
            _ => {}
        }
    }

    /// # Errors
    /// A sentence: there is none.
    pub fn named(&self, name: &str) -> anyhow::Result<&Link> {
        match self.all.iter().find(|l| l.name == name) {
            Some(link) => Ok(link),
            None => bail!("there is no interface '{name}' here; `ip link` lists those there are"),
        }
    }

    pub fn get(&self, index: u32) -> Option<&Link> {
        self.all.iter().find(|l| l.index == index)
    }

    /// This host has it itself.
    pub fn is_own(&self, addr: &Addr) -> bool {
        self.own.contains(addr)
    }
}

fn link(m: &LinkMessage) -> Option<Link> {
    let ethernet = m.header.link_layer_type == LinkLayerType::Ether;
    let mut found = Link {
        index: m.header.index,
        name: String::new(),
        mac: None,
        up: m.header.flags.contains(LinkFlags::Up),
        addresses: Vec::new(),
        routers: Vec::new(),
    };
    for a in &m.attributes {
        match a {
            LinkAttribute::IfName(name) => found.name.clone_from(name),
            LinkAttribute::Address(bytes) if ethernet => found.mac = bytes.as_slice().try_into().ok().map(Mac),
            _ => {}
        }
    }
    (!found.name.is_empty()).then_some(found)
}

fn address(m: &AddressMessage) -> Option<Addr> {
    let (mut local, mut peer) = (None, None);
    for a in &m.attributes {
        match a {
            AddressAttribute::Local(addr) => local = Some(*addr),
            AddressAttribute::Address(addr) => peer = Some(*addr),
            _ => {}
        }
    }
    // On a point-to-point link IFA_ADDRESS is the peer's; IPv6 sends IFA_LOCAL only there.
    local.or(peer).map(Addr::from)
}

/// Of a default route.
fn routers(m: &RouteMessage) -> Vec<(u32, Addr)> {
    if m.header.destination_prefix_length != 0 || m.header.kind != RouteType::Unicast {
        return Vec::new();
    }
    let of = |attributes: &[RouteAttribute]| attributes.iter().find_map(gateway);
    let index = m.attributes.iter().find_map(|a| if let RouteAttribute::Oif(i) = a { Some(*i) } else { None });
    let single = index.zip(of(&m.attributes));
    let several = m.attributes.iter().flat_map(|a| match a {
        RouteAttribute::MultiPath(hops) => hops.as_slice(),
        _ => &[],
    });
    single.into_iter().chain(several.filter_map(|h| Some((h.interface_index, of(&h.attributes)?)))).collect()
}

/// The address of a gateway attribute. An IPv4 route may have one of IPv6 (RFC 5549), which is a router all the same.
pub fn gateway(a: &RouteAttribute) -> Option<Addr> {
    match a {
        RouteAttribute::Gateway(RouteAddress::Inet(a)) => Some((*a).into()),
        RouteAttribute::Gateway(RouteAddress::Inet6(a)) => Some((*a).into()),
        RouteAttribute::Via(netlink_packet_route::route::RouteVia::Inet6(a)) => Some((*a).into()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_is_a_link_without_ethernet() {
        let links = Links::read().unwrap();
        let lo = links.named("lo").unwrap();
        assert_eq!((lo.index, links.get(1)), (1, Some(lo)));
        assert_eq!(lo.asks_from(false), None);
        assert!(links.named("no-such-link").unwrap_err().to_string().contains("'no-such-link'"));
    }

    #[test]
    fn routers_are_gateways_of_default_routes() {
        let mut m = RouteMessage::default();
        m.header.kind = RouteType::Unicast;
        m.attributes =
            vec![RouteAttribute::Oif(3), RouteAttribute::Gateway(RouteAddress::Inet6("fe80::1".parse().unwrap()))];
        assert_eq!(routers(&m), [(3, "fe80::1".parse::<std::net::Ipv6Addr>().unwrap().into())]);
        m.header.destination_prefix_length = 64;
        assert_eq!(routers(&m), []);
    }
}
