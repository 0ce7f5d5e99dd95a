"""What `spelt ctl` shows on terminals of several sizes, and how it leaves them."""

import fcntl
import os
import pty
import re
import select
import struct
import termios
import time

from support import V4, V6
from test_control import Controlled


class Screens(Controlled):
    """Tables on a terminal."""

    more = ("-t", "7301:80", "-T", "7302-7309", "-u", "[::1]/7303:7304", "--hostname", "h" * 60)

    def terminal(self, columns, lines, *arguments, keys=b"", seconds=0):
        """What is written to a terminal of this size; `keys` are typed after a while. And whether it is as it was before."""
        ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
        before = termios.tcgetattr(theirs)
        argv = [self.lab.program.path, "ctl", "-i", self.path, *map(str, arguments)]
        script = "import os, sys, fcntl, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); os.execvp(sys.argv[1], sys.argv[1:])"
        argv = self.lab.as_user(["/usr/bin/python3", "-c", script, *argv])
        process = self.lab.popen(argv, stdin=theirs, stdout=theirs, stderr=theirs)
        self.addCleanup(self.lab.end, process)
        written = bytearray()
        def read(until):
            while time.monotonic() < until and process.poll() is None or select.select([ours], [], [], 0)[0]:
                if select.select([ours], [], [], 0.05)[0]:
                    written.extend(os.read(ours, 65536))
        read(time.monotonic() + (seconds or 10))
        if keys:
            os.write(ours, keys)
            read(time.monotonic() + 10)
        self.assertEqual(process.wait(5), 0, written.decode())
        self.assertEqual(termios.tcgetattr(theirs), before)
        os.close(ours)
        os.close(theirs)
        return written.decode()

    def assert_fits(self, text, columns):
        for line in text.splitlines():
            self.assertLessEqual(len(line), columns, line)
        self.assertNotIn("\x1b", text)

    def test_no_line_is_longer_than_the_terminal(self):
        self.guest.interface()
        for columns in (80, 200):
            for command in (["info"], ["config"], ["stats", "-a"], ["forward", "list"], ["flows"], ["flows", "--host"]):
                text = self.terminal(columns, 24, *command)
                self.assertTrue(text)
                self.assert_fits(text, columns)

    def test_columns_stand_below_their_heads(self):
        pairs = [self.pair(self.lab.remote, net.remote) for net in (V4, V6) for _ in range(3)]
        for near, far in pairs:
            self.assert_connected(near, far)
        for columns in (80, 200):
            text = self.terminal(columns, 24, "flows", "--protocol", "tcp")
            self.assert_fits(text, columns)
            head, *rows = text.splitlines()
            at = head.index("STATE")
            shown = [row for row in rows if "established" in row]
            self.assertGreaterEqual(len(shown), 6)
            self.assertTrue(all(row[at:].startswith("established") for row in shown), text)
            for near, _ in pairs:
                self.assertIn(f":{near.getsockname()[1]}", text)

    def test_watching_ends_and_leaves_the_terminal_as_it_was(self):
        pairs = [self.pair(self.lab.remote, V6.remote) for _ in range(30)]
        for near, far in pairs:
            self.assert_connected(near, far)
        for keys in (b"q", b"\x03"):
            text = self.terminal(80, 20, "flows", "--watch", "0.2", keys=keys, seconds=0.7)
            self.assertTrue(text.startswith("\x1b[?1049h") and text.endswith("\x1b[?1049l"), text)
            self.assertLess(text.index("\x1b[?25l"), text.index("\x1b[?25h"))
            pages = text.split("\x1b[H")[1:]
            self.assertGreaterEqual(len(pages), 2)
            for page in pages:
                lines = re.sub(r"\x1b\[[?0-9]*[A-Za-z]", "", page).splitlines()
                self.assertEqual(len(lines), 20, page)
                self.assertLessEqual(max(map(len, lines)), 80)
