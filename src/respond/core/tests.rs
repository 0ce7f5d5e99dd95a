use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::address::{AddressAttribute, AddressMessage};
use netlink_packet_route::link::{LinkAttribute, LinkLayerType, LinkMessage};
use netlink_packet_route::route::{RouteAddress, RouteAttribute, RouteMessage, RouteType};

use super::super::args::prefix;
use super::super::testing::{OUR_MAC, THEIR_MAC, a, ask_v4, solicit, station};
use super::super::unasked::{SHARE_MAX, UNASKED_MAX};
use super::*;
use crate::base::Clock;
use crate::wire::{arp, ndp};

const UPLINK: u32 = 2;
const BRIDGE: u32 = 3;
const BRIDGE_MAC: Mac = Mac([0x02, 0, 0, 0, 0, 0x03]);

struct Fixed(Way);

impl Routes for Fixed {
    fn way(&mut self, _: &Addr) -> Way {
        self.0
    }
}

/// An uplink with 2001:db8::1, a router fe80::1, and a bridge.
fn links() -> Links {
    let mut links = Links::default();
    for (index, name, mac) in [(UPLINK, "eth0", OUR_MAC), (BRIDGE, "br0", BRIDGE_MAC)] {
        let mut m = LinkMessage::default();
        m.header.index = index;
        m.header.link_layer_type = LinkLayerType::Ether;
        m.attributes = vec![LinkAttribute::IfName(name.into()), LinkAttribute::Address(mac.0.to_vec())];
        links.take(&RouteNetlinkMessage::NewLink(m));
    }
    for (index, addr) in [(UPLINK, "2001:db8::1"), (UPLINK, "fe80::2"), (BRIDGE, "fe80::3"), (UPLINK, "192.0.2.1")] {
        let mut m = AddressMessage::default();
        m.header.index = index;
        m.attributes = vec![AddressAttribute::Address(addr.parse().unwrap())];
        links.take(&RouteNetlinkMessage::NewAddress(m));
    }
    let mut m = RouteMessage::default();
    m.header.kind = RouteType::Unicast;
    let router = RouteAddress::Inet6("2001:db8::fe".parse().unwrap());
    m.attributes = vec![RouteAttribute::Oif(UPLINK), RouteAttribute::Gateway(router)];
    links.take(&RouteNetlinkMessage::NewRoute(m));
    links
}

struct Bench {
    responder: Responder,
    routes: Fixed,
    now: Instant,
}

impl Bench {
    fn new(served: &[(&str, Method)], change: impl FnOnce(&mut Settings)) -> Bench {
        let mut rules = Rules::default();
        served.iter().for_each(|(p, method)| rules.serve(prefix(p).unwrap(), *method));
        rules.exclude(prefix("2001:db8::dead").unwrap());
        let uplink = Uplink { name: "eth0".into(), rules, patience: Patience::default(), router: false };
        let mut settings = Settings { uplinks: vec![uplink], behind: vec!["br0".into()], rate: 100, to_router: None };
        change(&mut settings);
        let mut responder = Responder::new(settings);
        responder.set_links(links());
        Bench { responder, routes: Fixed(Way::Nowhere), now: Clock::BEGIN }
    }

    fn hear(&mut self, frame: &[u8]) -> Vec<Outgoing> {
        let (mut out, v4) = (Vec::new(), frame[13] == 6);
        self.responder.heard(0, (frame, frame.len()), v4, self.now, &mut self.routes, &mut out);
        out
    }

    fn refused(&mut self, frame: &[u8], reason: Reason) {
        let before = self.responder.counters.dropped(reason);
        assert_eq!(self.hear(frame), [], "{reason:?}");
        assert_eq!(self.responder.counters.dropped(reason), before + 1, "{reason:?}");
    }

    fn behind(&mut self, frame: &Frame) -> Vec<Outgoing> {
        let mut out = Vec::new();
        self.responder.heard_behind(BRIDGE, (frame, frame.len()), frame[13] == 6, self.now, &mut out);
        out
    }

    fn wait(&mut self, ms: u64) -> Vec<Outgoing> {
        let mut out = Vec::new();
        self.now = self.now + Duration::from_millis(ms);
        self.responder.due(self.now, &mut out);
        out
    }
}

