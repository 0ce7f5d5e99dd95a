//! Requests and answers. Both ends are one program: native byte order, no versions.

use super::{Answer, Wanted};
use crate::base::{Addr, Family, Hop, Prefix, Route};

/// Longer requests are none. So large that the room for one is memory of its own, which costs nothing until it is used.
pub const REQUEST_BYTES: usize = 192 << 10;
pub const ANSWER_BYTES: usize = 256;

/// What does not fit is left out, the last routes first.
pub fn encode(wanted: &Wanted) -> Vec<u8> {
    let mut m = Vec::new();
    for list in [&wanted.addrs, &wanted.former] {
        let list = &list[..list.len().min(ADDRS_MAX)];
        m.extend((list.len() as u32).to_ne_bytes());
        list.iter().for_each(|p| put_prefix(&mut m, p));
    }
    let text = wanted.resolv_conf.as_ref().filter(|t| t.len() <= TEXT_MAX);
    put_number(&mut m, text.map(|t| t.len() as u32));
    m.extend(text.into_iter().flat_map(|t| t.bytes()));
    for route in wanted.routes.iter().filter(|r| r.hops.len() <= HOPS_MAX).take(ROUTES_MAX) {
        let before = m.len();
        put_route(&mut m, route);
        if m.len() > ROUTES_END {
            m.truncate(before);
            break;
        }
    }
    m
}

/// `None`: nothing that [`encode`] makes, or nothing that an interface can have.
pub fn decode(m: &[u8]) -> Option<Wanted> {
    let mut reader = Reader(m);
    let addrs = reader.prefixes()?;
    let former = reader.prefixes()?;
    let resolv_conf = match reader.number()? {
        None => None,
        Some(len) if len as usize <= TEXT_MAX => Some(String::from_utf8(reader.take(len as usize)?.to_vec()).ok()?),
        Some(_) => return None,
    };
    let mut routes = Vec::new();
    while !reader.0.is_empty() {
        routes.push(reader.route()?);
    }
    (routes.len() <= ROUTES_MAX).then_some(Wanted { addrs, former, routes, resolv_conf })
}

pub fn encode_answer(outcome: &Result<(), String>) -> Vec<u8> {
    match outcome {
        Ok(()) => vec![DONE],
        Err(text) => [FAILED].into_iter().chain(text.bytes()).take(ANSWER_BYTES).collect(),
    }
}

/// The text is for a log, and whoever sent it may be the guest.
pub fn decode_answer(m: &[u8]) -> Answer {
    match m {
        [DONE] => Answer::Done,
        [FAILED, text @ ..] => {
            Answer::Failed(text.iter().map(|b| if (32..127).contains(b) { *b as char } else { '?' }).collect())
        }
        _ => Answer::Gone,
    }
}

fn put_prefix(m: &mut Vec<u8>, p: &Prefix) {
    m.extend(p.addr.octets());
    m.push(p.len);
}

fn put_number(m: &mut Vec<u8>, n: Option<u32>) {
    m.push(u8::from(n.is_some()));
    m.extend(n.unwrap_or(0).to_ne_bytes());
}

fn put_route(m: &mut Vec<u8>, route: &Route) {
    put_prefix(m, &route.dst);
    put_number(m, route.metric);
    put_number(m, route.mtu);
    m.push(route.hops.len() as u8);
    for hop in &route.hops {
        m.push(u8::from(hop.gateway.is_some()));
        m.extend(hop.gateway.unwrap_or(Addr::V6_UNSPECIFIED).octets());
        m.extend(hop.weight.to_ne_bytes());
        m.push(u8::from(hop.onlink));
    }
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let (head, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(head)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.try_into().ok()
    }

    fn flag(&mut self) -> Option<bool> {
        match self.array::<1>()? {
            [0] => Some(false),
            [1] => Some(true),
            _ => None,
        }
    }

    fn number(&mut self) -> Option<Option<u32>> {
        let there = self.flag()?;
        Some(Some(u32::from_ne_bytes(self.array()?)).filter(|_| there))
    }

    fn prefix(&mut self) -> Option<Prefix> {
        let (addr, [len]) = (Addr::v6(self.array()?), self.array()?);
        let longest = if addr.is_v4() { 32 } else { 128 };
        (len <= longest).then_some(Prefix::new(addr, len))
    }

    fn prefixes(&mut self) -> Option<Vec<Prefix>> {
        let count = u32::from_ne_bytes(self.array()?) as usize;
        let may_be_had = |p: &Prefix| p.addr.is_unicast() && !p.addr.is_loopback();
        (count <= ADDRS_MAX).then(|| (0..count).map(|_| self.prefix().filter(may_be_had)).collect())?
    }

    fn route(&mut self) -> Option<Route> {
        let dst = self.prefix()?;
        let (metric, mtu, [count]) = (self.number()?, self.number()?, self.array()?);
        let family = dst.addr.family();
        let hops = (0..count).map(|_| self.hop(family)).collect::<Option<Vec<_>>>()?;
        let valid = (1..=HOPS_MAX).contains(&hops.len()) && !dst.addr.is_multicast();
        valid.then_some(Route { dst, hops, metric, mtu, connected: false })
    }

    fn hop(&mut self, family: Family) -> Option<Hop> {
        let (there, addr) = (self.flag()?, Addr::v6(self.array()?));
        let (weight, onlink) = (u16::from_ne_bytes(self.array()?), self.flag()?);
        let gateway = Some(addr).filter(|_| there);
        // RFC 5549: IPv4 by an IPv6 gateway, and not the other way.
        let leads = gateway.is_none_or(|g| g.is_unicast() && (family == Family::V4 || !g.is_v4()));
        (leads && (1..=256).contains(&weight)).then_some(Hop { gateway, weight, onlink })
    }
}

