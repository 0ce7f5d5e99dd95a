//! Neighbour discovery messages (RFC 4861 §4), with the checks the RFC demands of a receiver.

use super::name::Names;
use crate::base::{Addr, Mac};

pub const ROUTER_SOLICITATION: u8 = 133;
pub const ROUTER_ADVERTISEMENT: u8 = 134;
pub const NEIGHBOR_SOLICITATION: u8 = 135;
pub const NEIGHBOR_ADVERTISEMENT: u8 = 136;
pub const REDIRECT: u8 = 137;

/// All nodes on the link, ff02::1.
pub const ALL_NODES: Addr = Addr::v6([0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);

/// Every message comes with this hop limit: no router can have passed it on (RFC 4861 §11.2).
pub const HOP_LIMIT: u8 = 255;

/// "For ever" in lifetimes of options.
pub const INFINITE: u32 = u32::MAX;

bitflags::bitflags! {
    /// Flags of a neighbour advertisement (RFC 4861 §4.4).
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct NaFlags: u8 {
        const ROUTER = 0x80;
        const SOLICITED = 0x40;
        const OVERRIDE = 0x20;
    }

    /// Flags of a router advertisement (RFC 4861 §4.2).
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct RaFlags: u8 {
        const MANAGED = 0x80;
        const OTHER = 0x40;
    }

    /// Flags of a prefix information option (RFC 4861 §4.6.2).
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct PrefixFlags: u8 {
        const ON_LINK = 0x80;
        const AUTONOMOUS = 0x40;
    }
}

/// A valid message from a neighbour; what nobody here decides from is left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Message {
    RouterSolicitation,
    RouterAdvertisement,
    NeighborSolicitation { target: Addr },
    NeighborAdvertisement { target: Addr, flags: NaFlags },
    Redirect,
}

/// Reads an ICMPv6 message from its type field on. The caller has verified the checksum.
///
/// `None` if a rule of RFC 4861 §6.1.1, §6.1.2, §7.1.1, §7.1.2 or §8.1 says to discard it.
pub fn parse(src: &Addr, dst: &Addr, hop_limit: u8, b: &[u8]) -> Option<Message> {
    if hop_limit != HOP_LIMIT || b.len() < 8 || b[1] != 0 {
        return None;
    }
    // An IPv4 address in the form of IPv6 is no neighbour's, and would be taken for IPv4 from here on.
    let is_neighbours = |a: &Addr| a.is_unicast() && !a.is_v4();
    let target = || b.get(8..24).map(|o| Addr::v6(o.try_into().expect("16 bytes"))).filter(is_neighbours);
    match b[0] {
        ROUTER_SOLICITATION => {
            let source_ll = options(&b[8..])?;
            (!(src.is_unspecified() && source_ll)).then_some(Message::RouterSolicitation)
        }
        ROUTER_ADVERTISEMENT => {
            options(b.get(16..)?)?;
            src.is_link_local().then_some(Message::RouterAdvertisement)
        }
        NEIGHBOR_SOLICITATION => {
            let target = target()?;
            let source_ll = options(&b[24..])?;
            // §7.1.1: duplicate address detection goes to the solicited-node group and has no link-layer address.
            let probe_ok = is_solicited_node(dst) && !source_ll;
            (!src.is_unspecified() || probe_ok).then_some(Message::NeighborSolicitation { target })
        }
        NEIGHBOR_ADVERTISEMENT => {
            let target = target()?;
            options(&b[24..])?;
            let flags = NaFlags::from_bits_truncate(b[4]);
            // §7.1.2: what goes to a group answers nobody's solicitation.
            let ok = !(dst.is_multicast() && flags.contains(NaFlags::SOLICITED));
            ok.then_some(Message::NeighborAdvertisement { target, flags })
        }
        REDIRECT => {
            options(b.get(40..)?)?;
            src.is_link_local().then_some(Message::Redirect)
        }
        _ => None,
    }
}

/// What stands behind the fixed part of a message: whether a source link-layer address is among the options; `None` if one of
/// them is cut short or lies about its length.
pub fn has_source_link_layer(behind: &[u8]) -> Option<bool> {
    options(behind)
}

/// Walks the options; `None` if one lies about its length (which includes a length of zero), else whether there is a
/// source link-layer address.
fn options(mut o: &[u8]) -> Option<bool> {
    let mut source_ll = false;
    while !o.is_empty() {
        let len = usize::from(*o.get(1)?) * 8;
        if len == 0 || len > o.len() {
            return None;
        }
        source_ll |= o[0] == OPT_SOURCE_LL;
        o = &o[len..];
    }
    Some(source_ll)
}

/// The group every node with an address ending in the same 24 bits joins (RFC 4291 §2.7.1).
pub fn solicited_node(a: &Addr) -> Addr {
    let o = a.octets();
    Addr::v6([0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, o[13], o[14], o[15]])
}

fn is_solicited_node(a: &Addr) -> bool {
    a.same_prefix(&solicited_node(&Addr::V6_UNSPECIFIED), 104)
}