fn fixed() -> Bench {
    Bench::new(&[("2001:db8::/64", Method::Static), ("192.0.2.0/24", Method::Static)], |_| {})
}

fn via() -> Bench {
    Bench::new(&[("2001:db8::/64", Method::Via(0)), ("192.0.2.0/24", Method::Via(0))], |_| {})
}

/// What a container says when it is asked.
fn found(target: &str) -> Frame {
    found_by(a(target), THEIR_MAC)
}

fn found_by(target: Addr, mac: Mac) -> Frame {
    let source = if target.is_v4() { "0.0.0.0" } else { "fe80::3" };
    let question = Question { target, source: a(source), source_mac: BRIDGE_MAC };
    frames::answer(&question, mac, false)
}

/// One of many in the prefix.
fn nth(n: u32) -> Addr {
    let mut o = *a("2001:db8::").octets();
    o[12..].copy_from_slice(&(0x1_0000 + n).to_be_bytes());
    Addr::v6(o)
}

#[test]
fn a_prefix_is_answered_for_whoever_asks() {
    for source in ["fe80::7", "2001:db8:5::7", "::"] {
        let out = fixed().hear(&solicit(source, "2001:db8::5"));
        assert_eq!((out.len(), out[0].index), (1, UPLINK));
        assert_eq!(frames::advertisement(&out[0].frame, out[0].frame.len()), Ok((a("2001:db8::5"), OUR_MAC)));
    }
    let out = fixed().hear(&ask_v4("192.0.2.7", "192.0.2.9"));
    assert_eq!(frames::arp_reply(&out[0].frame, 60), Ok((a("192.0.2.9"), OUR_MAC)));
}

#[test]
fn nobody_is_answered_for_who_speaks_for_himself() {
    let mut bench = fixed();
    bench.refused(&solicit("fe80::7", "2001:db8::1"), Reason::OwnAddress);
    bench.refused(&solicit("fe80::7", "2001:db8::fe"), Reason::OwnAddress);
    bench.refused(&solicit("2001:db8::9", "2001:db8::9"), Reason::AskersOwn);
    bench.refused(&solicit("2001:db8::1", "2001:db8::9"), Reason::SpoofedSource);
    bench.refused(&solicit("fe80::7", "2001:db8::dead"), Reason::Excluded);
    bench.refused(&solicit("fe80::7", "2001:db9::9"), Reason::NotServed);
    let mut ours = solicit("fe80::7", "2001:db8::9");
    ours[6..12].copy_from_slice(&OUR_MAC.0);
    bench.refused(&ours, Reason::SourceMac);
    assert_eq!(bench.responder.counters.counted(Event::Heard), 7);
}

#[test]
fn one_source_is_heard_so_often() {
    let mut bench = fixed();
    for _ in 0..200 {
        assert_eq!(bench.hear(&solicit("fe80::7", "2001:db8::5")).len(), 1);
    }
    bench.refused(&solicit("fe80::7", "2001:db8::5"), Reason::RateLimited);
    let mut other = solicit("fe80::7", "2001:db8::5");
    other[11] = 9;
    assert_eq!(bench.hear(&other).len(), 1);
}

#[test]
fn behind_is_asked_first() {
    for (source, target) in [("fe80::7", "2001:db8::5"), ("192.0.2.7", "192.0.2.9")] {
        let mut bench = via();
        let question = || if target.contains(':') { solicit(source, target) } else { ask_v4(source, target) };
        let out = bench.hear(&question());
        assert_eq!((out.len(), out[0].index, &out[0].frame[6..12]), (1, BRIDGE, &BRIDGE_MAC.0[..]));
        assert_eq!(bench.hear(&question()), [], "it waits");
        let out = bench.behind(&found(target));
        assert_eq!((out.len(), out[0].index), (1, UPLINK));
        assert_eq!(bench.hear(&question()).len(), 1, "known now");
        let counted = |event| bench.responder.counters.counted(event);
        assert_eq!([Event::Waited, Event::Asked, Event::Answered].map(counted), [2, 1, 2]);
    }
}

