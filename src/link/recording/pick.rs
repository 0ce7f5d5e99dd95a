//! Which frames are recorded. Pure.

use crate::base::{Addr, DropReason, Endpoint, Family};
use crate::wire::icmp::ICMP_LEN;
use crate::wire::{
    Fragment, IPV4_LEN, IPV6_LEN, PROTO_ICMP, PROTO_ICMPV6, PROTO_TCP, PROTO_UDP, Packet, Parsed, Transport, be16,
};

/// All of what is given must hold; nothing given: every frame.
///
/// An ICMP error belongs to the packet that it quotes as well. Of a fragment nobody knows the ports: it is taken if the rest
/// holds. A frame that is not understood is taken only if all are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pick {
    pub protocol: Option<Protocol>,
    /// At either end.
    pub address: Option<Addr>,
    pub port: Option<u16>,
    /// Between these two, either way.
    pub flow: Option<(Endpoint, Endpoint)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    Arp,
    /// Of either IP version.
    Icmp,
    Tcp,
    Udp,
}

impl Pick {
    pub fn is_everything(&self) -> bool {
        *self == Pick::default()
    }

    /// `head`: the frame's beginning, which was parsed.
    pub fn takes(&self, parsed: &Result<Parsed, DropReason>, head: &[u8]) -> bool {
        if self.is_everything() {
            return true;
        }
        match parsed {
            Ok(Parsed::Arp { .. }) => *self == Pick { protocol: Some(Protocol::Arp), ..Pick::default() },
            Ok(Parsed::Ip(packet)) => {
                self.fits(&Subject::of(packet)) || Subject::quoted(packet, head).is_some_and(|s| self.fits(&s))
            }
            Ok(Parsed::Fragment(fragment)) => self.fits(&Subject::of_part(fragment)),
            Err(_) => false,
        }
    }

    fn fits(&self, s: &Subject) -> bool {
        self.protocol.is_none_or(|p| Some(p) == s.protocol)
            && self.address.is_none_or(|a| a == s.src || a == s.dst)
            && self.port.is_none_or(|port| s.has_port(port))
            && self.flow.is_none_or(|(a, b)| s.goes(&a, &b) || s.goes(&b, &a))
    }
}

/// What a packet is about.
struct Subject {
    protocol: Option<Protocol>,
    src: Addr,
    dst: Addr,
    ports: Ports,
}

enum Ports {
    Known(u16, u16),
    /// They are in another fragment, or may be.
    Elsewhere,
    None,
}

impl Subject {
    fn of(p: &Packet) -> Subject {
        let (protocol, ports) = match p.transport {
            Transport::Tcp(t) => (Some(Protocol::Tcp), Ports::Known(t.src_port, t.dst_port)),
            Transport::Udp(u) => (Some(Protocol::Udp), Ports::Known(u.src_port, u.dst_port)),
            Transport::Icmp(_) => (Some(Protocol::Icmp), Ports::None),
            Transport::Other(_) => (None, Ports::None),
        };
        Subject { protocol, src: p.src, dst: p.dst, ports }
    }

    fn of_part(f: &Fragment) -> Subject {
        let protocol = protocol(f.protocol, f.src.family());
        let ports = if has_ports(protocol) { Ports::Elsewhere } else { Ports::None };
        Subject { protocol, src: f.src, dst: f.dst, ports }
    }

    /// The packet that an ICMP error is about, of which it quotes the beginning (RFC 792, RFC 4443 §3). Extension headers are
    /// not followed.
    fn quoted(p: &Packet, head: &[u8]) -> Option<Subject> {
        let Transport::Icmp(icmp) = p.transport else { return None };
        let family = p.src.family();
        let is_error = match family {
            Family::V4 => matches!(icmp.kind, 3 | 4 | 5 | 11 | 12),
            // RFC 4443 §2.1: errors are those below 128.
            Family::V6 => icmp.kind < 128,
        };
        let quote = head.get(p.l4 + ICMP_LEN..).filter(|_| is_error)?;
        let (number, src, dst, transport, whole) = match family {
            Family::V4 => {
                let ip = quote.get(..IPV4_LEN)?;
                let addr = |at: usize| Addr::v4([ip[at], ip[at + 1], ip[at + 2], ip[at + 3]]);
                let first = be16(ip, 6) & 0x1fff == 0;
                (ip[9], addr(12), addr(16), usize::from(ip[0] & 15) * 4, first)
            }
            Family::V6 => {
                let ip: &[u8; IPV6_LEN] = quote.first_chunk()?;
                let addr = |at: usize| ip[at..at + 16].try_into().map(Addr::v6).ok();
                (ip[6], addr(8)?, addr(24)?, IPV6_LEN, true)
            }
        };
        let protocol = protocol(number, family);
        let ports = match quote.get(transport..transport + 4) {
            _ if !has_ports(protocol) => Ports::None,
            Some(l4) if whole => Ports::Known(be16(l4, 0), be16(l4, 2)),
            _ => Ports::Elsewhere,
        };
        Some(Subject { protocol, src, dst, ports })
    }

    fn has_port(&self, port: u16) -> bool {
        match self.ports {
            Ports::Known(from, to) => from == port || to == port,
            Ports::Elsewhere => true,
            Ports::None => false,
        }
    }

    fn goes(&self, from: &Endpoint, to: &Endpoint) -> bool {
        let ports = match self.ports {
            Ports::Known(src, dst) => (src, dst) == (from.port, to.port),
            Ports::Elsewhere => true,
            Ports::None => false,
        };
        ports && (self.src, self.dst) == (from.addr, to.addr)
    }
}

