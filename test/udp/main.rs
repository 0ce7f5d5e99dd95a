//! The UDP engine between a guest link in memory and real sockets on the loopback interface.

#[path = "../common/datagrams.rs"]
mod datagrams;
mod moving;
mod sizes;

use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsFd;
use std::time::{Duration, Instant as Wall};

use datagrams::{PLAIN, World, bytes, datagram, gateway, guest};
use spelt::base::{DropReason, Endpoint, PerFamily};
use spelt::flow::{Id, Pending, Via};
use spelt::guest::mock::MockLink;
use spelt::guest::reassembly::Reassembly;
use spelt::guest::{Caps, Facts, Frame};
use spelt::sys::{dgram, sockopt};
use spelt::udp::{Config, HandBack, Rule};
use spelt::wire::{self, Csum, ETH_LEN, Gso, Offload, Packet, Parsed, Transport};

const FULL: Caps = Caps { csum: true, tso: true, uso: true, mtu: 65520 };

fn loopback(v4: bool) -> UdpSocket {
    let s = UdpSocket::bind(if v4 { "127.0.0.1:0" } else { "[::1]:0" }).unwrap();
    s.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
    s
}

fn world(caps: Caps) -> World<MockLink> {
    World::new(MockLink::new(caps), Config::default())
}

fn limited(limit: usize) -> World<MockLink> {
    World::new(MockLink::new(PLAIN), Config { limit, ..Config::default() })
}

impl World<MockLink> {
    fn send(&mut self, frame: &[u8], offload: Offload) -> Result<(), DropReason> {
        self.take(&Frame { head: frame, rest: &[], offload })
    }

    /// Another worker's engines, without a flow yet.
    fn beside(&self, config: Config) -> World<MockLink> {
        World { clock: self.clock, ahead: self.ahead, ..World::new(MockLink::new(PLAIN), config) }
    }

    fn listen(&mut self, socket: UdpSocket, rule: Rule) {
        self.udp.listen(socket.into(), rule).unwrap();
    }

    /// Handles events until `frames` frames reached the guest or two seconds have passed.
    fn pump(&mut self, frames: usize) -> Vec<(Vec<u8>, Offload)> {
        self.pump_for(frames, Duration::from_secs(2))
    }

    fn pump_for(&mut self, frames: usize, time: Duration) -> Vec<(Vec<u8>, Offload)> {
        let end = Wall::now() + time;
        while self.link.sent.len() < frames && Wall::now() < end {
            self.turn();
        }
        std::mem::take(&mut self.link.sent)
    }

    fn expire(&mut self) {
        let mut due = Vec::new();
        self.timers.expire(self.now(), &mut due);
        let facts = Facts { now: self.now(), l2: &self.l2, nat: &self.nat };
        for t in due {
            self.udp.on_timer(Id { index: t.index, generation: t.generation }, &facts, &mut self.timers);
        }
    }
}

/// A UDP frame to the guest, taken apart; complete checksums are verified.
fn udp(frame: &[u8], offload: &Offload) -> (Packet, Endpoint, Endpoint, Vec<u8>) {
    let Ok(Parsed::Ip(p)) = wire::parse(frame, frame.len()) else { panic!("not a whole packet") };
    let Transport::Udp(u) = p.transport else { panic!("not UDP: {:?}", p.transport) };
    let payload = &frame[p.payload..p.payload + p.payload_len];
    if let Some(sum) = p.checksum_sum(frame, offload) {
        assert!(sum.add(payload).is_valid());
    }
    (p, Endpoint::new(p.src, u.src_port), Endpoint::new(p.dst, u.dst_port), payload.to_vec())
}

