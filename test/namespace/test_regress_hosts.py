"""Hosts on which pasta once failed. The names bear the numbers of the reports; doc/regressions.md lists them all."""

import json
import subprocess

import lab
from support import Case, V4, V6, both, read_to_end
from test_hosts import AWAY4, AWAY6, PORT, Greeter, Hosts as _Hosts

# Says to each client what it sees it as.
SERVER = ("import socket; s = socket.create_server(('::', 80), family=socket.AF_INET6, dualstack_ipv6=True); "
          "print('up', flush=True)\nwhile True: c, a = s.accept(); c.sendall(a[0].encode()); c.close()")
SERVER4 = SERVER.replace("'::'", "'0.0.0.0'").replace("AF_INET6, dualstack_ipv6=True", "AF_INET")
# A kernel without IPv6, as far as socket(2) shows it: EAFNOSUPPORT for AF_INET6, that is 10.
WITHOUT_IPV6 = """
import ctypes, os, platform, struct, sys
libc = ctypes.CDLL(None, use_errno=True)
number = {"x86_64": 41, "aarch64": 198}[platform.machine()]
code = [(0x20, 0, 0, 0), (0x15, 0, 3, number), (0x20, 0, 0, 16), (0x15, 0, 1, 10), (0x06, 0, 0, 0x50000 + 97),
        (0x06, 0, 0, 0x7fff0000)]
filters = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *c) for c in code))
program = ctypes.create_string_buffer(struct.pack("HxxxxxxP", len(code), ctypes.addressof(filters)))
if libc.prctl(38, 1, 0, 0, 0) or libc.prctl(22, 2, program, 0, 0):
    sys.exit("no seccomp")
os.execv(sys.argv[1], sys.argv[1:])
"""


