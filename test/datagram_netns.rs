//! UDP and echo between real network stacks: each test runs again in a user and network namespace of its own, where ping
//! sockets are allowed, routers can be built and a tap device has a real kernel behind it.

#[path = "common/datagrams.rs"]
mod datagrams;

use std::process::Command;

macro_rules! in_namespace {
    ($($name:ident)+) => {
        $(#[test]
        fn $name() {
            run_inside(stringify!($name));
        })+

        /// Called by [`run_inside`] in the namespace.
        #[test]
        #[ignore = "started by the other tests in a namespace"]
        fn inside() {
            match std::env::var(WHICH).expect("started by hand").as_str() {
                $(stringify!($name) => inner::$name(),)+
                other => panic!("no test {other}"),
            }
        }
    };
}

const WHICH: &str = "SPELT_TEST_INSIDE";

in_namespace! {
    d15_echo_is_answered_with_the_guests_identifier
    large_replies_are_fragmented
    errors_of_routers_quote_the_request
    errors_of_routers_quote_the_datagram
    oversized_datagrams_teach_the_path_mtu_or_are_fragmented
    d28_out_of_descriptors_old_flows_live
    segmentation_offload_works_with_a_real_kernel
    a_flow_is_in_the_queue_it_was_last_written_to
}

fn run_inside(name: &str) {
    let out = Command::new("timeout")
        .args(["30", "unshare", "-rn"])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "inside", "--ignored", "--nocapture"])
        .env(WHICH, name)
        .output()
        .expect("unshare(1) and timeout(1) are needed");
    let text = format!("{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
    assert!(out.status.success() && text.contains("1 passed"), "{text}");
}

mod inner {
    use std::net::UdpSocket;
    use std::os::fd::{AsFd, OwnedFd};
    use std::process::Command;
    use std::sync::mpsc;
    use std::time::{Duration, Instant as Wall};

    use mio::Interest;
    use mio::unix::SourceFd;
    use spelt::base::{Addr, DropReason, Endpoint, Kind, Token};
    use spelt::guest::mock::MockLink;
    use spelt::guest::reassembly::Reassembly;
    use spelt::guest::{Caps, Frame, ToGuest};
    use spelt::link::{Batch, Input, Tap, Tee};
    use spelt::sys::iov::Gather;
    use spelt::sys::{dgram, tap, tun};
    use spelt::udp;
    use spelt::wire::icmp::{ECHO_V4, ECHO_V6, message};
    use spelt::wire::vnet::VNET_LEN;
    use spelt::wire::{self, ETH_LEN, Gso, Offload, Packet, Parsed, Transport};

    use crate::datagrams::{PLAIN, World, addr, bytes, datagram, fields, gateway, guest};

    fn ip(args: &str) {
        assert!(Command::new("ip").args(args.split(' ')).status().unwrap().success(), "ip {args}");
    }

    fn sysctl(name: &str, value: &str) {
        std::fs::write(format!("/proc/sys/net/{name}"), value).unwrap();
    }

    fn host() {
        ip("link set lo up");
        sysctl("ipv4/ping_group_range", "0 0");
    }