#[test]
fn a_datagram_goes_out_and_the_answer_comes_back() {
    for (v4, caps) in [(true, FULL), (false, FULL), (true, PLAIN), (false, PLAIN)] {
        let mut w = world(caps);
        let server = loopback(v4);
        let to = Endpoint::new(gateway(v4), server.local_addr().unwrap().port());
        let from = Endpoint::new(guest(v4), 40_001);
        for payload in [&b"hello"[..], b"", &bytes(1400)] {
            w.send(&datagram(from.port, to, 64, payload), Offload::NONE).unwrap();
            w.flush();
            let mut buf = [0; 2000];
            let (n, peer) = server.recv_from(&mut buf).unwrap();
            assert_eq!((&buf[..n], peer.port()), (payload, 40_001));
            server.send_to(&buf[..n], peer).unwrap();
            let got = w.pump(1);
            assert_eq!(got.len(), 1);
            let (_, src, dst, back) = udp(&got[0].0, &got[0].1);
            assert_eq!((src, dst, &back[..]), (to, from, payload));
        }
        assert_eq!(w.udp.len(), 1);
    }
}

#[test]
fn many_small_datagrams_keep_their_boundaries_and_order() {
    let mut w = world(FULL);
    let server = loopback(true);
    let to = Endpoint::new(gateway(true), server.local_addr().unwrap().port());
    let from = Endpoint::new(guest(true), 40_011);
    let sizes: Vec<usize> = (0..150).map(|i| if i % 10 == 9 { i % 7 } else { 64 }).collect();
    for (i, size) in sizes.iter().enumerate() {
        w.send(&datagram(from.port, to, 64, &vec![i as u8; *size]), Offload::NONE).unwrap();
    }
    w.flush();
    let mut buf = [0; 2000];
    for (i, size) in sizes.iter().enumerate() {
        let n = server.recv(&mut buf).unwrap();
        assert_eq!(&buf[..n], &vec![i as u8; *size][..]);
    }
}

#[test]
fn a_uso_frame_becomes_datagrams() {
    for v4 in [true, false] {
        let mut w = world(FULL);
        let server = loopback(v4);
        let to = Endpoint::new(gateway(v4), server.local_addr().unwrap().port());
        // 100 segments: more than one send takes.
        let payload = bytes(500 * 100 + 33);
        let offload = Offload { csum: Csum::Partial { start: 34, offset: 6 }, gso: Gso::Udp(500) };
        w.send(&datagram(40_002, to, 64, &payload), offload).unwrap();
        let mut buf = [0; 2000];
        for part in payload.chunks(500) {
            let n = server.recv(&mut buf).unwrap();
            assert_eq!(&buf[..n], part);
        }
    }
}

#[test]
fn a_coalesced_buffer_becomes_one_uso_frame_or_single_ones() {
    for (v4, caps, frames) in [(true, FULL, 1), (false, FULL, 1), (true, Caps { uso: false, ..FULL }, 31)] {
        let mut w = world(caps);
        let server = loopback(v4);
        let to = Endpoint::new(gateway(v4), server.local_addr().unwrap().port());
        w.send(&datagram(40_003, to, 64, b"go"), Offload::NONE).unwrap();
        w.flush();
        let peer = server.recv_from(&mut [0; 10]).unwrap().1;
        server.connect(peer).unwrap();
        // Twice: the second time the flow is known for large buffers.
        for _ in 0..2 {
            let payload = bytes(1000 * 30 + 17);
            let run = dgram::Run { at: 0, len: payload.len(), segment: 1000 };
            dgram::send_runs(server.as_fd(), &payload, &[run]).unwrap();
            let got = w.pump(frames);
            assert_eq!(got.len(), frames);
            let mut all = Vec::new();
            for (f, offload) in &got {
                let (_, src, _, part) = udp(f, offload);
                assert_eq!(src, to);
                assert_eq!(offload.gso, if frames == 1 { Gso::Udp(1000) } else { Gso::None });
                all.extend(part);
            }
            assert_eq!(all, payload);
        }
    }
}

/// The link is not full: nothing would ever tell that it has room.
#[test]
fn large_datagrams_arrive_though_the_link_has_no_areas_so_long() {
    for (v4, caps, room) in [(true, FULL, 60_000), (true, PLAIN, 1500), (false, PLAIN, 1500)] {
        let mut w = world(caps);
        w.link.longest = room;
        let server = loopback(v4);
        let to = Endpoint::new(gateway(v4), server.local_addr().unwrap().port());
        w.send(&datagram(40_006, to, 64, b"go"), Offload::NONE).unwrap();
        w.flush();
        let peer = server.recv_from(&mut [0; 10]).unwrap().1;
        for len in [40_000, 40_000, 100, 40_000] {
            server.send_to(&bytes(len), peer).unwrap();
            let frames = if len < room { 1 } else { len.div_ceil(1480) };
            let got = w.pump(frames);
            assert_eq!(got.len(), frames, "{len} bytes in areas of {room}");
            assert!(w.udp.pending() == Pending::Nothing && w.udp.counters().drops().count() == 0);
        }
    }
}

