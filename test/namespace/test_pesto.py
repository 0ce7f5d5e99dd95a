"""`-c` of pasta and passt, and their client pesto. What others say on the wire is played here as it was recorded of
0.0~git20261002.cba3570; test/peers/run.py has these tests with their real programs."""

import os
import socket
import struct
import subprocess
import tempfile
import threading
import time

import lab
from lab.program import Program
from support import V4, V6, Case, both, read_exactly, read_to_end

HELLO = b"basil:s\0" + struct.pack(">III", 2, 128, 16)
HOST, SPLICE = 1, 3
TCP, UDP = 6, 17
DUAL, BEST_EFFORT, AUTO = 1, 2, 4


def rule(first, last=None, to=None, proto=TCP, flags=DUAL, listen=None, device=b""):
    address = b"\0" * 16 if listen is None else b"\0" * 10 + b"\xff\xff" + socket.inet_aton(listen)
    return (address + b"\0" * 16 + device.ljust(16, b"\0")
            + struct.pack(">HHHBB", first, last or first, to or first, proto, flags))


def table(number, name, abilities, *rules):
    return bytes([number]) + name.ljust(128, b"\0") + struct.pack(">II", abilities, len(rules)) + b"".join(rules)


def update(*tables):
    return b"".join(bytes([number]) + struct.pack(">I", len(rules)) + b"".join(rules)
                    for number, rules in tables) + b"\0"


class Pesto(Case):
    """An instance with a socket for pesto, and the client. Both may be another's: see test/peers/run.py."""

    client = daemon = None
    options = ("-t", "7401:80", "-u", "none", "-T", "none", "-U", "none")

    def named(self, name):
        """Ours, by another name."""
        path = os.path.join(self.lab.dir, name)
        if not os.path.lexists(path):
            os.symlink(self.lab.program.path, path)
        return path

    def make_path(self):
        directory = tempfile.mkdtemp(dir=self.lab.dir)
        os.chown(directory, 65534, 65534)
        return os.path.join(directory, "conf")

    def make_guest(self):
        type(self).path = self.make_path()
        program = Program(self.daemon or self.named("pasta"), kind="pasta")
        return self.lab.guest("-c", self.path, *self.options, program=program)

    def pesto(self, *arguments, path=None, check=True):
        self.guest.interface()
        program = self.client or self.named("pesto")
        done = self.lab.call(self.lab.as_user([program, *map(str, arguments), path or self.path]), check=False)
        if check:
            self.assertEqual((done.returncode, done.stderr), (0, ""), arguments)
        return done

    def rules(self):
        """What is shown, without the path."""
        head, *lines = self.pesto().stdout.splitlines()
        self.assertTrue(head.startswith("passt/pasta configuration ("), head)
        return [line.strip() for line in lines]

    def assert_open(self, net, port, inner):
        client, served, _ = self.inbound(self.lab.remote, net.host, port, inner)
        self.assert_connected(client, served)
        return client, served

    def assert_shut(self, net, port):
        with self.assertRaises(ConnectionRefusedError):
            self.lab.remote.connect(net.host, port)

    def refused(self, *arguments, path=None):
        done = self.pesto(*arguments, path=path, check=False)
        self.assertNotEqual(done.returncode, 0, done)
        self.assertEqual(done.stdout, "")
        return done.stderr


