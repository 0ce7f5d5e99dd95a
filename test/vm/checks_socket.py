"""The stream socket itself: frames, clients that come and go, what no client should send, and the program's life."""

import itertools
import os
import random
import signal
import socket
import struct
import time

import lab
import packets
import world
from client import MAC, Client, Connection, inbound
from packets import ACK, ARP, ICMP6, IPV4, IPV6, PSH
from support import both, read_exactly
from world import Case

JUNK = random.Random(7).randbytes(4096)
SO_SNDBUFFORCE = 32


class Frames(Case):
    def test_upstream_2025_09_first_frames_ask_for_the_guest(self):
        client = self.client()
        asked = client.expect("ARP request", lambda p: p.kind == ARP and p.operation == 1)
        self.assertEqual((asked.target, asked.to_mac), (lab.HOST4, packets.BROADCAST))
        asked = client.expect("neighbour solicitation", lambda p: p.protocol == ICMP6 and p.payload[0] == 135)
        self.assertEqual(asked.payload[8:24], packets.packed(lab.HOST6))
        self.assertNotEqual(asked.to_mac, bytes(6))

    def test_b166_frames_have_at_least_60_bytes(self):
        """Each kind that could be shorter: ARP, echo, TCP, UDP, router and neighbour advertisements."""
        client = self.client()
        client.assert_served()
        with self.lab.remote.listen(lab.REMOTE4) as listener, self.lab.remote.bind(lab.REMOTE4) as sink:
            Connection(client, lab.REMOTE4, listener.getsockname()[1]).open()
            with self.assertRaises(ConnectionRefusedError):
                Connection(client, lab.REMOTE4, 9).open()
            client.send_udp(lab.REMOTE4, sink.getsockname()[1], b"x")
            sink.sendto(b"y", sink.recvfrom(10)[1])
        client.expect("answer", lambda p: p.is_udp() and p.data == b"y")
        self.assertGreaterEqual(min(len(packet.frame) for packet in client.seen), 60)
        self.assertGreater(len(client.seen), 7)

    def test_frames_in_pieces(self):
        client = self.client()
        client.assert_served()
        frame = self.question(client, 5)
        for byte in struct.pack("!I", len(frame)) + frame:
            client.write(bytes([byte]))
            time.sleep(0.001)
        self.assert_answered(client, 5)

    def test_many_frames_at_once(self):
        """The last of them in two pieces."""
        client = self.client()
        client.assert_served()
        frames = [self.question(client, number) for number in range(100)]
        data = b"".join(struct.pack("!I", len(frame)) + frame for frame in frames)
        client.write(data[:-30])
        self.assert_answered(client, 98)
        client.write(data[-30:])
        self.assert_answered(client, 99)

    def question(self, client, sequence):
        packet = packets.ip(lab.HOST4, lab.GATEWAY4, packets.ICMP, packets.echo(4, 77, sequence))
        return packets.ethernet(client.resolve(4), MAC, IPV4, packet)

    def assert_answered(self, client, sequence):
        client.expect(f"answer {sequence}", lambda p: p.protocol == packets.ICMP and p.payload[0] == 0
                      and p.payload[6:8] == sequence.to_bytes(2, "big"))

    def test_longest_frame(self):
        client = self.client()
        data = bytes(range(256)) * 256
        with self.lab.remote.bind(lab.REMOTE4) as sink:
            # 65535 bytes with the headers of Ethernet, IPv4 and UDP.
            client.send_udp(lab.REMOTE4, sink.getsockname()[1], data[:65535 - 42])
            self.assertEqual(sink.recv(1 << 17), data[:65535 - 42])

    def test_frames_that_nobody_knows(self):
        client = self.client()
        client.assert_served()
        for kind in (0x8100, 0x88CC, 0x0026, 0x22F0, 0):
            client.send(packets.ethernet(client.resolve(4), MAC, kind, JUNK[:100]))
        for kind in (ARP, IPV4, IPV6):
            for length in (0, 1, 19, 20, 28, 39, 40):
                client.send(packets.ethernet(client.resolve(4), MAC, kind, JUNK[:length]))
        client.assert_served()

    def test_random_packets(self):
        """Plausible headers, and anything behind them."""
        client = self.client()
        client.assert_served()
        chance = random.Random(11)
        for _ in range(3000):
            kind, start = chance.choice(((IPV4, b"\x45"), (IPV6, b"\x60"), (ARP, b"\0\1\x08\0\6\4")))
            body = bytearray(start + chance.randbytes(chance.randrange(20, 120)))
            if kind == IPV4:
                body[2:4] = len(body).to_bytes(2, "big")
                body[9] = chance.choice((1, 6, 17, 2, 50))
            elif kind == IPV6:
                body[4:6] = (len(body) - 40 if len(body) > 40 else 0).to_bytes(2, "big")
                body[6] = chance.choice((6, 17, 58, 0, 43, 44, 60))
            client.send(packets.ethernet(client.resolve(4), MAC, kind, bytes(body)))
        # What was sent claimed to come from anywhere; what follows says who we are.
        client.assert_served()
        client.assert_served()


