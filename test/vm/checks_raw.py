"""For clients without a system behind them: packets that no kernel would send, the first packet of each port, and what
is answered soon whatever else goes on."""

import contextlib
import socket
import sys
import time

import lab
import packets
import world
from client import BULK, MAC, Connection, inbound
from packets import ACK, ARP, FIN, PSH, RST, TCP
from support import both, read_to_end
from world import Case


class Tcp(Case):
    """What no kernel's TCP would send, or not at a given moment."""

    def answered(self, count=1000, **more):
        """A connection to a server that sends so many bytes: what came of them."""
        client = self.client()
        with self.lab.remote.listen(lab.REMOTE4) as listener:
            stream = Connection(client, lab.REMOTE4, listener.getsockname()[1], **more).open()
            far = self.closing(listener.accept()[0])
            far.sendall(b"x" * count)
            self.assertEqual(stream.read(count), b"x" * count)
        return stream

    def test_d1_mss_of_0(self):
        self.answered(options=b"\2\4\0\0")

    def test_d1_mss_of_1(self):
        self.answered(options=b"\2\4\0\1")

    def test_d1_mss_of_2(self):
        self.answered(options=b"\2\4\0\2")

    def test_d1_mss_of_3(self):
        self.answered(options=b"\2\4\0\3")

    def test_options_that_lie_about_their_lengths(self):
        for options in (b"\2\0\0\0", b"\2\1\0\0", b"\2\xff\0\0", b"\3\xff\0\0", b"\2\4\xff\xff", b"\1\1\1\2"):
            self.answered(options=options)

    def test_d2_no_window_scale_unless_offered(self):
        self.assertNotIn(3, packets.tcp_options(self.answered().syn.options))
        self.assertIn(3, packets.tcp_options(self.answered(options=b"\2\4\5\xb4\3\3\7").syn.options))

    @both
    def test_d23_data_with_the_end_of_the_handshake(self, net):
        client = self.client()
        with self.lab.remote.listen(net.remote) as listener:
            stream = Connection(client, net.remote, listener.getsockname()[1]).open(data=b"at once")
            far = self.closing(listener.accept()[0])
        far.settimeout(5)
        self.assertEqual(far.recv(100), b"at once")
        client.expect("acknowledgement", lambda p: stream.ours(p) and p.ack == stream.seq)

    def test_segment_size_of_the_program(self):
        for mtu, mss4, mss6 in ((1500, 1460, 1440), (1280, 1240, 1220)):
            client = self.client("-m", str(mtu))
            for remote, mss in ((lab.REMOTE4, mss4), (lab.REMOTE6, mss6)):
                with self.lab.remote.listen(remote) as listener:
                    stream = Connection(client, remote, listener.getsockname()[1]).open()
                offered = int.from_bytes(packets.tcp_options(stream.syn.options)[2], "big")
                self.assertLessEqual(offered, mss)
                self.assertGreater(offered, mss - 20)

    def test_segment_of_no_connection_is_reset(self):
        client = self.client()
        stream = Connection(client, lab.REMOTE4, 8001)
        stream.ack = 12345
        stream.transmit(ACK, b"data")
        reset = client.expect("reset", lambda p: stream.ours(p) and p.flags & RST)
        self.assertEqual(reset.seq, 12345)

    @both
    def test_guest_that_refuses(self, net):
        """A reset for the SYN reaches who connected."""
        client = self.client("-t", "8001")
        client.assert_served()
        with self.lab.remote.connect(net.host, 8001) as stream:
            syn, _ = inbound(client, 8001)
            client.send_ip(syn.source, TCP, packets.tcp(8001, syn.source_port, 0, syn.seq + 1, RST | ACK))
            with self.assertRaises(ConnectionResetError):
                stream.recv(1)

    @both
    def test_guest_that_has_said_nothing_yet(self, net):
        """It is asked for, and when it has answered it need not wait for the SYN to be sent again."""
        client = self.client("-t", "8001")
        with self.lab.remote.connect(net.host, 8001):
            began = time.monotonic()
            client.expect("SYN for the guest alone", lambda p: p.protocol == TCP and p.to_mac == MAC, 3)
            self.assertLess(time.monotonic() - began, 0.5)

    @both
    def test_guest_that_is_slow_to_accept(self, net):
        """What was sent meanwhile is there, and the SYN is not another one (D3)."""
        client = self.client("-t", "8001")
        client.assert_served()
        with self.lab.remote.connect(net.host, 8001) as stream:
            stream.sendall(b"early")
            first, _ = inbound(client, 8001)
            again, near = inbound(client, 8001, seconds=4)
            self.assertEqual(first.seq, again.seq)
            near.accept(again)
            self.assertEqual(near.read(5), b"early")

    @both
    def test_d26_half_close_before_the_guest_accepts(self, net):
        """The client's question and its end are there when the guest answers, and its answer arrives."""
        client = self.client("-t", "8001")
        client.assert_served()
        for where, address in ((self.lab.remote, net.host), (self.lab.host, net.loopback)):
            with where.connect(address, 8001) as stream:
                stream.sendall(b"question")
                stream.shutdown(socket.SHUT_WR)
                syn, near = inbound(client, 8001)
                time.sleep(0.2)
                near.accept(syn)
                self.assertEqual(near.read(8), b"question")
                near.read_end()
                near.transmit(ACK | PSH, b"answer")
                near.transmit(ACK | FIN)
                self.assertEqual(read_to_end(stream), b"answer")


