//! Router advertisements: what they say, and when (RFC 4861 §6.2).

use std::time::Duration;

use super::change::Withdrawn;
use super::frames::send_icmpv6;
use super::{Config, Gateway};
use crate::base::{Addr, DropReason, Family, Instant, Mac};
use crate::guest::{Facts, ToGuest};
use crate::wire::name::Names;
use crate::wire::ndp::{self, INFINITE, PrefixFlags, RaFlags, RouterAdvertisement};
use crate::wire::{IPV6_LEN, Packet};

/// When the next advertisement to all nodes is due, and what limits the answers.
#[derive(Debug)]
pub(super) struct Schedule {
    next: Instant,
    /// Advertisements left of the first, quick ones.
    initial_left: u8,
    last_multicast: Option<Instant>,
    /// Solicitations answered one by one since `window`.
    unicast: u8,
    window: Instant,
    random: u64,
}

impl Schedule {
    pub(super) fn new(seed: u64, now: Instant) -> Schedule {
        Schedule {
            next: now,
            initial_left: INITIAL_ADVERTISEMENTS,
            last_multicast: None,
            unicast: 0,
            window: Instant::ZERO,
            random: seed,
        }
    }

    fn begin_again(&mut self, now: Instant) {
        self.next = now;
        self.initial_left = INITIAL_ADVERTISEMENTS;
    }

    /// What is advertised has changed: as soon as RFC 4861 §6.2.4 allows, and again in case that is lost.
    fn has_changed(&mut self, now: Instant) {
        self.begin_again(self.last_multicast.map_or(now, |t| now.max(t + MIN_DELAY)));
    }

    /// An advertisement to all nodes goes out now: plan the one after it (RFC 4861 §6.2.4).
    fn multicast_sent(&mut self, now: Instant) {
        let interval = self.random_interval();
        self.initial_left = self.initial_left.saturating_sub(1);
        self.next = now + if self.initial_left > 0 { interval.min(INITIAL_INTERVAL) } else { interval };
        self.last_multicast = Some(now);
    }

    /// True if a solicitation may have an answer of its own now.
    fn unicast_allowed(&mut self, now: Instant) -> bool {
        if now.since(self.window) >= MIN_DELAY {
            self.window = now;
            self.unicast = 0;
        }
        self.unicast += u8::from(self.unicast < UNICAST_MAX + 1);
        self.unicast <= UNICAST_MAX
    }

    /// An advertisement to all nodes is wanted now, which RFC 4861 §6.2.6 allows once in three seconds. True if it may go
    /// at once, else it is planned.
    fn multicast_wanted(&mut self, now: Instant) -> bool {
        let earliest = self.last_multicast.map_or(now, |t| t + MIN_DELAY);
        if earliest <= now {
            return true;
        }
        self.next = self.next.min(earliest);
        false
    }

    fn random_interval(&mut self) -> Duration {
        // SplitMix64: spreads the senders of a network, which needs no secrecy.
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.random;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^= z >> 31;
        let span = (MAX_INTERVAL - MIN_INTERVAL).as_millis() as u64;
        MIN_INTERVAL + Duration::from_millis(z % (span + 1))
    }
}

impl Gateway {
    /// Sends the advertisement that is due. Returns the next deadline, `None` if no advertisements are sent at all.
    pub fn on_timer(&mut self, facts: &Facts<'_>, link: &mut dyn ToGuest) -> Option<Instant> {
        if self.config.sends_ra() && self.ra.next <= facts.now {
            // A link that is full or not there loses it: the next one is planned, and a guest that needs one asks.
            let _ = self.advertise_to_all(facts, link);
        }
        self.next_timer()
    }

    /// When [`Gateway::on_timer`] has something to do.
    pub fn next_timer(&self) -> Option<Instant> {
        self.config.sends_ra().then_some(self.ra.next)
    }

