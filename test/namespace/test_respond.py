"""`spelt respond`: a router reaches containers behind a host whose provider gives an on-link prefix only."""

import json
import os
import signal
import time

import respond_world
from fake_engine import FakeEngine
from lab import descendants, wait_until
from respond_world import (BRIDGE_MAC, CONTAINER, CONTAINER4, HOST, HOST_MAC, INNER, ROUTER, ROUTER_MAC, Wire, fields,
                           packed, solicitation)
from support import Case
from test_privileges import has_ended, status

STATIC = ("--subnet", f"{INNER}/112", "--exclude", f"{INNER}40/124", "--arp", "203.0.113.64/26")


class Behind(Case):
    """All classes share one world, which each test leaves as it found it."""

    _world = None

    @property
    def world(self):
        if Behind._world is None:
            Behind._world = respond_world.World(self.lab)
        return Behind._world

    @property
    def wire(self):
        return self.closing(Wire(self.world))


class Static(Behind):
    def test_the_router_reaches_a_container_through_us_and_not_without(self):
        self.assertFalse(self.world.reaches(CONTAINER))
        self.assertFalse(self.world.reaches(CONTAINER4))
        with self.world.responding(*STATIC) as responder:
            self.assertTrue(self.world.reaches(CONTAINER))
            self.assertTrue(self.world.reaches(CONTAINER4))
            self.assertEqual(responder.drops(), {})
            self.assertEqual(responder.event("answered"), 2)
        self.assertFalse(self.world.reaches(CONTAINER))

    def test_every_field_of_an_answer(self):
        link_local = self.world.link_local("router")
        with self.world.captured("router") as path, self.world.responding(*STATIC):
            wire = self.wire
            for source in (ROUTER, link_local, "::"):
                wire.send(solicitation(f"{INNER}77", source))
                self.assertIsNotNone(wire.answer(), source)
        names = ("eth.src", "eth.dst", "ipv6.src", "ipv6.dst", "ipv6.hlim", "icmpv6.code", "icmpv6.checksum.status",
                 "icmpv6.nd.na.flag", "icmpv6.nd.na.target_address", "icmpv6.opt.type", "icmpv6.opt.length",
                 "icmpv6.opt.linkaddr", "_ws.malformed")
        target = f"{INNER}77"
        rest = [target, "2", "1", HOST_MAC, ""]
        solicited = ["255", "0", "1", "0x60000000", *rest]
        self.assertEqual(fields(path, f"icmpv6.nd.na.target_address == {target}", *names), [
            [HOST_MAC, ROUTER_MAC, target, ROUTER, *solicited],
            [HOST_MAC, ROUTER_MAC, target, link_local, *solicited],
            [HOST_MAC, "33:33:00:00:00:01", target, "ff02::1", "255", "0", "1", "0x20000000", *rest]])

    def test_router_flag_on_demand(self):
        with self.world.responding(*STATIC, "--router"):
            wire = self.wire
            wire.send(solicitation(f"{INNER}77"))
            self.assertEqual(wire.answer()[58], 0xE0)

    def test_arp_is_answered_field_by_field(self):
        with self.world.captured("router") as path, self.world.responding(*STATIC):
            self.world.reaches(CONTAINER4)
        names = ("eth.dst", "arp.src.hw_mac", "arp.src.proto_ipv4", "arp.dst.hw_mac", "arp.dst.proto_ipv4", "frame.len")
        self.assertEqual(fields(path, f"arp.opcode == 2 && arp.src.proto_ipv4 == {CONTAINER4}", *names),
                         [[ROUTER_MAC, HOST_MAC, CONTAINER4, ROUTER_MAC, "203.0.113.1", "60"]])

    def test_bad_input_has_a_name(self):
        target = f"{INNER}77"
        bad = (
            ({"hop_limit": 254}, "hop_limit"), ({"checksum": 1}, "checksum"), ({"code": 1}, "malformed"),
            ({"options": b"\1\1\2"}, "options"), ({"options": b"\1\0" + bytes(6)}, "options"),
            ({"options": b"\1\2" + bytes(6)}, "options"), ({"options": b"", "cut": 1}, "malformed"),
            ({"source": "ff02::1"}, "source_address"), ({"source": HOST}, "spoofed_source"),
            ({"source_mac": bytes.fromhex(HOST_MAC.replace(":", ""))}, "source_mac"),
            ({"source_mac": b"\3\0\0\0\0\1"}, "source_mac"), ({"dst": "ff02::1"}, "destination"),
            ({"source": "::", "options": b"\1\1\2\0\0\0\0\2"}, "probe"), ({"source": target}, "askers_own"))
        with self.world.responding(*STATIC) as responder:
            wire, expected = self.wire, {}
            for other, reason in bad:
                wire.send(solicitation(target, **other))
                expected[reason] = expected.get(reason, 0) + 1
            self.assertIsNone(wire.answer())
            self.assertEqual(responder.drops(), expected)

    def test_not_for_what_is_excluded_ours_or_elsewhere(self):
        with self.world.responding("--subnet", f"{respond_world.PREFIX}::/64", "--exclude", f"{INNER}40/124") as responder:
            wire = self.wire
            for target, source in ((f"{INNER}41", ROUTER), (ROUTER, self.world.link_local("router")),
                                   ("2001:db8:2::1", ROUTER)):
                wire.send(solicitation(target, source))
            self.assertIsNone(wire.answer())
            # The kernel answers for this host's own.
            wire.send(solicitation(HOST))
            self.assertIsNotNone(wire.answer())
            self.assertIsNone(wire.answer(timeout=0.2))
            self.assertEqual(responder.drops(), {"excluded": 1, "own_address": 2, "not_served": 1})

    def test_an_address_that_becomes_ours_is_ours(self):
        with self.world.responding(*STATIC) as responder:
            self.world.ip("host", f"address add {INNER}99/128 dev eth0 nodad")
            try:
                time.sleep(0.3)
                wire = self.wire
                wire.send(solicitation(f"{INNER}99"))
                self.assertIsNotNone(wire.answer())
                self.assertEqual(responder.drops(), {"own_address": 1})
            finally:
                self.world.ip("host", f"address delete {INNER}99/128 dev eth0")

    def test_sources_are_limited(self):
        with self.world.responding(*STATIC, "--rate-limit", "5") as responder:
            wire = self.wire
            for _ in range(30):
                wire.send(solicitation(f"{INNER}77"))
            self.assertIsNotNone(wire.answer())
            time.sleep(0.2)
            drops, answered = responder.drops(), responder.event("answered")
            self.assertEqual(drops["rate_limited"] + answered, 30)
            self.assertIn(answered, range(10, 13))

    def test_it_has_given_up_everything_and_sleeps(self):
        with self.world.responding(*STATIC) as responder:
            pid = responder.pid()
            now = status(pid)
            self.assertEqual((now["CapEff"], now["CapPrm"], now["CapBnd"]), ("0" * 16,) * 3)
            self.assertEqual((now["Seccomp"], now["NoNewPrivs"], now["Threads"]), ("2", "1", "1"))
            self.assertEqual(now["Uid"].split()[0], "65534")
            self.assertEqual(os.listdir(f"/proc/{pid}/root"), [])
            self.world.reaches(CONTAINER)
            # The client that has just asked is gone for it, too, and the code of the start.
            wait_until(lambda: int(status(pid)["VmRSS"].split()[0]) < 3000, 10, "the code's end")
            def sleeps():
                before = status(pid)["voluntary_ctxt_switches"]
                time.sleep(1)
                return status(pid)["voluntary_ctxt_switches"] == before
            # Who has asked makes sure of the answer some five seconds later.
            wait_until(sleeps, 10, "a second without anything")

    def test_it_is_asked_over_its_control_socket(self):
        with self.world.responding(*STATIC) as responder:
            self.world.reaches(CONTAINER)
            info = json.loads(responder.ctl("--json", "info"))
            self.assertEqual((info["mode"], info["target"]), ("respond", "eth0"))
            config = json.loads(responder.ctl("--json", "config"))["links"][0]
            self.assertEqual([p["prefix"] for p in config["served"]], ["203.0.113.64/26", f"{INNER}/112"])
            self.assertRegex(responder.ctl("stats"), r"answered +1\b")
            metrics = responder.ctl("metrics")
            self.assertIn('spelt_build_info{program="spelt"', metrics)
            self.assertIn("spelt_respond_answered_total 1\n", metrics)
            self.assertIn('spelt_respond_dropped_total{reason="hop_limit"} 0\n', metrics)
            with self.assertRaisesRegex(RuntimeError, "this instance has no flows"):
                responder.ctl("flows")
            self.assertEqual(responder.ctl("log", "debug"), "debug\n")
            responder.ctl("quit")
            self.assertEqual(responder.process.wait(5), 0)


