"""Under a service manager: it is told how things are, and may listen for us."""

import contextlib
import json
import os
import signal
import socket
import struct
import unittest.mock

import lab
from support import Case, read_exactly

# Becomes the program with the manager's sockets from number 3 on: their numbers here, the names, the program's command line.
ACTIVATE = """
import fcntl, os, sys
numbers, names, argv = sys.argv[1], sys.argv[2], sys.argv[3:]
high = [fcntl.fcntl(int(n), fcntl.F_DUPFD, 100) for n in numbers.split(",")]
for at, number in enumerate(high):
    os.dup2(number, 3 + at, inheritable=True)
os.environ["LISTEN_FDS"] = str(len(high))
os.environ.setdefault("LISTEN_PID", str(os.getpid()))
if names != "-":
    os.environ["LISTEN_FDNAMES"] = names
os.execvp(argv[0], argv)
"""


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


class Activation(Case):
    """The manager listens at the machine's socket."""

    def listener(self, kind=socket.SOCK_STREAM, family=socket.AF_UNIX, listening=True):
        made = self.closing(socket.socket(family, kind))
        if family == socket.AF_UNIX:
            path = self.lab.file("activated")
            os.unlink(path)
            made.bind(path)
            os.chmod(path, 0o666)
        if listening and kind == socket.SOCK_STREAM:
            made.listen()
        return made

    def argv(self, sockets, names, options, mode="vm"):
        numbers = ",".join(str(s.fileno()) for s in sockets)
        command = [self.lab.program.path, mode, "-f", "-q", *options]
        return self.lab.as_user(["/usr/bin/python3", "-c", ACTIVATE, numbers, names, *command])

    def start(self, sockets, names="-", options=(), mode="vm"):
        manager = Manager(self)
        with manager.environment():
            process = self.lab.popen(self.argv(sockets, names, options, mode), pass_fds=[s.fileno() for s in sockets])
        self.addCleanup(self.lab.end, process)
        return manager.message()[0]

    def refused(self, *sockets, names="-", options=(), mode="vm"):
        done = self.lab.call(self.argv(sockets, names, options, mode), check=False,
                             pass_fds=[s.fileno() for s in sockets])
        self.assertEqual(done.returncode, 1, done.stderr)
        line, = done.stderr.splitlines()
        self.assertIn("LISTEN_FDS", line)
        return line

    def assert_served(self, client):
        """Somebody answers for the gateway."""
        mac = bytes.fromhex("020000000001")
        request = struct.pack("!HHBBH6s4s6s4s", 1, 0x0800, 6, 4, 1, mac, socket.inet_aton(lab.HOST4), bytes(6),
                              socket.inet_aton(lab.GATEWAY4))
        frame = b"\xff" * 6 + mac + b"\x08\x06" + request
        client.sendall(struct.pack("!I", len(frame)) + frame)
        client.settimeout(10)
        for _ in range(20):
            frame = read_exactly(client, *struct.unpack("!I", read_exactly(client, 4)))
            if frame[12:14] == b"\x08\x06" and frame[20:22] == b"\0\2":
                self.assertEqual(frame[28:32], socket.inet_aton(lab.GATEWAY4))
                return
        self.fail("no answer")

    def client(self, listener):
        client = self.closing(socket.socket(socket.AF_UNIX))
        client.connect(listener.getsockname())
        return client

    def test_whoever_waits_there_already_is_served(self):
        for names in ("-", "vm", "spelt-vm.socket"):
            listener = self.listener()
            client = self.client(listener)
            self.assertEqual(self.start([listener], names)["READY"], "1")
            self.assert_served(client)

    def test_the_one_with_the_name_among_others(self):
        other, listener = self.listener(socket.SOCK_DGRAM), self.listener()
        self.start([other, listener], "log:vm")
        self.assert_served(self.client(listener))

    def test_an_abstract_name(self):
        listener = self.closing(self.lab.host.socket(socket.AF_UNIX))
        listener.bind(f"\0{self.lab.name}-vm")
        listener.listen()
        self.assertEqual(self.start([listener])["STATUS"], "Serving virtual machines")
        with self.lab.host.entered():
            self.assert_served(self.client(listener))

    def test_anything_else_is_refused(self):
        self.assertIn("descriptor 3,", self.refused(self.listener(listening=False)))
        self.assertIn("is no stream socket", self.refused(self.listener(socket.SOCK_DGRAM)))
        self.assertIn("is no UNIX socket", self.refused(self.listener(family=socket.AF_INET)))
        self.assertIn("called http", self.refused(self.listener(), names="http"))
        self.assertIn("FileDescriptorName=vm", self.refused(self.listener(), self.listener()))
        self.assertIn("'--socket /tmp/x'", self.refused(self.listener(), options=("--socket", "/tmp/x")))

    def test_a_socket_for_somebody_else_is_nobodys(self):
        path = self.lab.file("own")
        os.unlink(path)
        listener = self.listener()
        with unittest.mock.patch.dict(os.environ, LISTEN_PID="1"):
            self.start([listener], options=("--socket", path))
        own = self.closing(socket.socket(socket.AF_UNIX))
        own.connect(path)
        self.assert_served(own)

    def ask(self, listener):
        client = self.client(listener)
        client.settimeout(10)
        client.sendall(b'{"jsonrpc":"2.0","id":1,"method":"info"}\n')
        with client.makefile("r", encoding="utf-8") as replies:
            return json.loads(replies.readline())["result"]

    def test_the_control_socket_of_each_command(self):
        with self.lab.empty_guest() as guest:
            for mode, options in (("vm", ()), ("run", ("--", "sleep", "20")), ("attach", (str(guest.pid),))):
                listener = self.listener()
                waiting = self.client(listener)
                sockets, names = ([listener], "control") if mode != "vm" else ([self.listener(), listener], "unknown:control")
                self.start(sockets, names, options, mode)
                self.assertEqual(self.ask(listener)["mode"], mode)
                if mode == "vm":
                    self.assert_served(self.client(sockets[0]))
                # It says so before it ends.
                waiting.sendall(b'{"id":2,"method":"quit"}\n')
                waiting.settimeout(10)
                self.assertIn(b'"id":2', waiting.recv(4096))
                self.assertEqual(waiting.recv(4096), b"")

    def test_the_log_names_the_instance_by_it(self):
        listener, path = self.listener(), self.lab.file("log")
        self.start([listener], "control", ("-d", "--log-format", "json", "--log-file", path, "--", "sleep", "20"), "run")
        with open(path, encoding="utf-8") as file:
            instances = {json.loads(line)["instance"] for line in file}
        self.assertEqual(instances, {listener.getsockname()})

    def test_no_two_control_sockets(self):
        run = {"mode": "run", "names": "control"}
        self.assertIn("'--control /tmp/x'", self.refused(self.listener(), options=("--control", "/tmp/x", "true"), **run))
        self.assertIn("'--control none'", self.refused(self.listener(), options=("--control", "none", "true"), **run))
        self.assertIn("is no stream socket", self.refused(self.listener(socket.SOCK_DGRAM), options=("true",), **run))
        twice = self.refused(self.listener(), self.listener(), names="control:control")
        self.assertIn("passes 2 sockets that are called 'control'", twice)

    def test_what_nobody_takes_is_told(self):
        listener = self.listener()
        done = self.lab.call(self.argv([listener], "http", ("true",), "run"), pass_fds=[listener.fileno()])
        self.assertIn("sockets from the service manager are not used (LISTEN_FDS): http;", done.stderr)

    def test_check_looks_at_them_too(self):
        listener = self.listener()
        done = self.lab.call(self.argv([listener], "vm", ("--check",)), pass_fds=[listener.fileno()])
        self.assertEqual(done.stdout, "configuration is valid\n")
        self.assertIn("'--socket /tmp/x'", self.refused(listener, options=("--check", "--socket", "/tmp/x")))
        self.assertIn("called http", self.refused(listener, names="http", options=("--check",)))
        self.assertIn("is no UNIX socket", self.refused(self.listener(family=socket.AF_INET), options=("--check",)))
