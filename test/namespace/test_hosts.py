"""Hosts of every shape: what a guest gets there, and that all of it works."""

import contextlib
import subprocess
import threading

import lab
from support import Case

AWAY4, AWAY6 = "198.51.100.9", "2001:db8:9::9"
PORT = 8099


class Hosts(Case):
    @contextlib.contextmanager
    def host(self, *commands, peer=(), **more):
        """A host with a resolver at 127.0.0.53 and a server on its loopback."""
        with self.lab.another_host(*commands, peer=peer, **more) as (host, _):
            with lab.Dns(host, "127.0.0.53"), contextlib.ExitStack() as servers:
                for address in ("127.0.0.1", "::1"):
                    # A kernel without IPv6 has no ::1.
                    with contextlib.suppress(OSError):
                        servers.enter_context(Greeter(host, address))
                yield host

    def ask(self, host, script, *options):
        argv = self.lab.as_user(self.lab.program.run(["-q", *options], ["sh", "-c", script]), where=host)
        return self.lab.call(argv, check=False)

    def assert_says(self, host, expected, script, *options):
        done = self.ask(host, script, *options)
        self.assertIn(expected, done.stdout, done.stderr)

    def assert_reaches(self, host, address, *options):
        self.assert_says(host, "1 received", f"ip route; ip -6 route; ping -c1 -W2 {address}", *options)

    def assert_resolves(self, host, *options):
        # Not ahostsv4: where the guest has no global IPv4 address, that asks nobody.
        self.assert_says(host, "www.example", "cat /etc/resolv.conf; getent hosts www.example", *options)

    def assert_loopback_is_at(self, host, address, *options):
        self.assert_says(host, "hello", f"curl -gsm3 http://{address}:{PORT}/", *options)

    V4 = ("addr add 10.1.0.2/24", "route add default via 10.1.0.1")
    PEER4 = ("addr add 10.1.0.1/24", f"addr add {AWAY4}/32 dev lo")
    V6 = ("addr add 2001:db8:7::2/64 nodad", "-6 route add default via 2001:db8:7::1")
    PEER6 = ("addr add 2001:db8:7::1/64 nodad", f"addr add {AWAY6}/128 dev lo nodad")

    def test_ipv4_only(self):
        with self.host(*self.V4, peer=self.PEER4, ipv6=False) as host:
            self.assert_reaches(host, AWAY4)
            self.assert_resolves(host)
            self.assert_loopback_is_at(host, "10.1.0.1")

    def test_ipv4_only_says_at_once_that_ipv6_leads_nowhere(self):
        with self.host(*self.V4, peer=self.PEER4, ipv6=False) as host:
            self.assert_says(host, "status 7", f"timeout 1 curl -gsm5 'http://[{AWAY6}]/'; echo status $?")

    def test_ipv6_only(self):
        with self.host(*self.V6, peer=self.PEER6) as host:
            self.assert_reaches(host, AWAY6)
            self.assert_resolves(host)
            self.assert_resolves(host, "-6")
            self.assert_loopback_is_at(host, "[2001:db8:7::1]")

    def test_ipv6_gateway_with_a_link_local_address(self):
        peer = ("addr add fe80::1/64 nodad", f"addr add {AWAY6}/128 dev lo nodad", "-6 route add 2001:db8:7::/64")
        with self.host(self.V6[0], "-6 route add default via fe80::1", peer=peer) as host:
            self.assert_reaches(host, AWAY6, "-6")
            self.assert_resolves(host, "-6")
            self.assert_loopback_is_at(host, "[fe80::1%eth0]", "-6")

    def test_several_default_routes(self):
        with self.host(*self.V4[:1], "link add eth1 type veth peer name far1", "link set eth1 up",
                       "addr add 10.2.0.2/24 dev eth1", "route add default via 10.2.0.1 metric 600 dev eth1",
                       "route add default via 10.1.0.1 metric 100", peer=self.PEER4) as host:
            self.assert_reaches(host, AWAY4)
            self.assert_says(host, "10.1.0.2/24", "ip addr")
            self.assert_says(host, "10.2.0.2/24", "ip addr", "-i", "eth1")

    def test_gateway_outside_the_prefix(self):
        """A /32 with a gateway that a route of its own, or the flag onlink, puts on the link."""
        peer = ("addr add 10.99.0.1/32", "route add 203.0.113.77", f"addr add {AWAY4}/32 dev lo")
        for routes in (("route add 10.99.0.1", "route add default via 10.99.0.1"),
                       ("route add default via 10.99.0.1 onlink",)):
            with self.host("addr add 203.0.113.77/32", *routes, peer=peer) as host:
                self.assert_reaches(host, AWAY4)
                self.assert_loopback_is_at(host, "10.99.0.1")

    POINT = ("addr add 10.5.0.1 peer 10.5.0.2", "route add default")
    POINT_PEER = ("addr add 10.5.0.2 peer 10.5.0.1", f"addr add {AWAY4}/32")

    def test_point_to_point_link(self):
        with self.host(*self.POINT, peer=self.POINT_PEER) as host:
            self.assert_reaches(host, AWAY4)
            self.assert_resolves(host)
            self.assert_resolves(host, "-4")

    def test_point_to_point_link_serves_clients_on_the_host(self):
        with self.host(*self.POINT, peer=self.POINT_PEER) as host:
            script = ("import socket; s = socket.create_server(('', 80)); print('up', flush=True); c, a = s.accept(); "
                      "c.sendall(a[0].encode())")
            argv = self.lab.as_user(self.lab.program.run(["-t", "8098:80"], ["/usr/bin/python3", "-c", script]), where=host)
            guest = self.lab.popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
            self.addCleanup(self.lab.end, guest)
            self.assertEqual(lab.read_line(guest.stdout, 5), "up\n")
            with host.connect("127.0.0.1", 8098) as client:
                self.assertEqual(client.recv(100), b"10.5.0.1")

    def test_rhbz2277954_no_default_route(self):
        with self.host(self.V4[0], peer=self.PEER4) as host:
            self.assert_reaches(host, "10.1.0.1")
            self.assert_resolves(host)
            self.assert_resolves(host, "-4")

    def test_p24614_no_network_at_all(self):
        with self.host() as host:
            self.assert_resolves(host)
            self.assert_resolves(host, "-4")
            self.assert_resolves(host, "-6")
            self.assert_loopback_is_at(host, "169.254.2.2")
            self.assert_loopback_is_at(host, "[fe80::1%tap0]")


class Greeter:
    """Says hello by HTTP."""

    def __init__(self, where, address):
        self.listener = where.listen(address, PORT)
        self.listener.settimeout(None)
        self.thread = threading.Thread(target=self._serve, daemon=True)
        self.thread.start()

    def _serve(self):
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            with client, contextlib.suppress(OSError):
                client.recv(4096)
                client.sendall(b"HTTP/1.0 200 OK\r\nContent-Length: 6\r\n\r\nhello\n")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        # Wakes the thread, which holds the namespace.
        with contextlib.suppress(OSError):
            self.listener.shutdown(2)
        self.thread.join(5)
        self.listener.close()
