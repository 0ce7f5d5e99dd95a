"""Under a service manager: it is told how things are."""

import contextlib
import os
import signal
import socket
import struct
import unittest.mock

import lab
from support import Case


class Manager:
    """A manager's socket in the laboratory's host."""

    def __init__(self, test, abstract=False):
        self.socket = test.lab.host.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        if abstract:
            self.address = f"@{test.lab.name}-notify"
            self.socket.bind("\0" + self.address[1:])
        else:
            self.address = test.lab.file("notify")
            os.unlink(self.address)
            self.socket.bind(self.address)
            os.chmod(self.address, 0o666)
        test.addCleanup(self.socket.close)

    def message(self):
        """The assignments of one message, and the process that sent it."""
        room = socket.CMSG_SPACE(struct.calcsize("3i"))
        data, ancillary, _, _ = self.socket.recvmsg(4096, room)
        pid = next(struct.unpack("3i", value)[0] for _, kind, value in ancillary if kind == socket.SCM_CREDENTIALS)
        return dict(line.split("=", 1) for line in data.decode().splitlines()), pid

    def environment(self):
        return unittest.mock.patch.dict(os.environ, NOTIFY_SOCKET=self.address)

    def is_silent(self):
        self.socket.settimeout(0.3)
        with contextlib.suppress(TimeoutError):
            return self.socket.recv(4096) is None
        return True


class Readiness(Case):
    def test_of_a_command(self):
        for abstract in (False, True):
            manager = Manager(self, abstract)
            with manager.environment(), self.lab.guest() as guest:
                ready, pid = manager.message()
                self.assertEqual(ready, {"READY": "1", "STATUS": "Serving the command sh"})
                self.assertEqual(pid, guest.translator())
            ending, _ = manager.message()
            self.assertEqual(ending["STOPPING"], "1")

    def test_a_command_does_not_hear_of_the_manager(self):
        manager = Manager(self)
        with manager.environment(), unittest.mock.patch.dict(os.environ, LISTEN_FDS="1", LISTEN_PID="1", LISTEN_FDNAMES="vm"):
            done = self.run_command("env")
        self.assertEqual(done.returncode, 0, done.stderr)
        for name in ("NOTIFY_SOCKET", "LISTEN_"):
            self.assertNotIn(name, done.stdout)
        self.assertIn("PATH=", done.stdout)

    def test_in_the_background(self):
        """The manager knows the process that stays before the one that it has started ends."""
        manager, path = Manager(self), self.lab.file("pid")
        with manager.environment():
            guest = self.lab.attached("-P", path)
        with open(path, encoding="ascii") as file:
            daemon = int(file.read())
        first, sender = manager.message()
        self.assertEqual((first, sender), ({"MAINPID": str(daemon)}, daemon))
        self.assertEqual(manager.message()[0],
                         {"READY": "1", "STATUS": f"Serving the namespace of process {guest.pid}"})
        self.assert_connected(*self.pair(self.lab.remote, lab.REMOTE4, guest=guest))
        guest.close()
        self.assertEqual(manager.message()[0]["STOPPING"], "1")

    def test_of_a_machines_socket(self):
        manager = Manager(self)
        with manager.environment(), self.lab.vm() as guest:
            ready, pid = manager.message()
            self.assertEqual((ready["READY"], pid), ("1", guest.process.pid))
            self.assertIn("Serving virtual machines at /", ready["STATUS"])
            guest.process.send_signal(signal.SIGTERM)
            self.assertEqual(manager.message()[0]["STOPPING"], "1")

    def test_a_start_that_fails_is_never_ready(self):
        manager = Manager(self)
        with manager.environment():
            self.assertEqual(self.run_command("true", options=("-i", "nosuch0")).returncode, 1)
        self.assertTrue(manager.is_silent())

    def test_a_manager_that_is_not_there_is_told_to_the_user(self):
        for address in ("/no/such/socket", "@no-such-name", "vsock:2:1"):
            with unittest.mock.patch.dict(os.environ, NOTIFY_SOCKET=address):
                done = self.run_command("echo", "done")
            self.assertEqual((done.returncode, done.stdout), (0, "done\n"))
            line, = done.stderr.splitlines()
            self.assertIn(f"'{address}' (NOTIFY_SOCKET)", line)

    def test_under_another_name_it_is_no_service(self):
        """Podman has the variable itself, and says when its container is ready."""
        manager, pasta = Manager(self), self.lab.install(self.lab.program.path, "pasta")
        with manager.environment():
            done = self.lab.call(self.lab.as_user([pasta, "--config-net", "-q", "--", "env"]))
        self.assertIn(f"NOTIFY_SOCKET={manager.address}\n", done.stdout)
        self.assertTrue(manager.is_silent())
