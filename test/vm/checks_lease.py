"""What a client is told of its network, by DHCP, router advertisements and DHCPv6, and what it is not told."""

import ipaddress
import struct

import lab
import packets
from client import LINK_LOCAL, MAC
from packets import ICMP6, UDP
from world import Case

DISCOVER, OFFER, REQUEST, ACK = 1, 2, 3, 5
RAPID_COMMIT = b"\x50\0"
SOLICIT, ADVERTISE, REQUEST6, REPLY, INFORMATION = 1, 2, 3, 7, 11
ADDRESS4, ADDRESS6 = "192.0.2.33", "2001:db8:1::33"
ASKED = ("-a", ADDRESS4, "-n", "26", "-a", ADDRESS6, "-g", lab.GATEWAY4, "-m", "1400", "-H", "machine",
         "--fqdn", "machine.one.test", "-D", "192.0.2.53", "-D", "198.51.100.53", "-D", "2001:db8:1::53",
         "-D", "2001:db8:2::53", "-S", "one.test", "-S", "two.example.test")
DNS4, DNS6 = ["192.0.2.53", "198.51.100.53"], ["2001:db8:1::53", "2001:db8:2::53"]
SEARCH = ["one.test", "two.example.test"]


def dhcp(client, kind, options=b""):
    """Asks the server of IPv4."""
    head = struct.pack("!BBBBIHH", 1, 1, 6, 0, 0x1234567, 0, 0) + bytes(16) + MAC + bytes(10 + 64 + 128)
    message = head + b"\x63\x82\x53\x63" + bytes([53, 1, kind]) + options + b"\xff"
    client.send_ip("255.255.255.255", UDP, packets.udp(68, 67, message), source="0.0.0.0")


def dhcp_answer(packet):
    return packet.is_udp(67, 68)


def lease(client, kind=DISCOVER, options=b""):
    """What the server answers: the packet, the address given, and the options."""
    dhcp(client, kind, options)
    packet = client.expect("answer of DHCP", dhcp_answer)
    assert packet.data[0] == 2 and packet.data[4:8] == b"\x01\x23\x45\x67" and packet.data[28:34] == MAC
    return packet, str(ipaddress.ip_address(packet.data[16:20])), packets.options_of(packet.data[240:])


def solicit_router(client):
    packet = packets.ip(LINK_LOCAL, "ff02::2", ICMP6, b"\x85\0\0\0\0\0\0\0\1\1" + MAC, ttl=255)
    client.send(packets.ethernet(b"\x33\x33\0\0\0\2", MAC, packets.IPV6, packet))


def is_advertisement(packet):
    return packet.protocol == ICMP6 and packet.payload[0] == 134


def advertisement(client):
    """A router advertisement: the packet, and its options as a dictionary of lists."""
    solicit_router(client)
    packet = client.expect("router advertisement", is_advertisement)
    options = {}
    for number, data in packets.ndp_options(packet.payload[16:]):
        options.setdefault(number, []).append(data)
    return packet, options


def dhcp6(client, kind, *options):
    """Asks the server of IPv6."""
    client_id = b"\0\3\0\1" + MAC
    wanted = struct.pack("!HHH", 23, 24, 39)
    options = ((1, client_id), (6, wanted), *options)
    data = b"".join(struct.pack("!HH", number, len(value)) + value for number, value in options)
    message = bytes([kind]) + b"\x01\x23\x45" + data
    client.send_ip("ff02::1:2", UDP, packets.udp(546, 547, message), source=LINK_LOCAL)


def dhcp6_answer(packet):
    return packet.is_udp(547, 546)


def lease6(client, kind, *options):
    """The kind of the answer, and its options."""
    dhcp6(client, kind, *options)
    packet = client.expect("answer of DHCPv6", dhcp6_answer)
    assert packet.data[1:4] == b"\x01\x23\x45"
    return packet.data[0], packets.options_of(packet.data[4:], head=2)


ASSOCIATION = (3, struct.pack("!III", 7, 0, 0))
"""An IA_NA, without an address."""


def addresses(data, size):
    return [str(ipaddress.ip_address(data[at:at + size])) for at in range(0, len(data), size)]


