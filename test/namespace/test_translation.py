"""Addresses that mean something else on the other side: the host's loopback and own address, name servers, targets of port
rules, link-local addresses, and the address and interface that the host's side uses."""

import socket
import subprocess

import lab
from support import V4, V6, Case, both


class Translation(Case):
    def exchange(self, asker, target, server):
        """A datagram to `target` and its answer from there; returns the asker as the server sees it."""
        asker.sendto(b"question", target)
        heard, peer = server.recvfrom(100)
        self.assertEqual(heard, b"question")
        server.sendto(b"answer", peer)
        data, source = asker.recvfrom(100)
        self.assertEqual((data, source[0].split("%")[0], source[1]), (b"answer", target[0].split("%")[0], target[1]))
        return peer

    def udp(self, where, family):
        return self.closing(where.socket(family, socket.SOCK_DGRAM))

    def assert_leads(self, guest, target, where, address):
        """What the guest sends to `target` arrives at `address`, by TCP and UDP."""
        self.assert_connected(*self.pair(where, address, guest=guest, target=target))
        server = self.closing(where.bind(address))
        self.exchange(self.udp(guest, server.family), (target, server.getsockname()[1]), server)

    def source(self, where, address, port, kind=socket.SOCK_STREAM, bind=None):
        """A client of a forwarded port, as the guest sees it."""
        inner = "::" if ":" in address else "0.0.0.0"
        if kind == socket.SOCK_DGRAM:
            client, server = self.udp(where, lab.family_of(address)), self.closing(self.guest.bind(inner, port))
            if bind:
                client.bind((bind, 0))
            peer = self.exchange(client, (address, port), server)
            server.close()
        else:
            with self.guest.listen(inner, port) as listener:
                client = self.closing(where.socket(lab.family_of(address)))
                if bind:
                    client.bind((bind, 0))
                client.connect((address, port))
                served, peer = listener.accept()
                self.assert_connected(client, self.closing(served))
        return peer[0].split("%")[0]


class GuestAddress(Translation):
    """--map-guest-addr"""

    MAPPED = {V4: "192.0.2.66", V6: "2001:db8:1::66"}
    options = ("--map-guest-addr", MAPPED[V4], "--map-guest-addr", MAPPED[V6], "-t", "8301", "-u", "8301")

    @both
    def test_it_leads_to_the_hosts_own_address(self, net):
        self.assert_leads(self.guest, self.MAPPED[net], self.lab.host, net.host)

    @both
    def test_it_answers_echo_requests(self, net):
        self.guest.run("ping", "-c1", "-W2", self.MAPPED[net])

    @both
    def test_it_is_the_source_of_clients_with_the_guests_address(self, net):
        for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
            self.assertEqual(self.source(self.lab.host, net.host, 8301, kind), self.MAPPED[net])

    @both
    def test_the_gateway_is_the_hosts_loopback_as_before(self, net):
        self.assert_leads(self.guest, net.gateway, self.lab.host, net.loopback)


class HostLoopback(Translation):
    """--map-host-loopback"""

    MAPPED = {V4: "192.0.2.67", V6: "2001:db8:1::67"}
    options = ("--map-host-loopback", MAPPED[V4], "--map-host-loopback", MAPPED[V6], "--no-splice", "-t", "8302", "-u",
               "8302")

    @both
    def test_it_leads_to_the_hosts_loopback(self, net):
        self.assert_leads(self.guest, self.MAPPED[net], self.lab.host, net.loopback)
        self.guest.run("ping", "-c1", "-W2", self.MAPPED[net])

    @both
    def test_the_gateway_is_itself(self, net):
        self.assert_leads(self.guest, net.gateway, self.lab.remote, net.gateway)

    @both
    def test_it_is_the_source_of_loopback_clients(self, net):
        for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
            self.assertEqual(self.source(self.lab.host, net.loopback, 8302, kind), self.MAPPED[net])

    def test_other_loopback_clients_come_from_the_gateway(self):
        for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
            shown = self.source(self.lab.host, "127.0.0.1", 8302, kind, bind="127.0.0.9")
            self.assertEqual(shown, lab.GATEWAY4)

    @both
    def test_clients_with_the_guests_address_come_from_the_gateway(self, net):
        for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
            self.assertEqual(self.source(self.lab.host, net.host, 8302, kind), net.gateway)