class Clients(Case):
    options = ("-t", "8001", "-u", "8001")

    def test_one_after_another(self):
        server = self.server()
        for _ in range(5):
            with server.client() as client:
                client.assert_served()

    def test_second_one_is_turned_away(self):
        server = self.server()
        first = self.closing(server.client())
        first.assert_served()
        with server.client() as second:
            self.assertTrue(second.closed_within(2))
        first.assert_served()
        first.close()
        with server.client() as third:
            third.assert_served()

    @both
    def test_flows_go_on_with_the_next_one(self, net):
        """A new client that has the addresses of the last one continues its connections."""
        server = self.server()
        with self.lab.remote.listen(net.remote) as listener, self.lab.remote.bind(net.remote) as sink:
            with server.client() as client:
                stream = Connection(client, net.remote, listener.getsockname()[1]).open()
                far = self.closing(listener.accept()[0])
                client.send_udp(net.remote, sink.getsockname()[1], b"question")
                asker = sink.recvfrom(100)[1]
                stream.send(b"first")
            far.settimeout(5)
            self.assertEqual(far.recv(100), b"first")
            far.sendall(b"while nobody was there")
            time.sleep(0.2)
            stream.client = client = self.closing(server.client())
            client.assert_served()
            self.assertEqual(stream.read(22, seconds=10), b"while nobody was there")
            stream.send(b"second")
            self.assertEqual(far.recv(100), b"second")
            sink.sendto(b"answer", asker)
            client.expect("answer", lambda p: p.is_udp() and p.data == b"answer")

    @both
    def test_host_connects_while_there_is_none(self, net):
        """The next client is served, whatever becomes of the connection."""
        server = self.server(*self.options)
        with self.lab.host.connect(net.loopback, 8001) as stream:
            stream.sendall(b"is anybody there?")
            time.sleep(0.2)
            with server.client() as client:
                client.assert_served()

    @both
    def test_b185_datagrams_while_there_is_none(self, net):
        server = self.server(*self.options)
        with self.lab.host.socket(net.af, socket.SOCK_DGRAM) as sender:
            for _ in range(20):
                sender.sendto(b"is anybody there?", (net.loopback, 8001))
            self.assert_idle(server)
            with server.client() as client:
                client.assert_served()
                sender.sendto(b"now", (net.loopback, 8001))
                client.expect("datagram", lambda p: p.is_udp(target_port=8001) and p.data == b"now")

    def test_reader_that_stops_for_a_while(self):
        """Frames are whole afterwards, and the connection delivers everything."""
        client = self.client()
        data = bytes(range(256)) * 8192
        with self.lab.remote.listen(lab.REMOTE4) as listener:
            stream = Connection(client, lab.REMOTE4, listener.getsockname()[1]).open()
            far = self.closing(listener.accept()[0])
        far.setblocking(False)
        sent = far.send(data)
        time.sleep(1.5)
        far.settimeout(20)
        received = stream.read(sent, seconds=20)
        self.assertEqual(received, data[:sent])
        client.assert_served()

    def test_one_that_does_not_read(self):
        """As QEMU before its guest has started: what comes for it meanwhile is not worth any processor time."""
        server = self.server(*self.options)
        client = self.closing(server.client())
        client.assert_served()
        before = self.memory(server)
        self.flood()
        self.assertLess(self.memory(server) - before, 32 << 20)
        self.assert_idle(server)
        while client.receive(0.3):
            pass
        client.assert_served()

    def test_sigterm_with_one_that_does_not_read(self):
        server = self.server(*self.options)
        client = self.closing(server.client())
        client.assert_served()
        self.flood()
        server.process.terminate()
        self.assertEqual(server.ended(2), 0)

    def test_what_one_did_not_read_is_not_for_the_next(self):
        """Nor is the rest of a frame of which it got a part."""
        server = self.server(*self.options)
        with server.client() as client:
            client.assert_served()
            self.flood()
        with server.client() as client:
            client.assert_served()

    def test_one_that_reads_in_small_pieces(self):
        """Every frame is whole, with what belongs into it, while the program never gets rid of all it has."""
        server = self.server(*self.options)
        client = self.closing(server.client())
        client.assert_served()
        client.piece = 700
        with self.lab.host.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            sender.connect(("127.0.0.1", 8001))
            came = set()
            for number in range(3000):
                sender.send(b"%07d " % number * (1 + number % 170))
                packet = client.receive(0.001) if number % 4 == 0 else None
                if packet and packet.is_udp(target_port=8001):
                    data = packet.data
                    self.assertEqual(data, data[:8] * (1 + int(data[:8]) % 170))
                    came.add(int(data[:8]))
        self.note(f"{len(came)} of 3000 datagrams")
        self.assertGreater(len(came), 100)
        while client.receive(0.3):
            pass
        client.assert_served()

    def memory(self, server):
        """Resident bytes."""
        with open(f"/proc/{server.process.pid}/statm", encoding="ascii") as file:
            return int(file.read().split()[1]) * 4096

    def assert_idle(self, server):
        before = lab.cpu_seconds(server.process.pid)
        time.sleep(0.5)
        self.assertLess(lab.cpu_seconds(server.process.pid) - before, 0.1)

    def flood(self):
        """More than a socket holds."""
        self.lab.traffic(self.lab.host, "udp-flood", "--connect", "127.0.0.1:8001", "--size", 1400, "--seconds", 0.5)

    def test_one_that_goes_while_much_is_sent(self):
        server = self.server()
        client = server.client()
        with self.lab.remote.listen(lab.REMOTE4) as listener:
            stream = Connection(client, lab.REMOTE4, listener.getsockname()[1]).open()
            far = self.closing(listener.accept()[0])
        far.setblocking(False)
        far.send(bytes(1 << 20))
        stream.read(1000)
        client.close()
        with server.client() as client:
            client.assert_served()

    def test_one_that_writes_much_and_closes_at_once(self):
        """All of it counts, though the first answers find nobody there. Each connection keeps to its window."""
        server = self.server()
        client = self.closing(server.client())
        with self.lab.remote.listen(lab.REMOTE4) as listener:
            streams = [Connection(client, lab.REMOTE4, listener.getsockname()[1]).open() for _ in range(25)]
            served = [self.closing(listener.accept()[0]) for _ in streams]
        client.connection.setsockopt(socket.SOL_SOCKET, SO_SNDBUFFORCE, 4 << 20)
        client.connection.settimeout(5)
        pieces = [b"%06d " % number * 200 for number in range(23)]
        # It is all there, and the client gone, before the program sees any of it.
        server.process.send_signal(signal.SIGSTOP)
        try:
            with client.at_once():
                for stream, piece in itertools.product(streams, pieces):
                    stream.transmit(ACK | PSH, piece)
            client.close()
        finally:
            server.process.send_signal(signal.SIGCONT)
        for far in served:
            far.settimeout(5)
            self.assertEqual(read_exactly(far, 23 * 1400), b"".join(pieces))