class Dhcp(Case):
    def asked_for(self, *more):
        return self.client(*ASKED, *more)

    def assert_all(self, given, options):
        self.assertEqual(given, ADDRESS4)
        self.assertEqual(options[1], bytes([255, 255, 255, 192]))
        self.assertEqual(addresses(options[3], 4), [lab.GATEWAY4])
        self.assertEqual(addresses(options[6], 4), DNS4)
        self.assertEqual(options[12], b"machine")
        self.assertEqual(int.from_bytes(options[26], "big"), 1400)
        self.assertGreaterEqual(int.from_bytes(options[51], "big"), 3600)
        self.assertEqual(addresses(options[54], 4), [lab.GATEWAY4])
        self.assertEqual(options[81][0] & 0x04, 0x04)
        self.assertEqual(packets.names_of(options[81][3:]), ["machine.one.test"])
        self.assertEqual(packets.names_of(options[119]), SEARCH)
        self.assertNotIn(121, options)

    def test_offer_has_what_was_asked_for(self):
        _, given, options = lease(self.asked_for())
        self.assertEqual(options[53], bytes([OFFER]))
        self.assert_all(given, options)

    def test_acknowledgement_has_what_was_asked_for(self):
        wanted = b"\x32\4" + packets.packed(ADDRESS4) + b"\x36\4" + packets.packed(lab.GATEWAY4)
        _, given, options = lease(self.asked_for(), REQUEST, wanted)
        self.assertEqual(options[53], bytes([ACK]))
        self.assert_all(given, options)

    def test_options_come_as_the_client_lists_them(self):
        """All that is wanted is there, in any order."""
        _, _, options = lease(self.asked_for(), options=bytes([55, 4, 119, 6, 3, 1]))
        self.assertLessEqual({1, 3, 6, 51, 53, 54, 119}, set(options))

    def test_rapid_commit(self):
        """An acknowledgement at once, for clients that read 576 bytes at most."""
        packet, given, options = lease(self.asked_for(), options=RAPID_COMMIT)
        self.assertEqual((given, options[53], options[80]), (ADDRESS4, bytes([ACK]), b""))
        self.assertLessEqual(len(packet.payload) + 20, 576)
        self.note(f"{len(packet.payload) + 20} bytes")

    def test_host_is_the_template(self):
        client = self.client()
        _, given, options = lease(client)
        self.assertEqual(given, lab.HOST4)
        self.assertEqual(options[1], bytes([255, 255, 255, 0]))
        self.assertEqual(addresses(options[3], 4), [lab.GATEWAY4])
        self.assertEqual(addresses(options[6], 4), [lab.REMOTE4])
        self.assertEqual(packets.names_of(options[119]), ["lab.test"])
        self.assertEqual(int.from_bytes(options[26], "big"), 65520)
        for absent in (12, 81, 121, 80):
            self.assertNotIn(absent, options)

    def test_gateway_outside_of_the_network(self):
        """By classless routes: the gateway itself, then everything by way of it."""
        client = self.client("-a", "198.51.100.77", "-n", "32", "-g", lab.GATEWAY4)
        _, given, options = lease(client)
        self.assertEqual(given, "198.51.100.77")
        self.assertEqual(options[1], b"\xff" * 4)
        gateway = packets.packed(lab.GATEWAY4)
        self.assertEqual(options[121], b"\x20" + gateway + bytes(4) + b"\0" + gateway)

    def test_without_mtu(self):
        _, _, options = lease(self.client("-m", "0"))
        self.assertNotIn(26, options)

    def test_without_dns(self):
        _, _, options = lease(self.asked_for("--no-dhcp-dns"))
        self.assertNotIn(6, options)
        self.assertEqual(options[12], b"machine")

    def test_without_search(self):
        _, _, options = lease(self.asked_for("--no-dhcp-search"))
        self.assertNotIn(119, options)
        self.assertEqual(addresses(options[6], 4), DNS4)

    def test_none_instead_of_servers_and_domains(self):
        _, _, options = lease(self.client("-D", "none", "-S", "none"))
        self.assertFalse({6, 119} & set(options))

    def test_off(self):
        client = self.client("--no-dhcp")
        client.assert_served()
        dhcp(client, DISCOVER)
        client.nothing("answer of DHCP", dhcp_answer)

    def test_off_without_ipv4(self):
        client = self.client("-6")
        client.ping(lab.GATEWAY6)
        dhcp(client, DISCOVER)
        client.nothing("answer of DHCP", dhcp_answer)


