"""The relay that plays a virtual machine, against itself: two guests with a socket pair between their relays. The kernels
of both verify what comes: a frame that was cut, summed or joined in the wrong way is lost, and sent again."""

import socket
import struct

import lab
from support import Case

NEAR, FAR = ("10.1.0.1", "fd00:1::1"), ("10.1.0.2", "fd00:1::2")
KINDS = {"stream": socket.SOCK_STREAM, "dgram": socket.SOCK_DGRAM, "seqpacket": socket.SOCK_SEQPACKET}


class Relays(Case):
    def setUp(self):
        self.guests, self.cables = [], []

    def connect(self, kind, mtu, *options):
        """Two guests, each with its relay's options."""
        for end, own, addresses in zip(socket.socketpair(socket.AF_UNIX, KINDS[kind]), options, (NEAR, FAR)):
            with end:
                self.plug(end, mtu, addresses, own)

    def plug(self, end, mtu, addresses, options=()):
        guest = self.closing(self.lab.empty_guest())
        cable = self.lab.plug(f"{guest.path}:eth0", "--fd", end.fileno(), *options, pass_fds=[end.fileno()])
        self.addCleanup(cable.stop)
        guest.run(f"ip link set lo up; ip link set eth0 mtu {mtu} txqueuelen {lab.QUEUE} up;"
                  f"ip addr add {addresses[0]}/24 dev eth0; ip addr add {addresses[1]}/64 dev eth0 nodad")
        self.guests.append(guest)
        self.cables.append(cable)


class Pair(Relays):
    def assert_carries(self, megabytes=100):
        """Both ways at the same time, over IPv4 and IPv6. Returns what the relays counted."""
        size = megabytes * 1_000_000
        for address in (FAR[0], f"[{FAR[1]}]"):
            with self.lab.service(self.guests[1], "stream", "--listen", f"{address}:5000", "--send", size) as server:
                client = self.lab.traffic(self.guests[0], "stream", "--connect", f"{address}:5000", "--send", size,
                                          "--seed", 2)["streams"][0]
                served = server.result()["streams"][0]
            self.assertEqual((client["received"], served["received"]), (size, size))
            self.assertEqual((client["received_hash"], served["received_hash"]),
                             (served["sent_hash"], client["sent_hash"]))
        for guest in self.guests:
            names, values = [line.split() for line in guest.output("grep ^Tcp: /proc/net/snmp").splitlines()]
            counted = dict(zip(names, values))
            self.assertEqual(counted["InCsumErrors"], "0")
            # On a busy machine an acknowledgement may be late.
            self.assertLess(int(counted["RetransSegs"]), 10)
        return [cable.stop() for cable in self.cables]

    def test_stream(self):
        self.connect("stream", 1500, (), ())
        near, far = self.assert_carries()
        self.assertEqual(near["to_program"]["frames"], far["from_program"]["frames"])
        self.assertGreater(near["to_program"]["frames"], 10 * near["to_program"]["writes"])

    def test_stream_of_large_frames(self):
        self.connect("stream", 65520, (), ())
        self.assert_carries()

    def test_dgram(self):
        self.connect("dgram", 1500, (), ())
        self.assert_carries()

    def test_dgram_of_large_frames(self):
        self.connect("dgram", 65520, (), ())
        self.assert_carries()

    def test_seqpacket(self):
        self.connect("seqpacket", 1500, (), ())
        self.assert_carries()

    def test_seqpacket_of_large_frames(self):
        self.connect("seqpacket", 65520, (), ())
        self.assert_carries()

    def assert_cuts(self, kind):
        """The guest of one side sends super-frames, the other's kernel verifies what became of them."""
        self.connect(kind, 1500, ("--offload",), ())
        near, _ = self.assert_carries()
        self.assertGreater(near["to_program"]["frames"], 20 * near["to_program"]["cut"])

    def test_cut_frames_on_a_stream(self):
        self.assert_cuts("stream")

    def test_cut_frames_on_a_dgram_pair(self):
        self.assert_cuts("dgram")

    def test_cut_frames_on_a_seqpacket_pair(self):
        self.assert_cuts("seqpacket")

    def test_joined_segments_are_what_was_cut(self):
        self.connect("stream", 1500, ("--offload",), ("--offload",))
        near, _ = self.assert_carries()
        self.assertGreater(near["from_program"]["frames"], 5 * near["from_program"]["writes"])

    def test_odd_mtu(self):
        self.connect("stream", 1281, ("--offload",), ("--offload",))
        self.assert_carries(20)

    def test_large_mtu(self):
        self.connect("stream", 9000, ("--offload",), ("--offload",))
        self.assert_carries(20)

    def test_many_flows(self):
        self.connect("stream", 1500, ("--offload",), ("--offload",))
        with self.lab.service(self.guests[1], "bulk-serve", "--listen", f"{FAR[0]}:5001"):
            done = self.lab.traffic(self.guests[0], "bulk", "--connect", f"{FAR[0]}:5001", "--count", 200, "--up", 50_000,
                                    "--down", 50_000)
        self.assertEqual((done["complete"], done["failed"]), (200, 0))