class Asked(Behind):
    """Only those are answered for who are there."""

    def test_who_is_behind_is_asked_and_who_is_not_is_not_there(self):
        with self.world.responding("-s", f"{INNER}/112", "-a", "203.0.113.64/26", "--via", "br0", "--timeout", "0.1",
                                   "--retries", "2") as responder:
            self.assertTrue(self.world.reaches(CONTAINER))
            self.assertTrue(self.world.reaches(CONTAINER4))
            self.assertEqual((responder.event("found"), responder.event("asked")), (2, 2))
            wire = self.wire
            wire.send(solicitation(f"{INNER}6"))
            self.assertIsNone(wire.answer())
            self.assertEqual((responder.event("asked"), responder.drops()), (4, {"absent": 1}))

    def test_the_question_behind_has_every_field(self):
        link_local = self.world.link_local("host", "br0")
        with self.world.captured("container") as path:
            with self.world.responding("-s", f"{INNER}/112", "--via", "br0"):
                self.assertTrue(self.world.reaches(CONTAINER))
        row = fields(path, f"icmpv6.type == 135 && ipv6.src == {link_local}", "eth.src", "ipv6.dst", "ipv6.hlim",
                     "icmpv6.nd.ns.target_address", "icmpv6.opt.linkaddr", "icmpv6.checksum.status")[0]
        self.assertEqual(row, [BRIDGE_MAC, "ff02::1:ff00:5", "255", CONTAINER, BRIDGE_MAC, "1"])

    def test_one_that_comes_late_is_found_when_it_speaks(self):
        late = f"{INNER}9"
        with self.world.responding("-s", f"{INNER}/112", "--via", "br0", "--timeout", "0.05", "--retries", "1") as responder:
            self.assertFalse(self.world.reaches(late))
            self.world.ip("container", f"address add {late}/128 dev eth0 nodad")
            try:
                # Its announcement would do; without one, the kernel's next solicitation after the dead time.
                self.world.call("container", self.lab.program.path, "announce", "-i", "eth0", "--count", "1", late)
                self.assertTrue(self.world.reaches(late))
            finally:
                self.world.ip("container", f"address delete {late}/128 dev eth0")
            self.assertGreaterEqual(responder.drops()["absent"], 1)

    def test_keep_alive_asks_by_itself(self):
        with self.world.responding("-s", f"{INNER}/112", "--via", "br0", "--ttl", "0.4", "--timeout", "0.1", "--retries",
                                   "1", "--keep-alive") as responder:
            self.assertTrue(self.world.reaches(CONTAINER))
            time.sleep(1)
            self.assertGreaterEqual(responder.event("found"), 3)
            self.assertEqual(responder.event("heard"), 1)

    def test_routes_decide(self):
        with self.world.responding("-s", f"{respond_world.PREFIX}::/64", "-a", "203.0.113.0/24", "--auto", "--retries", "1",
                                   "--timeout", "0.1") as responder:
            self.assertTrue(self.world.reaches(CONTAINER))
            self.assertTrue(self.world.reaches(CONTAINER4))
            wire = self.wire
            for target in (f"{INNER}6", f"{respond_world.PREFIX}::77"):
                wire.send(solicitation(target))
            self.assertIsNone(wire.answer())
            self.assertEqual(responder.drops(), {"absent": 1, "no_route": 1})
            # A route of its own vouches for it, whatever is behind.
            self.world.ip("host", f"-6 route add {respond_world.PREFIX}::78 dev br0")
            try:
                wire.send(solicitation(f"{respond_world.PREFIX}::78"))
                self.assertIsNotNone(wire.answer())
            finally:
                self.world.ip("host", f"-6 route delete {respond_world.PREFIX}::78 dev br0")

    def test_a_link_that_comes_again_is_asked_again(self):
        with self.world.responding("-s", "2001:db8:1:0:ee::/112", "--via", "late0", "--retries", "1") as responder:
            self.assertIn("no interface 'late0' yet", self.world.errors(responder.process))
            wire = self.wire
            for _ in range(2):
                self.world.ip("host", "link add late0 type veth peer name late1")
                self.world.ip("host", "link set late0 up")
                self.world.ip("host", "link set late1 up")
                try:
                    time.sleep(0.3)
                    before = responder.event("asked")
                    wire.send(solicitation("2001:db8:1:0:ee::5"))
                    time.sleep(0.1)
                    self.assertEqual(responder.event("asked"), before + 1)
                finally:
                    self.world.ip("host", "link delete late0")
                time.sleep(0.2)


