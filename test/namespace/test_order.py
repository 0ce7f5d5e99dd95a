"""The order of confinement: nothing that a guest, a hypervisor or a client has sent is looked at before every thread of the process
that looks has given up what it does not need. Each thread is held up before its filter of system calls, so that whatever could come
too early has the time to: frames, requests and connections wait by then."""

import contextlib
import json
import os
import re
import socket
import struct
import subprocess
import time

import lab
from support import Case, limit

# How long each filter waits; every thread has several.
DELAY_US = 80_000
# Descriptors that the outside writes to, as the tracer names them; those of UNIX sockets but for the program's own pairs. Without
# its root the device has lost the first part of its path.
OUTSIDE = re.compile(r"\d+<((?:/dev)?/net/tun|(?:TCP|UDP|PING)(?:v6)?:|UNIX[^:]*:\[(\d+))")
READS = ("read", "readv", "recvfrom", "recvmsg", "recvmmsg", "accept", "accept4", "splice", "pread64")
DONE = re.compile(r"= 0( \(DELAYED\))?$")
LINE = re.compile(r"(\d+) +([\d.]+) (?:<\.\.\. )?(\w+)(\(| resumed>)(.*)$")

# A frame that nobody answers: what it says does not matter here, only when it is read.
FRAME = bytes.fromhex("ffffffffffff 020000000001 88b5") + bytes(50)
FEATURES = struct.pack("III", 1, 1, 0)  # VHOST_USER_GET_FEATURES


class Trace:
    """Calls in the order in which they began: (time, thread, name, arguments), and who is whose thread."""

    def __init__(self, path):
        self.calls, self.ended, self.processes, self.pairs = [], [], {}, set()
        begun = {}
        with open(path, encoding="utf-8", errors="replace") as trace:
            for line in trace:
                found = LINE.match(line)
                if not found:
                    continue
                thread, now, name, kind, rest = found[1], float(found[2]), found[3], found[4], found[5]
                if kind == "(":
                    begun[thread] = rest
                    self.calls.append((now, thread, name, rest))
                if not rest.endswith("<unfinished ...>"):
                    text = rest if kind == "(" else begun.get(thread, "") + rest
                    self.ended.append((now, thread, name, text))
                    if name == "socketpair":
                        self.pairs.update(re.findall(r"<UNIX[^:]*:\[(\d+)", text))
                    if name in ("clone", "clone3") and "CLONE_THREAD" in text:
                        self.processes[re.search(r"= (\d+)", text)[1]] = self.processes.get(thread, thread)

    def process(self, thread):
        return self.processes.get(thread, thread)

    def threads(self, process):
        return {thread for _, thread, *_ in self.calls if self.process(thread) == process}

    def times(self, thread, name, part=""):
        """When these calls succeeded."""
        return [now for now, t, n, text in self.ended if (t, n) == (thread, name) and part in text and DONE.search(text)]

    def filtered(self, thread):
        """When the last filter was there."""
        return max(self.times(thread, "seccomp", "SECCOMP_SET_MODE_FILTER"), default=None)

    def reads(self):
        """Those of what comes from outside: time, thread, description."""
        for now, thread, name, rest in self.calls:
            found = OUTSIDE.match(rest)
            if name in READS and found and found[2] not in self.pairs:
                yield now, thread, f"{name}({rest}"