#[test]
fn a_closed_port_is_reported_quoting_the_datagram() {
    for v4 in [true, false] {
        let mut w = world(PLAIN);
        let port = loopback(v4).local_addr().unwrap().port();
        let sent = datagram(40_006, Endpoint::new(gateway(v4), port), 64, b"anybody?");
        w.send(&sent, Offload::NONE).unwrap();
        w.flush();
        let got = w.pump(1);
        assert_eq!(got.len(), 1);
        let f = &got[0].0;
        let Ok(Parsed::Ip(p)) = wire::parse(f, f.len()) else { panic!() };
        let Transport::Icmp(icmp) = p.transport else { panic!() };
        assert_eq!((icmp.kind, icmp.code), if v4 { (3, 3) } else { (1, 4) });
        assert_eq!((p.src, p.dst), (gateway(v4), guest(v4)));
        // Four unused bytes, then the packet as it was.
        assert_eq!(f[p.payload + 4..], sent[ETH_LEN..]);
        let sum = p.checksum_sum(f, &Offload::NONE).unwrap().add(&f[p.payload..]);
        assert!(sum.is_valid());
        // The flow goes on.
        w.send(&sent, Offload::NONE).unwrap();
        w.flush();
        assert_eq!(w.pump(1).len(), 1);
    }
}

#[test]
fn a_client_of_a_listener_is_answered_from_where_it_asked() {
    for (v4, bind, ask) in [(true, "0.0.0.0:0", "127.0.0.9"), (false, "[::]:0", "::1"), (true, "[::]:0", "127.0.0.9")] {
        let mut w = world(PLAIN);
        let listener = UdpSocket::bind(bind).unwrap();
        let port = listener.local_addr().unwrap().port();
        w.listen(listener, Rule { guest: None, guest_port: 7000, via: Via::NOTHING });
        let clients: Vec<UdpSocket> = (0..3).map(|_| loopback(v4)).collect();
        let to = SocketAddr::new(ask.parse().unwrap(), port);
        // All of it is queued before the engine looks.
        for n in 0..5u8 {
            for (i, c) in clients.iter().enumerate() {
                c.send_to(&[i as u8, n], to).unwrap();
            }
        }
        let got = w.pump(15);
        let mut seen = vec![Vec::new(); 3];
        for (f, offload) in &got {
            let (_, src, dst, payload) = udp(f, offload);
            let i = usize::from(payload[0]);
            assert_eq!(src, Endpoint::new(gateway(v4), clients[i].local_addr().unwrap().port()));
            assert_eq!(dst, Endpoint::new(guest(v4), 7000));
            seen[i].push(payload[1]);
        }
        assert_eq!(seen, vec![vec![0, 1, 2, 3, 4]; 3]);
        assert_eq!(w.udp.len(), 3);
        for c in &clients {
            let client = Endpoint::new(gateway(v4), c.local_addr().unwrap().port());
            w.send(&datagram(7000, client, 64, b"answer"), Offload::NONE).unwrap();
            w.flush();
            let mut buf = [0; 10];
            let (n, from) = c.recv_from(&mut buf).unwrap();
            assert_eq!((&buf[..n], from), (&b"answer"[..], to));
            // From now on through the flow's own socket.
            c.send_to(b"again", to).unwrap();
            let again = w.pump(1);
            assert_eq!(udp(&again[0].0, &again[0].1).3, b"again");
        }
        assert_eq!(w.udp.len(), 3);
    }
}

