use dhcproto::v4::{self, DhcpOption as O, MessageType as T, OptionCode as C};
use dhcproto::{Decodable, Encodable};

use super::super::testing::*;
use super::*;
use crate::base::PerFamily;

const CHADDR: [u8; 6] = GUEST_MAC.0;

fn ask(kind: Option<T>, options: Vec<O>) -> v4::Message {
    let mut m = v4::Message::default();
    m.set_xid(0xcafe_f00d).set_chaddr(&CHADDR).set_secs(9);
    for o in options.into_iter().chain(kind.map(O::MessageType)) {
        m.opts_mut().insert(o);
    }
    m
}

fn frame(m: &v4::Message) -> Vec<u8> {
    let src = m.ciaddr().to_string();
    udp_frame(&src, "255.255.255.255", 68, 67, &m.to_vec().unwrap())
}

struct Answer {
    dst_mac: Mac,
    src: Endpoint,
    dst: Endpoint,
    raw: Vec<u8>,
    m: v4::Message,
}

impl Answer {
    fn opt(&self, code: C) -> Option<&O> {
        self.m.opts().get(code)
    }

    /// Options as on the wire: code and data, parts not joined.
    fn wire(&self) -> Vec<(u8, &[u8])> {
        let mut all = Vec::new();
        let mut o = &self.raw[240..];
        while o[0] != 255 {
            let len = usize::from(o[1]);
            all.push((o[0], &o[2..2 + len]));
            o = &o[2 + len..];
        }
        all
    }

    fn codes(&self) -> Vec<u8> {
        self.wire().iter().map(|(c, _)| *c).collect()
    }

    fn data(&self, code: u8) -> Option<Vec<u8>> {
        dhcp::parse(&self.raw).unwrap().option(code)
    }
}

fn try_answer(config: Config, m: &v4::Message) -> Result<Answer, DropReason> {
    let sent = Bench::with(config).answer(&frame(m))?;
    assert_eq!(sent.len(), 1);
    let (dst_mac, src, dst, raw) = udp(&sent[0]);
    let m = v4::Message::from_bytes(&raw).unwrap();
    assert_eq!((m.opcode(), m.xid(), m.secs(), m.hops()), (v4::Opcode::BootReply, 0xcafe_f00d, 0, 0));
    assert_eq!((m.chaddr(), m.siaddr().is_unspecified()), (&CHADDR[..], true));
    assert!(raw[44..236].iter().all(|b| *b == 0), "sname and file");
    assert!(raw.len() >= 300);
    Ok(Answer { dst_mac, src, dst, raw, m })
}

fn answer(m: &v4::Message) -> Answer {
    try_answer(config(), m).unwrap()
}

fn discover() -> v4::Message {
    ask(Some(T::Discover), vec![])
}

fn request(options: Vec<O>) -> v4::Message {
    ask(Some(T::Request), options)
}

fn v4addr(s: &str) -> std::net::Ipv4Addr {
    s.parse().unwrap()
}

#[test]
fn an_offer_says_all_there_is() {
    let o = answer(&discover());
    assert_eq!((o.dst_mac, o.dst), (GUEST_MAC, Endpoint::new(a("192.0.2.7"), 68)));
    assert_eq!(o.src, Endpoint::new(a("192.0.2.1"), 67));
    assert_eq!((o.m.yiaddr(), o.m.ciaddr()), (v4addr("192.0.2.7"), v4addr("0.0.0.0")));
    assert_eq!(o.m.opts().msg_type(), Some(T::Offer));
    assert_eq!(o.opt(C::SubnetMask), Some(&O::SubnetMask(v4addr("255.255.255.0"))));
    assert_eq!(o.opt(C::Router), Some(&O::Router(vec![v4addr("192.0.2.1")])));
    assert_eq!(o.opt(C::DomainNameServer), Some(&O::DomainNameServer(vec![v4addr("192.0.2.53")])));
    assert_eq!(o.opt(C::Hostname), Some(&O::Hostname("guest".into())));
    assert_eq!(o.opt(C::InterfaceMtu), Some(&O::InterfaceMtu(1500)));
    assert_eq!(o.opt(C::AddressLeaseTime), Some(&O::AddressLeaseTime(u32::MAX)));
    assert_eq!(o.opt(C::ServerIdentifier), Some(&O::ServerIdentifier(v4addr("192.0.2.1"))));
    assert_eq!(o.codes(), [53, 1, 3, 6, 12, 26, 51, 54, 81, 119]);
    assert_eq!(o.data(119).unwrap(), b"\x07example\x03com\0\x03lab\xc0\x00");
}

