"""The host's network changes, and that of the guest with it."""

import contextlib
import json
import os
import signal
import socket
import unittest.mock

import lab
from support import Case
from test_privileges import status

FIRST, SECOND = ("10.1.0.2", "10.1.0.1", "2001:db8:71::2", "2001:db8:71::1"), \
                ("10.2.0.2", "10.2.0.1", "2001:db8:72::2", "2001:db8:72::1")
CAP_NET_ADMIN = 12
OWN4, OWN6 = "172.16.0.9", "fe80::9"
NEAR4, AWAY4, AWAY6 = "10.1.0.9", "198.51.100.9", "2001:db8:9::9"


def join(network):
    """Commands of ip(8) after which a host is in this network, IPv4 first."""
    host4, gateway4, host6, gateway6 = network
    return (f"addr add {host4}/24", f"route add default via {gateway4}",
            f"addr add {host6}/64 nodad", f"-6 route add default via {gateway6}")


def leave(network):
    return tuple(command.replace(" add ", " del ").removesuffix(" nodad") for command in reversed(join(network)))


PEER = tuple(command for _, gateway4, _, gateway6 in (FIRST, SECOND)
             for command in (f"addr add {gateway4}/24", f"addr add {gateway6}/64 nodad")) + (
    f"addr add {NEAR4}/24", f"addr add {AWAY4}/32 dev lo", f"addr add {AWAY6}/128 dev lo nodad")


class Follow(Case):
    """Guests of a host that the test moves from one network to another."""

    @contextlib.contextmanager
    def on(self, *commands):
        """A host with a link `eth0` to a peer that is the gateway of both networks; it becomes the laboratory's."""
        with self.lab.another_host("link set eth0 up", *commands, peer=PEER) as (host, peer), \
                unittest.mock.patch.object(self.lab, "host", host):
            self.peer = peer
            yield host

    def ip(self, *commands):
        self.lab.ip("odd", *(c if c.startswith("link ") or " dev " in c else c + " dev eth0" for c in commands))

    def move(self, old, new):
        self.ip(*leave(old), *join(new))

    def until(self, look, what, timeout=5):
        return lab.wait_until(look, timeout, what)

    def addresses(self, guest, *more):
        found = json.loads(guest.output("ip", "-json", "addr", "show", "dev", guest.interface(), "scope", "global", *more))
        return {a["local"] for link in found for a in link.get("addr_info", []) if "local" in a}

    def default_routes(self, guest):
        text = guest.output("ip route show default; ip -6 route show default")
        return {line.split()[2] for line in text.splitlines() if " via " in line}

    def assert_reaches(self, guest, *addresses):
        for address in addresses:
            done = guest.run("ping", "-c1", "-W2", address, check=False)
            self.assertEqual(done.returncode, 0, (address, done.stdout, guest.output("ip addr; ip route; ip -6 route")))


