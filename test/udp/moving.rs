//! What goes elsewhere: flows to another worker, datagrams of loopback clients to the path without a link.

use super::*;

/// All flows of one worker's go to another one.
fn move_all(from: &mut World<MockLink>, to: &mut World<MockLink>) {
    let facts = Facts { now: from.now(), l2: &from.l2, nat: &from.nat };
    let moving = from.udp.leave(1, &facts, &mut from.link);
    let facts = Facts { now: to.now(), l2: &to.l2, nat: &to.nat };
    for flow in moving {
        to.udp.adopt(flow, &facts, &mut to.link, &mut to.timers);
    }
}

/// A worker beside this one, that has all its flows.
fn moved(w: &mut World<MockLink>) -> World<MockLink> {
    let mut other = w.beside(Config::default());
    let flows = w.udp.len();
    move_all(w, &mut other);
    assert_eq!((w.udp.len(), other.udp.len()), (0, flows));
    other
}

#[test]
fn a_flow_that_moved_keeps_its_port_on_the_host() {
    for v4 in [true, false] {
        let mut w = world(PLAIN);
        let server = loopback(v4);
        let to = Endpoint::new(gateway(v4), server.local_addr().unwrap().port());
        let from = Endpoint::new(guest(v4), 45_000);
        w.send(&datagram(from.port, to, 64, b"question"), Offload::NONE).unwrap();
        w.flush();
        let peer = server.recv_from(&mut [0; 20]).unwrap().1;
        let mut w = moved(&mut w);
        w.send(&datagram(from.port, to, 64, b"question"), Offload::NONE).unwrap();
        w.flush();
        assert_eq!(server.recv_from(&mut [0; 20]).unwrap().1, peer);
        server.send_to(b"answer", peer).unwrap();
        let got = w.pump(1);
        let (_, src, dst, answer) = udp(&got[0].0, &got[0].1);
        assert_eq!((src, dst, &answer[..]), (to, from, &b"answer"[..]));
    }
}

#[test]
fn datagrams_that_came_while_a_flow_moved_are_delivered() {
    let mut w = world(PLAIN);
    let server = loopback(true);
    let to = Endpoint::new(gateway(true), server.local_addr().unwrap().port());
    w.send(&datagram(45_001, to, 64, b"question"), Offload::NONE).unwrap();
    w.flush();
    let peer = server.recv_from(&mut [0; 20]).unwrap().1;
    for n in 0..100u8 {
        server.send_to(&[n], peer).unwrap();
    }
    let got = moved(&mut w).pump(100);
    assert!(got.iter().map(|(f, offload)| udp(f, offload).3).eq((0..100u8).map(|n| vec![n])));
}

#[test]
fn datagrams_that_were_staged_when_a_flow_moved_are_sent() {
    let mut w = world(PLAIN);
    let server = loopback(true);
    let to = Endpoint::new(gateway(true), server.local_addr().unwrap().port());
    w.send(&datagram(45_002, to, 64, b"first"), Offload::NONE).unwrap();
    w.send(&datagram(45_002, to, 64, b"other"), Offload::NONE).unwrap();
    moved(&mut w);
    let mut buf = [0; 20];
    for expected in [b"first", b"other"] {
        let n = server.recv(&mut buf).unwrap();
        assert_eq!(&buf[..n], expected);
    }
}

#[test]
fn a_client_of_a_listener_is_answered_by_the_worker_its_flow_moved_to() {
    let mut w = world(PLAIN);
    let (listener, client) = (loopback(true), loopback(true));
    let asked = listener.local_addr().unwrap();
    w.listen(listener, Rule { guest: None, guest_port: 7003, via: Via::NOTHING });
    client.send_to(b"question", asked).unwrap();
    let got = w.pump(1);
    let (_, src, _, _) = udp(&got[0].0, &got[0].1);
    let mut other = moved(&mut w);
    other.send(&datagram(7003, src, 64, b"answer"), Offload::NONE).unwrap();
    other.flush();
    assert_eq!(client.recv_from(&mut [0; 20]).unwrap(), (6, asked));
}

/// Flows that share a source port on the host. It must be none that the kernel may choose for one of their servers.
const SHARERS: usize = 512;

fn servers() -> Vec<UdpSocket> {
    spelt::sys::process::raise_open_files().unwrap();
    (0..=SHARERS).map(|_| loopback(true)).collect()
}

/// Sends from one port of the guest's to each server; what port each of them sees.
fn ports_seen(w: &mut World<MockLink>, port: u16, servers: &[UdpSocket]) -> Vec<u16> {
    let seen = |server: &UdpSocket| {
        let to = Endpoint::new(gateway(true), server.local_addr().unwrap().port());
        w.send(&datagram(port, to, 64, b"x"), Offload::NONE).unwrap();
        w.flush();
        server.recv_from(&mut [0; 4]).unwrap().1.port()
    };
    servers.iter().map(seen).collect()
}

