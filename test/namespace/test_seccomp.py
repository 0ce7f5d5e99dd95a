"""The filter of system calls: it is there, nothing else is possible, and nothing is possible that is not needed."""

import contextlib
import errno
import json
import os
import platform
import re
import signal
import socket
import subprocess
import time
import unittest.mock

import lab
import respond_world
from fake_engine import FakeEngine
from support import V4, V6, Case, limit
from test_privileges import status

ENGINES = ("run", "attach", "machine", "card")
HELPING = ("broker", "upkeep", "reader", "follower")
ROLES = (*ENGINES, *HELPING, "responder")
CALL = re.compile(r"(?:<\.\.\. )?(\w+)(?:\(| resumed>)")

# Programs find that the kernel lacks a system call: number and errno, then the program's command line.
WITHOUT = """
import ctypes, os, struct, sys
number, errno, argv = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3:]
code = b"".join(struct.pack("HBBI", *line) for line in (
    (0x20, 0, 0, 0), (0x15, 0, 1, number), (0x06, 0, 0, 0x50000 | errno), (0x06, 0, 0, 0x7fff0000)))
kept = ctypes.create_string_buffer(code)
program = ctypes.create_string_buffer(struct.pack("HxxxxxxP", 4, ctypes.addressof(kept)))
libc = ctypes.CDLL(None)
if libc.prctl(38, 1, 0, 0, 0) or libc.prctl(22, 2, program, 0, 0):
    sys.exit("no seccomp")
os.execvp(argv[0], argv)
"""


def threads(pid):
    return [f"{pid}/task/{thread}" for thread in os.listdir(f"/proc/{pid}/task")]


def calls_in(path):
    """By name of the thread: the calls made when its last filter was there."""
    filtered, calls = {}, {}
    with open(path, encoding="utf-8", errors="replace") as trace:
        for line in trace:
            head, _, rest = line.partition("> ")
            thread, _, name = head.partition("<")
            if "SECCOMP_SET_MODE_FILTER" in rest:
                filtered[thread] = True
                calls[thread] = (name, set())
            elif thread in filtered and (found := CALL.match(rest)):
                calls[thread][1].add(found[1])
    return list(calls.values())


class Presence(Case):
    """In every thread of every process of ours that lives on, and not in the command's."""

    options = ("--queues", "2", "--threads", "2", "-T", "5999", "-t", "auto")

    def assert_filtered(self, pid):
        for thread in threads(pid):
            now = status(thread)
            self.assertEqual((now["Seccomp"], now["NoNewPrivs"]), ("2", "1"), (thread, now["Name"]))

    def test_threads_and_broker(self):
        main = self.guest.translator()
        self.assertEqual(len(threads(main)), 2)
        self.assert_filtered(main)
        broker, = (pid for pid in lab.descendants(main) if status(pid)["Name"] == "spelt-broker")
        self.assert_filtered(broker)

    def test_command_is_free(self):
        now = status(self.guest.pid)
        self.assertEqual((now["Seccomp"], now["NoNewPrivs"]), ("0", "0"))

    def test_attached(self):
        guest = self.closing(self.lab.attached())
        self.assert_filtered(self.lab.translators(guest)[0])

    def test_virtual_machines(self):
        for more in ({}, {"vhost_user": 2}):
            guest = self.closing(self.lab.vm(**more))
            self.assert_filtered(self.lab.translators(guest)[0])