class Ports(Case):
    """Inbound ports, as far as the guest's SYN: what goes through them is for the real guest."""

    def assert_leads(self, client, address, port, inner, where=None):
        with (where or self.lab.host).connect(address, port):
            inbound(client, inner)

    @both
    def test_range_to_another_range(self, net):
        client = self.client("-t", "5201-5204:6201-6204")
        client.assert_served()
        for nth in range(4):
            self.assert_leads(client, net.loopback, 5201 + nth, 6201 + nth)

    @both
    def test_all_but_some(self, net):
        """Ports that others have, and those that need a privilege, are left out silently."""
        with self.lab.host.listen(net.any, 7003):
            client = self.client("-t", "all,~7001,~7010-7012")
            client.assert_served()
            for port in (1024, 7000, 7002, 7009, 7013, 9999):
                self.assert_leads(client, net.loopback, port, port)
                self.assert_leads(client, net.host, port, port, self.lab.remote)
            for port in (7001, 7010, 7012):
                with self.assertRaises(ConnectionRefusedError):
                    self.lab.host.connect(net.loopback, port)
            # The range that the host's own connections use is not among them.
            with self.assertRaises(ConnectionRefusedError):
                self.lab.host.connect(net.loopback, 20_000)

    @both
    def test_all_of_udp_but_some(self, net):
        client = self.client("-u", "all,~7001")
        client.assert_served()
        with self.lab.remote.socket(net.af, socket.SOCK_DGRAM) as sender:
            for port in (7001, 1024, 7002, 9999):
                sender.sendto(b"datagram", (net.host, port))
        came = [client.expect("datagram", lambda p: p.is_udp() and p.data == b"datagram") for _ in range(3)]
        self.assertEqual([packet.target_port for packet in came], [1024, 7002, 9999])

    def test_one_address(self):
        client = self.client("-t", f"{lab.HOST4}/8001", "-t", f"[{lab.HOST6}]/8002")
        client.assert_served()
        self.assert_leads(client, lab.HOST4, 8001, 8001, self.lab.remote)
        self.assert_leads(client, lab.HOST6, 8002, 8002, self.lab.remote)
        for address, port in (("127.0.0.1", 8001), ("::1", 8001), ("::1", 8002), (lab.HOST4, 8002)):
            with self.assertRaises(ConnectionRefusedError):
                self.lab.host.connect(address, port)

    def test_port_in_use(self):
        with self.lab.host.listen("127.0.0.1", 8001):
            argv = self.lab.program.vm(["-f", "--socket", world.socket_path(self.lab), "-t", "8001"])
            done = self.lab.call(self.lab.as_user(argv), check=False)
        self.assertEqual(done.returncode, 1)
        self.assertRegex(done.stderr, r"8001.*(Address already in use|EADDRINUSE)")


class Gateway(Case):
    """Whom the gateway's address means."""

    @both
    def test_gateway_is_the_host(self, net):
        self.assert_heard_by(net, self.client(), self.lab.host, net.loopback)

    @both
    def test_no_map_gw(self, net):
        self.assert_heard_by(net, self.client("--no-map-gw"), self.lab.remote, net.gateway)

    def assert_heard_by(self, net, client, where, address):
        port = 8053
        with self.lab.host.bind(net.loopback, port) as host, self.lab.remote.bind(net.gateway, port) as remote:
            client.send_udp(net.gateway, port, b"question")
            heard, deaf = (host, remote) if where is self.lab.host else (remote, host)
            self.assertEqual(heard.getsockname()[0], address)
            heard.settimeout(5)
            self.assertEqual(heard.recv(100), b"question")
            deaf.settimeout(0.3)
            with self.assertRaises(TimeoutError):
                deaf.recv(100)


class Learning(Case):
    """Which hardware address inbound traffic goes to."""

    OTHER = bytes.fromhex("525400aabbcc")

    def setUp(self):
        super().setUp()
        self.one = self.client("-t", "8001")
        self.one.assert_served()

    def send_arp(self, mac, length=28):
        """The first bytes of a question from this hardware address, with the guest's address."""
        question = packets.arp(1, mac, lab.HOST4, bytes(6), lab.GATEWAY4)
        self.one.send(packets.ethernet(packets.BROADCAST, mac, ARP, question[:length]))
        # Until it has been seen: not everything is answered.
        time.sleep(0.2)

    def assert_leads_to(self, mac):
        with self.lab.remote.connect(lab.HOST4, 8001):
            self.assertEqual(inbound(self.one, 8001)[0].to_mac, mac)

    def test_arp_tells(self):
        self.send_arp(self.OTHER)
        self.assert_leads_to(self.OTHER)

    def test_arp_that_is_cut_short_tells_nothing(self):
        for length in (27, 14, 8, 0):
            self.send_arp(self.OTHER, length)
            self.assert_leads_to(MAC)

    def test_frames_under_the_programs_own_address_tell_nothing(self):
        """Something on the way sends back what the program said."""
        ours = self.one.resolve(4)
        self.send_arp(ours)
        self.assert_leads_to(MAC)
        echo = packets.ip(lab.HOST4, lab.GATEWAY4, packets.ICMP, packets.echo(4, 77, 1))
        self.one.send(packets.ethernet(ours, ours, packets.IPV4, echo))
        time.sleep(0.2)
        self.assert_leads_to(MAC)


