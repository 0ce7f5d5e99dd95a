//! The host's neighbour table, and every change of it from the moment it was opened.
//!
//! The subscription comes before the first list, so that nothing falls between the two. What was told while the list was
//! made is read after it and brings the table to the same end. Of an overrun only the fact is known: the list is read
//! again, at most once a second, however fast the table turns over.
//!
//! One address can be a neighbour on several links. The guest sees one: that of the link its template comes from, else that
//! of the link with the lowest index. Link-local addresses mean the template's link only, where our sockets take them to.
//!
//! Limits: [`Neighbours::MAX`] entries; what comes later is left out until one goes, and keeps our MAC.
//!
//! System calls: socket, bind, getsockname, setsockopt (at start), sendto (list), recvfrom.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::time::Duration;

use netlink_packet_route::neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use crate::base::{Addr, Instant, Mac, PerFamily, RateLimit};
use crate::guest;
use crate::sys::netlink::{Netlink, news};

/// A subscription to the neighbour table of the network namespace it was opened in.
pub struct Neighbours {
    news: Netlink,
    lists: Netlink,
    table: Table,
    /// News were lost.
    stale: bool,
    lists_allowed: RateLimit,
    wake_at: Option<Instant>,
}

impl Neighbours {
    /// `template`: index of the link whose neighbours come first, by family; 0 for none.
    ///
    /// # Errors
    /// The kernel's.
    pub fn open(template: PerFamily<u32>) -> io::Result<Neighbours> {
        let news = Netlink::open()?;
        news.subscribe(RTNLGRP_NEIGH)?;
        let mut opened = Neighbours {
            news,
            lists: Netlink::open()?,
            table: Table { template, entries: BTreeMap::new() },
            stale: false,
            lists_allowed: RateLimit::every(LIST_INTERVAL, 1),
            wake_at: None,
        };
        opened.list(&mut |_, _| {})?;
        Ok(opened)
    }

    /// All that were known at the last reading.
    pub fn known(&self) -> impl Iterator<Item = (Addr, Mac)> + '_ {
        self.table.addresses().filter_map(|a| Some((a, self.table.shown(&a)?)))
    }

    /// From now on those of these links come first: `template` as in [`Neighbours::open`], `tell` as in
    /// [`Neighbours::from_host`].
    pub fn prefer(&mut self, template: PerFamily<u32>, tell: &mut dyn FnMut(Addr, Option<Mac>)) {
        let new = Table { template, entries: self.table.entries.clone() };
        self.table.differences(&new, tell);
        self.table = new;
    }

    /// Takes the news, and calls `tell` with each address whose MAC is another now, or which has none any more. To be
    /// called when the descriptor is readable, and at the time returned, if any.
    pub fn from_host(&mut self, now: Instant, tell: &mut dyn FnMut(Addr, Option<Mac>)) -> Option<Instant> {
        if !self.take_news(tell) {
            return self.wake(now, now + BREATH);
        }
        if !self.stale {
            return None;
        }
        self.stale = !(self.lists_allowed.allow(now) && self.list(tell).is_ok());
        if self.stale { self.wake(now, now + LIST_INTERVAL) } else { None }
    }

    /// False if there may be more.
    fn take_news(&mut self, tell: &mut dyn FnMut(Addr, Option<Mac>)) -> bool {
        for _ in 0..DATAGRAMS_A_TURN {
            match self.news.next_ready() {
                Ok(Some(messages)) => messages.iter().filter_map(event).for_each(|e| self.table.apply(&e, tell)),
                Ok(None) => return true,
                Err(e) => {
                    self.stale = true;
                    if e.raw_os_error() != Some(libc::ENOBUFS) {
                        log::debug!("cannot read changes of the host's neighbour table: {e}");
                        return true;
                    }
                }
            }
        }
        false
    }

    fn list(&mut self, tell: &mut dyn FnMut(Addr, Option<Mac>)) -> io::Result<()> {
        let mut new = Table { template: self.table.template, entries: BTreeMap::new() };
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let mut request = NeighbourMessage::default();
            request.header.family = family;
            let of_family = |addr: &Addr| addr.is_v4() == (family == AddressFamily::Inet);
            let restart = |new: &mut Table| new.entries.retain(|(addr, _), _| !of_family(addr));
            let take = |new: &mut Table, message| {
                event(&message).into_iter().for_each(|e| new.apply(&e, &mut |_, _| {}));
            };
            match self.lists.dump_into(&RouteNetlinkMessage::GetNeighbour(request), &mut new, restart, take) {
                Ok(()) => {}
                // A kernel without the family.
                Err(e) if e.raw_os_error() == Some(libc::EOPNOTSUPP) => {}
                Err(e) => return Err(e),
            }
        }
        let old = std::mem::replace(&mut self.table, new);
        old.differences(&self.table, tell);
        Ok(())
    }

    /// One timer at a time: news may come a thousand times before it is due.
    fn wake(&mut self, now: Instant, at: Instant) -> Option<Instant> {
        if self.wake_at.is_some_and(|w| w > now) {
            return None;
        }
        self.wake_at = Some(at);
        Some(at)
    }

    /// As many as the guest's table holds.
    pub const MAX: usize = guest::Neighbours::MAX;
}

