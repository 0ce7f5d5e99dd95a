"""Runs in the guest: does what it is asked over the second serial port.

A request is a line `(number, name, arguments)`, an answer is `(number, True, value)` or `(number, False, (kind, errno,
text))`, both as Python writes them. Each request has a thread of its own. A socket stays here: what goes over the line
is {"socket": number}.
"""

import ast
import os
import socket
import sys
import threading
import traceback
import tty

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

import tasks  # noqa: E402  (found through the path above)

SOCKETS = {}


def make(*arguments):
    """A socket."""
    return socket.socket(*arguments)


def call(number, method, arguments):
    """A method of a socket."""
    made = SOCKETS[number]
    if method == "close":
        del SOCKETS[number]
    return getattr(made, method)(*arguments)


def encode(value):
    if isinstance(value, socket.socket):
        # Not one that a guest before this one has given out.
        number = int.from_bytes(os.urandom(6), "big")
        SOCKETS[number] = value
        return {"socket": number}
    if isinstance(value, (tuple, list)):
        return tuple(map(encode, value))
    return value


class Line:
    """The serial port."""

    def __init__(self):
        self.file = os.open("/dev/ttyS1", os.O_RDWR | os.O_NOCTTY)
        tty.setraw(self.file)
        self.lock = threading.Lock()

    def send(self, *answer):
        left = repr(answer).encode() + b"\n"
        with self.lock:
            while left:
                left = left[os.write(self.file, left):]

    def requests(self):
        held = b""
        while True:
            *lines, held = (held + os.read(self.file, 65536)).split(b"\n")
            for line in filter(None, lines):
                yield ast.literal_eval(line.decode())

    def answer(self, number, name, arguments):
        try:
            function = globals()[name] if name in ("make", "call") else getattr(tasks, name)
            value = encode(function(*arguments))
        except Exception as error:  # whatever it is, the other side is told
            text = (error.strerror or str(error)) if isinstance(error, OSError) else traceback.format_exc()
            self.send(number, False, (type(error).__name__, getattr(error, "errno", None), text))
        else:
            self.send(number, True, value)


def main():
    line = Line()
    line.send(0, True, "ready")
    for request in line.requests():
        threading.Thread(target=line.answer, args=request, daemon=True).start()


main()
