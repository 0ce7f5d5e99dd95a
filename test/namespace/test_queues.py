"""An interface with several queues: traffic must not notice."""

import json
import os
import re
import socket
import subprocess
import threading
import time

import lab
from support import V4, Case, both, limit, read_exactly

COUNT = 4
DEFAULT = 3
OPTIONS = ("--queues", str(COUNT), "-t", "8001", "-u", "8001")


def link(guest):
    return json.loads(guest.output("ip", "-json", "-details", "link", "show", "dev", "eth0"))[0]


class Run(Case):
    options = OPTIONS

    def test_interface_has_them(self):
        found = link(self.guest)
        facts = found["linkinfo"]["info_data"]
        self.assertEqual((facts["multi_queue"], facts["numqueues"], facts["numdisabled"]), (True, COUNT, 0))
        self.assertIn("UP", found["flags"])

    def test_there_is_no_qdisc_for_each_of_256(self):
        self.assertEqual(link(self.guest)["qdisc"], "noqueue")

    @both
    def test_many_connections_from_the_guest(self, net):
        pairs = [self.pair(self.lab.remote, net.remote) for _ in range(50)]
        for near, far in pairs:
            self.assert_connected(near, far)

    @both
    def test_many_connections_to_the_guest(self, net):
        with self.guest.listen(net.any, 8001) as listener:
            for _ in range(50):
                client = self.closing(self.lab.remote.connect(net.host, 8001))
                served = self.closing(listener.accept()[0])
                served.settimeout(10)
                self.assert_connected(client, served)

    @both
    def test_streams_of_several_flows_at_once(self, net):
        size, pairs = 1_000_000, [self.pair(self.lab.remote, net.remote) for _ in range(8)]
        senders = [threading.Thread(target=near.sendall, args=(bytes([n]) * size,)) for n, (near, _) in enumerate(pairs)]
        for sender in senders:
            sender.start()
        for n, (_, far) in enumerate(pairs):
            self.assertEqual(read_exactly(far, size), bytes([n]) * size)
        for sender in senders:
            sender.join()

    @both
    def test_datagrams_of_many_flows(self, net):
        server = self.closing(self.lab.remote.bind(net.remote))
        clients = [self.closing(self.guest.socket(net.af, socket.SOCK_DGRAM)) for _ in range(50)]
        for turn in range(3):
            for n, client in enumerate(clients):
                client.sendto(b"%d in %d" % (n, turn), server.getsockname())
            for _ in clients:
                text, seen = server.recvfrom(100)
                server.sendto(text, seen)
            for n, client in enumerate(clients):
                self.assertEqual(client.recv(100), b"%d in %d" % (n, turn))

    @both
    def test_datagrams_to_the_guest(self, net):
        served = self.closing(self.guest.bind(net.any, 8001))
        for n in range(20):
            client = self.closing(self.lab.remote.socket(net.af, socket.SOCK_DGRAM))
            client.sendto(b"%d" % n, (net.host, 8001))
            text, peer = served.recvfrom(100)
            served.sendto(text, peer)
            self.assertEqual(client.recv(100), b"%d" % n)


class Attach(Run):
    def another_guest(self, *options):
        return self.lab.attached(*options)

    def test_nobody_else_gets_queues_of_it(self):
        status, text = self.lab.attach(str(self.guest.pid), "--queues", "2", check=False)
        self.assertEqual(status, 1, text)
        self.assertIn("another process uses the device of this name", text)
        self.assertEqual(link(self.guest)["linkinfo"]["info_data"]["numqueues"], COUNT)


class One(Case):
    options = ("--queues", "1")

    def test_there_is_one_queue(self):
        found = link(self.guest)
        self.assertFalse(found["linkinfo"]["info_data"]["multi_queue"])
        self.assertEqual(found["num_tx_queues"], 1)


class Existing(Case):
    """What an interface that was made before has is enough where nobody asks for a number."""

    def attached(self, *kind):
        guest = self.closing(self.lab.empty_guest())
        guest.output("ip", "tuntap", "add", "eth0", "mode", "tap", *kind)
        self.lab.attach(str(guest.pid), "--ns-ifname", "eth0")
        self.assert_connected(*self.pair(self.lab.remote, V4.remote, guest=guest))
        return link(guest)["linkinfo"]["info_data"]

    def test_with_one_queue(self):
        self.assertFalse(self.attached()["multi_queue"])

    def test_with_several(self):
        self.assertEqual(self.attached("multi_queue")["numqueues"], DEFAULT)


