use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::thread;
use std::time::Instant;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use smoltcp::iface::{Config, Interface, SocketSet};
use smoltcp::socket::{tcp, udp};
use smoltcp::time::Instant as Time;
use smoltcp::wire::{EthernetAddress, IpCidr};

use super::*;

#[path = "../../../demo/embed/nic.rs"]
mod nic;
use nic::Nic;

const GUEST: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 7);
const GATEWAY: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const PATIENCE: Duration = Duration::from_secs(20);

fn settings() -> Settings {
    let v4 = Some(Subnet { guest: GUEST, gateway: GATEWAY, prefix_len: 24 });
    Settings { v4, host_loopback: true, ..Settings::default() }
}

struct World {
    translator: Translator,
    nic: Nic,
    guest: Interface,
    sockets: SocketSet<'static>,
    began: Instant,
}

impl World {
    fn new() -> World {
        let mut nic = Nic::new(1500);
        let mut config = Config::new(EthernetAddress([2, 0, 0, 0, 0, 7]).into());
        config.random_seed = 7;
        let mut guest = Interface::new(config, &mut nic, Time::ZERO);
        guest.update_ip_addrs(|all| all.push(IpCidr::new(GUEST.into(), 24)).unwrap());
        let translator = Translator::new(&settings()).unwrap();
        World { translator, nic, guest, sockets: SocketSet::new(Vec::new()), began: Instant::now() }
    }

    fn turn_guest(&mut self) {
        let now = Time::from_micros(self.began.elapsed().as_micros() as i64);
        self.guest.poll(now, &mut self.nic, &mut self.sockets);
        while self.nic.sent.front().is_some_and(|frame| self.translator.from_guest(frame).is_ok()) {
            self.nic.sent.pop_front();
        }
    }

    fn turn(&mut self) {
        self.turn_guest();
        self.translator.turn(Some(Duration::from_millis(1))).unwrap();
        self.nic.received.extend(std::iter::from_fn(|| self.translator.to_guest()));
    }

    fn until(&mut self, what: &str, mut done: impl FnMut(&mut World) -> bool) {
        let end = Instant::now() + PATIENCE;
        while !done(self) {
            assert!(Instant::now() < end, "waited in vain for {what}");
            self.turn();
        }
    }
}

fn tcp_socket() -> tcp::Socket<'static> {
    let buffer = || tcp::SocketBuffer::new(vec![0; 1 << 20]);
    tcp::Socket::new(buffer(), buffer())
}

fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|i| (i / 7 + i / 251) as u8).collect()
}

#[test]
fn a_guest_that_takes_no_frames_loses_no_byte_and_costs_a_bounded_memory() {
    const BYTES: usize = 6_000_000;
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    let server = thread::spawn(move || listener.accept().unwrap().0.write_all(&pattern(BYTES)));
    let mut w = World::new();
    let client = w.sockets.add(tcp_socket());
    let socket = w.sockets.get_mut::<tcp::Socket>(client);
    socket.connect(w.guest.context(), (GATEWAY, port), 40_000).unwrap();
    let (mut came, mut most) = (Vec::new(), 0);
    let end = Instant::now() + PATIENCE;
    while came.len() < BYTES {
        assert!(Instant::now() < end, "{} of {BYTES} bytes", came.len());
        w.turn_guest();
        // For a while nobody looks: there is more on its way than fits.
        for _ in 0..4 {
            w.translator.turn(Some(Duration::ZERO)).unwrap();
        }
        let frames: Vec<_> = std::iter::from_fn(|| w.translator.to_guest()).collect();
        most = most.max(frames.iter().map(Vec::len).sum::<usize>());
        w.nic.received.extend(frames);
        w.turn_guest();
        let socket = w.sockets.get_mut::<tcp::Socket>(client);
        let _ = socket.recv(|bytes| {
            came.extend_from_slice(bytes);
            (bytes.len(), ())
        });
    }
    assert!(came == pattern(BYTES), "other bytes came");
    assert!(most > 100_000 && most <= 1 << 20, "{most} bytes waited");
    server.join().unwrap().unwrap();
}

#[test]
fn clients_of_the_host_reach_the_guest() {
    let mut w = World::new();
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let at = listener.local_addr().unwrap();
    w.translator.forward_tcp(listener, 80).unwrap();
    let service = w.sockets.add(tcp_socket());
    w.sockets.get_mut::<tcp::Socket>(service).listen(80).unwrap();
    let client = thread::spawn(move || {
        let mut heard = String::new();
        TcpStream::connect(at).unwrap().read_to_string(&mut heard).unwrap();
        heard
    });
    w.until("a client", |w| w.sockets.get::<tcp::Socket>(service).can_send());
    let socket = w.sockets.get_mut::<tcp::Socket>(service);
    assert_eq!(socket.remote_endpoint().unwrap().addr, GATEWAY.into());
    socket.send_slice(b"hello").unwrap();
    socket.close();
    w.until("the client's end", |_| client.is_finished());
    assert_eq!(client.join().unwrap(), "hello");
}

