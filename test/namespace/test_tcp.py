"""TCP from the guest: targets, endings, resets, slow readers, large transfers."""

import errno
import os
import socket
import struct
import subprocess
import time

from lab import wait_until
from support import V4, Case, both, limit, read_exactly, read_to_end

RESET_ON_CLOSE = struct.pack("ii", 1, 0)
GIGABYTE = 1_000_000_000


class Targets(Case):
    options = ()

    @both
    def test_another_host(self, net):
        self.assert_connected(*self.pair(self.lab.remote, net.remote))

    @both
    def test_host_loopback_through_the_gateway_address(self, net):
        self.assert_connected(*self.pair(self.lab.host, net.loopback, target=net.gateway))

    @both
    def test_another_address_of_the_host(self, net):
        self.assert_connected(*self.pair(self.lab.host, net.other))

    @both
    def test_host_behind_a_router(self, net):
        self.assert_connected(*self.pair(self.lab.far, net.far))

    @both
    def test_server_sees_the_hosts_address(self, net):
        _, served = self.pair(self.lab.remote, net.remote)
        self.assertEqual(served.getpeername()[0], net.host)

    @both
    def test_refused(self, net):
        began = time.monotonic()
        with self.assertRaises(ConnectionRefusedError):
            self.guest.connect(net.remote, 9)
        self.assertLess(time.monotonic() - began, 1)

    @both
    def test_p22925_refused_by_the_host(self, net):
        with self.assertRaises(ConnectionRefusedError):
            self.guest.connect(net.gateway, 9)

    @both
    def test_unreachable_network(self, net):
        with self.assertRaises(OSError) as raised:
            self.guest.connect(net.unreachable, 80, timeout=8)
        self.assertIn(raised.exception.errno, (errno.EHOSTUNREACH, errno.ENETUNREACH))

    @both
    def test_dead_host(self, net):
        with self.assertRaises(OSError) as raised:
            self.guest.connect(net.dead, 80, timeout=8)
        self.assertEqual(raised.exception.errno, errno.EHOSTUNREACH)


class Endings(Case):
    options = ()

    @both
    def test_guest_half_closes_first(self, net):
        near, far = self.pair(self.lab.remote, net.remote)
        near.sendall(b"question")
        near.shutdown(socket.SHUT_WR)
        self.assertEqual(read_to_end(far), b"question")
        far.sendall(b"late answer")
        far.close()
        self.assertEqual(read_to_end(near), b"late answer")

    @both
    def test_server_half_closes_first(self, net):
        near, far = self.pair(self.lab.remote, net.remote)
        far.sendall(b"banner")
        far.shutdown(socket.SHUT_WR)
        self.assertEqual(read_to_end(near), b"banner")
        near.sendall(b"late question")
        near.close()
        self.assertEqual(read_to_end(far), b"late question")

    @both
    def test_half_closed_connection_lives_on(self, net):
        near, far = self.pair(self.lab.remote, net.remote)
        near.shutdown(socket.SHUT_WR)
        self.assertEqual(far.recv(1), b"")
        for nth in range(5):
            time.sleep(0.3)
            far.sendall(bytes([nth]))
            self.assertEqual(near.recv(1), bytes([nth]))

    @both
    def test_both_close_at_the_same_time(self, net):
        near, far = self.pair(self.lab.remote, net.remote)
        near.shutdown(socket.SHUT_WR)
        far.shutdown(socket.SHUT_WR)
        self.assertEqual((near.recv(1), far.recv(1)), (b"", b""))

    @both
    def test_reset_by_the_guest(self, net):
        near, far = self.pair(self.lab.remote, net.remote)
        self.assert_connected(near, far)
        near.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
        near.close()
        with self.assertRaises(ConnectionResetError):
            far.recv(1)

    @both
    def test_reset_by_the_server(self, net):
        near, far = self.pair(self.lab.remote, net.remote)
        self.assert_connected(near, far)
        far.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
        far.close()
        with self.assertRaises(ConnectionResetError):
            near.recv(1)

    @both
    def test_data_before_the_close_is_complete(self, net):
        near, far = self.pair(self.lab.remote, net.remote)
        far.settimeout(10)
        far.sendall(b"x" * 100_000)
        far.close()
        self.assertEqual(len(read_to_end(near)), 100_000)

    def test_connections_leave_no_descriptor_behind(self):
        near, far = self.pair(self.lab.remote, "192.0.2.10")
        near.close()
        far.close()
        time.sleep(0.2)
        before = self.descriptors()
        for _ in range(50):
            near, far = self.pair(self.lab.remote, "192.0.2.10")
            near.close()
            self.assertEqual(far.recv(1), b"")
            far.close()
        time.sleep(1)
        self.assertLessEqual(self.descriptors(), before + 5)

    def descriptors(self):
        return len(os.listdir(f"/proc/{self.guest.translator()}/fd"))