/// A neighbour advertisement, checksum zero (RFC 4861 §4.4).
pub fn neighbor_advertisement(target: &Addr, flags: NaFlags, mac: Mac) -> Vec<u8> {
    let mut b = vec![NEIGHBOR_ADVERTISEMENT, 0, 0, 0, flags.bits(), 0, 0, 0];
    b.extend_from_slice(target.octets());
    b.extend_from_slice(&[OPT_TARGET_LL, 1]);
    b.extend_from_slice(&mac.0);
    b
}

/// A neighbour solicitation with our link-layer address, checksum zero (RFC 4861 §4.3).
pub fn neighbor_solicitation(target: &Addr, mac: Mac) -> Vec<u8> {
    let mut b = vec![NEIGHBOR_SOLICITATION, 0, 0, 0, 0, 0, 0, 0];
    b.extend_from_slice(target.octets());
    b.extend_from_slice(&[OPT_SOURCE_LL, 1]);
    b.extend_from_slice(&mac.0);
    b
}

/// A router advertisement in the making, checksum zero: the fixed part, then options in the order of the calls.
#[derive(Debug)]
pub struct RouterAdvertisement(Vec<u8>);

impl RouterAdvertisement {
    /// Reachable and retransmission time unspecified, preference medium (RFC 4861 §4.2, RFC 4191 §2.2).
    pub fn new(hop_limit: u8, flags: RaFlags, lifetime_s: u16) -> RouterAdvertisement {
        let [high, low] = lifetime_s.to_be_bytes();
        let mut b = vec![ROUTER_ADVERTISEMENT, 0, 0, 0, hop_limit, flags.bits(), high, low];
        b.extend_from_slice(&[0; 8]);
        RouterAdvertisement(b)
    }

    /// RFC 4861 §4.6.2; `prefix` has no bits set beyond `len`.
    pub fn prefix(&mut self, prefix: &Addr, len: u8, flags: PrefixFlags, valid_s: u32, preferred_s: u32) {
        self.0.extend_from_slice(&[OPT_PREFIX, 4, len, flags.bits()]);
        self.0.extend_from_slice(&valid_s.to_be_bytes());
        self.0.extend_from_slice(&preferred_s.to_be_bytes());
        self.0.extend_from_slice(&[0; 4]);
        self.0.extend_from_slice(prefix.octets());
    }

    pub fn source_link_layer(&mut self, mac: Mac) {
        self.0.extend_from_slice(&[OPT_SOURCE_LL, 1]);
        self.0.extend_from_slice(&mac.0);
    }

    /// RFC 4861 §4.6.4.
    pub fn mtu(&mut self, mtu: u32) {
        self.0.extend_from_slice(&[OPT_MTU, 1, 0, 0]);
        self.0.extend_from_slice(&mtu.to_be_bytes());
    }

    /// RFC 8106 §5.1. At most 127 servers.
    pub fn resolvers(&mut self, servers: &[Addr], lifetime_s: u32) {
        self.0.extend_from_slice(&[OPT_RDNSS, (1 + 2 * servers.len()) as u8, 0, 0]);
        self.0.extend_from_slice(&lifetime_s.to_be_bytes());
        for s in servers {
            self.0.extend_from_slice(s.octets());
        }
    }

