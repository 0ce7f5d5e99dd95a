"""The path from loopback to loopback, and all ports at once, where pasta once failed; doc/regressions.md lists the reports.

These say what is specified. Some of what they need is still being built, so some may fail.
"""

import contextlib
import os
import socket
import time

import lab
from support import Case, both, read_exactly
from test_hosts import Hosts as _Hosts
from test_regress_traffic import Sender, Tcp as _Tcp
from test_tcp import RESET_ON_CLOSE


class Splice(Case):
    """What both directions have in common."""

    assertIdle = _Tcp.assertIdle

    def assert_resets_pass(self, pair):
        for nth in (0, 1):
            for _ in range(5):
                ends = pair()
                self.assert_connected(*ends)
                ends[nth].setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
                ends[nth].close()
                with self.assertRaises(ConnectionResetError):
                    ends[1 - nth].recv(1)
        self.assert_connected(*pair())

    def assert_fills_and_empties(self, sender, receiver):
        data = os.urandom(1 << 20) * 24
        with Sender(sender, data):
            time.sleep(0.3)
            self.assertIdle()
            for _ in range(4):
                self.assertEqual(len(read_exactly(receiver, 1 << 20)), 1 << 20)
                time.sleep(0.1)
            self.assertEqual(read_exactly(receiver, 20 << 20), data[4 << 20:])

    def assert_idle_when_half_closed_and_full(self, sender, receiver):
        sender.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while True:
                sender.send(bytes(1 << 20))
                time.sleep(0.01)
        sender.shutdown(socket.SHUT_WR)
        self.assertIdle()
        receiver.sendall(b"the other way")
        sender.settimeout(3)
        self.assertEqual(read_exactly(sender, 13), b"the other way")


class ToTheGuest(Splice):
    options = ("-t", "8100-8103", "-u", "8100-8103", "--host-lo-to-ns-lo")

    def spliced(self, net, address=None, port=8100):
        with self.guest.listen(address or net.loopback, port) as listener:
            client = self.closing(self.lab.host.connect(address or net.loopback, port))
            served, _ = listener.accept()
        served.settimeout(5)
        return client, self.closing(served)

    @both
    def test_rootlesskit482_service_on_the_guests_loopback(self, net):
        self.assert_connected(*self.spliced(net))

    def test_b113_b212_loopback_address_is_kept(self):
        client, served = self.spliced(None, "127.0.0.5")
        self.assertEqual(served.getsockname()[0], "127.0.0.5")
        self.assert_connected(client, served)

    def test_b113_b212_loopback_address_is_kept_by_udp(self):
        server = self.closing(self.guest.bind("127.0.0.5", 8100))
        client = self.closing(self.lab.host.bind("127.0.0.1"))
        client.sendto(b"question", ("127.0.0.5", 8100))
        data, peer = server.recvfrom(100)
        self.assertEqual(data, b"question")
        server.sendto(b"answer", peer)
        self.assertEqual(client.recvfrom(100), (b"answer", ("127.0.0.5", 8100)))

    @both
    def test_b202_resets_are_passed_on(self, net):
        self.assert_resets_pass(lambda: self.spliced(net))

    @both
    def test_b202_upstream_2025_12_nobody_listens(self, net):
        for _ in range(20):
            with self.assertRaises(ConnectionError):
                client = self.closing(self.lab.host.connect(net.loopback, 8101))
                client.sendall(b"anyone?")
                if client.recv(1) == b"":
                    raise ConnectionError("closed")
        self.assert_connected(*self.spliced(net, port=8101))

    @both
    def test_b207_p24219_p23517_guest_that_reads_late(self, net):
        client, served = self.spliced(net, port=8102)
        self.assert_fills_and_empties(client, served)

    @both
    def test_p23686_b94_no_processor_time_with_a_full_guest(self, net):
        client, served = self.spliced(net, port=8102)
        self.assert_idle_when_half_closed_and_full(client, served)