class SlowReaders(Case):
    options = ()

    def assert_survives_a_pause(self, sender, receiver, pause):
        """The sender writes until nothing goes any more; after a pause everything arrives, in order."""
        pattern = bytes(range(256)) * 256
        sender.setblocking(False)
        sent, quiet_since = 0, time.monotonic()
        while time.monotonic() - quiet_since < pause:
            try:
                done = sender.send(pattern[sent % 65536:])
                sent, quiet_since = sent + done, time.monotonic()
            except BlockingIOError:
                time.sleep(0.02)
        self.assertGreater(sent, 65536)
        sender.settimeout(10)
        sender.shutdown(socket.SHUT_WR)
        received = read_to_end(receiver)
        self.assertEqual(len(received), sent)
        self.assertEqual(received, (pattern * (sent // 65536 + 1))[:sent])

    @both
    def test_guest_stops_reading_for_a_while(self, net):
        near, far = self.pair(self.lab.remote, net.remote)
        self.assert_survives_a_pause(far, near, 2.5)

    @both
    def test_b74_server_stops_reading_for_a_while(self, net):
        near, far = self.pair(self.lab.remote, net.remote)
        self.assert_survives_a_pause(near, far, 2.5)

    @both
    def test_reader_with_a_tiny_buffer_in_the_guest(self, net):
        with self.lab.remote.listen(net.remote) as listener:
            near = self.closing(self.guest.socket(net.af))
            near.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
            near.connect(listener.getsockname()[:2])
            far = self.closing(listener.accept()[0])
        far.settimeout(10)
        self.assert_survives_a_pause(far, near, 0.5)

    @both
    def test_reader_with_a_tiny_buffer_on_the_server(self, net):
        with self.lab.remote.listen(net.remote) as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
            near = self.closing(self.guest.connect(net.remote, listener.getsockname()[1]))
            far = self.closing(listener.accept()[0])
        far.settimeout(10)
        self.assert_survives_a_pause(near, far, 0.5)

    def test_another_connection_is_not_held_up(self):
        near, far = self.pair(self.lab.remote, "192.0.2.10")
        far.setblocking(False)
        for _ in range(20):
            try:
                far.send(b"x" * 1_000_000)
            except BlockingIOError:
                time.sleep(0.05)
        self.assert_connected(*self.pair(self.lab.remote, "192.0.2.10"))


class Transfers(Case):
    """Seeded streams with a hash, to the host through the gateway address."""

    options = ()

    def assert_transfers(self, net, guest, server_sends, guest_sends, streams=1):
        seconds = 55
        with self.lab.service(self.lab.host, "stream", "--listen", f"{bracket(net.loopback)}:5999", "--send",
                              server_sends, "--seed", 100, "-P", streams, "--seconds", seconds) as server:
            client = self.lab.traffic(guest, "stream", "--connect", f"{bracket(net.gateway)}:5999", "--send",
                                      guest_sends, "--seed", 200, "-P", streams, "--seconds", seconds, timeout=60)
            served = server.result()
        for ends in (client, served):
            self.assertEqual(len(ends["streams"]), streams)
        self.assertEqual({s["sent"] for s in client["streams"]}, {guest_sends})
        self.assertEqual({s["sent"] for s in served["streams"]}, {server_sends})
        for sender, receiver in ((client, served), (served, client)):
            self.assertEqual(sorted(s["sent_hash"] for s in sender["streams"]),
                             sorted(s["received_hash"] for s in receiver["streams"]))


class LargeTransfers(Transfers):
    @both
    @limit(60)
    def test_one_gigabyte_out(self, net):
        self.assert_transfers(net, self.guest, 0, GIGABYTE)

    @both
    @limit(60)
    def test_one_gigabyte_in(self, net):
        self.assert_transfers(net, self.guest, GIGABYTE, 0)

    @both
    @limit(60)
    def test_both_ways_at_the_same_time(self, net):
        self.assert_transfers(net, self.guest, 100_000_000, 100_000_000)

    @limit(60)
    def test_eight_streams_both_ways(self):
        self.assert_transfers(V4, self.guest, 20_000_000, 20_000_000, streams=8)

    @both
    @limit(60)
    def test_small_mtu_both_ways(self, net):
        with self.another_guest("-m", "1280") as guest:
            self.assert_transfers(net, guest, 50_000_000, 50_000_000)

    def test_guest_never_retransmits(self):
        """But for the probes that Linux sends when no ACK has come for two round trips (RFC 8985 §7), which are twenty
        microseconds here: on a busy machine that is no time at all."""
        before = self.retransmissions()
        self.assert_transfers(V4, self.guest, 0, 200_000_000)
        self.assertEqual(self.retransmissions(), before)

    def retransmissions(self):
        """What the guest's kernel has sent again because it took it for lost."""
        names, values = [line.split() for line in self.guest.output("grep ^TcpExt: /proc/net/netstat").splitlines()]
        return {name: int(values[names.index(name)])
                for name in ("TCPFastRetrans", "TCPSlowStartRetrans", "TCPTimeouts", "TCPLossProbeRecovery")}


class LossyLink(Transfers):
    """The guest's link loses one frame of a hundred, of super-frames as of others, either way."""

    def setUp(self):
        super().setUp()
        name = self.guest.interface()
        self.guest.run("nft", f"""table netdev lossy {{
            chain in {{ type filter hook ingress device {name} priority 0; numgen random mod 100 0 drop; }}
            chain out {{ type filter hook egress device {name} priority 0; numgen random mod 100 0 drop; }}
        }}""")
        self.addCleanup(self.guest.run, "nft", "delete table netdev lossy")

    @both
    def test_streams_do_not_wait_for_timeouts(self, net):
        """A timeout is 200 ms at least; there are a hundred losses."""
        began = time.monotonic()
        self.assert_transfers(net, self.guest, 300_000_000, 0)
        self.assert_transfers(net, self.guest, 0, 300_000_000)
        self.assertLess(time.monotonic() - began, 12)


class Real(Case):
    """A client and a server that everybody has."""

    options = ()

    def serve(self, where, address):
        argv = self.lab.as_root(["/usr/bin/python3", "-m", "http.server", "8088", "--bind", address,
                                 "--directory", self.directory()], where)
        process = self.lab.popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self.addCleanup(self.lab.end, process)

        def connects():
            try:
                where.connect(address, 8088).close()
                return True
            except OSError:
                return False
        wait_until(connects, 5, "the web server")

    def directory(self):
        path = os.path.join(self.lab.dir, "web")
        os.makedirs(path, exist_ok=True)
        with open(os.path.join(path, "page"), "w", encoding="ascii") as file:
            file.write("a page\n" * 10_000)
        return path

    @both
    def test_curl_from_another_host(self, net):
        self.serve(self.lab.remote, net.remote)
        page = self.guest.output("curl", "-sS", "--max-time", "5", f"http://{bracket(net.remote)}:8088/page")
        self.assertEqual(len(page), 70_000)

    @both
    def test_curl_from_the_host(self, net):
        self.serve(self.lab.host, net.loopback)
        page = self.guest.output("curl", "-sS", "--max-time", "5", f"http://{bracket(net.gateway)}:8088/page")
        self.assertEqual(len(page), 70_000)


class Odd(Case):
    options = ()

    @both
    def test_single_bytes_arrive_at_once(self, net):
        near, far = self.pair(self.lab.remote, net.remote)
        near.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        far.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        began = time.monotonic()
        for nth in range(100):
            near.sendall(bytes([nth]))
            self.assertEqual(far.recv(1), bytes([nth]))
            far.sendall(bytes([nth]))
            self.assertEqual(near.recv(1), bytes([nth]))
        self.assertLess(time.monotonic() - began, 1)

    @both
    def test_server_speaks_first(self, net):
        near, far = self.pair(self.lab.remote, net.remote)
        far.sendall(b"220 ready")
        self.assertEqual(read_exactly(near, 9), b"220 ready")

    @both
    def test_same_local_port_to_two_servers(self, net):
        with self.lab.remote.listen(net.remote) as one, self.lab.remote.listen(net.remote) as two:
            clients = []
            for server in (one, two):
                client = self.closing(self.guest.socket(net.af))
                client.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                client.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
                client.bind((net.any, clients[0].getsockname()[1] if clients else 0))
                client.connect(server.getsockname()[:2])
                clients.append(client)
            self.assert_connected(clients[0], self.closing(one.accept()[0]))
            self.assert_connected(clients[1], self.closing(two.accept()[0]))


def bracket(address):
    return f"[{address}]" if ":" in address else address