class Machines(Follow):
    """They configure themselves, and learn by router advertisements and when they renew their leases."""

    def renewing(self, guest):
        """A DHCP client that stays; returns how to make it renew, and what it was told so far."""
        told, script = self.lab.file("told"), self.lab.file("script")
        with open(script, "w", encoding="ascii") as file:
            file.write('#!/bin/sh\nip -4 addr flush dev $interface\n[ "$ip" ] && ip addr add $ip/$mask dev $interface\n'
                       f'[ "$ip" ] && ip route add default via $router dev $interface\necho $1 $ip $router >> {told}\n')
        os.chmod(script, 0o755)
        client = self.lab.popen([self.lab.tool, "enter", "--net-only", str(guest.pid), "--", "udhcpc", "-i", "eth0",
                                 "-s", script, "-f", "-t", "5", "-T", "1"])
        self.addCleanup(self.lab.end, client)

        def lines():
            with open(told, encoding="ascii") as file:
                return file.read().splitlines()
        def renew():
            for pid in {client.pid} | lab.descendants(client.pid):
                if lab.comm(pid) in ("udhcpc", "busybox"):
                    os.kill(pid, signal.SIGUSR1)
        return renew, lines

    def test_moves_to_another_network(self):
        with self.on(*join(FIRST)), self.lab.vm("--debug", dhcp=True) as guest:
            renew, told = self.renewing(guest)
            self.until(lambda: f"bound {FIRST[0]} {FIRST[1]}" in "\n".join(told()), "the first lease")
            self.move(FIRST, SECOND)
            self.until(lambda: SECOND[0] in guest.errors(), "the change")
            # IPv6: at once.
            self.until(lambda: any(a.startswith("2001:db8:72:") for a in self.addresses(guest, "-tentative")), "the prefix")
            self.until(lambda: all(a.startswith("2001:db8:71:") for a in self.addresses(guest, "deprecated")), "its end")
            self.assertEqual(self.default_routes(guest) - {FIRST[1]}, {self.link_local(guest)})
            # IPv4: with the address of before until then.
            self.assert_reaches(guest, AWAY4, AWAY6)
            renew()
            self.until(lambda: f"bound {SECOND[0]} {SECOND[1]}" in "\n".join(told()), "the second lease")
            self.assert_reaches(guest, AWAY4)

    def test_datagrams_of_a_flow_go_on_from_another_address(self):
        """As those of a tunnel, whose end is the same and whose port must stay."""
        options = "-a", "192.168.7.2", "-a", "2001:db8:7::2", "-g", "192.168.7.1", "--debug"
        with self.on(*join(FIRST)), self.lab.guest(*options) as guest:
            for family, away, place in ((socket.AF_INET, AWAY4, 0), (socket.AF_INET6, AWAY6, 2)):
                with self.peer.socket(family, socket.SOCK_DGRAM) as server, guest.socket(family, socket.SOCK_DGRAM) as client:
                    server.bind((away, 7005))
                    server.settimeout(3)
                    client.connect((away, 7005))
                    client.send(b"first")
                    data, seen = server.recvfrom(100)
                    self.assertEqual((data, seen[0]), (b"first", FIRST[place]))
                    self.move(FIRST, SECOND)
                    server.settimeout(0.2)
                    def arrives():
                        # It is told of what was lost.
                        with contextlib.suppress(OSError):
                            client.send(b"second")
                        with contextlib.suppress(TimeoutError):
                            return server.recvfrom(100)[1][:2] == (SECOND[place], seen[1])
                    self.until(arrives, "a datagram from the other address")
                    self.move(SECOND, FIRST)

    def test_reader_that_ends_takes_nobody_along(self):
        with self.lab.vm() as guest:
            main = self.lab.translators(guest)[0]
            def readers():
                return [pid for pid in lab.descendants(main) if lab.comm(pid) == "spelt-reader"]
            os.kill(self.until(readers, "the reader")[0], signal.SIGKILL)
            self.until(lambda: "resolv.conf are not followed any more" in guest.errors(), "the loss")
            self.assertEqual(status(main)["Seccomp"], "2")

    def link_local(self, guest):
        """The one router that is left."""
        routes = json.loads(guest.output("ip", "-6", "-json", "route", "show", "default"))
        self.assertEqual(len(routes), 1, routes)
        return routes[0]["gateway"]


