"""A host without any network: the guest and the host have each other."""

import socket

from support import both
from world import LOCAL, Case, url

GUEST4, GATEWAY4, GATEWAY6 = "169.254.2.1", "169.254.2.2", "fe80::1"


class Local(Case):
    session = LOCAL

    def test_p24614_address_and_route_v4(self):
        self.assertIn(f"inet {GUEST4}/16 ", self.guest.run("ip -4 addr show dev eth0"))
        self.assertIn(f"default via {GATEWAY4} dev eth0", self.guest.run("ip -4 route"))

    def test_p24614_route_v6(self):
        self.assertIn(f"default via {GATEWAY6} dev eth0", self.guest.run("ip -6 route"))

    def test_d12_only_a_link_local_address(self):
        """A link-local prefix is not for advertising."""
        said = self.guest.run("ip -6 addr show dev eth0")
        self.assertEqual(said.count("inet6"), 1)
        self.assertIn("scope link", said)

    def test_echo(self):
        self.assertIn("1 packets received", self.guest.run(f"ping -c 1 -W 5 {GATEWAY4}"))
        self.assertIn("1 packets received", self.guest.run(f"ping -c 1 -W 5 {GATEWAY6}%eth0"))

    @both
    def test_tcp_out(self, net):
        with self.lab.service(self.lab.bare, "echo", "--listen", url(net.loopback, 8101)):
            self.assertEqual(self.guest.do("tcp_ask", *self.gateway(net), 8101, b"question"), b"question")

    def gateway(self, net):
        return (int(net.af), GATEWAY6 + "%eth0" if net.af == socket.AF_INET6 else GATEWAY4)

    @both
    def test_b181_tcp_in(self, net):
        client, served, peer = self.inbound(self.lab.bare, net.loopback, 8001)
        self.assert_connected(client, served)
        self.assertEqual(peer[0].split("%")[0], self.gateway(net)[1].split("%")[0])

    @both
    def test_udp_in(self, net):
        with self.guest.bind(net.any, 9010) as server, self.lab.bare.socket(net.af, socket.SOCK_DGRAM) as asker:
            asker.connect((net.loopback, 8010))
            asker.send(b"question")
            data, peer = server.recvfrom(100)
            self.assertEqual(data, b"question")
            server.sendto(b"answer", peer)
            self.assertEqual(asker.recv(100), b"answer")
