"""Traffic with which pasta once failed, on the wire and end to end; doc/regressions.md lists the reports."""

import contextlib
import json
import os
import socket
import struct
import subprocess
import time

import lab
from lab.packets import checksum, ipv4
from support import Case, V4, both, limit, read_exactly
from test_tcp import RESET_ON_CLOSE

STRANGER = "192.0.2.77"


class Wire(Case):
    """A packet socket of the guest, for what its kernel would not send."""

    options = ()

    def setUp(self):
        self.guest.run("ping", "-c1", "-W2", lab.GATEWAY4)
        words = self.guest.output("ip", "neigh", "show", lab.GATEWAY4).split()
        self.gateway = bytes.fromhex(words[words.index("lladdr") + 1].replace(":", ""))
        self.raw = self.closing(self.guest.socket(socket.AF_PACKET, socket.SOCK_RAW))
        self.raw.bind(("eth0", 3))
        self.mac = self.raw.getsockname()[4]
        self.raw.settimeout(3)

    def send(self, packet, kind=0x0800):
        self.raw.send(self.gateway + self.mac + struct.pack("!H", kind) + packet)

    def receive(self, wanted, seconds=3):
        """The first frame from the gateway of which `wanted` says something true, and that."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            self.raw.settimeout(max(0.01, deadline - time.monotonic()))
            with contextlib.suppress(TimeoutError):
                frame, (_, _, direction, *_) = self.raw.recvfrom(70_000)
                if direction != socket.PACKET_OUTGOING and (found := wanted(frame)):
                    return frame, found
        return None, None

    def segment(self, port, target, seq, ack, flags, payload=b"", options=b""):
        header = struct.pack("!HHIIBBHHH", port, target, seq, ack, (20 + len(options)) // 4 << 4, flags, 64240, 0, 0)
        self.send(ipv4(STRANGER, lab.REMOTE4, 6, header + options + payload))

    def segment_to(self, port):
        """What is wanted of a frame: the TCP segment to this port as (seq, ack, flags, payload, options)."""
        def wanted(frame):
            if frame[12:14] != b"\x08\0" or frame[23] != 6 or frame[30:34] != socket.inet_aton(STRANGER):
                return None
            packet = frame[14:14 + int.from_bytes(frame[16:18], "big")]
            tcp = packet[(packet[0] & 15) * 4:]
            _, to, seq, ack, offset, flags = struct.unpack("!HHIIBB", tcp[:14])
            return (seq, ack, flags, tcp[offset // 16 * 4:], tcp[20:offset // 16 * 4]) if to == port else None
        return wanted

    def test_b105_echo_with_identifier_0(self):
        for identifier in (0, 65535):
            message = struct.pack("!BBHHH", 8, 0, 0, identifier, 7) + b"payload"
            message = message[:2] + struct.pack("!H", checksum(message)) + message[4:]
            self.send(ipv4(lab.HOST4, lab.REMOTE4, 1, message))
            frame, _ = self.receive(lambda f: f[12:14] == b"\x08\0" and f[23] == 1 and f[34] == 0)
            self.assertIsNotNone(frame, identifier)
            self.assertEqual(frame[38:49], struct.pack("!HH", identifier, 7) + b"payload")

    def test_d1_segment_size_below_4(self):
        for size in (0, 1, 2, 3):
            port = 7000 + size
            with self.lab.remote.listen(lab.REMOTE4) as listener:
                target = listener.getsockname()[1]
                self.segment(port, target, 1000, 0, 2, options=struct.pack("!BBH", 2, 4, size))
                _, (seq, ack, flags, _, _) = self.receive(self.segment_to(port))
                self.assertEqual((ack, flags & 0x17), (1001, 0x12))
                self.segment(port, target, 1001, seq + 1, 0x10)
                far = self.closing(listener.accept()[0])
            far.sendall(b"data of the peer")
            _, (_, _, _, payload, _) = self.receive(lambda f, w=self.segment_to(port): (s := w(f)) and s[3].rstrip(b"\0") and s)
            self.assertTrue(b"data of the peer".startswith(payload) and payload)

    def test_d2_no_window_scale_without_the_guests(self):
        with self.lab.remote.listen(lab.REMOTE4) as listener:
            self.segment(7010, listener.getsockname()[1], 1000, 0, 2, options=struct.pack("!BBH", 2, 4, 1460))
            _, (_, _, flags, _, options) = self.receive(self.segment_to(7010))
        self.assertEqual(flags & 0x17, 0x12)
        self.assertEqual(options[:2], b"\2\4")
        self.assertNotIn(3, options[4:5])

    def test_d3_syn_ack_again_is_the_same(self):
        with self.lab.remote.listen(lab.REMOTE4) as listener:
            self.segment(7011, listener.getsockname()[1], 1000, 0, 2)
            first, _ = self.receive(self.segment_to(7011))
            again, _ = self.receive(self.segment_to(7011))
        # All but the identification and the sum of the IP header.
        self.assertEqual(first[34:], again[34:])

    def test_b153_d3_syn_is_sent_again(self):
        """An inbound connection, and a guest that misses the first SYN: nobody has the address yet."""
        with self.another_guest("-t", "8085") as guest:
            guest.run("ip link set eth0 arp off && ip link set eth0 address 02:00:00:00:00:77")
            raw = self.closing(guest.socket(socket.AF_PACKET, socket.SOCK_RAW))
            raw.bind(("eth0", 0x0800))
            client = self.closing(self.lab.remote.connect(lab.HOST4, 8085))
            syns = []
            while len(syns) < 2:
                frame = raw.recv(2000)
                if frame[23] == 6 and frame[47] & 0x17 == 2:
                    # Ports, numbers, flags and window; the timestamp, and with it the checksum, is another.
                    syns.append(frame[34:50])
            self.assertEqual(syns[0], syns[1])
            client.close()

    def test_d5_hop_by_hop_header_before_udp(self):
        server = self.closing(self.lab.remote.bind(lab.REMOTE6))
        datagram = struct.pack("!HHHH", 7012, server.getsockname()[1], 16, 0) + b"question"
        source, target = (socket.inet_pton(socket.AF_INET6, a) for a in (lab.HOST6, lab.REMOTE6))
        pseudo = source + target + struct.pack("!II", len(datagram), 17)
        datagram = datagram[:6] + struct.pack("!H", checksum(pseudo + datagram)) + datagram[8:]
        hop_by_hop = bytes((17, 0, 1, 4, 0, 0, 0, 0))
        self.send(struct.pack("!IHBB", 6 << 28, 8 + len(datagram), 0, 64) + source + target + hop_by_hop + datagram, 0x86DD)
        self.assertEqual(server.recv(100), b"question")

    def test_d9_reset_outside_of_the_window(self):
        with self.lab.remote.listen(lab.REMOTE4) as listener:
            target = listener.getsockname()[1]
            self.segment(7013, target, 1000, 0, 2)
            _, (seq, *_) = self.receive(self.segment_to(7013))
            self.segment(7013, target, 1001, seq + 1, 0x10)
            far = self.closing(listener.accept()[0])
        self.segment(7013, target, 1001 + (1 << 30), 0, 4)
        far.sendall(b"alive")
        self.assertIsNotNone(self.receive(lambda f: (s := self.segment_to(7013)(f)) and s[3].startswith(b"alive"))[0])

    def test_d23_data_with_the_last_ack_of_the_handshake(self):
        with self.lab.remote.listen(lab.REMOTE4) as listener:
            target = listener.getsockname()[1]
            self.segment(7014, target, 1000, 0, 2)
            _, (seq, *_) = self.receive(self.segment_to(7014))
            self.segment(7014, target, 1001, seq + 1, 0x18, b"early")
            far = self.closing(listener.accept()[0])
        far.settimeout(3)
        self.assertEqual(read_exactly(far, 5), b"early")

    def test_d29_wrong_ip_version(self):
        server = self.closing(self.lab.remote.bind(lab.REMOTE4))
        server.settimeout(0.3)
        packet = bytearray(ipv4(lab.HOST4, lab.REMOTE4, 17, struct.pack("!HHHH", 7015, server.getsockname()[1], 9, 0) + b"x"))
        for version in (0x55, 0x65):
            packet[0] = version
            packet[10:12] = b"\0\0"
            packet[10:12] = struct.pack("!H", checksum(packet[:20]))
            self.send(bytes(packet))
        with self.assertRaises(TimeoutError):
            server.recv(10)


class Tcp(Case):
    options = ("-t", "8086-8087")

    def shark(self, path, display):
        shown = self.lab.call(["tshark", "-r", path, "-Y", display, "-T", "fields", "-e", "frame.number"])
        return len(shown.stdout.split())

    def test_b114_nothing_follows_a_short_exchange(self):
        path = self.lab.file("pcap")
        with self.another_guest("-t", "8088", "-p", path) as guest:
            for _ in range(3):
                client, served, _ = self.inbound(self.lab.remote, lab.HOST4, 8088, guest=guest)
                near, far = self.pair(self.lab.remote, lab.REMOTE4, guest=guest)
                for one, other in ((client, served), (near, far)):
                    self.assert_connected(one, other)
                    one.close()
                    self.assertEqual(other.recv(1), b"")
                    other.close()
            time.sleep(1.5)
        self.assertGreater(self.shark(path, "tcp.flags.fin == 1"), 11)
        self.assertEqual(self.shark(path, "tcp.analysis.retransmission || tcp.analysis.duplicate_ack"), 0)

    def test_p22146_each_segment_has_ack_syn_or_rst(self):
        path = self.lab.file("pcap")
        with self.another_guest("-t", "8088", "-p", path) as guest:
            near, far = self.pair(self.lab.remote, lab.REMOTE4, guest=guest)
            far.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
            far.close()
            with self.assertRaises(ConnectionResetError):
                near.recv(1)
            with self.assertRaises(ConnectionRefusedError):
                guest.connect(lab.REMOTE4, 9)
            with contextlib.suppress(ConnectionResetError):
                client = self.closing(self.lab.remote.connect(lab.HOST4, 8088))
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
                client.close()
            time.sleep(0.2)
        self.assertGreater(self.shark(path, "tcp.flags.reset == 1"), 1)
        self.assertEqual(self.shark(path, "tcp && !(tcp.flags.ack == 1) && !(tcp.flags.syn == 1) && !(tcp.flags.reset == 1)"), 0)

    def test_d4_no_duplicate_acks_on_a_long_path(self):
        path = self.lab.file("pcap")
        with self.lab.relay(25), self.another_guest("-p", path) as guest:
            near, far = self.pair(self.lab.far, V4.slow, guest=guest)
            data = bytes(3_000_000)
            with Sender(near, data):
                self.assertEqual(len(read_exactly(far, len(data))), len(data))
        self.assertLessEqual(self.shark(path, "eth.src == 9a:55:9a:55:9a:55 && tcp.analysis.duplicate_ack"), 2)

    @limit(60)
    def test_upstream_2026_05_short_round_trips(self):
        """As fast as the host's own connections, within a factor that leaves room for the machine's other work."""
        arguments = ("--connect", f"{V4.slow}:5996", "--send", 60_000_000, "--seconds", 20)
        took = {}
        with self.lab.relay(0.15):
            for name, where in (("host", self.lab.host), ("guest", self.guest)):
                with self.lab.service(self.lab.far, "stream", "--listen", f"{V4.slow}:5996", "--send", 60_000_000,
                                      "--seconds", 20) as server:
                    began = time.monotonic()
                    self.lab.traffic(where, "stream", *arguments)
                    took[name] = time.monotonic() - began
                    self.assertEqual(server.result()["streams"][0]["received"], 60_000_000)
        self.assertLess(took["guest"], 4 * took["host"] + 0.5, took)

    @both
    def test_b207_p24219_p23517_receiver_that_fills_up(self, net):
        """From the host's loopback, into a guest that reads late."""
        client, served, _ = self.inbound(self.lab.host, net.loopback, 8086)
        data = os.urandom(1 << 20) * 24
        with Sender(client, data):
            for _ in range(4):
                time.sleep(0.25)
                self.assertEqual(len(read_exactly(served, 1 << 20)), 1 << 20)
            self.assertEqual(read_exactly(served, 20 << 20), data[4 << 20:])

    @both
    def test_p23686_b94_no_processor_time_with_a_full_receiver(self, net):
        """The client has half-closed, and the guest does not read: events that change nothing must not be asked for."""
        for where, address in ((self.lab.remote, net.host), (self.lab.host, net.loopback)):
            client, served, _ = self.inbound(where, address, 8086)
            client.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                while True:
                    client.send(bytes(1 << 20))
                    time.sleep(0.01)
            client.shutdown(socket.SHUT_WR)
            self.assertIdle()
            served.close()
            client.close()

    @both
    def test_upstream_2025_12_errors_on_inbound_connections(self, net):
        for address, where in ((net.loopback, self.lab.host), (net.host, self.lab.remote)):
            for linger in (False, True):
                for _ in range(20):
                    with contextlib.suppress(ConnectionError):
                        client = self.closing(where.connect(address, 8087))
                        if linger:
                            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
                        client.sendall(b"x")
                        client.close()
        self.assert_connected(*self.inbound(self.lab.host, net.loopback, 8086)[:2])

    @both
    def test_p24045_services_on_the_guests_loopback_stay_inside(self, net):
        with self.guest.listen(net.loopback, 8087) as listener:
            for where, address in ((self.lab.host, net.loopback), (self.lab.remote, net.host)):
                with contextlib.suppress(ConnectionError):
                    client = self.closing(where.connect(address, 8087))
                    client.sendall(b"anyone?")
                    self.assertEqual(client.recv(1), b"")
            listener.settimeout(0.2)
            with self.assertRaises(TimeoutError):
                listener.accept()

    @both
    def test_b217_source_is_the_gateway_of_the_option(self, net):
        gateways = {"v4": ["-g", "192.0.2.99"], "v6": ["-g", "2001:db8:1::99"]}[net.name]
        with self.another_guest("-t", "8089", *gateways) as guest:
            *_, peer = self.inbound(self.lab.host, net.host, 8089, guest=guest)
        self.assertEqual(peer[0].removeprefix("::ffff:"), gateways[1])

    def assertIdle(self):
        time.sleep(0.3)
        before = lab.cpu_seconds(self.guest.translator())
        time.sleep(0.7)
        self.assertLess(lab.cpu_seconds(self.guest.translator()) - before, 0.05)


