use dhcproto::v6::{self, DhcpOption as O, DhcpOptions, MessageType as T, OptionCode as C};
use dhcproto::{Decodable, Encodable};

use super::super::testing::*;
use super::*;
use crate::base::PerFamily;

const CLIENT: [u8; 10] = [0, 3, 0, 1, 0x52, 0x54, 0, 1, 2, 3];
const SERVER: [u8; 10] = [0, 3, 0, 1, 0x9a, 0x55, 0x9a, 0x55, 0x9a, 0x55];

fn client() -> O {
    O::ClientId(CLIENT.to_vec())
}

fn server() -> O {
    O::ServerId(SERVER.to_vec())
}

fn opts(list: Vec<O>) -> DhcpOptions {
    list.into_iter().collect()
}

fn addr(s: &str) -> O {
    O::IAAddr(v6::IAAddr { addr: s.parse().unwrap(), preferred_life: 0, valid_life: 0, opts: opts(vec![]) })
}

fn na(id: u32, addrs: &[&str]) -> O {
    O::IANA(v6::IANA { id, t1: 0, t2: 0, opts: opts(addrs.iter().map(|s| addr(s)).collect()) })
}

fn ta(id: u32) -> O {
    O::IATA(v6::IATA { id, opts: opts(vec![]) })
}

fn pd(id: u32) -> O {
    O::IAPD(v6::IAPD { id, t1: 0, t2: 0, opts: opts(vec![]) })
}

fn oro(codes: &[C]) -> O {
    O::ORO(v6::ORO { opts: codes.to_vec() })
}

fn frame(kind: T, options: Vec<O>) -> Vec<u8> {
    let mut m = v6::Message::new_with_id(kind, [1, 2, 3]);
    m.set_opts(opts(options));
    udp_frame("fe80::7", "ff02::1:2", 546, 547, &m.to_vec().unwrap())
}

fn try_ask(config: Config, kind: T, options: Vec<O>) -> Result<v6::Message, DropReason> {
    let sent = Bench::with(config).answer(&frame(kind, options))?;
    assert_eq!(sent.len(), 1);
    let (mac, src, dst, payload) = udp(&sent[0]);
    assert_eq!(mac, GUEST_MAC);
    assert_eq!((src, dst), (Endpoint::new(a("fe80::1"), 547), Endpoint::new(a("fe80::7"), 546)));
    let m = v6::Message::from_bytes(&payload).unwrap();
    assert_eq!(m.xid(), [1, 2, 3]);
    assert_eq!(m.opts().get(C::ServerId), Some(&server()));
    Ok(m)
}

fn ask(kind: T, options: Vec<O>) -> v6::Message {
    let m = try_ask(config(), kind, options).unwrap();
    assert_eq!(m.opts().get(C::ClientId), Some(&client()));
    m
}

fn refused(kind: T, options: Vec<O>) -> bool {
    try_ask(config(), kind, options).err() == Some(DropReason::Dhcpv6)
}

/// IAID, addresses with their lifetimes, status.
type Association = (u32, Vec<(String, u32)>, Option<v6::Status>);

/// All associations, by IAID.
fn ias(m: &v6::Message) -> Vec<Association> {
    let mut all: Vec<_> = m
        .opts()
        .iter()
        .filter_map(|o| match o {
            O::IANA(i) => Some((i.id, &i.opts)),
            O::IATA(i) => Some((i.id, &i.opts)),
            O::IAPD(i) => Some((i.id, &i.opts)),
            _ => None,
        })
        .map(|(id, o)| {
            let addrs = o
                .iter()
                .filter_map(|o| match o {
                    O::IAAddr(a) => {
                        assert_eq!(a.preferred_life, a.valid_life);
                        Some((a.addr.to_string(), a.valid_life))
                    }
                    _ => None,
                })
                .collect();
            (id, addrs, status(o))
        })
        .collect();
    all.sort_by_key(|(id, ..)| *id);
    all
}

fn status(o: &DhcpOptions) -> Option<v6::Status> {
    match o.get(C::StatusCode) {
        Some(O::StatusCode(s)) => Some(s.status),
        _ => None,
    }
}

fn lease() -> Vec<(String, u32)> {
    vec![("2001:db8::7".into(), u32::MAX)]
}