class Anybodys:
    """Whosever client and instance. Each test leaves what it has found."""

    BEFORE = ["HOST", "TCP [*]:7401  =>  80", "SPLICE"]

    def test_rules_come_and_go(self):
        self.assertEqual(self.rules(), self.BEFORE)
        self.pesto("-A", "-t", "0.0.0.0/7410:8010", "-t", "[::]/7410:8010", "-u", "7411-7412:8011-8012")
        self.assertEqual(self.rules(), [*self.BEFORE[:2], "TCP [0.0.0.0]:7410  =>  8010", "TCP [::]:7410  =>  8010",
                                        "UDP [*]:7411-7412  =>  8011-8012", "SPLICE"])
        for net in (V4, V6):
            self.assert_open(net, 7410, 8010)
        self.assert_open(V4, 7401, 80)
        with self.guest.bind("0.0.0.0", 8012) as server, self.lab.remote.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            client.sendto(b"question", (V4.host, 7412))
            self.assertEqual(server.recv(100), b"question")
        self.pesto("-D", "-t", "0.0.0.0/7410:8010", "-u", "7411-7412:8011-8012", "-t", "[::]/7410:8010")
        self.assertEqual(self.rules(), self.BEFORE)
        for net in (V4, V6):
            self.assert_shut(net, 7410)

    def test_table_is_replaced_and_connections_live_on(self):
        client, served = self.assert_open(V4, 7401, 80)
        self.pesto("-t", "7402", "-t", "7403:80")
        self.assertEqual(self.rules(), ["HOST", "TCP [*]:7402  =>  7402", "TCP [*]:7403  =>  80", "SPLICE"])
        self.assert_shut(V4, 7401)
        self.assert_connected(client, served)
        self.assert_open(V4, 7403, 80)
        self.pesto("-t", "7401:80")
        self.assertEqual(self.rules(), self.BEFORE)

    def test_a_port_leads_elsewhere(self):
        self.pesto("-t", "7401:81")
        self.assert_open(V4, 7401, 81)
        self.pesto("-C", "HOST", "-t", "7401:80")
        self.assertEqual(self.rules(), self.BEFORE)
        self.assert_open(V4, 7401, 80)

    def test_ports_of_the_guest_to_the_host(self):
        self.pesto("-A", "-T", "7420:7421")
        self.assertEqual(self.rules(), [*self.BEFORE, "TCP [*]%lo:7420  =>  7421"])
        with self.lab.host.listen("127.0.0.1", 7421) as listener:
            near = self.closing(self.guest.connect("127.0.0.1", 7420))
            far, _ = listener.accept()
            self.assert_connected(near, self.closing(far))
        self.pesto("-C", "SPLICE")
        self.assertEqual(self.rules(), self.BEFORE)
        with self.assertRaises(ConnectionRefusedError):
            self.guest.connect("127.0.0.1", 7420)

    def test_ports_follow_the_guest(self):
        self.pesto("-A", "-t", "7430-7439,auto")
        self.assertEqual(self.rules()[2], "TCP [*]:7430-7439  =>  7430-7439  (auto-scan)")
        self.assert_shut(V4, 7435)
        with self.guest.listen("0.0.0.0", 7435):
            lab.wait_until(lambda: self.connects(7435), 5, "the port to be forwarded")
        self.pesto("-D", "-t", "7430-7439,auto")
        self.assertEqual(self.rules(), self.BEFORE)

    def connects(self, port):
        try:
            self.lab.remote.connect(V4.host, port).close()
            return True
        except ConnectionRefusedError:
            return False

    def test_before_and_after_are_shown(self):
        shown = self.pesto("-s", "-A", "-t", "7440").stdout.replace(self.path, "PATH")
        self.assertEqual(shown, "Previous configuration (PATH)\n  HOST\n    TCP [*]:7401  =>  80 \n  SPLICE\n"
                                "Updated configuration (PATH)\n  HOST\n    TCP [*]:7401  =>  80 \n"
                                "    TCP [*]:7440  =>  7440 \n  SPLICE\n")
        self.pesto("-D", "-t", "7440")

    def test_what_is_not_there_cannot_be_deleted(self):
        for spec in ("7450", "7401", "7400-7402"):
            self.assertIn("TCP [*]:", self.refused("-D", "-t", spec))
        self.assertEqual(self.rules(), self.BEFORE)


class OurClient:
    """With whosever instance."""

    def test_adding_again_changes_nothing(self):
        for _ in range(2):
            self.pesto("-A", "-t", "7460", "-u", "7460")
        self.assertEqual(len(self.rules()), 5)
        self.pesto("-D", "-t", "7460", "-A", "-t", "7460", "-D", "-u", "7460", "-t", "7460")
        self.assertEqual(self.rules(), Anybodys.BEFORE)

    def test_a_port_that_is_taken(self):
        with self.lab.host.listen("0.0.0.0", 7471):
            message = self.refused("-A", "-t", "7470-7472")
            self.assertIn("7471", message)
            self.assertEqual(self.rules(), Anybodys.BEFORE)
            self.assert_shut(V4, 7470)
            self.assert_open(V4, 7401, 80)
            # It is not in the way of others.
            self.pesto("-A", "-t", "7473")
        self.pesto("-A", "-t", "7470-7472")
        self.assert_open(V4, 7472, 7472)
        self.pesto("-D", "-t", "7470-7472", "-t", "7473")
        return message