class Flooded(Case):
    options = ()

    def test_by_default_there_are_three_queues(self):
        facts = link(self.guest)["linkinfo"]["info_data"]
        self.assertEqual((facts["multi_queue"], facts["numqueues"]), (True, DEFAULT))
        self.assertEqual(len(os.listdir(f"/proc/{self.guest.translator()}/task")), 1)

    def test_a_transfer_out_stays_in_order(self):
        """A queue that TCP keeps full is no flood: were its frames led to and fro between queues, they would arrive in any
        order, and TCP would be slow."""
        # Probes of the tail, which are sent when we have not been scheduled for a while, are not counted in these.
        signs = ("TcpExtTCPFastRetrans", "TcpExtTCPSlowStartRetrans", "TcpExtTCPSACKReorder", "TcpExtTCPTSReorder")

        def read():
            lines = [line.split() for line in self.guest.output("nstat", "-asz", *signs).splitlines()]
            return {line[0]: int(line[1]) for line in lines if line[0].startswith("TcpExt")}
        before = read()
        near, far = self.pair(self.lab.remote, V4.remote)
        size = left = 200_000_000
        sender = threading.Thread(target=near.sendall, args=(bytes(size),))
        sender.start()
        while left:
            left -= len(far.recv(left))
        sender.join()
        counts = {name: count - before[name] for name, count in read().items()}
        self.assertEqual(len(counts), len(signs))
        self.assertLess(sum(counts.values()), 5, counts)

    @limit(60)
    def test_a_round_trip_does_not_come_by_the_queue_of_a_transfer(self):
        small, answering = self.pair(self.lab.remote, V4.remote)
        served = self.lab.service(self.lab.remote, "bulk-serve", "--listen", f"{V4.remote}:8010")
        self.addCleanup(served.stop)
        transfer = self.lab.popen(self.guest.argv([
            self.lab.tool, "bulk", "--connect", f"{V4.remote}:8010", "--count", "1", "--up", str(1 << 50), "--seconds", "20"]),
            stdout=subprocess.DEVNULL)
        self.addCleanup(self.lab.end, transfer)

        def begun():
            found = re.search(r"bytes_acked:(\d+)", self.guest.output("ss", "-tin", "dport", "=", ":8010"))
            return found and int(found[1]) > 10_000_000
        lab.wait_until(begun, 10, "the transfer")
        path = self.lab.file("reads")
        tracer = self.lab.popen(["strace", "-p", str(self.guest.translator()), "-qq", "-e", "trace=read", "-e", "signal=none",
                                   "-s", "0", "-o", path])
        try:
            end = time.monotonic() + 20
            while time.monotonic() < end and (not os.path.exists(path) or os.path.getsize(path) < 500_000):
                small.sendall(bytes(777))
                read_exactly(answering, 777)
                answering.sendall(b"answer")
                read_exactly(small, 6)
        finally:
            self.lab.end(tracer)
        with open(path, encoding="ascii") as lines:
            found = [re.fullmatch(r"read\((\d+), .* = (\d+)\n", line) for line in lines]
        # The first may be from before it was known to be a transfer.
        reads = [(int(read[1]), int(read[2])) for read in found[len(found) // 2:] if read]
        # What the kernel puts in front, Ethernet, IPv4, TCP with timestamps, and payload.
        trips = {queue for queue, size in reads if size == 10 + 14 + 20 + 32 + 777}
        windows = {queue for queue, size in reads if size > 30_000}
        self.assertEqual((len(trips), len(windows)), (1, 1), reads[:20])
        self.assertNotEqual(trips, windows)

    @limit(60)
    def test_a_flood_has_its_queue_to_itself(self):
        """Whichever queue the kernel chooses for it: what is answered is led elsewhere, and is not lost behind it."""
        near, far = self.pair(self.lab.remote, V4.remote)
        sink = self.lab.service(self.lab.remote, "udp-sink", "--listen", f"{V4.remote}:8009")
        self.addCleanup(sink.stop)
        for port in range(4000, 4010):
            flood = self.lab.popen(self.guest.argv([
                self.lab.tool, "udp-flood", "--connect", f"{V4.remote}:8009", "--from", str(port), "--size", "1400",
                "--seconds", "30"]), stdout=subprocess.DEVNULL)
            try:
                time.sleep(0.3)
                began, trips = time.monotonic(), 0
                while time.monotonic() < began + 2:
                    self.assert_connected(near, far)
                    trips += 1
            finally:
                self.lab.end(flood)
            # A loss costs a fifth of a second at least.
            self.assertGreater(trips, 25, f"from port {port}")
