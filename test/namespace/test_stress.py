"""Too much of everything: what works goes on working."""

import contextlib
import random
import socket
import struct
import time

import lab
from lab.packets import echo, first_fragment, ipv4, tcp_syn
from support import V4, Case, both, limit, read_exactly


class Floods(Case):
    """Each in a guest of its own: what one leaves behind is not another's fault."""

    options = ()

    def setUp(self):
        self.addCleanup(self.tearDownClass)
        self.near, self.far = self.pair(self.lab.remote, lab.REMOTE4)
        self.assert_connected(self.near, self.far)

    def assert_alive(self):
        """The connection from before the flood, and new flows of each kind."""
        self.assert_connected(self.near, self.far)
        self.assert_connected(*self.pair(self.lab.remote, lab.REMOTE4))
        with self.lab.remote.bind(lab.REMOTE4) as server:
            client = self.closing(self.guest.socket(socket.AF_INET, socket.SOCK_DGRAM))
            client.sendto(b"question", server.getsockname())
            self.assertEqual(server.recv(100), b"question")
        self.assertIn("1 received", self.guest.run("ping", "-c1", "-W2", lab.REMOTE4, check=False).stdout)

    def packets(self):
        """A packet socket on the guest's interface, and the Ethernet header towards the gateway."""
        raw = self.closing(self.guest.socket(socket.AF_PACKET, socket.SOCK_RAW))
        raw.bind(("eth0", 0x0800))
        self.guest.run("ping", "-c1", "-W2", lab.GATEWAY4)
        words = self.guest.output("ip", "neigh", "show", lab.GATEWAY4).split()
        gateway = bytes.fromhex(words[words.index("lladdr") + 1].replace(":", ""))
        return raw, gateway + raw.getsockname()[4] + b"\x08\x00"

    def send(self, raw, frame):
        try:
            raw.send(frame)
        except OSError:
            time.sleep(0.001)

    def test_syns(self):
        raw, ethernet = self.packets()
        for nth in range(20_000):
            port = 1024 + nth % 60_000
            self.send(raw, ethernet + ipv4(lab.HOST4, lab.REMOTE4, 6, tcp_syn(port, 81 + nth // 60_000)))
        self.assert_alive()

    def test_syns_to_a_dead_network(self):
        """None of them is ever answered: the flow table has to give up some of them."""
        raw, ethernet = self.packets()
        for nth in range(20_000):
            target = f"192.0.2.{100 + nth % 100}"
            self.send(raw, ethernet + ipv4(lab.HOST4, target, 6, tcp_syn(1024 + nth // 100, 80)))
        self.assert_alive()

    def test_p25959_udp_to_new_ports(self):
        self.lab.traffic(self.guest, "udp-flood", "--connect", f"{lab.REMOTE4}:10000", "--ports", 50_000,
                         "--seconds", 3, "--rate", 20_000)
        self.assert_alive()

    def test_echo_with_new_identifiers(self):
        raw, ethernet = self.packets()
        for nth in range(20_000):
            self.send(raw, ethernet + ipv4(lab.HOST4, lab.REMOTE4, 1, echo(nth % 65536)))
        self.assert_alive()

    def test_random_frames(self):
        raw, ethernet = self.packets()
        chance = random.Random(7)
        for _ in range(10_000):
            self.send(raw, ethernet + chance.randbytes(chance.randrange(0, 200)))
        self.assert_alive()

    def test_truncated_and_corrupted_packets(self):
        raw, ethernet = self.packets()
        chance = random.Random(8)
        good = [ipv4(lab.HOST4, lab.REMOTE4, 6, tcp_syn(5555, 80)), ipv4(lab.HOST4, lab.REMOTE4, 1, echo(7)),
                ipv4(lab.HOST4, lab.GATEWAY4, 17, struct.pack("!HHHH", 68, 67, 308, 0) + b"\1\1\6\0" + bytes(296))]
        for _ in range(10_000):
            packet = bytearray(chance.choice(good))
            for _ in range(chance.randrange(1, 4)):
                packet[chance.randrange(len(packet))] = chance.randrange(256)
            self.send(raw, ethernet + bytes(packet[:chance.randrange(1, len(packet) + 1)]))
        self.assert_alive()

    def test_spoofed_sources(self):
        raw, ethernet = self.packets()
        for nth in range(5000):
            self.send(raw, ethernet + ipv4(f"10.{nth % 250}.{nth // 250}.1", lab.REMOTE4, 6, tcp_syn(2000, 80)))
        self.assert_alive()

    def test_fragments_that_never_complete(self):
        self.send_fragments()
        self.assert_alive()

    def send_fragments(self):
        raw, ethernet = self.packets()
        for nth in range(20_000):
            payload = struct.pack("!HHHH", 9, 9, 2000, 0) + bytes(1400)
            self.send(raw, ethernet + first_fragment(lab.HOST4, lab.REMOTE4, nth % 65536, payload))

    def test_memory_stays_bounded(self):
        self.send_fragments()
        self.lab.traffic(self.guest, "udp-flood", "--connect", f"{lab.REMOTE4}:10000", "--ports", 50_000,
                         "--seconds", 3, "--rate", 20_000)
        with open(f"/proc/{self.guest.translator()}/status", encoding="ascii") as file:
            resident = [int(line.split()[1]) for line in file if line.startswith("VmRSS")][0]
        self.assertLess(resident, 200 * 1024)


class Unread(Case):
    options = ()

    @limit(240)
    def test_what_nobody_reads_is_bounded(self):
        """Each window that was offered may be used at once: what is held must have an end of its own."""
        spaces = (self.lab.host, self.lab.remote)
        for name in ("net.ipv4.tcp_wmem", "net.ipv4.tcp_rmem"):
            for space in spaces:
                self.addCleanup(space.sysctl, name, space.setting(name))
                # Little of it is in kernels then, and much is held.
                space.sysctl(name, "4096 16384 65536")
        listener = self.closing(self.lab.remote.listen(lab.REMOTE4, backlog=2000))
        streams = [self.closing(self.guest.connect(*listener.getsockname())) for _ in range(600)]
        data, sent, began = bytes(1 << 20), [0] * len(streams), time.monotonic()
        for stream in streams:
            stream.setblocking(False)
        for _ in range(5):
            for nth, stream in enumerate(streams):
                with contextlib.suppress(BlockingIOError):
                    sent[nth] += stream.send(data)
            time.sleep(0.1)
        with open(f"/proc/{self.guest.translator()}/status", encoding="ascii") as file:
            resident = [int(line.split()[1]) for line in file if line.startswith("VmHWM")][0]
        self.assertLess(resident, 170 * 1024)
        # Who reads gets more, although the others still do not: what was dropped is sent again. The guest's kernel has
        # waited twice as long before each attempt, so at most as long again as nobody read.
        served = [self.closing(listener.accept()[0]) for _ in streams]
        for nth in (0, -1):
            served[nth].settimeout(2 * (time.monotonic() - began) + 10)
            wanted = min(sent[nth], 250_000)
            self.assertEqual(len(read_exactly(served[nth], wanted)), wanted)
        self.assert_connected(*self.pair(self.lab.remote, lab.REMOTE4))


class Descriptors(Case):
    """The program has few descriptors: new flows are refused, old ones live, and it recovers."""

    @both
    def test_d28_exhaustion(self, net):
        guest = self.lab.guest(program=Limited(self.lab.program))
        self.addCleanup(guest.close)
        with self.lab.remote.listen(net.remote, backlog=200) as listener:
            pairs, refused = [], 0
            for _ in range(100):
                try:
                    near = guest.connect(net.remote, listener.getsockname()[1], timeout=2)
                except OSError:
                    refused += 1
                    if refused == 3:
                        break
                    continue
                pairs.append((near, listener.accept()[0]))
            self.assertGreater(len(pairs), 10)
            self.assertEqual(refused, 3)
            for near, far in pairs:
                self.assert_connected(near, far)
            for near, far in pairs[:10]:
                near.close()
                far.close()
            time.sleep(1)
            again = guest.connect(net.remote, listener.getsockname()[1], timeout=3)
            far = listener.accept()[0]
            self.assert_connected(again, far)
            for stream in [again, far, *(s for pair in pairs for s in pair)]:
                stream.close()
        self.assertIsNone(guest.process.poll())


class Limited:
    """A program with few descriptors."""

    def __init__(self, program, descriptors=64):
        self.program, self.kind, self.path, self.descriptors = program, program.kind, program.path, descriptors

    def run(self, options, command):
        return ["prlimit", f"--nofile={self.descriptors}:{self.descriptors}", "--",
                *self.program.run(options, command)]


class Many(Case):
    options = ("-t", "8070", "-u", "8070")

    @both
    def test_a_thousand_transfers_out(self, net):
        bracket = "[%s]" if net.af == socket.AF_INET6 else "%s"
        with self.lab.service(self.lab.remote, "bulk-serve", "--listen", f"{bracket % net.remote}:8071"):
            done = self.lab.traffic(self.guest, "bulk", "--connect", f"{bracket % net.remote}:8071", "--up", 100_000,
                                    "--seconds", 20)
        self.assertEqual((done["complete"], done["failed"]), (1000, 0))

    @both
    def test_a_thousand_downloads(self, net):
        bracket = "[%s]" if net.af == socket.AF_INET6 else "%s"
        with self.lab.service(self.lab.remote, "bulk-serve", "--listen", f"{bracket % net.remote}:8071"):
            done = self.lab.traffic(self.guest, "bulk", "--connect", f"{bracket % net.remote}:8071", "--down", 100_000,
                                    "--seconds", 20)
        self.assertEqual((done["complete"], done["failed"]), (1000, 0))

    def test_a_thousand_idle_connections_stay_alive(self):
        with self.lab.service(self.lab.remote, "echo", "--listen", f"{lab.REMOTE4}:8072"):
            with self.lab.service(self.guest, "hold", "--connect", f"{lab.REMOTE4}:8072", "--count", 1000) as held:
                self.assertEqual(held.first["alive"], 1000)
                time.sleep(2)
                self.assertEqual(held.stop()["alive"], 1000)

    @limit(60)
    def test_ten_thousand_short_connections(self):
        with self.lab.service(self.lab.remote, "echo", "--listen", f"{lab.REMOTE4}:8073"):
            done = self.lab.traffic(self.guest, "tcp-crr", "--connect", f"{V4.remote}:8073", "--count", 10_000,
                                    "--parallel", 32)
        self.assertEqual((done["count"], done["failed"]), (10_000, 0))
