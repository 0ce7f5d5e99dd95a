"""Captures while the program runs: `spelt ctl capture`, and its requests, read by tshark and capinfos."""

import array
import json
import os
import signal
import socket
import subprocess
import threading
import time
import unittest.mock

from lab import wait_until
from support import V4, V6, both, read_exactly
from test_control import Control, Controlled

FIELDS = ("frame.interface_name", "frame.packet_flags_direction", "frame.comment", "frame.protocols", "tcp.srcport",
          "tcp.dstport", "udp.dstport", "frame.len", "frame.cap_len", "tcp.payload")
OUTBOUND, INBOUND = "0x00000002", "0x00000001"


def tshark(source, *more):
    fields = [word for field in FIELDS for word in ("-e", field)]
    return ["tshark", "-n", "-l", "-r", source, "-T", "fields", "-E", "occurrence=f", *fields, *more]


def row(line):
    return dict(zip(FIELDS, line.rstrip("\n").split("\t")))


class Captured(Controlled):
    """Files are of the ordinary user's, as the program is."""

    def start(self, *options):
        path = self.lab.file("capture")
        self.guest.interface()
        done = self.ctl("--json", "capture", "start", path, *options)
        return path, json.loads(done.stdout)["id"]

    def stream(self, *options, stdout=subprocess.PIPE, stderr=None):
        self.guest.interface()
        before = len(self.running())
        argv = [self.lab.program.path, "ctl", "-i", self.path, "capture", "stream", *map(str, options)]
        process = self.lab.popen(self.lab.as_user(argv), stdout=stdout, stderr=stderr)
        self.addCleanup(self.lab.end, process)
        wait_until(lambda: len(self.running()) > before or process.poll() is not None, 5, "the capture")
        return process

    def running(self):
        control = Control(self.path)
        try:
            return control.ask("capture.list")["captures"]
        finally:
            control.close()

    def tearDown(self):
        if type(self)._shared and type(self)._shared.process.poll() is None:
            self.ctl("capture", "stop")
        super().tearDown()

    def rows(self, path):
        """The frames; the reader does not complain, as it would of a block that is cut short."""
        done = self.lab.call(tshark(path))
        complaints = [line for line in done.stderr.splitlines() if not line.startswith("Running as user")]
        self.assertEqual(complaints, [])
        return [row(line) for line in done.stdout.splitlines()]

    def exchange(self, net=V4):
        """A question and an answer over TCP; the port at the guest."""
        near, far = self.pair(self.lab.remote, net.remote)
        self.assert_connected(near, far)
        port = near.getsockname()[1], far.getsockname()[1]
        near.close()
        self.assertEqual(far.recv(1), b"")
        far.close()
        return port

    def send_nonsense(self, ethertype=b"\x88\xb5"):
        """A frame that is dropped."""
        with self.guest.socket(socket.AF_PACKET, socket.SOCK_RAW) as link:
            link.bind((self.guest.interface(), 0))
            link.send(b"\xff" * 6 + b"\x02\0\0\0\0\x01" + ethertype + bytes(46))

    def pour(self, count):
        """Bytes from a server of `remote` to the guest."""
        near, far = self.pair(self.lab.remote, V4.remote)
        sender = threading.Thread(target=far.sendall, args=(bytes(count),))
        sender.start()
        self.assertEqual(len(read_exactly(near, count)), count)
        sender.join()
        near.close()
        far.close()