class Malformed(Case):
    """A good client, one that sends nonsense, and a good one again."""

    def after(self, data, closed=None):
        server = self.server()
        with server.client() as good:
            good.assert_served()
        with server.client() as bad:
            bad.assert_served()
            bad.write(data)
            if closed:
                self.assertTrue(bad.closed_within(3), "the connection is still open")
            else:
                time.sleep(0.2)
        with server.client() as good:
            good.assert_served()

    def test_length_0(self):
        self.after(struct.pack("!I", 0), closed=True)

    def test_length_13(self):
        self.after(struct.pack("!I", 13) + bytes(13), closed=True)

    def test_length_65590(self):
        """The longest packet, one of IPv6, and its header of Ethernet have 65589."""
        self.after(struct.pack("!I", 65590) + bytes(100), closed=True)

    def test_length_ffffffff(self):
        self.after(b"\xff" * 4, closed=True)

    def test_garbage(self):
        self.after(b"\xff" + JUNK, closed=True)

    def test_d7_half_a_frame(self):
        self.after(struct.pack("!I", 100) + bytes(50))

    def test_d7_half_a_header(self):
        self.after(b"\0\0")

    def test_d7_d30_most_of_a_long_frame(self):
        """Whoever keeps it needs several further clients to complete it."""
        self.after(struct.pack("!I", 65000) + bytes(60_000))