#[test]
fn datagrams_wake_whoever_polls_the_descriptor() {
    let mut w = World::new();
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let at = socket.local_addr().unwrap();
    w.translator.forward_udp(socket, 53).unwrap();
    let buffer = || udp::PacketBuffer::new(vec![udp::PacketMetadata::EMPTY; 4], vec![0; 4096]);
    let mut service = udp::Socket::new(buffer(), buffer());
    service.bind(53).unwrap();
    let service = w.sockets.add(service);
    // Greetings and what they bring about.
    for _ in 0..50 {
        w.turn();
    }
    assert_ne!(w.translator.timeout(), Some(Duration::ZERO));
    let readable = |w: &World, ms: u16| {
        let mut fds = [PollFd::new(w.translator.as_fd(), PollFlags::POLLIN)];
        poll(&mut fds, PollTimeout::from(ms)).unwrap() == 1
    };
    assert!(!readable(&w, 0));
    let client = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    client.send_to(b"question", at).unwrap();
    assert!(readable(&w, 1000));
    w.until("the question", |w| w.sockets.get::<udp::Socket>(service).can_recv());
    let service = w.sockets.get_mut::<udp::Socket>(service);
    let (question, from) = service.recv().map(|(q, from)| (q.to_vec(), from)).unwrap();
    assert_eq!(question, b"question");
    service.send_slice(b"answer", from).unwrap();
    client.set_nonblocking(true).unwrap();
    let mut room = [0; 100];
    let mut came = 0;
    w.until("the answer", |_| client.recv(&mut room).is_ok_and(|n| std::mem::replace(&mut came, n) == 0));
    assert_eq!(room[..came], *b"answer");
}

#[test]
fn frames_that_wait_are_bounded_and_make_a_turn_due() {
    let mut translator = Translator::new(&settings()).unwrap();
    let mut taken = 0;
    while translator.from_guest(&[0xff; 60]).is_ok() {
        taken += 1;
    }
    assert_eq!((taken, translator.timeout()), (256, Some(Duration::ZERO)));
    translator.turn(Some(Duration::ZERO)).unwrap();
    translator.turn(Some(Duration::ZERO)).unwrap();
    assert_eq!(translator.from_guest(&[0xff; 60]), Ok(()));
    let counted = translator.counters();
    assert_eq!((counted.frames_from_guest, counted.drops().map(|(_, n)| n).sum::<u64>()), (256, 256));
}

#[test]
fn a_guest_is_greeted_by_its_router() {
    use crate::wire::{self, Parsed, Transport};
    let v6 =
        Some(Subnet { guest: "2001:db8::7".parse().unwrap(), gateway: "2001:db8::1".parse().unwrap(), prefix_len: 64 });
    let mut translator = Translator::new(&Settings { v6, v4: None, mtu: 9000, ..Settings::default() }).unwrap();
    let frames: Vec<_> = std::iter::from_fn(|| translator.to_guest()).collect();
    let router = |frame: &Vec<u8>| match wire::parse(frame, frame.len()) {
        Ok(Parsed::Ip(p)) => {
            p.src == OUR_LINK_LOCAL.into() && matches!(p.transport, Transport::Icmp(h) if h.kind == 134)
        }
        _ => false,
    };
    assert_eq!(frames.iter().filter(|f| router(f)).count(), 1, "{frames:?}");
    // An advertisement has the prefix, and the MTU (RFC 4861 §4.6.4).
    let advertisement = frames.iter().find(|f| router(f)).unwrap();
    assert!(advertisement.windows(8).any(|w| w == [5, 1, 0, 0, 0, 0, 0x23, 0x28]), "{advertisement:?}");
}

#[test]
fn the_gateway_leads_to_the_loopback_only_if_that_is_wanted() {
    use crate::base::Endpoint;
    let to_host = |host_loopback| {
        let nat = parts(&Settings { host_loopback, ..settings() }, 7).common.nat;
        nat.to_host(Endpoint::new(GATEWAY.into(), 80)).addr
    };
    assert_eq!((to_host(true), to_host(false)), (Ipv4Addr::LOCALHOST.into(), GATEWAY.into()));
}

#[test]
fn settings_that_contradict_themselves_are_refused_in_words() {
    let refused = |settings: Settings| match Translator::new(&settings) {
        Err(e) if e.kind() == io::ErrorKind::InvalidInput => e.to_string(),
        Err(e) => panic!("{e:?}"),
        Ok(_) => panic!("{settings:?} was taken"),
    };
    let v4 = |guest: [u8; 4], gateway: [u8; 4], prefix_len| {
        let v4 = Some(Subnet { guest: guest.into(), gateway: gateway.into(), prefix_len });
        Settings { v4, ..Settings::default() }
    };
    let v6 = Some(Subnet { guest: Ipv6Addr::LOCALHOST, gateway: OUR_LINK_LOCAL, prefix_len: 64 });
    for (settings, expected) in [
        (Settings::default(), "the guest needs an address"),
        (Settings { mtu: 67, ..settings() }, "the MTU is 67"),
        (Settings { mtu: 1279, v6, ..settings() }, "1280 at least with IPv6"),
        (Settings { gateway_mac: [1; 6], ..settings() }, "01:01:01:01:01:01 is not the MAC"),
        (Settings { v6, ..settings() }, "::1 is not an address that a station can have"),
        (v4([192, 0, 2, 7], [192, 0, 2, 7], 24), "must be another address in the subnet of 192.0.2.7/24"),
        (v4([192, 0, 2, 7], [192, 0, 3, 1], 24), "the gateway 192.0.3.1 must be"),
        (v4([192, 0, 2, 7], [192, 0, 2, 1], 33), "give 32 at most"),
    ] {
        let said = refused(settings);
        assert!(said.contains(expected), "{said:?} does not say {expected:?}");
    }
}
