//! Changes of the host's network, from the moment a [`Follower`] was opened.
//!
//! What the kernel tells is taken for no more than the fact that something has changed: then all is read again, as at start, and
//! chosen from again. So news that were lost (an overrun) cost nothing but this fact, and nothing of what is told one by one
//! has to be put together here.
//!
//! A network comes up in many steps: link, addresses, routes, for IPv6 seconds after IPv4. A reading waits until nothing was told
//! for [`QUIET`], and no longer than [`LONGEST`] after the first news. Where it takes long (a full Internet table), the next
//! waits [`REST`] times as long as the last has taken. Nothing is done while nothing changes.
//!
//! Not looked at: link messages without a change of flags, as wireless networks send, and routes of other tables or kinds.
//!
//! System calls: socket, bind, getsockname, setsockopt (at start), sendto (lists), recvfrom.

use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::time::Duration;

use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::route::{RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteType};

use super::{Error, Network, Resolv, Select, has_ipv6, look};
use crate::base::Instant;
use crate::sys::netlink::Netlink;

/// A subscription to changes of the network namespace it was opened in.
pub struct Follower {
    news: Netlink,
    lists: Netlink,
    select: Select,
    ipv6: bool,
    pace: Pace,
    wake_at: Option<Instant>,
}

/// What [`Follower::look`] advises.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Look {
    /// [`Follower::read`].
    Now,
    /// Call again then.
    At(Instant),
    /// There is nothing new.
    Never,
}

impl Follower {
    /// To be called before the host is read for the first time: nothing falls between the two then.
    ///
    /// # Errors
    /// The kernel's.
    pub fn open(select: Select) -> io::Result<Follower> {
        let news = Netlink::open()?;
        let ipv6 = has_ipv6();
        GROUPS.iter().take(if ipv6 { GROUPS.len() } else { GROUPS_V4 }).try_for_each(|group| news.subscribe(*group))?;
        Ok(Follower { news, lists: Netlink::open()?, select, ipv6, pace: Pace::default(), wake_at: None })
    }

    /// Takes the news. To be called when the descriptor is readable, and [`Follower::look`] at the time returned, if any.
    pub fn from_host(&mut self, now: Instant) -> Option<Instant> {
        self.take_news(now);
        // One timer at a time: news may come a thousand times before it is due.
        let due = self.pace.due().filter(|_| self.wake_at.is_none())?;
        self.wake_at = Some(due);
        Some(due)
    }

    /// Whether it is time to read the host again.
    pub fn look(&mut self, now: Instant) -> Look {
        self.wake_at = None;
        self.take_news(now);
        match self.pace.due() {
            None => Look::Never,
            Some(due) if due > now => {
                self.wake_at = Some(due);
                Look::At(due)
            }
            Some(_) => Look::Now,
        }
    }

    /// Reads the host's network, with `resolv` for what its resolv.conf says.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn read(&mut self, resolv: &Resolv) -> Result<Network, Error> {
        let mut network = look(&mut self.lists, &self.select, self.ipv6)?;
        network.resolv = resolv.clone();
        Ok(network)
    }

    /// A reading began and ended then; `failed`: it is to be tried again.
    pub fn has_read(&mut self, began: Instant, ended: Instant, failed: bool) -> Option<Instant> {
        self.pace.has_read(began, ended);
        if failed {
            self.pace.news(ended + LONGEST);
        }
        self.from_host(ended)
    }

    fn take_news(&mut self, now: Instant) {
        for _ in 0..DATAGRAMS_A_TURN {
            match self.news.next_ready() {
                Ok(Some(messages)) => {
                    if messages.iter().any(matters) {
                        self.pace.news(now);
                    }
                }
                Ok(None) => return,
                Err(e) => {
                    // ENOBUFS is an overrun: there was more than the kernel kept for us.
                    self.pace.news(now);
                    if e.raw_os_error() != Some(libc::ENOBUFS) {
                        log::debug!("cannot read changes of the host's network: {e}");
                        return;
                    }
                }
            }
        }
        // The rest is taken before the reading.
        self.pace.news(now);
    }
}

impl AsRawFd for Follower {
    fn as_raw_fd(&self) -> RawFd {
        self.news.as_raw_fd()
    }
}

/// True for what may change the choice.
fn matters(message: &RouteNetlinkMessage) -> bool {
    match message {
        RouteNetlinkMessage::NewLink(m) => !m.header.change_mask.is_empty(),
        RouteNetlinkMessage::DelLink(_) | RouteNetlinkMessage::NewAddress(_) | RouteNetlinkMessage::DelAddress(_) => {
            true
        }
        RouteNetlinkMessage::NewRoute(m) | RouteNetlinkMessage::DelRoute(m) => is_of_main_table(m),
        _ => false,
    }
}

