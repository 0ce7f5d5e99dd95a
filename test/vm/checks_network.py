"""A guest behind a link of 1500 bytes, with every name and address set: what it is told, and whom it reaches."""

import os
import socket

import lab
import world
from support import V6, both
from world import ALSO4, ALSO6, DNS4, DNS6, MAP4, MAP6, NARROW, Case, url

SLAAC = "2001:db8:1:0:5054:ff:fe12:3456"
GATEWAYS = {4: MAP4, 6: MAP6}
DHCPCD = r"""nodelay
noarp
option domain_name_servers, domain_search, host_name, interface_mtu
option dhcp6_name_servers, dhcp6_domain_search, dhcp6_fqdn
slaac hwaddr
interface eth0
ipv6rs
ia_na 1
"""


def variables(text):
    """Output of env(1)."""
    return dict(line.split("=", 1) for line in text.splitlines() if "=" in line)


class Lease(Case):
    session = NARROW

    def test_udhcpc(self):
        got = variables(self.guest.run("cat /tmp/lease"))
        self.assertEqual((got["ip"], got["mask"], got["router"]), (lab.HOST4, "24", lab.GATEWAY4))
        self.assertEqual(got["dns"].split(), [DNS4, lab.REMOTE4])
        self.assertEqual(got["search"].split(), ["one.test", "two.example.test"])
        self.assertEqual((got["mtu"], got["hostname"], got["serverid"]), ("1500", "machine", lab.GATEWAY4))
        self.assertGreaterEqual(int(got["lease"]), 3600)
        self.assertEqual(bytes.fromhex(got["opt81"])[3:], b"\7machine\3one\4test\0")

    def test_address_and_route_v4(self):
        self.assertIn(f"inet {lab.HOST4}/24 ", self.guest.run("ip -4 addr show dev eth0"))
        self.assertIn(f"default via {lab.GATEWAY4} dev eth0", self.guest.run("ip -4 route"))

    def test_address_and_route_v6(self):
        """The kernel has made the address of the advertised prefix, and the router has its link-local address."""
        self.assertIn(f"inet6 {SLAAC}/64 scope global", self.guest.run("ip -6 addr show dev eth0"))
        self.assertRegex(self.guest.run("ip -6 route"), r"default via fe80::\S+ dev eth0")
        self.assertIn(f"{lab.REMOTE6} ", self.guest.run(f"ip -6 route get {lab.REMOTE6}"))

    def test_mtu(self):
        self.assertIn("mtu 1500", self.guest.run("ip link show dev eth0"))
        self.assertEqual(self.guest.run("cat /proc/sys/net/ipv6/conf/eth0/mtu"), "1500\n")

    def test_dhcpcd(self):
        """A client that speaks DHCP, DHCPv6 and to routers, and is told the same by all."""
        self.guest.run(f"rm -f /tmp/dhcpcd.*.*; cat >/tmp/dhcpcd.conf <<END\n{DHCPCD}END")
        self.addCleanup(self.configure_again)
        self.guest.run("dhcpcd -f /tmp/dhcpcd.conf -c /inside/hook --nobackground eth0 >/tmp/dhcpcd.log 2>&1 & pid=$!; "
                       "for nth in $(seq 150); do "
                       "[ -e /tmp/dhcpcd.dhcp.BOUND ] && [ -e /tmp/dhcpcd.dhcp6.BOUND6 ] && break; sleep 0.1; done; "
                       "kill $pid; wait; cat /tmp/dhcpcd.log", timeout=30)
        got = variables(self.guest.run("cat /tmp/dhcpcd.dhcp.BOUND"))
        self.assertEqual((got["new_ip_address"], got["new_subnet_mask"]), (lab.HOST4, "255.255.255.0"))
        self.assertEqual((got["new_routers"], got["new_interface_mtu"]), (lab.GATEWAY4, "1500"))
        self.assertEqual((got["new_domain_name_servers"], got["new_host_name"]), (f"{DNS4} {lab.REMOTE4}", "machine"))
        self.assertEqual(got["new_domain_search"], "one.test two.example.test")
        self.assertEqual((got["new_fqdn"], got["new_dhcp_server_identifier"]), ("machine.one.test", lab.GATEWAY4))
        got = variables(self.guest.run("cat /tmp/dhcpcd.dhcp6.BOUND6"))
        self.assertEqual((got["new_dhcp6_ia_na1_ia_addr1"], got["new_dhcp6_name_servers"]), (lab.HOST6, DNS6))
        self.assertEqual(got["new_dhcp6_domain_search"], "one.test two.example.test")
        self.assertEqual(got["new_dhcp6_fqdn"], "machine.one.test")
        got = variables(self.guest.run("cat /tmp/dhcpcd.ra.ROUTERADVERT"))
        self.assertEqual((got["nd1_rdnss1_servers"], got["nd1_dnssl1_search"]), (DNS6, "one.test two.example.test"))
        self.assertEqual((got["nd1_mtu"], got["nd1_hoplimit"], got["nd1_addr1"]), ("1500", "255", f"{SLAAC}/64"))

    def configure_again(self):
        """As it was before: dhcpcd has taken the kernel's part of IPv6 over."""
        self.guest.run("cd /proc/sys/net/ipv6/conf/eth0; echo 0 >addr_gen_mode; echo 1 >accept_ra; "
                       "echo 1 >disable_ipv6; echo 0 >disable_ipv6")
        world.configure(self.guest)


