"""A network namespace: sockets in it, settings of its kernel."""

import contextlib
import ctypes
import os
import socket

LIBC = ctypes.CDLL(None, use_errno=True)


class Namespace:
    """A network namespace, given by the path of its file."""

    def __init__(self, path):
        self.path = path

    @contextlib.contextmanager
    def entered(self):
        """The calling thread is inside; a socket stays where it was made."""
        home = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        away = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            _setns(away)
            yield
        finally:
            _setns(home)
            os.close(home)
            os.close(away)

    def socket(self, family, kind=socket.SOCK_STREAM, protocol=0, timeout=10):
        with self.entered():
            made = socket.socket(family, kind, protocol)
        made.settimeout(timeout)
        return made

    def listen(self, address, port=0, backlog=128):
        """A TCP listener; port 0 is any."""
        listener = self.socket(family_of(address))
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((address, port))
        listener.listen(backlog)
        return listener

    def bind(self, address, port=0):
        """A UDP socket."""
        bound = self.socket(family_of(address), socket.SOCK_DGRAM)
        bound.bind((address, port))
        return bound

    def connect(self, address, port, timeout=10):
        stream = self.socket(family_of(address), timeout=timeout)
        try:
            stream.connect((address, port))
        except OSError:
            stream.close()
            raise
        return stream

    def sysctl(self, name, value):
        # /proc/sys/net shows the namespace of the thread that opens the file.
        with self.entered(), open("/proc/sys/" + name.replace(".", "/"), "w", encoding="ascii") as file:
            file.write(str(value))

    def setting(self, name):
        with self.entered(), open("/proc/sys/" + name.replace(".", "/"), encoding="ascii") as file:
            return file.read().strip()


def tune(space):
    """What must not depend on the machine: new namespaces inherit its congestion control, and limit ICMP errors."""
    space.sysctl("net.ipv4.tcp_congestion_control", "cubic")
    space.sysctl("net.ipv4.ip_local_port_range", "10000 65000")
    for name, value in (("net.ipv4.icmp_ratelimit", 0), ("net.ipv6.icmp.ratelimit", 0)):
        space.sysctl(name, value)


def allow_cubic():
    """Only what is allowed in the initial namespace may become the default of another."""
    path = "/proc/sys/net/ipv4/tcp_allowed_congestion_control"
    with open(path, encoding="ascii") as file:
        allowed = file.read().split()
    if "cubic" not in allowed:
        with open(path, "w", encoding="ascii") as file:
            file.write(" ".join([*allowed, "cubic"]))


def family_of(address):
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def _setns(descriptor):
    if LIBC.setns(descriptor, 0x40000000) != 0:
        raise OSError(ctypes.get_errno(), "setns")