fn is_of_main_table(m: &RouteMessage) -> bool {
    let attribute = m.attributes.iter().find_map(|a| if let RouteAttribute::Table(t) = a { Some(*t) } else { None });
    let table = attribute.unwrap_or(u32::from(m.header.table));
    table == u32::from(RouteHeader::RT_TABLE_MAIN)
        && m.header.kind == RouteType::Unicast
        && !m.header.flags.contains(RouteFlags::Cloned)
}

/// When to read again.
#[derive(Debug, Default)]
struct Pace {
    /// First and last news that no reading has seen.
    waiting: Option<(Instant, Instant)>,
    /// Not before the rest after the last reading.
    rested: Option<Instant>,
}

impl Pace {
    fn news(&mut self, now: Instant) {
        let first = self.waiting.map_or(now, |(first, _)| first);
        self.waiting = Some((first, now));
    }

    fn due(&self) -> Option<Instant> {
        let (first, last) = self.waiting?;
        let settled = (first + LONGEST).min(last + QUIET);
        Some(self.rested.map_or(settled, |rested| settled.max(rested)))
    }

    fn has_read(&mut self, began: Instant, ended: Instant) {
        self.waiting = None;
        self.rested = Some(ended + ended.since(began) * REST);
    }
}

const QUIET: Duration = Duration::from_millis(200);
const LONGEST: Duration = Duration::from_secs(1);
/// Readings take a twentieth of the time at most.
const REST: u32 = 19;
/// Datagrams read before others have their turn.
const DATAGRAMS_A_TURN: usize = 64;
/// RTNLGRP_LINK, RTNLGRP_IPV4_IFADDR, RTNLGRP_IPV4_ROUTE; RTNLGRP_IPV6_IFADDR, RTNLGRP_IPV6_ROUTE. A link that goes down takes
/// IPv4 routes with it of which nothing is told.
const GROUPS: [u32; 5] = [1, 5, 7, 9, 11];
const GROUPS_V4: usize = 3;

#[cfg(test)]
mod tests {
    use super::*;
    use netlink_packet_route::link::{LinkFlags, LinkMessage};

    fn at(ms: u64) -> Instant {
        Instant::from_nanos(ms * 1_000_000)
    }

    #[test]
    fn a_burst_is_read_once_when_it_is_over() {
        let mut pace = Pace::default();
        assert_eq!(pace.due(), None);
        for ms in [1000, 1100, 1250] {
            pace.news(at(ms));
        }
        assert_eq!(pace.due(), Some(at(1450)));
        pace.has_read(at(1450), at(1450));
        assert_eq!(pace.due(), None);
    }

    #[test]
    fn news_without_end_are_read_once_a_second() {
        let mut pace = Pace::default();
        (0..100).for_each(|n| pace.news(at(1000 + n * 50)));
        assert_eq!(pace.due(), Some(at(2000)));
    }

    #[test]
    fn long_readings_are_followed_by_a_longer_rest() {
        let mut pace = Pace::default();
        pace.news(at(1000));
        pace.has_read(at(1200), at(1700));
        pace.news(at(1800));
        assert_eq!(pace.due(), Some(at(1700 + 19 * 500)));
    }

    #[test]
    fn what_does_not_change_the_choice_does_not_matter() {
        let mut link = LinkMessage::default();
        assert!(!matters(&RouteNetlinkMessage::NewLink(link.clone())), "as a wireless scan");
        link.header.change_mask = LinkFlags::Up;
        assert!(matters(&RouteNetlinkMessage::NewLink(link)));
        let mut route = RouteMessage::default();
        (route.header.table, route.header.kind) = (RouteHeader::RT_TABLE_MAIN, RouteType::Unicast);
        assert!(matters(&RouteNetlinkMessage::DelRoute(route.clone())));
        route.attributes.push(RouteAttribute::Table(1000));
        assert!(!matters(&RouteNetlinkMessage::DelRoute(route.clone())));
        (route.attributes, route.header.flags) = (Vec::new(), RouteFlags::Cloned);
        assert!(!matters(&RouteNetlinkMessage::NewRoute(route)));
    }

    #[test]
    fn the_host_is_read_again_by_descriptors_that_are_open() {
        let mut follower = Follower::open(Select::default()).unwrap();
        let resolv = Resolv::parse(b"nameserver 192.0.2.53\n");
        assert_eq!(follower.read(&resolv).unwrap().resolv, resolv);
        assert_eq!(follower.look(at(5000)), Look::Never);
    }
}