class Forbidden(Case):
    """Each ends the process that makes it, with its name."""

    CALLS = ("execve", "ptrace", "setns", "unshare", "clone", "clone3", "prctl", "bpf", "io_uring_setup", "kill", "tgkill",
             "mmap executable", "mprotect executable", "socket packet", "socket raw", "socket local", "socket route",
             "setsockopt filter", "ioctl sti")

    def make(self, role, call):
        return self.lab.call([self.lab.tool, "calls", "--as", role, "--make", call], check=False)

    def test_they_end_the_process(self):
        for role in ROLES:
            for call in (*self.CALLS, *(["openat"] if role in ("broker", "upkeep", "follower") else [])):
                if (role, call) == ("follower", "socket local"):
                    continue  # an engine's
                done = self.make(role, call)
                self.assertEqual(done.returncode, -signal.SIGSYS, (role, call, done.stdout))
                line, = done.stderr.splitlines()
                self.assertRegex(line, rf"^spelt: system call {call.split()[0]}\(.*\), number \d+, was blocked by the filter")

    def test_files_are_not_there(self):
        """A C library looks for some on its own, and does without."""
        for role in (*ENGINES, "responder"):
            done = self.make(role, "openat")
            self.assertEqual(json.loads(done.stdout), {"result": -1, "errno": 2}, done.stderr)

    def test_hints_of_the_c_library_end_nobody(self):
        """GLIBC_TUNABLES=glibc.malloc.hugetlb=1:glibc.mem.decorate_maps=1 has it give them."""
        for role in ROLES:
            done = self.make(role, "madvise large pages")
            self.assertEqual(done.returncode, 0, (role, done.stderr))
            done = self.make(role, "prctl name")
            self.assertEqual(json.loads(done.stdout or "0"), {"result": -1, "errno": errno.EINVAL}, (role, done.stderr))

    def test_a_bug_is_still_told(self):
        with unittest.mock.patch.dict(os.environ, RUST_BACKTRACE="1"):
            done = self.make("run", "panic")
        self.assertEqual((done.returncode, "as after a bug" in done.stderr), (101, True), done.stderr)
        self.assertNotIn("filter", done.stderr)
        for role in HELPING:
            self.assertEqual(self.make(role, "abort").returncode, -signal.SIGABRT, role)


class Lacking(Case):
    """Systems without some of it."""

    LANDLOCK = (444, errno.ENOSYS)
    FILTER = ({"x86_64": 317, "aarch64": 277}[platform.machine()], errno.EINVAL)
    NAMESPACES = ({"x86_64": 272, "aarch64": 97}[platform.machine()], errno.EPERM)

    def call(self, argv, lacking):
        wrapper = ["/usr/bin/python3", "-c", WITHOUT, *map(str, lacking)]
        return self.lab.call(self.lab.as_user([*wrapper, *argv]), check=False)

    def run_without(self, lacking, *options):
        return self.call(self.lab.program.run(options, ["true"]), lacking)

    def assert_refused(self, done, word):
        line, = done.stderr.splitlines()
        self.assertEqual(done.returncode, 1, done.stderr)
        self.assertIn("cannot isolate this process", line)
        self.assertIn(word, line)

    def test_it_is_fatal_unless_told_otherwise(self):
        for lacking, word in ((self.LANDLOCK, "Landlock"), (self.FILTER, "filter"), (self.NAMESPACES, "user namespace")):
            self.assert_refused(self.run_without(lacking, "-q"), word)
            done = self.run_without(lacking, "-q", "--allow-degraded", "--threads", "2", "--queues", "2")
            self.assertEqual(done.returncode, 0, done.stderr)
            for line in done.stderr.splitlines():
                self.assertIn("going on without", line)
            self.assertIn(word, done.stderr.splitlines()[0])

    def test_pasta_does_without_landlock_and_not_without_the_filter(self):
        pasta = [self.lab.install(self.lab.program.path, "pasta"), "-q", "--config-net", "--", "true"]
        done = self.call(pasta, self.LANDLOCK)
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        self.assert_refused(self.call(pasta, self.FILTER), "filter")

    def test_slirp4netns_insists_on_what_was_asked_for(self):
        path = self.lab.install(self.lab.program.path, "slirp4netns")
        guest = self.closing(self.lab.empty_guest())
        self.assert_refused(self.call([path, "--enable-seccomp", str(guest.pid), "tap1"], self.FILTER), "filter")
        self.assert_refused(self.call([path, "--enable-sandbox", str(guest.pid), "tap2"], self.NAMESPACES), "namespace")