class Live(Captured):
    """A reader at the other end of a pipe."""

    def test_tshark_shows_frames_as_they_come(self):
        stream = self.stream()
        reader = self.lab.popen(tshark("-"), stdin=stream.stdout, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                                text=True)
        self.addCleanup(self.lab.end, reader)
        stream.stdout.close()
        near, far = self.exchange()
        self.send_nonsense()
        seen = []
        while not seen or "ether_type" not in seen[-1]["frame.comment"]:
            seen.append(row(reader.stdout.readline()))
        name = self.guest.interface()
        self.assertEqual({frame["frame.interface_name"] for frame in seen}, {name})
        sent = [f for f in seen if (f["tcp.srcport"], f["tcp.dstport"]) == (str(near), str(far))]
        answered = [f for f in seen if (f["tcp.srcport"], f["tcp.dstport"]) == (str(far), str(near))]
        self.assertEqual({f["frame.packet_flags_direction"] for f in sent}, {OUTBOUND})
        self.assertEqual({f["frame.packet_flags_direction"] for f in answered}, {INBOUND})
        self.assertIn(b"question".hex(), [f["tcp.payload"] for f in sent])
        self.assertIn(b"answer".hex(), [f["tcp.payload"] for f in answered])
        # Cause before effect.
        self.assertLess(seen.index(sent[0]), seen.index(answered[0]))
        dropped = seen[-1]
        self.assertRegex(dropped["frame.comment"], r"^dropped: ether_type: An EtherType .*\.$")
        self.assertEqual(dropped["frame.packet_flags_direction"], OUTBOUND)
        # The reader goes, with the program that reads for it, and with it all of it, though no frame comes. Asked to end, it
        # takes seconds to, on a busy machine.
        os.killpg(reader.pid, signal.SIGKILL)
        self.assertEqual(stream.wait(5), 0)
        wait_until(lambda: not self.running(), 5, "the capture's end")

    def test_it_ends_with_a_signal_and_all_that_was_seen(self):
        path = self.lab.file("capture")
        with open(path, "wb") as file:
            stream = self.stream("--protocol", "tcp", stdout=file)
        near, _ = self.exchange()
        stream.send_signal(signal.SIGINT)
        self.assertEqual(stream.wait(5), 0)
        self.assertEqual(self.running(), [])
        rows = self.rows(path)
        self.assertGreaterEqual(len([f for f in rows if str(near) in (f["tcp.srcport"], f["tcp.dstport"])]), 8)

    def test_it_ends_with_the_program(self):
        self.guest.interface()
        stream = self.stream()
        self.exchange()
        self.ctl("quit")
        data, _ = stream.communicate(timeout=5)
        self.assertEqual(stream.returncode, 0)
        path = self.lab.file("capture")
        with open(path, "wb") as file:
            file.write(data)
        self.assertGreaterEqual(len(self.rows(path)), 8)
        type(self)._shared.process.wait(5)
        type(self)._shared = None

    def test_a_stopped_reader_delays_nothing_and_is_told_what_it_missed(self):
        stream = self.stream()
        began = time.monotonic()
        poured = 0
        while not self.running()[0]["lost"]:
            self.pour(8_000_000)
            poured += 1
            self.assertLess(poured, 12)
        self.assertLess(time.monotonic() - began, 20)
        os.killpg(stream.pid, signal.SIGSTOP)
        self.exchange()
        os.killpg(stream.pid, signal.SIGCONT)
        path = self.lab.file("capture")
        with open(path, "wb") as file:
            copy = threading.Thread(target=lambda: file.write(stream.stdout.read()))
            copy.start()
            # One more, that says how many were lost before it.
            wait_until(lambda: self.exchange() and self.running()[0]["frames"] > 100, 10, "room")
            stream.send_signal(signal.SIGTERM)
            self.assertEqual(stream.wait(10), 0)
            copy.join()
        self.rows(path)
        stats = self.control.ask("stats.get")["captures"]
        self.assertEqual(stats["running"], 0)
        self.assertGreater(stats["lost"], 0)
        metrics = self.control.ask("metrics.get")["text"]
        self.assertIn(f"spelt_capture_lost_frames_total {stats['lost']}\n", metrics)
        told = self.lab.call(["tshark", "-r", path, "-T", "fields", "-e", "frame.drop_count"]).stdout.split()
        self.assertGreater(sum(map(int, told)), 0)

    def test_a_terminal_is_not_shown_frames(self):
        ours, theirs = os.openpty()
        try:
            argv = [self.lab.program.path, "ctl", "-i", self.path, "capture", "stream"]
            self.guest.interface()
            done = subprocess.run(self.lab.as_user(argv), stdout=theirs, stderr=subprocess.PIPE, timeout=10, check=False)
        finally:
            os.close(ours)
            os.close(theirs)
        self.assertEqual(done.returncode, 1)
        self.assertIn(b"tshark -r -", done.stderr)


