"""QEMU starts the program itself: -netdev passt, which QEMU 10.0 has not."""

import contextlib
import dataclasses
import os
import signal

import guest
import lab
from checks_network import assert_stream_in, assert_stream_out, assert_udp_in, variables
from newer_world import Case
from support import both, limit
from world import TCP_PORTS, UDP_PORTS, url

MUCH = 20_000_000
OPTIONS = {"mtu": "9000", "search": ("one.test", "two.example.test"), "tcp-ports": TCP_PORTS.split(","),
           "udp-ports": UDP_PORTS.split(","), "param": ("--hostname", "machine")}
ARGUMENTS = ["--quiet", "--mtu", "9000", "--search", "one.test two.example.test", "--tcp-ports", TCP_PORTS,
             "--udp-ports", UDP_PORTS, "--hostname", "machine", "--pid", None, "--fd", "3"]
"""What QEMU makes of the options; it chooses the path of the pid file."""


def netdev(program, options):
    """QEMU's option for these options; what has several values is repeated."""
    pairs = [(key, value) for key, values in options.items()
             for value in ([values] if isinstance(values, str) else values)]
    return ",".join(["passt,id=net", f"path={program}", *(f"{key}={value}" for key, value in pairs)])


@dataclasses.dataclass(frozen=True)
class Session:
    name: str = "1 passt"
    bare = False
    shared: bool = False
    """The guest's memory is."""

    def start(self, world):
        more = {"vhost-user": "on"} if self.shared else {}
        world.guest = world.machine(netdev(world.passt, OPTIONS | more), more=guest.SHARED if self.shared else ())


class Passt(Case):
    """With a session: QEMU starts the program as it is told by OPTIONS."""

    passt = True

    def program(self):
        """Process id of the only one that runs."""
        running = self.world.programs()
        self.assertEqual(len(running), 1, f"processes of the program: {running}")
        return running[0]

    @contextlib.contextmanager
    def pid_files(self):
        """Yields what tells what QEMU's pid files contain, after its end, too."""
        directory = os.open(f"/proc/{self.guest.process.pid}/root/tmp", os.O_RDONLY | os.O_DIRECTORY)

        def contents():
            found = []
            for name in os.listdir(directory):
                if name.endswith(".pid"):
                    with open(name, encoding="ascii", opener=lambda *what: os.open(*what, dir_fd=directory)) as file:
                        found.append(file.read())
            return found
        try:
            yield contents
        finally:
            os.close(directory)


class Start(Passt):
    session = Session()

    def test_command_line(self):
        self.assert_command_line(ARGUMENTS)

    def test_runs_as_qemus_user(self):
        self.assertTrue(self.guest.alive())
        with open(f"/proc/{self.program()}/status", encoding="ascii") as file:
            self.assertIn(f"Uid:\t{lab.USER}\t{lab.USER}\t", file.read())

    def test_lease(self):
        """With what QEMU has an option for, and with what came by `param`."""
        got = variables(self.guest.run("cat /tmp/lease"))
        self.assertEqual((got["ip"], got["mask"], got["router"]), (lab.HOST4, "24", lab.GATEWAY4))
        self.assertEqual((got["mtu"], got["hostname"]), ("9000", "machine"))
        self.assertEqual(got["search"].split(), ["one.test", "two.example.test"])

    @both
    def test_echo(self, net):
        for target in (net.gateway, net.remote, net.far):
            self.assertIn("2 packets received", self.guest.run(f"ping -c 2 -i 0.2 -W 5 {target}"))

    @both
    def test_tcp_out(self, net):
        assert_stream_out(self, net, MUCH)

    @both
    def test_tcp_in(self, net):
        assert_stream_in(self, net, MUCH)

    @both
    def test_udp_out(self, net):
        with self.lab.service(self.lab.remote, "echo", "--listen", url(net.remote, 8100)):
            for size in (1, 1400, 60_000):
                self.assertEqual(self.guest.do("udp_ask", int(net.af), net.remote, 8100, size), (size, True))

    @both
    def test_udp_in(self, net):
        assert_udp_in(self, net, 1, 1400, 8000)

    def assert_command_line(self, arguments):
        self.assertTrue(self.guest.alive())
        with open(f"/proc/{self.program()}/cmdline", encoding="utf-8") as file:
            words = file.read().split("\0")[1:-1]
        self.assertEqual([word if wanted else None for word, wanted in zip(words, arguments)], arguments)
        self.assertEqual(len(words), len(arguments), words)


class Shared(Start):
    """The same with the guest's memory shared."""

    session = Session("2 passt, shared", shared=True)

    def test_command_line(self):
        self.assert_command_line(["--vhost-user", *ARGUMENTS])


class Again(Passt):
    """QEMU starts the program again when it has gone."""

    session = Session()

    @limit(90)
    def test_killed(self):
        self.assert_started_again(signal.SIGKILL)
        self.assert_started_again(signal.SIGKILL)

    def test_terminated(self):
        self.assert_started_again(signal.SIGTERM)

    def assert_started_again(self, how):
        self.assert_works()
        with self.pid_files() as contents:
            self.end_program(how)
            self.assertEqual(contents(), [f"{self.program()}\n"])
        self.assert_works()

    def end_program(self, how):
        """Returns when another one serves the guest."""
        before = self.program()
        os.kill(before, how)
        lab.wait_until(lambda: self.world.programs() not in ([], [before]), 5, "another start")
        self.wait_connected()

    @both
    def test_connection_from_before_is_reset(self, net):
        near, far = self.pair(self.lab.remote, net.remote)
        self.assert_connected(near, far)
        self.end_program(signal.SIGKILL)
        with contextlib.suppress(BrokenPipeError), self.assertRaises(ConnectionResetError):
            near.sendall(b"are you still there?")
            near.recv(1)


class End(Passt):
    """Nothing of the program is left when QEMU has ended."""

    session = Session()

    def test_guest_powers_off(self):
        self.assert_nothing_left(lambda guest: guest.begin("run", "poweroff -f", 5), 0)

    def test_qemu_terminated(self):
        self.assert_nothing_left(lambda guest: guest.process.terminate(), 0)

    def test_qemu_killed(self):
        """Its pid file stays, and nobody else knows of that."""
        self.assert_nothing_left(lambda guest: guest.process.kill(), -signal.SIGKILL, but_pid_file=True)

    def assert_nothing_left(self, end, status, but_pid_file=False):
        self.assert_works()
        written = [f"{self.program()}\n"]
        with self.pid_files() as contents:
            self.assertEqual(contents(), written)
            end(self.guest)
            self.assertEqual(self.guest.process.wait(20), status)
            lab.wait_until(lambda: not self.world.programs(), 5, "the program's end")
            self.assertEqual(contents(), written if but_pid_file else [])
        self.world.discard()


class Refusal(Passt):
    """QEMU shows what the program says."""

    def test_value(self):
        self.assert_refused("mtu=70000", "Invalid MTU '70000'")

    def assert_refused(self, option, reason):
        status, said = self.world.qemu("-netdev", netdev(self.world.passt, {}) + "," + option)
        self.note(said.splitlines()[0])
        self.assertEqual(status, 1)
        self.assertIn(reason, said)
        self.assertIn("Passt exited with code 1", said)
        self.assertEqual(self.world.programs(), [])