#[test]
fn who_does_not_answer_is_asked_again_and_then_absent() {
    let mut bench = via();
    bench.hear(&solicit("fe80::7", "2001:db8::5"));
    for _ in 0..2 {
        let out = bench.wait(500);
        assert_eq!((out.len(), out[0].index), (1, BRIDGE));
    }
    assert_eq!(bench.wait(500), []);
    assert_eq!(bench.responder.counters.dropped(Reason::Absent), 1);
    bench.refused(&solicit("fe80::7", "2001:db8::5"), Reason::Absent);
    assert_eq!(bench.responder.deadline(), None);
    bench.behind(&found("2001:db8::5"));
    assert_eq!(bench.hear(&solicit("fe80::7", "2001:db8::5")).len(), 1, "it has come");
    bench.refused(&solicit("2001:db8::5", "2001:db8::6"), Reason::SpoofedSource);
}

#[test]
fn stations_that_nobody_asked_take_no_place_from_questions() {
    let mut bench = via();
    for n in 0..300 {
        for by in 0..30 {
            bench.behind(&found_by(nth(u32::from(by) * 1000 + n), station(by + 10)));
        }
        bench.now = bench.now + Duration::from_millis(20);
    }
    let counters = &bench.responder.counters;
    assert_eq!((bench.responder.sessions(), counters.counted(Event::Found)), (UNASKED_MAX, UNASKED_MAX as u64));
    assert_eq!(counters.dropped(Reason::Full), 9000 - UNASKED_MAX as u64);
    // An honest one is asked for, and found.
    assert_eq!(bench.hear(&solicit("fe80::7", "2001:db8::5"))[0].index, BRIDGE);
    assert_eq!(bench.behind(&found("2001:db8::5"))[0].index, UPLINK);
}

#[test]
fn one_station_that_nobody_asked_has_a_share() {
    let mut bench = Bench::new(&[("2001:db8::/64", Method::Via(0))], |s| s.to_router = Some(Duration::from_secs(14)));
    let mut told = 0;
    (0..1000).for_each(|n| told += bench.behind(&found_by(nth(n), THEIR_MAC)).len());
    // Each is announced, and solicits the router.
    assert_eq!((told, bench.responder.counters.dropped(Reason::RateLimited)), (400, 800));
    bench.now = bench.now + Duration::from_secs(2);
    (200..400).for_each(|n| told += bench.behind(&found_by(nth(n), THEIR_MAC)).len());
    assert_eq!((told, bench.responder.sessions()), (2 * SHARE_MAX, SHARE_MAX));
    assert_eq!(bench.behind(&found_by(nth(5000), station(9))).len(), 2, "others have their own");
    // What is asked for then is the questions', and makes room for another.
    bench.now = bench.now + Duration::from_secs(2);
    assert_eq!(bench.hear(&solicit("fe80::7", &nth(0).to_string())).len(), 1);
    assert_eq!(bench.behind(&found_by(nth(700), THEIR_MAC)).len(), 2);
    assert_eq!(bench.behind(&found_by(nth(701), THEIR_MAC)), []);
}

#[test]
fn routes_say_who_is_there() {
    let mut bench = Bench::new(&[("2001:db8::/64", Method::Auto)], |_| {});
    let ask = solicit("fe80::7", "2001:db8::5");
    bench.refused(&ask, Reason::NoRoute);
    bench.routes.0 = Way::Through { index: UPLINK, on_link: true };
    bench.refused(&ask, Reason::NoRoute);
    bench.routes.0 = Way::Through { index: BRIDGE, on_link: true };
    assert_eq!(bench.hear(&ask)[0].index, BRIDGE);
    assert_eq!(bench.behind(&found("2001:db8::5"))[0].index, UPLINK);
    assert_eq!(bench.behind(&found("2001:db8::77")), [], "nobody has asked");
    bench.routes.0 = Way::Through { index: BRIDGE, on_link: false };
    assert_eq!(bench.hear(&solicit("fe80::7", "2001:db8::6"))[0].index, UPLINK);
}

