"""What loads and accidents do to the way past the link and to listening ports."""

import os
import signal
import socket
import struct

from support import Case, read_exactly

PAYLOAD = b"z" * 5000


class Resets(Case):
    """A connection that is made, used and reset before the program hears of it: the bytes arrive as between kernels."""

    options = ("-t", "7001", "-T", "7201")

    def assert_bytes_then_reset(self, stream):
        self.assertEqual(read_exactly(stream, len(PAYLOAD)), PAYLOAD)
        with self.assertRaises(ConnectionResetError):
            stream.recv(1)

    def test_by_servers_at_once(self):
        for source, target, port in ((self.lab.host, self.guest, 7001), (self.guest, self.lab.host, 7201)):
            with target.listen("0.0.0.0", port) as listener:
                for _ in range(30):
                    with source.connect("127.0.0.1", port) as client:
                        send_and_reset(listener.accept()[0])
                        self.assert_bytes_then_reset(client)

    def test_by_clients_at_once(self):
        for source, target, port in ((self.lab.host, self.guest, 7001), (self.guest, self.lab.host, 7201)):
            with target.listen("0.0.0.0", port) as listener:
                for _ in range(30):
                    send_and_reset(source.connect("127.0.0.1", port))
                    with listener.accept()[0] as served:
                        served.settimeout(5)
                        self.assert_bytes_then_reset(served)

    def test_by_clients_before_they_are_accepted(self):
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


def send_and_reset(stream):
    stream.sendall(PAYLOAD)
    stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    stream.close()
