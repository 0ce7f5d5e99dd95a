//! The kernel of this host, asked and listened to: links and addresses, as they are and whenever they change, and routes, one
//! by one as they are needed. No table of routes is kept: the kernel's own lookup knows rules, metrics and all tables.
//!
//! System calls: as in `links`.

use std::io;
use std::os::fd::{AsRawFd, RawFd};

use anyhow::Context;
use netlink_packet_route::route::{RouteAddress, RouteAttribute, RouteFlags, RouteMessage, RouteType};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use super::core::{Routes, Way};
use super::links::{self, Links};
use crate::base::Addr;
use crate::sys::netlink::Netlink;

/// News of links, addresses and default routes.
pub struct News(Netlink);

impl News {
    /// # Errors
    /// The kernel's, as a sentence.
    pub fn subscribe() -> anyhow::Result<News> {
        let netlink = Netlink::open().context("cannot ask the kernel for links")?;
        for group in GROUPS {
            netlink.subscribe(group).context("cannot follow the kernel's links")?;
        }
        Ok(News(netlink))
    }

    /// Takes all that has been told; true if there was anything, or too much.
    pub fn drain(&mut self) -> bool {
        let mut any = false;
        loop {
            match self.0.next_ready() {
                Ok(Some(_)) => any = true,
                Ok(None) => return any,
                // More came than the buffer holds: some of it will be news.
                Err(e) if e.raw_os_error() == Some(libc::ENOBUFS) => any = true,
                Err(_) => return any,
            }
        }
    }
}

impl AsRawFd for News {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

/// What answers questions.
pub struct Kernel(Netlink);

impl Kernel {
    /// # Errors
    /// The kernel's, as a sentence.
    pub fn open() -> anyhow::Result<Kernel> {
        Ok(Kernel(Netlink::open().context("cannot ask the kernel for routes")?))
    }

    /// # Errors
    /// See [`Links::read`].
    pub fn links(&mut self) -> anyhow::Result<Links> {
        Links::read_by(&mut self.0)
    }

    fn look_up(&mut self, target: &Addr) -> io::Result<Way> {
        let mut request = RouteMessage::default();
        let (family, bits) = if target.is_v4() { (AddressFamily::Inet, 32) } else { (AddressFamily::Inet6, 128) };
        request.header.address_family = family;
        request.header.destination_prefix_length = bits;
        // The route that matches, and not what it comes to for this one address.
        request.header.flags = RouteFlags::FibMatch;
        request.attributes.push(RouteAttribute::Destination(match target.to_ip() {
            std::net::IpAddr::V4(a) => RouteAddress::Inet(a),
            std::net::IpAddr::V6(a) => RouteAddress::Inet6(a),
        }));
        match self.0.ask(&RouteNetlinkMessage::GetRoute(request))? {
            RouteNetlinkMessage::NewRoute(m) => Ok(way(&m)),
            _ => Ok(Way::Nowhere),
        }
    }
}

impl Routes for Kernel {
    fn way(&mut self, target: &Addr) -> Way {
        // There is no route: an error of the kernel's, as is anything else that keeps it from sending there.
        self.look_up(target).unwrap_or(Way::Nowhere)
    }
}

/// A default route leads to the world, of which nobody here answers.
fn way(m: &RouteMessage) -> Way {
    let bits = if m.header.address_family == AddressFamily::Inet { 32 } else { 128 };
    if m.header.kind != RouteType::Unicast || m.header.destination_prefix_length == 0 {
        return Way::Nowhere;
    }
    let index = m.attributes.iter().find_map(|a| match a {
        RouteAttribute::Oif(index) => Some(*index),
        RouteAttribute::MultiPath(hops) => hops.first().map(|h| h.interface_index),
        _ => None,
    });
    let has_gateway = m.attributes.iter().any(|a| match a {
        RouteAttribute::MultiPath(hops) => {
            hops.iter().any(|h| h.attributes.iter().any(|a| links::gateway(a).is_some()))
        }
        a => links::gateway(a).is_some(),
    });
    let on_link = !has_gateway && m.header.destination_prefix_length < bits;
    index.map_or(Way::Nowhere, |index| Way::Through { index, on_link })
}

/// RTNLGRP_LINK, RTNLGRP_IPV4_IFADDR, RTNLGRP_IPV4_ROUTE, RTNLGRP_IPV6_IFADDR, RTNLGRP_IPV6_ROUTE of linux/rtnetlink.h.
const GROUPS: [u32; 5] = [1, 5, 7, 9, 11];

#[cfg(test)]
mod tests {
    use super::super::testing::a;
    use super::*;

    fn route(len: u8, attributes: Vec<RouteAttribute>) -> RouteMessage {
        let mut m = RouteMessage::default();
        (m.header.address_family, m.header.kind) = (AddressFamily::Inet6, RouteType::Unicast);
        m.header.destination_prefix_length = len;
        m.attributes = attributes;
        m
    }

    #[test]
    fn a_router_or_a_route_of_its_own_vouches_for_a_target() {
        let gateway = || RouteAttribute::Gateway(RouteAddress::Inet6("fe80::1".parse().unwrap()));
        let oif = || RouteAttribute::Oif(3);
        assert_eq!(way(&route(64, vec![oif()])), Way::Through { index: 3, on_link: true });
        assert_eq!(way(&route(128, vec![oif()])), Way::Through { index: 3, on_link: false });
        assert_eq!(way(&route(64, vec![oif(), gateway()])), Way::Through { index: 3, on_link: false });
        assert_eq!(way(&route(0, vec![oif(), gateway()])), Way::Nowhere);
        assert_eq!(way(&route(64, vec![])), Way::Nowhere);
        let mut blackhole = route(64, vec![oif()]);
        blackhole.header.kind = RouteType::BlackHole;
        assert_eq!(way(&blackhole), Way::Nowhere);
    }

    #[test]
    fn what_is_this_hosts_own_leads_nowhere() {
        let mut kernel = Kernel::open().unwrap();
        assert_eq!(kernel.way(&a("127.0.0.1")), Way::Nowhere);
        assert_eq!(kernel.way(&a("::1")), Way::Nowhere);
        assert!(kernel.links().unwrap().is_own(&a("127.0.0.1")));
    }
}
