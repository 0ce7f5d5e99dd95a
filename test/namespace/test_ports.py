"""Ports that are not named one by one: `all`, exclusions, `auto`; bind failures; what is free again, and when."""

import contextlib
import os
import re
import socket
import time

import lab
from support import V4, V6, Case, both

QUICK = 1.2
"""Within a second, and some air for two busy cores."""


def wait_for(condition, timeout=QUICK, what="it"):
    return lab.wait_until(condition, timeout, what)


class Ports(Case):
    def leads(self, guest, net, port, where=None):
        """True if a connection to the host's port ends in the guest."""
        client, served, _ = self.inbound(where or self.lab.remote, net.host, port, guest=guest)
        self.assert_connected(client, served)

    def refused(self, port, address=lab.HOST4):
        try:
            self.lab.remote.connect(address, port, timeout=2).close()
        except ConnectionRefusedError:
            return True
        except ConnectionResetError:
            pass  # The listener was closed with us in its queue.
        return False

    def open(self, port, address=lab.HOST4):
        return not self.refused(port, address)

    def udp_bound(self, port):
        """True if the host has a socket for datagrams to this port."""
        with self.lab.host.entered(), contextlib.ExitStack() as stack:
            probe = stack.enter_context(socket.socket(socket.AF_INET6, socket.SOCK_DGRAM))
            try:
                probe.bind(("::", port))
            except OSError:
                return True
        return False

    def lines(self, guest, pattern):
        return [line for line in guest.errors().splitlines() if re.search(pattern, line)]


class All(Ports):
    """The laboratory's ephemeral ports are 10000 to 65000."""

    def test_all(self):
        with self.lab.guest("--debug", "-t", "all") as guest:
            for net in (V4, V6):
                self.leads(guest, net, 1025)
                self.leads(guest, net, 65535)
            self.assertTrue(self.refused(40000))
            self.assertEqual(len(self.lines(guest, "ports of '-t all' are forwarded")), 1)
            self.assertLess(len(guest.errors().splitlines()), 60)

    def test_ephemeral_ports_are_left_out_of_all_but_may_be_named(self):
        with self.lab.guest("-t", "all", "-t", "40000") as guest:
            self.assertTrue(self.open(40000))
            self.assertTrue(self.refused(40001))
            self.assertTrue(self.open(65001))

    def test_b213_exclusions(self):
        with self.lab.guest("--debug", "-t", "~8080") as guest:
            self.assertTrue(self.open(8079))
            self.assertTrue(self.refused(8080))
            self.assertTrue(self.open(8081))
            self.assertEqual(len(self.lines(guest, "cannot be bound|Permission|in use")), 1)

    def test_b213_exclusions_say_nothing_if_told_to_be_quiet(self):
        with self.lab.host.listen("::", 8081):
            done = self.run_command("true", options=["--quiet", "-t", "~8080"])
        self.assertEqual((done.returncode, done.stderr), (0, ""))

    def test_all_but_a_range(self):
        with self.lab.guest("-t", "all,~1-60000"):
            self.assertTrue(self.refused(60000))
            self.assertTrue(self.refused(65000))
            self.assertTrue(self.open(65001))

    def test_all_datagrams(self):
        with self.lab.guest("-u", "all") as guest:
            with guest.bind("0.0.0.0", 2000) as server:
                client = self.closing(self.lab.remote.socket(socket.AF_INET, socket.SOCK_DGRAM))
                client.sendto(b"question", (lab.HOST4, 2000))
                data, peer = server.recvfrom(100)
                server.sendto(data, peer)
                self.assertEqual(client.recv(100), b"question")

    def test_others_keep_their_ports(self):
        with self.lab.host.listen("0.0.0.0", 8085) as theirs, self.lab.guest("-t", "all"):
            client = self.closing(self.lab.remote.connect(lab.HOST4, 8085))
            served, _ = theirs.accept()
            self.assert_connected(client, self.closing(served))

    def test_d18_few_descriptors(self):
        program = lab.Program(self.lab.program.path)
        run = program.run
        program.run = lambda options, command: ["sh", "-c", 'ulimit -n 256; exec "$@"', "sh", *run(options, command)]
        with self.lab.host.entered():
            first = int(open("/proc/sys/net/ipv4/ip_unprivileged_port_start", encoding="ascii").read())
        with self.lab.guest("-t", "all", "-u", "all", program=program) as guest:
            said = self.lines(guest, "ports of '-t all', '-u all' are forwarded")
            self.assertEqual(len(said), 1, guest.errors())
            self.assertIn("limit on open files is 256", said[0])
            self.assertLess(len(guest.errors().splitlines()), 60)
            self.leads(guest, V4, max(first, 1))
            pairs = [self.pair(self.lab.remote, lab.REMOTE4, guest=guest) for _ in range(30)]
            self.assert_connected(*pairs[-1])


