"""UDP from the guest: targets, sizes, errors, broadcast and multicast."""

import errno
import socket
import struct
import time

from support import V4, Case, both

UDP_SEGMENT, IP_RECVERR, IPV6_RECVERR = 103, 11, 25


class Targets(Case):
    options = ()

    def assert_answered(self, where, address, target=None, guest=None, size=8):
        """A datagram goes there, its answer comes back. Returns the client as the server saw it."""
        server = self.closing(where.bind(address))
        client = self.closing((guest or self.guest).socket(server.family, socket.SOCK_DGRAM))
        client.connect((target or address, server.getsockname()[1]))
        question, answer = bytes(i % 251 for i in range(size)), bytes(i % 241 for i in range(size))
        client.send(question)
        received, seen = server.recvfrom(65536)
        self.assertEqual(received, question)
        server.sendto(answer, seen)
        self.assertEqual(client.recv(65536), answer)
        return client, seen

    @both
    def test_another_host(self, net):
        self.assert_answered(self.lab.remote, net.remote)

    @both
    def test_host_loopback_through_the_gateway_address(self, net):
        self.assert_answered(self.lab.host, net.loopback, target=net.gateway)

    @both
    def test_another_address_of_the_host(self, net):
        self.assert_answered(self.lab.host, net.other)

    @both
    def test_host_behind_a_router(self, net):
        self.assert_answered(self.lab.far, net.far)

    @both
    def test_upstream_2024_07_server_sees_the_hosts_address_and_the_guests_port(self, net):
        client, seen = self.assert_answered(self.lab.remote, net.remote)
        self.assertEqual(seen[:2], (net.host, client.getsockname()[1]))

    @both
    def test_empty_datagram(self, net):
        self.assert_answered(self.lab.remote, net.remote, size=0)

    @both
    def test_datagram_larger_than_the_hosts_mtu(self, net):
        self.assert_answered(self.lab.remote, net.remote, size=8000)

    @both
    def test_largest_datagram_to_the_host(self, net):
        self.assert_answered(self.lab.host, net.loopback, target=net.gateway, size=65400)

    @both
    def test_datagram_larger_than_the_guests_mtu(self, net):
        """Fragments from the guest are put together; what does not fit towards it is fragmented."""
        with self.another_guest("-m", "1500") as guest:
            self.assert_answered(self.lab.host, net.loopback, target=net.gateway, guest=guest, size=20_000)

    @both
    def test_many_servers_from_one_socket(self, net):
        servers = [self.closing(self.lab.remote.bind(net.remote)) for _ in range(20)]
        client = self.closing(self.guest.socket(net.af, socket.SOCK_DGRAM))
        for server in servers:
            client.sendto(b"question", server.getsockname()[:2])
        for nth, server in enumerate(servers):
            server.sendto(bytes([nth]), server.recvfrom(100)[1])
        answers = {}
        for _ in servers:
            data, source = client.recvfrom(100)
            answers[source[1]] = data[0]
        self.assertEqual(answers, {server.getsockname()[1]: nth for nth, server in enumerate(servers)})

    @both
    def test_answer_after_a_while(self, net):
        server = self.closing(self.lab.remote.bind(net.remote))
        client = self.closing(self.guest.socket(net.af, socket.SOCK_DGRAM))
        client.sendto(b"question", server.getsockname()[:2])
        seen = server.recvfrom(100)[1]
        time.sleep(3)
        server.sendto(b"late", seen)
        self.assertEqual(client.recv(100), b"late")

    @both
    def test_segmented_sender(self, net):
        """A guest that hands several datagrams to its kernel as one (QUIC does)."""
        server = self.closing(self.lab.remote.bind(net.remote))
        client = self.closing(self.guest.socket(net.af, socket.SOCK_DGRAM))
        client.setsockopt(socket.SOL_UDP, UDP_SEGMENT, 1000)
        client.sendto(b"".join(bytes([nth]) * 1000 for nth in range(10)), server.getsockname()[:2])
        self.assertEqual([server.recv(65536) for _ in range(10)], [bytes([nth]) * 1000 for nth in range(10)])

    @both
    def test_burst_of_datagrams_keeps_its_order(self, net):
        server = self.closing(self.lab.remote.bind(net.remote))
        client = self.closing(self.guest.socket(net.af, socket.SOCK_DGRAM))
        client.connect(server.getsockname()[:2])
        for nth in range(50):
            client.send(struct.pack("!I", nth))
        self.assertEqual([struct.unpack("!I", server.recv(10))[0] for _ in range(50)], list(range(50)))


