//! DHCPv4 messages (RFC 2131 §2) and their options (RFC 2132, RFC 3396).

use super::{be16, be32};
use crate::base::{Addr, Mac};

pub const SERVER_PORT: u16 = 67;
pub const CLIENT_PORT: u16 = 68;

pub const BOOTREQUEST: u8 = 1;
pub const BOOTREPLY: u8 = 2;

/// The broadcast flag: the client cannot take unicast before it has an address (RFC 2131 §2).
pub const FLAG_BROADCAST: u16 = 0x8000;

/// Values of option 53 (RFC 2132 §9.6).
pub mod kind {
    pub const DISCOVER: u8 = 1;
    pub const OFFER: u8 = 2;
    pub const REQUEST: u8 = 3;
    pub const DECLINE: u8 = 4;
    pub const ACK: u8 = 5;
    pub const NAK: u8 = 6;
    pub const RELEASE: u8 = 7;
    pub const INFORM: u8 = 8;
}

/// Option codes.
pub mod opt {
    pub const PAD: u8 = 0;
    pub const SUBNET_MASK: u8 = 1;
    pub const ROUTER: u8 = 3;
    pub const DNS: u8 = 6;
    pub const HOST_NAME: u8 = 12;
    pub const DOMAIN_NAME: u8 = 15;
    pub const MTU: u8 = 26;
    pub const REQUESTED_ADDRESS: u8 = 50;
    pub const LEASE_TIME: u8 = 51;
    pub const OVERLOAD: u8 = 52;
    pub const MESSAGE_TYPE: u8 = 53;
    pub const SERVER_ID: u8 = 54;
    pub const PARAMETER_LIST: u8 = 55;
    pub const MESSAGE: u8 = 56;
    pub const MAX_SIZE: u8 = 57;
    pub const RENEWAL_TIME: u8 = 58;
    pub const REBINDING_TIME: u8 = 59;
    pub const CLIENT_ID: u8 = 61;
    pub const RAPID_COMMIT: u8 = 80;
    pub const CLIENT_FQDN: u8 = 81;
    pub const DOMAIN_SEARCH: u8 = 119;
    pub const CLASSLESS_ROUTES: u8 = 121;
    pub const END: u8 = 255;
}

/// A client's message; addresses are IPv4.
#[derive(Clone, Copy, Debug)]
pub struct Message<'a> {
    pub op: u8,
    pub xid: u32,
    pub flags: u16,
    pub ciaddr: Addr,
    pub giaddr: Addr,
    pub chaddr: Mac,
    fixed: &'a [u8],
    /// The fields that hold options, in the order RFC 3396 §5 has them joined: options, file, sname.
    areas: [&'a [u8]; 3],
}

/// Reads a UDP payload. `None` if it is cut short, not for Ethernet, without the magic cookie (RFC 2131 §3), or if an
/// option claims more bytes than there are.
pub fn parse(b: &[u8]) -> Option<Message<'_>> {
    let fixed = b.get(..FIXED_LEN)?;
    let area = b.get(FIXED_LEN + COOKIE.len()..)?;
    if b[FIXED_LEN..FIXED_LEN + COOKIE.len()] != COOKIE || fixed[1] != HTYPE_ETHERNET || fixed[2] != 6 {
        return None;
    }
    let overload = walk(area, opt::OVERLOAD, |_| {})?;
    let (file, sname) = (&fixed[FILE..FIXED_LEN], &fixed[SNAME..FILE]);
    // RFC 2132 §9.3: 1 is file, 2 is sname, 3 both.
    let with = |bit: u8, field: &'_ [u8]| -> Option<()> {
        if overload & bit != 0 {
            walk(field, opt::PAD, |_| {})?;
        }
        Some(())
    };
    with(1, file)?;
    with(2, sname)?;
    let pick = |bit: u8, field| if overload & bit != 0 { field } else { &b[..0] };
    let addr = |at: usize| Addr::v4([b[at], b[at + 1], b[at + 2], b[at + 3]]);
    Some(Message {
        op: b[0],
        xid: be32(b, 4),
        flags: be16(b, 10),
        ciaddr: addr(12),
        giaddr: addr(24),
        chaddr: Mac([b[28], b[29], b[30], b[31], b[32], b[33]]),
        fixed,
        areas: [area, pick(1, file), pick(2, sname)],
    })
}