class Names(Translation):
    """The ports of name servers, 53 and 853, lead elsewhere than the others."""

    FORWARD = {V4: "169.254.1.1", V6: "2001:db8:1::35"}

    def assert_dns(self, guest, target, where, address):
        for port in (53, 853):
            with where.listen(address, port) as listener:
                near = self.closing(guest.connect(target, port))
                self.assert_connected(near, self.closing(listener.accept()[0]))
            with where.bind(address, port) as server:
                self.exchange(self.udp(guest, lab.family_of(target)), (target, port), server)

    def resolver(self, *lines):
        self.lab.resolv_conf(*lines)
        self.addCleanup(self.lab.resolv_conf, f"nameserver {lab.REMOTE4}", f"nameserver {lab.REMOTE6}",
                        "search lab.test")

    @both
    def test_forward_address_of_the_other_ip_version(self, net):
        other = V6 if net is V4 else V4
        self.resolver(f"nameserver {other.remote}")
        with self.another_guest("--dns-forward", self.FORWARD[net]) as guest:
            self.assert_dns(guest, self.FORWARD[net], self.lab.remote, other.remote)

    @both
    def test_forward_addresses_lead_to_the_first_of_their_own_ip_version(self, net):
        self.resolver(f"nameserver {lab.REMOTE4}", f"nameserver {lab.GATEWAY4}", f"nameserver {lab.REMOTE6}",
                      f"nameserver {lab.GATEWAY6}")
        with self.another_guest("--dns-forward", self.FORWARD[V4], "--dns-forward", self.FORWARD[V6]) as guest:
            self.assert_dns(guest, self.FORWARD[net], self.lab.remote, net.remote)

    @both
    def test_server_of_the_option(self, net):
        with self.another_guest("--dns-forward", self.FORWARD[net], "--dns-host", net.loopback) as guest:
            self.assert_dns(guest, self.FORWARD[net], self.lab.host, net.loopback)

    @both
    def test_server_of_the_option_and_the_other_ip_version(self, net):
        other = V6 if net is V4 else V4
        self.resolver("# none")
        with self.another_guest("--dns-forward", self.FORWARD[net], "--dns-host", other.loopback) as guest:
            self.assert_dns(guest, self.FORWARD[net], self.lab.host, other.loopback)

    @both
    def test_other_ports_of_the_forward_address_are_its_own(self, net):
        with self.another_guest("--dns-forward", net.remote, "--dns-host", net.loopback) as guest:
            self.assert_dns(guest, net.remote, self.lab.host, net.loopback)
            self.assert_leads(guest, net.remote, self.lab.remote, net.remote)

    @both
    def test_gateway_that_is_a_name_server_is_the_loopback_on_other_ports(self, net):
        self.resolver(f"nameserver {net.gateway}")
        with self.another_guest() as guest:
            self.assert_dns(guest, net.gateway, self.lab.remote, net.gateway)
            self.assert_leads(guest, net.gateway, self.lab.host, net.loopback)

    @both
    def test_gateway_that_is_a_name_server_is_the_loopback_where_names_are_forwarded(self, net):
        self.resolver(f"nameserver {net.gateway}")
        with self.another_guest("--dns-forward", self.FORWARD[net]) as guest:
            self.assert_dns(guest, self.FORWARD[net], self.lab.remote, net.gateway)
            self.assert_dns(guest, net.gateway, self.lab.host, net.loopback)

    def test_gateway_is_the_loopback_on_ports_of_name_servers_that_are_elsewhere(self):
        with self.another_guest() as guest:
            self.assert_dns(guest, lab.GATEWAY4, self.lab.host, "127.0.0.1")

    def test_none_switches_forwarding_off(self):
        with self.another_guest("-D", "none", "--dns-forward", lab.REMOTE4, "--dns-host", "127.0.0.1") as guest:
            self.assert_dns(guest, lab.REMOTE4, self.lab.remote, lab.REMOTE4)


class LinkLocal(Translation):
    options = ("-t", "8303", "-u", "8303")

    def link_local(self, where):
        """Once duplicate address detection is over."""
        def ready():
            with where.entered(), open("/proc/thread-self/net/if_inet6", encoding="ascii") as file:
                rows = [line.split() for line in file]
            return [row[0] for row in rows if row[0].startswith("fe80") and row[5] == "eth0" and not int(row[4], 16) & 0x40]
        return socket.inet_ntop(socket.AF_INET6, bytes.fromhex(lab.wait_until(ready, 5, "the address")[0]))

    def index(self, where):
        with where.entered():
            return socket.if_nametoindex("eth0")

    def test_stations_of_the_hosts_link_are_reached(self):
        address = self.link_local(self.lab.remote)
        inner, outer = self.index(self.guest), self.index(self.lab.remote)
        with self.lab.remote.socket(socket.AF_INET6) as listener:
            listener.bind((address, 0, 0, outer))
            listener.listen()
            near = self.closing(self.guest.socket(socket.AF_INET6))
            near.connect((address, listener.getsockname()[1], 0, inner))
            self.assert_connected(near, self.closing(listener.accept()[0]))
        server = self.udp(self.lab.remote, socket.AF_INET6)
        server.bind((address, 0, 0, outer))
        self.exchange(self.udp(self.guest, socket.AF_INET6), (address, server.getsockname()[1], 0, inner), server)
        self.guest.run("ping", "-c1", "-W2", f"{address}%eth0")

    def test_clients_keep_theirs_and_reach_the_guests(self):
        client_at, host_at, guest_at = map(self.link_local, (self.lab.remote, self.lab.host, self.guest))
        target = (host_at, 8303, 0, self.index(self.lab.remote))
        with self.guest.listen("::", 8303) as listener:
            client = self.closing(self.lab.remote.socket(socket.AF_INET6))
            client.connect(target)
            served, peer = listener.accept()
            self.assert_connected(client, self.closing(served))
        self.assertEqual([a[0].split("%")[0] for a in (peer, served.getsockname())], [client_at, guest_at])
        server = self.closing(self.guest.bind("::", 8303))
        peer = self.exchange(self.udp(self.lab.remote, socket.AF_INET6), target, server)
        self.assertEqual(peer[0].split("%")[0], client_at)


