"""A guest behind a socket, as a virtual machine is; `lab plug` stands for the machine. What is true of every link is in
test_vm_traffic.py."""

import contextlib
import os
import signal
import socket
import struct
import threading
import time

import lab
from support import V4, V6, Case, VmCase, both, limit, read_exactly

GIGABYTE = 1_000_000_000
PORTS = ("-t", "8080-8083", "-u", "8080-8083")


class Streams(VmCase):
    """Seeded streams with a hash, one at a time: to the host through the gateway address, or to a forwarded port."""

    def transfer(self, net, up, down, inbound=False, streams=1, guest=None):
        """`up` bytes from the guest and `down` bytes to it, at the same time. Returns the seconds it took."""
        guest = guest or self.guest
        outside = ("--send", down, "--seed", 100, "-P", streams, "--seconds", 50)
        inside = ("--send", up, "--seed", 200, "-P", streams, "--seconds", 50)
        if inbound:
            listen, connect, at = (guest, *inside), (self.lab.host, *outside), (net.any, net.host, 8083)
        else:
            listen, connect, at = (self.lab.host, *outside), (guest, *inside), (net.loopback, net.gateway, 5999)
        with self.lab.service(listen[0], "stream", "--listen", f"{bracket(at[0])}:{at[2]}", *listen[1:]) as server:
            client = self.lab.traffic(connect[0], "stream", "--connect", f"{bracket(at[1])}:{at[2]}", *connect[1:])
            served = server.result()
        sent = (down, up) if inbound else (up, down)
        self.assertEqual({s["sent"] for s in client["streams"]}, {sent[0]})
        self.assertEqual({s["sent"] for s in served["streams"]}, {sent[1]})
        for sender, receiver in ((client, served), (served, client)):
            self.assertEqual(sorted(s["sent_hash"] for s in sender["streams"]),
                             sorted(s["received_hash"] for s in receiver["streams"]))
        return client["seconds"]


class Many(VmCase):
    options = PORTS

    @both
    def test_200_connections_out_at_once(self, net):
        with self.lab.service(self.lab.remote, "bulk-serve", "--listen", f"{bracket(net.remote)}:5001"):
            done = self.lab.traffic(self.guest, "bulk", "--connect", f"{bracket(net.remote)}:5001", "--count", 200,
                                    "--up", 50_000, "--down", 50_000, "--seconds", 15)
        self.assertEqual(done["complete"], 200, done)

    @both
    def test_200_connections_in_at_once(self, net):
        with self.lab.service(self.guest, "bulk-serve", "--listen", f"{bracket(net.any)}:8083"):
            done = self.lab.traffic(self.lab.remote, "bulk", "--connect", f"{bracket(net.host)}:8083", "--count", 200,
                                    "--up", 50_000, "--down", 50_000, "--seconds", 15)
        self.assertEqual(done["complete"], 200, done)


class Large(Streams):
    options = (*PORTS, "-m", "65520")

    @both
    @limit(60)
    def test_gigabyte_out(self, net):
        self.transfer(net, GIGABYTE, 0)

    @both
    @limit(60)
    def test_gigabyte_in(self, net):
        self.transfer(net, 0, GIGABYTE)

    @limit(60)
    def test_gigabyte_to_a_forwarded_port(self):
        self.transfer(V4, 0, GIGABYTE, inbound=True)

    @both
    @limit(60)
    def test_both_ways_at_the_same_time(self, net):
        self.transfer(net, 200_000_000, 200_000_000)

    @limit(60)
    def test_eight_streams_both_ways(self):
        self.transfer(V4, 20_000_000, 20_000_000, streams=8)

    @limit(60)
    def test_guest_never_retransmits(self):
        before = self.guest.resent()
        self.transfer(V4, 200_000_000, 0)
        self.assertLessEqual(self.guest.resent(), before)


class Small(Streams):
    """Of the MTU that most machines have."""

    options = (*PORTS, "-m", "1500")

    @both
    @limit(60)
    def test_200_megabytes_out_in_small_frames(self, net):
        self.transfer(net, 200_000_000, 0)

    @both
    @limit(60)
    def test_200_megabytes_in_in_small_frames(self, net):
        self.transfer(net, 0, 200_000_000)

    @both
    @limit(60)
    def test_both_ways_in_small_frames(self, net):
        self.transfer(net, 50_000_000, 50_000_000)

    @limit(60)
    def test_guest_never_retransmits_small_frames(self):
        before = self.guest.resent()
        self.transfer(V4, 100_000_000, 0)
        self.assertLessEqual(self.guest.resent(), before)