class Udp(Case):
    options = ("-u", "4462-4463")
    assertIdle = Tcp.assertIdle

    def test_b209_upstream_2025_05_multicast_goes_out_once(self):
        server = self.closing(self.lab.remote.socket(socket.AF_INET, socket.SOCK_DGRAM))
        server.bind(("239.1.2.9", 4462))
        with self.lab.remote.entered():
            index = socket.if_nametoindex("eth0")
        server.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP,
                          struct.pack("=4s4si", socket.inet_aton("239.1.2.9"), b"\0\0\0\0", index))
        member = self.closing(self.guest.bind("0.0.0.0", 4462))
        member.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP,
                          struct.pack("=4s4s", socket.inet_aton("239.1.2.9"), b"\0\0\0\0"))
        member.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_LOOP, 0)
        member.sendto(b"once", ("239.1.2.9", 4462))
        self.assertEqual(server.recv(100), b"once")
        for one in (server, member):
            one.settimeout(0.3)
            with self.assertRaises(TimeoutError):
                one.recv(100)
        self.assertIdle()

    @both
    def test_b95_errors_are_drained(self, net):
        """Answers to a client that is gone, and questions to a port that nobody has."""
        inner = self.closing(self.guest.bind(net.any, 4462))
        with self.lab.remote.socket(net.af, socket.SOCK_DGRAM) as client:
            client.connect((net.host, 4462))
            client.send(b"question")
            _, peer = inner.recvfrom(100)
        outer = self.closing(self.guest.socket(net.af, socket.SOCK_DGRAM))
        for _ in range(20):
            for one, target in ((inner, peer), (outer, (net.remote, 4499))):
                with contextlib.suppress(ConnectionRefusedError):
                    one.sendto(b"anyone?", target)
            time.sleep(0.005)
        self.assertIdle()
        self.assert_served(net, net.host)

    def assert_served(self, net, address, port=4463, guest=None):
        server = self.closing((guest or self.guest).bind(net.any, port))
        client = self.closing(self.lab.remote.socket(net.af, socket.SOCK_DGRAM))
        client.sendto(b"question", (address, port))
        server.sendto(b"answer", server.recvfrom(100)[1])
        data, source = client.recvfrom(100)
        self.assertEqual((data, source[0]), (b"answer", address))
        server.close()

    @both
    def test_b99_each_address_of_the_host_answers_for_itself(self, net):
        second = {"v4": "192.0.2.3/24", "v6": "2001:db8:1::3/64"}[net.name]
        self.lab.ip("host", f"addr add {second} dev eth0" + (" nodad" if net.name == "v6" else ""))
        self.addCleanup(subprocess.run, ["ip", "-netns", f"{self.lab.name}host", "addr", "del", second, "dev", "eth0"],
                        check=False)
        for address in (net.host, second.split("/")[0]):
            self.assert_served(net, address)

    def test_link_local_client_on_an_interface_that_is_not_the_template(self):
        self.lab.ip("host", f"link add extra0 type veth peer name extra0 netns {self.lab.name}remote",
                    "addr add fe80::aa/64 dev extra0 nodad", "link set extra0 up")
        self.addCleanup(self.lab.ip, "host", "link del extra0")
        self.lab.ip("remote", "addr add fe80::bb/64 dev extra0 nodad", "link set extra0 up")
        links = json.loads(self.lab.call(["ip", "-netns", f"{self.lab.name}remote", "-json", "link"]).stdout)
        scope = next(link["ifindex"] for link in links if link["ifname"] == "extra0")
        # A machine's link-local address is known once it has used it.
        interface = self.guest.interface()
        self.guest.run(f"ip addr add fe80::cc/64 dev {interface} nodad")
        self.addCleanup(self.guest.run, f"ip addr del fe80::cc/64 dev {interface}")
        self.guest.run("ping", "-c1", "-W1", "-I", f"fe80::cc%{interface}", f"ff02::1%{interface}", check=False)
        server = self.closing(self.guest.bind("::", 4463))
        client = self.closing(self.lab.remote.socket(socket.AF_INET6, socket.SOCK_DGRAM))
        client.settimeout(5)
        client.sendto(b"question", ("fe80::aa", 4463, 0, scope))
        server.settimeout(5)
        server.sendto(b"answer", server.recvfrom(100)[1])
        data, source = client.recvfrom(100)
        self.assertEqual((data, source[0].split("%")[0], source[3]), (b"answer", "fe80::aa", scope))

    @both
    def test_p23003_any_address_may_be_bound(self, net):
        name = {"v4": "net.ipv4.ip_nonlocal_bind", "v6": "net.ipv6.ip_nonlocal_bind"}[net.name]
        self.lab.host.sysctl(name, 1)
        self.addCleanup(self.lab.host.sysctl, name, 0)
        with self.another_guest("-t", "8089", "-u", "8089") as guest:
            _, served = self.pair(self.lab.remote, net.remote, guest=guest)
            self.assertEqual(served.getpeername()[0], net.host)
            self.assert_connected(*self.inbound(self.lab.remote, net.host, 8089, guest=guest)[:2])
            self.assert_served(net, net.host, 8089, guest)
            with self.lab.remote.bind(net.remote) as server:
                client = self.closing(guest.bind(net.any, 4464))
                client.sendto(b"question", server.getsockname()[:2])
                self.assertEqual(server.recvfrom(100)[1][:2], (net.host, 4464))