class Regress(Case):
    ask, assert_says = _Hosts.ask, _Hosts.assert_says
    assert_reaches, assert_loopback_is_at, host = _Hosts.assert_reaches, _Hosts.assert_loopback_is_at, _Hosts.host
    V4, PEER4, V6, PEER6 = _Hosts.V4, _Hosts.PEER4, _Hosts.V6, _Hosts.PEER6

    def routes(self, host, *options, version="-4"):
        return json.loads(self.ask(host, f"ip -json {version} route show", *options).stdout or "[]")

    def serve(self, host, *options, wrapper=(), server=SERVER):
        """A guest with a server on port 80."""
        argv = [*wrapper, *self.lab.program.run(["-q", *options], ["/usr/bin/python3", "-c", server])]
        guest = self.lab.popen(self.lab.as_user(argv, where=host), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
        self.addCleanup(self.lab.end, guest)
        self.assertEqual(lab.read_line(guest.stdout, 5), "up\n")

    def shown(self, where, address, port):
        """The client's address as the guest sees it."""
        with where.connect(address, port, timeout=3) as client:
            return read_to_end(client).decode().removeprefix("::ffff:").split("%")[0]


class Families(Regress):
    def test_b128_b129_ipv6_is_local_where_the_host_has_none(self):
        with self.host(*self.V4, peer=self.PEER4) as host:
            self.assertIn("fe80::1", [r.get("gateway") for r in self.routes(host, "-6", version="-6")])
            self.assertEqual(self.routes(host, "-6"), [])

    def test_b128_b129_ipv4_is_local_where_the_host_has_none(self):
        with self.host(*self.V6, peer=self.PEER6) as host:
            self.assertIn("169.254.2.2", [r.get("gateway") for r in self.routes(host, "-4")])
            self.assertIn("169.254.2.2", [r.get("gateway") for r in self.routes(host)])

    def test_b122_ipv6_interface_without_a_global_address(self):
        with self.host(*self.V4, "-6 route add default via fe80::1", peer=self.PEER4) as host:
            self.assertIn("fe80::1", [r.get("gateway") for r in self.routes(host, version="-6")])
            self.assert_reaches(host, AWAY4)
            self.assert_loopback_is_at(host, "[fe80::1%eth0]")

    def test_b188_rhbz2424192_kernel_without_ipv6(self):
        with self.lab.another_host(*self.V4, peer=self.PEER4, ipv6=False) as (host, peer):
            self.serve(host, "-t", "8095:80", wrapper=["/usr/bin/python3", "-c", WITHOUT_IPV6], server=SERVER4)
            self.assertEqual(self.shown(peer, "10.1.0.2", 8095), "10.1.0.1")
            self.assertNotEqual(self.shown(host, "127.0.0.1", 8095), "")

    def test_b188_rhbz2424192_guest_without_ipv6_reaches_others(self):
        with self.host(*self.V4, peer=self.PEER4, ipv6=False) as host:
            argv = ["/usr/bin/python3", "-c", WITHOUT_IPV6,
                    *self.lab.program.run(["-q"], ["sh", "-c", f"curl -sm3 http://10.1.0.1:{PORT}/; ping -c1 -W2 {AWAY4}"])]
            done = self.lab.call(self.lab.as_user(argv, where=host), check=False)
            self.assertIn("hello", done.stdout, done.stderr)
            self.assertIn("1 received", done.stdout)

    def test_b181_client_on_the_loopback_where_ipv6_is_local(self):
        with self.lab.another_host(*self.V4, peer=self.PEER4) as (host, _):
            self.serve(host, "-t", "8096:80")
            for address in ("::1", "127.0.0.1"):
                self.assertNotEqual(self.shown(host, address, 8096), "")

    def test_client_from_another_address_that_host_and_guest_share(self):
        # Of one subnet, the kernel would come from the first.
        more = ["addr add 10.3.0.3/24 dev eth0", "addr add 10.4.0.3/24 dev eth0",
                *(f"addr add 2001:db8:7::{n}/64 nodad dev eth0" for n in (3, 4, 5))]
        with self.lab.another_host(*self.V4, *self.V6, *more, peer=(*self.PEER4, *self.PEER6)) as (host, _):
            self.serve(host, "-t", "8097:80")
            for address in ("10.1.0.2", "10.3.0.3", "10.4.0.3", *(f"2001:db8:7::{n}" for n in (2, 3, 4, 5))):
                self.assertEqual(self.shown(host, address, 8097), "2001:db8:7::1" if ":" in address else "10.1.0.1")

    def test_d31_no_name_server_is_no_news(self):
        with self.lab.another_host(*self.V4, peer=self.PEER4) as (host, _):
            self.lab.resolv_conf("# none", which="odd")
            done = self.ask(host, "true")
            self.assertEqual((done.returncode, done.stderr), (0, ""))


class Routes(Regress):
    def test_rhbz2277954_several_interfaces_without_default_route(self):
        with self.host(self.V4[0], "link add eth1 type veth peer name far1", "link set eth1 up",
                       "addr add 10.2.0.2/24 dev eth1", peer=self.PEER4) as host:
            self.assert_reaches(host, "10.1.0.1")

    def test_p22824_address_without_prefix_route(self):
        with self.host("addr add 10.1.0.2/24 noprefixroute", "route add 10.1.0.0/24", self.V4[1],
                       "addr add 2001:db8:7::2/64 nodad noprefixroute", "-6 route add 2001:db8:7::/64", self.V6[1],
                       peer=(*self.PEER4, *self.PEER6)) as host:
            self.assert_reaches(host, AWAY4)
            self.assert_reaches(host, AWAY6)

    def test_p22960_next_hop_objects(self):
        with self.host(self.V4[0], self.V6[0], peer=(*self.PEER4, *self.PEER6)) as host:
            self.lab.ip("odd", "nexthop add id 7 via 10.1.0.1 dev eth0", "route add default nhid 7 proto ospf",
                        "nexthop add id 8 via 2001:db8:7::1 dev eth0", "-6 route add default nhid 8 proto ospf")
            self.assertIn("10.1.0.1", [r.get("gateway") for r in self.routes(host) if r["dst"] == "default"])
            self.assert_reaches(host, AWAY4)
            self.assert_reaches(host, AWAY6)

    def test_upstream_2024_02_several_next_hops(self):
        hops = "nexthop via 10.1.0.9 dev eth0 weight 1 nexthop via 10.1.0.1 dev eth0 weight 5"
        with self.host(self.V4[0], "route add default " + hops, peer=self.PEER4) as host:
            self.assert_loopback_is_at(host, "10.1.0.1")

    def test_next_hops_on_several_interfaces(self):
        hops = "nexthop via 10.2.0.1 dev eth1 weight 1 nexthop via 10.1.0.1 dev eth0 weight 5"
        with self.host(self.V4[0], "link add eth1 type veth peer name far1", "link set far1 up", "link set eth1 up",
                       "addr add 10.2.0.2/24 dev eth1", "route add default " + hops, peer=self.PEER4) as host:
            self.assert_loopback_is_at(host, "10.1.0.1")
            self.assertIn("10.1.0.1", [r.get("gateway") for r in self.routes(host) if r["dst"] == "default"])

    def test_upstream_2025_09_link_without_carrier(self):
        with self.host(*self.V4, *self.V6, "route add 10.7.0.0/16 nexthop via 10.1.0.8 dev eth0 nexthop via 10.1.0.9 dev eth0",
                       peer=(*self.PEER4, *self.PEER6)) as host:
            self.lab.ip("oddpeer", "link set eth0 down")
            lab.wait_until(lambda: "linkdown" in self.lab.call(["ip", "-netns", f"{self.lab.name}odd", "route"]).stdout,
                           3, "the flag on the routes")
            found = self.routes(host)
            self.assertIn("10.1.0.1", [r.get("gateway") for r in found])
            self.assertIn("10.7.0.0/16", [r["dst"] for r in found])
            self.assertEqual([flag for r in found for flag in r["flags"] if flag in ("linkdown", "dead")], [])
            self.lab.ip("oddpeer", "link set eth0 up")

    def test_upstream_2024_03_many_routes(self):
        with self.host(*self.V4, peer=self.PEER4) as host:
            lines = "".join(f"route add 10.9.{n // 64}.{n % 64 * 4}/30 via 10.1.0.1 dev eth0\n" for n in range(1000))
            self.lab.call(["ip", "-netns", f"{self.lab.name}odd", "-batch", "-"], input=lines)
            self.assertEqual(len([r for r in self.routes(host) if r["dst"].startswith("10.9.")]), 1000)

    def test_upstream_2023_08_lifetimes_of_addresses_stay_outside(self):
        with self.host("addr add 10.1.0.2/24 valid_lft 1000 preferred_lft 900", self.V4[1],
                       "addr add 2001:db8:7::2/64 nodad valid_lft 1000 preferred_lft 900", self.V6[1],
                       peer=(*self.PEER4, *self.PEER6)) as host:
            shown = self.ask(host, "ip addr show dev eth0").stdout
        self.assertEqual((shown.count("valid_lft forever preferred_lft forever"), shown.count("valid_lft")), (3, 3), shown)

    def test_d22_first_address_and_not_the_longest_prefix(self):
        with self.host("addr add 10.1.0.2/24", "addr add 10.3.0.3/32", "addr add 10.4.0.4/28", self.V4[1],
                       peer=self.PEER4) as host:
            shown = json.loads(self.ask(host, "ip -json route get 10.1.0.77").stdout)[0]
        self.assertEqual(shown["prefsrc"], "10.1.0.2")


class Buffers(Regress):
    """The host's socket buffers are as small as can be."""

    @both
    def test_b183_send_buffer_smaller_than_a_segment(self, net):
        self.assert_transfers(net, "net.ipv4.tcp_wmem")

    @both
    def test_b183_receive_buffer_smaller_than_a_segment(self, net):
        self.assert_transfers(net, "net.ipv4.tcp_rmem")

    def assert_transfers(self, net, which):
        with self.lab.another_host(*self.V4, *self.V6, peer=(*self.PEER4, *self.PEER6)) as (host, peer):
            host.sysctl(which, "4096 4096 4096")
            address = {V4: "10.1.0.1", V6: "[2001:db8:7::1]"}[net]
            arguments = ("--send", 300_000, "--seconds", 15)
            with self.lab.service(peer, "stream", "--listen", f"{address}:8097", *arguments) as server:
                done = self.ask(host, f"{self.lab.tool} stream --connect {address}:8097 {' '.join(map(str, arguments))}; sleep 0.5",
                                "--no-map-gw")
                served = server.result()
        self.assertEqual(done.returncode, 0, done.stderr)
        client = json.loads(done.stdout.splitlines()[-1])["streams"][0]
        self.assertEqual((client["received"], served["streams"][0]["received"]), (300_000, 300_000))
        self.assertEqual(client["received_hash"], served["streams"][0]["sent_hash"])