#[test]
fn golden_offer() {
    let c = Config { dns: vec![], search: vec![], hostname: None, fqdn: None, mtu: None, ..config() };
    let o = try_answer(c, &discover()).unwrap();
    let mut expect = vec![2, 1, 6, 0, 0xca, 0xfe, 0xf0, 0x0d, 0, 0, 0, 0, 0, 0, 0, 0, 192, 0, 2, 7];
    expect.extend_from_slice(&[0, 0, 0, 0, 0, 0, 0, 0]);
    expect.extend_from_slice(&CHADDR);
    expect.resize(236, 0);
    expect.extend_from_slice(&[99, 130, 83, 99, 53, 1, 2, 1, 4, 255, 255, 255, 0, 3, 4, 192, 0, 2, 1]);
    expect.extend_from_slice(&[51, 4, 255, 255, 255, 255, 54, 4, 192, 0, 2, 1, 255]);
    expect.resize(300, 0);
    assert_eq!(o.raw, expect);
}

#[test]
fn requests_are_granted_or_refused_by_address() {
    let ours = O::ServerIdentifier(v4addr("192.0.2.1"));
    let wants = |s: &str| O::RequestedIpAddress(v4addr(s));
    // Selecting, rebooting; then the wrong address in both states.
    for (options, kind) in [
        (vec![ours.clone(), wants("192.0.2.7")], T::Ack),
        (vec![wants("192.0.2.7")], T::Ack),
        (vec![ours.clone(), wants("192.0.2.8")], T::Nak),
        (vec![wants("10.0.0.1")], T::Nak),
    ] {
        assert_eq!(answer(&request(options)).m.opts().msg_type(), Some(kind));
    }
    // Another server's offer was taken; nothing was asked for.
    let theirs = O::ServerIdentifier(v4addr("192.0.2.9"));
    for options in [vec![theirs, wants("192.0.2.7")], vec![ours], vec![]] {
        assert_eq!(try_answer(config(), &request(options)).err(), Some(DropReason::Dhcp));
    }
}

#[test]
fn renewals_go_to_the_client_address() {
    let mut m = request(vec![]);
    m.set_ciaddr([192, 0, 2, 7]);
    let r = answer(&m);
    assert_eq!(r.m.opts().msg_type(), Some(T::Ack));
    assert_eq!((r.m.ciaddr(), r.m.yiaddr()), (v4addr("192.0.2.7"), v4addr("192.0.2.7")));
    assert_eq!((r.dst_mac, r.dst.addr), (GUEST_MAC, a("192.0.2.7")));
    m.set_ciaddr([192, 0, 2, 70]);
    let r = answer(&m);
    assert_eq!((r.m.opts().msg_type(), r.dst_mac), (Some(T::Nak), Mac::BROADCAST));
}

#[test]
fn a_refusal_is_broadcast_and_bare() {
    let id = O::ClientIdentifier(vec![1, 2, 3]);
    let r = answer(&request(vec![O::RequestedIpAddress(v4addr("10.0.0.1")), id]));
    assert_eq!((r.dst_mac, r.dst.addr), (Mac::BROADCAST, a("255.255.255.255")));
    assert_eq!((r.m.yiaddr(), r.m.ciaddr()), (v4addr("0.0.0.0"), v4addr("0.0.0.0")));
    assert_eq!(r.codes(), [53, 54, 56, 61]);
}

#[test]
fn upstream_2024_11_rapid_commit_leases_at_once() {
    let r = answer(&ask(Some(T::Discover), vec![O::RapidCommit]));
    assert_eq!((r.m.opts().msg_type(), r.opt(C::RapidCommit)), (Some(T::Ack), Some(&O::RapidCommit)));
    assert_eq!(r.m.yiaddr(), v4addr("192.0.2.7"));
}

#[test]
fn inform_has_settings_and_no_lease() {
    let mut m = ask(Some(T::Inform), vec![]);
    m.set_ciaddr([192, 0, 2, 40]);
    let r = answer(&m);
    assert_eq!(r.m.opts().msg_type(), Some(T::Ack));
    assert_eq!((r.dst.addr, r.m.yiaddr(), r.opt(C::AddressLeaseTime)), (a("192.0.2.40"), v4addr("0.0.0.0"), None));
    assert!(r.opt(C::DomainNameServer).is_some());
}

#[test]
fn bootp_clients_get_no_dhcp_options() {
    let r = answer(&ask(None, vec![]));
    assert_eq!((r.m.yiaddr(), r.codes()), (v4addr("192.0.2.7"), vec![1, 3, 6, 12, 26, 119]));
}

#[test]
fn some_messages_want_no_answer() {
    for kind in [T::Decline, T::Release, T::Offer, T::Ack, T::Nak, T::Unknown(77)] {
        assert_eq!(try_answer(config(), &ask(Some(kind), vec![])).err(), Some(DropReason::Dhcp));
    }
    let mut reply = discover();
    reply.set_opcode(v4::Opcode::BootReply);
    assert_eq!(try_answer(config(), &reply).err(), Some(DropReason::Dhcp));
}

