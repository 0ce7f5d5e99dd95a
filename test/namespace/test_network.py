"""What a guest's network looks like from inside."""

import json

import lab
from support import Case, both


def addresses(guest, interface="eth0"):
    links = json.loads(guest.output("ip", "-json", "addr", "show", "dev", interface))
    return [(a["local"], a["prefixlen"], a) for a in links[0]["addr_info"]]


def link(guest, interface="eth0"):
    return json.loads(guest.output("ip", "-json", "link", "show", "dev", interface))[0]


class Defaults(Case):
    options = ()

    def test_interface_is_named_as_the_hosts(self):
        self.assertEqual(self.guest.interface(), "eth0")

    def test_address_is_the_hosts_v4(self):
        self.assertIn((lab.HOST4, 24), [a[:2] for a in addresses(self.guest)])

    def test_address_is_the_hosts_v6(self):
        self.assertIn((lab.HOST6, 64), [a[:2] for a in addresses(self.guest)])

    def test_no_address_is_tentative(self):
        with self.lab.guest() as guest:
            flags = [(a[0], a[2].get("tentative", False)) for a in addresses(guest)]
        self.assertEqual([name for name, tentative in flags if tentative], [])

    def test_default_route_is_the_hosts_v4(self):
        routes = json.loads(self.guest.output("ip", "-json", "route", "show", "default"))
        self.assertEqual([route["gateway"] for route in routes], [lab.GATEWAY4])

    def test_default_route_is_the_hosts_v6(self):
        routes = json.loads(self.guest.output("ip", "-json", "-6", "route", "show", "default"))
        self.assertEqual([route["gateway"] for route in routes], [lab.GATEWAY6])

    def test_d22_connected_route_is_there_once(self):
        routes = json.loads(self.guest.output("ip", "-json", "route", "show", "192.0.2.0/24"))
        self.assertEqual(len(routes), 1)

    def test_mtu(self):
        self.assertEqual(link(self.guest)["mtu"], 65520)

    def test_interface_is_up(self):
        self.assertIn("UP", link(self.guest)["flags"])

    def test_loopback_is_up(self):
        self.assertIn("UP", link(self.guest, "lo")["flags"])

    @both
    def test_loopback_works(self, net):
        with self.guest.listen(net.loopback) as listener:
            self.guest.connect(net.loopback, listener.getsockname()[1]).close()
            peer = listener.accept()[0].getpeername()[0]
        self.assertEqual(peer, net.loopback)

    def test_ping_sockets_are_allowed(self):
        low, high = self.guest.output("cat /proc/sys/net/ipv4/ping_group_range").split()
        self.assertLessEqual(int(low), int(high))


class Options(Case):
    def test_mtu(self):
        with self.lab.guest("-m", "1500") as guest:
            self.assertEqual(link(guest)["mtu"], 1500)

    def test_interface_name(self):
        with self.lab.guest("-I", "net7") as guest:
            self.assertEqual(guest.interface(), "net7")

    def test_address_and_netmask_and_gateway(self):
        with self.lab.guest("-a", "10.9.8.7", "-n", "20", "-g", "10.9.0.1") as guest:
            self.assertIn(("10.9.8.7", 20), [a[:2] for a in addresses(guest)])
            self.assertIn("via 10.9.0.1", guest.output("ip route show default"))
            with self.lab.remote.listen(lab.REMOTE4) as listener:
                guest.connect(*listener.getsockname()).close()

    def test_ipv4_only(self):
        with self.lab.guest("-4") as guest:
            self.assertEqual(guest.output("ip -6 route show default"), "")
            self.assertIn("default", guest.output("ip -4 route show default"))

    def test_ipv6_only(self):
        with self.lab.guest("-6") as guest:
            self.assertEqual(guest.output("ip -4 route show default"), "")
            self.assertIn("default", guest.output("ip -6 route show default"))

    def test_mac_address_of_the_guest(self):
        with self.lab.guest("--ns-mac-addr", "02:00:5e:10:00:07") as guest:
            self.assertEqual(link(guest)["address"], "02:00:5e:10:00:07")


class HostWithoutNetwork(Case):
    """Local mode: the host has no route, the guest still reaches it."""

    def run_bare(self, script):
        argv = self.lab.as_user(self.lab.program.run(["-q"], ["sh", "-c", script]), where=self.lab.bare)
        return self.lab.call(argv)

    def test_address_v4(self):
        self.assertIn("169.254.2.1/16", self.run_bare("ip -4 addr").stdout)

    def test_route_v4(self):
        self.assertIn("169.254.2.2", self.run_bare("ip -4 route show default").stdout)

    def test_gateway_answers_v4(self):
        self.lab.bare.sysctl("net.ipv4.ping_group_range", "0 2147483647")
        self.assertIn("1 received", self.run_bare("ping -c1 -W2 169.254.2.2").stdout)

    def test_route_v6(self):
        self.assertIn("fe80::1", self.run_bare("ip -6 route show default").stdout)