impl AsRawFd for Neighbours {
    fn as_raw_fd(&self) -> RawFd {
        self.news.as_raw_fd()
    }
}

/// Entries by address and link.
#[derive(Debug)]
struct Table {
    template: PerFamily<u32>,
    entries: BTreeMap<(Addr, u32), Mac>,
}

impl Table {
    fn apply(&mut self, event: &Event, tell: &mut dyn FnMut(Addr, Option<Mac>)) {
        let before = self.shown(&event.addr);
        let key = (event.addr, event.index);
        match event.mac {
            Some(mac) if self.entries.len() < Neighbours::MAX || self.entries.contains_key(&key) => {
                self.entries.insert(key, mac);
            }
            Some(_) => return,
            None => {
                self.entries.remove(&key);
            }
        }
        let now = self.shown(&event.addr);
        if now != before {
            tell(event.addr, now);
        }
    }

    /// The MAC the guest is to see.
    fn shown(&self, addr: &Addr) -> Option<Mac> {
        let preferred = self.entries.get(&(*addr, self.template[addr.family()]));
        let first = || self.entries.range((*addr, 0)..=(*addr, u32::MAX)).next().map(|(_, mac)| mac);
        // RFC 4007 §6: without a zone the address says nothing about stations on other links.
        if addr.is_link_local() { preferred.copied() } else { preferred.or_else(first).copied() }
    }

    /// Each once.
    fn addresses(&self) -> impl Iterator<Item = Addr> + '_ {
        let mut last = None;
        self.entries.keys().map(|(addr, _)| *addr).filter(move |addr| last.replace(*addr) != Some(*addr))
    }

    fn differences(&self, new: &Table, tell: &mut dyn FnMut(Addr, Option<Mac>)) {
        let gone = self.addresses().filter(|a| self.shown(a).is_some() && new.shown(a).is_none());
        gone.for_each(|a| tell(a, None));
        let other = new.addresses().filter(|a| new.shown(a).is_some() && new.shown(a) != self.shown(a));
        other.for_each(|a| tell(a, new.shown(&a)));
    }
}

/// What a message says about one address on one link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Event {
    addr: Addr,
    index: u32,
    /// `None`: deleted, not answering, or not answering yet.
    mac: Option<Mac>,
}

/// `None` for what is no neighbour: entries of bridges, of proxies, groups, and the like.
fn event(message: &RouteNetlinkMessage) -> Option<Event> {
    let (m, there) = match message {
        RouteNetlinkMessage::NewNeighbour(m) => (m, true),
        RouteNetlinkMessage::DelNeighbour(m) => (m, false),
        _ => return None,
    };
    if m.header.flags.contains(NeighbourFlags::Proxy) {
        return None;
    }
    let (mut addr, mut mac) = (None, None);
    for a in &m.attributes {
        match a {
            NeighbourAttribute::Destination(NeighbourAddress::Inet(a)) => addr = Some(Addr::from(*a)),
            NeighbourAttribute::Destination(NeighbourAddress::Inet6(a)) => addr = Some(Addr::from(*a)),
            // Tunnels have addresses of other lengths.
            NeighbourAttribute::LinkLayerAddress(bytes) => mac = <[u8; 6]>::try_from(&bytes[..]).ok().map(Mac),
            _ => {}
        }
    }
    let addr = addr.filter(|a| a.is_unicast() && !a.is_loopback())?;
    // The kernel gives the address of valid entries only: one that failed, or is not resolved yet, comes without. Links
    // without neighbours have zeros there.
    Some(Event { addr, index: m.header.ifindex, mac: mac.filter(|mac| there && mac.is_unicast()) })
}