/// Calls `each` with every whole option; the value of the one-byte option `wanted` (the first that has a byte), or 0.
/// `None` if a length lies. The end option may be missing.
fn walk<'a>(mut o: &'a [u8], wanted: u8, mut each: impl FnMut((u8, &'a [u8]))) -> Option<u8> {
    let mut found = 0;
    while let [code, rest @ ..] = o {
        match *code {
            opt::PAD => o = rest,
            opt::END => break,
            _ => {
                let len = usize::from(*rest.first()?);
                let data = rest.get(1..1 + len)?;
                if *code == wanted && found == 0 {
                    found = data.first().copied().unwrap_or(0);
                }
                each((*code, data));
                o = &rest[1 + len..];
            }
        }
    }
    Some(found)
}

impl Message<'_> {
    /// The data of an option, parts joined (RFC 3396 §7); `None` if it is absent.
    pub fn option(&self, code: u8) -> Option<Vec<u8>> {
        let mut joined: Option<Vec<u8>> = None;
        for area in self.areas {
            walk(area, opt::PAD, |(c, data)| {
                if c == code {
                    joined.get_or_insert_default().extend_from_slice(data);
                }
            });
        }
        joined
    }

    /// An option that is one byte.
    pub fn option_u8(&self, code: u8) -> Option<u8> {
        self.option(code).filter(|d| d.len() == 1).map(|d| d[0])
    }

    pub fn option_u16(&self, code: u8) -> Option<u16> {
        self.option(code).filter(|d| d.len() == 2).map(|d| be16(&d, 0))
    }

    /// An option that is one address.
    pub fn option_addr(&self, code: u8) -> Option<Addr> {
        self.option(code).and_then(|d| Some(Addr::v4(d.try_into().ok()?)))
    }
}

/// A reply in the making.
#[derive(Debug)]
pub struct Reply {
    bytes: Vec<u8>,
    max: usize,
}

impl Reply {
    /// The fixed part, as RFC 2131 table 3 has it: `xid`, `flags`, `giaddr` and `chaddr` are the client's; next server,
    /// server name and file stay empty. `max`: longest UDP payload the reply may have.
    pub fn new(to: &Message<'_>, ciaddr: &Addr, yiaddr: &Addr, max: usize) -> Reply {
        let mut b = to.fixed.to_vec();
        b[0] = BOOTREPLY;
        // hops and secs.
        b[3] = 0;
        b[8..10].fill(0);
        b[12..16].copy_from_slice(ciaddr.wire());
        b[16..20].copy_from_slice(yiaddr.wire());
        b[20..24].fill(0);
        b[SNAME..].fill(0);
        b.extend_from_slice(&COOKIE);
        Reply { bytes: b, max }
    }

    /// Bytes still free for options, headers of theirs included.
    pub fn room(&self) -> usize {
        self.max.saturating_sub(self.bytes.len() + 1)
    }

    /// Appends an option, in several parts if its data is longer than 255 bytes (RFC 3396 §6).
    pub fn option(&mut self, code: u8, data: &[u8]) {
        for part in data.chunks(255) {
            self.bytes.extend_from_slice(&[code, part.len() as u8]);
            self.bytes.extend_from_slice(part);
        }
        if data.is_empty() {
            self.bytes.extend_from_slice(&[code, 0]);
        }
    }

    /// The UDP payload, padded to what a BOOTP client expects at least (RFC 1542 §2.1).
    pub fn finish(mut self) -> Vec<u8> {
        self.bytes.push(opt::END);
        self.bytes.resize(self.bytes.len().max(BOOTP_MIN), 0);
        self.bytes
    }
}

/// Bytes an option with `len` bytes of data takes on the wire.
pub fn option_len(len: usize) -> usize {
    len + 2 * len.div_ceil(255).max(1)
}

/// The network mask for a prefix length.
pub fn mask(len: u8) -> [u8; 4] {
    u32::MAX.checked_shl(32 - u32::from(len.min(32))).unwrap_or(0).to_be_bytes()
}

const FIXED_LEN: usize = 236;
const SNAME: usize = 44;
const FILE: usize = 108;
const BOOTP_MIN: usize = 300;
const COOKIE: [u8; 4] = [99, 130, 83, 99];
const HTYPE_ETHERNET: u8 = 1;

#[cfg(test)]
mod tests {
    use super::*;
    use dhcproto::v4;
    use dhcproto::{Decodable, Encodable};

    fn discover() -> Vec<u8> {
        let mut m = v4::Message::default();
        m.set_xid(0x0102_0304).set_flags(v4::Flags::default().set_broadcast()).set_chaddr(&[2, 0, 0, 0, 0, 9]);
        m.opts_mut().insert(v4::DhcpOption::MessageType(v4::MessageType::Discover));
        m.opts_mut().insert(v4::DhcpOption::RequestedIpAddress([192, 0, 2, 7].into()));
        m.opts_mut().insert(v4::DhcpOption::MaxMessageSize(1400));
        m.to_vec().unwrap()
    }