const DONE: u8 = b'D';
const FAILED: u8 = b'F';
const ADDRS_MAX: usize = 256;
const ROUTES_MAX: usize = 2048;
const HOPS_MAX: usize = 32;
const TEXT_MAX: usize = 32 << 10;
/// A message has to fit the socket's buffer, which is 208 KiB where nobody has changed that.
const ROUTES_END: usize = 160 << 10;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn addr(s: &str) -> Addr {
        s.parse::<std::net::IpAddr>().unwrap().into()
    }

    fn wanted() -> Wanted {
        let hop = |gateway, weight, onlink| Hop { gateway, weight, onlink };
        let several = Route {
            hops: vec![hop(Some(addr("fe80::1")), 256, true), hop(None, 1, false)],
            metric: Some(600),
            mtu: Some(1400),
            ..Route::new(Prefix::new(addr("2001:db8::"), 32), None)
        };
        Wanted {
            addrs: vec![Prefix::new(addr("192.0.2.7"), 24), Prefix::new(addr("2001:db8::7"), 64)],
            former: vec![Prefix::new(addr("198.51.100.7"), 24)],
            routes: vec![Route::default_via(addr("192.0.2.1")), several],
            resolv_conf: Some("nameserver 192.0.2.1\n".into()),
        }
    }

    #[test]
    fn every_field_arrives() {
        for wanted in [wanted(), Wanted::default(), Wanted { resolv_conf: None, ..wanted() }] {
            assert_eq!(decode(&encode(&wanted)), Some(wanted));
        }
    }

    #[test]
    fn what_does_not_fit_is_left_out() {
        let hops = vec![Hop { gateway: None, weight: 1, onlink: false }; HOPS_MAX];
        let route = Route { hops, ..Route::default_via(addr("192.0.2.1")) };
        let many = Wanted { routes: vec![route; 5000], addrs: vec![wanted().addrs[0]; 5000], ..wanted() };
        let message = encode(&many);
        assert!(message.len() <= REQUEST_BYTES);
        let got = decode(&message).unwrap();
        assert!(got.addrs.len() == ADDRS_MAX && got.routes.len() > 200);
    }

    #[test]
    fn what_no_interface_can_have_is_refused() {
        let with = |change: &dyn Fn(&mut Wanted)| {
            let mut w = wanted();
            change(&mut w);
            decode(&encode(&w))
        };
        assert_eq!(with(&|w| w.addrs[0].len = 33), None);
        assert_eq!(with(&|w| w.addrs[0].addr = addr("127.0.0.1")), None);
        assert_eq!(with(&|w| w.former[0].addr = addr("ff02::1")), None);
        assert_eq!(with(&|w| w.routes[1].hops[0].gateway = Some(addr("192.0.2.1"))), None);
        assert_eq!(with(&|w| w.routes[0].hops.clear()), None);
        assert_eq!(with(&|w| w.routes[0].hops[0].weight = 0), None);
        let whole = encode(&wanted());
        assert!((0..whole.len()).all(|len| decode(&whole[..len]).is_none_or(|w| w.routes.len() < 2)));
    }

    #[test]
    fn texts_are_for_a_log() {
        assert_eq!(decode_answer(b"Fa\x1b[1mb\n"), Answer::Failed("a?[1mb?".into()));
        assert_eq!((decode_answer(b"D"), decode_answer(b"DD")), (Answer::Done, Answer::Gone));
        assert!(encode_answer(&Err("x".repeat(1000))).len() == ANSWER_BYTES);
    }

    proptest! {
        #[test]
        fn any_bytes_are_bounded_or_none(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            if let Some(w) = decode(&bytes) {
                prop_assert!(w.addrs.len() <= ADDRS_MAX && w.routes.len() <= ROUTES_MAX);
            }
        }

        #[test]
        fn any_damage_is_bounded_or_none(at in 0..200usize, byte: u8) {
            let mut m = encode(&wanted());
            let at = at % m.len();
            m[at] = byte;
            if let Some(w) = decode(&m) {
                prop_assert!(w.addrs.iter().all(|p| p.addr.is_unicast()));
            }
        }
    }
}
