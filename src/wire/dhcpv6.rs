//! DHCPv6 messages between client and server (RFC 8415 §8, §21).

use super::{be16, be32};
use crate::base::{Addr, Mac};

pub const SERVER_PORT: u16 = 547;
pub const CLIENT_PORT: u16 = 546;

/// Message types (RFC 8415 §7.3).
pub mod kind {
    pub const SOLICIT: u8 = 1;
    pub const ADVERTISE: u8 = 2;
    pub const REQUEST: u8 = 3;
    pub const CONFIRM: u8 = 4;
    pub const RENEW: u8 = 5;
    pub const REBIND: u8 = 6;
    pub const REPLY: u8 = 7;
    pub const RELEASE: u8 = 8;
    pub const DECLINE: u8 = 9;
    pub const INFORMATION_REQUEST: u8 = 11;
}

/// Option codes.
pub mod opt {
    pub const CLIENT_ID: u16 = 1;
    pub const SERVER_ID: u16 = 2;
    pub const IA_NA: u16 = 3;
    pub const IA_TA: u16 = 4;
    pub const IA_ADDR: u16 = 5;
    pub const OPTION_REQUEST: u16 = 6;
    pub const STATUS: u16 = 13;
    pub const RAPID_COMMIT: u16 = 14;
    pub const DNS: u16 = 23;
    pub const DOMAIN_SEARCH: u16 = 24;
    pub const IA_PD: u16 = 25;
    pub const CLIENT_FQDN: u16 = 39;
}

/// Status codes (RFC 8415 §21.13).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub enum Status {
    Success = 0,
    NoAddrsAvail = 2,
    NoBinding = 3,
    NotOnLink = 4,
    NoPrefixAvail = 6,
}

/// A message that is not relayed. Every option is whole.
#[derive(Clone, Copy, Debug)]
pub struct Message<'a> {
    pub kind: u8,
    pub xid: [u8; 3],
    options: Options<'a>,
}

/// Reads a UDP payload. `None` if it is cut short or an option claims more bytes than there are.
pub fn parse(b: &[u8]) -> Option<Message<'_>> {
    let (head, rest) = b.split_first_chunk::<4>()?;
    Some(Message { kind: head[0], xid: [head[1], head[2], head[3]], options: Options::new(rest)? })
}

impl<'a> Message<'a> {
    pub fn options(&self) -> Options<'a> {
        self.options
    }

    /// The first option of this code.
    pub fn option(&self, code: u16) -> Option<&'a [u8]> {
        self.options.find(|(c, _)| *c == code).map(|(_, data)| data)
    }

    /// True if the client asked for option `code`, or named no options at all: then it gets all there are.
    pub fn asks_for(&self, code: u16) -> bool {
        self.option(opt::OPTION_REQUEST).is_none_or(|o| o.chunks_exact(2).any(|c| be16(c, 0) == code))
    }

    /// The identity associations, in order; one too short for its fields ends the walk.
    pub fn ias(&self) -> impl Iterator<Item = Option<Ia<'a>>> + use<'a> {
        self.options.filter_map(|(code, data)| {
            let fields = match code {
                opt::IA_NA | opt::IA_PD => 12,
                opt::IA_TA => 4,
                _ => return None,
            };
            Some(data.get(fields..).and_then(Options::new).map(|options| Ia { code, iaid: be32(data, 0), options }))
        })
    }
}

/// An identity association as a client sends it.
#[derive(Clone, Copy, Debug)]
pub struct Ia<'a> {
    /// [`opt::IA_NA`], [`opt::IA_TA`] or [`opt::IA_PD`].
    pub code: u16,
    pub iaid: u32,
    options: Options<'a>,
}

impl<'a> Ia<'a> {
    /// The addresses in it.
    pub fn addrs(&self) -> impl Iterator<Item = Addr> + use<'a> {
        self.options.filter(|(code, data)| *code == opt::IA_ADDR && data.len() >= 24).map(|(_, data)| {
            let octets = data[..16].try_into().expect("16 bytes");
            Addr::v6(octets)
        })
    }
}

