"""What loads and accidents do to the way past the link and to listening ports."""

import os
import signal
import socket
import struct

import lab
from support import Case, read_exactly

PAYLOAD = b"z" * 5000


class Resets(Case):
    """A connection that is made, used and reset before the program hears of it: the bytes arrive as between kernels."""

    def assert_bytes_then_reset(self, stream):
        self.assertEqual(read_exactly(stream, len(PAYLOAD)), PAYLOAD)
        with self.assertRaises(ConnectionResetError):
            stream.recv(1)


class ResetsOnLoopback(Resets):
    options = ("-t", "7001", "-T", "7201")

    def test_on_loopback_by_servers_at_once(self):
        for source, target, port in ((self.lab.host, self.guest, 7001), (self.guest, self.lab.host, 7201)):
            with target.listen("0.0.0.0", port) as listener:
                for _ in range(30):
                    with source.connect("127.0.0.1", port) as client:
                        send_and_reset(listener.accept()[0])
                        self.assert_bytes_then_reset(client)

    def test_on_loopback_by_clients_at_once(self):
        for source, target, port in ((self.lab.host, self.guest, 7001), (self.guest, self.lab.host, 7201)):
            with target.listen("0.0.0.0", port) as listener:
                for _ in range(30):
                    send_and_reset(source.connect("127.0.0.1", port))
                    with listener.accept()[0] as served:
                        served.settimeout(5)
                        self.assert_bytes_then_reset(served)

    def test_on_loopback_by_clients_before_they_are_accepted(self):
        with self.guest.listen("0.0.0.0", 7001) as listener:
            translator = self.guest.translator()
            os.kill(translator, signal.SIGSTOP)
            try:
                for _ in range(10):
                    send_and_reset(self.lab.host.connect("127.0.0.1", 7001))
            finally:
                os.kill(translator, signal.SIGCONT)
            for _ in range(10):
                with listener.accept()[0] as served:
                    served.settimeout(5)
                    self.assert_bytes_then_reset(served)


class ResetsThroughTheLink(Resets):
    """The guest's half of the connection may not be complete when the other half is over."""

    options = ("-t", "7001")

    def test_by_servers_at_once(self):
        with self.lab.remote.listen(lab.REMOTE4, 7401) as listener:
            for _ in range(200):
                with self.guest.connect(lab.REMOTE4, 7401) as client:
                    send_and_reset(listener.accept()[0])
                    self.assert_bytes_then_reset(client)

    def test_by_clients_at_once(self):
        with self.guest.listen("0.0.0.0", 7001) as listener:
            for _ in range(200):
                send_and_reset(self.lab.remote.connect(lab.HOST4, 7001))
                with listener.accept()[0] as served:
                    served.settimeout(5)
                    self.assert_bytes_then_reset(served)


class Followed(Case):
    """Ports of `auto`."""

    options = ("-t", "auto", "-u", "auto", "-T", "auto", "-U", "auto")

    def test_many_ports_at_once(self):
        """More than their share of few descriptors: nobody else needs the rest."""
        guest = self.lab.guest(*self.options, program=Limited(self.lab.program, 4096))
        self.addCleanup(guest.close)
        before = len(os.listdir(f"/proc/{guest.translator()}/fd"))
        services = [guest.listen("127.0.0.1", port, 1) for port in range(7000, 7800)]
        lab.wait_until(lambda: len(self.listening("-lnt")) == 800 and len(self.listening("-lnu")) == 800, 3,
                       "the forwarding of all ports")
        self.assertEqual(guest.errors(), "")
        for service in services:
            service.close()
        lab.wait_until(lambda: not self.listening("-lnt") and not self.listening("-lnu"), 3, "the end of all ports")
        self.assertLessEqual(len(os.listdir(f"/proc/{guest.translator()}/fd")), before + 32)

    def listening(self, options):
        return self.lab.call(self.lab.as_root(["ss", "-H", options, "sport >= 7000 and sport < 8000"])).stdout.splitlines()


class Limited:
    """A program with so many descriptors at most."""

    def __init__(self, program, descriptors):
        self.program, self.kind, self.path, self.descriptors = program, program.kind, program.path, descriptors

    def run(self, options, command):
        return ["prlimit", f"--nofile={self.descriptors}:{self.descriptors}", "--", *self.program.run(options, command)]


def send_and_reset(stream):
    stream.sendall(PAYLOAD)
    stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    stream.close()
