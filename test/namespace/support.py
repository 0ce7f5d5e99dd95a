"""What the tests share: one laboratory, a guest for each class of tests, both address families."""

import dataclasses
import os
import socket
import sys
import unittest

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

import lab  # noqa: E402  (found through the path above)


@dataclasses.dataclass(frozen=True)
class Family:
    """The laboratory's addresses of one IP version."""

    name: str
    af: int
    host: str
    gateway: str
    remote: str
    other: str
    dead: str
    far: str
    unreachable: str
    slow: str
    loopback: str
    any: str


V4 = Family("v4", socket.AF_INET, lab.HOST4, lab.GATEWAY4, lab.REMOTE4, lab.OTHER4, lab.DEAD4, lab.FAR4,
            lab.UNREACHABLE4, lab.SLOW4, "127.0.0.1", "0.0.0.0")
V6 = Family("v6", socket.AF_INET6, lab.HOST6, lab.GATEWAY6, lab.REMOTE6, lab.OTHER6, lab.DEAD6, lab.FAR6,
            lab.UNREACHABLE6, lab.SLOW6, "::1", "::")


def both(method):
    """A test that takes a Family: it becomes two."""
    method.both = True
    return method


def limit(seconds):
    """A test that may take longer than the others."""
    def mark(method):
        method.limit = seconds
        return method
    return mark


class Case(unittest.TestCase):
    """A class with `options` has a guest of `run` with these options, shared by its tests."""

    options = None
    _laboratory = None
    _shared = None

    def __init_subclass__(cls):
        for name, method in list(vars(cls).items()):
            if getattr(method, "both", False):
                for family in (V4, V6):
                    setattr(cls, f"{name}_{family.name}", _bind(method, family))
                delattr(cls, name)

    @property
    def lab(self):
        if Case._laboratory is None:
            Case._laboratory = lab.Lab()
        return Case._laboratory

    @property
    def guest(self):
        if type(self)._shared is None:
            type(self)._shared = self.make_guest()
        return type(self)._shared

    def make_guest(self):
        return self.another_guest(*self.options)

    def another_guest(self, *options):
        """One that other tests do not share: the test closes it."""
        return self.lab.guest(*options)

    @classmethod
    def tearDownClass(cls):
        if cls._shared:
            cls._shared.close()
        cls._shared = None

    def tearDown(self):
        """The program must have survived; the next test gets a fresh guest if it has not."""
        shared = type(self)._shared
        if shared and shared.process and shared.process.poll() is not None:
            type(self)._shared = None
            self.fail(f"the program ended with status {shared.process.returncode}: {shared.errors()}")

    def run_command(self, *command, options=(), **more):
        """`run` with a command, to its end."""
        argv = self.lab.as_user(self.lab.program.run(options, list(command)))
        return self.lab.call(argv, check=False, **more)

    def closing(self, thing):
        """Closes the thing at the end of the test, and returns it."""
        self.addCleanup(thing.close)
        return thing

    def pair(self, where, address, guest=None, target=None):
        """A TCP connection from the guest to a server at `address` in `where`: (guest's end, server's end)."""
        with where.listen(address) as listener:
            near = self.closing((guest or self.guest).connect(target or address, listener.getsockname()[1]))
            far, _ = listener.accept()
        far.settimeout(10)
        return near, self.closing(far)

    def inbound(self, where, address, port, inner=None, guest=None):
        """A TCP connection from `where` to a forwarded port: (client's end, guest's end, client as the guest sees it)."""
        any_of = "::" if ":" in address else "0.0.0.0"
        with (guest or self.guest).listen(any_of, inner or port) as listener:
            client = self.closing(where.connect(address, port))
            served, peer = listener.accept()
        served.settimeout(10)
        return client, self.closing(served), peer

    def assert_connected(self, one, other):
        """Bytes pass both ways."""
        one.sendall(b"question")
        self.assertEqual(read_exactly(other, 8), b"question")
        other.sendall(b"answer")
        self.assertEqual(read_exactly(one, 6), b"answer")


class VmCase(Case):
    """A class with `options` has a guest of `vm`, behind a socket; `more` is for the laboratory's `vm`."""

    more = {}

    def another_guest(self, *options):
        return self.lab.vm(*options, **self.more)

    def tearDown(self):
        super().tearDown()
        shared = type(self)._shared
        if shared and shared.cable and shared.cable.process.poll() is not None:
            type(self)._shared = None
            shared.close()
            self.fail("the connection between guest and program ended")


def _bind(method, family):
    def test(self):
        return method(self, family)
    for mark in ("limit", "long"):
        setattr(test, mark, getattr(method, mark, None))
    return test


def read_exactly(stream, count):
    data = b""
    while len(data) < count:
        piece = stream.recv(min(count - len(data), 1 << 20))
        if not piece:
            break
        data += piece
    return data


def read_to_end(stream):
    data = bytearray()
    while piece := stream.recv(1 << 20):
        data += piece
    return bytes(data)