class Files(Captured):
    def test_filters(self):
        host = V4.remote
        one, other = self.pair(self.lab.remote, host)
        end = "{}:{}".format(*one.getsockname()), "{}:{}".format(*other.getsockname())
        captures = {
            "flow": self.start("--flow", *end),
            "arp": self.start("--protocol", "arp"),
            "udp": self.start("--protocol", "udp", "--port", "7"),
            "host": self.start("--host", host, "--snaplen", "60"),
        }
        done = self.ctl("capture", "start", self.lab.file("capture"), check=False)
        self.assertEqual((done.returncode, "4 captures are running" in done.stderr), (1, True), done.stderr)
        listed = self.ctl("capture", "list").stdout.splitlines()
        self.assertEqual(len(listed), 5)
        self.assertIn(f"host {host}, snaplen 60", listed[-1])
        self.assert_connected(one, other)
        self.exchange()
        self.exchange(V6)
        with self.guest.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            # Nobody listens: an error comes back that quotes it. And one that comes in fragments, whose ports are unknown.
            client.sendto(b"x", (host, 7))
            client.sendto(bytes(1000), (host, 8))
        self.guest.run("ping", "-c1", V4.remote)
        self.send_nonsense(b"\x08\x06")
        wait_until(lambda: all(c["frames"] for c in self.running()), 5, "frames in each")
        time.sleep(0.2)
        self.assertRegex(self.ctl("capture", "stop").stdout, r"(?m)^capture \d+ has ended: \d+ frames$")
        rows = {name: self.rows(path) for name, (path, _) in captures.items()}
        ports = {(f["tcp.srcport"], f["tcp.dstport"]) for f in rows["flow"]}
        near, far = str(one.getsockname()[1]), str(other.getsockname()[1])
        self.assertEqual(ports, {(near, far), (far, near)})
        self.assertEqual({f["frame.protocols"] for f in rows["arp"]}, {"eth:ethertype:arp"})
        self.assertIn("dropped: arp: ", rows["arp"][-1]["frame.comment"])
        self.assertEqual([f["frame.protocols"].split(":")[3] for f in rows["udp"]], ["udp", "icmp"])
        kinds = {f["frame.protocols"].split(":")[3] for f in rows["host"]}
        self.assertEqual(kinds, {"tcp", "udp", "icmp"})
        self.assertTrue(any(int(f["frame.len"]) > 1000 for f in rows["host"]))
        self.assertEqual({int(f["frame.cap_len"]) for f in rows["host"]} & set(range(61, 65536)), set())

    def test_an_end_at_the_limit(self):
        path, number = self.start("--limit", "20000")
        self.pour(200_000)
        wait_until(lambda: not self.running(), 5, "the end")
        self.assertTrue(0 < os.path.getsize(path) <= 20_000)
        self.rows(path)
        done = self.ctl("capture", "stop", number, check=False)
        self.assertEqual(done.returncode, 1)
        self.assertIn(f"no capture is running by the id {number}", done.stderr)

    def test_a_full_disk_ends_it_and_nothing_else(self):
        disk = os.path.join(self.directory, "disk")
        self.guest.interface()
        os.mkdir(disk)
        self.lab.call(["mount", "-t", "tmpfs", "-o", "size=256k,mode=0777", "none", disk])
        self.addCleanup(self.lab.call, ["umount", disk])
        path = os.path.join(disk, "capture")
        self.ctl("capture", "start", path)
        self.pour(2_000_000)
        wait_until(lambda: not self.running(), 5, "the end")
        lines = [line for line in self.guest.errors().splitlines() if "No space left" in line]
        self.assertEqual(len(lines), 1)
        self.assertGreater(len(self.rows(path)), 0)
        self.exchange()

    def test_the_program_ends_with_all_that_was_seen(self):
        path, _ = self.start()
        near, _ = self.exchange()
        guest_interface = self.guest.interface()
        guest, type(self)._shared = self.guest, None
        guest.close()
        rows = [f for f in self.rows(path) if f["tcp.srcport"] == str(near)]
        self.assertGreaterEqual(len(rows), 4)
        facts = self.lab.call(["capinfos", "-M", path]).stdout
        self.assertRegex(facts, r"(?m)^File type: .*pcapng$")
        self.assertRegex(facts, r"(?m)^Capture application: +spelt \d")
        self.assertRegex(facts, rf"(?m)^ +Name = {guest_interface}$")
        # The block that only comes at the end.
        self.assertRegex(facts, r"(?m)^ +Number of stat entries = 1$")

    def test_a_fifo_needs_a_reader(self):
        self.guest.interface()
        path = os.path.join(self.directory, "fifo")
        os.mkfifo(path)
        os.chown(path, 65534, 65534)
        done = self.ctl("capture", "start", path, check=False)
        self.assertEqual(done.returncode, 1)
        self.assertIn("start its reader first", done.stderr)
        reader = self.lab.popen(self.lab.as_user(["cat", path]), stdout=subprocess.PIPE)
        self.addCleanup(self.lab.end, reader)
        wait_until(lambda: self.ctl("capture", "start", path, check=False).returncode == 0, 5, "the reader")
        self.exchange()
        self.ctl("capture", "stop")
        self.assertEqual(reader.communicate(timeout=5)[0][:4], b"\x0a\x0d\x0d\x0a")

    def test_what_is_no_place_for_frames_is_refused(self):
        control = self.control
        control.ask("info")
        held = f"/proc/{self.guest.translator()}/fd"
        before = len(os.listdir(held))
        read, write = os.pipe()
        one, other = socket.socketpair()
        with open("/dev/null", "wb") as null, open(self.lab.file("f"), "rb") as unwritable:
            for fds, part in (
                ([], "Send a descriptor"), ([null], "neither a regular file nor a pipe"),
                ([unwritable], "not open for writing"), ([read], "not open for writing"), ([write], "O_NONBLOCK"),
                ([one], "neither a regular file"), ([null] * 200, "neither"),
            ):
                fds = [fd if isinstance(fd, int) else fd.fileno() for fd in fds]
                rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
                control.socket.sendmsg([b'{"id":1,"method":"capture.start"}\n'], rights)
                self.assertIn(part, json.loads(control.file.readline())["error"]["message"])
        for params, part in (({"port": "x"}, "params"), ({"protocol": "arp", "port": 1}, "ARP"), ({"limit": 1}, "4096")):
            self.assertIn(part, control.reply("capture.start", **params)["error"]["message"])
        for fd in (read, write):
            os.close(fd)
        one.close()
        other.close()
        self.assertEqual(len(os.listdir(held)), before)


