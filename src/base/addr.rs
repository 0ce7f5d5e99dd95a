//! One address type for both families, so that everything after parsing is written once.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};

/// IP version, where it matters: at the edges.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Family {
    V4,
    V6,
}

/// An IPv4 or IPv6 address in 16 bytes; IPv4 is stored v4-mapped (`::ffff:a.b.c.d`, RFC 4291 §2.5.5.2).
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Addr([u8; 16]);

impl Addr {
    pub const V4_UNSPECIFIED: Addr = Addr([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0, 0, 0, 0]);
    pub const V6_UNSPECIFIED: Addr = Addr([0; 16]);

    /// 0.0.0.0 or `::`.
    pub const fn unspecified(family: Family) -> Addr {
        match family {
            Family::V4 => Addr::V4_UNSPECIFIED,
            Family::V6 => Addr::V6_UNSPECIFIED,
        }
    }

    pub const fn v4(o: [u8; 4]) -> Addr {
        Addr([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, o[0], o[1], o[2], o[3]])
    }

    /// From the 16 bytes of an IPv6 header. A v4-mapped address on the wire becomes an IPv4 one, which callers refuse
    /// (`Packet` parsing drops such frames: RFC 4038 §4.2).
    pub const fn v6(o: [u8; 16]) -> Addr {
        Addr(o)
    }

    pub const fn octets(&self) -> &[u8; 16] {
        &self.0
    }

    pub fn is_v4(&self) -> bool {
        self.0[..12] == Self::V4_UNSPECIFIED.0[..12]
    }

    pub fn family(&self) -> Family {
        if self.is_v4() { Family::V4 } else { Family::V6 }
    }

    /// The 4 or 16 bytes as they stand in an IP header.
    pub fn wire(&self) -> &[u8] {
        if self.is_v4() { &self.0[12..] } else { &self.0 }
    }

    pub fn to_v4(&self) -> Option<Ipv4Addr> {
        self.is_v4().then(|| Ipv4Addr::new(self.0[12], self.0[13], self.0[14], self.0[15]))
    }

    /// The IPv6 address, if it is one (not for v4-mapped values).
    pub fn to_v6(&self) -> Option<Ipv6Addr> {
        (!self.is_v4()).then(|| Ipv6Addr::from(self.0))
    }

    pub fn to_ip(&self) -> IpAddr {
        match self.to_v4() {
            Some(a) => IpAddr::V4(a),
            None => IpAddr::V6(Ipv6Addr::from(self.0)),
        }
    }

    pub fn is_unspecified(&self) -> bool {
        *self == Self::V4_UNSPECIFIED || *self == Self::V6_UNSPECIFIED
    }

    pub fn is_loopback(&self) -> bool {
        match self.to_ip() {
            IpAddr::V4(a) => a.is_loopback(),
            IpAddr::V6(a) => a.is_loopback(),
        }
    }

    pub fn is_multicast(&self) -> bool {
        self.to_ip().is_multicast()
    }

    /// 255.255.255.255 only; directed broadcasts need the prefix.
    pub fn is_limited_broadcast(&self) -> bool {
        self.to_v4().is_some_and(|a| a.is_broadcast())
    }

    /// fe80::/10 or 169.254/16.
    pub fn is_link_local(&self) -> bool {
        match self.to_ip() {
            IpAddr::V4(a) => a.is_link_local(),
            IpAddr::V6(a) => a.is_unicast_link_local(),
        }
    }

    /// An address one host can own: not unspecified, multicast or broadcast.
    pub fn is_unicast(&self) -> bool {
        !(self.is_unspecified() || self.is_multicast() || self.is_limited_broadcast())
    }

    /// True if `self` and `other` are of one family and share the first `len` bits of it.
    pub fn same_prefix(&self, other: &Addr, len: u8) -> bool {
        self.family() == other.family() && self.masked(len) == other.masked(len)
    }

    /// The address with all bits behind the first `len` of its family cleared.
    #[must_use]
    pub fn masked(&self, len: u8) -> Addr {
        let bits = if self.is_v4() { 96 + u32::from(len.min(32)) } else { u32::from(len.min(128)) };
        let mask = if bits == 0 { 0 } else { u128::MAX << (128 - bits) };
        Addr((u128::from_be_bytes(self.0) & mask).to_be_bytes())
    }
}

impl From<Ipv4Addr> for Addr {
    fn from(a: Ipv4Addr) -> Addr {
        Addr::v4(a.octets())
    }
}