class Providers(Behind):
    """Networks that are particular about who says what."""

    def test_one_that_drops_advertisements_from_elsewhere(self):
        self.world.guard()
        try:
            with self.world.responding(*STATIC):
                self.assertTrue(self.world.reaches(CONTAINER))
        finally:
            self.world.call("router", "nft", "delete", "table", "ip6", "guard")

    def test_one_that_learns_from_what_is_sent_only(self):
        """Its router has no way to ask; it knows the container from the moment that we do."""
        self.world.ip("router", "-6 neigh flush dev eth0", check=False)
        with self.world.captured("router") as path:
            with self.world.responding("-s", CONTAINER, "--announce-to-router", "--announce-interval", "0.3") as responder:
                time.sleep(0.8)
                known = self.world.ip("router", f"neigh show {CONTAINER} dev eth0")
                announced = responder.event("announced")
        self.assertIn(HOST_MAC, known)
        # The announcement, then a solicitation at once and three of each: the container's, and this host's.
        self.assertIn(announced, (8, 10))
        asked = fields(path, f"icmpv6.type == 135 && icmpv6.nd.ns.target_address == {ROUTER}", "ipv6.src", "ipv6.dst",
                       "icmpv6.opt.linkaddr")
        group = "ff02::1:ff00:1"
        self.assertIn([CONTAINER, group, HOST_MAC], asked)
        self.assertIn([HOST, group, HOST_MAC], asked)
        told = fields(path, f"icmpv6.type == 136 && ipv6.src == {CONTAINER}", "ipv6.dst", "icmpv6.nd.na.flag")
        self.assertEqual(told[0], ["ff02::1", "0x20000000"])


