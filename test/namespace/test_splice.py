"""From loopback to loopback, socket to socket, past the link."""

import contextlib
import hashlib
import os
import socket
import struct
import threading
import time

import lab
from support import Case, both, limit, read_exactly, read_to_end

OPTIONS = ("-t", "8101,8102:9102", "-u", "8101,8102:9102", "-T", "8201,8202:9202,81", "-U", "8201,8202:9202,81")


class Splice(Case):
    """What all kinds of guests have in common."""

    def to_guest(self, address, port, inner=None, where=None):
        """(client on the host, server in the guest, client as the server sees it)"""
        any_of = where or ("::" if ":" in address else "0.0.0.0")
        with self.guest.listen(any_of, inner or port) as listener:
            client = self.closing(self.lab.host.connect(address, port))
            served, peer = listener.accept()
        served.settimeout(10)
        return client, self.closing(served), peer

    def to_host(self, address, port, outer=None):
        """(client in the guest, server on the host, its own address)"""
        with self.lab.host.listen("::" if ":" in address else "0.0.0.0", outer or port) as listener:
            client = self.closing(self.guest.connect(address, port))
            served, _ = listener.accept()
        served.settimeout(10)
        return client, self.closing(served), served.getsockname()[0]

    def assert_reset(self, where, address, port):
        """The client is accepted before anybody knows whether there is a server: what it sees is a reset, and soon."""
        began = time.monotonic()
        with self.assertRaises(ConnectionError):
            client = self.closing(where.connect(address, port))
            client.sendall(b"anyone?")
            if client.recv(1) == b"":
                raise ConnectionError("closed")
        self.assertLess(time.monotonic() - began, 2)

    def ask(self, where, address, port, server, question=b"question"):
        """A datagram and its answer; returns the asker as the server sees it."""
        asker = self.closing(where.socket(lab.family_of(address), socket.SOCK_DGRAM))
        asker.connect((address, port))
        asker.send(question)
        heard, peer = server.recvfrom(65536)
        self.assertEqual(heard, question)
        server.sendto(b"answer", peer)
        self.assertEqual(asker.recv(100), b"answer")
        return peer


class Tcp(Splice):
    options = OPTIONS

    @both
    def test_to_the_guests_outer_address(self, net):
        client, served, peer = self.to_guest(net.loopback, 8101)
        self.assert_connected(client, served)
        self.assertEqual(served.getsockname()[0], net.host)
        self.assertEqual(peer[0], net.host)

    @both
    def test_to_the_guest_at_another_port(self, net):
        client, served, _ = self.to_guest(net.loopback, 8102, 9102)
        self.assert_connected(client, served)

    @both
    def test_services_on_the_guests_loopback_stay_its_own(self, net):
        with self.guest.listen(net.loopback, 8101):
            self.assert_reset(self.lab.host, net.loopback, 8101)

    @both
    def test_to_the_hosts_loopback(self, net):
        client, served, own = self.to_host(net.loopback, 8201)
        self.assert_connected(client, served)
        self.assertEqual(own, net.loopback)

    @both
    def test_to_the_host_at_another_port(self, net):
        client, served, _ = self.to_host(net.loopback, 8202, 9202)
        self.assert_connected(client, served)

    def test_a_low_port_of_the_guest(self):
        client, served, _ = self.to_host("127.0.0.1", 81)
        self.assert_connected(client, served)

    def test_b113_the_same_loopback_address_on_the_host(self):
        client, served, own = self.to_host("127.0.0.5", 8201)
        self.assert_connected(client, served)
        self.assertEqual(own, "127.0.0.5")

    @both
    def test_nobody_listens(self, net):
        self.assert_reset(self.lab.host, net.loopback, 8101)
        self.assert_reset(self.guest, net.loopback, 8201)

    def test_other_namespaces_do_not_see_the_guests_listener(self):
        with self.assertRaises(ConnectionRefusedError):
            self.lab.host.connect("127.0.0.1", 8201)

    @both
    def test_the_guests_listener_is_for_its_loopback_alone(self, net):
        """Its outer address is reached over lo as well, but from an address that is not loopback."""
        with self.assertRaises(ConnectionError):
            client = self.closing(self.guest.connect(net.host, 8201))
            if client.recv(1) == b"":
                raise ConnectionError("closed")

    @both
    def test_half_close_each_way(self, net):
        for one, other in (self.to_guest(net.loopback, 8101)[:2], self.to_host(net.loopback, 8201)[:2]):
            one.sendall(b"question")
            one.shutdown(socket.SHUT_WR)
            self.assertEqual(read_to_end(other), b"question")
            other.sendall(b"answer")
            other.close()
            self.assertEqual(read_to_end(one), b"answer")

    @both
    def test_a_reset_stays_a_reset(self, net):
        for one, other in (self.to_guest(net.loopback, 8101)[:2], self.to_guest(net.loopback, 8101)[1::-1],
                           self.to_host(net.loopback, 8201)[:2], self.to_host(net.loopback, 8201)[1::-1]):
            self.assert_connected(one, other)
            one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            one.close()
            with self.assertRaises(ConnectionResetError):
                other.recv(1)

    @limit(60)
    def test_200_mb_both_ways_at_once(self):
        for one, other in (self.to_guest("127.0.0.1", 8101)[:2], self.to_host("127.0.0.1", 8201)[:2]):
            piece = os.urandom(1 << 20)
            want = hashlib.sha256(piece * 100).digest()
            found = {}
            threads = [threading.Thread(target=send, args=(end, piece, 100)) for end in (one, other)]
            threads += [threading.Thread(target=digest, args=(end, found)) for end in (one, other)]
            for end in (one, other):
                end.settimeout(30)
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(50)
            self.assertEqual([found.get(one), found.get(other)], [want, want])

    def test_p24219_a_receiver_that_stops_for_a_while(self):
        """Nothing is lost, and nobody runs in circles meanwhile."""
        client, served, _ = self.to_guest("127.0.0.1", 8101)
        sender = threading.Thread(target=send, args=(client, b"x" * (1 << 20), 64), daemon=True)
        sender.start()
        time.sleep(0.3)
        before = lab.cpu_seconds(self.guest.translator())
        time.sleep(1)
        self.assertLess(lab.cpu_seconds(self.guest.translator()) - before, 0.05)
        self.assertEqual(len(read_to_end(served)), 64 << 20)
        sender.join(5)

    def test_1000_short_connections(self):
        with self.lab.service(self.guest, "echo", "--listen", "0.0.0.0:8101"):
            done = self.lab.traffic(self.lab.host, "tcp-crr", "--connect", "127.0.0.1:8101", "--count", 1000,
                                    "--parallel", 32)
        self.assertEqual((done["count"], done["failed"]), (1000, 0))


