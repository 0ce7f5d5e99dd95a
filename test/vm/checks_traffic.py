"""TCP and UDP of a real guest, both ways, with packets as long as they may be."""

import errno
import os
import signal
import socket
import struct
import time

import lab
from checks_network import assert_stream_in, assert_stream_out, assert_udp_in
from support import both, read_exactly, read_to_end
from world import WIDE, Case, long, url

RESET_ON_CLOSE = struct.pack("ii", 1, 0)
MUCH = 20_000_000
MANY = ("--count", 500, "--parallel", 4)


class Streams(Case):
    session = WIDE

    @both
    def test_out(self, net):
        assert_stream_out(self, net, MUCH)

    @both
    def test_in(self, net):
        assert_stream_in(self, net, MUCH)

    @long
    @both
    def test_in_from_loopback(self, net):
        assert_stream_in(self, net, MUCH, self.lab.host, net.loopback)

    @long
    @both
    def test_both_at_once(self, net):
        with self.guest.service("stream", "--listen", url(net.any, 8001), "--send", MUCH // 2) as server:
            client = self.lab.traffic(self.lab.remote, "stream", "--connect", url(net.host, 8001), "--send", MUCH // 2,
                                      "--seed", 7)["streams"][0]
            served = server.result(10)["streams"][0]
        self.assertEqual((client["received"], served["received"]), (MUCH // 2, MUCH // 2))
        self.assertEqual(client["received_hash"], served["sent_hash"])
        self.assertEqual(client["sent_hash"], served["received_hash"])

    @both
    def test_200_at_once_out(self, net):
        with self.lab.service(self.lab.remote, "bulk-serve", "--listen", url(net.remote, 8101)):
            self.assert_complete(200, self.guest.traffic("bulk", "--connect", url(net.remote, 8101), "--count", 200,
                                                         "--up", 50_000, "--down", 50_000))

    @both
    def test_200_at_once_in(self, net):
        with self.guest.service("bulk-serve", "--listen", url(net.any, 8001)):
            self.assert_complete(200, self.lab.traffic(self.lab.remote, "bulk", "--connect", url(net.host, 8001),
                                                       "--count", 200, "--up", 50_000, "--down", 50_000))

    @both
    def test_d26_200_that_half_close_early(self, net):
        """The clients have sent all and closed their side before the guest answers."""
        for where, address in ((self.lab.remote, net.host), (self.lab.host, net.loopback)):
            with self.guest.service("bulk-serve", "--listen", url(net.any, 8001)):
                self.assert_complete(200, self.lab.traffic(where, "bulk", "--connect", url(address, 8001),
                                                           "--count", 200, "--up", 100, "--down", 5000))

    def assert_complete(self, count, done):
        self.assertEqual((done["complete"], done["failed"], done["unfinished"]), (count, 0, 0))
        self.note(f"{done['seconds']:.1f} s")

    @long
    @both
    def test_many_one_after_another_out(self, net):
        with self.lab.service(self.lab.remote, "echo", "--listen", url(net.remote, 8101)):
            self.assert_all(self.guest.traffic("tcp-crr", "--connect", url(net.remote, 8101), *MANY))

    @long
    @both
    def test_many_one_after_another_in(self, net):
        with self.guest.service("echo", "--listen", url(net.any, 8001)):
            self.assert_all(self.lab.traffic(self.lab.remote, "tcp-crr", "--connect", url(net.host, 8001), *MANY))

    def assert_all(self, done):
        self.assertEqual((done["count"], done["failed"]), (500, 0))
        self.note(f"{done['per_second']} a second")


@long
class Slow(Case):
    """The reader pauses, and everything has arrived in the end."""

    session = WIDE

    @both
    def test_d24_reader_outside(self, net):
        server = self.lab.service(self.lab.remote, "stream", "--listen", url(net.remote, 8101), "--stall-ms", 1500)
        sent = self.guest.traffic("stream", "--connect", url(net.remote, 8101), "--send", MUCH)["streams"][0]
        received = server.result(20)["streams"][0]
        self.assertEqual((received["received"], received["received_hash"]), (MUCH, sent["sent_hash"]))

    @both
    def test_reader_in_the_guest(self, net):
        server = self.guest.service("stream", "--listen", url(net.any, 8001), "--stall-ms", 1500)
        sent = self.lab.traffic(self.lab.remote, "stream", "--connect", url(net.host, 8001), "--send", MUCH)
        received = server.result(20)["streams"][0]
        self.assertEqual((received["received"], received["received_hash"]), (MUCH, sent["streams"][0]["sent_hash"]))

    def test_machine_that_stands_still(self):
        """As on an overloaded host: QEMU neither reads nor writes for two seconds."""
        server = self.guest.service("stream", "--listen", url("0.0.0.0", 8001), "--send", MUCH)
        with self.lab.remote.connect(lab.HOST4, 8001) as stream:
            received = 0
            while received < MUCH // 4:
                received += len(stream.recv(1 << 18))
            os.kill(self.guest.process.pid, signal.SIGSTOP)
            try:
                time.sleep(2)
                self.assertTrue(self.world.server.alive())
            finally:
                os.kill(self.guest.process.pid, signal.SIGCONT)
            stream.shutdown(socket.SHUT_WR)
            received += len(read_to_end(stream))
        self.assertEqual((received, server.result(10)["streams"][0]["sent"]), (MUCH, MUCH))


class Who(Case):
    """Addresses as the two ends see them, and ports that lead elsewhere."""

    session = WIDE

    @both
    def test_server_sees_the_hosts_address(self, net):
        _, served = self.pair(self.lab.remote, net.remote)
        self.assertEqual(served.getpeername()[0], net.host)

    @both
    def test_guest_sees_a_neighbours_address(self, net):
        for where, address in ((self.lab.remote, net.remote), (self.lab.far, net.far)):
            client, served, peer = self.inbound(where, net.host, 8001)
            self.assert_connected(client, served)
            # The remote's first address is the gateway's, unless it chooses another.
            self.assertEqual(peer[0], client.getsockname()[0])
            self.assertIn(peer[0], (address, net.gateway))
            self.assertEqual(peer[1], client.getsockname()[1])

    @both
    def test_guest_sees_loopback_as_the_gateway(self, net):
        client, served, peer = self.inbound(self.lab.host, net.loopback, 8001)
        self.assert_connected(client, served)
        self.assertEqual(peer[0], net.gateway)

    @both
    def test_gateway_is_the_hosts_loopback(self, net):
        self.assert_connected(*self.pair(self.lab.host, net.loopback, target=net.gateway))

    @both
    def test_port_that_leads_to_another(self, net):
        for nth in range(3):
            client, served, _ = self.inbound(self.lab.remote, net.host, 8010 + nth, 9010 + nth)
            self.assert_connected(client, served)

    @both
    def test_udp_as_both_sides_see_it(self, net):
        with self.guest.bind(net.any, 9011) as server:
            for where, address, seen in ((self.lab.far, net.host, net.far), (self.lab.host, net.loopback, net.gateway)):
                with where.socket(net.af, socket.SOCK_DGRAM) as asker:
                    asker.connect((address, 8011))
                    asker.send(b"question")
                    data, peer = server.recvfrom(100)
                    self.assertEqual((data, peer[0]), (b"question", seen))
                    server.sendto(b"answer", peer)
                    self.assertEqual(asker.recv(100), b"answer")


class Endings(Case):
    session = WIDE

    def pairs(self, net):
        """A connection out and one in: (guest's end, other end)."""
        near, far = self.pair(self.lab.remote, net.remote)
        client, served, _ = self.inbound(self.lab.remote, net.host, 8001)
        return (near, far), (served, client)

    @both
    def test_guest_half_closes_first(self, net):
        for near, far in self.pairs(net):
            self.assert_half_close(near, far)

    @both
    def test_other_end_half_closes_first(self, net):
        for near, far in self.pairs(net):
            self.assert_half_close(far, near)

    def assert_half_close(self, first, second):
        first.sendall(b"question")
        first.shutdown(socket.SHUT_WR)
        self.assertEqual(read_to_end(second), b"question")
        time.sleep(0.3)
        for part in (b"late ", b"answer"):
            second.sendall(part)
            self.assertEqual(read_exactly(first, len(part)), part)
        second.close()
        self.assertEqual(read_to_end(first), b"")

    @both
    def test_reset_by_the_guest(self, net):
        for near, far in self.pairs(net):
            self.assert_reset(near, far)

    @both
    def test_reset_by_the_other_end(self, net):
        for near, far in self.pairs(net):
            self.assert_reset(far, near)

    def assert_reset(self, first, second):
        self.assert_connected(first, second)
        first.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
        first.close()
        with self.assertRaises(ConnectionResetError):
            second.recv(1)

    @both
    def test_refused(self, net):
        """By a host on the network, and by our own."""
        for target in (net.remote, net.gateway):
            self.assert_fails(net, target, 9, 0.5, errno.ECONNREFUSED)

    @both
    def test_upstream_2025_12_refused_by_the_guest(self, net):
        self.assert_works()
        for where, address in ((self.lab.remote, net.host), (self.lab.host, net.loopback)):
            # The guest may be quicker than the client hears of its own success.
            with self.assertRaises(ConnectionResetError), where.connect(address, 8001) as stream:
                stream.recv(1)
        self.assert_works()

    @both
    def test_unreachable(self, net):
        """A router says so at once; a kernel that is still busy sending hears it at its next attempt, in a second."""
        self.assert_fails(net, net.unreachable, 80, 2.5, errno.ECONNREFUSED, errno.EHOSTUNREACH, errno.ENETUNREACH)

    @long
    @both
    def test_dead(self, net):
        """Nobody answers for the address; the host's kernel takes three seconds to say so."""
        self.assert_fails(net, net.dead, 80, 8, errno.ECONNREFUSED, errno.EHOSTUNREACH)

    def assert_fails(self, net, target, port, limit, *errors):
        took, error = self.guest.do("connect_time", int(net.af), target, port, 10)
        self.assertIn(error, list(map(os.strerror, errors)))
        self.assertLess(took, limit)
        self.note(f"after {took * 1000:.0f} ms: {error}")


class Datagrams(Case):
    session = WIDE

    @both
    def test_out(self, net):
        with self.lab.service(self.lab.remote, "echo", "--listen", url(net.remote, 8100)):
            for size in (0, 1, 1500, 9000, 60_000, 65_000):
                self.assertEqual(self.guest.do("udp_ask", int(net.af), net.remote, 8100, size), (size, True))

    @both
    def test_in(self, net):
        assert_udp_in(self, net, 0, 1, 1500, 9000, 60_000, 65_000)

    @both
    def test_many_flows(self, net):
        """From one port of the guest to forty, and each answers."""
        servers = [self.closing(self.lab.remote.bind(net.remote)) for _ in range(40)]
        with self.guest.socket(net.af, socket.SOCK_DGRAM) as asker:
            for server in servers:
                asker.sendto(b"question", (net.remote, server.getsockname()[1]))
            for server in servers:
                data, address = server.recvfrom(100)
                server.sendto(data + b"!", address)
            answers = {asker.recvfrom(100)[1][1] for _ in servers}
        self.assertEqual(answers, {server.getsockname()[1] for server in servers})

    @both
    def test_round_trips(self, net):
        with self.lab.service(self.lab.remote, "echo", "--listen", url(net.remote, 8100)):
            done = self.guest.traffic("udp-rr", "--connect", url(net.remote, 8100), "--count", 500)
        self.assertEqual((done["count"], done["lost"]), (500, 0))

    @long
    @both
    def test_flood(self, net):
        """Each way, as fast as it goes; how much arrives is not the question."""
        with self.lab.service(self.lab.remote, "udp-sink", "--listen", url(net.remote, 8100)) as sink:
            sent = self.guest.traffic("udp-flood", "--connect", url(net.remote, 8100), "--size", 1000, "--seconds", 1)
            self.note(f"out {sink.stop()['received'] / sent['sent']:.0%}")
        with self.guest.service("udp-sink", "--listen", url(net.any, 8001)) as sink:
            sent = self.lab.traffic(self.lab.remote, "udp-flood", "--connect", url(net.host, 8001), "--size", 1000,
                                    "--seconds", 1)
            self.note(f"in {sink.stop()['received'] / sent['sent']:.0%}")
        self.assert_works()


class Addresses(Case):
    session = WIDE

    def test_guest_has_another_address_v4(self):
        """Than the one it was given: connections from outside go to where it speaks from."""
        self.addCleanup(self.guest.run, "ip addr del 192.0.2.44/24 dev eth0; ip addr add 192.0.2.2/24 dev eth0; "
                        f"ip route add default via {lab.GATEWAY4}; ping -c 1 -W 5 {lab.REMOTE4}")
        self.guest.run("ip addr del 192.0.2.2/24 dev eth0; ip addr add 192.0.2.44/24 dev eth0; "
                       f"ip route add default via {lab.GATEWAY4}; ping -c 1 -W 5 {lab.REMOTE4}")
        self.assert_served_at("192.0.2.44", lab.HOST4)

    def test_guest_has_another_address_v6(self):
        self.addCleanup(self.guest.run, f"ip addr del 2001:db8:1::44/64 dev eth0; ping -6 -c 1 -W 5 {lab.REMOTE6}")
        # It is not there until the guest's kernel has looked for another that has it.
        self.guest.run("ip addr add 2001:db8:1::44/64 dev eth0 preferred_lft forever; n=0; "
                       f"until ping -6 -I 2001:db8:1::44 -c 1 -W 5 {lab.REMOTE6}; do "
                       "n=$((n + 1)); [ $n -lt 40 ] || exit 1; sleep 0.2; done")
        self.assert_served_at("2001:db8:1::44", lab.HOST6)

    def assert_served_at(self, address, target):
        client, served, _ = self.inbound(self.lab.remote, target, 8001)
        self.assert_connected(client, served)
        self.assertEqual(served.getsockname()[0], address)
        asker = self.closing(self.lab.remote.socket(lab.family_of(address), socket.SOCK_DGRAM))
        with self.guest.bind(address, 8001) as server:
            asker.sendto(b"question", (target, 8001))
            self.assertEqual(server.recvfrom(100)[0], b"question")