class Errors(Case):
    options = ()

    def error_of(self, net, address, port=9, patience=6):
        client = self.closing(self.guest.socket(net.af, socket.SOCK_DGRAM, timeout=0.3))
        # Without it the kernel tells a socket of refused ports only.
        client.setsockopt(*((socket.IPPROTO_IP, IP_RECVERR) if net.af == socket.AF_INET
                            else (socket.IPPROTO_IPV6, IPV6_RECVERR)), 1)
        client.connect((address, port))
        deadline = time.monotonic() + patience
        while time.monotonic() < deadline:
            try:
                client.send(b"anyone?")
                client.recv(100)
            except TimeoutError:
                continue
            except OSError as error:
                return error.errno
        return None

    @both
    def test_b64_closed_port(self, net):
        self.assertEqual(self.error_of(net, net.remote), errno.ECONNREFUSED)

    @both
    def test_closed_port_of_the_host(self, net):
        self.assertEqual(self.error_of(net, net.gateway), errno.ECONNREFUSED)

    @both
    def test_unreachable_network(self, net):
        self.assertIn(self.error_of(net, net.unreachable), (errno.EHOSTUNREACH, errno.ENETUNREACH))

    @both
    def test_dead_host(self, net):
        self.assertEqual(self.error_of(net, net.dead), errno.EHOSTUNREACH)

    @both
    def test_flow_works_after_an_error(self, net):
        client = self.closing(self.guest.socket(net.af, socket.SOCK_DGRAM, timeout=0.5))
        client.connect((net.remote, 4444))
        client.send(b"too early")
        with self.assertRaises(ConnectionRefusedError):
            client.recv(100)
        server = self.closing(self.lab.remote.bind(net.remote, 4444))
        client.send(b"in time")
        self.assertEqual(server.recv(100), b"in time")


class ManyReceivers(Case):
    options = ()

    def test_p24871_upstream_2025_05_broadcast(self):
        server = self.closing(self.lab.remote.socket(socket.AF_INET, socket.SOCK_DGRAM, timeout=3))
        server.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        server.bind(("192.0.2.255", 4445))
        client = self.closing(self.guest.socket(socket.AF_INET, socket.SOCK_DGRAM))
        client.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        client.sendto(b"all of you", ("192.0.2.255", 4445))
        self.assertEqual(server.recv(100), b"all of you")

    def test_multicast_v4(self):
        server = self.closing(self.lab.remote.socket(socket.AF_INET, socket.SOCK_DGRAM, timeout=3))
        server.bind(("239.1.2.3", 4446))
        with self.lab.remote.entered():
            index = socket.if_nametoindex("eth0")
        server.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP,
                          struct.pack("=4s4si", socket.inet_aton("239.1.2.3"), b"\0\0\0\0", index))
        client = self.closing(self.guest.socket(socket.AF_INET, socket.SOCK_DGRAM))
        client.sendto(b"some of you", ("239.1.2.3", 4446))
        self.assertEqual(server.recv(100), b"some of you")

    def test_multicast_v6(self):
        server = self.closing(self.lab.remote.socket(socket.AF_INET6, socket.SOCK_DGRAM, timeout=3))
        server.bind(("::", 4447))
        with self.lab.remote.entered():
            index = socket.if_nametoindex("eth0")
        server.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP,
                          socket.inet_pton(socket.AF_INET6, "ff05::1234") + struct.pack("=I", index))
        client = self.closing(self.guest.socket(socket.AF_INET6, socket.SOCK_DGRAM))
        client.sendto(b"some of you", ("ff05::1234", 4447))
        self.assertEqual(server.recv(100), b"some of you")


class Loss(Case):
    options = ()

    def test_moderate_rate_loses_nothing(self):
        with self.lab.service(self.lab.host, "udp-sink", "--listen", "127.0.0.1:4450") as sink:
            sent = self.lab.traffic(self.guest, "udp-flood", "--connect", f"{V4.gateway}:4450", "--size", 200,
                                    "--rate", 5000, "--seconds", 2)
            time.sleep(0.3)
            received = sink.stop()
        self.assertEqual(received["received"], sent["sent"])

    @both
    def test_round_trips_lose_nothing(self, net):
        target = f"[{net.gateway}]" if net.af == socket.AF_INET6 else net.gateway
        loopback = f"[{net.loopback}]" if net.af == socket.AF_INET6 else net.loopback
        with self.lab.service(self.lab.host, "echo", "--listen", f"{loopback}:4451"):
            done = self.lab.traffic(self.guest, "udp-rr", "--connect", f"{target}:4451", "--count", 2000)
        self.assertEqual((done["count"], done["lost"]), (2000, 0))