class Names(Case):
    def test_b102_resolver_of_the_option(self):
        options = ("--dns-forward", "169.254.1.1", "--dns-host", "127.0.0.5")
        with lab.Dns(self.lab.host, "127.0.0.5") as resolver, self.another_guest(*options) as guest:
            asker = self.closing(guest.bind("0.0.0.0"))
            asker.sendto(b"\x12\x34\1\0\0\1\0\0\0\0\0\0\1x\4test\0\0\1\0\1", ("169.254.1.1", 53))
            self.assertEqual(asker.recvfrom(500)[1], ("169.254.1.1", 53))
        self.assertEqual([name for name, _ in resolver.questions], ["x.test"])

    def test_upstream_2024_07_names_by_tcp_and_tls(self):
        options = ("--dns-forward", "169.254.1.1", "--dns-host", "127.0.0.5", "--no-map-gw")
        with self.another_guest(*options) as guest:
            for port in (53, 853):
                with self.lab.host.listen("127.0.0.5", port) as listener:
                    near = self.closing(guest.connect("169.254.1.1", port, timeout=3))
                    self.assert_connected(near, self.closing(listener.accept()[0]))

    @both
    def test_d14_gateway_is_itself_without_the_map(self, net):
        with self.another_guest("--no-map-gw") as guest, self.lab.host.listen(net.loopback) as listener:
            with self.assertRaises(ConnectionRefusedError):
                guest.connect(net.gateway, listener.getsockname()[1])
            self.assert_connected(*self.pair(self.lab.remote, net.gateway, guest=guest))


class Sender:
    """Sends in a process of its own, so that the test can read at the same time."""

    def __init__(self, stream, data):
        self.stream, self.data = stream, data

    def __enter__(self):
        self.pid = os.fork()
        if self.pid == 0:
            try:
                self.stream.settimeout(20)
                self.stream.sendall(self.data)
            finally:
                # Whatever happened: the laboratory is the parent's.
                os._exit(0)
        return self

    def __exit__(self, *_):
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, 9)
        os.waitpid(self.pid, 0)