class Framing(Relays):
    """The other end is the test."""

    def setUp(self):
        super().setUp()
        self.end, theirs = socket.socketpair()
        self.closing(self.end).settimeout(5)
        with theirs:
            self.plug(theirs, 1500, NEAR)
        self.guests[0].sysctl("net.ipv6.conf.eth0.disable_ipv6", 1)

    def datagram(self, nth):
        """A broadcast datagram for port 5002, as a frame."""
        data = struct.pack("!HHHHI", 1, 5002, 12, 0, nth)
        packet = bytearray(struct.pack("!BBHHHBBH4s4s", 0x45, 0, 20 + len(data), 0, 0, 64, 17, 0,
                                       socket.inet_aton(FAR[0]), socket.inet_aton(NEAR[0])))
        total = sum(struct.unpack("!10H", packet))
        packet[10:12] = struct.pack("!H", ~(total % 0xffff) & 0xffff)
        frame = b"\xff" * 6 + b"\2\0\0\0\0\1\x08\0" + bytes(packet) + data
        return struct.pack("!I", len(frame)) + frame

    def test_frames_in_pieces_of_any_size(self):
        server = self.closing(self.guests[0].bind(NEAR[0], 5002))
        stream = b"".join(map(self.datagram, range(40)))
        for size in (1, 3, 50, 1000, len(stream)):
            for at in range(0, len(stream), size):
                self.end.sendall(stream[at:at + size])
            self.assertEqual([struct.unpack("!I", server.recv(100))[0] for _ in range(40)], list(range(40)))

    def test_lengths_that_no_frame_has(self):
        self.end.sendall(struct.pack("!I", 13) + bytes(13))
        self.assertEqual(self.cables[0].process.wait(5), 1)

    def test_other_end_closes(self):
        self.end.close()
        self.assertTrue(self.cables[0].result(5)["closed"])

    def test_full_socket_loses_nothing(self):
        """Nobody reads: the relay stops to read the tap. Then all of it comes, in order."""
        self.guests[0].run(f"ip neigh add {FAR[0]} lladdr 02:00:00:00:00:01 dev eth0")
        client = self.closing(self.guests[0].socket(socket.AF_INET, socket.SOCK_DGRAM))
        for nth in range(3000):
            client.sendto(struct.pack("!I", nth) + bytes(1000), (FAR[0], 5003))
        received, stream = [], self.end.makefile("rb")
        while len(received) < 3000:
            frame = stream.read(*struct.unpack("!I", stream.read(4)))
            if frame[12:14] == b"\x08\0" and frame[36:38] == struct.pack("!H", 5003):
                received += struct.unpack("!I", frame[42:46])
        self.assertEqual(received, list(range(3000)))
        counted = self.cables[0].stop()
        self.assertGreater(counted["to_program"]["waits"], 0)
        self.assertLess(counted["wakeups"], 1000)