class Targets(Translation):
    """Rules with an address inside."""

    ADDRESS = {V4: "192.0.2.77", V6: "2001:db8:1::77"}
    options = ("-t", f"0.0.0.0/8304:{ADDRESS[V4]}/9304", "-u", f"0.0.0.0/8304:{ADDRESS[V4]}/9304",
               "-t", f"[::]/8304:[{ADDRESS[V6]}]/9304", "-u", f"[::]/8304:[{ADDRESS[V6]}]/9304",
               "-t", f"0.0.0.0/8305-8306:{ADDRESS[V4]}")

    def make_guest(self):
        guest = super().make_guest()
        guest.run(f"ip addr add {self.ADDRESS[V4]}/32 dev eth0 && ip addr add {self.ADDRESS[V6]}/128 dev eth0 nodad")
        return guest

    @both
    def test_they_lead_to_that_address_alone(self, net):
        for where, address in ((self.lab.remote, net.host), (self.lab.host, net.loopback), (self.lab.host, net.host)):
            with self.guest.listen(self.ADDRESS[net], 9304) as listener:
                client = self.closing(where.connect(address, 8304))
                self.assert_connected(client, self.closing(listener.accept()[0]))
            with self.guest.bind(self.ADDRESS[net], 9304) as server:
                self.exchange(self.udp(where, net.af), (address, 8304), server)

    def test_ports_stay_the_same_if_none_is_named(self):
        with self.guest.listen(self.ADDRESS[V4], 8306) as listener:
            client = self.closing(self.lab.remote.connect(lab.HOST4, 8306))
            self.assert_connected(client, self.closing(listener.accept()[0]))


class Moved(Translation):
    """A guest that gives itself another address."""

    options = ("-t", "8307", "-u", "8307")

    @both
    def test_clients_are_led_to_the_address_it_uses(self, net):
        own, flag = {"v4": ("192.0.2.44/24", ""), "v6": ("2001:db8:1::44/64", "nodad")}[net.name]
        self.guest.run(f"ip addr del {net.host}/{own.split('/')[1]} dev eth0; ip addr add {own} dev eth0 {flag}; "
                       f"ip -{net.name[1]} route replace default via {net.gateway} dev eth0; ping -c1 -W2 {net.remote}")
        for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
            self.assertEqual(self.source(self.lab.remote, net.host, 8307, kind), net.gateway)


class Outbound(Translation):
    """-o, --outbound-if4, --outbound-if6"""

    OWN = {V4: "192.0.2.4", V6: "2001:db8:1::4"}

    def setUp(self):
        for address in (f"{self.OWN[V4]}/24", f"{self.OWN[V6]}/64 nodad"):
            self.lab.ip("host", f"addr add {address} dev eth0")
            self.addCleanup(subprocess.run, ["ip", "-netns", f"{self.lab.name}host", "addr", "del", address.split()[0],
                                             "dev", "eth0"], check=False)

    @both
    def test_connections_come_from_the_address_of_the_option(self, net):
        with self.another_guest("-o", self.OWN[V4], "-o", self.OWN[V6]) as guest:
            _, far = self.pair(self.lab.remote, net.remote, guest=guest)
            self.assertEqual(far.getpeername()[0], self.OWN[net])
            server = self.closing(self.lab.remote.bind(net.remote))
            peer = self.exchange(self.udp(guest, net.af), (net.remote, server.getsockname()[1]), server)
            self.assertEqual(peer[0], self.OWN[net])
            self.assert_leads(guest, net.gateway, self.lab.host, net.loopback)
            guest.run("ping", "-c1", "-W2", net.remote)

    @both
    def test_connections_leave_through_the_interface_of_the_option(self, net):
        with self.another_guest("-i", "eth0", "--outbound-if4", "lo", "--outbound-if6", "lo") as guest:
            with self.lab.remote.listen(net.remote) as listener, self.assertRaises(OSError):
                guest.connect(net.remote, listener.getsockname()[1], timeout=1)
            self.assert_leads(guest, net.gateway, self.lab.host, net.loopback)
        with self.another_guest("--outbound-if4", "eth0", "--outbound-if6", "eth0") as guest:
            self.assert_leads(guest, net.remote, self.lab.remote, net.remote)
            self.assert_leads(guest, net.gateway, self.lab.host, net.loopback)