class Udp(Splice):
    options = OPTIONS

    @both
    def test_to_the_guest_and_back(self, net):
        with self.guest.bind(net.any, 8101) as server:
            self.assertEqual(self.ask(self.lab.host, net.loopback, 8101, server)[0], net.host)

    @both
    def test_to_the_guest_at_another_port(self, net):
        with self.guest.bind(net.any, 9102) as server:
            self.ask(self.lab.host, net.loopback, 8102, server)

    @both
    def test_to_the_host_and_back(self, net):
        with self.lab.host.bind(net.loopback, 8201) as server:
            self.assertEqual(self.ask(self.guest, net.loopback, 8201, server)[0], net.loopback)

    @both
    def test_to_the_host_at_another_port(self, net):
        with self.lab.host.bind(net.loopback, 9202) as server:
            self.ask(self.guest, net.loopback, 8202, server)

    def test_a_low_port_of_the_guest(self):
        with self.lab.host.bind("127.0.0.1", 81) as server:
            self.ask(self.guest, "127.0.0.1", 81, server)

    def test_b212_the_same_loopback_address_on_the_host(self):
        with self.lab.host.bind("127.0.0.5", 8201) as server:
            self.ask(self.guest, "127.0.0.5", 8201, server)

    def test_many_clients_and_sizes(self):
        with self.guest.bind("0.0.0.0", 8101) as server:
            for size in (0, 1, 1400, 9000, 65507):
                self.ask(self.lab.host, "127.0.0.1", 8101, server, os.urandom(size))

    def test_a_burst_from_a_new_client_arrives_whole(self):
        """While its flow is made, datagrams reach two sockets in turn: none is lost, but their order may change."""
        with self.guest.bind("0.0.0.0", 8101) as server:
            client = self.closing(self.lab.host.socket(socket.AF_INET, socket.SOCK_DGRAM))
            client.connect(("127.0.0.1", 8101))
            for nth in range(100):
                client.send(b"%d" % nth)
            heard = [int(server.recv(100)) for _ in range(100)]
        self.assertEqual(sorted(heard), list(range(100)))


class ToLoopback(Splice):
    """--host-lo-to-ns-lo"""

    options = ("-t", "8101", "-u", "8101", "--host-lo-to-ns-lo")

    @both
    def test_rootlesskit_482_services_on_the_guests_loopback_are_reached(self, net):
        client, served, _ = self.to_guest(net.loopback, 8101, where=net.loopback)
        self.assert_connected(client, served)
        with self.guest.bind(net.loopback, 8101) as server:
            self.ask(self.lab.host, net.loopback, 8101, server)

    def test_b212_the_same_loopback_address(self):
        client, served, _ = self.to_guest("127.0.0.5", 8101, where="127.0.0.5")
        self.assert_connected(client, served)


class NoSplice(Splice):
    options = ("-t", "8101", "-u", "8101", "--no-splice")

    @both
    def test_loopback_clients_come_from_the_gateway(self, net):
        client, served, peer = self.to_guest(net.loopback, 8101)
        self.assert_connected(client, served)
        shown = peer[0].split("%")[0]
        self.assertTrue(shown == net.gateway or shown.startswith("fe80::"), peer)