impl From<Ipv6Addr> for Addr {
    fn from(a: Ipv6Addr) -> Addr {
        Addr(a.octets())
    }
}

impl From<IpAddr> for Addr {
    fn from(a: IpAddr) -> Addr {
        match a {
            IpAddr::V4(a) => a.into(),
            IpAddr::V6(a) => a.into(),
        }
    }
}

impl fmt::Display for Addr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.to_ip().fmt(f)
    }
}

impl fmt::Debug for Addr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Address and port.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Endpoint {
    pub addr: Addr,
    pub port: u16,
}

impl Endpoint {
    pub const fn new(addr: Addr, port: u16) -> Endpoint {
        Endpoint { addr, port }
    }

    /// As a socket address, without scope.
    pub fn to_std(&self) -> SocketAddr {
        SocketAddr::new(self.addr.to_ip(), self.port)
    }

    /// As a socket address with an interface index (0: none) where the address means nothing without: link-local, and
    /// multicast of link scope or less (RFC 4007 §6, RFC 4291 §2.7).
    pub fn to_std_scoped(&self, scope: u32) -> SocketAddr {
        match self.addr.to_v6() {
            Some(ip) if ip.is_unicast_link_local() || (ip.is_multicast() && ip.octets()[1] & 0x0f <= 2) => {
                SocketAddrV6::new(ip, self.port, 0, scope).into()
            }
            _ => self.to_std(),
        }
    }
}

impl From<SocketAddr> for Endpoint {
    /// A v4-mapped IPv6 socket address (from a dual-stack socket) becomes the IPv4 endpoint it stands for.
    fn from(s: SocketAddr) -> Endpoint {
        Endpoint { addr: s.ip().into(), port: s.port() }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.to_std().fmt(f)
    }
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// An Ethernet address.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Mac(pub [u8; 6]);

impl Mac {
    pub const BROADCAST: Mac = Mac([0xff; 6]);
    pub const ZERO: Mac = Mac([0; 6]);

    /// One station's address: neither group (multicast, broadcast) nor all zeros.
    pub fn is_unicast(&self) -> bool {
        self.0[0] & 1 == 0 && *self != Mac::ZERO
    }

    /// The group address an IP multicast address maps to (RFC 1112 §6.4, RFC 2464 §7).
    pub fn multicast_for(addr: &Addr) -> Mac {
        let o = addr.octets();
        if addr.is_v4() {
            Mac([0x01, 0x00, 0x5e, o[13] & 0x7f, o[14], o[15]])
        } else {
            Mac([0x33, 0x33, o[12], o[13], o[14], o[15]])
        }
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let m = self.0;
        write!(f, "{:02x}:{:02x}:{:02x}:{:02x}:{:02x}:{:02x}", m[0], m[1], m[2], m[3], m[4], m[5])
    }
}

impl fmt::Debug for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn v4_is_mapped_and_comes_back() {
        let a: Addr = Ipv4Addr::new(192, 0, 2, 1).into();
        assert!(a.is_v4());
        assert_eq!(a.wire(), [192, 0, 2, 1]);
        assert_eq!(a.to_string(), "192.0.2.1");
        let b: Addr = "::ffff:192.0.2.1".parse::<Ipv6Addr>().unwrap().into();
        assert_eq!(a, b);
    }

    #[test]
    fn prefixes_compare_within_one_family() {
        let a = Addr::v4([10, 1, 2, 3]);
        assert!(a.same_prefix(&Addr::v4([10, 1, 9, 9]), 16));
        assert!(!a.same_prefix(&Addr::v4([10, 2, 9, 9]), 16));
        assert!(a.same_prefix(&Addr::v4([99, 2, 9, 9]), 0));
        let six: Addr = "2001:db8::1".parse::<Ipv6Addr>().unwrap().into();
        assert!(!a.same_prefix(&six, 0));
        assert!(six.same_prefix(&"2001:db8:0:0:1::".parse::<Ipv6Addr>().unwrap().into(), 64));
    }

    #[test]
    fn multicast_macs() {
        assert_eq!(Mac::multicast_for(&Addr::v4([224, 129, 2, 3])), Mac([1, 0, 0x5e, 1, 2, 3]));
        let a: Addr = "ff02::1:ff00:1234".parse::<Ipv6Addr>().unwrap().into();
        assert_eq!(Mac::multicast_for(&a), Mac([0x33, 0x33, 0xff, 0, 0x12, 0x34]));
    }
}