    /// Runs `f` in a new network namespace on a thread of its own.
    fn beside<T: Send + 'static>(f: impl FnOnce() -> T + Send + 'static) -> std::thread::JoinHandle<T> {
        std::thread::spawn(move || {
            nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
            f()
        })
    }

    /// A router behind a veth pair: 10.1.0.2 and fd01::2 there, 10.1.0.1 and fd01::1 here. It knows a way to 10.2.0.0/16
    /// and fd02::/64, none to 10.3.0.0/16 and fd03::/64.
    struct Router {
        stop: mpsc::Sender<()>,
        thread: std::thread::JoinHandle<()>,
    }

    impl Router {
        fn new(mtu: u16) -> Router {
            host();
            let (stop, stopped) = mpsc::channel();
            let (tell, told) = mpsc::channel();
            let (go, ready) = mpsc::channel();
            let (up, is_up) = mpsc::channel();
            let thread = beside(move || {
                tell.send(nix::unistd::gettid()).unwrap();
                let () = ready.recv().unwrap();
                ip("link set lo up");
                ip("addr add 10.1.0.2/24 dev r1");
                ip("addr add fd01::2/64 dev r1 nodad");
                ip("link set r1 up");
                ip("neigh add fd01::1 lladdr 02:00:00:00:00:a0 dev r1");
                ip("route add 10.2.0.0/16 via 10.1.0.7");
                ip("route add fd02::/64 via fd01::7");
                sysctl("ipv4/ip_forward", "1");
                sysctl("ipv6/conf/all/forwarding", "1");
                // An error for every probe. Not a rate limit of 0: that empties the bucket route errors share with it.
                sysctl("ipv4/icmp_ratemask", "0");
                sysctl("ipv6/icmp/ratelimit", "0");
                up.send(()).unwrap();
                let _ = stopped.recv_timeout(Duration::from_secs(20));
            });
            let tid = told.recv().unwrap();
            // Fixed neighbours: discovery on a link that is just coming up may take seconds.
            ip("link add r0 address 02:00:00:00:00:a0 type veth peer name r1 address 02:00:00:00:00:a1");
            ip(&format!("link set r1 netns {tid}"));
            ip("addr add 10.1.0.1/24 dev r0");
            ip("addr add fd01::1/64 dev r0 nodad");
            ip(&format!("link set r0 mtu {mtu} up"));
            ip("neigh add fd01::2 lladdr 02:00:00:00:00:a1 dev r0");
            go.send(()).unwrap();
            is_up.recv().unwrap();
            ip("route add 10.2.0.0/16 via 10.1.0.2");
            ip("route add fd02::/64 via fd01::2");
            ip("route add 10.3.0.0/16 via 10.1.0.2");
            ip("route add fd03::/64 via fd01::2");
            answers("10.1.0.2");
            answers("fd01::2");
            Router { stop, thread }
        }

        fn stop(self) {
            self.stop.send(()).unwrap();
            self.thread.join().unwrap();
        }
    }

    /// Waits until the router refuses datagrams to a port nobody listens at: the link is up both ways.
    fn answers(router: &str) {
        let s = UdpSocket::bind(if router.contains(':') { "[::]:0" } else { "0.0.0.0:0" }).unwrap();
        s.connect((router, 9)).unwrap();
        s.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
        let end = Wall::now() + Duration::from_secs(5);
        loop {
            let _ = s.send(b"?");
            match s.recv(&mut [0; 4]) {
                Err(e) if e.kind() == std::io::ErrorKind::ConnectionRefused => return,
                _ => assert!(Wall::now() < end, "{router} does not answer"),
            }
        }
    }

    impl<L: ToGuest> World<L> {
        fn send(&mut self, frame: &[u8]) -> Result<(), DropReason> {
            let result = self.take(&Frame { head: frame, rest: &[], offload: Offload::NONE });
            self.flush();
            result
        }
    }

    impl World<MockLink> {
        fn plain() -> World<MockLink> {
            World::new(MockLink::new(PLAIN), udp::Config::default())
        }

        /// The next frame to the guest, within two seconds.
        fn next(&mut self) -> Vec<u8> {
            let end = Wall::now() + Duration::from_secs(2);
            while self.link.sent.is_empty() && Wall::now() < end {
                self.turn();
            }
            assert!(!self.link.sent.is_empty(), "nothing came to the guest");
            self.link.sent.remove(0).0
        }
    }

    fn echo(dst: Addr, ttl: u8, identifier: u16, seq: u16, body: &[u8]) -> Vec<u8> {
        let (i, s) = (identifier.to_be_bytes(), seq.to_be_bytes());
        let kind = if dst.is_v4() { ECHO_V4 } else { ECHO_V6 };
        let mut out = Vec::new();
        message(&mut out, &fields(dst, ttl), [kind, 0, 0, 0, i[0], i[1], s[0], s[1]], body);
        out
    }

    /// Type, code and what follows the first four bytes of an ICMP message with a right checksum.
    fn icmp_of(frame: &[u8]) -> (Packet, (u8, u8), &[u8]) {
        let Ok(Parsed::Ip(p)) = wire::parse(frame, frame.len()) else { panic!("not a whole packet") };
        let Transport::Icmp(h) = p.transport else { panic!("not ICMP") };
        let rest = &frame[p.payload..p.payload + p.payload_len];
        assert!(p.checksum_sum(frame, &Offload::NONE).unwrap().add(rest).is_valid());
        (p, (h.kind, h.code), rest)
    }

    pub fn d15_echo_is_answered_with_the_guests_identifier() {
        host();
        for v4 in [true, false] {
            let mut w = World::plain();
            // The second flow's identifier is taken by the first, so it is another on the host's side.
            for (dst, identifier) in [(gateway(v4), 77), (gateway(v4), 0), (gateway(!v4), 77)] {
                for (seq, len) in [(1, 0), (2, 56), (3, 1400)] {
                    w.send(&echo(dst, 64, identifier, seq, &bytes(len))).unwrap();
                    let f = w.next();
                    let (p, kind, rest) = icmp_of(&f);
                    assert_eq!(kind, if dst.is_v4() { (0, 0) } else { (129, 0) });
                    assert_eq!((p.src, p.dst), (dst, guest(dst.is_v4())));
                    assert_eq!(rest[..4], [identifier.to_be_bytes(), u16::to_be_bytes(seq)].concat());
                    assert_eq!(rest[4..], bytes(len));
                }
            }
            assert_eq!(w.icmp.len(), 3);
        }
    }

    pub fn large_replies_are_fragmented() {
        host();
        for (v4, len) in [(true, 3000), (false, 3000), (true, 65_507 - 20), (false, 65_000)] {
            let mut w = World::plain();
            w.send(&echo(gateway(v4), 64, 5, 6, &bytes(len))).unwrap();
            let mut reassembly = Reassembly::default();
            let whole = loop {
                let f = w.next();
                assert!(f.len() <= ETH_LEN + 1500);
                let Ok(Parsed::Fragment(part)) = wire::parse(&f, f.len()) else { panic!("no fragment") };
                let frame = Frame { head: &f, rest: &[], offload: Offload::NONE };
                if let Some(whole) = reassembly.add(&part, &frame, w.now()).unwrap() {
                    break whole;
                }
            };
            assert_eq!(icmp_of(&whole.frame).2[4..], bytes(len));
        }
    }

    pub fn errors_of_routers_quote_the_request() {
        let router = Router::new(1500);
        for (v4, target, far) in [(true, "10.3.0.9", "10.1.0.2"), (false, "fd03::9", "fd01::2")] {
            let mut w = World::plain();
            let routed = addr(if v4 { "10.2.0.9" } else { "fd02::9" });
            for seq in 1..4 {
                let sent = echo(routed, 1, 3, seq, &bytes(32));
                w.send(&sent).unwrap();
                let error = w.next();
                let (p, kind, rest) = icmp_of(&error);
                assert_eq!((kind, p.src), (if v4 { (11, 0) } else { (3, 0) }, addr(far)));
                assert_eq!(rest[4..], sent[ETH_LEN..]);
            }
            // Several under way at once, as traceroute does it.
            let sent = [echo(addr(target), 64, 4, 1, &bytes(32)), echo(addr(target), 64, 4, 2, &bytes(32))];
            for f in &sent {
                w.send(f).unwrap();
            }
            for f in &sent {
                let error = w.next();
                let (p, kind, rest) = icmp_of(&error);
                assert_eq!((kind, p.src, p.dst), (if v4 { (3, 0) } else { (1, 0) }, addr(far), guest(v4)));
                assert_eq!(rest[4..], f[ETH_LEN..]);
            }
        }
        router.stop();
    }

    pub fn errors_of_routers_quote_the_datagram() {
        let router = Router::new(1500);
        for (v4, far) in [(true, "10.1.0.2"), (false, "fd01::2")] {
            let mut w = World::plain();
            let (routed, unrouted) = if v4 { ("10.2.0.9", "10.3.0.9") } else { ("fd02::9", "fd03::9") };
            for (target, ttl, v4_kind, v6_kind) in [(routed, 1, (11, 0), (3, 0)), (unrouted, 64, (3, 0), (1, 0))] {
                let sent = datagram(5000, Endpoint::new(addr(target), 33_434 + u16::from(ttl)), ttl, b"probe");
                w.send(&sent).unwrap();
                let error = w.next();
                let (p, kind, rest) = icmp_of(&error);
                assert_eq!((kind, p.src), (if v4 { v4_kind } else { v6_kind }, addr(far)));
                assert_eq!(rest[4..], sent[ETH_LEN..]);
            }
            // A network this host has no route to: refused by the kernel at once.
            let nowhere = addr(if v4 { "10.9.0.1" } else { "fd09::1" });
            let sent = datagram(5000, Endpoint::new(nowhere, 9), 64, b"lost");
            assert_eq!(w.send(&sent).unwrap_err(), DropReason::HostSend);
            let error = w.next();
            let (p, kind, rest) = icmp_of(&error);
            assert_eq!((kind, p.src), (if v4 { (3, 0) } else { (1, 0) }, gateway(v4)));
            assert_eq!(rest[4..], sent[ETH_LEN..]);
        }
        router.stop();
    }

    pub fn oversized_datagrams_teach_the_path_mtu_or_are_fragmented() {
        let router = Router::new(1400);
        for (v4, target) in [(true, "10.1.0.2"), (false, "fd01::2")] {
            let mut w = World::plain();
            let sent = datagram(5001, Endpoint::new(addr(target), 9), 64, &bytes(1420));
            w.send(&sent).unwrap();
            let error = w.next();
            let (_, kind, rest) = icmp_of(&error);
            assert_eq!((kind, &rest[..4]), (if v4 { (3, 4) } else { (2, 0) }, &[0, 0, 5, 120][..]));
            assert_eq!(rest[4..], sent[ETH_LEN..][..rest.len() - 4]);
            // Staged runs of datagrams above the path MTU too.
            let before = w.udp.counters().dropped(DropReason::HostSend);
            for _ in 0..3 {
                let frame = Frame { head: &sent, rest: &[], offload: Offload::NONE };
                w.take(&frame).unwrap();
            }
            w.flush();
            assert_eq!(w.udp.counters().dropped(DropReason::HostSend), before + 3);
            assert_eq!(icmp_of(&w.next()).1, if v4 { (3, 4) } else { (2, 0) });
            // What a guest with a large link MTU sends is fragmented here: nobody listens there, which proves it arrived.
            w.send(&datagram(5002, Endpoint::new(addr(target), 9), 64, &bytes(4000))).unwrap();
            assert_eq!(icmp_of(&w.next()).1, if v4 { (3, 3) } else { (1, 4) });
        }
        router.stop();
    }

    pub fn d28_out_of_descriptors_old_flows_live() {
        host();
        let mut w = World::plain();
        let server = UdpSocket::bind("127.0.0.1:0").unwrap();
        server.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
        let port = server.local_addr().unwrap().port();
        use nix::sys::resource::{Resource, setrlimit};
        setrlimit(Resource::RLIMIT_NOFILE, 40, 40).unwrap();
        let mut refused = 0;
        for n in 0..60 {
            match w.send(&datagram(20_000 + n, Endpoint::new(gateway(true), port), 64, b"x")) {
                Ok(()) => assert_eq!(refused, 0),
                Err(reason) => {
                    assert_eq!(reason, DropReason::HostResources);
                    refused += 1;
                }
            }
        }
        assert!(refused > 0 && w.udp.len() > 5);
        w.send(&datagram(20_000, Endpoint::new(gateway(true), port), 64, b"still here")).unwrap();
        let mut buf = [0; 20];
        while server.recv(&mut buf).unwrap() == 1 {}
        assert_eq!(&buf[..10], b"still here");
    }

    pub fn segmentation_offload_works_with_a_real_kernel() {
        host();
        let server = UdpSocket::bind("127.0.0.1:0").unwrap();
        server.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        let port = server.local_addr().unwrap().port();
        let payload = bytes(1000 * 40 + 33);
        let (give, tap) = mpsc::channel();
        let expect = payload.clone();
        let guest_side = beside(move || {
            let (tap, s) = tap_and_socket(port, 1);
            give.send(tap).unwrap();
            ask_and_compare(&s, &expect);
        });
        let (fds, on) = tap.recv().unwrap();
        assert!(on.vnet_header && on.csum && on.uso, "{on:?}");
        let caps = Caps { csum: on.csum, tso: on.tso, uso: on.uso, mtu: 1500 };
        let mut w = World::new(Tap::new(fds, true, caps, Tee::default()), udp::Config::default());
        let token = mio::Token(Token::only(Kind::Link).to_usize());
        let registry = w.poll.registry();
        w.link.fds().iter().for_each(|fd| registry.register(&mut SourceFd(fd), token, Interest::READABLE).unwrap());

        let (mut batch, mut superframes) = (Batch::new(), 0);
        let echoer = std::thread::spawn(move || compare_and_answer(&server, &payload));
        let end = Wall::now() + Duration::from_secs(10);
        while !guest_side.is_finished() && Wall::now() < end {
            let mut more = w.turn();
            while more {
                batch.clear();
                w.link.receive(&mut batch).unwrap();
                for f in batch.frames() {
                    superframes += usize::from(f.offload.gso == Gso::Udp(1000));
                    let _ = w.take(&f);
                }
                w.flush();
                more = !batch.is_empty();
            }
        }
        echoer.join().unwrap();
        guest_side.join().unwrap();
        assert_eq!(superframes, 1);
        // Two USO frames and two fragments.
        assert_eq!(w.udp.counters().frames_to_guest, 4);
    }

    /// What several queues of a tap rely on the kernel for; and offloads switched on at the first hold for all.
    pub fn a_flow_is_in_the_queue_it_was_last_written_to() {
        const QUEUES: usize = 4;
        let ((fds, on), socket) = tap_and_socket(9, QUEUES as u8);
        assert!(fds.len() == QUEUES && on.vnet_header && on.csum && on.uso, "{on:?}");
        // What the kernel says by itself when an interface comes up.
        let mut room = vec![0; 1 << 17];
        std::thread::sleep(Duration::from_millis(50));
        fds.iter().for_each(|fd| while tap::read(fd.as_fd(), &mut room).is_ok() {});
        let (payload, answer) = (bytes(1000 * 40), from_gateway(9, 5555));
        for queue in [3, 0, 2, 1, 3] {
            assert!(tap::write(fds[queue].as_fd(), &[Gather::new(&[0; VNET_LEN]), Gather::new(&answer)]).is_ok());
            assert_eq!(socket.recv(&mut room).unwrap(), 2);
            let run = dgram::Run { at: 0, len: payload.len(), segment: 1000 };
            dgram::send_runs(socket.as_fd(), &payload, &[run]).unwrap();
            for (n, fd) in fds.iter().enumerate() {
                let got = tap::read(fd.as_fd(), &mut room).ok();
                assert_eq!(got.is_some_and(|len| len > payload.len()), n == queue, "queue {n}, not {queue}: {got:?}");
            }
        }
        // One pass reads them all.
        for (port, fd) in (6000..).zip(&fds) {
            let s = UdpSocket::bind(("192.0.2.7", port)).unwrap();
            tap::write(fd.as_fd(), &[Gather::new(&[0; VNET_LEN]), Gather::new(&from_gateway(9, port))]).unwrap();
            s.send_to(b"x", "192.0.2.1:9").unwrap();
        }
        let mut link = Tap::new(fds, true, Caps { csum: true, tso: true, uso: true, mtu: 1500 }, Tee::default());
        let mut batch = Batch::new();
        assert_eq!((link.receive(&mut batch).unwrap(), batch.frames().count()), (Input::Drained, QUEUES));
    }

    /// A datagram of two bytes from the gateway to the guest.
    fn from_gateway(port: u16, to: u16) -> Vec<u8> {
        let mut frame = datagram(to, Endpoint::new(gateway(true), port), 64, b"hi");
        let (l2, l3, l4) = (0, ETH_LEN + 12, ETH_LEN + 20);
        for (at, len) in [(l2, 6), (l3, 4), (l4, 2)] {
            // Sums do not change.
            let (a, b) = frame[at..at + 2 * len].split_at_mut(len);
            a.swap_with_slice(b);
        }
        frame
    }

    /// A tap with the guest's address in the namespace of this thread, and a socket connected through it.
    fn tap_and_socket(port: u16, queues: u8) -> ((Vec<OwnedFd>, tun::Offloads), UdpSocket) {
        let tap = tun::open("tap0", queues).unwrap();
        ip("link set tap0 address 02:02:02:02:02:02 mtu 1500 up");
        ip("addr add 192.0.2.7/24 dev tap0");
        ip("neigh add 192.0.2.1 lladdr 04:04:04:04:04:04 dev tap0");
        let s = UdpSocket::bind("192.0.2.7:5555").unwrap();
        s.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        s.connect(("192.0.2.1", port)).unwrap();
        (tap, s)
    }

    /// The guest's part: sends the payload in segments, gets the same twice, then one datagram above the MTU.
    fn ask_and_compare(s: &UdpSocket, payload: &[u8]) {
        let run = dgram::Run { at: 0, len: payload.len(), segment: 1000 };
        dgram::send_runs(s.as_fd(), payload, &[run]).unwrap();
        let mut buf = [0; 3000];
        for part in payload.chunks(1000).chain(payload.chunks(1000)).chain([&payload[..2500]]) {
            let n = s.recv(&mut buf).unwrap();
            assert_eq!(&buf[..n], part);
        }
    }

    /// The host's part.
    fn compare_and_answer(server: &UdpSocket, payload: &[u8]) {
        let mut buf = [0; 3000];
        for part in payload.chunks(1000) {
            let n = server.recv(&mut buf).unwrap();
            assert_eq!(&buf[..n], part);
        }
        server.connect(("127.0.0.1", 5555)).unwrap();
        let run = dgram::Run { at: 0, len: payload.len(), segment: 1000 };
        for _ in 0..2 {
            dgram::send_runs(server.as_fd(), payload, &[run]).unwrap();
            std::thread::sleep(Duration::from_millis(50));
        }
        server.send(&payload[..2500]).unwrap();
    }
}