class Auto(Ports):
    options = ("-t", "auto", "-u", "auto")

    @both
    def test_port_appears_and_disappears(self, net):
        port = 8100 if net.af == socket.AF_INET else 8105
        self.assertTrue(self.refused(port, net.host))
        with self.guest.listen(net.any, port) as listener:
            wait_for(lambda: self.open(port, net.host), what="the port")
            listener.accept()[0].close()
            client = self.closing(self.lab.remote.connect(net.host, port))
            served = self.closing(listener.accept()[0])
            self.assert_connected(client, served)
        wait_for(lambda: self.refused(port, net.host), what="the port's end")
        self.assert_connected(client, served)

    def test_bound_before_we_are_ready(self):
        with self.lab.empty_guest() as guest, guest.listen("0.0.0.0", 8101):
            self.lab.attach(str(guest.pid), "-t", "auto")
            self.assertTrue(self.open(8101))

    def test_datagram_port_appears_and_disappears(self):
        server = self.guest.bind("0.0.0.0", 8102)
        wait_for(lambda: self.udp_bound(8102), what="the port")
        client = self.closing(self.lab.remote.socket(socket.AF_INET, socket.SOCK_DGRAM))
        client.sendto(b"question", (lab.HOST4, 8102))
        data, peer = server.recvfrom(100)
        server.sendto(data, peer)
        self.assertEqual(client.recv(100), b"question")
        server.close()

        def unreachable():
            # A new client each time: a flow that began while the port was open lives on.
            with self.lab.remote.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
                other.settimeout(0.05)
                other.connect((lab.HOST4, 8102))
                try:
                    other.send(b"anyone?")
                    other.recv(1)
                except ConnectionRefusedError:
                    return True
                except TimeoutError:
                    return False
            return False
        wait_for(unreachable, what="the port's end")

    def test_datagrams_follow_a_listening_port(self):
        with self.guest.listen("0.0.0.0", 8103):
            wait_for(lambda: self.udp_bound(8103), what="the port")
        wait_for(lambda: not self.udp_bound(8103), what="the port's end")

    def test_named_ports_wait_too(self):
        with self.lab.guest("-t", "8110:8111,auto") as guest:
            self.assertTrue(self.refused(8110))
            with guest.listen("0.0.0.0", 8111), guest.listen("0.0.0.0", 8112):
                wait_for(lambda: self.open(8110), what="the port")
                self.assertTrue(self.refused(8111) and self.refused(8112))

    def test_ports_of_others_are_taken_when_free(self):
        theirs = self.lab.host.listen("::", 8104)
        with self.guest.listen("0.0.0.0", 8104) as ours:
            time.sleep(1)
            theirs.close()

            def reaches():
                with contextlib.suppress(ConnectionError, TimeoutError):
                    self.lab.remote.connect(lab.HOST4, 8104).close()
                    ours.settimeout(0.2)
                    ours.accept()[0].close()
                    return True
                return False
            wait_for(reaches, timeout=3, what="the port")

    def test_idle_costs_nothing_to_speak_of(self):
        before = lab.cpu_seconds(self.guest.translator())
        time.sleep(3)
        self.assertLess(lab.cpu_seconds(self.guest.translator()) - before, 0.1)