NDPPD = f"""
route-ttl 30000
proxy eth0 {{
    router no
    ttl 30000
    rule {INNER}/113 {{ METHOD }}   # which is all of the bridge's
}}
"""


class Ndppd(Behind):
    """Its configuration, read by both."""

    def file(self, method, **changes):
        text = NDPPD.replace("METHOD", method)
        for before, after in changes.items():
            text = text.replace(before, after)
        path = self.lab.file("ndppd.conf")
        with open(path, "w", encoding="ascii") as file:
            file.write(text)
        return path

    def test_each_method_works(self):
        for method in ("static", "auto", "iface br0"):
            with self.subTest(method), self.world.responding("-c", self.file(method)) as responder:
                self.assertTrue(self.world.reaches(CONTAINER))
                self.assertEqual(responder.event("asked"), 0 if method == "static" else 1)

    def test_what_cannot_be_honoured_is_refused(self):
        path = self.file("static", router="autowire yes\n router")
        done = self.world.call("host", self.lab.program.path, "respond", "-c", path, check=False)
        self.assertEqual((done.returncode, done.stdout), (1, ""))
        self.assertIn(f"the configuration file '{path}': line 4: 'autowire yes' is not supported", done.stderr)

    def test_ndppd_itself_where_the_provider_is_particular(self):
        """What the guard is for: it drops ndppd's answers, which speak for the container and come from the host."""
        path = self.file("static")
        with self.world.running(["ndppd", "-c", path], "host"):
            self.assertTrue(wait_until(lambda: self.world.reaches(CONTAINER, wait="0.3"), 5, "ndppd"))
            self.world.guard()
            try:
                self.assertFalse(self.world.reaches(CONTAINER))
            finally:
                self.world.call("router", "nft", "delete", "table", "ip6", "guard")


