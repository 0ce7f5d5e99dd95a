"""A guest: a Linux kernel in QEMU, and what the checks do in it.

It is served over a serial port, so that it can be reached whatever its network does. `Guest` has the sockets of
`lab.Namespace` (listen, bind, connect, socket), which are in the guest although they are used from here.
"""

import ast
import builtins
import contextlib
import itertools
import json
import queue
import shlex
import socket
import subprocess
import threading
import time

import lab

BOOT_SECONDS = 60
MAC = "52:54:00:12:34:56"


def stream(path):
    """QEMU's options for a guest behind the stream socket `path`."""
    return ["-netdev", f"stream,id=net,server=off,addr.type=unix,addr.path={path}"]


SHARED = ["-object", "memory-backend-memfd,id=memory,size=256M,share=on", "-machine", "memory-backend=memory"]
"""The guest's memory is, with whoever is given it."""


def vhost_user(path, pairs=1):
    """The same for a guest that shares its memory with the program at `path`, with as many pairs of queues, and a
    processor for each. It waits for a program that is not there yet, and for the next one when that has gone."""
    return [*SHARED, "-smp", str(pairs), "-chardev", f"socket,id=card,path={path},reconnect=1",
            "-netdev", f"vhost-user,id=net,chardev=card,queues={pairs}"]


# QEMU 7 fails in emulation once the driver of a guest that shares its memory asks for message signalled interrupts.
LINKS = {"stream": (stream, ""), "vhost-user": (vhost_user, ",vectors=0"),
         "vhost-user-4": (lambda path: vhost_user(path, 4), ",vectors=0,mq=on")}
"""QEMU's options for a guest of the program at a path, and properties of its network card."""


