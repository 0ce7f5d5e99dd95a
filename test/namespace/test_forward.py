"""Ports of the host that lead into the guest."""

import socket
import time

import lab
from support import Case, both

OPTIONS = ("-t", "8001", "-t", "8010-8012", "-t", "8020:9020", "-t", "8030-8032:9030-9032", "-t", "192.0.2.2/8040",
           "-t", "%eth0/8041", "-t", "[2001:db8:1::2]/8042",
           "-u", "8001", "-u", "8010-8012", "-u", "8020:9020", "-u", "8030-8032:9030-9032", "-u", "192.0.2.2/8040",
           "-u", "%eth0/8041")


class Tcp(Case):
    options = OPTIONS

    def assert_leads(self, where, address, port, inner=None):
        client, served, peer = self.inbound(where, address, port, inner)
        self.assert_connected(client, served)
        return client, peer

    @both
    def test_port(self, net):
        self.assert_leads(self.lab.remote, net.host, 8001)

    @both
    def test_range(self, net):
        for port in (8010, 8011, 8012):
            self.assert_leads(self.lab.remote, net.host, port)

    @both
    def test_translated_port(self, net):
        self.assert_leads(self.lab.remote, net.host, 8020, 9020)

    @both
    def test_translated_range(self, net):
        for nth in range(3):
            self.assert_leads(self.lab.remote, net.host, 8030 + nth, 9030 + nth)

    def test_listen_address(self):
        self.assert_leads(self.lab.remote, lab.HOST4, 8040)

    def test_listen_address_v6(self):
        self.assert_leads(self.lab.remote, lab.HOST6, 8042)

    def test_other_addresses_are_not_listened_on(self):
        with self.assertRaises(ConnectionRefusedError):
            self.lab.host.connect("127.0.0.1", 8040)

    @both
    def test_listen_interface(self, net):
        self.assert_leads(self.lab.remote, net.host, 8041)

    def test_other_interfaces_are_not_listened_on(self):
        with self.assertRaises(ConnectionRefusedError):
            self.lab.host.connect("127.0.0.1", 8041)

    @both
    def test_client_on_the_hosts_loopback(self, net):
        self.assert_leads(self.lab.host, net.loopback, 8001)

    @both
    def test_client_on_the_host_through_its_own_address(self, net):
        self.assert_leads(self.lab.host, net.host, 8001)

    @both
    def test_guest_sees_the_clients_address_and_port(self, net):
        client, peer = self.assert_leads(self.lab.remote, net.host, 8001)
        self.assertEqual(peer[:2], client.getsockname()[:2])

    @both
    def test_client_behind_a_router(self, net):
        client, peer = self.assert_leads(self.lab.far, net.host, 8001)
        self.assertEqual(peer[:2], client.getsockname()[:2])

    @both
    def test_port_that_is_not_forwarded(self, net):
        with self.guest.listen(net.any, 8002), self.assertRaises(ConnectionRefusedError):
            self.lab.remote.connect(net.host, 8002)

    @both
    def test_no_listener_in_the_guest(self, net):
        """The host has accepted by then: what the client sees is a reset, and soon."""
        began = time.monotonic()
        with self.assertRaises(ConnectionError):
            client = self.closing(self.lab.remote.connect(net.host, 8012))
            client.sendall(b"anyone?")
            if client.recv(1) == b"":
                raise ConnectionError("closed")
        self.assertLess(time.monotonic() - began, 2)

    @both
    def test_d26_200_clients_that_half_close_early(self, net):
        with self.guest.listen(net.any, 8001, backlog=512) as listener:
            clients = []
            for nth in range(200):
                client = self.closing(self.lab.remote.connect(net.host, 8001))
                client.sendall(b"%03d" % nth)
                client.shutdown(socket.SHUT_WR)
                clients.append(client)
            for _ in clients:
                served, _ = listener.accept()
                served.settimeout(5)
                data = b""
                while piece := served.recv(100):
                    data += piece
                served.sendall(b"re " + data)
                served.close()
            answers = []
            for client in clients:
                data = b""
                while piece := client.recv(100):
                    data += piece
                answers.append(data)
        self.assertEqual(answers, [b"re %03d" % nth for nth in range(200)])

    @both
    def test_large_transfer_in(self, net):
        self.transfer(net, "remote")

    @both
    def test_large_transfer_from_the_hosts_loopback(self, net):
        self.transfer(net, "host")

    def transfer(self, net, where):
        bracket = "[%s]" if net.af == socket.AF_INET6 else "%s"
        address = net.host if where == "remote" else net.loopback
        with self.lab.service(self.guest, "stream", "--listen", f"{bracket % net.any}:9020", "--send", 100_000_000,
                              "--seconds", 25) as server:
            client = self.lab.traffic(getattr(self.lab, where), "stream", "--connect", f"{bracket % address}:8020",
                                      "--send", 100_000_000, "--seed", 9, "--seconds", 25)
            served = server.result()
        self.assertEqual(client["streams"][0]["received_hash"], served["streams"][0]["sent_hash"])
        self.assertEqual(served["streams"][0]["received_hash"], client["streams"][0]["sent_hash"])

    @both
    def test_burst_of_connections(self, net):
        """1000 transfers of 100 kB at the same time."""
        bracket = "[%s]" if net.af == socket.AF_INET6 else "%s"
        with self.lab.service(self.guest, "bulk-serve", "--listen", f"{bracket % net.any}:9020"):
            done = self.lab.traffic(self.lab.remote, "bulk", "--connect", f"{bracket % net.host}:8020", "--count", 1000,
                                    "--up", 100_000, "--seconds", 20)
        self.assertEqual((done["complete"], done["failed"]), (1000, 0))