#[test]
fn links_come_and_go() {
    let mut bench = via();
    bench.behind(&found("2001:db8::5"));
    bench.responder.set_links(Links::default());
    bench.refused(&solicit("fe80::7", "2001:db8::5"), Reason::NotServed);
    bench.responder.set_links(links());
    assert_eq!(bench.hear(&solicit("fe80::7", "2001:db8::5"))[0].index, BRIDGE, "asked anew");
}

#[test]
fn routers_hear_of_new_addresses_and_do_not_forget_them() {
    let every = Duration::from_secs(14);
    let served = [("2001:db8::5", Method::Static), ("2001:db8::/64", Method::Via(0))];
    let mut bench = Bench::new(&served, |s| s.to_router = Some(every));
    let mut out = Vec::new();
    bench.responder.begin(bench.now, &mut out);
    // Its announcement, its solicitation at once, then all that are repeated: it, and this host's own address.
    let sources =
        |out: &[Outgoing]| out.iter().map(|o| Addr::v6(o.frame[22..38].try_into().unwrap())).collect::<Vec<_>>();
    assert_eq!(sources(&out), [a("2001:db8::5"), a("2001:db8::5"), a("2001:db8::5"), a("2001:db8::1")]);
    assert_eq!(out[0].frame[54], ndp::NEIGHBOR_ADVERTISEMENT);
    for o in &out[1..] {
        assert_eq!((o.frame[54], o.index), (ndp::NEIGHBOR_SOLICITATION, UPLINK));
        assert_eq!(o.frame[62..78], a("2001:db8::fe").octets()[..]);
    }
    bench.wait(1000);
    assert_eq!(sources(&bench.behind(&found("2001:db8::6"))), [a("2001:db8::6"); 2]);
    let out = bench.wait(13_000);
    assert_eq!(sources(&out), [a("2001:db8::5"), a("2001:db8::6"), a("2001:db8::1")]);
    assert_eq!(bench.responder.deadline(), Some(bench.now + every));
}

#[test]
fn containers_are_announced_when_they_come_and_answered_for_while_they_stay() {
    let served = [("::/0", Method::Containers), ("192.0.2.0/24", Method::Containers)];
    let mut bench = Bench::new(&served, |_| {});
    let set = |list: &[&str]| list.iter().map(|t| a(t)).collect::<BTreeSet<_>>();
    let mut out = Vec::new();
    bench.responder.set_containers(set(&["2001:db8::5", "192.0.2.9", "10.0.0.1"]), &mut out);
    assert_eq!(out.len(), 2, "not for what no rule serves");
    assert_eq!(arp::parse(&out[0].frame[14..]).unwrap().sender, a("192.0.2.9"));
    assert_eq!(bench.hear(&solicit("fe80::7", "2001:db8::5")).len(), 1);
    bench.refused(&solicit("fe80::7", "2001:db8::6"), Reason::Absent);
    bench.refused(&solicit("2001:db8::5", "2001:db8::6"), Reason::SpoofedSource);
    bench.responder.set_containers(set(&["192.0.2.9"]), &mut Vec::new());
    bench.refused(&solicit("fe80::7", "2001:db8::5"), Reason::Absent);
}

proptest::proptest! {
    #[test]
    fn any_frame_is_counted_once(
        change in proptest::collection::vec((0usize..90, proptest::num::u8::ANY), 0..4),
        v4: bool,
        cut in 0usize..90,
        mend: bool,
    ) {
        let mut frame = if v4 { ask_v4("192.0.2.7", "192.0.2.9") } else { solicit("fe80::7", "2001:db8::5") };
        for (at, byte) in change {
            if let Some(b) = frame.get_mut(at) {
                *b = byte;
            }
        }
        if mend && !v4 {
            super::super::testing::mend_checksum(&mut frame);
        }
        frame.truncate(frame.len() - cut.min(frame.len()));
        let mut bench = via();
        let mut out = Vec::new();
        bench.responder.heard(0, (&frame, frame.len()), v4, bench.now, &mut bench.routes, &mut out);
        let c = &bench.responder.counters;
        let drops: u64 = Reason::ALL.iter().map(|r| c.dropped(*r)).sum();
        assert_eq!(c.counted(Event::Heard), drops + c.counted(Event::Waited) + c.counted(Event::Answered));
        assert!(out.len() <= 1);
    }
}