class Guest:
    """A guest that the program under test gives its network; it is up, and nothing is configured."""

    def __init__(self, laboratory, images, netdev, run_as=None, pass_fds=(), card=""):
        """`images` is a kernel and an initial file system; `netdev` are QEMU's options for the network, `card`
        further properties of its device. `run_as` makes the command line that runs another one."""
        self.lab = laboratory
        self.log, self.errors = laboratory.file("guest"), laboratory.file("qemu")
        self.said = []
        ours, its = socket.socketpair()
        order, obey = socket.socketpair()
        kernel, initrd = images
        # The guest's log is all that is written to its first port; the second one is only ours.
        argv = ["qemu-system-x86_64", "-accel", "tcg", "-machine", "q35", "-cpu", "max", "-m", "256", "-nodefaults",
                "-no-user-config", "-display", "none", "-kernel", kernel, "-initrd", initrd,
                "-append", "console=ttyS0 loglevel=4 panic=1 tsc=reliable no_timer_check cryptomgr.notests",
                "-chardev", f"file,id=log,path={self.log},append=on", "-serial", "chardev:log",
                "-chardev", f"socket,id=line,fd={its.fileno()}", "-serial", "chardev:line",
                "-chardev", f"socket,id=orders,fd={obey.fileno()}", "-mon", "chardev=orders,mode=control",
                *netdev, "-device", f"virtio-net-pci,netdev=net,mac={MAC},romfile={card}",
                "-device", "virtio-rng-pci"]
        with its, obey, open(self.errors, "wb") as errors:
            self.process = laboratory.popen((run_as or laboratory.as_user)(["setpriv", "--pdeathsig=KILL", *argv]),
                                            pass_fds=[its.fileno(), obey.fileno(), *pass_fds], stdin=subprocess.DEVNULL,
                                            stdout=errors, stderr=errors)
        self.line, self.monitor = Line(ours), Monitor(order)
        try:
            self.wait_ready()
        except BaseException:
            self.close()
            raise

    # What is asked of it

    def do(self, name, *arguments, seconds=20):
        """A function of inside/tasks.py, or of a socket of the guest's."""
        return self._here(self.line.ask(name, [_there(argument) for argument in arguments], seconds))

    def begin(self, name, *arguments, seconds=20):
        """Like `do`, and does not wait: what is returned is called for the result."""
        answer = self.line.begin(name, [_there(argument) for argument in arguments])
        return lambda: self._here(self.line.result(answer, name, seconds))

    def run(self, command, timeout=20, check=True):
        """A shell command to its end: what it said."""
        status, said = self.do("run", command, timeout, seconds=timeout + 10)
        self.said.append(f"$ {command}\n{said}" + (f"(status {status})\n" if status else ""))
        if check and status != 0:
            raise RuntimeError(f"in the guest, {command}: status {status}: {said}")
        return said

    def service(self, *arguments):
        """A subcommand of the laboratory's tool that says when it is ready."""
        return Service(self, arguments)

    def traffic(self, *arguments, timeout=60):
        """A subcommand of the laboratory's tool, to its end. Returns what it found."""
        said = self.run(shlex.join(["lab", *map(str, arguments)]), timeout=timeout)
        return json.loads(said.splitlines()[-1])

    def socket(self, family, kind=socket.SOCK_STREAM, protocol=0, timeout=10):
        made = self.do("make", int(family), int(kind), protocol)
        made.settimeout(timeout)
        return made

    listen, bind, connect = lab.Namespace.listen, lab.Namespace.bind, lab.Namespace.connect

    def _here(self, value):
        if isinstance(value, dict) and "socket" in value:
            return Socket(self, value["socket"])
        if isinstance(value, tuple):
            return tuple(map(self._here, value))
        return value

    # Its life

    def wait_ready(self):
        """Waits until the guest has started and is ready to be asked."""
        end = time.monotonic() + BOOT_SECONDS
        while time.monotonic() < end and self.alive():
            with contextlib.suppress(queue.Empty):
                self.line.ready.get(timeout=0.5)
                return
        ended = "" if self.alive() else f", QEMU ended with status {self.process.returncode}"
        raise TimeoutError(f"the guest did not start within {BOOT_SECONDS} s{ended}: {self.problems()}")

    def reset(self):
        """The guest's reset button; returns when it has started again, without any configuration."""
        self.begin("run", "echo b >/proc/sysrq-trigger", 5)
        self.wait_ready()

    def press_reset(self):
        """The machine starts again, whatever its system is doing; does not wait for it."""
        self.monitor.ask("system_reset")

    @contextlib.contextmanager
    def stopped(self):
        """The machine stands still, and QEMU has taken its rings back from the program."""
        self.monitor.ask("stop")
        try:
            yield
        finally:
            self.monitor.ask("cont")

    def kill(self):
        """QEMU is gone at once."""
        self.process.kill()
        self.process.wait()
        self.close()

    def alive(self):
        return self.process.poll() is None

    def problems(self):
        """The end of the guest's log, and what QEMU said."""
        said = ""
        for path in (self.log, self.errors):
            with open(path, encoding="utf-8", errors="replace") as file:
                said += file.read()[-4000:]
        return said

    def close(self):
        self.line.close()
        self.monitor.close()
        if self.alive():
            self.process.kill()
        self.lab.end(self.process)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