class Failures(Ports):
    def message(self, *options):
        done = self.run_command("true", options=list(options))
        self.assertEqual(done.returncode, 1)
        return done.stderr

    def test_in_use(self):
        with self.lab.host.listen("0.0.0.0", 8120):
            text = self.message("-t", "8120")
        self.assertIn("Failed to bind port 8120 (Address already in use) for option '-t 8120'", text)

    def test_the_first_port_of_a_range(self):
        with self.lab.host.listen("0.0.0.0", 8123):
            text = self.message("-t", "8121-8125:9121-9125")
        self.assertIn("Failed to bind port 8123 (Address already in use) for option '-t 8121-8125:9121-9125'", text)

    def test_datagrams_in_use(self):
        with self.lab.host.bind("0.0.0.0", 8126):
            text = self.message("-u", "8126")
        self.assertIn("Failed to bind port 8126 (Address already in use) for option '-u 8126'", text)

    def test_datagrams_of_another_instance(self):
        with self.lab.guest("-u", "8127"):
            text = self.message("-u", "8127")
        self.assertIn("Failed to bind port 8127 (Address already in use) for option '-u 8127'", text)

    def test_foreign_address(self):
        text = self.message("-t", "198.51.100.77/8128")
        self.assertIn("Failed to bind port 8128 (Cannot assign requested address) for option", text)
        done = self.run_command("true", options=["-t", "198.51.100.77/8128", "--freebind"])
        self.assertEqual((done.returncode, done.stderr), (0, ""))

    def test_no_such_device(self):
        self.assertIn("Failed to bind port 8129 (No such device) for option", self.message("-t", "%nosuch/8129"))

    def test_every_port_of_an_option(self):
        with self.lab.host.entered():
            held = [socket.create_server(("::", port), family=socket.AF_INET6) for port in range(65530, 65536)]
        try:
            text = self.message("-t", "all,~1-65529")
        finally:
            for sock in held:
                sock.close()
        self.assertIn("Failed to bind port 65530 (Address already in use) for option '-t all,~1-65529'", text)


class Places(Ports):
    options = ("-t", "%lo/8130", "-t", "::1/8131", "-t", "[2001:db8:1::2]/8132", "-t", "192.0.2.2%eth0/8133",
               "-t", "8134", "-t", "0.0.0.0/8135", "-t", "[::]/8136")

    def reach(self, where, address, port, inner=None):
        client, served, _ = self.inbound(where, address, port, inner)
        self.assert_connected(client, served)

    def test_device(self):
        self.reach(self.lab.host, "127.0.0.1", 8130)
        self.reach(self.lab.host, "::1", 8130)
        self.assertTrue(self.refused(8130))

    def test_address_without_brackets(self):
        self.reach(self.lab.host, "::1", 8131)
        self.assertTrue(self.refused(8131, lab.HOST6))

    def test_address_in_brackets(self):
        self.reach(self.lab.remote, lab.HOST6, 8132)

    def test_address_and_device(self):
        self.reach(self.lab.remote, lab.HOST4, 8133)

    def test_both_families_by_default(self):
        self.reach(self.lab.remote, lab.HOST4, 8134)
        self.reach(self.lab.remote, lab.HOST6, 8134)

    def test_one_family(self):
        self.reach(self.lab.remote, lab.HOST4, 8135)
        self.assertTrue(self.refused(8135, lab.HOST6))
        self.reach(self.lab.remote, lab.HOST6, 8136)
        self.assertTrue(self.refused(8136, lab.HOST4))


class Restart(Ports):
    def test_p23737_p27634_ports_are_free_at_once(self):
        for _ in range(5):
            with self.lab.guest("-t", "8140", "-u", "8140") as guest:
                client, served, _ = self.inbound(self.lab.remote, lab.HOST4, 8140, guest=guest)
                self.assert_connected(client, served)
            self.assertFalse(os.path.exists(f"/proc/{guest.pid}"))

    def test_p23737_in_the_background(self):
        def is_free():
            with contextlib.suppress(OSError), self.lab.host.listen("::", 8141), self.lab.host.bind("::", 8141):
                return True
            return False
        for _ in range(5):
            with self.lab.empty_guest() as guest:
                self.lab.attach(str(guest.pid), "-t", "8141", "-u", "8141")
                self.assertFalse(is_free())
            lab.wait_until(is_free, 1, "the ports' being free")
