//! The host's network has changed, and with it what the guest is told.
//!
//! Router advertisements say so at once: what is new, and with a lifetime of zero what is gone, for as long as a guest may
//! remember it. Clients of DHCP and DHCPv6 learn it when they renew, for nobody may tell them without being asked (both have
//! means for it that need keys, RFC 6704 §3, RFC 8415 §20.4).

use std::time::Duration;

use super::{Config, Gateway, ra};
use crate::base::{Addr, Family, Instant};
use crate::guest::{Facts, ToGuest};

/// What was advertised once and is gone.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Withdrawn {
    pub prefixes: Vec<(Addr, u8)>,
    pub resolvers: Vec<Addr>,
    pub search: Vec<String>,
    until: Instant,
}

impl Gateway {
    /// The guest is told this from now on.
    pub fn change(&mut self, config: Config, facts: &Facts<'_>, link: &mut dyn ToGuest) {
        if config == self.config {
            return;
        }
        let old = std::mem::replace(&mut self.config, config);
        let known = self.withdrawn.as_of(facts.now);
        self.withdrawn = known.with(&old, &self.config, facts.now);
        if self.config.sends_ra() {
            let gone = old.our_link_local.filter(|_| old.our_link_local != self.config.our_link_local);
            self.advertise_change(gone, facts, link);
        }
    }
}

impl Withdrawn {
    /// Nothing, if nobody can remember it.
    pub fn as_of(&self, now: Instant) -> Withdrawn {
        if now < self.until { self.clone() } else { Withdrawn::default() }
    }

    /// After this change: the latest of each kind, and nothing that is advertised again.
    fn with(self, old: &Config, new: &Config, now: Instant) -> Withdrawn {
        let resolvers = |c: &Config| c.resolvers(Family::V6).copied().collect::<Vec<_>>();
        Withdrawn {
            prefixes: latest(self.prefixes, ra::prefix(old), ra::prefix(new).as_slice()),
            resolvers: latest(self.resolvers, resolvers(old), &resolvers(new)),
            search: latest(self.search, old.search_list().to_vec(), new.search_list()),
            until: now + REMEMBERED,
        }
    }
}

fn latest<T: PartialEq>(gone: Vec<T>, old: impl IntoIterator<Item = T>, new: &[T]) -> Vec<T> {
    let mut all: Vec<T> = old.into_iter().collect();
    for earlier in gone {
        if !all.contains(&earlier) {
            all.push(earlier);
        }
    }
    all.retain(|one| !new.contains(one));
    all.truncate(KEPT);
    all
}

/// RFC 4862 §5.5.3 (e): a prefix that is withdrawn is forgotten after two hours.
const REMEMBERED: Duration = Duration::from_secs(2 * 3600);
/// Of each kind: advertisements have to fit the smallest MTU.
const KEPT: usize = 6;

#[cfg(test)]
mod tests {
    use super::super::testing::*;
    use crate::base::PerFamily;
    use crate::gateway::Config;
    use crate::wire::ndp;

    /// Source, router lifetime, and options as (type, bytes) of each advertisement.
    type Advertised = Vec<(String, u16, Vec<(u8, Vec<u8>)>)>;

    fn changed(t: &mut Bench, config: Config) -> Advertised {
        let facts = crate::guest::Facts { now: t.now, l2: &t.l2, nat: &t.nat };
        t.gateway.change(config, &facts, &mut t.link);
        advertised(t.take())
    }

    fn advertised(frames: Vec<Vec<u8>>) -> Advertised {
        let read = |f: &Vec<u8>| {
            let ra = icmpv6(f);
            assert_eq!((ra.parse(), ra.dst), (Some(ndp::Message::RouterAdvertisement), a("ff02::1")));
            let options = ndp::options_of(&ra.body[16..]).into_iter().map(|(t, o)| (t, o.to_vec())).collect();
            (ra.src.to_string(), u16::from_be_bytes([ra.body[6], ra.body[7]]), options)
        };
        frames.iter().map(read).collect()
    }

    fn moved() -> Config {
        Config {
            our_link_local: Some(a("fe80::9")),
            assigned: PerFamily::new(Some((a("198.51.100.7"), 24)), Some((a("2001:db8:9::7"), 64))),
            dns: vec![a("2001:db8:9::53")],
            ..config()
        }
    }

    /// (prefix, valid lifetime) of each prefix option.
    fn prefixes(options: &[(u8, Vec<u8>)]) -> Vec<(String, u32)> {
        let read = |o: &Vec<u8>| {
            let prefix: [u8; 16] = o[16..32].try_into().unwrap();
            (std::net::Ipv6Addr::from(prefix).to_string(), u32::from_be_bytes(o[4..8].try_into().unwrap()))
        };
        options.iter().filter(|(t, _)| *t == 3).map(|(_, o)| read(o)).collect()
    }