    /// The guest has come: advertise now, and again soon in case it is not ready yet (RFC 4861 §6.2.4).
    pub(super) fn start_advertising(&mut self, facts: &Facts<'_>, link: &mut dyn ToGuest) {
        self.ra.begin_again(facts.now);
        self.on_timer(facts, link);
    }

    /// What is advertised has changed. `old`: the address that the router had, if it has another now. It is no router any
    /// more (RFC 4861 §6.2.8); the guest keeps its routes until then.
    pub(super) fn advertise_change(&mut self, old: Option<Addr>, facts: &Facts<'_>, link: &mut dyn ToGuest) {
        self.ra.has_changed(facts.now);
        self.on_timer(facts, link);
        if let Some(old) = old {
            let mut ceases = RouterAdvertisement::new(HOP_LIMIT, RaFlags::empty(), 0);
            ceases.source_link_layer(facts.l2.mac_for(&old));
            // One that is lost leaves the guest a router that we still are for whatever it sends.
            let _ = send_icmpv6(&old, &ndp::ALL_NODES, Mac::BROADCAST, ceases.into_bytes(), facts, link);
        }
    }

    pub(super) fn answer_router_solicitation(
        &mut self,
        packet: &Packet,
        facts: &Facts<'_>,
        link: &mut dyn ToGuest,
    ) -> Result<(), DropReason> {
        if !self.config.sends_ra() {
            return Err(DropReason::Disabled);
        }
        // RFC 4861 §6.2.6 delays answers by 0 to 500 ms so that the routers of a link do not collide. Here is one router,
        // and the guest waits for its address: the delay is always the shortest.
        if !packet.src.is_unspecified() && self.ra.unicast_allowed(facts.now) {
            return self.advertise(&packet.src, packet.src_mac, facts, link);
        }
        if self.ra.multicast_wanted(facts.now) { self.advertise_to_all(facts, link) } else { Ok(()) }
    }

    fn advertise_to_all(&mut self, facts: &Facts<'_>, link: &mut dyn ToGuest) -> Result<(), DropReason> {
        self.ra.multicast_sent(facts.now);
        self.advertise(&ndp::ALL_NODES, Mac::BROADCAST, facts, link)
    }

    fn advertise(&self, dst: &Addr, mac: Mac, facts: &Facts<'_>, link: &mut dyn ToGuest) -> Result<(), DropReason> {
        let src = self.config.our_link_local.ok_or(DropReason::Disabled)?;
        let withdrawn = self.withdrawn.as_of(facts.now);
        let message = advertisement(&self.config, &withdrawn, facts.l2.mac_for(&src));
        send_icmpv6(&src, dst, mac, message, facts, link)
    }
}

fn advertisement(config: &Config, withdrawn: &Withdrawn, mac: Mac) -> Vec<u8> {
    // RFC 4861 §4.2: M where addresses come from DHCPv6, O where only the rest does.
    let flags = match (config.serves_dhcpv6(), config.assigned.v6) {
        (true, Some(_)) => RaFlags::MANAGED,
        (true, None) => RaFlags::OTHER,
        (false, _) => RaFlags::empty(),
    };
    let mut ra = RouterAdvertisement::new(HOP_LIMIT, flags, ROUTER_LIFETIME_S);
    let prefix_flags = |len| match len {
        // RFC 4862 §5.5.3: prefix and interface identifier make 128 bits, and the identifier of Ethernet has 64.
        64 => PrefixFlags::ON_LINK | PrefixFlags::AUTONOMOUS,
        _ => PrefixFlags::ON_LINK,
    };
    if let Some((prefix, len)) = prefix(config) {
        let is_hosts = config.assigned.v6.is_some_and(|(_, hosts)| hosts == len);
        let flags = if is_hosts { prefix_flags(len) } else { PrefixFlags::AUTONOMOUS };
        ra.prefix(&prefix, len, flags, INFINITE, INFINITE);
    }
    for (prefix, len) in &withdrawn.prefixes {
        // Addresses of it begin nothing new. RFC 4862 §5.5.3 (e) leaves them two hours for what has begun.
        ra.prefix(prefix, *len, prefix_flags(*len), 0, 0);
    }
    ra.source_link_layer(mac);
    if let Some(mtu) = config.mtu.filter(|m| *m >= MTU_MIN) {
        ra.mtu(u32::from(mtu));
    }
    let resolvers: Vec<Addr> = config.resolvers(Family::V6).copied().collect();
    if !resolvers.is_empty() {
        ra.resolvers(&resolvers, INFINITE);
    }
    if !withdrawn.resolvers.is_empty() {
        // RFC 8106 §5.1: not to be used any more.
        ra.resolvers(&withdrawn.resolvers, 0);
    }
    search(&mut ra, config.search_list(), INFINITE);
    search(&mut ra, &withdrawn.search, 0);
    ra.into_bytes()
}