#[test]
fn nobody_else_binds_a_port_that_is_listened_on() {
    let mut w = world(PLAIN);
    let listener = UdpSocket::bind("0.0.0.0:0").unwrap();
    let to = listener.local_addr().unwrap();
    let thief = || {
        let s = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::DGRAM, None).unwrap();
        s.set_reuse_address(true).unwrap();
        s.bind(&to.into())
    };
    let id = w.udp.listen(listener.into(), Rule { guest: None, guest_port: 7002, via: Via::NOTHING }).unwrap();
    let in_use = |r: std::io::Result<()>| r.unwrap_err().kind() == std::io::ErrorKind::AddrInUse;
    assert!(in_use(thief()));
    let client = loopback(true);
    client.connect(("127.0.0.1", to.port())).unwrap();
    client.send(b"x").unwrap();
    let got = w.pump(1);
    assert!(in_use(thief()));
    // A flow of the guest's from the same port keeps it.
    let server = loopback(true);
    let target = Endpoint::new(gateway(true), server.local_addr().unwrap().port());
    w.send(&datagram(to.port(), target, 64, b"out"), Offload::NONE).unwrap();
    w.flush();
    assert_eq!(server.recv_from(&mut [0; 10]).unwrap().1.port(), to.port());
    assert!(in_use(thief()));

    // Closed: the port is free for others, and flows go on.
    w.udp.unlisten(id);
    w.udp.unlisten(id);
    let (_, src, _, _) = udp(&got[0].0, &got[0].1);
    w.send(&datagram(7002, src, 64, b"answer"), Offload::NONE).unwrap();
    w.flush();
    assert_eq!(client.recv(&mut [0; 10]).unwrap(), 6);
    thief().unwrap();
}

#[test]
fn loopback_clients_are_served_without_the_mapping_on_request_only() {
    for v4 in [true, false] {
        let mut w = world(PLAIN);
        w.nat.map_host_loopback = PerFamily::default();
        w.nat.our_link_local = Some(gateway(false));
        let (listener, client) = (loopback(v4), loopback(v4));
        let to = listener.local_addr().unwrap();
        w.listen(listener, Rule { guest: None, guest_port: 7001, via: Via::NOTHING });
        client.send_to(b"refused", to).unwrap();
        assert!(w.pump_for(1, Duration::from_millis(50)).is_empty() && w.udp.is_empty());
        w.nat.loopback_clients = true;
        client.send_to(b"x", to).unwrap();
        let got = w.pump(1);
        let (_, src, dst, _) = udp(&got[0].0, &got[0].1);
        let port = client.local_addr().unwrap().port();
        assert_eq!((src, dst), (Endpoint::new(gateway(v4), port), Endpoint::new(guest(v4), 7001)));
        w.send(&datagram(7001, src, 64, b"answer"), Offload::NONE).unwrap();
        w.flush();
        let mut buf = [0; 10];
        let (n, from) = client.recv_from(&mut buf).unwrap();
        assert_eq!((&buf[..n], from), (&b"answer"[..], to));
    }
}

#[test]
fn the_oldest_idle_flow_makes_room_but_a_busy_one_does_not() {
    let mut w = limited(3);
    let server = loopback(true);
    let to = Endpoint::new(gateway(true), server.local_addr().unwrap().port());
    let send = |w: &mut World<_>, port| w.send(&datagram(port, to, 64, b"x"), Offload::NONE);
    let source = || server.recv_from(&mut [0; 4]).unwrap().1;
    for port in 41_000..41_003 {
        send(&mut w, port).unwrap();
        w.flush();
        // Only what is answered is busy.
        server.send_to(b"y", source()).unwrap();
        assert_eq!(w.pump(1).len(), 1);
    }
    assert_eq!(send(&mut w, 41_003).unwrap_err(), DropReason::FlowTableFull);
    w.ahead += Duration::from_secs(2);
    send(&mut w, 41_000).unwrap();
    send(&mut w, 41_003).unwrap();
    w.flush();
    assert_eq!(w.udp.len(), 3);
    assert_eq!([source(), source()].map(|a| a.port()), [41_000, 41_003]);
}

#[test]
fn a_flood_that_nobody_answers_throws_out_itself() {
    let mut w = limited(3);
    let server = loopback(true);
    let to = Endpoint::new(gateway(true), server.local_addr().unwrap().port());
    for port in 41_100..41_110 {
        w.send(&datagram(port, to, 64, b"x"), Offload::NONE).unwrap();
    }
    w.flush();
    assert_eq!(w.udp.len(), 3);
    for port in 41_100..41_110 {
        assert_eq!(server.recv_from(&mut [0; 4]).unwrap().1.port(), port);
    }
}