class Reach(Case):
    session = NARROW

    @both
    def test_echo(self, net):
        """Of the host's loopback, the router, a neighbour, and whom the router leads to."""
        for target in (GATEWAYS[6 if net is V6 else 4], net.gateway, net.remote, net.far):
            said = self.guest.run(f"ping -c 2 -i 0.2 -W 5 {target}")
            self.assertIn("2 packets received", said)

    @both
    def test_echo_of_1400_bytes(self, net):
        self.assertIn("1408 bytes from", self.guest.run(f"ping -c 1 -W 5 -s 1400 {net.remote}"))

    @both
    def test_echo_in_fragments(self, net):
        self.assertIn("8008 bytes from", self.guest.run(f"ping -c 1 -W 5 -s 8000 {net.remote}"))

    @both
    def test_b64_traceroute_shows_each_router(self, net):
        command = "traceroute6" if net is V6 else "traceroute"
        said = self.guest.run(f"{command} -n -q 1 -w 3 -m 5 {net.far}", timeout=30)
        hops = [line.split()[1] for line in said.splitlines()[1:]]
        self.assertEqual(hops, [net.gateway, net.far])

    @both
    def test_b64_closed_port_of_udp(self, net):
        with self.guest.socket(net.af, socket.SOCK_DGRAM) as asker:
            asker.connect((net.remote, 9))
            asker.send(b"question")
            with self.assertRaises(ConnectionRefusedError):
                asker.recv(100)

    @both
    def test_dns_forward(self, net):
        address, loopback = (DNS6, "::1") if net is V6 else (DNS4, "127.0.0.1")
        query = b"\x12\x34\1\0\0\1\0\0\0\0\0\0\4name\4test\0\0\1\0\1"
        with lab.Dns(self.lab.host, loopback) as server:
            with self.guest.socket(net.af, socket.SOCK_DGRAM) as asker:
                asker.sendto(query, (address, 53))
                answer, source = asker.recvfrom(1000)
            self.assertEqual([name for name, _ in server.questions], ["name.test"])
        self.assertEqual((answer[:2], answer[-4:], source[0]), (query[:2], bytes([192, 0, 2, 80]), address))

    @both
    def test_map_host_loopback(self, net):
        """Out and in."""
        mapped = GATEWAYS[6 if net is V6 else 4]
        self.assert_connected(*self.pair(self.lab.host, net.loopback, target=mapped))
        client, served, peer = self.inbound(self.lab.host, net.loopback, 8001)
        self.assert_connected(client, served)
        self.assertEqual(peer[0], mapped)

    @both
    def test_map_guest_addr(self, net):
        """The host's address, which the guest has itself."""
        mapped = ALSO6 if net is V6 else ALSO4
        self.assert_connected(*self.pair(self.lab.host, net.host, target=mapped))
        client, served, peer = self.inbound(self.lab.host, net.host, 8001)
        self.assert_connected(client, served)
        self.assertEqual(peer[0], mapped)


