"""One test of one program: what it needs to make guests and traffic, and what it has found."""

import contextlib
import os
import random
import signal
import socket
import subprocess
import threading
import time

import lab as laboratory

TESTS = []

# Forwarded from outside; from the guest's loopback to the host's.
PORTS, IN_PORT, LOCAL_PORT = "5201-5204", 5201, 5301


def test(title, seconds, links=("tap", "vm")):
    """A test, a function of a Trial. `seconds`: how long it may take, of the sizes; what takes longer is ended."""
    def register(function):
        function.title, function.seconds, function.links = title, seconds, links
        TESTS.append(function)
        return function
    return register


class Trial:
    """What a test works with. Whatever is made through it is gone when the test ends."""

    def __init__(self, program, link, sizes):
        self.program, self.link, self.sizes = program, link, sizes
        self.figures, self.missed = [], []
        # Of one transfer. Others are slower by far in one direction, and are to come to the end of it all the same.
        self.bytes = sizes.transfer_bytes // (1 if program.kind == "spelt" else 8)
        self.stack = contextlib.ExitStack()
        self.lab = laboratory.Lab()
        self.program = laboratory.Program(program.path or self.lab.program.path, program.kind)

    def figure(self, text):
        self.figures.append(text)

    def need(self, truth, text):
        """`text` is what was not so."""
        if not truth:
            self.missed.append(text)

    def subject(self, *options, **more):
        made = Subject(self, *options, **more)
        self.stack.callback(made.close)
        return made

    def keep(self, thing):
        """Closes it at the end."""
        self.stack.callback(thing.close)
        return thing

    def echo(self, port=7001, **more):
        """An echo server in `remote`, TCP and UDP, both families."""
        arguments = [word for name, value in more.items() for word in ("--" + name, value)]
        service = self.lab.service(self.lab.remote, "echo", "--listen", f"{laboratory.REMOTE4}:{port}", *arguments)
        self.stack.callback(service.stop)
        return service


class Subject:
    """The program with a guest. `before`: a command line that runs the program's, as root in the host's namespace."""

    def __init__(self, trial, *options, before=(), limit=None, quiet=True, ignoring=()):
        self.trial, self.lab = trial, trial.lab
        options = [*(["-q"] if quiet else []), "-t", PORTS, "-u", PORTS, *options]
        wrap = ["prlimit", f"--nofile={limit}:{limit}", "--"] if limit else []
        if trial.link == "vm":
            program = Wrapped(trial.program, wrap)
            # The relay lives longer than any test.
            self.guest = self.lab.vm(*options, plug=("--offload", "--seconds", "86400"), program=program)
            self.process, self.log = self.guest.process, self.guest.log
        else:
            self.guest = self.lab.empty_guest()
            self.log = self.lab.file("log")
            argv = trial.program.attach(["-f", *options, "-T", str(LOCAL_PORT)], str(self.guest.pid))
            argv = self.lab.as_user([*wrap, *argv])
            # What runs before does so in the host's namespace, where `ip netns exec` has led.
            argv = argv[:4] + list(before) + argv[4:]
            with open(self.log, "wb") as errors:
                self.process = self.lab.popen(argv, stdin=subprocess.DEVNULL, stdout=errors, stderr=errors,
                                              preexec_fn=lambda: ignore(ignoring))
            # The ports may be bound before the guest has its routes, or after it.
            laboratory.wait_until(lambda: self.process.poll() is not None or is_listening(self.lab.host, 5204)
                                  and has_route(self.guest), 10, "the program's readiness")
            if self.process.poll() is not None:
                raise RuntimeError(f"{' '.join(argv)}: status {self.process.returncode}: {self.errors()}")
        laboratory.tune(self.guest)
        self.pid = self.process.pid
        self.steady = None

    def errors(self):
        with open(self.log, encoding="utf-8", errors="replace") as file:
            return file.read()

    def ended(self):
        return self.process.poll() is not None

    def close(self):
        self.lab.end(self.process)
        self.guest.close()

    # What is checked

    def connected(self, port=7001):
        """A connection to the echo server that is asked from time to time whether it lives."""
        return self.trial.keep(self.guest.connect(laboratory.REMOTE4, port, timeout=10))

    def works(self, what, patience=5, port=7001):
        """New flows do, TCP and UDP; returns how long both took."""
        began = time.monotonic()
        if self.has_not_ended(what):
            try:
                with self.guest.connect(laboratory.REMOTE4, port, timeout=patience) as stream:
                    self.trial.need(answers(stream), f"{what}: a new connection was not answered")
                with self.guest.socket(socket.AF_INET, socket.SOCK_DGRAM, timeout=1) as datagrams:
                    datagrams.connect((laboratory.REMOTE4, port))
                    self.trial.need(any(answers(datagrams) for _ in range(patience)),
                                    f"{what}: new datagrams were not answered")
            except OSError as error:
                self.trial.need(False, f"{what}: a new flow: {error}")
            self.has_not_ended(what)
        return time.monotonic() - began

    def has_not_ended(self, what):
        if self.ended():
            last = (self.errors().splitlines() or [""])[-1]
            text = f"{what}: the program had ended, status {self.process.returncode}: {last[:200]}"
            self.trial.need(text in self.trial.missed, text)
        return not self.ended()

    def lives(self, stream, what):
        if self.has_not_ended(what):
            self.trial.need(answers(stream), f"{what}: a connection from before did not live")

    def does_not_spin(self, what, most=0.2):
        """Processor time of a second in which nobody wants anything."""
        before = laboratory.cpu_seconds(self.pid)
        time.sleep(1)
        spent = laboratory.cpu_seconds(self.pid) - before
        self.trial.need(spent < most, f"{what}: {spent:.2f} s of processor time in an idle second")
        return spent

    def descriptors(self):
        return len(os.listdir(f"/proc/{self.pid}/fd"))

    def resident(self):
        """MiB."""
        return status(self.pid, "VmRSS") / 1024

    def raw(self):
        """A packet socket of the guest, and the Ethernet header towards the gateway."""
        raw = self.trial.keep(self.guest.socket(socket.AF_PACKET, socket.SOCK_RAW))
        raw.bind(("eth0" if self.trial.link == "vm" else self.guest.interface(), 0x0800))
        self.guest.run("ping", "-c1", "-W2", laboratory.GATEWAY4, check=False)
        words = self.guest.output("ip", "neigh", "show", laboratory.GATEWAY4).split()
        gateway = bytes.fromhex(words[words.index("lladdr") + 1].replace(":", ""))
        return raw, gateway + raw.getsockname()[4] + b"\x08\x00"


