"""What the checks of a newer QEMU share: QEMU in a root directory of Debian, and programs as it starts them."""

import contextlib
import os
import re
import time

import debian_root
import guest
import lab
import world

PORTS = ("-t", world.TCP_PORTS, "-u", world.UDP_PORTS)
INSIDE = debian_root.script('shared=$2\nmkdir -p ".$shared"\nmount --bind "$shared" ".$shared"\n',
                            'shift 2\nexec chroot / "$@"\n')
"""The laboratory's directory is inside where it is outside."""


class World(world.World):
    """A laboratory with the QEMU of one root directory."""

    def __init__(self, laboratory, root):
        super().__init__(laboratory)
        self.root, self.passt = root, passt(laboratory)
        self.version = re.search(r"version ([\d.]+)", self.qemu("--version")[1])[1]
        self.has_passt = "passt" in self.qemu("-netdev", "help")[1].split()

    def run_as(self, argv):
        """The command line that runs `argv` as an ordinary user in the root directory, on the laboratory's `host`."""
        user = ["setpriv", f"--reuid={lab.USER}", f"--regid={lab.USER}", "--clear-groups", "--", *argv]
        return self.lab.as_root(["unshare", "--mount", "sh", "-euc", INSIDE, "sh", self.root, self.lab.dir, *user])

    def qemu(self, *options):
        """QEMU without a machine, to its end: status, and what it said."""
        argv = ["timeout", "10", "qemu-system-x86_64", "-machine", "none", "-nodefaults", "-display", "none", *options]
        done = self.lab.call(self.run_as(argv), check=False)
        return done.returncode, done.stdout + done.stderr

    def programs(self):
        """Process ids of the program under test, whatever their names and wherever they are."""
        wanted, found = os.stat(self.passt), []
        for pid in lab.processes():
            with contextlib.suppress(OSError):
                if os.path.samestat(os.stat(f"/proc/{pid}/exe"), wanted):
                    found.append(pid)
        return found

    def machine(self, netdev, pass_fds=(), more=()):
        """A guest with this network and these options, with which nothing is configured yet."""
        return guest.Guest(self.lab, self.images, ["-netdev", netdev, *more], self.run_as, pass_fds)

    def guest_of(self, session):
        """The guest of a session, whose `start` makes it and, where QEMU does not, its program."""
        if self.session != session or not self.guest:
            self.discard()
            self.session = session
            session.start(self)
            world.configure(self.guest)
        return self.guest

    def healthy(self):
        return bool(self.guest and self.guest.alive() and (not self.server or self.server.alive()) and self.answers())

    def answers(self):
        """Whether the guest reaches a neighbour just now."""
        with contextlib.suppress(TimeoutError, RuntimeError):
            for target in (lab.REMOTE4, lab.REMOTE6):
                self.guest.run(f"ping -c 1 -W 1 {target}", timeout=5)
            return True
        return False


class Case(world.Case):
    """Checks of a guest's network that only differ in how it is connected."""

    passt = False
    """Only a QEMU that has `-netdev passt` can be asked."""

    def wait_connected(self):
        """Until the guest reaches others again after its program has gone."""
        began = time.monotonic()
        lab.wait_until(self.world.answers, 20, "connectivity")
        self.note(f"after {(time.monotonic() - began) * 1000:.0f} ms")


def passt(laboratory):
    """The program under the name that QEMU starts it by, where an ordinary user may execute it."""
    path = os.path.join(laboratory.dir, "passt")
    target = laboratory.install(laboratory.program.path)
    if not os.path.exists(path):
        os.symlink(os.path.basename(target), path)
    return path
