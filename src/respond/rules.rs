//! Who is answered for on a link, and when. Pure.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::base::{Addr, Prefix};

/// When a target of a rule is answered for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Method {
    /// Always.
    Static,
    /// If the kernel's route to it leads to another link, and, where it has to be on that link, it answers there.
    Auto,
    /// If it answers on the inner link with this number.
    Via(usize),
    /// If a container network that is followed has it.
    Containers,
}

/// How a target is asked for behind, and how long what was found is believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Patience {
    /// How long one question waits for its answer.
    pub timeout: Duration,
    /// How often it is asked.
    pub tries: u32,
    /// How long a target that has answered is answered for without asking again.
    pub ttl: Duration,
    /// How long one that has not is not asked again.
    pub absent: Duration,
    /// Ask again by ourselves before `ttl` is over.
    pub keep_alive: bool,
}

impl Default for Patience {
    fn default() -> Patience {
        Patience {
            timeout: Duration::from_millis(500),
            tries: 3,
            ttl: Duration::from_secs(30),
            absent: Duration::from_secs(30),
            keep_alive: false,
        }
    }
}

/// What is served on one link.
#[derive(Clone, Debug, Default)]
pub struct Rules {
    served: Table<Method>,
    excluded: Table<()>,
}

/// What the rules say of a target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ruling {
    By(Method),
    Excluded,
    NotServed,
}

impl Rules {
    /// Of several rules for one prefix the first counts.
    pub fn serve(&mut self, prefix: Prefix, method: Method) {
        self.served.add(prefix, method);
    }

    pub fn exclude(&mut self, prefix: Prefix) {
        self.excluded.add(prefix, ());
    }

    /// The longest prefix decides; what is excluded is excluded from all.
    pub fn ruling(&self, target: &Addr) -> Ruling {
        if self.excluded.find(target).is_some() {
            return Ruling::Excluded;
        }
        self.served.find(target).map_or(Ruling::NotServed, Ruling::By)
    }

    /// Some prefix of this IP version is served.
    pub fn has_family(&self, v4: bool) -> bool {
        self.prefixes().any(|(prefix, _)| prefix.addr.is_v4() == v4)
    }

    pub fn uses(&self, method: impl Fn(Method) -> bool) -> bool {
        self.prefixes().any(|(_, m)| method(m))
    }

    /// Longest first.
    pub fn prefixes(&self) -> impl Iterator<Item = (Prefix, Method)> + '_ {
        self.served.entries()
    }

    pub fn exclusions(&self) -> impl Iterator<Item = Prefix> + '_ {
        self.excluded.entries().map(|(prefix, ())| prefix)
    }

    /// Addresses that are served always, each by a rule of its own.
    pub fn fixed(&self) -> impl Iterator<Item = Addr> + '_ {
        let single = |(p, m): &(Prefix, Method)| *m == Method::Static && p.len == if p.addr.is_v4() { 32 } else { 128 };
        self.prefixes().filter(single).map(|(p, _)| p.addr).filter(|a| self.ruling(a) != Ruling::Excluded)
    }
}

/// Values by prefix: a map for each length in use, of which there are few however many prefixes there are. Lengths count in
/// the 128 bits of [`Addr`], which tell IPv4 and IPv6 apart.
#[derive(Clone, Debug)]
struct Table<T> {
    /// Longest first.
    lengths: Vec<(u8, BTreeMap<Addr, T>)>,
}

impl<T> Default for Table<T> {
    fn default() -> Table<T> {
        Table { lengths: Vec::new() }
    }
}

impl<T: Copy> Table<T> {
    fn add(&mut self, prefix: Prefix, value: T) {
        let bits = if prefix.addr.is_v4() { prefix.len + 96 } else { prefix.len };
        let at = match self.lengths.binary_search_by(|(len, _)| bits.cmp(len)) {
            Ok(at) => at,
            Err(at) => {
                self.lengths.insert(at, (bits, BTreeMap::new()));
                at
            }
        };
        self.lengths[at].1.entry(prefix.network().addr).or_insert(value);
    }