class Life(Case):
    def test_one_off_ends_with_its_client(self):
        server = self.server("--one-off")
        with server.client() as client:
            client.assert_served()
        self.assertEqual(server.ended(), 0)

    def test_without_one_off_it_stays(self):
        server = self.server()
        with server.client() as client:
            client.assert_served()
        time.sleep(0.5)
        self.assertTrue(server.alive())

    def test_sigterm_with_a_client(self):
        server = self.server()
        with server.client() as client:
            client.assert_served()
            server.process.terminate()
            self.assertEqual(server.ended(), 0)
            self.assertTrue(client.closed_within(1))

    def test_d30_descriptor_instead_of_a_path(self):
        ours, its = socket.socketpair()
        with its:
            server = self.server(connection=its)
        with Client(connection=ours) as client:
            client.assert_served()
            asked = [packet for packet in client.seen if packet.protocol == ICMP6 and packet.payload[0] == 135]
            self.assertNotIn(bytes(6), [packet.to_mac for packet in client.seen])
            self.assertTrue(asked, "no neighbour solicitation")
        self.assertEqual(server.ended(), 0)

    def test_connects_to_where_the_machine_waits(self):
        path = world.socket_path(self.lab)
        with socket.socket(socket.AF_UNIX) as waiting:
            waiting.bind(path)
            os.chmod(path, 0o777)
            waiting.listen()
            server = self.server(at=path)
            with Client(connection=waiting.accept()[0]) as client:
                client.assert_served()
        self.assertEqual(server.ended(), 0)

    def test_nobody_waits_there(self):
        path = world.socket_path(self.lab)
        done = self.lab.call(self.lab.as_user(self.lab.program.vm(["-f", "--connect", path])), check=False)
        self.assertEqual(done.returncode, 1)
        self.assertIn(f"cannot connect to the virtual machine's socket '{path}'", done.stderr)

    def test_start_is_silent_if_told_to_be_quiet(self):
        server = self.server("--quiet")
        with server.client() as client:
            client.assert_served()
        self.assertEqual(server.said(), "")

    def test_says_where_it_listens(self):
        server = self.server()
        self.assertIn(f"UNIX domain socket bound at {server.path}\n", server.said())

    def test_libguestfs218_started_as_root(self):
        """It goes on as an ordinary user, and has made all files before."""
        server = self.server("--log-file", self.lab.file("log"), as_root=True)
        with open(f"/proc/{server.process.pid}/status", encoding="ascii") as file:
            ids = next(line.split()[1:] for line in file if line.startswith("Uid:"))
        self.assertEqual(ids, [str(lab.USER)] * 4)
        with server.client() as client:
            client.assert_served()

    def test_stale_path_is_replaced(self):
        path = world.socket_path(self.lab)
        with socket.socket(socket.AF_UNIX) as stale:
            stale.bind(path)
            os.chown(path, lab.USER, lab.USER)
        server = self.server(path=path)
        with server.client() as client:
            client.assert_served()

    def test_path_in_use(self):
        server = self.server()
        client = self.closing(server.client())
        argv = self.lab.as_user(self.lab.program.vm(["-f", "--socket", server.path]))
        done = self.lab.call(argv, check=False)
        self.assertEqual(done.returncode, 1)
        self.assertIn(server.path, done.stderr)
        client.assert_served()

    def test_looking_whether_a_path_is_in_use_is_no_client(self):
        """An instance that waits for its one client goes on waiting for it while others want its path."""
        server = self.server("--one-off")
        for options in ((), ("--one-off",), ("--check",)):
            argv = self.lab.as_user(self.lab.program.vm(["-f", *options, "--socket", server.path]))
            done = self.lab.call(argv, check=False)
            self.assertEqual(done.returncode, 1)
            self.assertIn(server.path, done.stderr)
            time.sleep(0.2)
            self.assertTrue(server.alive(), f"ended by another one with {options}")
        with server.client() as client:
            client.assert_served()
        self.assertEqual(server.ended(), 0)

    def test_path_that_cannot_be_made(self):
        argv = self.lab.as_user(self.lab.program.vm(["-f", "--socket", "/proc/nowhere/socket"]))
        done = self.lab.call(argv, check=False)
        self.assertEqual(done.returncode, 1)
        self.assertIn("No such file", done.stderr)

    def test_in_the_background(self):
        """As libvirt calls it: the end of the first process says that all is ready."""
        path, pid = world.socket_path(self.lab), self.lab.file("pid")
        argv = self.lab.program.vm(["--one-off", "--socket", path, "--pid", pid, "-t", "8001"])
        self.lab.call(self.lab.as_user(argv), timeout=5)
        with open(pid, encoding="ascii") as file:
            number = file.read()
        self.assertRegex(number, r"^\d+\n$")
        self.assertIn(int(number), self.lab.translators())
        with Client(path) as client:
            client.assert_served()
            with self.lab.host.connect("127.0.0.1", 8001):
                inbound(client, 8001)
        lab.wait_until(lambda: int(number) not in self.lab.translators(), 5, "the program's end")
