//! UDP.

use std::net::{IpAddr, UdpSocket};

use super::super::{First, Rule};
use super::*;
use crate::base::Family;
use crate::fwd::Side;
use crate::sys::sockets::{Bind, Sockets, Transport, Wanted};

fn bound(address: &str) -> UdpSocket {
    let socket = UdpSocket::bind(address).unwrap();
    socket.set_nonblocking(true).unwrap();
    socket
}

/// Lets the engine listen on a port of its own for `service`; returns the port.
fn listen(world: &mut World, v6: bool, service: &UdpSocket, addr: Option<IpAddr>) -> u16 {
    let any: SocketAddr = if v6 { "[::]:0" } else { "0.0.0.0:0" }.parse().unwrap();
    let family = if v6 { Family::V6 } else { Family::V4 };
    let wanted = Wanted { transport: Transport::Udp, family, bind: Some(Bind::to(any.into())) };
    let socket = Here.make(&wanted).unwrap();
    let port = socket.local_addr().unwrap().as_socket().unwrap().port();
    let target = service.local_addr().unwrap().port();
    let rule = Rule { origin: Side::Guest, addr: addr.map(Into::into), port: target, scope: 0, via: Via::NOTHING };
    world.splice.listen_udp(socket, rule).unwrap();
    port
}

/// Answers what has come to the service; returns how many datagrams that were.
fn echo(service: &UdpSocket) -> usize {
    let mut buffer = vec![0; 65_536];
    let mut count = 0;
    while let Ok((n, from)) = service.recv_from(&mut buffer) {
        service.send_to(&buffer[..n], from).unwrap();
        count += 1;
    }
    count
}

fn ask(world: &mut World, client: &UdpSocket, to: SocketAddr, service: &UdpSocket, payload: &[u8]) -> SocketAddr {
    client.send_to(payload, to).unwrap();
    let mut buffer = vec![0; 65_536];
    world.until(|_| {
        echo(service);
        let (n, from) = client.recv_from(&mut buffer).ok()?;
        assert!(buffer[..n] == *payload);
        Some(from)
    })
}

fn expire(world: &mut World, after: Duration) {
    world.now = world.now + after;
    let mut due = Vec::new();
    world.timers.expire(world.now, &mut due);
    for token in due {
        world.splice.on_timer(token, world.now, &mut world.timers);
    }
}

/// Regression cases b212 and b113: the loopback address that was addressed is kept, and answers.
#[test]
fn b212_b113_the_address_is_kept_and_answers() {
    let mut world = World::new();
    let service = bound("127.0.0.5:0");
    for v6 in [false, true] {
        let port = listen(&mut world, v6, &service, None);
        let client = bound("127.0.0.1:0");
        let to = SocketAddr::new("127.0.0.5".parse().unwrap(), port);
        for payload in [&b"first"[..], b"", &[9; 9000]] {
            assert_eq!(ask(&mut world, &client, to, &service, payload), to);
        }
    }
    assert_eq!(world.splice.len(), 2);
}

#[test]
fn ipv6_and_rules_with_an_address() {
    let mut world = World::new();
    let service = bound("127.0.0.1:0");
    let port = listen(&mut world, true, &service, Some("127.0.0.1".parse().unwrap()));
    let client = bound("[::1]:0");
    let to = SocketAddr::new("::1".parse().unwrap(), port);
    assert_eq!(ask(&mut world, &client, to, &service, b"across families"), to);
}

#[test]
fn many_clients_at_once_get_their_own_answers() {
    let mut world = World::new();
    let service = bound("127.0.0.1:0");
    let to = SocketAddr::new("127.0.0.1".parse().unwrap(), listen(&mut world, false, &service, None));
    let clients: Vec<UdpSocket> = (0..300).map(|_| bound("127.0.0.1:0")).collect();
    // What a listening socket can queue is limited.
    for batch in clients.chunks(50) {
        for (i, client) in batch.iter().enumerate() {
            for n in 0..3 {
                client.send_to(&[i as u8, n], to).unwrap();
            }
        }
        for (i, client) in batch.iter().enumerate() {
            for n in 0..3 {
                let mut buffer = [0; 10];
                let got = world.until(|_| {
                    echo(&service);
                    client.recv(&mut buffer).ok()
                });
                assert_eq!(buffer[..got], [i as u8, n]);
            }
        }
    }
    assert_eq!(world.splice.len(), clients.len());
}

#[test]
fn a_burst_keeps_its_boundaries_and_order() {
    let mut world = World::new();
    let service = bound("127.0.0.1:0");
    let to = SocketAddr::new("127.0.0.1".parse().unwrap(), listen(&mut world, false, &service, None));
    let client = bound("127.0.0.1:0");
    ask(&mut world, &client, to, &service, b"open");
    let sizes: Vec<usize> = (0..120).map(|i| [100, 100, 100, 40, 0, 1200][i % 6]).collect();
    for (i, size) in sizes.iter().enumerate() {
        client.send_to(&vec![i as u8; *size], to).unwrap();
    }
    world.settle();
    let mut buffer = [0; 2000];
    for (i, size) in sizes.iter().enumerate() {
        let n = service.recv(&mut buffer).unwrap();
        assert!(n == *size && buffer[..n].iter().all(|b| *b == i as u8), "datagram {i}");
    }
}

