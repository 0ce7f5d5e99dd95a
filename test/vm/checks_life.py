"""A guest that starts again, is gone, or comes after somebody who sent nonsense."""

import contextlib
import struct

import lab
import world
from support import limit
from world import WIDE, Case, long


class Again(Case):
    session = WIDE

    def with_connections(self):
        """Connections both ways that are open when the guest goes."""
        self.assert_works()
        near, far = self.pair(self.lab.remote, lab.REMOTE4)
        client, served, _ = self.inbound(self.lab.remote, lab.HOST4, 8001)
        self.assert_connected(near, far)
        self.assert_connected(client, served)
        return far, client

    def assert_gone(self, *streams):
        """The guest that has started anew knows nothing of these."""
        for stream in streams:
            stream.settimeout(20)
            with contextlib.suppress(BrokenPipeError), self.assertRaises(ConnectionResetError):
                stream.sendall(b"are you still there?")
                stream.recv(1)

    @limit(90)
    def test_reset(self):
        streams = self.with_connections()
        self.guest.reset()
        world.configure(self.guest)
        self.assert_works()
        self.assert_gone(*streams)

    @long
    @limit(90)
    def test_killed_and_started_again(self):
        streams = self.with_connections()
        self.guest.kill()
        for stream in streams:
            stream.sendall(b"is anybody there?")
        self.world.boot()
        self.assert_works()
        self.assert_gone(*streams)

    @long
    @limit(90)
    def test_d7_d30_after_clients_that_sent_nonsense(self):
        self.assert_works()
        self.guest.kill()
        for data in (struct.pack("!I", 0), struct.pack("!I", 13) + bytes(13), b"\xff" * 4, b"\0\0",
                     struct.pack("!I", 1000) + bytes(500)):
            with self.world.server.client() as client:
                client.write(data)
                # A program that has closed the connection, and one that waits for more, have both read it.
                client.closed_within(0.3)
        self.world.boot()
        self.assert_works()


class Clients(Case):
    session = WIDE

    def test_second_one_is_turned_away(self):
        self.assert_works()
        near, far = self.pair(self.lab.remote, lab.REMOTE4)
        for _ in range(3):
            with self.world.server.client() as second:
                self.assertTrue(second.closed_within(2))
        self.assert_connected(near, far)
        self.assert_works()
