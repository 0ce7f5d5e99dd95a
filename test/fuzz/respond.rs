//! What strangers on a link, files of ndppd's and container engines can say to `spelt respond`.

use std::collections::BTreeSet;
use std::time::Duration;

use spelt::base::{Addr, Clock, Mac, Prefix};
use spelt::respond::core::{Outgoing, Responder, Routes, Settings, Uplink, Way};
use spelt::respond::http::Answer;
use spelt::respond::links::{Link, Links};
use spelt::respond::reason::{Event, Reason};
use spelt::respond::rules::{Method, Patience, Rules};
use spelt::respond::{engine, ndppd};
use spelt::wire::checksum::Sum;

use super::judge;

const UPLINK: u32 = 2;
const BRIDGE: u32 = 3;
const OUR_MAC: Mac = Mac([2, 0, 0, 0, 0, 1]);

struct Behind(u8);

impl Routes for Behind {
    fn way(&mut self, _: &Addr) -> Way {
        match self.0 & 3 {
            0 => Way::Nowhere,
            n => Way::Through { index: if n == 1 { UPLINK } else { BRIDGE }, on_link: n == 2 },
        }
    }
}

/// Steps: a byte that says what comes and how, one that says how long it is, and that many bytes of a frame. Each question has
/// one outcome; what is sent is whole, and says of nobody that he is elsewhere than with us.
pub fn respond(data: &[u8]) {
    let [how, rest @ ..] = data else { return };
    let mut rest = rest;
    let (mut responder, mut routes, mut now) = (responder(*how), Behind(how >> 2), Clock::BEGIN);
    let mut out = Vec::new();
    responder.begin(now, &mut out);
    check(&responder, &mut out);
    while let [what, len, after @ ..] = rest {
        let (frame, next) = after.split_at(usize::from(*len).min(after.len()));
        rest = next;
        let mut frame = frame.to_vec();
        if what & 8 != 0 {
            mend(&mut frame);
        }
        let bytes = (frame.as_slice(), frame.len());
        match what & 7 {
            0 | 1 => responder.heard(0, bytes, what & 1 != 0, now, &mut routes, &mut out),
            2 | 3 => responder.heard_behind(BRIDGE, bytes, what & 1 != 0, now, &mut out),
            4 => responder.set_links(if len & 1 == 0 { links() } else { Links::from(Vec::new()) }),
            5 => responder.set_containers(
                frame.chunks_exact(16).map(|a| Addr::v6(a.try_into().expect("16"))).collect(),
                &mut out,
            ),
            _ => {
                now = now + Duration::from_millis(u64::from(*len) * 100);
                responder.due(now, &mut out);
                assert!(responder.deadline().is_none_or(|at| at > now), "what was due is done");
            }
        }
        check(&responder, &mut out);
    }
}

fn check(responder: &Responder, out: &mut Vec<Outgoing>) {
    for sent in out.drain(..) {
        let frame = sent.frame.as_slice();
        judge::frame(frame);
        assert_eq!(frame.len(), if sent.v4 { 60 } else { 86 });
        assert!(sent.index == UPLINK || sent.index == BRIDGE);
        if !sent.v4 {
            assert_eq!(frame[21], 255);
            if frame[54] == 136 {
                assert_eq!((&frame[22..38], &frame[80..86]), (&frame[62..78], &OUR_MAC.0[..]));
            }
        }
    }
    let c = &responder.counters;
    let questions = c.counted(Event::Answered) + c.counted(Event::Waited);
    let dropped: u64 = Reason::ALL.iter().map(|r| c.dropped(*r)).sum();
    // One that has waited may be answered, or dropped, later; answers from behind that are none are dropped as well.
    assert!(c.counted(Event::Heard) <= questions + dropped);
    assert!(responder.sessions() <= 4096);
}

fn responder(how: u8) -> Responder {
    let v6 = |a: [u8; 4], low: u8, len| {
        let mut o = [0; 16];
        o[..4].copy_from_slice(&a);
        o[15] = low;
        Prefix::new(Addr::v6(o), len)
    };
    let method = [Method::Static, Method::Via(0), Method::Auto, Method::Containers][usize::from(how & 3)];
    let mut rules = Rules::default();
    rules.serve(v6([0x20, 1, 0xd, 0xb8], 0, 32), method);
    rules.serve(v6([0x20, 1, 0xd, 0xb8], 5, 128), Method::Static);
    rules.serve(Prefix::new(Addr::v4([192, 0, 2, 0]), 24), method);
    let patience = Patience { keep_alive: how & 16 != 0, ..Patience::default() };
    let uplink = Uplink { name: "eth0".into(), rules, patience, router: how & 32 != 0 };
    let to_router = (how & 64 != 0).then_some(Duration::from_secs(14));
    let settings = Settings { uplinks: vec![uplink], behind: vec!["br0".into()], rate: 10, to_router };
    let mut responder = Responder::new(settings);
    responder.set_links(links());
    responder
}

fn links() -> Links {
    let addr = |text: &str| Addr::from(text.parse::<std::net::IpAddr>().expect("an address"));
    let link = |index, name: &str, mac, addresses: &[&str]| Link {
        index,
        name: name.into(),
        mac: Some(mac),
        up: true,
        addresses: addresses.iter().map(|a| addr(a)).collect(),
        routers: if index == UPLINK { vec![addr("fe80::fe"), addr("192.0.2.254")] } else { Vec::new() },
    };
    Links::from(vec![
        link(UPLINK, "eth0", OUR_MAC, &["fe80::1", "2001:db8::1", "192.0.2.1"]),
        link(BRIDGE, "br0", Mac([2, 0, 0, 0, 0, 3]), &["fe80::3"]),
    ])
}

/// The checksum, so that more than that is tried.
fn mend(frame: &mut [u8]) {
    if frame.len() < 58 {
        return;
    }
    let addr = |at: usize| Addr::v6(frame[at..at + 16].try_into().expect("16"));
    let (src, dst) = (addr(22), addr(38));
    frame[56..58].fill(0);
    let sum = Sum::pseudo(&src, &dst, 58, frame.len() - 54).add(&frame[54..]).checksum();
    frame[56..58].copy_from_slice(&sum.to_be_bytes());
}

/// A configuration file: something that can run, or a reason.
pub fn ndppd(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    match ndppd::parse(text) {
        Ok(found) => {
            let names: BTreeSet<&str> = found.uplinks.iter().map(|u| u.name.as_str()).collect();
            assert_eq!(names.len(), found.uplinks.len());
            for uplink in &found.uplinks {
                assert!(uplink.rules.has_family(false) && !uplink.rules.has_family(true));
                assert!(!uplink.rules.uses(|m| matches!(m, Method::Via(n) if n >= found.behind.len())));
            }
        }
        Err(why) => assert!(!why.is_empty()),
    }
}

/// An engine's answer, in pieces: addresses of hosts, or a reason.
pub fn engine_answer(data: &[u8]) {
    let [piece, bytes @ ..] = data else { return };
    let (mut answer, mut body) = (Answer::default(), Vec::new());
    for part in bytes.chunks(usize::from(*piece).max(1)) {
        if let Err(why) = answer.take(part, &mut body) {
            assert!(!why.is_empty());
            return;
        }
    }
    assert!(body.len() <= bytes.len());
    if let Ok(all) = engine::addresses(&body) {
        assert!(all.iter().all(|a| a.is_unicast() && !a.is_loopback()));
    }
}