class SlowReader:
    """Reads a few downloads that have no end. Meanwhile it asks questions in UDP and uploads, a little at a time. The
    other ends are here as well: nothing runs but when `step` is called."""

    RATE = 8 << 20
    """Bytes a second."""

    def __init__(self, case, client, downloads):
        self.client, self.asked, self.took = client, {}, {}
        client.piece = 1 << 16
        remote = case.lab.remote
        self.echo = case.closing(remote.bind(lab.REMOTE4))
        self.echo.setblocking(False)
        with remote.listen(lab.REMOTE4) as listener:
            def connection():
                near = Connection(client, lab.REMOTE4, listener.getsockname()[1], options=BULK).open()
                far = case.closing(listener.accept()[0])
                far.setblocking(False)
                return near, far
            self.downloads = [connection() for _ in range(downloads)]
            self.upload, self.sink = connection()
        self.began, self.read = time.monotonic(), 0

    def ask(self, number):
        """Question `number`, and the next bytes of the upload."""
        self.client.send_udp(lab.REMOTE4, self.echo.getsockname()[1], b"%08d" % number)
        self.upload.transmit(ACK | PSH, bytes(1000))
        self.asked["answer", number] = self.asked["acknowledgement", self.upload.seq] = time.monotonic()

    def step(self):
        with contextlib.suppress(BlockingIOError):
            self.sink.recv(1 << 20)
        with contextlib.suppress(BlockingIOError):
            self.echo.sendto(*self.echo.recvfrom(100))
        for _, far in self.downloads:
            with contextlib.suppress(BlockingIOError):
                far.send(bytes(1 << 18))
        if self.read >= (time.monotonic() - self.began) * self.RATE:
            time.sleep(0.001)
        elif packet := self.client.receive(0.01):
            self.read += len(packet.frame)
            self._came(packet)

    def _came(self, packet):
        if packet.is_udp() and packet.source == lab.REMOTE4:
            self._done("answer", int(packet.data))
        elif self.upload.ours(packet):
            for what, seq in list(self.asked):
                if what == "acknowledgement" and (packet.ack - seq) & 0xFFFFFFFF < 1 << 31:
                    self._done(what, seq)
        for near, _ in self.downloads:
            if near.ours(packet) and packet.data and packet.seq == near.ack:
                near.ack = (near.ack + len(packet.data)) & 0xFFFFFFFF
                near.transmit(ACK)

    def _done(self, what, number):
        self.took[what, number] = time.monotonic() - self.asked.pop((what, number))


class Promptness(Case):
    """What is small is answered within a second, whatever else goes on."""

    def test_slow_reader_of_downloads(self):
        """The link is full all the time, and what it has room for is not for those alone who have most."""
        slow = SlowReader(self, self.client(), 4)
        self.go_on(slow, 1)
        for number in range(20):
            slow.ask(number)
            self.go_on(slow, 0.05)
        self.go_on(slow, 1, lambda: not slow.asked)
        self.note(f"{max(slow.took.values(), default=0):.2f} s at most; {slow.read >> 20} MiB read")
        self.assertEqual(list(slow.asked), [], "not answered")
        self.assertLess(max(slow.took.values()), 1)
        # Otherwise nothing was in the way.
        self.assertGreater(slow.read, 4 << 20)

    def go_on(self, slow, seconds, done=lambda: False):
        end = time.monotonic() + seconds
        while time.monotonic() < end and not done():
            slow.step()

    def test_others_that_connect_all_the_time(self):
        """They are turned away, and the first client is served meanwhile."""
        server = self.server()
        client = self.closing(server.client())
        client.assert_served()
        others = [self.lab.popen([sys.executable, "-c", CONNECTS, server.path]) for _ in range(2)]
        try:
            time.sleep(0.5)
            with self.lab.remote.bind(lab.REMOTE4) as echo:
                took = [self.exchange(client, echo, b"%08d" % number) for number in range(20)]
            self.assertEqual([process.poll() for process in others], [None, None])
        finally:
            for process in others:
                self.lab.end(process)
        self.note(f"{max(took):.2f} s at most")
        self.assertLess(max(took), 1)

    def exchange(self, client, echo, data):
        began = time.monotonic()
        client.send_udp(lab.REMOTE4, echo.getsockname()[1], data)
        echo.sendto(*echo.recvfrom(100))
        client.expect("answer", lambda p: p.is_udp() and p.data == data)
        return time.monotonic() - began


CONNECTS = """
import socket, sys
while True:
    with socket.socket(socket.AF_UNIX) as other:
        other.connect(sys.argv[1])
"""