class Wrapped:
    """A program behind the words of another."""

    def __init__(self, program, words):
        self.path, self.kind, self.words, self.program = program.path, program.kind, words, program

    def vm(self, options):
        return [*self.words, *self.program.vm(options)]


class Watch(threading.Thread):
    """Looks at the program's memory and descriptors while something goes on."""

    def __init__(self, subject, period=0.05):
        super().__init__(daemon=True)
        self.subject, self.period, self.over = subject, period, threading.Event()
        self.samples = []

    def run(self):
        while not self.over.wait(self.period):
            self.look()

    def look(self):
        with contextlib.suppress(OSError, IndexError):
            self.samples.append((time.monotonic(), self.subject.resident(), self.subject.descriptors()))

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *_):
        self.over.set()
        self.join()
        self.look()

    def most(self, which, first=0.0, last=1.0):
        """The largest of the samples between these parts of the time; `which`: 1 memory, 2 descriptors."""
        part = self.samples[int(len(self.samples) * first):max(1, int(len(self.samples) * last))]
        return max((sample[which] for sample in part), default=0)


class Transfer(threading.Thread):
    """A stream with known contents through the program; `direction`: out or in."""

    def __init__(self, subject, direction, size, port, streams=1, seconds=120, stall_ms=0, version=4):
        super().__init__(daemon=True)
        self.subject, self.size, self.streams, self.found, self.error = subject, size, streams, None, None
        lab, guest = subject.lab, subject.guest
        own, entry = ((laboratory.REMOTE4, laboratory.HOST4) if version == 4
                      else (f"[{laboratory.REMOTE6}]", f"[{laboratory.HOST6}]"))
        common = ["--seconds", seconds, "-P", streams]
        server, self.client = (lab.remote, guest) if direction == "out" else (guest, lab.remote)
        at, to = (own, own) if direction == "out" else ("0.0.0.0" if version == 4 else "[::]", entry)
        self.arguments = ["stream", "--connect", f"{to}:{port}", "--send", size, *common]
        self.limit = seconds + 10
        self.server = lab.service(server, "stream", "--listen", f"{at}:{port}", "--stall-ms", stall_ms, *common)
        self.began = time.monotonic()
        self.start()

    def run(self):
        try:
            sent = self.subject.lab.traffic(self.client, *self.arguments, timeout=self.limit)
            got = self.server.result(self.limit)
            self.found = (sent["streams"], got["streams"])
        except subprocess.TimeoutExpired:
            self.error = f"no end within {self.limit} s"
        except Exception as error:  # pylint: disable=broad-except
            self.error = error
        self.took = time.monotonic() - self.began

    def whole(self, what):
        """Waits for the end and says whether each byte arrived."""
        self.join(self.limit + 10)
        need = self.subject.trial.need
        if self.found is None:
            need(False, f"{what}: {self.error or 'no end in time'}"[:300])
            return False
        sent, got = self.found
        good = sorted(s["sent_hash"] for s in sent) == sorted(g["received_hash"] for g in got)
        good = good and sum(g["received"] for g in got) == self.size * self.streams
        need(good, f"{what}: what arrived is not what was sent")
        return good


def answers(stream):
    """Whether an echo comes back as it was."""
    question = random.randbytes(16)
    try:
        stream.send(question)
        answer = b""
        while len(answer) < len(question):
            piece = stream.recv(100)
            if not piece:
                return False
            answer += piece
    except OSError:
        return False
    return answer == question


def ignore(signals):
    for number in signals:
        signal.signal(number, signal.SIG_IGN)


def status(pid, name):
    with open(f"/proc/{pid}/status", encoding="ascii", errors="replace") as file:
        return [int(line.split()[1]) for line in file if line.startswith(name + ":")][0]


def is_listening(space, port):
    with space.entered():
        for name in ("tcp", "tcp6"):
            with open(f"/proc/thread-self/net/{name}", encoding="ascii") as file:
                if any(words[3] == "0A" and words[1].endswith(f":{port:04X}") for words in map(str.split, file)):
                    return True
    return False


def has_route(space):
    """A default route of each family."""
    with space.entered():
        with open("/proc/thread-self/net/route", encoding="ascii") as four, \
                open("/proc/thread-self/net/ipv6_route", encoding="ascii") as six:
            return any(line.split()[1] == "00000000" for line in four) and \
                any(words[1] == "00" and words[9] != "lo" for words in map(str.split, six))


def percentile(values, share):
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))] if ordered else 0.0