class Line:
    """The serial port: requests go there, and a thread hands the answers out."""

    def __init__(self, end):
        self.end, self.ready, self.waiting, self.lost = end, queue.Queue(), {}, False
        self.numbers = itertools.count(1)
        self.sending = threading.Lock()
        self.thread = threading.Thread(target=self._read, daemon=True)
        self.thread.start()

    def ask(self, name, arguments, seconds):
        return self.result(self.begin(name, arguments), name, seconds)

    def begin(self, name, arguments):
        if self.lost:
            raise TimeoutError(f"the guest does not answer any more: {name}")
        number = next(self.numbers)
        answer = self.waiting[number] = queue.Queue()
        with self.sending:
            self.end.sendall(repr((number, name, tuple(arguments))).encode() + b"\n")
        return answer

    def result(self, answer, name, seconds):
        try:
            fine, value = answer.get(timeout=seconds)
        except queue.Empty:
            # Whoever else asks, to close a socket for instance, need not wait as long.
            self.lost = True
            raise TimeoutError(f"the guest did not answer within {seconds} s: {name}") from None
        if fine:
            return value
        kind, number, text = value
        error = getattr(builtins, kind, RuntimeError)
        if number is not None or error is TimeoutError:
            raise error(number, text)
        raise RuntimeError(f"in the guest: {text}")

    def _read(self):
        held = b""
        while True:
            try:
                piece = self.end.recv(65536)
            except OSError:
                piece = b""
            if not piece:
                return
            *lines, held = (held + piece).split(b"\n")
            for line in lines:
                # The firmware writes here, too, when the guest starts.
                with contextlib.suppress(ValueError, SyntaxError):
                    number, fine, value = ast.literal_eval(line.decode())
                    if number == 0:
                        self.ready.put(value)
                    elif number in self.waiting:
                        self.waiting.pop(number).put((fine, value))

    def close(self):
        with contextlib.suppress(OSError):
            self.end.shutdown(socket.SHUT_RDWR)
        self.thread.join(5)
        self.end.close()


class Monitor:
    """Orders to QEMU itself, each a line of JSON, as its answer is."""

    def __init__(self, end):
        self.end, self.answers, self.greeted = end, end.makefile("rb"), False

    def ask(self, command, seconds=10):
        self.end.settimeout(seconds)
        if not self.greeted:
            self.greeted = True
            self.ask("qmp_capabilities")
        self.end.sendall(json.dumps({"execute": command}).encode() + b"\n")
        for line in self.answers:
            said = json.loads(line)
            if "error" in said:
                raise RuntimeError(f"QEMU, {command}: {said['error']['desc']}")
            # What else it says are events, and a greeting at first.
            if "return" in said:
                return said["return"]
        raise RuntimeError(f"QEMU, {command}: it has gone")

    def close(self):
        self.answers.close()
        self.end.close()


class Socket:
    """A socket in the guest."""

    def __init__(self, guest, number):
        self.guest, self.number, self.timeout = guest, number, 0

    def settimeout(self, seconds):
        self.timeout = seconds
        return self._call("settimeout", seconds)

    def close(self):
        """What was closed already, or went with its guest, is no trouble."""
        if self.number is not None:
            with contextlib.suppress(RuntimeError, OSError):
                self._call("close")
        self.number = None

    def __getattr__(self, method):
        return lambda *arguments: self._call(method, *arguments)

    def _call(self, method, *arguments):
        return self.guest.do("call", self.number, method, arguments, seconds=self.timeout + 10)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


class Service:
    """A subcommand of the laboratory's tool that runs in the guest until its input ends."""

    def __init__(self, guest, arguments):
        self.guest = guest
        self.pid = guest.do("start", "lab", *map(str, arguments))
        line = guest.do("line_of", self.pid, 10)
        if "ready" not in line:
            ended = guest.do("finish", self.pid, True, 1)
            raise RuntimeError(f"{' '.join(map(str, arguments))}: not ready: {line!r}, {ended}")
        self.first = json.loads(line)

    def stop(self, timeout=10):
        """Ends the input and returns what the service found, if it says anything."""
        return self._finish(timeout, close=True)

    def result(self, timeout=60):
        """Waits until the service ends by itself and returns what it found."""
        return self._finish(timeout, close=False)

    def _finish(self, timeout, close):
        if self.pid is None:
            return None
        pid, self.pid = self.pid, None
        _, line = self.guest.do("finish", pid, close, timeout, seconds=timeout + 10)
        return json.loads(line) if line else None

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stop()


def _there(value):
    """Enumerations and the like as plain values."""
    if isinstance(value, bool) or value is None:
        return value
    if isinstance(value, int):
        return int(value)
    if isinstance(value, (tuple, list)):
        return tuple(map(_there, value))
    return value
