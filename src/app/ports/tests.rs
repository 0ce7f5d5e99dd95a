//! An engine whose both sides are the namespace the tests run in.

use std::io::Read;
use std::net::{TcpListener, TcpStream, UdpSocket};

use super::*;
use crate::app::{Common, Parts, Protocols, Seat};
use crate::base::{Clock, Mac, PerFamily};
use crate::fwd::ports::{self, Spec};
use crate::fwd::{Nat, Outbound};
use crate::gateway;
use crate::guest::L2;
use crate::link::Link;
use crate::sys::sockets::Nobody;

const OPTIONS: Options = Options { v4: true, v6: false, freebind: false };

fn engine() -> Engine {
    engine_at(Seat::alone().unwrap())
}

fn engine_at(seat: Seat) -> Engine {
    let mac = Mac([2, 0, 0, 0, 0, 1]);
    let mut forwards = Forwards::default();
    forwards.set_budget(16);
    let common = Common {
        clock: Clock::start(),
        l2: L2 {
            our_mac: mac,
            guest_mac: mac,
            guest_v4: None,
            guest_v6: None,
            guest_link_local: None,
            neighbours: Default::default(),
        },
        nat: Nat::default(),
        outbound: Outbound::default(),
        gateway: silent_gateway(mac),
        protocols: Protocols { tcp: true, udp: true, icmp: true },
        descriptors: 64,
        udp_timeouts: (Duration::from_secs(30), Duration::from_secs(120)),
    };
    let forwarding = Forwarding {
        forwards,
        options: OPTIONS,
        host: Namespace::here(false, false),
        guest: Namespace { sockets: Box::new(Here), diag: Some(SockDiag::open().unwrap()) },
    };
    let parts = Parts {
        link: Link::None,
        common,
        listeners: Vec::new(),
        forwarding,
        local: None,
        neighbours: None,
        following: None,
    };
    Engine::new(parts, seat).unwrap()
}

fn silent_gateway(our_mac: Mac) -> gateway::Config {
    gateway::Config {
        our_mac,
        gateway: PerFamily::default(),
        our_link_local: None,
        assigned: PerFamily::default(),
        mtu: None,
        dns: Vec::new(),
        search: Vec::new(),
        hostname: None,
        fqdn: None,
        arp: false,
        ndp: false,
        ra: false,
        dhcp: false,
        dhcpv6: false,
        prefix_is_hosts: false,
        leases_end: false,
        dns_in_dhcp: false,
        search_in_dhcp: false,
        v4: true,
        v6: false,
        seed: 1,
    }
}

fn forward(proto: Proto, text: &str) -> Forward {
    let specs = ports::Ports::Specs(vec![Spec::parse(proto, text).unwrap()]);
    let rule = specs.rules(&ports::Ports::EPHEMERAL_DEFAULT).unwrap().remove(0);
    Forward { rule, on: Side::Host, origin: text.into() }
}

/// A port of 127.0.0.1 that nobody used a moment ago.
fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn connects(port: u16) -> bool {
    TcpStream::connect(("127.0.0.1", port)).is_ok()
}

#[test]
fn rules_come_and_go_while_running() {
    let mut e = engine();
    let port = free_port();
    let id = e.add_forward(forward(Proto::Tcp, &format!("127.0.0.1/{port}:80"))).unwrap();
    assert!(connects(port));
    let again = e.add_forward(forward(Proto::Tcp, &format!("127.0.0.1/{port}"))).unwrap_err();
    assert_eq!(again.to_string(), format!("Failed to bind port {port} (Address already in use)"));
    let datagrams = e.add_forward(forward(Proto::Udp, &format!("127.0.0.1/{port}"))).unwrap();
    assert!(UdpSocket::bind(("127.0.0.1", port)).is_err());
    assert_eq!(e.forwards().map(|(id, _)| id).collect::<Vec<_>>(), [id, datagrams]);
    assert_eq!(e.remove_forward(id).unwrap().rule.target_first, 80);
    assert!(!connects(port));
    e.remove_forward(datagrams).unwrap();
    assert!(e.remove_forward(id).is_none() && e.forwards().next().is_none());
    assert!(UdpSocket::bind(("127.0.0.1", port)).is_ok());
}

#[test]
fn a_rule_that_fails_leaves_nothing() {
    let mut e = engine();
    let theirs = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = theirs.local_addr().unwrap().port();
    let first = port - 1;
    let error = e.add_forward(forward(Proto::Tcp, &format!("127.0.0.1/{first}-{port}"))).unwrap_err();
    assert!(error.to_string().ends_with("(Address already in use)"), "{error}");
    assert!(e.forwards().next().is_none() && e.ports.tcp.is_empty());
    e.ports.forwarding.guest.sockets = Box::new(Nobody);
    let guests = Forward { on: Side::Guest, ..forward(Proto::Tcp, "9") };
    assert_eq!(e.add_forward(guests).unwrap_err().port, 9);
}