/// What a datagram says about neighbours. For tests: of datagrams that no kernel has sent.
#[doc(hidden)]
pub fn neighbours_in(datagram: &[u8]) -> Vec<(Addr, Option<Mac>)> {
    news(datagram).iter().filter_map(event).map(|e| (e.addr, e.mac)).collect()
}

/// linux/rtnetlink.h.
const RTNLGRP_NEIGH: u32 = 3;
/// Then it is the turn of the others, for [`BREATH`].
const DATAGRAMS_A_TURN: usize = 256;
const BREATH: Duration = Duration::from_millis(1);
/// Between lists after an overrun.
const LIST_INTERVAL: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::netlink;
    use std::net::IpAddr;

    const LINK: u32 = 2;

    fn a(s: &str) -> Addr {
        s.parse::<IpAddr>().unwrap().into()
    }

    fn mac(n: u8) -> Mac {
        Mac([2, 0, 0, 0, 0, n])
    }

    fn message(addr: &str, index: u32, bytes: Option<&[u8]>) -> NeighbourMessage {
        let mut m = NeighbourMessage::default();
        let ip: IpAddr = addr.parse().unwrap();
        m.header.family = if ip.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
        m.header.ifindex = index;
        m.attributes.push(NeighbourAttribute::Destination(ip.into()));
        m.attributes.extend(bytes.map(|b| NeighbourAttribute::LinkLayerAddress(b.to_vec())));
        m
    }

    fn table() -> Table {
        Table { template: PerFamily::new(LINK, LINK), entries: BTreeMap::new() }
    }

    impl Table {
        fn told(&mut self, addr: &str, index: u32, mac: Option<Mac>) -> Vec<(Addr, Option<Mac>)> {
            let mut told = Vec::new();
            self.apply(&Event { addr: a(addr), index, mac }, &mut |addr, mac| told.push((addr, mac)));
            told
        }
    }

    proptest::proptest! {
        #[test]
        fn any_attributes_are_read_or_refused(
            family in proptest::sample::select(vec![2u8, 7, 10]),
            attributes in proptest::collection::vec((0..18u16, proptest::collection::vec(0..4u8, 0..24)), 0..6),
        ) {
            let mut b = vec![family, 0, 0, 0, 2, 0, 0, 0, 2, 0, 0, 1];
            for (kind, value) in &attributes {
                b.extend((4 + value.len() as u16).to_ne_bytes());
                b.extend(kind.to_ne_bytes());
                b.extend(value);
                b.resize(b.len().next_multiple_of(4), 0);
            }
            let head = [&(16 + b.len() as u32).to_ne_bytes()[..], &28u16.to_ne_bytes(), &[0; 10]].concat();
            for m in netlink::messages(&[head, b].concat()) {
                let netlink_packet_core::NetlinkPayload::InnerMessage(m) = m.payload else { continue };
                if let Some(e) = event(&m) {
                    proptest::prop_assert!(e.addr.is_unicast() && e.mac.is_none_or(|mac| mac.is_unicast()));
                    proptest::prop_assert_eq!(e.addr.is_v4(), family == 2);
                }
            }
        }
    }

    #[test]
    fn messages_with_an_ethernet_address_are_neighbours() {
        for addr in ["192.0.2.10", "2001:db8::10", "fe80::10"] {
            let m = message(addr, LINK, Some(&mac(1).0));
            let expect = Event { addr: a(addr), index: LINK, mac: Some(mac(1)) };
            assert_eq!(event(&RouteNetlinkMessage::NewNeighbour(m.clone())), Some(expect));
            assert_eq!(event(&RouteNetlinkMessage::DelNeighbour(m)), Some(Event { mac: None, ..expect }));
        }
    }

    #[test]
    fn entries_without_a_station_address_end_the_mapping() {
        for bytes in [None, Some(&[0; 6][..]), Some(&[0xff; 6]), Some(&[1, 2, 3, 4]), Some(&[2; 20])] {
            let e = event(&RouteNetlinkMessage::NewNeighbour(message("192.0.2.10", LINK, bytes))).unwrap();
            assert_eq!(e.mac, None, "{bytes:?}");
        }
    }

    #[test]
    fn what_is_no_neighbour_is_left_out() {
        for addr in ["224.0.0.1", "255.255.255.255", "127.0.0.1", "0.0.0.0", "ff02::1", "::1"] {
            let m = message(addr, LINK, Some(&mac(1).0));
            assert_eq!(event(&RouteNetlinkMessage::NewNeighbour(m)), None, "{addr}");
        }
        let mut proxy = message("192.0.2.10", LINK, None);
        proxy.header.flags = NeighbourFlags::Proxy;
        let mut bridge = NeighbourMessage::default();
        bridge.attributes.push(NeighbourAttribute::LinkLayerAddress(mac(1).0.to_vec()));
        for m in [proxy, bridge] {
            assert_eq!(event(&RouteNetlinkMessage::NewNeighbour(m)), None);
        }
        assert_eq!(event(&RouteNetlinkMessage::GetNeighbour(NeighbourMessage::default())), None);
    }

    #[test]
    fn only_what_changes_is_told() {
        let (mut t, addr) = (table(), "192.0.2.10");
        assert_eq!(t.told(addr, LINK, Some(mac(1))), [(a(addr), Some(mac(1)))]);
        assert_eq!(t.told(addr, LINK, Some(mac(1))), []);
        assert_eq!(t.told(addr, LINK, Some(mac(2))), [(a(addr), Some(mac(2)))]);
        assert_eq!(t.told(addr, LINK, None), [(a(addr), None)]);
        assert_eq!(t.told(addr, LINK, None), []);
    }

    #[test]
    fn the_templates_link_comes_first() {
        let (mut t, addr) = (table(), "192.0.2.10");
        assert_eq!(t.told(addr, 7, Some(mac(7))), [(a(addr), Some(mac(7)))]);
        assert_eq!(t.told(addr, 5, Some(mac(5))), [(a(addr), Some(mac(5)))]);
        assert_eq!(t.told(addr, LINK, Some(mac(1))), [(a(addr), Some(mac(1)))]);
        assert_eq!(t.told(addr, 5, None), []);
        assert_eq!(t.told(addr, LINK, None), [(a(addr), Some(mac(7)))]);
    }

    #[test]
    fn link_local_stations_of_other_links_are_unknown() {
        let mut t = table();
        assert_eq!(t.told("fe80::9", 7, Some(mac(7))), []);
        assert_eq!(t.told("fe80::9", LINK, Some(mac(1))), [(a("fe80::9"), Some(mac(1)))]);
    }

    #[test]
    fn full_table_takes_changes_and_nothing_new() {
        let mut t = table();
        let addr = |i: usize| Addr::v4([10, 0, (i >> 8) as u8, i as u8]).to_string();
        for i in 0..Neighbours::MAX {
            assert_eq!(t.told(&addr(i), LINK, Some(mac(1))).len(), 1);
        }
        assert_eq!(t.told("192.0.2.1", LINK, Some(mac(1))), []);
        assert_eq!(t.told(&addr(9), LINK, Some(mac(2))).len(), 1);
        assert_eq!(t.told(&addr(9), LINK, None).len(), 1);
        assert_eq!(t.told("192.0.2.1", LINK, Some(mac(1))).len(), 1);
    }

    #[test]
    fn two_lists_differ_in_what_is_told() {
        let (mut old, mut new) = (table(), table());
        for (addr, before, after) in [
            ("192.0.2.1", Some(mac(1)), None),
            ("192.0.2.2", Some(mac(2)), Some(mac(2))),
            ("192.0.2.3", Some(mac(3)), Some(mac(4))),
            ("192.0.2.4", None, Some(mac(5))),
        ] {
            old.told(addr, LINK, before);
            new.told(addr, LINK, after);
        }
        let mut told = Vec::new();
        old.differences(&new, &mut |addr, mac| told.push((addr, mac)));
        told.sort();
        let expect =
            [("192.0.2.1", None), ("192.0.2.3", Some(mac(4))), ("192.0.2.4", Some(mac(5)))].map(|(s, m)| (a(s), m));
        assert_eq!(told, expect);
    }
}