class OurClientOurInstance(OurClient, Anybodys, Pesto):
    def test_a_port_that_is_taken(self):
        message = super().test_a_port_that_is_taken()
        self.assertIn("nothing was changed: TCP [*]:7470-7472  =>  7470-7472: Failed to bind port 7471 (Address already in "
                      "use)", message)
        self.assertIn("pesto", self.guest.errors())

    def test_what_had_to_make_way_comes_back(self):
        with self.lab.host.listen("0.0.0.0", 7481):
            self.assertIn("7481", self.refused("-t", "7401:81", "-t", "7481"))
            # The port that leads elsewhere is to be opened again, beside one that cannot be had.
            self.assertIn("7481", self.refused("-t", "7401:81", "-t", "7400-7481"))
        self.assertEqual(self.rules(), self.BEFORE)
        self.assert_open(V4, 7401, 80)

    def test_all_leaves_out_what_is_taken(self):
        with self.lab.host.listen("0.0.0.0", 7491):
            self.pesto("-A", "-t", "all,~1-7489,~7495-65535")
        self.assertIn("TCP [*]:7490-7494  =>  7490-7494  (best effort)", self.rules())
        self.assert_open(V4, 7490, 7490)
        self.pesto("-t", "7401:80")

    def test_socket_is_its_owners_alone(self):
        self.guest.interface()
        self.assertEqual(os.stat(self.path).st_mode & 0o777, 0o600)

    def test_spelts_own_socket_is_told(self):
        path = self.make_path()
        self.closing(self.lab.guest("--control", path))
        self.assertIn("this is spelt's own control socket", self.refused("-A", "-t", "7500", path=path))
        self.guest.interface()
        done = self.lab.call(self.lab.as_user([self.lab.program.path, "ctl", "-i", self.path, "forward", "list"]), check=False)
        self.assertEqual(done.returncode, 1)
        self.assertIn("which 'pesto' understands", done.stderr)