    /// RFC 8106 §5.2: padded with zeros to a multiple of eight, no byte more. At most [`DNSSL_MAX`] bytes of names.
    pub fn search(&mut self, names: &Names, lifetime_s: u32) {
        let padded = names.bytes().len().next_multiple_of(8);
        self.0.extend_from_slice(&[OPT_DNSSL, (1 + padded / 8) as u8, 0, 0]);
        self.0.extend_from_slice(&lifetime_s.to_be_bytes());
        self.0.extend_from_slice(names.bytes());
        self.0.resize(self.0.len() + padded - names.bytes().len(), 0);
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn into_bytes(self) -> Vec<u8> {
        self.0
    }
}

/// Most bytes of names one DNSSL option can hold: 255 units of eight, less the first.
pub const DNSSL_MAX: usize = 254 * 8;

const OPT_SOURCE_LL: u8 = 1;
const OPT_TARGET_LL: u8 = 2;
const OPT_PREFIX: u8 = 3;
const OPT_MTU: u8 = 5;
const OPT_RDNSS: u8 = 25;
const OPT_DNSSL: u8 = 31;

/// The options of a message, type and whole option: what a test looks at.
#[cfg(test)]
pub(crate) fn options_of(mut o: &[u8]) -> Vec<(u8, &[u8])> {
    let mut all = Vec::new();
    while !o.is_empty() {
        let len = usize::from(o[1]) * 8;
        all.push((o[0], &o[..len]));
        o = &o[len..];
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    fn a(s: &str) -> Addr {
        s.parse::<std::net::Ipv6Addr>().unwrap().into()
    }

    const MAC: Mac = Mac([0x9a, 0x55, 0x9a, 0x55, 0x9a, 0x55]);

    fn ns(target: &str, options: &[u8]) -> Vec<u8> {
        let mut b = neighbor_solicitation(&a(target), MAC)[..24].to_vec();
        b.extend_from_slice(options);
        b
    }

    #[test]
    fn golden_neighbor_advertisement() {
        let b = neighbor_advertisement(&a("fe80::1"), NaFlags::all(), MAC);
        let expect = [
            &[136, 0, 0, 0, 0xe0, 0, 0, 0][..],
            &[0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1],
            &[2, 1, 0x9a, 0x55, 0x9a, 0x55, 0x9a, 0x55],
        ];
        assert_eq!(b, expect.concat());
        let parsed = parse(&a("fe80::1"), &a("fe80::2"), 255, &b);
        assert_eq!(parsed, Some(Message::NeighborAdvertisement { target: a("fe80::1"), flags: NaFlags::all() }));
        assert_eq!(parse(&a("fe80::1"), &ALL_NODES, 255, &b), None, "solicited, but to a group");
    }

    #[test]
    fn solicitations_are_validated() {
        let ll = [1, 1, 2, 0, 0, 0, 0, 2];
        let good = ns("2001:db8::1", &ll);
        let (src, dst) = (a("fe80::2"), a("ff02::1:ff00:1"));
        assert_eq!(parse(&src, &dst, 255, &good), Some(Message::NeighborSolicitation { target: a("2001:db8::1") }));
        assert_eq!(parse(&src, &dst, 254, &good), None, "hop limit");
        let mut code = good.clone();
        code[1] = 1;
        assert_eq!(parse(&src, &dst, 255, &code), None, "code");
        assert_eq!(parse(&src, &dst, 255, &good[..23]), None, "cut short");
        assert_eq!(parse(&src, &dst, 255, &ns("ff02::1", &ll)), None, "multicast target");
        for options in [&[1, 0, 2, 0, 0, 0, 0, 2][..], &[1, 2, 2, 0, 0, 0, 0, 2], &[1], &[14, 1, 0]] {
            assert_eq!(parse(&src, &dst, 255, &ns("2001:db8::1", options)), None, "{options:?}");
        }
    }

    #[test]
    fn d12_probes_go_to_the_solicited_node_group_without_link_layer_address() {
        let probe = ns("fe80::1", &[]);
        let group = solicited_node(&a("fe80::1"));
        assert_eq!(group, a("ff02::1:ff00:1"));
        let (none, expect) = (Addr::V6_UNSPECIFIED, Message::NeighborSolicitation { target: a("fe80::1") });
        assert_eq!(parse(&none, &group, 255, &probe), Some(expect));
        assert_eq!(parse(&none, &a("fe80::1"), 255, &probe), None);
        assert_eq!(parse(&none, &ALL_NODES, 255, &probe), None);
        assert_eq!(parse(&none, &group, 255, &ns("fe80::1", &[1, 1, 2, 0, 0, 0, 0, 2])), None);
        // RFC 3971's nonce (option 14), which Linux adds to its probes, is no reason to refuse.
        assert_eq!(parse(&none, &group, 255, &ns("fe80::1", &[14, 1, 1, 2, 3, 4, 5, 6])), Some(expect));
    }

    #[test]
    fn router_solicitations_are_validated() {
        let rs = [133, 0, 0, 0, 0, 0, 0, 0];
        let with_ll = [&rs[..], &[1, 1, 2, 0, 0, 0, 0, 2]].concat();
        let all_routers = a("ff02::2");
        for (src, b, ok) in [
            ("::", &rs[..], true),
            ("fe80::2", &rs[..], true),
            ("fe80::2", &with_ll, true),
            ("::", &with_ll, false),
            ("fe80::2", &rs[..7], false),
        ] {
            assert_eq!(parse(&a(src), &all_routers, 255, b).is_some(), ok, "{src} {b:?}");
        }
    }

    #[test]
    fn d6_search_list_is_padded_exactly() {
        // 16 bytes of names need no padding, 17 need seven.
        for (name, units) in [("example.abcdef", 3), ("example.abcdefg", 4), ("example.abcdefg.", 4)] {
            let mut names = Names::plain();
            assert!(names.push(name, DNSSL_MAX));
            let mut ra = RouterAdvertisement::new(255, RaFlags::empty(), 1800);
            ra.search(&names, INFINITE);
            let b = ra.into_bytes();
            assert_eq!(b.len(), 16 + units * 8, "{name}");
            assert_eq!(b[17], units as u8);
            assert_eq!(&b[24..24 + names.bytes().len()], names.bytes());
            assert_eq!(parse(&a("fe80::1"), &ALL_NODES, 255, &b), Some(Message::RouterAdvertisement));
        }
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(mut b in proptest::collection::vec(proptest::num::u8::ANY, 0..128), kind in 133..138u8) {
            if b.len() > 1 {
                b[..2].copy_from_slice(&[kind, 0]);
            }
            if let Some(Message::NeighborSolicitation { target }) = parse(&a("fe80::2"), &ALL_NODES, 255, &b) {
                assert_eq!(target.wire(), &b[8..24]);
            }
        }
    }
}