class Udp(Case):
    options = OPTIONS

    def assert_leads(self, where, address, port, inner=None):
        server = self.closing(self.guest.bind("::" if ":" in address else "0.0.0.0", inner or port))
        client = self.closing(where.socket(server.family, socket.SOCK_DGRAM))
        client.connect((address, port))
        client.send(b"question")
        data, peer = server.recvfrom(100)
        self.assertEqual(data, b"question")
        server.sendto(b"answer", peer)
        self.assertEqual(client.recv(100), b"answer")
        return client, peer

    @both
    def test_port(self, net):
        self.assert_leads(self.lab.remote, net.host, 8001)

    @both
    def test_range(self, net):
        for port in (8010, 8011, 8012):
            self.assert_leads(self.lab.remote, net.host, port)

    @both
    def test_b80_translated_port(self, net):
        self.assert_leads(self.lab.remote, net.host, 8020, 9020)

    @both
    def test_translated_range(self, net):
        for nth in range(3):
            self.assert_leads(self.lab.remote, net.host, 8030 + nth, 9030 + nth)

    def test_listen_address(self):
        self.assert_leads(self.lab.remote, lab.HOST4, 8040)

    @both
    def test_listen_interface(self, net):
        self.assert_leads(self.lab.remote, net.host, 8041)

    @both
    def test_client_on_the_hosts_loopback(self, net):
        self.assert_leads(self.lab.host, net.loopback, 8001)

    @both
    def test_guest_sees_the_clients_address_and_port(self, net):
        client, peer = self.assert_leads(self.lab.remote, net.host, 8001)
        self.assertEqual(peer[:2], client.getsockname()[:2])

    @both
    def test_several_clients_at_the_same_time(self, net):
        server = self.closing(self.guest.bind(net.any, 8001))
        clients = [self.closing(self.lab.remote.socket(net.af, socket.SOCK_DGRAM)) for _ in range(10)]
        for nth, client in enumerate(clients):
            client.connect((net.host, 8001))
            client.send(bytes([nth]))
        for _ in clients:
            data, peer = server.recvfrom(100)
            server.sendto(data, peer)
        self.assertEqual([client.recv(100)[0] for client in clients], list(range(10)))

    @both
    def test_b99_answer_comes_from_the_address_that_was_asked(self, net):
        server = self.closing(self.guest.bind(net.any, 8001))
        client = self.closing(self.lab.remote.socket(net.af, socket.SOCK_DGRAM))
        client.sendto(b"question", (net.host, 8001))
        server.sendto(b"answer", server.recvfrom(100)[1])
        self.assertEqual(client.recvfrom(100)[1][:2], (net.host, 8001))


class Refusals(Case):
    def test_port_in_use(self):
        with self.lab.host.listen("0.0.0.0", 8050):
            done = self.run_command("true", options=["-t", "8050"])
        self.assertEqual(done.returncode, 1)
        self.assertIn("8050", done.stderr)

    def test_udp_port_in_use(self):
        with self.lab.host.bind("0.0.0.0", 8051):
            done = self.run_command("true", options=["-u", "8051"])
        self.assertEqual(done.returncode, 1)
        self.assertIn("8051", done.stderr)

    def test_p23737_p27634_ports_are_free_at_once_after_the_end(self):
        for _ in range(3):
            with self.lab.guest("-t", "8052") as guest:
                with guest.listen("0.0.0.0", 8052):
                    self.lab.remote.connect(lab.HOST4, 8052).close()
            self.lab.host.listen("0.0.0.0", 8052).close()