#[test]
fn solicit_is_advertised_or_committed_at_once() {
    let m = ask(T::Solicit, vec![client(), na(5, &[])]);
    assert_eq!((m.msg_type(), ias(&m)), (T::Advertise, vec![(5, lease(), None)]));
    assert!(m.opts().get(C::RapidCommit).is_none());
    let Some(O::IANA(i)) = m.opts().get(C::IANA) else { panic!() };
    assert_eq!((i.t1, i.t2), (u32::MAX, u32::MAX));

    let m = ask(T::Solicit, vec![client(), na(5, &[]), O::RapidCommit]);
    assert_eq!((m.msg_type(), ias(&m)), (T::Reply, vec![(5, lease(), None)]));
    assert!(m.opts().get(C::RapidCommit).is_some());
}

#[test]
fn d10_golden_advertisement() {
    let c = Config { dns: vec![], search: vec![], fqdn: None, ..config() };
    let sent = Bench::with(c).answer(&frame(T::Solicit, vec![client(), na(5, &[])])).unwrap();
    let expect = [
        &[2, 1, 2, 3, 0, 2, 0, 10][..],
        &SERVER,
        &[0, 1, 0, 10],
        &CLIENT,
        &[0, 3, 0, 40, 0, 0, 0, 5, 255, 255, 255, 255, 255, 255, 255, 255],
        &[0, 5, 0, 24, 0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7],
        &[255, 255, 255, 255, 255, 255, 255, 255],
    ];
    assert_eq!(udp(&sent[0]).3, expect.concat());
}

#[test]
fn d10_every_association_has_an_answer() {
    let m = ask(T::Request, vec![client(), server(), na(1, &[]), na(2, &["2001:db8::7"]), ta(3), pd(4)]);
    let expect = vec![
        (1, vec![], Some(v6::Status::NoAddrsAvail)),
        (2, lease(), None),
        (3, vec![], Some(v6::Status::NoAddrsAvail)),
        (4, vec![], Some(v6::Status::NoPrefixAvail)),
    ];
    assert_eq!((m.msg_type(), ias(&m)), (T::Reply, expect));
}

#[test]
fn requests_for_another_link_are_told_so() {
    let m = ask(T::Request, vec![client(), server(), na(1, &["2001:db8:9::7"])]);
    assert_eq!(ias(&m), [(1, vec![], Some(v6::Status::NotOnLink))]);
    // In a Solicit an address is a wish; on our link a wrong one is replaced.
    assert_eq!(ias(&ask(T::Solicit, vec![client(), na(1, &["2001:db8:9::7"])])), [(1, lease(), None)]);
    assert_eq!(ias(&ask(T::Request, vec![client(), server(), na(1, &["2001:db8::8"])])), [(1, lease(), None)]);
}

#[test]
fn d10_renew_and_rebind_extend_and_retire() {
    for (kind, ids) in [(T::Renew, vec![client(), server()]), (T::Rebind, vec![client()])] {
        let asked = [ids, vec![na(1, &["2001:db8::7", "2001:db8::9"]), na(2, &["2001:db8::5"]), pd(3)]].concat();
        let m = ask(kind, asked);
        let mut retired = lease();
        retired.push(("2001:db8::9".into(), 0));
        let none = Some(v6::Status::NoBinding);
        assert_eq!((m.msg_type(), ias(&m)), (T::Reply, vec![(1, retired, None), (2, vec![], none), (3, vec![], none)]));
    }
}

#[test]
fn confirm_has_one_status_and_no_association() {
    for (addr, expect) in [("2001:db8::9", v6::Status::Success), ("2001:db8:1::9", v6::Status::NotOnLink)] {
        let m = ask(T::Confirm, vec![client(), na(1, &[addr])]);
        assert_eq!((m.msg_type(), status(m.opts()), ias(&m).len()), (T::Reply, Some(expect), 0));
        assert!(m.opts().get(C::DomainNameServers).is_none());
    }
    assert!(refused(T::Confirm, vec![client(), na(1, &[])]));
}

#[test]
fn release_and_decline_succeed() {
    for kind in [T::Release, T::Decline] {
        let m = ask(kind, vec![client(), server(), na(1, &["2001:db8::7"]), na(2, &["2001:db8::8"])]);
        assert_eq!((m.msg_type(), status(m.opts())), (T::Reply, Some(v6::Status::Success)));
        assert_eq!(ias(&m), [(2, vec![], Some(v6::Status::NoBinding))]);
    }
}

#[test]
fn d10_d31_information_has_no_association_and_needs_no_name() {
    let m = try_ask(config(), T::InformationRequest, vec![oro(&[C::DomainNameServers])]).unwrap();
    assert_eq!((m.msg_type(), ias(&m).len(), m.opts().get(C::ClientId)), (T::Reply, 0, None));
    assert!(m.opts().get(C::DomainNameServers).is_some());
    ask(T::InformationRequest, vec![client(), server()]);
    assert!(refused(T::InformationRequest, vec![client(), na(1, &[])]));
}