#[test]
fn idle_flows_go_and_used_ones_stay() {
    let mut w = world(PLAIN);
    let server = loopback(true);
    let to = Endpoint::new(gateway(true), server.local_addr().unwrap().port());
    let f = datagram(42_000, to, 64, b"x");
    w.send(&f, Offload::NONE).unwrap();
    w.flush();
    w.ahead = Duration::from_secs(100);
    w.send(&f, Offload::NONE).unwrap();
    w.flush();
    w.ahead = Duration::from_secs(121);
    w.expire();
    assert_eq!(w.udp.len(), 1);
    w.ahead = Duration::from_secs(221);
    w.expire();
    assert!(w.udp.is_empty());
}

/// A resolver's client asks from another port each time, for ten hours: flows must not pile up, nor names stop resolving.
#[test]
fn b57_names_resolve_for_hours() {
    let mut w = limited(64);
    let server = loopback(true);
    let to = Endpoint::new(gateway(true), server.local_addr().unwrap().port());
    for n in 0..3600 {
        w.ahead = Duration::from_secs(10 * n);
        w.expire();
        let from = Endpoint::new(guest(true), 20_000 + n as u16);
        w.send(&datagram(from.port, to, 64, b"question"), Offload::NONE).unwrap();
        w.flush();
        let peer = server.recv_from(&mut [0; 20]).unwrap().1;
        server.send_to(b"answer", peer).unwrap();
        let got = w.pump(1);
        let (_, src, dst, answer) = udp(&got[0].0, &got[0].1);
        assert_eq!((src, dst, &answer[..]), (to, from, &b"answer"[..]));
        assert!(w.udp.len() <= 13, "{} flows", w.udp.len());
    }
}

#[test]
fn ttl_and_tos_pass_both_ways() {
    let mut w = world(PLAIN);
    let server = loopback(true);
    sockopt::set(server.as_fd(), libc::IPPROTO_IP, libc::IP_RECVTTL, 1).unwrap();
    let to = Endpoint::new(gateway(true), server.local_addr().unwrap().port());
    let from = Endpoint::new(guest(true), 43_000);
    let mut inbox = dgram::Inbox::new(4);
    for ttl in [5, 6, 64] {
        w.send(&datagram(from.port, to, ttl, b"x"), Offload::NONE).unwrap();
        w.flush();
        assert_eq!(inbox.receive(server.as_fd(), 1, true).unwrap(), 1);
        assert_eq!(inbox.meta(0).ttl, Some(ttl));
    }
    server.set_ttl(17).unwrap();
    sockopt::set(server.as_fd(), libc::IPPROTO_IP, libc::IP_TOS, 0x2a).unwrap();
    server.send_to(b"y", inbox.meta(0).from.unwrap()).unwrap();
    let got = w.pump(1);
    let (p, ..) = udp(&got[0].0, &got[0].1);
    assert_eq!((p.ttl, p.tos), (17, 0x2a));
}

#[test]
fn a_full_link_parks_the_flow_and_loses_only_what_was_read() {
    let mut w = world(PLAIN);
    let server = loopback(true);
    let to = Endpoint::new(gateway(true), server.local_addr().unwrap().port());
    w.send(&datagram(44_000, to, 64, b"x"), Offload::NONE).unwrap();
    w.flush();
    let peer = server.recv_from(&mut [0; 4]).unwrap().1;
    for n in 0..100u8 {
        server.send_to(&[n], peer).unwrap();
    }
    w.link.room = 2;
    assert_eq!(w.pump(2).len(), 2);
    assert_eq!(w.udp.pending(), Pending::Link);
    let lost = w.udp.counters().dropped(DropReason::LinkFull) as usize;
    w.link.room = usize::MAX;
    let facts = Facts { now: w.now(), l2: &w.l2, nat: &w.nat };
    w.udp.resume(&facts, &mut w.link, &mut w.timers);
    let got = w.pump(98 - lost);
    assert_eq!(got.len(), 98 - lost);
    assert_eq!(got.last().unwrap().0.last(), Some(&99));
}