class NoSpliceNoMap(Splice):
    options = ("-t", "8101", "--no-splice", "--no-map-gw")

    def test_d14_loopback_clients_are_refused(self):
        with self.guest.listen("0.0.0.0", 8101):
            self.assert_reset(self.lab.host, "127.0.0.1", 8101)

    def test_other_clients_are_not(self):
        client, served, _ = self.inbound(self.lab.remote, lab.HOST4, 8101)
        self.assert_connected(client, served)


class LoopbackTarget(Splice):
    options = ("-t", "0.0.0.0/8121:127.0.0.1/8122")

    def test_clients_on_loopback_reach_it_and_others_are_refused(self):
        client, served, _ = self.to_guest("127.0.0.1", 8121, 8122, where="127.0.0.1")
        self.assert_connected(client, served)
        with self.guest.listen("127.0.0.1", 8122):
            self.assert_reset(self.lab.remote, lab.HOST4, 8121)


class SpliceOnly(Splice):
    options = ("-t", "8101", "-u", "8101", "-T", "8201", "-U", "8201", "--splice-only")

    def test_there_is_no_interface_but_lo(self):
        self.assertEqual(len(self.guest.output("ip", "-br", "link").splitlines()), 1)

    @both
    def test_loopback_to_loopback(self, net):
        client, served, _ = self.to_guest(net.loopback, 8101)
        self.assert_connected(client, served)
        client, served, _ = self.to_host(net.loopback, 8201)
        self.assert_connected(client, served)
        with self.guest.bind(net.loopback, 8101) as server:
            self.ask(self.lab.host, net.loopback, 8101, server)
        with self.lab.host.bind(net.loopback, 8201) as server:
            self.ask(self.guest, net.loopback, 8201, server)

    def test_other_clients_are_refused(self):
        self.assert_reset(self.lab.remote, lab.HOST4, 8101)


class SpliceOnlyWithTarget(Splice):
    options = ("-u", "0.0.0.0/8101:127.0.0.1/8101", "--splice-only")

    def test_datagrams_of_others_keep_nobody_waiting(self):
        """There is no link to put them into."""
        other = self.closing(self.lab.remote.socket(socket.AF_INET, socket.SOCK_DGRAM))
        for n in range(400):
            other.sendto(bytes(40_000), (lab.HOST4, 8101))
            if n % 20 == 0:
                time.sleep(0.001)
        with self.guest.bind("127.0.0.1", 8101) as server:
            for _ in range(5):
                self.ask(self.lab.host, "127.0.0.1", 8101, server)


class Attached(Splice):
    options = OPTIONS

    def make_guest(self):
        return self.lab.attached(*self.options)

    @both
    def test_both_ways(self, net):
        client, served, _ = self.to_guest(net.loopback, 8101)
        self.assert_connected(client, served)
        client, served, _ = self.to_host(net.loopback, 8201)
        self.assert_connected(client, served)


class Limits(Splice):
    @limit(60)
    def test_9000_flows_under_a_limit_of_20000_descriptors(self):
        count = 9000
        with self.lab.guest("-t", "8111", program=self.limited(20_000)) as guest:
            with self.lab.service(guest, "echo", "--listen", "0.0.0.0:8111"):
                with self.lab.service(self.lab.host, "hold", "--connect", "127.0.0.1:8111", "--count", count) as held:
                    self.assertEqual(held.stop()["alive"], count)

    @limit(30)
    def test_descriptors_run_out_and_come_back(self):
        """New clients are reset, those that are in are served, and afterwards all is as before."""
        with self.lab.guest("-t", "8111", program=self.limited(400)) as guest:
            with self.lab.service(guest, "echo", "--listen", "0.0.0.0:8111"):
                first = self.closing(self.lab.host.connect("127.0.0.1", 8111))
                crowd = []
                for _ in range(400):
                    with contextlib.suppress(ConnectionError):
                        crowd.append(self.lab.host.connect("127.0.0.1", 8111))
                first.sendall(b"still there?")
                self.assertEqual(read_exactly(first, 12), b"still there?")
                for client in crowd:
                    client.close()
                lab.wait_until(lambda: self.answers(self.lab.host), 5, "room for new clients")

    def answers(self, where):
        try:
            with where.connect("127.0.0.1", 8111) as client:
                client.sendall(b"x")
                return client.recv(1) == b"x"
        except OSError:
            return False

    def limited(self, descriptors):
        wrapper = self.lab.file("limited")
        with open(wrapper, "w", encoding="ascii") as file:
            file.write(f"#!/bin/sh\nulimit -n {descriptors}\nexec {self.lab.program.path} \"$@\"\n")
        os.chmod(wrapper, 0o755)
        return lab.Program(wrapper, self.lab.program.kind)


def send(end, piece, times):
    for _ in range(times):
        end.sendall(piece)
    end.shutdown(socket.SHUT_WR)


def digest(end, found):
    whole = hashlib.sha256()
    while piece := end.recv(1 << 20):
        whole.update(piece)
    found[end] = whole.digest()