#[test]
fn identifiers_are_checked() {
    let other = || O::ServerId(vec![0, 3, 0, 1, 9, 9, 9, 9, 9, 9]);
    for kind in [T::Solicit, T::Confirm, T::Rebind] {
        assert!(refused(kind, vec![client(), server(), na(1, &["2001:db8::7"])]), "{kind:?} names a server");
        assert!(refused(kind, vec![na(1, &["2001:db8::7"])]), "{kind:?} without client");
    }
    for kind in [T::Request, T::Renew, T::Release, T::Decline] {
        assert!(refused(kind, vec![client(), na(1, &[])]), "{kind:?} names no server");
        assert!(refused(kind, vec![client(), other(), na(1, &[])]), "{kind:?} names another");
        assert!(refused(kind, vec![server(), na(1, &[])]), "{kind:?} without client");
    }
    assert!(refused(T::InformationRequest, vec![client(), other()]));
    assert!(refused(T::Solicit, vec![O::ClientId(vec![0; 131]), na(1, &[])]));
    for kind in [T::Advertise, T::Reply, T::Reconfigure, T::Unknown(99)] {
        assert!(refused(kind, vec![client(), server()]), "{kind:?}");
    }
}

#[test]
fn options_are_those_asked_for() {
    let codes = |options: Vec<O>| -> Vec<bool> {
        let m = ask(T::Solicit, [options, vec![client(), na(1, &[])]].concat());
        [C::DomainNameServers, C::DomainSearchList, C::ClientFqdn].iter().map(|c| m.opts().get(*c).is_some()).collect()
    };
    assert_eq!(codes(vec![]), [true, true, true]);
    assert_eq!(codes(vec![oro(&[C::DomainNameServers])]), [true, false, false]);
    assert_eq!(codes(vec![oro(&[C::DomainSearchList, C::ClientFqdn])]), [false, true, true]);

    let m = ask(T::Solicit, vec![client(), na(1, &[])]);
    let dns = vec!["2001:db8::53".parse().unwrap()];
    assert_eq!(m.opts().get(C::DomainNameServers), Some(&O::DomainNameServers(dns)));
    let Some(O::DomainSearchList(names)) = m.opts().get(C::DomainSearchList) else { panic!() };
    assert_eq!(names.iter().map(|n| n.to_string()).collect::<Vec<_>>(), ["example.com.", "lab.example.com."]);
}

#[test]
fn without_an_address_only_settings_are_served() {
    let c = Config { assigned: PerFamily::default(), ..config() };
    let m = try_ask(c.clone(), T::Solicit, vec![client(), na(1, &[])]).unwrap();
    assert_eq!(ias(&m), [(1, vec![], Some(v6::Status::NoAddrsAvail))]);
    assert!(try_ask(c.clone(), T::Confirm, vec![client(), na(1, &["2001:db8::7"])]).is_err());
    assert!(try_ask(c, T::InformationRequest, vec![client()]).unwrap().opts().get(C::DomainNameServers).is_some());
    for off in [Config { dhcpv6: false, ..config() }, Config { our_link_local: None, ..config() }] {
        assert_eq!(try_ask(off, T::Solicit, vec![client()]).err(), Some(DropReason::Disabled));
    }
}

#[test]
fn the_reply_stays_within_the_smallest_mtu() {
    let search = (0..300).map(|i| format!("department-{i}.example.org")).collect();
    let c = Config { search, ..config() };
    let asked: Vec<O> = (0..8).map(|i| na(i, &["2001:db8::7", "2001:db8::8", "2001:db8::9"])).collect();
    let sent = Bench::with(c).answer(&frame(T::Renew, [vec![client(), server()], asked].concat())).unwrap();
    assert!(sent[0].len() > 1200 && sent[0].len() <= 14 + 1280, "{}", sent[0].len());
    assert!(refused(T::Solicit, (0..9).map(|i| na(i, &[])).chain([client()]).collect()), "too many associations");
}

#[test]
fn the_full_name_overrides_wishes_for_updates() {
    let with = |flags: u8| {
        let o = O::Unknown(v6::UnknownOption::new(C::ClientFqdn, vec![flags, 1, b'x', 0]));
        let payload = Bench::new().answer(&frame(T::Solicit, vec![client(), na(1, &[]), o])).unwrap();
        let payload = udp(&payload[0]).3;
        dhcpv6::parse(&payload).unwrap().option(39).map(<[u8]>::to_vec)
    };
    let name = b"\x05guest\x07example\x03com\0";
    assert_eq!(with(0), Some([&[4][..], name].concat()));
    assert_eq!(with(1), Some([&[6][..], name].concat()));
}