class SmallFiles(Captured):
    """A program whose files may not grow."""

    def another_guest(self, *options):
        as_user = self.lab.as_user
        limited = {"as_user": lambda argv: as_user(["prlimit", "--fsize=65536", *argv])}
        with unittest.mock.patch.multiple(self.lab, **limited):
            return super().another_guest(*options)

    def test_a_capture_ends_at_their_size_and_nothing_else(self):
        path, _ = self.start()
        self.pour(2_000_000)
        wait_until(lambda: not self.running(), 5, "the end")
        self.assertLessEqual(os.path.getsize(path), 65536)
        self.assertGreater(len(self.rows(path)), 0)
        self.exchange()


class Queues(Captured):
    more = ("--queues", "2", "--threads", "2")

    def test_frames_of_all_workers(self):
        path, number = self.start("--protocol", "tcp")
        ports = {str(self.exchange()[0]) for _ in range(16)}
        done = self.ctl("--json", "capture", "stop", number)
        capture, = json.loads(done.stdout)["captures"]
        rows = self.rows(path)
        self.assertEqual((capture["lost"], capture["frames"], capture["complete"]), (0, len(rows), True))
        for direction, field in ((OUTBOUND, "tcp.srcport"), (INBOUND, "tcp.dstport")):
            self.assertLessEqual(ports, {f[field] for f in rows if f["frame.packet_flags_direction"] == direction})


class Machine(Captured):
    """Under the filter of system calls of those who serve a virtual machine."""

    def another_guest(self, *options):
        return self.lab.vm(*options)

    @both
    def test_frames_are_whole(self, net):
        path, _ = self.start("--host", net.remote)
        near, far = self.pair(self.lab.remote, net.remote)
        for one, other, letter in ((near, far, b"a"), (far, near, b"b")):
            one.sendall(letter * 3000)
            self.assertEqual(read_exactly(other, 3000), letter * 3000)
        self.ctl("capture", "stop")
        rows = self.rows(path)
        self.assertEqual({f["frame.interface_name"] for f in rows}, {"vm"})
        for direction, letter in ((OUTBOUND, b"a"), (INBOUND, b"b")):
            of = [f["tcp.payload"] for f in rows if f["frame.packet_flags_direction"] == direction]
            self.assertEqual("".join(of), (letter * 3000).hex())
        self.exchange()


class Card(Machine):
    def another_guest(self, *options):
        return self.lab.vm(*options, vhost_user=2)