#[test]
fn ports_follow_what_is_in_use() {
    let mut e = engine();
    let service = TcpListener::bind("127.0.0.1:0").unwrap();
    let (inner, outer) = (service.local_addr().unwrap().port(), free_port());
    let id = e.add_forward(forward(Proto::Tcp, &format!("127.0.0.1/{outer}:{inner},auto"))).unwrap();
    assert!(connects(outer) && e.ports.forwarding.forwards.is_open(id, outer));
    drop(service);
    e.scan_ports();
    assert!(!connects(outer));
    let _service = TcpListener::bind(("127.0.0.1", inner)).unwrap();
    e.scan_ports();
    assert!(connects(outer));
    assert!(e.ports.scanning);
}

#[test]
fn clients_without_a_descriptor_are_not_forgotten() {
    let mut e = engine();
    let port = free_port();
    let forward_id = e.add_forward(forward(Proto::Tcp, &format!("127.0.0.1/{port}"))).unwrap();
    let id = e.ports.tcp.next_id();
    let id = Id { index: id.index - 1, generation: 0 };
    let mut client = TcpStream::connect(("127.0.0.1", port)).unwrap();
    client.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    let now = e.clock.now();
    for _ in 0..2 {
        e.accept_later(id, now);
    }
    assert_eq!(e.ports.stuck, [id]);
    let mut due = Vec::new();
    e.timers.expire(now + Duration::from_secs(1), &mut due);
    assert_eq!(due, [Token::only(Kind::ListenTcp)]);
    e.flow_timer(due[0], now);
    // There is no way to the guest: reset, but not left waiting.
    assert_eq!(client.read(&mut [0]).unwrap_err().kind(), io::ErrorKind::ConnectionReset);
    assert!(e.ports.stuck.is_empty());
    e.remove_forward(forward_id).unwrap();
}

#[test]
fn what_makes_way_in_vain_comes_back_with_its_name_and_account() {
    let mut e = engine();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let (port, gone) = (free_port(), free_port());
    let kept = forward(Proto::Tcp, &format!("127.0.0.1/{port}:80"));
    let id = e.add_forward(kept.clone()).unwrap();
    let other = e.add_forward(forward(Proto::Tcp, &format!("127.0.0.1/{gone}"))).unwrap();
    e.ports.forwarding.forwards.hit(id);
    let elsewhere = forward(Proto::Tcp, &format!("127.0.0.1/{port}:81"));
    let (new, busy) = (free_port(), taken.local_addr().unwrap().port());
    let [new, busy] = [new, busy].map(|port| forward(Proto::Tcp, &format!("127.0.0.1/{port}")));
    // One fails that needs nobody's place, and then one for which another has to make way.
    let _beside = TcpListener::bind(("127.0.0.2", port)).unwrap();
    let wide = forward(Proto::Tcp, &format!("0.0.0.0/{port}:80"));
    for wanted in [vec![elsewhere.clone(), new.clone(), busy], vec![new.clone(), wide]] {
        let error = e.replace_forwards(wanted).err().unwrap().to_string();
        assert!(error.contains("Failed to bind port"), "{error}");
        assert_eq!(e.forwards().map(|(id, _)| id).collect::<Vec<_>>(), [id, other]);
        assert_eq!((e.forward(id), e.forward_status(id).hits, e.forward_status(id).open), (Some(&kept), 1, 1));
        assert!(connects(port) && connects(gone) && !connects(new.rule.first));
    }
    let change = e.replace_forwards(vec![elsewhere.clone(), new.clone()]).ok().unwrap();
    assert_eq!(change.to_string(), "rules added: 2, removed: 2");
    assert!(connects(port) && !connects(gone) && connects(new.rule.first));
    assert!(e.forwards().map(|(_, f)| f).all(|f| [&elsewhere, &new].contains(&f)));
}

#[test]
fn what_is_to_follow_and_cannot_is_refused() {
    let mut e = engine();
    e.ports.forwarding.guest.diag = None;
    let error = e.add_forward(forward(Proto::Tcp, "127.0.0.1/9,auto")).unwrap_err().to_string();
    assert!(error.contains("cannot be seen"), "{error}");
    assert!(e.forwards().next().is_none());
}

#[test]
fn changes_that_nobody_waits_for_are_not_made() {
    let mut seat = Seat::alone().unwrap();
    let clerk = seat.open_desk().unwrap();
    let mut e = engine_at(seat);
    let now = e.clock.now();
    let rule = forward(Proto::Tcp, &format!("127.0.0.1/{}", free_port()));
    let add = |rule: Forward| move |engine: &mut Engine| engine.add_forward(rule).is_ok();
    assert!(clerk.have_done(add(rule.clone()), Duration::ZERO).is_err());
    e.attend(now);
    assert!(e.forwards().next().is_none());
    // One that has begun is waited for.
    let patience = Duration::from_secs(1);
    let slow = move |engine: &mut Engine| {
        std::thread::sleep(2 * patience);
        add(rule)(engine)
    };
    let asked = std::thread::spawn(move || clerk.have_done(slow, patience).ok());
    while !asked.is_finished() {
        e.attend(now);
        std::thread::sleep(Duration::from_millis(1));
    }
    assert_eq!((asked.join().unwrap(), e.forwards().count()), (Some(true), 1));
}