class Stopped(Streams):
    """A guest that reads nothing for three seconds, in the middle of things."""

    PAUSE = 3

    def setUp(self):
        self.own = self.closing(self.lab.vm(*PORTS))

    @contextlib.contextmanager
    def stopped_soon(self):
        """The machine stops in a moment, and goes on later."""
        pid = self.own.cable.process.pid

        def stop():
            time.sleep(0.3)
            os.kill(pid, signal.SIGSTOP)
            time.sleep(self.PAUSE)
            os.kill(pid, signal.SIGCONT)
        thread = threading.Thread(target=stop)
        thread.start()
        try:
            yield
        finally:
            thread.join()

    @both
    @limit(60)
    def test_transfer_to_a_guest_that_stops(self, net):
        with self.stopped_soon():
            took = self.transfer(net, 0, GIGABYTE, guest=self.own)
        self.assertGreater(took, self.PAUSE)
        self.assertLess(self.own.unplug()["from_program"]["bytes"], 1.05 * GIGABYTE)

    @both
    @limit(60)
    def test_transfer_from_a_guest_that_stops(self, net):
        with self.stopped_soon():
            took = self.transfer(net, GIGABYTE, 0, guest=self.own)
        self.assertGreater(took, self.PAUSE)
        # Its own timer goes off; without selective acknowledgements it sends what was under way again, once.
        self.assertLess(self.own.counter("RetransSegs"), 150)
        self.assertEqual(self.own.lost(), 0)

    @both
    def test_datagrams_for_a_guest_that_stops(self, net):
        server = self.closing(self.own.bind(net.any, 8080))
        client = self.closing(self.lab.remote.socket(net.af, socket.SOCK_DGRAM))
        client.connect((net.host, 8080))
        client.send(b"first")
        self.assertEqual(server.recv(100), b"first")
        os.kill(self.own.cable.process.pid, signal.SIGSTOP)
        for nth in range(50):
            client.send(bytes([nth]))
            time.sleep(0.01)
        os.kill(self.own.cable.process.pid, signal.SIGCONT)
        self.assertEqual([server.recv(100) for _ in range(50)], [bytes([nth]) for nth in range(50)])
        server.settimeout(0.3)
        with self.assertRaises(TimeoutError):
            server.recv(100)

    def test_other_flows_after_the_pause(self):
        near, far = self.pair(self.lab.remote, V4.remote, guest=self.own)
        os.kill(self.own.cable.process.pid, signal.SIGSTOP)
        far.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            for _ in range(100):
                far.send(bytes(1_000_000))
                time.sleep(0.01)
        os.kill(self.own.cable.process.pid, signal.SIGCONT)
        self.assert_connected(*self.pair(self.lab.remote, V4.remote, guest=self.own))
        near.close()


class Unplugged(Streams):
    """The machine's end of the socket goes, and another comes."""

    options = PORTS

    @both
    def test_connection_outlives_the_socket(self, net):
        near, far = self.pair(self.lab.remote, net.remote)
        self.assert_connected(near, far)
        self.guest.unplug()
        far.sendall(b"meanwhile")
        time.sleep(0.3)
        self.guest.plug()
        self.assertEqual(read_exactly(near, 9), b"meanwhile")
        self.assert_connected(near, far)

    @limit(60)
    def test_transfer_out_goes_on(self):
        with self.unplugged_soon():
            self.transfer(V4, GIGABYTE, 0)

    @limit(60)
    def test_transfer_in_goes_on(self):
        with self.unplugged_soon():
            self.transfer(V4, 0, GIGABYTE)

    @contextlib.contextmanager
    def unplugged_soon(self):
        guest = self.guest

        def replug():
            time.sleep(0.3)
            guest.unplug()
            time.sleep(1)
            guest.plug()
        thread = threading.Thread(target=replug)
        thread.start()
        try:
            yield
        finally:
            thread.join()

    def test_twenty_times(self):
        for _ in range(20):
            self.guest.unplug()
            self.guest.plug()
        self.assert_connected(*self.pair(self.lab.remote, V4.remote))

    def test_killed_relay(self):
        self.guest.cable.process.kill()
        self.guest.cable.process.wait()
        self.guest.plug()
        self.assert_connected(*self.pair(self.lab.remote, V4.remote))


class Framing(Case):
    """What a machine should never send; it is the test that is connected first, and a machine in the end."""

    def setUp(self):
        self.own = self.closing(self.lab.vm())
        self.own.unplug()
        self.raw = self.client()
        self.addCleanup(self.assert_still_works)

    def assert_still_works(self):
        self.raw.close()
        self.own.plug()
        self.assert_connected(*self.pair(self.lab.remote, V4.remote, guest=self.own))

    def client(self):
        raw = self.closing(socket.socket(socket.AF_UNIX))
        raw.settimeout(3)
        raw.connect(self.own.socket_path)
        return raw

    def ask(self):
        """The question who has the gateway's address, as a frame."""
        mac = bytes.fromhex("020000000007")
        frame = (b"\xff" * 6 + mac + b"\x08\x06\0\1\x08\0\6\4\0\1" + mac + socket.inet_aton(lab.HOST4) + bytes(6)
                 + socket.inet_aton(lab.GATEWAY4))
        return struct.pack("!I", len(frame)) + frame

    def assert_answered(self, raw):
        stream, deadline = raw.makefile("rb"), time.monotonic() + 3
        while time.monotonic() < deadline:
            frame = stream.read(*struct.unpack("!I", stream.read(4)))
            if frame[12:14] == b"\x08\x06" and frame[20:22] == b"\0\2":
                return
        self.fail("no answer")

    def assert_closed(self, raw):
        with contextlib.suppress(ConnectionResetError):
            while raw.recv(65536):
                pass

    def test_frame_byte_by_byte(self):
        for byte in self.ask():
            self.raw.sendall(bytes([byte]))
        self.assert_answered(self.raw)

    def test_many_frames_at_once(self):
        self.raw.sendall(self.ask() * 100)
        self.assert_answered(self.raw)

    def test_lengths_no_frame_has(self):
        for length in (0, 13, 1 << 20, 0xffff_ffff):
            self.raw.sendall(struct.pack("!I", length) + bytes(20))
            self.assert_closed(self.raw)
            self.raw.close()
            self.raw = self.client()
        self.raw.sendall(self.ask())
        self.assert_answered(self.raw)

    def test_d7_half_a_frame_and_gone(self):
        for part in (1, 3, 4, 20):
            self.raw.sendall(self.ask()[:part])
            self.raw.close()
            self.raw = self.client()
        self.raw.sendall(self.ask())
        self.assert_answered(self.raw)

    def test_second_client_is_sent_away(self):
        self.raw.sendall(self.ask())
        self.assert_answered(self.raw)
        self.assert_closed(self.client())
        self.raw.sendall(self.ask())
        self.assert_answered(self.raw)

    def test_client_that_never_reads(self):
        with contextlib.suppress(TimeoutError, ConnectionError):
            self.raw.settimeout(1)
            for _ in range(20_000):
                self.raw.sendall(self.ask() * 100)


