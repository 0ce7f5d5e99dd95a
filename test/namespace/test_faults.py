"""The program while one in thirty of its system calls fails (src/sys/faults.rs). It is the one that `cargo build --features
faults` makes, which looks for flows that nobody will ever move again as well."""

import contextlib
import hashlib
import os
import re
import socket
import threading
import time

import lab
from lab import wait_until
from lab.program import TARGET, Program
from support import Case, limit

SIZE = 12 << 20
DATAGRAMS = 60
# Short connections, one after the other.
MANY = 60
ATTEMPTS = 40
# So many of 10,000 calls of each kind fail.
RATE = 300


class Faulty(Program):
    """A program whose system calls fail, others for each seed."""

    def __init__(self, path, seed):
        super().__init__(path, kind="spelt")
        self.seed = seed

    def run(self, options, command):
        return self._failing(super().run(options, command))

    def vm(self, options):
        return self._failing(super().vm(options))

    def _failing(self, argv):
        return ["env", f"SPELT_FAULTS={self.seed}:{RATE}", *argv]


class Faults(Case):
    options = None

    def another_guest(self, *options):
        return self.lab.guest(*options, program=self.program())

    def program(self, seed=7):
        return Faulty(self.lab.install(os.path.join(TARGET, "debug", "spelt"), "spelt-faults"), seed)

    def translator(self):
        """Process id of the program that serves the guest: of all that look like it, the one that has worked most."""
        family = lab.descendants(self.guest.process.pid) | {self.guest.process.pid}
        return max((pid for pid in family if lab.comm(pid).startswith("spelt")), key=lab.cpu_seconds)

    @staticmethod
    def descriptors(pid):
        return len(os.listdir(f"/proc/{pid}/fd"))

    def play(self, *scenes):
        """All at once; then what was in use is not any more."""
        self.assertIsNone(self.guest.process.poll())
        failures = []

        def played(scene):
            try:
                scene()
            except Exception as e:  # pylint: disable=broad-except
                failures.append(f"{scene.__qualname__}: {e!r}")
        threads = [threading.Thread(target=played, args=(scene,), daemon=True) for scene in scenes]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(40)
        self.assertFalse(any(thread.is_alive() for thread in threads), "something waits for ever")
        self.assertEqual(failures, [])
        # Pipes that are kept, sockets in store, and flows of datagrams and echoes are all made by now.
        pid = self.translator()
        time.sleep(0.5)
        before = self.descriptors(pid)
        self.many()
        wait_until(lambda: self.descriptors(pid) <= before + 4, 10, "descriptors to be closed")
        began = lab.cpu_seconds(pid)
        time.sleep(1)
        self.assertLess(lab.cpu_seconds(pid) - began, 0.2, "it is busy with nothing")
        self.finish()

    def finish(self):
        log = self.guest.log
        self.tearDownClass()
        with open(log, encoding="utf-8") as file:
            text = file.read()
        made = {name: int(count) for name, count in re.findall(r"(\w+/\d+)=(\d+)", text)}
        self.assertGreater(sum(made.values()), 50, text)
        self.assertNotIn("panicked", text)

    def outbound(self):
        """The guest's connections, both ways."""
        with self.lab.remote.listen(lab.REMOTE4, backlog=100) as listener:
            exchange(lambda: self.guest.connect(lab.REMOTE4, listener.getsockname()[1]), listener)

    def many(self):
        with self.lab.service(self.lab.remote, "echo", "--listen", f"{lab.REMOTE4}:8304"):
            for n in range(MANY):
                for _ in range(ATTEMPTS):
                    with contextlib.suppress(OSError), self.guest.connect(lab.REMOTE4, 8304, timeout=20) as stream:
                        stream.sendall(b"%d" % n)
                        if stream.recv(10) == b"%d" % n:
                            break
                else:
                    raise RuntimeError("no connection was made")

    def inbound(self):
        with self.guest.listen("0.0.0.0", 8301) as listener:
            exchange(lambda: self.lab.remote.connect(lab.HOST4, 8301), listener)

    def past_the_link(self):
        with self.guest.listen("0.0.0.0", 8302) as listener:
            exchange(lambda: self.lab.host.connect("127.0.0.1", 8302), listener)

    def past_the_link_to_the_host(self):
        with self.lab.host.listen("127.0.0.1", 8303) as listener:
            exchange(lambda: self.guest.connect("127.0.0.1", 8303), listener)

    def datagrams(self):
        with self.lab.remote.bind(lab.REMOTE4) as server, self.guest.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            client.connect(server.getsockname())
            ask(client, server)

    def datagrams_past_the_link(self):
        with self.guest.bind("0.0.0.0", 8302) as server, self.lab.host.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            client.connect(("127.0.0.1", 8302))
            ask(client, server)

    def echoes(self):
        for _ in range(10):
            if any(" 0 received" not in self.guest.run("ping", "-c1", "-W1", lab.REMOTE4, check=False).stdout
                   for _ in range(10)):
                continue
            raise AssertionError("no answer")


