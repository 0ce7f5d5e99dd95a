"""QEMU and the program are started apart: a stream socket that QEMU connects to again, a pair of datagram sockets."""

import dataclasses
import socket
import time

import lab
from checks_network import assert_stream_in, assert_stream_out, assert_udp_in
from newer_world import PORTS, Case
from support import both
from world import Server, socket_path, url

MUCH = 20_000_000
RECONNECT_MS = 200


@dataclasses.dataclass(frozen=True)
class Reconnecting:
    """The program comes when the guest runs already."""

    name: str = "2 reconnect"
    bare = False

    def start(self, world):
        path = socket_path(world.lab)
        world.guest = world.machine(f"stream,id=net,server=off,addr.type=unix,addr.path={path},"
                                    f"reconnect-ms={RECONNECT_MS}")
        world.server = Server(world.lab, PORTS, path=path)


@dataclasses.dataclass(frozen=True)
class Pair:
    """One end is QEMU's, the other one the program's."""

    name: str = "3 dgram"
    bare = False

    def start(self, world):
        ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        with ours, its:
            world.server = Server(world.lab, PORTS, connection=ours)
            world.guest = world.machine(f"dgram,id=net,local.type=fd,local.str={its.fileno()}", [its.fileno()])


class Traffic(Case):
    def assert_traffic(self, net):
        self.assert_works()
        assert_stream_out(self, net, MUCH)
        assert_stream_in(self, net, MUCH)
        with self.lab.service(self.lab.remote, "echo", "--listen", url(net.remote, 8100)):
            for size in (1, 1400, 60_000):
                self.assertEqual(self.guest.do("udp_ask", int(net.af), net.remote, 8100, size), (size, True))
        assert_udp_in(self, net, 1, 1400, 60_000)


class Reconnect(Traffic):
    session = Reconnecting()

    @both
    def test_program_that_comes_later(self, net):
        self.assert_traffic(net)

    def test_program_killed_and_started_again(self):
        self.assert_started_again(lambda process: process.kill())

    def test_program_terminated_and_started_again(self):
        self.assert_started_again(lambda process: process.terminate())

    def assert_started_again(self, end):
        self.assert_works()
        before = self.world.server
        end(before.process)
        before.ended()
        self.assertFalse(self.world.answers())
        self.world.server = Server(self.lab, PORTS, path=before.path)
        before.close()
        self.wait_connected()
        self.assert_works()


class Datagrams(Traffic):
    session = Pair()

    @both
    def test_both_ways(self, net):
        self.assert_traffic(net)

    def test_program_ends_after_qemu(self):
        """It hears of QEMU's end when it has something to send, once the kernel has closed the socket: if QEMU used
        io_uring, as 11.1 does, that is seconds later."""
        self.assert_works()
        server = self.world.server
        self.guest.kill()
        with self.lab.remote.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            lab.wait_until(lambda: self.ended_after_datagram(server, sender), 20, "the program's end")
        self.assertEqual(server.ended(), 0)
        self.world.discard()

    def ended_after_datagram(self, server, sender):
        sender.sendto(b"is anybody there?", (lab.HOST4, 8001))
        time.sleep(0.2)
        return not server.alive()