class Namespaces(Follow):
    """What was configured inside is changed."""

    def assert_has(self, guest, addresses, routes, timeout=8):
        def look():
            return (self.addresses(guest), self.default_routes(guest)) == (set(addresses), set(routes))
        try:
            self.until(look, "the addresses", timeout)
        except TimeoutError:
            self.fail(guest.output("ip addr; ip route; ip -6 route") + guest.errors())

    def test_moves_to_another_network(self):
        with self.on(*join(FIRST)), self.lab.guest("--debug") as guest:
            self.assert_has(guest, FIRST[::2], FIRST[1::2])
            self.move(FIRST, SECOND)
            self.assert_has(guest, SECOND[::2], SECOND[1::2])
            self.assert_reaches(guest, AWAY4, AWAY6)
            self.assertIn(f"the guest has {SECOND[0]}/24 by {SECOND[1]} now", guest.errors())

    def test_no_network_at_first(self):
        with self.on(), self.lab.guest("--debug") as guest:
            self.assert_has(guest, ["169.254.2.1"], ["169.254.2.2", "fe80::1"])
            self.ip(*join(FIRST)[:2])
            self.assert_has(guest, FIRST[:1], [FIRST[1], "fe80::1"])
            self.assert_reaches(guest, AWAY4)
            # IPv6 comes late.
            self.ip(*join(FIRST)[2:])
            self.assert_has(guest, FIRST[::2], FIRST[1::2])
            self.assert_reaches(guest, AWAY6)

    def test_keeps_what_it_has_while_there_is_nothing_else(self):
        with self.on(*join(FIRST)), self.lab.guest("--debug") as guest:
            self.ip("link set eth0 down")
            self.ip("link set eth0 up", *join(FIRST)[1:2], *join(FIRST)[2:])
            self.assert_reaches(guest, AWAY4, AWAY6)
            self.assert_has(guest, FIRST[::2], FIRST[1::2])

    VPN = ("link add vpn0 type veth peer name vpn1", "link set vpn1 up", "link set vpn0 up", "addr add 10.9.0.5/32 dev vpn0",
           "route add default dev vpn0 metric 1")

    def test_connections_live_on_when_a_vpn_comes_and_goes(self):
        routes = join(FIRST)[0], join(FIRST)[1] + " metric 100"
        with self.on(*routes), self.lab.guest("--debug") as guest:
            near, far = self.pair(self.peer, NEAR4, guest=guest)
            self.ip(*self.VPN)
            self.assert_has(guest, ["10.9.0.5", FIRST[0]], ["fe80::1"])
            self.assert_connected(near, far)
            source = guest.output("ip -json route get 203.0.113.9")
            self.assertEqual(json.loads(source)[0]["prefsrc"], "10.9.0.5")
            self.ip("link del vpn0")
            self.assert_has(guest, [FIRST[0]], [FIRST[1], "fe80::1"])
            self.assert_connected(near, far)

    def test_only_what_is_ours_is_removed(self):
        with self.on(*join(FIRST)), self.lab.guest("--debug") as guest:
            link = guest.interface()
            guest.run(f"ip addr add 172.16.0.1/24 dev {link}; ip route add 172.17.0.0/16 via 172.16.0.9")
            self.move(FIRST, SECOND)
            self.assert_has(guest, [*SECOND[::2], "172.16.0.1"], SECOND[1::2])
            self.assertIn("172.17.0.0/16 via 172.16.0.9", guest.output("ip route"))

    def make_own_way(self, guest, how):
        """The guest has a default route of each IP version on an interface of its own, by this command of ip-route(8)."""
        guest.run("ip link add own type veth peer name other; ip link set other up; ip link set own up; "
                  f"ip addr add 172.16.0.1/24 dev own; ip route {how} default via {OWN4}; "
                  f"ip -6 route {how} default via {OWN6} dev own metric 1024")

    def test_a_default_route_of_the_guest_s_own_is_not_exchanged_for_ours(self):
        with self.on(*join(FIRST)), self.lab.guest("--debug") as guest:
            self.assert_has(guest, FIRST[::2], FIRST[1::2])
            self.make_own_way(guest, "replace")
            self.assert_has(guest, FIRST[::2], [OWN4, OWN6])
            self.move(FIRST, SECOND)
            self.assert_has(guest, SECOND[::2], [OWN4, OWN6])

    def test_an_unreachable_default_of_the_guest_s_stays_one(self):
        with self.on(*join(FIRST)), self.lab.guest("--debug") as guest:
            self.assert_has(guest, FIRST[::2], FIRST[1::2])
            guest.run("ip route replace unreachable default; ip -6 route replace unreachable default metric 1024")
            self.move(FIRST, SECOND)
            self.assert_has(guest, SECOND[::2], [])
            routes = guest.output("ip route show default; ip -6 route show default")
            self.assertEqual([line.split()[:2] for line in routes.splitlines()], [["unreachable", "default"]] * 2)

    def test_ours_changes_beside_one_of_the_guest_s(self):
        with self.on(*join(FIRST)), self.lab.guest("--debug") as guest:
            self.assert_has(guest, FIRST[::2], FIRST[1::2])
            self.make_own_way(guest, "append")
            self.move(FIRST, SECOND)
            self.until(lambda: self.addresses(guest) == set(SECOND[::2]), "the addresses", 8)
            routes = guest.output("ip route show default; ip -6 route show default")
            for gateway in (SECOND[1], OWN4, SECOND[3], OWN6):
                self.assertIn(f"via {gateway} ", routes)
            for gateway in FIRST[1::2]:
                self.assertNotIn(f"via {gateway} ", routes)
            # In the place that the former one had.
            self.assertIn(SECOND[1], routes.splitlines()[0])
            self.assert_reaches(guest, AWAY4)

    def test_resolv_conf_of_the_command_follows(self):
        with self.on(*join(FIRST)), self.lab.guest("--debug") as guest:
            self.assertIn(f"nameserver {FIRST[1]}", self.resolv_conf(guest))
            self.move(FIRST, SECOND)
            self.until(lambda: f"nameserver {SECOND[1]}" in self.resolv_conf(guest), "the change")
            self.assertNotIn(FIRST[1], self.resolv_conf(guest))

    def resolv_conf(self, guest):
        with open(f"/proc/{guest.pid}/root/etc/resolv.conf", encoding="ascii") as file:
            return file.read()

    def test_resolv_conf_of_the_host_is_followed(self):
        with self.on(*join(FIRST)), self.lab.guest("--debug") as guest:
            self.until(lambda: [pid for pid in lab.descendants(guest.translator()) if lab.comm(pid) == "spelt-reader"],
                       "the reader")
            self.lab.resolv_conf(f"nameserver {NEAR4}", "search follow.test", which="odd")
            self.until(lambda: f"nameserver {NEAR4}\nsearch follow.test\n" in self.resolv_conf(guest), "the change")

    def test_reader_can_do_nothing_else(self):
        with self.on(*join(FIRST)), self.lab.guest() as guest:
            reader, = (pid for pid in lab.descendants(guest.translator()) if lab.comm(pid) == "spelt-reader")
            self.until(lambda: status(reader)["Seccomp"] == "2", "the filter")
            now = status(reader)
            self.assertEqual([int(now[name], 16) for name in ("CapPrm", "CapEff", "CapInh", "CapAmb")], [0] * 4)
            self.assertEqual((now["NoNewPrivs"], now["Threads"]), ("1", "1"))
            kinds = sorted(os.readlink(f"/proc/{reader}/fd/{fd}").split(":")[0] for fd in os.listdir(f"/proc/{reader}/fd"))
            self.assertEqual(kinds, ["/dev/null"] * 3 + ["anon_inode", "socket"])

    def test_frozen(self):
        with self.on(*join(FIRST)), self.lab.guest("--no-follow", "--debug") as guest:
            self.move(FIRST, SECOND)
            self.assert_reaches(guest, AWAY4, AWAY6)
            self.assert_has(guest, FIRST[::2], FIRST[1::2])
            self.assertNotIn("has changed", guest.errors())

    def test_attached_by_a_process_with_one_right(self):
        log = self.lab.file("log")
        with self.on(*join(FIRST)), self.lab.empty_guest() as guest:
            guest.log = log
            self.lab.attach(str(guest.pid), "-l", log, "--debug")
            main, = self.lab.translators()
            upkeep, = (pid for pid in self.lab.copies() if lab.comm(pid) == "spelt-upkeep")
            now = status(upkeep)
            self.assertEqual((now["Seccomp"], now["NoNewPrivs"]), ("2", "1"))
            self.assertEqual([int(now[name], 16) for name in ("CapPrm", "CapEff", "CapInh", "CapAmb")],
                             [1 << CAP_NET_ADMIN, 1 << CAP_NET_ADMIN, 0, 0])
            self.assertEqual(os.listdir(f"/proc/{upkeep}/root"), [])
            self.move(FIRST, SECOND)
            self.assert_has(guest, SECOND[::2], SECOND[1::2])
            self.assert_reaches(guest, AWAY4, AWAY6)
            # Without it the guest keeps what it has.
            os.kill(upkeep, signal.SIGKILL)
            self.move(SECOND, FIRST)
            self.until(lambda: "stays as it is" in guest.errors(), "the loss")
            self.assert_reaches(guest, AWAY4, AWAY6)
            os.kill(main, signal.SIGTERM)

    def test_several_workers(self):
        with self.on(*join(FIRST)), self.lab.guest("--queues", "2", "--threads", "2", "--debug") as guest:
            self.move(FIRST, SECOND)
            self.assert_has(guest, SECOND[::2], SECOND[1::2])
            # Led to the host's loopback by its new name, whichever worker has the flow.
            with self.lab.host.listen("127.0.0.1", 5999) as listener:
                for _ in range(8):
                    with guest.connect(SECOND[1], 5999):
                        listener.accept()[0].close()