    fn find(&self, addr: &Addr) -> Option<T> {
        let in_length = |(bits, map): &(u8, BTreeMap<Addr, T>)| {
            // A prefix of IPv6 that holds all of IPv4's form means nothing to IPv4.
            let len = if addr.is_v4() { bits.checked_sub(96)? } else { *bits };
            let key = addr.masked(len);
            map.get(&key).filter(|_| key.is_v4() == addr.is_v4()).copied()
        };
        self.lengths.iter().find_map(in_length)
    }

    fn entries(&self) -> impl Iterator<Item = (Prefix, T)> + '_ {
        self.lengths.iter().flat_map(|(bits, map)| {
            let len = move |a: &Addr| if a.is_v4() { bits - 96 } else { *bits };
            map.iter().map(move |(addr, value)| (Prefix::new(*addr, len(addr)), *value))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::args::prefix;
    use super::super::testing::a;
    use super::*;

    fn rules() -> Rules {
        let mut rules = Rules::default();
        for (text, method) in [
            ("2001:db8::/64", Method::Static),
            ("2001:db8::ab00/120", Method::Via(1)),
            ("2001:db8::ab00/120", Method::Auto),
            ("192.0.2.0/24", Method::Static),
            ("192.0.2.9", Method::Auto),
            ("2001:db8:9::5", Method::Static),
            ("2001:db8::66", Method::Static),
        ] {
            rules.serve(prefix(text).unwrap(), method);
        }
        rules.exclude(prefix("2001:db8::/123").unwrap());
        rules.exclude(prefix("2001:db8::66").unwrap());
        rules
    }

    #[test]
    fn longest_prefix_decides_and_exclusions_win() {
        let rules = rules();
        for (target, ruling) in [
            ("2001:db8::1234", Ruling::By(Method::Static)),
            ("2001:db8::ab07", Ruling::By(Method::Via(1))),
            ("2001:db8:0:1::1", Ruling::NotServed),
            ("2001:db8::1f", Ruling::Excluded),
            ("2001:db8::20", Ruling::By(Method::Static)),
            ("192.0.2.8", Ruling::By(Method::Static)),
            ("192.0.2.9", Ruling::By(Method::Auto)),
            ("192.0.3.9", Ruling::NotServed),
        ] {
            assert_eq!(rules.ruling(&a(target)), ruling, "{target}");
        }
    }

    #[test]
    fn families_do_not_mix() {
        let mut all = Rules::default();
        all.serve(prefix("::/0").unwrap(), Method::Static);
        assert_eq!(all.ruling(&a("192.0.2.1")), Ruling::NotServed);
        assert_eq!(all.ruling(&a("2001:db8::1")), Ruling::By(Method::Static));
        assert!(all.has_family(false) && !all.has_family(true));
        let mut all = Rules::default();
        all.serve(prefix("0.0.0.0/0").unwrap(), Method::Static);
        assert_eq!(all.ruling(&a("192.0.2.1")), Ruling::By(Method::Static));
        assert_eq!(all.ruling(&a("2001:db8::1")), Ruling::NotServed);
    }

    #[test]
    fn single_addresses_are_known_beforehand() {
        assert_eq!(rules().fixed().collect::<Vec<_>>(), [a("2001:db8:9::5")]);
        assert_eq!(rules().prefixes().count(), 6);
    }

    proptest::proptest! {
        #[test]
        fn a_list_read_from_end_to_end_agrees(
            prefixes in proptest::collection::vec((0u8..4, 0u8..4, 100u8..=128), 0..20),
            target in (0u8..4, 0u8..4),
        ) {
            let addr = |(high, low): (u8, u8)| {
                let mut o = [0u8; 16];
                (o[0], o[14], o[15]) = (0x20, high, low);
                Addr::v6(o)
            };
            let mut rules = Rules::default();
            let mut list = Vec::new();
            for (i, (high, low, len)) in prefixes.into_iter().enumerate() {
                let p = Prefix::new(addr((high, low)), len).network();
                rules.serve(p, Method::Via(i));
                list.push((p, i));
            }
            let target = addr(target);
            let fits = list.iter().filter(|(p, _)| p.contains(&target));
            let best = fits.max_by_key(|(p, i)| (p.len, usize::MAX - i)).map(|(_, i)| Ruling::By(Method::Via(*i)));
            assert_eq!(rules.ruling(&target), best.unwrap_or(Ruling::NotServed));
        }
    }
}