#[test]
fn upstream_2024_11_broadcast_flag_and_relay_decide_the_destination() {
    let mut m = discover();
    m.set_flags(v4::Flags::default().set_broadcast());
    let o = answer(&m);
    assert_eq!((o.dst_mac, o.dst), (Mac::BROADCAST, Endpoint::new(a("255.255.255.255"), 68)));
    assert!(o.m.flags().broadcast());
    m.set_giaddr([10, 1, 1, 1]);
    let o = answer(&m);
    assert_eq!((o.dst_mac, o.dst, o.m.giaddr()), (GUEST_MAC, Endpoint::new(a("10.1.1.1"), 67), v4addr("10.1.1.1")));
}

#[test]
fn d19_the_client_list_gives_the_order_and_duplicates_count_once() {
    let list = [C::Router, C::SubnetMask, C::Router, C::DomainName, C::Unknown(200), C::ServerIdentifier];
    let o = answer(&ask(Some(T::Discover), vec![O::ParameterRequestList(list.to_vec())]));
    assert_eq!(o.codes(), [53, 3, 1, 15, 54, 6, 12, 26, 51, 81, 119]);
    assert_eq!(o.opt(C::DomainName), Some(&O::DomainName("example.com".into())));
    let o = answer(&ask(Some(T::Discover), vec![O::ParameterRequestList(vec![C::Router, C::MessageType])]));
    assert_eq!(o.codes()[..2], [3, 53]);
}

#[test]
fn d19_the_client_identifier_comes_back() {
    for id in [vec![1, 2, 3], vec![255; 200]] {
        let o = answer(&ask(Some(T::Discover), vec![O::ClientIdentifier(id.clone())]));
        assert_eq!(o.data(61), Some(id));
    }
}

#[test]
fn a_gateway_outside_the_subnet_comes_with_routes() {
    let c = Config { assigned: PerFamily::new(Some((a("198.51.100.7"), 32)), None), ..config() };
    let o = try_answer(c, &discover()).unwrap();
    assert_eq!(o.opt(C::SubnetMask), Some(&O::SubnetMask(v4addr("255.255.255.255"))));
    assert_eq!(o.data(121).unwrap(), [32, 192, 0, 2, 1, 0, 0, 0, 0, 0, 192, 0, 2, 1]);
    assert!(answer(&discover()).data(121).is_none());
}

#[test]
fn d19_long_search_lists_are_split_or_cut() {
    let search: Vec<String> = (0..30).map(|i| format!("department-{i}.site-{i}.example.org")).collect();
    let c = Config { search, ..config() };
    let small = try_answer(c.clone(), &discover()).unwrap();
    assert!(small.raw.len() <= 576 - 28, "{}", small.raw.len());
    assert!(small.data(119).unwrap().len() > 100);
    let large = try_answer(c, &ask(Some(T::Discover), vec![O::MaxMessageSize(1500)])).unwrap();
    assert!(large.raw.len() > 576 && large.raw.len() <= 1500 - 28);
    let parts: Vec<usize> = large.wire().iter().filter(|(c, _)| *c == 119).map(|(_, d)| d.len()).collect();
    assert!(parts.len() >= 3 && parts[..parts.len() - 1].iter().all(|l| *l == 255), "{parts:?}");
}

#[test]
fn the_reply_fits_however_much_the_client_asks_back() {
    let mut c = config();
    (c.hostname, c.search) = (Some("h".repeat(200)), vec!["x".repeat(63); 3]);
    for max in [0, 100, 576, 600, u16::MAX] {
        let options = vec![O::ClientIdentifier(vec![7; 250]), O::MaxMessageSize(max)];
        let o = try_answer(c.clone(), &ask(Some(T::Discover), options)).unwrap();
        assert!(o.raw.len() + 28 <= usize::from(max.clamp(576, 1500)));
        let needed = [53, 54, 51, 1, 3, 6];
        assert!(needed.iter().all(|n| o.codes().contains(n)), "{max}");
    }
}

#[test]
fn the_full_name_is_told_in_the_clients_encoding() {
    let name = b"\x05guest\x07example\x03com\0";
    let with = |data: &[u8]| {
        let o = O::Unknown(v4::UnknownOption::new(C::ClientFQDN, data.to_vec()));
        answer(&ask(Some(T::Discover), vec![o])).data(81)
    };
    assert_eq!(answer(&discover()).data(81), Some([&[0x0c, 255, 255][..], name].concat()), "not asked for");
    assert_eq!(with(&[0x05, 0, 0]), Some([&[0x0e, 255, 255][..], name].concat()), "wish for updates overridden");
    assert_eq!(with(&[0, 0, 0]), Some([&[0x08, 255, 255][..], b"guest.example.com"].concat()), "ASCII");
}

#[test]
fn without_addresses_there_is_no_server() {
    let off = [
        Config { dhcp: false, ..config() },
        Config { v4: false, ..config() },
        Config { gateway: PerFamily::default(), ..config() },
        Config { assigned: PerFamily::default(), ..config() },
    ];
    for c in off {
        assert_eq!(try_answer(c, &discover()).err(), Some(DropReason::Disabled));
    }
}