/// As many of these domains as there is room for.
fn search(ra: &mut RouterAdvertisement, domains: &[String], lifetime_s: u32) {
    let room = (usize::from(MTU_MIN) - IPV6_LEN).saturating_sub(ra.len() + 8) / 8 * 8;
    let mut names = Names::plain();
    for domain in domains {
        names.push(domain, room.min(ndp::DNSSL_MAX));
    }
    if !names.is_empty() {
        ra.search(&names, lifetime_s);
    }
}

/// What is advertised of the guest's address. A guest that knows no DHCPv6 makes an address of its own of 64 bits, also where the
/// host's has another length, as one from DHCPv6 has: we answer for all of the prefix in any case.
pub(super) fn prefix(config: &Config) -> Option<(Addr, u8)> {
    let usable = |len: &u8| if config.prefix_is_hosts { 64 } else { *len };
    let assigned = config.assigned.v6.map(|(addr, len)| (addr, usable(&len)));
    let (addr, len) = assigned.filter(|(addr, len)| advertises_prefix(addr, *len))?;
    Some((addr.masked(len), len))
}

/// RFC 4862 §5.5.3 (b) has hosts ignore link-local prefixes; one of 128 bits holds nobody but the guest itself.
fn advertises_prefix(addr: &Addr, len: u8) -> bool {
    !addr.is_link_local() && len < 128
}

/// What the guest puts into its packets; spelt ends them, so this only has to be enough.
const HOP_LIMIT: u8 = 255;
/// The longest there is (RFC 8319 §4): the router lives as long as the link.
const ROUTER_LIFETIME_S: u16 = u16::MAX;
/// RFC 8200 §5: no smaller MTU may be advertised, and an advertisement fits every link.
const MTU_MIN: u16 = 1280;

/// RFC 4861 §6.2.1, MaxRtrAdvInterval at its default and MinRtrAdvInterval a third of it.
const MAX_INTERVAL: Duration = Duration::from_secs(600);
const MIN_INTERVAL: Duration = Duration::from_secs(200);
/// RFC 4861 §10: MAX_INITIAL_RTR_ADVERT_INTERVAL, MAX_INITIAL_RTR_ADVERTISEMENTS, MIN_DELAY_BETWEEN_RAS.
const INITIAL_INTERVAL: Duration = Duration::from_secs(16);
const INITIAL_ADVERTISEMENTS: u8 = 3;
const MIN_DELAY: Duration = Duration::from_secs(3);
/// Answers to single solicitations within [`MIN_DELAY`]: as many as a host sends while it comes up
/// (MAX_RTR_SOLICITATIONS). More are answered together.
const UNICAST_MAX: u8 = 3;

#[cfg(test)]
mod tests {
    use super::super::testing::*;
    use super::*;
    use crate::base::PerFamily;

    fn solicit(src: &str) -> Vec<u8> {
        icmpv6_frame(src, "ff02::2", 255, vec![133, 0, 0, 0, 0, 0, 0, 0])
    }