class ToTheHost(Splice):
    options = ("-T", "8105-8106", "-T", "8107:8108", "-U", "8105-8106", "-U", "8107:8108")

    def spliced(self, net, address=None, port=8105):
        with self.lab.host.listen(address or net.loopback, port) as listener:
            client = self.closing(self.guest.connect(address or net.loopback, port))
            served, _ = listener.accept()
        served.settimeout(5)
        return client, self.closing(served)

    def test_b113_b212_loopback_address_is_kept(self):
        client, served = self.spliced(None, "127.0.0.5")
        self.assertEqual(served.getsockname()[0], "127.0.0.5")
        self.assert_connected(client, served)

    @both
    def test_b202_resets_are_passed_on(self, net):
        self.assert_resets_pass(lambda: self.spliced(net))

    @both
    def test_b202_nobody_listens(self, net):
        for _ in range(20):
            with self.assertRaises(ConnectionError):
                client = self.closing(self.guest.connect(net.loopback, 8106))
                client.sendall(b"anyone?")
                if client.recv(1) == b"":
                    raise ConnectionError("closed")
        self.assert_connected(*self.spliced(net, port=8106))

    @both
    def test_b207_p24219_p23517_host_that_reads_late(self, net):
        self.assert_fills_and_empties(*self.spliced(net, port=8106))

    @both
    def test_p23686_b94_no_processor_time_with_a_full_host(self, net):
        self.assert_idle_when_half_closed_and_full(*self.spliced(net, port=8106))

    @both
    def test_upstream_2024_02_b80_udp_ports_are_not_mixed_up(self, net):
        """One socket of the guest asks three ports, one of which leads to another."""
        servers = {port: self.closing(self.lab.host.bind(net.loopback, inner))
                   for port, inner in ((8105, 8105), (8106, 8106), (8107, 8108))}
        client = self.closing(self.guest.bind(net.loopback))
        for _ in range(3):
            for port in servers:
                client.sendto(b"%d" % port, (net.loopback, port))
            for port, server in servers.items():
                data, peer = server.recvfrom(100)
                self.assertEqual(data, b"%d" % port)
                server.sendto(b"re %d" % port, peer)
            answers = {}
            for _ in servers:
                data, source = client.recvfrom(100)
                answers[source[1]] = data
            self.assertEqual(answers, {port: b"re %d" % port for port in servers})


class IPv6Only(Case):
    V6, PEER6 = _Hosts.V6, _Hosts.PEER6

    def test_b205_ports_to_a_host_without_ipv4(self):
        script = ("import socket\nfor kind in (1, 2):\n s = socket.socket(socket.AF_INET6, kind); s.settimeout(3)\n"
                  " s.connect(('::1', 8109)); s.send(b'question'); print(s.recv(100))")
        with self.lab.another_host(*self.V6, peer=self.PEER6) as (host, _):
            with self.lab.service(host, "echo", "--listen", "[::1]:8109"):
                argv = self.lab.program.run(["-q", "-T", "8109", "-U", "8109"], ["/usr/bin/python3", "-c", script])
                done = self.lab.call(self.lab.as_user(argv, where=host), check=False)
        self.assertEqual((done.stdout, done.stderr), ("b'question'\n" * 2, ""))


class AllPorts(Case):
    def test_b213_unavailable_ports_are_no_news(self):
        with self.lab.host.listen("0.0.0.0", 8111), self.lab.guest("-q", "-t", "~9000-9100") as guest:
            self.assertEqual(guest.errors(), "")
            self.assert_connected(*self.inbound(self.lab.remote, lab.HOST4, 8110, guest=guest)[:2])
            with self.assertRaises(ConnectionRefusedError):
                self.lab.remote.connect(lab.HOST4, 9050)

    def test_d18_all_with_few_descriptors(self):
        # Ports 1 to 9999 and 65001 to 65535: those outside of the range for ports the kernel chooses.
        with self.lab.guest("-q", "-t", "all", program=Limited(self.lab.program)) as guest:
            self.assertLessEqual(len(guest.errors().splitlines()), 1, guest.errors()[:1000])
            self.assert_connected(*self.pair(self.lab.remote, lab.REMOTE4, guest=guest))


class Limited:
    """A program with at most 4000 descriptors."""

    def __init__(self, program):
        self.program, self.kind, self.path = program, program.kind, program.path

    def run(self, options, command):
        return ["prlimit", "--nofile=4000:4000", "--", *self.program.run(options, command)]