class Idle(Case):
    """Everything that is allowed happens: scenarios under a tracer."""

    def setUp(self):
        self.seen = {role: set() for role in ROLES}

    @contextlib.contextmanager
    def traced(self, role, as_root=False, as_is=False):
        """The program is traced, and the calls that it makes are counted as the role's and the broker's."""
        path, user = self.lab.file("trace"), self.lab.as_root if as_root else self.lab.as_user
        if as_is:
            user = list
        tracer = ["strace", "-D", "-f", "-Y", "-qq", "-o", path]

        def as_user(argv):
            return [*(tracer if self.lab.program.path in argv else []), *user(argv)]
        with unittest.mock.patch.object(self.lab, "as_user", as_user):
            yield
        lab.wait_until(lambda: self.is_complete(path), 10, "the end of the trace")
        for name, calls in calls_in(path):
            helper = name.removeprefix("spelt-")
            self.seen[helper if helper in HELPING else role] |= calls

    def is_complete(self, path):
        """The tracer ends with the last process that it follows."""
        def follows(pid):
            with contextlib.suppress(OSError), open(f"/proc/{pid}/cmdline", encoding="utf-8", errors="replace") as file:
                return path in file.read()
            return False
        return not any(follows(pid) for pid in lab.processes() if lab.comm(pid) == "strace")

    def talk(self, guest, source=None):
        """A little of all protocols, both versions, both directions, and what goes wrong with them."""
        for net in (V4, V6):
            near, far = self.pair(self.lab.remote, net.remote, guest=guest)
            self.assert_connected(near, far)
            near.shutdown(socket.SHUT_WR)
            self.assertEqual(far.recv(1), b"")
            self.datagrams(guest, net)
            for port, where in ((9, net.remote), (9, net.unreachable)):
                with self.assertRaises(OSError):
                    guest.connect(where, port, timeout=2)
            guest.run("ping", "-c1", "-W2", net.remote)
            client, served, _ = self.inbound(self.lab.remote, net.host, 8001, guest=guest)
            self.assert_connected(client, served)
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            client.close()
        guest.run("ping", "-b", "-c1", "-W1", "192.0.2.255", check=False)

    def datagrams(self, guest, net):
        with self.lab.remote.bind(net.remote) as server, guest.socket(net.af, socket.SOCK_DGRAM) as client:
            for turn in range(20):
                client.sendto(b"%d" % turn, server.getsockname())
            for _ in range(20):
                text, peer = server.recvfrom(100)
                server.sendto(text, peer)
                client.recv(100)
            client.sendto(b"?", (net.remote, 9))
            client.sendto(b"?", (net.unreachable, 9))
        with guest.bind(net.any, 8001) as served, self.lab.remote.socket(net.af, socket.SOCK_DGRAM) as client:
            client.sendto(b"in", (net.host, 8001))
            text, peer = served.recvfrom(100)
            served.sendto(text, peer)
            self.assertEqual(client.recv(100), b"in")

    def past_the_link(self, guest):
        """Loopback to loopback, both ways."""
        for net in (V4, V6):
            client, served, _ = self.inbound(self.lab.host, net.loopback, 8001, guest=guest)
            self.assert_connected(client, served)
            self.fill([(client, served), self.inbound(self.lab.host, net.loopback, 8001, guest=guest)[:2]])
            with self.lab.host.listen(net.loopback, 6001) as listener:
                near = self.closing(guest.connect(net.loopback, 6001))
                far = self.closing(listener.accept()[0])
            self.assert_connected(near, far)
            with guest.bind(net.any, 8001) as served, self.lab.host.socket(net.af, socket.SOCK_DGRAM) as client:
                client.sendto(b"in", (net.loopback, 8001))
                self.assertEqual(served.recv(100), b"in")

    def fill(self, pairs):
        """So much at once that each needs a pipe of its own."""
        sent = 1
        while sent:
            time.sleep(0.2)
            sent = sum(self.sent(sender) for sender, _ in pairs)
        for sender, receiver in pairs:
            sender.close()
            while receiver.recv(1 << 20):
                pass

    def sent(self, sender):
        """As much as it takes now, in bytes."""
        sender.setblocking(False)
        total = 0
        with contextlib.suppress(BlockingIOError):
            while True:
                total += sender.send(bytes(1 << 20))
        return total

    def auto_scenario(self, guest, log):
        """A port that appears, and messages until the oldest go."""
        listener = self.closing(guest.listen("0.0.0.0", 8500))
        def connect():
            with contextlib.suppress(OSError):
                return self.lab.remote.connect(lab.HOST4, 8500)
        self.closing(lab.wait_until(connect, 5, "the port on the host"))
        listener.accept()[0].close()
        def more():
            for _ in range(20):
                self.assert_connected(*self.pair(self.lab.remote, lab.REMOTE4, guest=guest))
            with open(log, encoding="utf-8") as file:
                return "log truncated" in file.readline()
        lab.wait_until(more, 20, "a full log")

    def follow_scenario(self, guest):
        """The host gets an address, and another resolver for a while."""
        self.addCleanup(self.lab.resolv_conf, f"nameserver {lab.REMOTE4}", f"nameserver {lab.REMOTE6}", "search lab.test")
        self.lab.resolv_conf("nameserver 127.0.0.53")
        self.lab.ip("host", "addr add 192.0.2.99/24 dev eth0")
        try:
            argv = ["ip", "-netns", os.path.basename(guest.path), "addr"]
            lab.wait_until(lambda: "192.0.2.99" in self.lab.call(argv).stdout, 10, "the address inside")
        finally:
            self.lab.ip("host", "addr del 192.0.2.99/24 dev eth0")

    def run_scenario(self):
        with self.traced("run"):
            guest = self.lab.guest("--queues", "2", "--threads", "2", "-t", "8001", "-u", "8001", "-T", "6001", "--debug")
            self.talk(guest)
            self.past_the_link(guest)
            os.kill(guest.translator(), signal.SIGTERM)
            guest.close()

    def attach_scenario(self):
        name, log = f"{self.lab.name}seen", self.lab.file("log")
        self.lab.call(["ip", "netns", "add", name])
        self.addCleanup(subprocess.run, ["ip", "netns", "delete", name], check=False, capture_output=True)
        guest = lab.Namespace(f"/run/netns/{name}")
        with self.traced("attach", as_root=True):
            self.lab.attach(guest.path, "-t", "auto", "-T", "auto", "-l", log, "--log-size", "40960", "--trace")
            self.auto_scenario(guest, log)
            self.follow_scenario(guest)
            self.lab.call(["ip", "netns", "delete", name])

    def machine_scenarios(self):
        for role, more in (("machine", {}), ("machine", {"kind": socket.SOCK_DGRAM}), ("card", {"vhost_user": 2})):
            with self.traced(role):
                guest = self.lab.vm("-t", "8001", "-u", "8001", **more)
                self.talk(guest)
                guest.close()

    def responder_scenario(self):
        """All ways to be asked and to ask, a link that comes late, and an engine that goes."""
        world = respond_world.World(self.lab)
        wire = self.closing(respond_world.Wire(world))
        engine = FakeEngine(self.lab.file("engine"), respond_world.CONTAINER)
        asked = ("-s", "2001:db8:1:0:ee::/112", "--via", "late0")
        with self.traced("responder", as_is=True):
            with world.responding("--docker-network", "web", "--engine-socket", engine.path, tracer=self.lab.as_user) as responder:
                lab.wait_until(lambda: responder.stats()["containers"] == 1, 10, "the container")
                self.assertTrue(world.reaches(respond_world.CONTAINER))
                # The code of the start goes when nothing has happened for a second.
                pid = responder.pid()
                lab.wait_until(lambda: int(status(pid)["VmRSS"].split()[0]) < 3000, 10, "the code's end")
                engine.stop()
                lab.wait_until(lambda: "cannot follow" in world.errors(responder.process), 5, "a word about the engine")
                responder.ctl("quit")
                responder.process.wait(10)
        with self.traced("responder", as_is=True):
            with world.responding(*asked, tracer=self.lab.as_user) as responder:
                world.ip("host", "link add late0 type veth peer name late1")
                world.ip("host", "link set late0 up")
                world.ip("host", "link set late1 up")
                lab.wait_until(lambda: wire.send(respond_world.solicitation("2001:db8:1:0:ee::5")) or responder.event("asked"),
                               10, "a question on the link that has come")
                os.kill(responder.pid(), signal.SIGTERM)
                responder.process.wait(10)

    @limit(120)
    def test_everything_that_is_allowed_happens(self):
        self.run_scenario()
        self.attach_scenario()
        self.machine_scenarios()
        self.responder_scenario()
        idle = []
        for call in json.loads(self.lab.call([self.lab.tool, "calls"]).stdout):
            # One role of those that serve a guest is enough.
            for group in (ENGINES, *((role,) for role in ROLES[len(ENGINES):])):
                roles = set(group) & set(call["roles"])
                if roles and not call["rare"] and not any(call["name"] in self.seen[role] for role in roles):
                    idle.append((call["name"], *sorted(roles)))
        self.assertEqual(idle, [])
        for role in ROLES:
            # Each does one of them.
            self.assertTrue({"close", "sendmsg"} & self.seen[role], role)