class Router(Case):
    def test_advertisement_has_what_was_asked_for(self):
        packet, options = advertisement(self.client(*ASKED))
        self.assertEqual(packet.ttl, 255)
        self.assertIn(packet.target, (LINK_LOCAL, "ff02::1"))
        self.assertTrue(packet.source.startswith("fe80::"))
        limit, flags, lifetime = struct.unpack("!BBH", packet.payload[4:8])
        self.assertEqual((limit, flags & 0x80), (255, 0x80))
        self.assertGreaterEqual(lifetime, 1800)
        prefix = options[3][0]
        self.assertEqual((prefix[0], prefix[1] & 0xC0), (64, 0xC0))
        self.assertEqual(prefix[14:22], packets.packed(ADDRESS6)[:8])
        self.assertEqual(options[1], [packet.from_mac])
        self.assertEqual(int.from_bytes(options[5][0], "big"), 1400)
        self.assertEqual(addresses(options[25][0][6:], 16), DNS6)
        self.assertEqual(packets.names_of(options[31][0][6:]), SEARCH)

    def test_d12_prefix_is_masked(self):
        _, options = advertisement(self.client(*ASKED))
        self.assertEqual(addresses(options[3][0][14:30], 16), ["2001:db8:1::"])

    def test_d6_search_list_that_needs_no_padding(self):
        """An option of length 0 behind it would have the whole advertisement ignored."""
        _, options = advertisement(self.client("-S", "abcdefghi.test"))
        self.assertEqual(packets.names_of(options[31][0][6:]), ["abcdefghi.test"])

    def test_without_mtu(self):
        _, options = advertisement(self.client("-m", "0"))
        self.assertNotIn(5, options)

    def test_without_dns(self):
        _, options = advertisement(self.client(*ASKED, "--no-dhcp-dns"))
        self.assertNotIn(25, options)

    def test_without_search(self):
        _, options = advertisement(self.client(*ASKED, "--no-dhcp-search"))
        self.assertNotIn(31, options)
        self.assertIn(25, options)

    def test_off(self):
        """Neighbours are still answered for."""
        client = self.client("--no-ra")
        solicit_router(client)
        client.nothing("router advertisement", is_advertisement)
        client.ping(lab.GATEWAY6)

    def test_off_with_all_of_ndp(self):
        client = self.client("--no-ndp")
        client.ping(lab.GATEWAY4)
        solicit_router(client)
        client.send_solicitation(lab.GATEWAY6)
        client.nothing("advertisement", lambda p: p.protocol == ICMP6 and p.payload[0] in (134, 136))

    def test_off_without_ipv6(self):
        client = self.client("-4")
        client.ping(lab.GATEWAY4)
        solicit_router(client)
        client.nothing("router advertisement", is_advertisement)

    def test_b120_neighbours_are_answered_for(self):
        """Those that the host knows with their own hardware addresses; the gateway stands for the host's loopback."""
        client = self.client()
        self.assertEqual(self.link_layer(client, lab.GATEWAY6), client.resolve(6))
        self.assertNotEqual(self.link_layer(client, lab.REMOTE6), client.resolve(6))

    def link_layer(self, client, address):
        client.send_solicitation(address)
        answer = client.expect("neighbour advertisement", lambda p: p.protocol == ICMP6 and p.payload[0] == 136
                               and p.payload[8:24] == packets.packed(address))
        return dict(packets.ndp_options(answer.payload[24:]))[2]


class Dhcp6(Case):
    def assert_all(self, options):
        self.assertEqual(options[1], b"\0\3\0\1" + MAC)
        self.assertEqual(options[3][:4], ASSOCIATION[1][:4])
        inner = packets.options_of(options[3][12:], head=2)
        self.assertEqual(addresses(inner[5][:16], 16), [ADDRESS6])
        self.assertEqual(addresses(options[23], 16), DNS6)
        self.assertEqual(packets.names_of(options[24]), SEARCH)
        self.assertEqual(packets.names_of(options[39][1:]), ["machine.one.test"])

    def test_lease_has_what_was_asked_for(self):
        client = self.client(*ASKED)
        kind, options = lease6(client, SOLICIT, ASSOCIATION)
        self.assertEqual(kind, ADVERTISE)
        self.assert_all(options)
        kind, options = lease6(client, REQUEST6, (2, options[2]), (3, options[3]))
        self.assertEqual(kind, REPLY)
        self.assert_all(options)

    def test_host_is_the_template(self):
        _, options = lease6(self.client(), SOLICIT, ASSOCIATION)
        inner = packets.options_of(options[3][12:], head=2)
        self.assertEqual(addresses(inner[5][:16], 16), [lab.HOST6])
        self.assertEqual(addresses(options[23], 16), [lab.REMOTE6])
        self.assertEqual(packets.names_of(options[24]), ["lab.test"])
        self.assertNotIn(39, options)

    def test_d10_information_without_an_address(self):
        kind, options = lease6(self.client(*ASKED), INFORMATION)
        self.assertEqual(kind, REPLY)
        self.assertEqual(addresses(options[23], 16), DNS6)
        self.assertNotIn(3, options)

    def test_without_dns(self):
        _, options = lease6(self.client(*ASKED, "--no-dhcp-dns"), SOLICIT, ASSOCIATION)
        self.assertNotIn(23, options)

    def test_without_search(self):
        _, options = lease6(self.client(*ASKED, "--no-dhcp-search"), SOLICIT, ASSOCIATION)
        self.assertNotIn(24, options)
        self.assertIn(23, options)

    def test_off(self):
        client = self.client("--no-dhcpv6")
        client.ping(lab.GATEWAY6)
        dhcp6(client, SOLICIT, ASSOCIATION)
        client.nothing("answer of DHCPv6", dhcp6_answer)