class Order(Case):
    """For each way to be started."""

    def setUp(self):
        self.path = self.lab.file("trace")

    def start(self, argv, **more):
        tracer = ["strace", "-D", "-f", "-yy", "-ttt", "-qq", "-s", "32", "-o", self.path,
                  "-e", f"inject=seccomp:delay_enter={DELAY_US}"]
        process = self.lab.popen([*tracer, *self.lab.as_user(argv)], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL,
                                 stderr=subprocess.PIPE, **more)
        self.addCleanup(self.lab.end, process)
        return process

    def begun(self):
        """True when the first filter is on its way."""
        with open(self.path, encoding="utf-8", errors="replace") as trace:
            return "SECCOMP_SET_MODE_FILTER" in trace.read()

    def soon(self, action):
        """What it returns, as soon as it works."""
        def attempt():
            with contextlib.suppress(OSError):
                return action()
        return self.closing(lab.wait_until(attempt, 10, "the program's socket"))

    def stop(self, process):
        """Lets it work for a while, ends it, and returns what was seen."""
        time.sleep(1 + 12 * DELAY_US / 1e6)
        for pid in lab.descendants(os.getpid()) | {process.pid}:
            if lab.comm(pid) in ("spelt", "slirp4netns"):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, 15)
        process.communicate(timeout=10)
        time.sleep(0.3)
        return Trace(self.path)

    def assert_order(self, trace, waiting, threads=1, sources=()):
        """`waiting`: when something was there to be read; `sources`: what must have been read, in the end."""
        reads = list(trace.reads())
        for part in sources:
            self.assertTrue(any(part in text for _, _, text in reads), (part, reads))
        servers = {trace.process(thread) for _, thread, _ in reads}
        self.assertEqual(len(servers), 1, reads)
        server, = servers
        self.assertEqual(len(trace.threads(server)), threads)
        confined = {t: trace.filtered(t) for t in trace.threads(server)}
        self.assertNotIn(None, confined.values())
        all_confined = max(confined.values())
        self.assertLess(waiting, min(confined.values()), "it was too fast for this test")
        early = [text for now, _, text in reads if now < all_confined]
        self.assertEqual(early, [], "read before all threads were confined")
        self.assert_nothing_is_given_up_later(trace, server, confined)

    def assert_nothing_is_given_up_later(self, trace, server, confined):
        """The filter is the last step of each thread, and the process's own steps come before it has other threads."""
        others = [now for now, _, name, text in trace.ended if name in ("clone", "clone3") and "CLONE_THREAD" in text]
        # Installing a filter sets no_new_privs once more.
        for name, part in (("prctl", "PR_SET_NO_NEW_PRIVS"), ("landlock_restrict_self", ""), ("pivot_root", "")):
            self.assertLess(min(trace.times(server, name, part)), min([*others, confined[server]]), name)
        for thread, filtered in confined.items():
            for name, part in (("unshare", "CLONE_NEWPID"), ("capset", "permitted="), ("prctl", "PR_SET_DUMPABLE")):
                self.assertLess(max(trace.times(thread, name, part)), filtered, name)

    def send_early(self, port, kind=socket.SOCK_STREAM):
        """A client of a port, with something to say, before anybody serves it."""
        def connect():
            client = self.lab.remote.socket(socket.AF_INET, kind)
            try:
                client.connect((lab.HOST4, port))
                client.sendall(b"early")
                # A datagram is refused while nobody is there.
                time.sleep(0.02 if kind == socket.SOCK_DGRAM else 0)
                client.send(b"early")
                return client
            except OSError:
                client.close()
                raise
        return self.soon(connect)

    @limit(60)
    def test_run(self):
        """Clients at both kinds of ports; the kernel inside sends by itself when the interface is up."""
        for more in ([], ["--queues", "4", "--threads", "4"]):
            process = self.start(self.lab.program.run(["-q", "-t", "8001", "-u", "8001", "-T", "6001", *more], ["cat"]))
            self.send_early(8001)
            self.send_early(8001, socket.SOCK_DGRAM)
            waiting = time.time()
            trace = self.stop(process)
            self.assert_order(trace, waiting, 4 if more else 1, ("/net/tun", "accept4", "<UDP"))
            self.assert_broker_is_confined(trace)

    def assert_broker_is_confined(self, trace):
        """It hears of nothing before either."""
        name, = {thread for _, thread, call, text in trace.ended if call == "prctl" and "spelt-broker" in text}
        filtered = trace.filtered(name)
        heard = [now for now, thread, call, rest in trace.calls
                 if thread == name and call in READS and OUTSIDE.match(rest)]
        self.assertLess(filtered, min(heard))

    @limit(60)
    def test_attach(self):
        for more in ([], ["--queues", "4", "--threads", "4"]):
            with self.lab.empty_guest() as guest:
                process = self.start(self.lab.program.attach(["-q", "-f", "-t", "8001", *more], str(guest.pid)))
                self.send_early(8001)
                self.fill_queues(guest)
                waiting, threads = time.time(), 4 if more else 1
                trace = self.stop(process)
            self.assert_order(trace, waiting, threads, ("/net/tun", "accept4"))
            self.assertEqual(len({thread for _, thread, text in trace.reads() if "/net/tun" in text}), threads)

    def fill_queues(self, guest):
        """Frames for each queue of the interface: to everybody, for which the kernel inside need not ask who that is."""
        sender = self.closing(guest.socket(socket.AF_INET, socket.SOCK_DGRAM))
        sender.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        self.soon(lambda: sender.sendto(b"early", ("192.0.2.255", 9)) and sender)
        for port in range(1000, 1100):
            sender.sendto(b"early", ("192.0.2.255", port))

    @limit(60)
    def test_machine_by_descriptor(self):
        for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
            ours, theirs = socket.socketpair(socket.AF_UNIX, kind)
            with ours, theirs:
                before = struct.pack("!I", len(FRAME)) if kind == socket.SOCK_STREAM else b""
                ours.send(before + FRAME)
                waiting, number = time.time(), str(theirs.fileno())
                process = self.start(self.lab.program.vm(["-q", "-f", "-t", "8001", "--fd", number]),
                                     pass_fds=[theirs.fileno()])
                self.send_early(8001)
                trace = self.stop(process)
            self.assert_order(trace, waiting, 1, ("UNIX", "accept4"))

    @limit(60)
    def test_machine_at_a_path(self):
        for more, threads, word in (([], 1, struct.pack("!I", len(FRAME)) + FRAME), (["--vhost-user", "--threads", "1"], 1, FEATURES),
                                    (["--vhost-user", "--threads", "4"], 4, FEATURES)):
            path = self.lab.file("socket")
            os.unlink(path)
            process = self.start(self.lab.program.vm(["-q", "-f", "--socket", path, *more]))
            hypervisor = self.soon(lambda: self.connected(path))
            hypervisor.sendall(word)
            waiting = time.time()
            trace = self.stop(process)
            self.assert_order(trace, waiting, threads, ("accept4", "rec"))

    @limit(60)
    def test_machine_that_waits_for_us(self):
        with socket.socket(socket.AF_UNIX) as listener:
            path = self.lab.file("socket")
            os.unlink(path)
            listener.bind(path)
            os.chmod(path, 0o666)
            listener.listen()
            process = self.start(self.lab.program.vm(["-q", "-f", "--vhost-user", "--threads", "1", "--connect", path]))
            hypervisor = self.closing(listener.accept()[0])
            hypervisor.sendall(FEATURES)
            waiting = time.time()
            trace = self.stop(process)
        self.assert_order(trace, waiting, 1, ("rec",))

    @limit(60)
    def test_control_socket(self):
        path = self.lab.file("api")
        os.unlink(path)
        slirp4netns = self.lab.install(self.lab.program.path, "slirp4netns")
        with self.lab.empty_guest() as guest:
            process = self.start([slirp4netns, "-c", "--enable-sandbox", "--enable-seccomp", "--api-socket", path,
                                  str(guest.pid), "tap0"])
            client = self.soon(lambda: self.connected(path))
            client.sendall(json.dumps({"execute": "list_hostfwd"}).encode())
            waiting = time.time()
            trace = self.stop(process)
        self.assert_order(trace, waiting, 1, ("accept4", "/net/tun"))

    def connected(self, path):
        client = socket.socket(socket.AF_UNIX)
        try:
            client.connect(path)
            return client
        except OSError:
            client.close()
            raise