class Wire(Pesto):
    """Other programs' bytes."""

    def connect(self, path=None):
        self.guest.interface()
        client = self.closing(socket.socket(socket.AF_UNIX))
        client.settimeout(5)
        client.connect(path or self.path)
        return client

    def test_instance_is_greeted_as_pesto_expects_and_does_as_it_says(self):
        expected = HELLO + table(HOST, b"HOST", 0x3F, rule(7401, to=80)) + table(SPLICE, b"SPLICE", 0x3F) + b"\0"
        client = self.connect()
        self.assertEqual(read_exactly(client, len(expected)), expected)
        # In pesto's pieces, and it leaves at once.
        for piece in (b"\1", b"\0\0\0\2", rule(7401, to=80), rule(7510, flags=0, listen="127.0.0.1"),
                      b"\3", b"\0\0\0\1", rule(7511, device=b"lo", flags=DUAL | AUTO), b"\0"):
            client.sendall(piece)
        client.shutdown(socket.SHUT_RDWR)
        client.close()
        self.assertEqual(self.rules(), ["HOST", "TCP [*]:7401  =>  80", "TCP [127.0.0.1]:7510  =>  7510",
                                        "SPLICE", "TCP [*]%lo:7511  =>  7511  (auto-scan)"])
        # Tables that are left out are empty; what is not understood changes nothing.
        self.say(b"\0")
        self.assertEqual(self.rules(), ["HOST", "SPLICE"])
        self.say(update((HOST, [rule(7401, to=80)]), (SPLICE, [])))
        for nonsense in (b"{}\n", b"\1\xff\xff\xff\xff", update((2, [])), update((HOST, [rule(7401, flags=9)])),
                         update((HOST, [rule(7401), rule(7401, to=5)])), update((SPLICE, [rule(7512)])), b"\1\0\0\0"):
            self.say(nonsense)
            self.assertEqual(self.rules(), ["HOST", "TCP [*]:7401  =>  80", "SPLICE"])

    def say(self, what):
        client = self.connect()
        read_exactly(client, len(HELLO))
        client.sendall(what)
        client.shutdown(socket.SHUT_WR)
        return read_to_end(client)

    def test_who_keeps_its_turn_holds_up_nothing_else(self):
        holder, other = self.connect(), self.connect()
        read_exactly(holder, len(HELLO))
        other.settimeout(0.2)
        with self.assertRaises(TimeoutError):
            other.recv(1)
        self.assert_open(V4, 7401, 80)
        holder.close()
        other.settimeout(5)
        self.assertEqual(read_exactly(other, len(HELLO)), HELLO)

    def test_instances_of_others_are_told_and_asked_again(self):
        """One that keeps a rule whose port it cannot bind, as they do: seen in the kernel's lists."""
        before, after = [rule(7401, to=80)], [rule(7401, to=80), rule(7520)]
        for bound in (True, False):
            said, path = [], self.make_path()
            listener = self.play(path, [before, after, before], said)
            listeners = []
            if bound:
                # Between the first conversation's end and the second's beginning.
                said.append(lambda: listeners.append(self.lab.host.listen("::", 7520)))
            done = self.pesto("-A", "-t", "7520", path=path, check=False)
            listener.close()
            said = [s for s in said if isinstance(s, bytes)]
            self.assertEqual(said[0], update((HOST, after)))
            if bound:
                self.assertEqual((done.returncode, done.stderr), (0, ""))
                listeners[0].close()
            else:
                self.assertEqual(done.returncode, 1)
                self.assertIn("does not listen for TCP [*]:7520  =>  7520 (port 7520); the tables are as they were", done.stderr)
                self.assertEqual(said[1], update((HOST, before)))

    def test_instance_of_others_that_refuses(self):
        path, before = self.make_path(), [rule(7401, to=80)]
        with self.play(path, [before, before], []):
            self.assertIn("has not taken the new tables", self.refused("-A", "-t", "7521", path=path))

    def play(self, path, tables, said):
        """passt, one conversation after the other with these rules; what clients say is kept. A function there is called in
        between."""
        with self.lab.host.entered():
            listener = socket.socket(socket.AF_UNIX)
        listener.bind(path)
        os.chmod(path, 0o666)
        listener.listen()

        def work():
            for rules in tables:
                try:
                    client, _ = listener.accept()
                except OSError:
                    return
                with client:
                    client.sendall(HELLO + table(HOST, b"HOST", 0x2F, *rules) + b"\0")
                    heard = b""
                    while len(heard) < 6 or (len(heard) - 6) % 56:
                        piece = client.recv(1000)
                        if not piece:
                            break
                        heard += piece
                    if said and callable(said[-1]):
                        said.pop()()
                    if heard:
                        said.append(heard)

        threading.Thread(target=work, daemon=True).start()
        return listener


class Machine(Pesto):
    """passt has no namespace to reach into."""

    def test_passt_has_one_table(self):
        path, plug = self.make_path(), self.make_path()
        program = self.named("passt")
        daemon = self.lab.popen(self.lab.as_user([program, "-f", "-q", "-c", path, "-s", plug, "-t", "7530"]),
                                stderr=subprocess.PIPE)
        self.addCleanup(daemon.stderr.close)
        self.addCleanup(self.lab.end, daemon)
        lab.wait_until(lambda: os.path.exists(path), 5, "the socket")
        time.sleep(0.2)
        self.pesto("-A", "-t", "7531", path=path)
        shown = self.pesto(path=path).stdout.splitlines()[1:]
        self.assertEqual(shown, ["  HOST", "    TCP [*]:7530  =>  7530 ", "    TCP [*]:7531  =>  7531 "])
        self.lab.host.connect("127.0.0.1", 7531).close()
        self.assertIn("no namespace to forward from", self.refused("-A", "-T", "80", path=path))
        self.assertIn("'auto' is for namespaces", self.refused("-A", "-t", "80,auto", path=path))
