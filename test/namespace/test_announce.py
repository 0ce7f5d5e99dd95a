"""`spelt announce`: what is sent, how often, and what is said when it cannot be."""

import time

from respond_world import CONTAINER, CONTAINER4, HOST_MAC, INNER, fields
from test_respond import Behind


class Announce(Behind):
    def announce(self, *options, check=True, prefix=(), name="host"):
        return self.world.call(name, *prefix, self.lab.program.path, "announce", *options, check=check)

    def captured(self, *options):
        with self.world.captured("router") as path:
            self.announce("-i", "eth0", *options)
        return path

    def test_both_versions_field_by_field(self):
        path = self.captured("--count", "2", "--interval", "0.3", CONTAINER, CONTAINER4, f"{INNER}6")
        arp = fields(path, f"arp && arp.src.proto_ipv4 == {CONTAINER4}", "eth.src", "eth.dst", "arp.opcode",
                     "arp.src.hw_mac", "arp.dst.hw_mac", "arp.dst.proto_ipv4", "frame.len", "frame.time_relative")
        expected = [HOST_MAC, "ff:ff:ff:ff:ff:ff", "1", HOST_MAC, "00:00:00:00:00:00", CONTAINER4, "60"]
        self.assertEqual([row[:7] for row in arp], [expected] * 2)
        self.assertAlmostEqual(float(arp[1][7]) - float(arp[0][7]), 0.3, delta=0.15)
        ndp = fields(path, "icmpv6.type == 136", "eth.dst", "ipv6.src", "ipv6.dst", "ipv6.hlim", "icmpv6.nd.na.target_address",
                     "icmpv6.opt.linkaddr", "icmpv6.checksum.status", "icmpv6.nd.na.flag")
        row = ["33:33:00:00:00:01", CONTAINER, "ff02::1", "255", CONTAINER, HOST_MAC, "1", "0x20000000"]
        six = [text.replace(CONTAINER, f"{INNER}6") for text in row]
        self.assertEqual(ndp, [row, six] * 2)

    def test_reply_form_router_flag_and_another_mac(self):
        path = self.captured("--count", "1", "--reply", "--router", "--mac", "02:00:00:00:00:99", CONTAINER, CONTAINER4)
        self.assertEqual(
            fields(path, "arp.opcode == 2", "eth.src", "arp.src.hw_mac", "arp.dst.hw_mac", "arp.dst.proto_ipv4"),
            [["02:00:00:00:00:99"] * 3 + [CONTAINER4]])
        self.assertEqual(fields(path, "icmpv6.type == 136", "icmpv6.nd.na.flag", "icmpv6.opt.linkaddr"),
                         [["0xa0000000", "02:00:00:00:00:99"]])

    def test_neighbours_learn_where_an_address_has_gone(self):
        self.world.ip("router", f"neigh replace {CONTAINER} lladdr 02:00:00:00:00:77 dev eth0 nud stale")
        self.world.ip("router", f"neigh replace {CONTAINER4} lladdr 02:00:00:00:00:77 dev eth0 nud stale")
        # The kernel believes no second change within a second (locktime).
        time.sleep(1.1)
        done = self.announce("-i", "eth0", "--count", "1", CONTAINER, CONTAINER4)
        self.assertEqual((done.stdout, done.stderr), ("", ""))
        for address in (CONTAINER, CONTAINER4):
            self.assertIn(HOST_MAC, self.world.ip("router", f"neigh show {address} dev eth0"))

    def test_what_cannot_be_done_is_said(self):
        for options, status, sentence in (
                (("-i", "nosuch0", CONTAINER), 1, "there is no interface 'nosuch0'"),
                (("-i", "lo", CONTAINER), 1, "'lo' is no Ethernet interface"),
                (("-i", "eth0", "ff02::1"), 2, "no neighbour has this address"),
                (("-i", "eth0"), 2, "ADDR"), (("-i", "eth0", "--interval", "0", CONTAINER), 2, "0.001 to 86400"),
                (("-i", "eth0", "--mac", "01:00:00:00:00:00", CONTAINER), 2, "no single station")):
            done = self.announce(*options, check=False)
            self.assertEqual((done.returncode, done.stdout), (status, ""), options)
            self.assertIn(sentence, done.stderr)
        done = self.announce("-i", "eth0", CONTAINER, check=False, prefix=("setpriv", "--bounding-set", "-net_raw", "--"))
        self.assertEqual(done.returncode, 1)
        self.assertIn("CAP_NET_RAW", done.stderr)

    def test_a_link_that_is_down_is_an_error(self):
        self.world.ip("host", "link add idle0 type veth peer name idle1")
        try:
            done = self.announce("-i", "idle0", CONTAINER4, check=False)
        finally:
            self.world.ip("host", "link delete idle0")
        self.assertEqual(done.returncode, 1)
        self.assertIn("Network is down", done.stderr)