    #[test]
    fn the_new_is_advertised_and_the_old_withdrawn_at_once() {
        let mut t = Bench::new();
        t.start();
        t.advance(60);
        let sent = changed(&mut t, moved());
        let (new, old) = (&sent[0], &sent[1]);
        assert_eq!((new.0.as_str(), new.1), ("fe80::9", 65535));
        assert_eq!(prefixes(&new.2), [("2001:db8:9::".into(), u32::MAX), ("2001:db8::".into(), 0)]);
        let lifetimes: Vec<&[u8]> = new.2.iter().filter(|(t, _)| *t == 25).map(|(_, o)| &o[4..8]).collect();
        assert_eq!(lifetimes, [[255; 4], [0; 4]], "resolvers");
        assert_eq!((old.0.as_str(), old.1, old.2.len()), ("fe80::1", 0, 1), "no router any more");
        assert_eq!(sent.len(), 2);
    }

    #[test]
    fn nothing_changed_says_nothing() {
        let mut t = Bench::new();
        t.start();
        assert_eq!(changed(&mut t, config()), []);
    }

    #[test]
    fn what_comes_back_is_withdrawn_no_more() {
        let mut t = Bench::new();
        t.start();
        t.advance(60);
        changed(&mut t, moved());
        t.advance(60);
        let sent = changed(&mut t, config());
        assert_eq!(prefixes(&sent[0].2), [("2001:db8::".into(), u32::MAX), ("2001:db8:9::".into(), 0)]);
    }

    #[test]
    fn withdrawals_are_repeated_for_two_hours_and_bounded() {
        let mut t = Bench::new();
        t.start();
        for n in 0..9 {
            t.advance(60);
            let address = a(&format!("2001:db8:{n}::7"));
            changed(&mut t, Config { assigned: PerFamily::new(None, Some((address, 64))), ..config() });
        }
        t.now = t.gateway.next_timer().unwrap();
        assert_eq!(prefixes(&advertised(t.timer())[0].2).len(), 7);
        t.advance(2 * 3600);
        assert_eq!(prefixes(&advertised(t.timer())[0].2).len(), 1);
    }

    #[test]
    fn changes_in_a_row_keep_their_distance() {
        let mut t = Bench::new();
        t.start();
        assert_eq!(changed(&mut t, Config { our_link_local: Some(a("fe80::1")), ..moved() }), []);
        assert_eq!(t.gateway.next_timer(), Some(t.now + std::time::Duration::from_secs(3)));
    }

    #[test]
    fn ipv4_alone_needs_no_words_but_renewals_are_answered_anew() {
        let mut t = Bench::with(Config { leases_end: true, ..config() });
        t.start();
        t.advance(60);
        let v4 = PerFamily::new(Some((a("198.51.100.7"), 24)), config().assigned.v6);
        let gateway = PerFamily::new(Some(a("198.51.100.1")), config().gateway.v6);
        changed(&mut t, Config { leases_end: true, assigned: v4, gateway, ..config() });
        let renewal = renewal("192.0.2.7");
        let reply = t.answer(&udp_frame("192.0.2.7", "192.0.2.1", 68, 67, &renewal)).unwrap().remove(0);
        let nak = [53, 1, 6, 54, 4, 192, 0, 2, 1];
        assert!(reply.windows(nak.len()).any(|w| w == nak), "a refusal by the server that was asked");
        let renewal = self::renewal("198.51.100.7");
        let ack = t.answer(&udp_frame("198.51.100.7", "198.51.100.1", 68, 67, &renewal)).unwrap().remove(0);
        for (option, seconds) in [(51, 3600u32), (58, 300), (59, 3000)] {
            let option = [&[option, 4][..], &seconds.to_be_bytes()].concat();
            assert!(ack.windows(option.len()).any(|w| w == option), "{option:?}");
        }
    }

    fn renewal(ciaddr: &str) -> Vec<u8> {
        let mut b = vec![1, 1, 6, 0, 1, 2, 3, 4, 0, 0, 0, 0];
        b.extend_from_slice(a(ciaddr).wire());
        b.extend_from_slice(&[0; 12]);
        b.extend_from_slice(&GUEST_MAC.0);
        b.resize(236, 0);
        b.extend_from_slice(&[99, 130, 83, 99, 53, 1, 3, 255]);
        b
    }
}