class Descriptors(Streams):
    """The program gets one end of a socket pair."""

    def assert_works(self, kind, ends=True):
        guest = self.closing(self.lab.vm(*PORTS, kind=kind))
        for net in (V4, V6):
            self.assert_connected(*self.pair(self.lab.remote, net.remote, guest=guest))
            client, served, _ = self.inbound(self.lab.remote, net.host, 8080, guest=guest)
            self.assert_connected(client, served)
            self.assertIn(" 0% packet loss", guest.output("ping", "-c2", "-i0.2", "-W2", net.remote))
            self.transfer(net, 50_000_000, 50_000_000, guest=guest)
        guest.unplug()
        if ends:
            self.assertEqual(guest.process.wait(5), 0)

    def test_stream_pair(self):
        self.assert_works(socket.SOCK_STREAM)

    def test_seqpacket_pair(self):
        self.assert_works(socket.SOCK_SEQPACKET)

    def test_dgram_pair(self):
        # Nobody is told that the other end of such a pair is gone.
        self.assert_works(socket.SOCK_DGRAM, ends=False)


class Giant(Streams):
    """A machine that leaves segmentation and checksums to the other side, as libkrun's do."""

    def assert_transfers(self, net, up, down, mtu, kind=None):
        guest = self.closing(self.lab.vm("-m", str(mtu), kind=kind, plug=("--giant",)))
        self.transfer(net, up, down, guest=guest)
        counted = guest.unplug()["to_program"]
        if not down:
            self.assertGreater(counted["bytes"] / counted["frames"], 10_000)

    @both
    def test_large_frames_out(self, net):
        for mtu in (1500, 65520):
            self.assert_transfers(net, 200_000_000, 0, mtu)

    @both
    def test_large_frames_out_while_data_comes_in(self, net):
        self.assert_transfers(net, 50_000_000, 50_000_000, 1500)

    def test_large_frames_on_a_stream_pair(self):
        self.assert_transfers(V4, 50_000_000, 0, 1500, socket.SOCK_STREAM)

    def test_large_frames_on_a_seqpacket_pair(self):
        self.assert_transfers(V4, 50_000_000, 0, 1500, socket.SOCK_SEQPACKET)

    def test_large_frames_on_a_dgram_pair(self):
        self.assert_transfers(V4, 50_000_000, 0, 1500, socket.SOCK_DGRAM)

    @both
    def test_datagrams_with_unfinished_sums(self, net):
        guest = self.closing(self.lab.vm(plug=("--giant",)))
        with self.lab.service(self.lab.host, "echo", "--listen", f"{bracket(net.loopback)}:4451"):
            done = self.lab.traffic(guest, "udp-rr", "--connect", f"{bracket(net.gateway)}:4451", "--count", 100)
        self.assertEqual((done["count"], done["lost"]), (100, 0))


class Unfinished(Streams):
    """Segments of the MTU whose checksums are not there."""

    options, more = ("-m", "1500"), {"plug": ("--offload", "--unfinished")}

    @both
    def test_unfinished_checksums(self, net):
        self.transfer(net, 50_000_000, 50_000_000)


class Asked(VmCase):
    """A guest that asks for its addresses, with a client that everybody has."""

    options, more = (), {"dhcp": True}

    @both
    def test_connection_with_addresses_asked_for(self, net):
        self.assert_connected(*self.pair(self.lab.remote, net.remote))
        self.assertIn(" 0% packet loss", self.guest.output("ping", "-c2", "-i0.2", "-W2", net.remote))

    def test_mtu_is_the_programs(self):
        self.assertIn(" mtu 65520 ", self.guest.output("ip", "link", "show", "eth0"))


def bracket(address):
    return f"[{address}]" if ":" in address else address
