"""What serves in the network while a test runs: the laboratory's tool, and a name server."""

import contextlib
import json
import socket
import subprocess
import threading

from .process import read_line


class Service:
    """A subcommand of the laboratory's tool that runs until its input ends."""

    def __init__(self, lab, argv, **more):
        self.lab = lab
        self.process = lab.popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, **more)
        line = read_line(self.process.stdout, 10)
        if "ready" not in line:
            lab.end(self.process)
            raise RuntimeError(f"{' '.join(argv)}: not ready: {line!r}")
        self.first = json.loads(line)

    def stop(self, timeout=10):
        """Ends the input and returns what the service found, if it says anything."""
        return self._finish(timeout, close=True)

    def result(self, timeout=60):
        """Waits until the service ends by itself and returns what it found."""
        return self._finish(timeout, close=False)

    def _finish(self, timeout, close):
        if self.process.stdout.closed:
            return None
        if close:
            self.process.stdin.close()
        line = read_line(self.process.stdout, timeout)
        self.lab.end(self.process)
        return json.loads(line) if line else None

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stop()


class Dns:
    """A name server on UDP that knows one answer per address family, and every question it was asked."""

    def __init__(self, where, address, port=53, answer4="192.0.2.80", answer6="2001:db8:1::80"):
        self.socket = where.bind(address, port)
        self.socket.settimeout(None)
        self.open = True
        self.questions = []
        self.answers = {1: socket.inet_pton(socket.AF_INET, answer4), 28: socket.inet_pton(socket.AF_INET6, answer6)}
        self.thread = threading.Thread(target=self._serve, daemon=True)
        self.thread.start()

    def _serve(self):
        while True:
            try:
                query, client = self.socket.recvfrom(4096)
            except OSError:
                return
            if len(query) < 17:
                if not self.open:
                    return
                continue
            end = query.index(0, 12) + 5
            labels, at = [], 12
            while query[at]:
                labels.append(query[at + 1:at + 1 + query[at]].decode("ascii", "replace"))
                at += 1 + query[at]
            kind = int.from_bytes(query[end - 4:end - 2], "big")
            data = self.answers.get(kind)
            self.questions.append((".".join(labels), client))
            records = b"" if data is None else (b"\xc0\x0c" + kind.to_bytes(2, "big") + b"\0\1\0\0\0\x3c"
                                                + len(data).to_bytes(2, "big") + data)
            header = query[:2] + b"\x84\0\0\1" + (b"\0\1" if records else b"\0\0") + b"\0\0\0\0"
            with contextlib.suppress(OSError):
                self.socket.sendto(header + query[12:end] + records, client)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        # A thread blocked in recvfrom holds the socket, and with it the port: shutdown wakes it.
        self.open = False
        with contextlib.suppress(OSError):
            self.socket.shutdown(socket.SHUT_RDWR)
        self.thread.join(5)
        self.socket.close()