/// Options known to be whole.
#[derive(Clone, Copy, Debug)]
pub struct Options<'a>(&'a [u8]);

impl<'a> Options<'a> {
    /// `None` if a length lies.
    fn new(b: &'a [u8]) -> Option<Options<'a>> {
        let mut o = b;
        while !o.is_empty() {
            let len = usize::from(be16(o.get(..4)?, 2));
            o = o.get(4 + len..)?;
        }
        Some(Options(b))
    }

    fn find(mut self, f: impl FnMut(&(u16, &'a [u8])) -> bool) -> Option<(u16, &'a [u8])> {
        Iterator::find(&mut self, f)
    }
}

impl<'a> Iterator for Options<'a> {
    type Item = (u16, &'a [u8]);

    fn next(&mut self) -> Option<(u16, &'a [u8])> {
        let head = self.0.get(..4)?;
        let (code, len) = (be16(head, 0), usize::from(be16(head, 2)));
        let data = self.0.get(4..4 + len)?;
        self.0 = &self.0[4 + len..];
        Some((code, data))
    }
}

/// A message in the making.
#[derive(Debug)]
pub struct Writer(Vec<u8>);

impl Writer {
    pub fn new(kind: u8, xid: [u8; 3]) -> Writer {
        Writer(vec![kind, xid[0], xid[1], xid[2]])
    }

    pub fn option(&mut self, code: u16, data: &[u8]) {
        self.nest(code, |w| w.0.extend_from_slice(data));
    }

    /// An option whose data `fill` writes: fixed fields, options.
    pub fn nest(&mut self, code: u16, fill: impl FnOnce(&mut Writer)) {
        self.0.extend_from_slice(&code.to_be_bytes());
        let at = self.0.len();
        self.0.extend_from_slice(&[0; 2]);
        fill(self);
        let len = self.0.len() - at - 2;
        debug_assert!(len <= usize::from(u16::MAX));
        self.0[at..at + 2].copy_from_slice(&(len as u16).to_be_bytes());
    }

    /// An identity association; IA_NA and IA_PD have T1 and T2, IA_TA has none (RFC 8415 §21.4, §21.5).
    pub fn ia(&mut self, ia: &Ia<'_>, (t1_s, t2_s): (u32, u32), fill: impl FnOnce(&mut Writer)) {
        self.nest(ia.code, |w| {
            w.u32(ia.iaid);
            if ia.code != opt::IA_TA {
                w.u32(t1_s);
                w.u32(t2_s);
            }
            fill(w);
        });
    }

    /// An address with its lifetime, preferred and valid alike (RFC 8415 §21.6).
    pub fn addr(&mut self, addr: &Addr, lifetime_s: u32) {
        self.nest(opt::IA_ADDR, |w| {
            w.0.extend_from_slice(addr.octets());
            w.u32(lifetime_s);
            w.u32(lifetime_s);
        });
    }

    pub fn status(&mut self, status: Status, text: &str) {
        self.nest(opt::STATUS, |w| {
            w.0.extend_from_slice(&(status as u16).to_be_bytes());
            w.0.extend_from_slice(text.as_bytes());
        });
    }

    fn u32(&mut self, v: u32) {
        self.0.extend_from_slice(&v.to_be_bytes());
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

/// Identifier made of a link-layer address: the same at every start (RFC 8415 §11.4).
pub fn duid_ll(mac: Mac) -> [u8; 10] {
    let m = mac.0;
    [0, 3, 0, 1, m[0], m[1], m[2], m[3], m[4], m[5]]
}

#[cfg(test)]
mod tests {
    use super::*;
    use dhcproto::v6;
    use dhcproto::{Decodable, Encodable};

    fn solicit() -> Vec<u8> {
        let mut m = v6::Message::new_with_id(v6::MessageType::Solicit, [1, 2, 3]);
        m.opts_mut().insert(v6::DhcpOption::ClientId(vec![0, 3, 0, 1, 2, 0, 0, 0, 0, 9]));
        let mut addrs = v6::DhcpOptions::new();
        addrs.insert(v6::DhcpOption::IAAddr(v6::IAAddr {
            addr: "2001:db8::7".parse().unwrap(),
            preferred_life: 0,
            valid_life: 0,
            opts: v6::DhcpOptions::new(),
        }));
        m.opts_mut().insert(v6::DhcpOption::IANA(v6::IANA { id: 77, t1: 0, t2: 0, opts: addrs }));
        m.opts_mut().insert(v6::DhcpOption::IATA(v6::IATA { id: 78, opts: v6::DhcpOptions::new() }));
        m.opts_mut().insert(v6::DhcpOption::ORO(v6::ORO { opts: vec![v6::OptionCode::DomainNameServers] }));
        m.to_vec().unwrap()
    }

    #[test]
    fn reads_what_dhcproto_writes() {
        let b = solicit();
        let m = parse(&b).unwrap();
        assert_eq!((m.kind, m.xid), (kind::SOLICIT, [1, 2, 3]));
        assert_eq!(m.option(opt::CLIENT_ID), Some(&[0, 3, 0, 1, 2, 0, 0, 0, 0, 9][..]));
        assert!(m.asks_for(opt::DNS) && !m.asks_for(opt::DOMAIN_SEARCH));
        let ias: Vec<_> = m.ias().map(Option::unwrap).collect();
        assert_eq!((ias[0].code, ias[0].iaid, ias[1].code, ias[1].iaid), (opt::IA_NA, 77, opt::IA_TA, 78));
        let expect: Addr = "2001:db8::7".parse::<std::net::Ipv6Addr>().unwrap().into();
        assert_eq!(ias[0].addrs().collect::<Vec<_>>(), [expect]);
        assert_eq!(ias[1].addrs().count(), 0);
    }

    #[test]
    fn dhcproto_reads_what_we_write() {
        let b = solicit();
        let m = parse(&b).unwrap();
        let mut w = Writer::new(kind::REPLY, m.xid);
        w.option(opt::SERVER_ID, &duid_ll(Mac([2; 6])));
        for ia in m.ias().flatten() {
            w.ia(&ia, (9, 9), |w| w.status(Status::NoAddrsAvail, "none"));
        }
        let d = v6::Message::from_bytes(&w.into_bytes()).unwrap();
        assert_eq!((d.msg_type(), d.xid()), (v6::MessageType::Reply, [1, 2, 3]));
        let Some(v6::DhcpOption::IANA(na)) = d.opts().get(v6::OptionCode::IANA) else { panic!() };
        assert_eq!((na.id, na.t1, na.t2), (77, 9, 9));
        let Some(v6::DhcpOption::IATA(ta)) = d.opts().get(v6::OptionCode::IATA) else { panic!() };
        let Some(v6::DhcpOption::StatusCode(s)) = ta.opts.get(v6::OptionCode::StatusCode) else { panic!() };
        assert_eq!((ta.id, s.status, s.msg.as_str()), (78, v6::Status::NoAddrsAvail, "none"));
    }

    #[test]
    fn lying_lengths_are_refused() {
        for b in [&[][..], &[1, 0, 0], &[1, 0, 0, 0, 0], &[1, 0, 0, 0, 0, 1, 0, 2, 9], &[1, 0, 0, 0, 0, 1, 0]] {
            assert!(parse(b).is_none(), "{b:?}");
        }
        // IA_NA with half a T2; IA_NA whose address option is too long for it.
        for ia in [
            &[0, 3, 0, 10, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0][..],
            &[0, 3, 0, 16, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 5, 0, 9],
        ] {
            let b = [&[1, 0, 0, 0][..], ia].concat();
            assert!(parse(&b).unwrap().ias().next().unwrap().is_none());
        }
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(b in proptest::collection::vec(proptest::num::u8::ANY, 0..300)) {
            if let Some(m) = parse(&b) {
                assert_eq!(m.options().map(|(_, d)| d.len() + 4).sum::<usize>(), b.len() - 4);
                for ia in m.ias().flatten() {
                    let _ = ia.addrs().count();
                }
            }
        }
    }
}