class Containers(Behind):
    """Those of an engine's network, while they are there."""

    def test_they_are_followed_as_they_come_and_go(self):
        engine = self.closing(FakeEngine(self.lab.file("engine"), f"{CONTAINER}/112", "203.0.113.65/26"))
        options = ("--docker-network", "web", "--engine-socket", engine.path, "-a", "203.0.113.64/26")
        with self.world.responding(*options) as responder:
            wait_until(lambda: responder.stats()["containers"] == 2, 5, "the containers")
            self.assertTrue(self.world.reaches(CONTAINER))
            self.assertTrue(self.world.reaches(CONTAINER4))
            wire = self.wire
            wire.send(solicitation(f"{INNER}6"))
            self.assertIsNone(wire.answer(timeout=0.2))
            engine.change(f"{INNER}6")
            told = wire.answer(timeout=2)
            self.assertEqual((told[22:38], told[38:54]), (packed(f"{INNER}6"), packed("ff02::1")))
            wire.send(solicitation(f"{INNER}6"))
            self.assertEqual(wire.answer()[38:54], packed(ROUTER))
            wire.send(solicitation(CONTAINER))
            self.assertIsNone(wire.answer(timeout=0.2))
            self.assertEqual((responder.drops(), engine.lists), ({"absent": 2}, 2))
            # An engine that is started anew has another socket.
            engine.stop()
            engine.addresses = (CONTAINER,)
            engine.start()
            self.assertEqual(wire.answer(timeout=5)[22:38], packed(CONTAINER))

    def test_who_talks_to_the_engine_reads_no_frames(self):
        engine = self.closing(FakeEngine(self.lab.file("engine"), CONTAINER))
        with self.world.responding("--podman-network", "web", "--engine-socket", engine.path) as responder:
            pid = responder.pid()
            wait_until(lambda: responder.stats()["containers"] == 1, 5, "the containers")
            follower, = descendants(pid)
            now = status(follower)
            self.assertEqual((now["CapEff"], now["CapPrm"], now["Seccomp"], now["NoNewPrivs"]), ("0" * 16, "0" * 16, "2", "1"))
            # Standard streams, the pair, and the engine's events; no packet socket, and no log.
            self.assertEqual(packet_sockets(follower), [])
            self.assertEqual(len(packet_sockets(pid)), 1)
            os.kill(follower, signal.SIGKILL)
            self.assertEqual(responder.process.wait(5), 1)
            self.assertIn("the process that follows the container engine has ended", self.world.errors(responder.process))

    def test_it_ends_with_the_responder(self):
        engine = self.closing(FakeEngine(self.lab.file("engine"), CONTAINER))
        with self.world.responding("--docker-network", "web", "--engine-socket", engine.path) as responder:
            follower, = descendants(responder.pid())
        wait_until(lambda: has_ended(follower), 5, "its end")

    def test_an_engine_that_has_no_such_network_is_named(self):
        engine = self.closing(FakeEngine(self.lab.file("engine")))
        with self.world.responding("--docker-network", "webb", "--engine-socket", engine.path) as responder:
            wait_until(lambda: "network 'webb': there is none of this name" in self.world.errors(responder.process), 5, "a word")

    def test_what_it_has_to_say_is_in_the_log_file_of_the_responder(self):
        engine = self.closing(FakeEngine(self.lab.file("engine"), CONTAINER))
        path = self.lab.file("log")
        argv = [self.lab.program.path, "respond", "-i", "eth0", "--docker-network", "web", "--engine-socket", engine.path,
                "--control", "none", "--debug", "--log-file", path]

        def told(text):
            with open(path, encoding="utf-8") as file:
                return text in file.read()
        with self.world.running(argv, "host"):
            wait_until(lambda: told(" 1 addresses of containers\n"), 5, "the container")
            engine.stop()
            wait_until(lambda: told(f"WARNING: cannot follow the engine at '{engine.path}': "), 5, "a word about the engine")
            engine.addresses = (CONTAINER, CONTAINER4)
            engine.start()
            wait_until(lambda: told(" 2 addresses of containers\n"), 10, "the other")
        with open(path, encoding="utf-8") as file:
            first, *lines = file.read().splitlines()
        self.assertRegex(first, r"^spelt \S+: .* \(\d+\)$")
        for line in lines:
            self.assertRegex(line, r"^\d+\.\d{4}: (info:    |WARNING: |ERROR:   |         )\S")
        for text in ("Answering for ", "; trying again", f"following the engine at '{engine.path}' again"):
            self.assertEqual(sum(text in line for line in lines), 1, text)


def packet_sockets(pid):
    """Of the process, by their inodes."""
    with open(f"/proc/{pid}/net/packet", encoding="ascii") as file:
        inodes = {line.split()[-1] for line in file.readlines()[1:]}
    directory = f"/proc/{pid}/fd"
    found = [os.readlink(os.path.join(directory, name)) for name in os.listdir(directory)]
    return [f for f in found if f.startswith("socket:[") and f[8:-1] in inodes]


class Refused(Behind):
    def refused(self, *options, name="host", prefix=()):
        done = self.world.call(name, *prefix, self.lab.program.path, "respond", *options, check=False)
        self.assertIn(done.returncode, (1, 2), done.stdout)
        return done.stderr

    def test_what_cannot_work_is_said(self):
        self.assertIn("there is no interface 'nosuch0'", self.refused("-i", "nosuch0", "-s", "2001:db8::/64"))
        self.assertIn("'lo' is no Ethernet", self.refused("-i", "lo", "-s", "2001:db8::/64"))
        self.assertIn("nobody is answered for", self.refused("-i", "eth0"))
        self.assertIn("bits beyond its length: 2001:db8::/64?", self.refused("-i", "eth0", "-s", "2001:db8::1/64"))
        self.assertIn("CAP_NET_RAW", self.refused("-i", "eth0", "-s", "2001:db8::/64",
                                                  prefix=("setpriv", "--bounding-set", "-net_raw", "--")))
        checked = self.world.call("host", self.lab.program.path, "respond", "-i", "eth0", "--check", *STATIC).stdout
        self.assertEqual(checked, "Answering for 2 prefixes on eth0\n")