class Data(Case):
    session = NARROW

    @both
    def test_tcp_out(self, net):
        assert_stream_out(self, net, 4_000_000)

    @both
    def test_tcp_in(self, net):
        assert_stream_in(self, net, 4_000_000)

    @both
    def test_udp_out(self, net):
        self.assert_udp_out(net, 1, 1000, 1400)

    @both
    def test_udp_out_in_fragments(self, net):
        self.assert_udp_out(net, 1500, 8000, 60_000)

    def assert_udp_out(self, net, *sizes):
        with self.lab.service(self.lab.remote, "echo", "--listen", url(net.remote, 8100)):
            for size in sizes:
                self.assertEqual(self.guest.do("udp_ask", int(net.af), net.remote, 8100, size), (size, True))

    @both
    def test_udp_in(self, net):
        """The answers do not fit into the link, either."""
        assert_udp_in(self, net, 1, 1400)

    @both
    def test_udp_in_longer_than_the_link(self, net):
        with self.guest.bind(net.any, 8001) as server, self.lab.remote.socket(net.af, socket.SOCK_DGRAM) as sender:
            server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
            for size in (1500, 8000, 60_000):
                sender.sendto(b"%07d " % size * (size // 8), (net.host, 8001))
                self.assertEqual(len(server.recv(65536)), size // 8 * 8)


class Whole(Case):
    session = NARROW

    def test_no_packet_is_malformed(self):
        """Of all in this session: for tshark, which verifies checksums, and for the guest's kernel, which counts."""
        self.assert_works()
        path = os.path.join(self.lab.dir, "narrow.pcap")
        wrong = "_ws.malformed || ip.checksum.status == 0 || icmp.checksum.status == 0 || " \
                "icmpv6.checksum.status == 0 || _ws.short"
        if self.world.link == "stream":
            wrong += " || tcp.checksum.status == 0 || udp.checksum.status == 0"  # else the guest finishes them
        checked = [word for name in ("ip", "tcp", "udp") for word in ("-o", f"{name}.check_checksum:TRUE")]
        # What the guest sends is not the program's fault.
        wanted = f"({wrong}) && eth.src != {world.guest.MAC}"
        found = self.lab.call(["tshark", "-n", "-r", path, *checked, "-Y", wanted], timeout=50, check=False).stdout
        self.assertEqual(found, "")
        everything = self.lab.call(["capinfos", "-Mc", path], check=False).stdout
        self.note(everything.split()[-1] + " frames")
        self.assertEqual(self.guest.do("damaged_packets"), {})


def assert_stream_out(case, net, size):
    """TCP from the guest to `remote`."""
    server = case.lab.service(case.lab.remote, "stream", "--listen", url(net.remote, 8101))
    sent = case.guest.traffic("stream", "--connect", url(net.remote, 8101), "--send", size)
    received = server.result(10)
    case.assertEqual(received["streams"][0]["received"], size)
    case.assertEqual(received["streams"][0]["received_hash"], sent["streams"][0]["sent_hash"])
    case.note(f"{sent['sent_gbps']:.2f} Gb/s")


def assert_stream_in(case, net, size, where=None, target=None):
    """TCP to the guest, from `remote` unless told."""
    server = case.guest.service("stream", "--listen", url(net.any, 8001))
    target = url(target or net.host, 8001)
    sent = case.lab.traffic(where or case.lab.remote, "stream", "--connect", target, "--send", size)
    received = server.result(10)
    case.assertEqual(received["streams"][0]["received"], size)
    case.assertEqual(received["streams"][0]["received_hash"], sent["streams"][0]["sent_hash"])
    case.note(f"{received['received_gbps']:.2f} Gb/s")


def assert_udp_in(case, net, *sizes):
    """Datagrams from `remote` to an echo in the guest."""
    with case.guest.service("echo", "--listen", url(net.any, 8001)):
        for size in sizes:
            with case.lab.remote.socket(net.af, socket.SOCK_DGRAM, timeout=5) as asker:
                data = b"%07d " % size * (size // 8 + 1)
                asker.sendto(data[:size], (net.host, 8001))
                case.assertEqual(asker.recv(1 << 17), data[:size])
