#!/usr/bin/python3
"""Runs a program in a terminal of 80 columns and keeps what it shows, and when, as asciicast v2 (asciinema plays it).

    cast.py DIRECTORY DOCUMENT

puts the text of each DIRECTORY/NAME.cast into the document, between the lines `<!-- cast: NAME -->` and `<!-- end -->`.
"""

import codecs
import contextlib
import fcntl
import json
import os
import pty
import re
import select
import signal
import struct
import sys
import termios
import time

COLUMNS, LINES = 80, 24
# Renditions and the like (ECMA-48): all that programs here say to a terminal beside text.
CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\x1b[=>c]|\x1b\][^\x07]*\x07")


class Cast:
    """What a program has shown: `events` are pairs of seconds and text; `status` is its exit status, None if its time ran
    out."""

    def __init__(self, title, events, status):
        self.title, self.events, self.status = title, events, status

    @property
    def seconds(self):
        return self.events[-1][0] if self.events else 0.0

    def text(self):
        """What is to be read, line by line."""
        whole = CONTROL.sub("", "".join(text for _, text in self.events)).replace("\r\n", "\n")
        # A lone carriage return begins the line anew.
        lines = [line.rstrip("\r").rsplit("\r", 1)[-1].rstrip() for line in whole.split("\n")]
        return "\n".join(lines).strip("\n") + "\n"

    def write(self, path):
        header = {"version": 2, "width": COLUMNS, "height": LINES, "title": self.title,
                  "env": {"SHELL": "/bin/bash", "TERM": "xterm-256color"}}
        with open(path, "w", encoding="utf-8") as file:
            for line in (header, *([round(at, 3), "o", text] for at, text in self.events)):
                file.write(json.dumps(line, ensure_ascii=False) + "\n")


def read(path):
    if not os.path.exists(path):
        sys.exit(f"{path} is missing: test/demo/run.py --record makes it, and test/consumers/run that of containers.")
    with open(path, encoding="utf-8") as file:
        header, *events = map(json.loads, file)
    return Cast(header["title"], [(at, text) for at, _, text in events], 0)


def record(title, argv, limit, **environment):
    """Runs a command line to its end, or for `limit` seconds, and returns a Cast. Nothing of it stays behind."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.environ.update(environment, TERM="xterm-256color", COLUMNS=str(COLUMNS), LINES=str(LINES))
        with contextlib.suppress(OSError):
            os.execvp(argv[0], argv)
        os._exit(127)
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", LINES, COLUMNS, 0, 0))
    began, events = time.monotonic(), []
    decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
    with contextlib.suppress(OSError):  # how a terminal says that the last program has gone
        while (left := began + limit - time.monotonic()) > 0:
            if not select.select([terminal], [], [], left)[0]:
                break
            if not (data := os.read(terminal, 65536)):
                break
            events.append((time.monotonic() - began, decoder.decode(data)))
    status = end(pid, began + limit)
    os.close(terminal)
    return Cast(title, events, status)


def end(pid, until):
    """Waits for the process until then; what runs still is killed, with its session."""
    while time.monotonic() < until:
        found, status = os.waitpid(pid, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.01)
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(pid, number)
        until = time.monotonic() + 2
        while time.monotonic() < until:
            if os.waitpid(pid, os.WNOHANG)[0]:
                return None
            time.sleep(0.01)
    os.waitpid(pid, 0)
    return None


def documented(document, directory):
    """The document with the texts of the casts in the directory in it."""
    def block(match):
        text = read(os.path.join(directory, match[1] + ".cast")).text()
        return f"<!-- cast: {match[1]} -->\n```text\n{text}```\n<!-- end -->"
    return re.sub(r"<!-- cast: (\S+) -->\n.*?<!-- end -->", block, document, flags=re.S)


def main():
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    with open(sys.argv[2], encoding="utf-8") as file:
        document = file.read()
    with open(sys.argv[2], "w", encoding="utf-8") as file:
        file.write(documented(document, sys.argv[1]))


if __name__ == "__main__":
    main()