fn protocol(number: u8, family: Family) -> Option<Protocol> {
    match (number, family) {
        (PROTO_TCP, _) => Some(Protocol::Tcp),
        (PROTO_UDP, _) => Some(Protocol::Udp),
        (PROTO_ICMP, Family::V4) | (PROTO_ICMPV6, Family::V6) => Some(Protocol::Icmp),
        _ => None,
    }
}

fn has_ports(protocol: Option<Protocol>) -> bool {
    matches!(protocol, Some(Protocol::Tcp | Protocol::Udp))
}

#[cfg(test)]
mod tests {
    use etherparse::PacketBuilder;
    use proptest::prelude::*;

    use super::*;
    use crate::base::Mac;
    use crate::wire::emit::IpFields;
    use crate::wire::{self, icmp};

    const GUEST: [u8; 4] = [192, 0, 2, 2];
    const REMOTE: [u8; 4] = [198, 51, 100, 7];

    fn ends() -> (Endpoint, Endpoint) {
        (Endpoint::new(Addr::v4(GUEST), 4000), Endpoint::new(Addr::v4(REMOTE), 443))
    }

    fn tcp() -> Vec<u8> {
        let mut bytes = Vec::new();
        let builder = PacketBuilder::ethernet2([2; 6], [4; 6]).ipv4(GUEST, REMOTE, 64).tcp(4000, 443, 1, 1);
        builder.write(&mut bytes, b"abc").unwrap();
        bytes
    }

    /// An error about `packet`, from the remote to the guest.
    fn error(packet: &[u8]) -> Vec<u8> {
        let fields = IpFields {
            src_mac: Mac([4; 6]),
            dst_mac: Mac([2; 6]),
            src: Addr::v4(REMOTE),
            dst: Addr::v4(GUEST),
            ttl: 64,
            tos: 0,
            id: 0,
        };
        let mut bytes = Vec::new();
        icmp::error(&mut bytes, &fields, icmp::ErrorKind::port_unreachable(Family::V4), &packet[wire::ETH_LEN..]);
        bytes
    }

    fn taken(pick: Pick, frame: &[u8]) -> bool {
        pick.takes(&wire::parse(frame, frame.len()), frame)
    }

    #[test]
    fn every_condition_must_hold() {
        let flow = Some(ends());
        let turned = Some((ends().1, ends().0));
        let all = Pick { protocol: Some(Protocol::Tcp), address: Some(Addr::v4(REMOTE)), port: Some(443), flow };
        for good in [Pick::default(), all, Pick { flow: turned, ..all }, Pick { port: Some(4000), ..Pick::default() }] {
            assert!(taken(good, &tcp()), "{good:?}");
        }
        let other = Some((ends().0, Endpoint::new(Addr::v4(REMOTE), 444)));
        for bad in [
            Pick { protocol: Some(Protocol::Udp), ..all },
            Pick { address: Some(Addr::v4([192, 0, 2, 3])), ..all },
            Pick { port: Some(80), ..all },
            Pick { flow: other, ..all },
        ] {
            assert!(!taken(bad, &tcp()), "{bad:?}");
        }
    }

    #[test]
    fn an_error_belongs_to_what_it_quotes() {
        let frame = error(&tcp());
        for good in [
            Pick { protocol: Some(Protocol::Tcp), port: Some(443), ..Pick::default() },
            Pick { protocol: Some(Protocol::Icmp), ..Pick::default() },
            Pick { flow: Some(ends()), ..Pick::default() },
        ] {
            assert!(taken(good, &frame), "{good:?}");
        }
        assert!(!taken(Pick { port: Some(80), ..Pick::default() }, &frame));
        assert!(!taken(Pick { protocol: Some(Protocol::Udp), ..Pick::default() }, &frame));
    }

    #[test]
    fn of_a_fragment_the_ports_are_not_asked() {
        let mut frame = tcp();
        let ip = &mut frame[wire::ETH_LEN..wire::ETH_LEN + IPV4_LEN];
        (ip[6], ip[7]) = (0, 8);
        ip[10..12].fill(0);
        let sum = crate::wire::checksum::Sum::new().add(&*ip).checksum();
        ip[10..12].copy_from_slice(&sum.to_be_bytes());
        assert!(matches!(wire::parse(&frame, frame.len()), Ok(Parsed::Fragment(_))));
        assert!(taken(Pick { protocol: Some(Protocol::Tcp), port: Some(80), ..Pick::default() }, &frame));
        assert!(!taken(Pick { protocol: Some(Protocol::Udp), port: Some(80), ..Pick::default() }, &frame));
    }

    #[test]
    fn arp_and_nonsense_only_if_asked_for() {
        let mut arp = vec![0; 60];
        (arp[6], arp[12], arp[13]) = (2, 8, 6);
        assert!(taken(Pick::default(), &arp));
        assert!(taken(Pick { protocol: Some(Protocol::Arp), ..Pick::default() }, &arp));
        assert!(!taken(Pick { port: Some(80), ..Pick::default() }, &arp));
        assert!(taken(Pick::default(), &[1, 2, 3]));
        assert!(!taken(Pick { protocol: Some(Protocol::Icmp), ..Pick::default() }, &[1, 2, 3]));
    }

    proptest! {
        /// An error may quote anything.
        #[test]
        fn no_quote_does_harm(quote in proptest::collection::vec(any::<u8>(), 0..80)) {
            let mut packet = vec![0; wire::ETH_LEN];
            packet.extend(&quote);
            let frame = error(&packet);
            let icmp = Pick { protocol: Some(Protocol::Icmp), ..Pick::default() };
            prop_assert!(taken(icmp, &frame));
            let flow = Pick { flow: Some(ends()), ..Pick::default() };
            if taken(flow, &frame) {
                prop_assert!(quote.len() >= IPV4_LEN);
            }
        }
    }
}