#[test]
fn flows_that_moved_count_among_those_that_share_a_port() {
    let servers = servers();
    let mut w = world(PLAIN);
    assert_eq!(ports_seen(&mut w, 25_003, &servers[..SHARERS - 1]), [25_003; SHARERS - 1]);
    let mut w = moved(&mut w);
    let late = ports_seen(&mut w, 25_003, &servers[SHARERS - 1..]);
    assert!(late[0] == 25_003 && late[1] != 25_003, "{late:?}");
}

#[test]
fn flows_that_moved_away_do_not_count_among_those_that_share_a_port() {
    let servers = servers();
    let mut w = world(PLAIN);
    assert_eq!(ports_seen(&mut w, 25_004, &servers[..SHARERS]), [25_004; SHARERS]);
    let _other = moved(&mut w);
    assert_eq!(ports_seen(&mut w, 25_004, &servers[SHARERS..]), [25_004]);
}

#[test]
fn flows_that_moved_and_ended_do_not_count_among_those_that_share_a_port() {
    let servers = servers();
    let mut w = world(PLAIN);
    assert_eq!(ports_seen(&mut w, 25_005, &servers[..SHARERS]), [25_005; SHARERS]);
    let mut w = moved(&mut w);
    w.ahead += Duration::from_secs(121);
    w.expire();
    assert!(w.udp.is_empty());
    assert_eq!(ports_seen(&mut w, 25_005, &servers[..SHARERS]), [25_005; SHARERS]);
    assert_ne!(ports_seen(&mut w, 25_005, &servers[SHARERS..]), [25_005]);
}

#[test]
fn a_flow_that_moved_lives_as_long_as_it_would_have() {
    let server = loopback(true);
    let mut w = world(PLAIN);
    ports_seen(&mut w, 45_006, std::slice::from_ref(&server));
    w.ahead += Duration::from_secs(100);
    let mut w = moved(&mut w);
    w.ahead += Duration::from_secs(19);
    w.expire();
    assert_eq!(w.udp.len(), 1);
    // It is used again, and has two minutes more.
    w.send(
        &datagram(45_006, Endpoint::new(gateway(true), server.local_addr().unwrap().port()), 64, b"x"),
        Offload::NONE,
    )
    .unwrap();
    w.flush();
    w.ahead += Duration::from_secs(119);
    w.expire();
    assert_eq!(w.udp.len(), 1);
    w.ahead += Duration::from_secs(2);
    w.expire();
    assert!(w.udp.is_empty());
}

#[test]
fn a_flow_that_finds_no_room_ends_and_the_others_go_on() {
    let servers = [loopback(true), loopback(true)];
    let mut w = world(PLAIN);
    ports_seen(&mut w, 45_007, &servers[..1]);
    let mut full = w.beside(Config { limit: 1, ..Config::default() });
    ports_seen(&mut full, 45_008, &servers[1..]);
    // Only what is answered is busy.
    servers[1].send_to(b"y", ("127.0.0.1", 45_008)).unwrap();
    assert_eq!(full.pump(1).len(), 1);
    move_all(&mut w, &mut full);
    assert_eq!((full.udp.len(), full.udp.counters().dropped(DropReason::FlowTableFull)), (1, 1));
    servers[1].send_to(b"y", ("127.0.0.1", 45_008)).unwrap();
    assert_eq!(full.pump(1).len(), 1);
    // Its port is free.
    UdpSocket::bind("127.0.0.1:45007").unwrap();
}

/// As when other workers, or other protocols, have taken the rest.
#[test]
fn a_newcomer_finds_room_when_there_are_more_flows_than_there_may_be() {
    let mut w = world(PLAIN);
    let servers: Vec<_> = (0..5).map(|_| loopback(true)).collect();
    ports_seen(&mut w, 45_009, &servers[..4]);
    w.udp.set_limit(2);
    // It arrives, and there are fewer than before.
    ports_seen(&mut w, 45_009, &servers[4..]);
    assert_eq!(w.udp.len(), 3);
}

#[test]
fn datagrams_handed_back_are_bounded_and_none_is_lost() {
    let mut w = World::new(MockLink::new(PLAIN), Config { hand_back: HandBack::Loopback, ..Config::default() });
    let client = loopback(true);
    let mut ports = Vec::new();
    for _ in 0..8 {
        let listener = loopback(true);
        let to = listener.local_addr().unwrap();
        ports.push(to.port());
        w.listen(listener, Rule { guest: None, guest_port: 7002, via: Via::NOTHING });
        for n in 0..200u8 {
            client.send_to(&[n], to).unwrap();
        }
    }
    let mut got = Vec::new();
    for turn in 0..8 {
        w.turn();
        let now = w.udp.handed_back();
        assert!(now.len() <= 1280, "{} in turn {turn}", now.len());
        got.extend(now);
        // Of a port that waits for its turn already.
        client.send_to(&[200 + turn], ("127.0.0.1", ports[0])).unwrap();
    }
    w.turn();
    got.extend(w.udp.handed_back());
    for port in &ports {
        let own = got.iter().filter(|d| d.local.port == *port).map(|d| d.payload[0]);
        let last = if *port == ports[0] { 208 } else { 200 };
        assert!(own.eq(0..last), "port {port}");
    }
    assert!(w.udp.is_empty() && w.udp.pending() == Pending::Nothing);
}