    #[test]
    fn reads_what_dhcproto_writes() {
        let b = discover();
        let m = parse(&b).unwrap();
        assert_eq!((m.op, m.xid, m.flags), (BOOTREQUEST, 0x0102_0304, FLAG_BROADCAST));
        assert_eq!(m.chaddr, Mac([2, 0, 0, 0, 0, 9]));
        assert_eq!(m.option_u8(opt::MESSAGE_TYPE), Some(kind::DISCOVER));
        assert_eq!(m.option_addr(opt::REQUESTED_ADDRESS), Some(Addr::v4([192, 0, 2, 7])));
        assert_eq!(m.option_u16(opt::MAX_SIZE), Some(1400));
        assert_eq!(m.option(opt::CLIENT_ID), None);
    }

    #[test]
    fn dhcproto_reads_what_we_write() {
        let b = discover();
        let m = parse(&b).unwrap();
        let mut r = Reply::new(&m, &Addr::V4_UNSPECIFIED, &Addr::v4([192, 0, 2, 7]), 548);
        r.option(opt::MESSAGE_TYPE, &[kind::OFFER]);
        r.option(opt::RAPID_COMMIT, &[]);
        let bytes = r.finish();
        assert_eq!(bytes.len(), 300);
        let d = v4::Message::from_bytes(&bytes).unwrap();
        assert_eq!((d.opcode(), d.xid(), d.yiaddr()), (v4::Opcode::BootReply, 0x0102_0304, [192, 0, 2, 7].into()));
        assert_eq!(d.opts().msg_type(), Some(v4::MessageType::Offer));
        assert_eq!(d.chaddr(), [2, 0, 0, 0, 0, 9]);
    }

    #[test]
    fn options_are_joined_over_parts_and_fields() {
        let mut b = discover();
        b.truncate(FIXED_LEN + 4);
        b.extend_from_slice(&[61, 2, 1, 2, 52, 1, 3, 61, 1, 3, 255]);
        b[FILE..FILE + 4].copy_from_slice(&[61, 1, 4, 255]);
        b[SNAME..SNAME + 4].copy_from_slice(&[61, 1, 5, 255]);
        assert_eq!(parse(&b).unwrap().option(opt::CLIENT_ID), Some(vec![1, 2, 3, 4, 5]));
        // A lie in a field that holds options counts as much as one elsewhere.
        b[SNAME + 1] = 200;
        assert!(parse(&b).is_none());
    }

    #[test]
    fn long_options_are_split() {
        let b = discover();
        let mut r = Reply::new(&parse(&b).unwrap(), &Addr::V4_UNSPECIFIED, &Addr::V4_UNSPECIFIED, 1500);
        let before = r.room();
        r.option(opt::DOMAIN_SEARCH, &[7; 600]);
        assert_eq!(before - r.room(), option_len(600));
        let bytes = r.finish();
        assert_eq!(&bytes[240..242], &[119, 255]);
        assert_eq!(parse(&bytes).unwrap().option(opt::DOMAIN_SEARCH), Some(vec![7; 600]));
    }

    #[test]
    fn malformed_messages_are_refused() {
        let good = discover();
        for (at, value) in [(1, 6), (2, 16), (FIXED_LEN, 0)] {
            let mut b = good.clone();
            b[at] = value;
            assert!(parse(&b).is_none(), "byte {at}");
        }
        for len in [0, 235, 239] {
            assert!(parse(&good[..len]).is_none(), "length {len}");
        }
        let mut lie = good[..240].to_vec();
        lie.extend_from_slice(&[53, 1, 1, 12, 40, b'x']);
        assert!(parse(&lie).is_none());
        lie.truncate(244);
        assert!(parse(&lie).is_none(), "no length byte");
    }

    #[test]
    fn masks() {
        assert_eq!(mask(0), [0, 0, 0, 0]);
        assert_eq!(mask(20), [255, 255, 240, 0]);
        assert_eq!(mask(32), [255; 4]);
    }

    proptest::proptest! {
        #[test]
        fn any_options_are_read_or_refused(o in proptest::collection::vec(proptest::num::u8::ANY, 0..400)) {
            let mut b = discover();
            b.truncate(FIXED_LEN + 4);
            b.extend_from_slice(&o);
            if let Some(m) = parse(&b) {
                for code in 0..=255 {
                    assert!(m.option(code).is_none_or(|d| d.len() <= 400 + 192));
                }
            }
        }

        #[test]
        fn any_bytes_are_read_or_refused(b in proptest::collection::vec(proptest::num::u8::ANY, 0..400)) {
            let _ = parse(&b);
        }
    }
}