class Tap(Faults):
    options = ("-t", "8301,8302", "-u", "8302", "-T", "8303")

    @limit(90)
    def test_tap(self):
        self.play(self.outbound, self.inbound, self.past_the_link, self.past_the_link_to_the_host, self.datagrams,
                  self.datagrams_past_the_link, self.echoes)


class Workers(Faults):
    options = ("-t", "8301", "--queues", "2", "--threads", "2")

    @limit(90)
    def test_workers(self):
        self.play(self.outbound, self.inbound, self.outbound, self.datagrams)


class Machine(Faults):
    more = {}

    def another_guest(self, *options):
        for seed in range(ATTEMPTS):
            # A client that the event loop has no memory for is turned away.
            with contextlib.suppress(RuntimeError):
                return self.lab.vm(*options, program=self.program(seed), **self.more)
        raise RuntimeError("no client was served")

    def all_at_once(self):
        self.play(self.outbound, self.inbound, self.datagrams, self.echoes)


class Stream(Machine):
    options = ("-t", "8301")

    @limit(90)
    def test_stream(self):
        self.all_at_once()


class Messages(Machine):
    options = ("-t", "8301")
    more = {"kind": socket.SOCK_DGRAM}

    @limit(90)
    def test_messages(self):
        self.all_at_once()


class VhostUser(Machine):
    options = ("-t", "8301")
    more = {"vhost_user": 1}

    @limit(90)
    def test_vhost_user(self):
        self.all_at_once()


def exchange(connect, listener):
    """Random bytes in both directions over one connection, which may be refused before it is there, and not later."""
    sides = {}

    def serve():
        while "done" not in sides:
            try:
                served, _ = listener.accept()
            except TimeoutError:
                continue
            try:
                sides["server"] = transfer(served)
            except OSError as e:
                # Of one that never came to be.
                sides["error"] = e
    thread = threading.Thread(target=serve, daemon=True)
    listener.settimeout(0.5)
    thread.start()
    try:
        for _ in range(ATTEMPTS):
            try:
                client = connect()
            except OSError:
                continue
            received = bytearray()
            try:
                sides["client"] = transfer(client, received)
                break
            except OSError as e:
                if received:
                    raise RuntimeError(f"{e!r} after {len(received)} bytes") from e
        else:
            raise RuntimeError("no connection was made")
        wait_until(lambda: "server" in sides, 10, "the other end of the connection")
        (sent, got), (answered, heard) = sides["client"], sides["server"]
        if (sent, got) != (heard, answered):
            raise RuntimeError("what came is not what was sent")
    finally:
        sides["done"] = True
        thread.join(5)


def transfer(stream, received=None):
    """Sends random bytes and an end, and takes what comes to its end: hashes of both."""
    stream.settimeout(30)
    data = os.urandom(SIZE)
    received = bytearray() if received is None else received
    problems = []

    def send():
        try:
            stream.sendall(data)
            stream.shutdown(socket.SHUT_WR)
        except OSError as e:
            problems.append(e)
    sender = threading.Thread(target=send, daemon=True)
    sender.start()
    with stream:
        while piece := stream.recv(1 << 16):
            received += piece
        sender.join(30)
    if problems:
        raise problems[0]
    return hashlib.sha256(data).digest(), hashlib.sha256(received).digest()


def ask(client, server):
    """Datagrams, each repeated until there is an answer."""
    over = []

    def serve():
        server.settimeout(0.5)
        while not over:
            try:
                data, asker = server.recvfrom(2000)
                server.sendto(data, asker)
            except OSError:
                continue
    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    client.settimeout(0.2)
    try:
        for n in range(DATAGRAMS):
            question = n.to_bytes(2, "big") * 400
            for _ in range(ATTEMPTS):
                try:
                    client.send(question)
                    while client.recv(2000) != question:
                        pass
                    break
                except OSError:
                    continue
            else:
                raise RuntimeError(f"no answer to datagram {n}")
    finally:
        over.append(True)
        thread.join(5)