#[test]
fn datagrams_of_a_listener_elsewhere_begin_a_flow() {
    let mut world = World::new();
    let service = bound("127.0.0.1:0");
    let (listener, client) = (bound("127.0.0.1:0"), bound("127.0.0.1:0"));
    socket2::SockRef::from(&listener).set_reuse_address(true).unwrap();
    let endpoint = |s: &UdpSocket| Endpoint::from(s.local_addr().unwrap());
    let mut sockets = Namespaces { host: &mut Here, guest: &mut Here };
    for payload in [&b"one"[..], b"two"] {
        let first = First {
            origin: Side::Host,
            from: endpoint(&client),
            local: endpoint(&listener),
            payload,
            target: endpoint(&service),
            scope: 0,
            via: Via::NOTHING,
        };
        world.splice.udp(&first, &mut sockets, world.now, &mut world.timers).unwrap();
    }
    assert_eq!(world.splice.len(), 1);
    for expected in [b"one", b"two"] {
        let mut buffer = [0; 10];
        let (n, from) = service.recv_from(&mut buffer).unwrap();
        assert_eq!(&buffer[..n], expected);
        service.send_to(expected, from).unwrap();
        let (n, from) = world.until(|_| client.recv_from(&mut buffer).ok());
        assert_eq!((&buffer[..n], from), (&expected[..], listener.local_addr().unwrap()));
    }
    // Later ones reach the flow's own socket.
    assert_eq!(
        ask(&mut world, &client, listener.local_addr().unwrap(), &service, b"three"),
        listener.local_addr().unwrap()
    );
}

#[test]
fn nobody_at_the_target_neither_spins_nor_ends_the_flow() {
    let mut world = World::new();
    let service = bound("127.0.0.1:0");
    let address = service.local_addr().unwrap();
    let to = SocketAddr::new("127.0.0.1".parse().unwrap(), listen(&mut world, false, &service, None));
    drop(service);
    let client = bound("127.0.0.1:0");
    for _ in 0..3 {
        client.send_to(b"anybody?", to).unwrap();
        world.settle();
    }
    let before = world.turns;
    world.turn(Duration::from_millis(30));
    assert_eq!(world.turns, before);
    let service = UdpSocket::bind(address).unwrap();
    service.set_nonblocking(true).unwrap();
    assert_eq!(ask(&mut world, &client, to, &service, b"now"), to);
    assert_eq!(world.splice.len(), 1);
}

#[test]
fn idle_flows_end_and_used_ones_stay() {
    let mut world = World::new();
    let service = bound("127.0.0.1:0");
    let to = SocketAddr::new("127.0.0.1".parse().unwrap(), listen(&mut world, false, &service, None));
    let client = bound("127.0.0.1:0");
    ask(&mut world, &client, to, &service, b"x");
    expire(&mut world, LONG - Duration::from_secs(1));
    ask(&mut world, &client, to, &service, b"x");
    expire(&mut world, LONG - Duration::from_secs(1));
    assert_eq!(world.splice.len(), 1);
    expire(&mut world, Duration::from_secs(2));
    assert!(world.splice.is_empty());
    assert_eq!(ask(&mut world, &client, to, &service, b"again"), to);
}

#[test]
fn a_full_table_lets_the_oldest_go() {
    let mut world = World::new();
    let service = bound("127.0.0.1:0");
    let to = SocketAddr::new("127.0.0.1".parse().unwrap(), listen(&mut world, false, &service, None));
    world.splice.set_limits(0, 2);
    let clients: Vec<UdpSocket> = (0..3).map(|_| bound("127.0.0.1:0")).collect();
    ask(&mut world, &clients[0], to, &service, b"0");
    ask(&mut world, &clients[1], to, &service, b"1");
    // Both have just been used.
    clients[2].send_to(b"2", to).unwrap();
    world.settle();
    assert_eq!(world.splice.counters().dropped(DropReason::FlowTableFull), 1);
    world.now = world.now + Duration::from_secs(2);
    ask(&mut world, &clients[2], to, &service, b"2");
    assert_eq!(world.splice.len(), 2);
    ask(&mut world, &clients[1], to, &service, b"1");
}

#[test]
fn a_closed_listener_hears_nothing_and_its_flows_live_on() {
    let mut world = World::new();
    let service = bound("127.0.0.1:0");
    let to = SocketAddr::new("127.0.0.1".parse().unwrap(), listen(&mut world, false, &service, None));
    let client = bound("127.0.0.1:0");
    ask(&mut world, &client, to, &service, b"x");
    // The only one there has been.
    let id = crate::flow::Id { index: 0, generation: 0 };
    world.splice.unlisten_udp(id);
    world.splice.unlisten_udp(id);
    ask(&mut world, &client, to, &service, b"y");
    bound("127.0.0.1:0").send_to(b"z", to).unwrap();
    world.settle();
    assert_eq!(world.splice.len(), 1);
}