    fn options(c: &Config) -> Vec<(u8, Vec<u8>)> {
        let b = advertisement(c, &Withdrawn::default(), OUR_MAC);
        assert!(ndp::parse(&a("fe80::1"), &ndp::ALL_NODES, 255, &b).is_some());
        ndp::options_of(&b[16..]).into_iter().map(|(t, o)| (t, o.to_vec())).collect()
    }

    fn option(c: &Config, kind: u8) -> Option<Vec<u8>> {
        options(c).into_iter().find(|(t, _)| *t == kind).map(|(_, o)| o)
    }

    #[test]
    fn upstream_2023_12_golden_advertisement() {
        let c = Config { mtu: Some(65520), search: vec!["example.com.".into()], ..config() };
        let expect = [
            &[134, 0, 0, 0, 255, 0x80, 0xff, 0xff, 0, 0, 0, 0, 0, 0, 0, 0][..],
            &[3, 4, 64, 0xc0, 255, 255, 255, 255, 255, 255, 255, 255, 0, 0, 0, 0],
            &[0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
            &[1, 1, 0x9a, 0x55, 0x9a, 0x55, 0x9a, 0x55],
            &[5, 1, 0, 0, 0, 0, 0xff, 0xf0],
            &[25, 3, 0, 0, 255, 255, 255, 255],
            &[0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x53],
            &[31, 3, 0, 0, 255, 255, 255, 255],
            b"\x07example\x03com\0\0\0\0",
        ];
        assert_eq!(advertisement(&c, &Withdrawn::default(), OUR_MAC), expect.concat());
    }

    #[test]
    fn d12_prefix_is_masked_and_autonomous_only_with_64_bits() {
        let with = |addr: &str, len| Config { assigned: PerFamily::new(None, Some((a(addr), len))), ..config() };
        let o = option(&with("2001:db8:1:2ff::7", 60), 3).unwrap();
        assert_eq!((o[2], o[3]), (60, 0x80));
        assert_eq!(o[16..], *a("2001:db8:1:2f0::").octets());
        assert_eq!(option(&with("2001:db8::7", 128), 3), None);
        assert_eq!(option(&with("fe80::7", 64), 3), None, "link-local");
        let hosts = |addr: &str, len| Config { prefix_is_hosts: true, ..with(addr, len) };
        for (len, flags) in [(128, 0x40), (56, 0x40), (64, 0xc0)] {
            let o = option(&hosts("2001:db8:1:2ff::7", len), 3).unwrap();
            assert_eq!((o[2], o[3]), (64, flags));
            assert_eq!(o[16..], *a("2001:db8:1:2ff::").octets());
        }
        assert_eq!(option(&hosts("fe80::7", 64), 3), None, "link-local");
        assert_eq!(option(&Config { assigned: PerFamily::default(), ..config() }, 3), None, "local mode");
    }

    #[test]
    fn flags_follow_the_servers() {
        let flags = |c: &Config| advertisement(c, &Withdrawn::default(), OUR_MAC)[5];
        assert_eq!(flags(&config()), 0x80);
        assert_eq!(flags(&Config { assigned: PerFamily::default(), ..config() }), 0x40);
        assert_eq!(flags(&Config { dhcpv6: false, ..config() }), 0);
    }

    #[test]
    fn resolvers_and_search_list_do_not_need_each_other() {
        let only_search = Config { dns: vec![], ..config() };
        assert!(option(&only_search, 25).is_none() && option(&only_search, 31).is_some());
        let only_dns = Config { search: vec!["..".into()], ..config() };
        assert!(option(&only_dns, 25).is_some() && option(&only_dns, 31).is_none());
        let neither = Config { dns_in_dhcp: false, search_in_dhcp: false, ..config() };
        assert!(option(&neither, 25).is_none() && option(&neither, 31).is_none());
        assert!(option(&Config { mtu: None, ..config() }, 5).is_none());
        assert!(option(&Config { mtu: Some(1000), ..config() }, 5).is_none());
    }

    #[test]
    fn a_long_search_list_is_cut_to_the_smallest_mtu() {
        let search = (0..200).map(|i| format!("{}.example{i}.com", "x".repeat(40))).collect();
        let b = advertisement(&Config { search, ..config() }, &Withdrawn::default(), OUR_MAC);
        assert!(b.len() > 1000 && b.len() + IPV6_LEN <= 1280 && b.len().is_multiple_of(8), "{}", b.len());
    }

    #[test]
    fn d12_solicitations_are_answered_to_the_asker_or_to_all() {
        let mut t = Bench::new();
        let ra = icmpv6(&t.answer(&solicit("fe80::7")).unwrap()[0]);
        assert_eq!((ra.src, ra.dst, ra.dst_mac), (a("fe80::1"), a("fe80::7"), GUEST_MAC));
        assert_eq!(ra.parse(), Some(ndp::Message::RouterAdvertisement));
        let ra = icmpv6(&t.answer(&solicit("::")).unwrap()[0]);
        assert_eq!((ra.dst, ra.dst_mac), (a("ff02::1"), Mac([0x33, 0x33, 0, 0, 0, 1])));
    }

    #[test]
    fn many_solicitations_share_one_answer() {
        let mut t = Bench::new();
        for _ in 0..3 {
            assert_eq!(icmpv6(&t.answer(&solicit("fe80::7")).unwrap()[0]).dst, a("fe80::7"));
        }
        assert_eq!(icmpv6(&t.answer(&solicit("fe80::7")).unwrap()[0]).dst, a("ff02::1"));
        for src in ["::", "fe80::7", "fe80::8"] {
            assert!(t.answer(&solicit(src)).unwrap().is_empty());
        }
        assert_eq!(t.gateway.next_timer(), Some(t.now + MIN_DELAY));
        t.advance(3);
        let sent = t.timer();
        assert_eq!((sent.len(), icmpv6(&sent[0]).dst), (1, a("ff02::1")));
        assert_eq!(icmpv6(&t.answer(&solicit("fe80::7")).unwrap()[0]).dst, a("fe80::7"));
    }

    #[test]
    fn kubevirt13191_three_quick_advertisements_then_one_every_few_minutes() {
        let mut t = Bench::new();
        assert_eq!(t.start().len(), 3, "ARP request, neighbour solicitation, advertisement");
        let mut gaps = Vec::new();
        for _ in 0..40 {
            let next = t.gateway.next_timer().unwrap();
            gaps.push(next.since(t.now).as_secs());
            assert!(t.timer().is_empty(), "not yet due");
            t.now = next;
            assert_eq!(t.timer().len(), 1);
        }
        assert_eq!(gaps[..2], [16, 16]);
        assert!(gaps[2..].iter().all(|g| (200..=600).contains(g)), "{gaps:?}");
        assert!(gaps[2..].iter().any(|g| *g != gaps[2]), "random");
    }

    #[test]
    fn a_full_link_does_not_stop_the_clock() {
        let mut t = Bench::new();
        t.link.room = 0;
        assert!(t.start().is_empty());
        assert_eq!(t.gateway.next_timer(), Some(t.now + INITIAL_INTERVAL));
        assert_eq!(t.answer(&solicit("fe80::7")), Err(DropReason::LinkFull));
    }

    #[test]
    fn switched_off_there_is_no_timer() {
        for c in [Config { ra: false, ..config() }, Config { our_link_local: None, ..config() }] {
            let mut t = Bench::with(c);
            assert_eq!((t.gateway.next_timer(), t.timer().len()), (None, 0));
            assert_eq!(t.answer(&solicit("fe80::7")), Err(DropReason::Disabled));
        }
    }
}
