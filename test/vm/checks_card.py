"""A guest whose network card is the program's (vhost-user): what the two agree on, and each that goes and comes again."""

import concurrent.futures
import contextlib
import json
import os
import signal
import socket
import threading
import time

import lab
import world
from checks_network import assert_stream_in, assert_stream_out
from support import V4, both, limit
from world import NARROW, WIDE, Case, long, url

CSUM, GUEST_CSUM, GUEST_TSO4, GUEST_TSO6, HOST_TSO4, HOST_TSO6, MRG_RXBUF = 0, 1, 7, 8, 11, 12, 15
INDIRECT_DESC, EVENT_IDX, VERSION_1, HOST_USO = 28, 29, 32, 56
"""Virtio's numbers of features."""
TAKEN = {CSUM, GUEST_CSUM, GUEST_TSO4, GUEST_TSO6, HOST_TSO4, HOST_TSO6, MRG_RXBUF, INDIRECT_DESC, EVENT_IDX, VERSION_1}
MEANING = {"tx-checksum-ip-generic": CSUM, "tx-scatter-gather": CSUM, "tx-tcp-segmentation": HOST_TSO4,
           "tx-tcp6-segmentation": HOST_TSO6, "tx-udp-segmentation": HOST_USO, "rx-checksum": GUEST_CSUM,
           "rx-gro-hw": GUEST_TSO4}
"""What the guest's driver makes of them."""
COMPLAINTS = "is not a head|NETDEV WATCHDOG|BUG:|WARNING:|Unexpected TXQ"
MUCH = 10_000_000
BACK_WITHIN = 5
PAIRS = 4


class Exchange:
    """A connection whose other end is an echo: as much as possible goes both ways until it is told to finish."""

    def __init__(self, stream):
        self.stream, self.going, self.sent, self.received, self.error = stream, True, 0, 0, None
        self.block = os.urandom(1 << 16)
        self.threads = [threading.Thread(target=self._until_it_breaks, args=(what,), daemon=True)
                        for what in (self._send, self._receive)]
        for thread in self.threads:
            thread.start()

    def _until_it_breaks(self, what):
        try:
            what()
        except (OSError, AssertionError) as error:
            self.error, self.going = error, False

    def _send(self):
        while self.going:
            self.stream.sendall(self.block)
            self.sent += len(self.block)
        self.stream.shutdown(socket.SHUT_WR)

    def _receive(self):
        while piece := self.stream.recv(1 << 16):
            at = self.received % len(self.block)
            assert piece == (self.block + self.block)[at:at + len(piece)], f"other bytes than were sent, at {at}"
            self.received += len(piece)

    def advances(self, seconds=10):
        """Waits until a megabyte more has come back."""
        wanted = self.received + 1_000_000
        lab.wait_until(lambda: self.received > wanted or self.error, seconds, f"more than {wanted} bytes")

    def finish(self):
        """All that was sent has come back; returns how much."""
        self.end()
        if self.error:
            raise self.error
        assert self.sent == self.received, f"sent {self.sent} bytes, received {self.received}"
        return self.received

    def end(self):
        """To its end, or until it breaks."""
        self.going = False
        for thread in self.threads:
            thread.join(15)


class Card(Case):
    """What the checks here have in common."""

    link = "vhost-user"

    def exchange(self, port=8001, inside=8001):
        """Traffic both ways, over a connection from outside to the guest."""
        echo = self.guest.service("echo", "--listen", url("0.0.0.0", inside))
        going = Exchange(self.closing(self.lab.remote.connect(lab.HOST4, port)))
        self.addCleanup(going.end)
        going.advances()
        return echo, going

    def assert_quiet(self):
        """The guest's kernel had nothing to complain of."""
        self.assertEqual(self.guest.run(f"dmesg | grep -E '{COMPLAINTS}' || true"), "")


class Offloads(Card):
    session = NARROW

    def test_agreed_on(self):
        """And what the driver makes of it. QEMU 7.2 knows nothing of segmentation of UDP."""
        bits = self.guest.run("cat /sys/class/net/eth0/device/features").strip()
        agreed = {number for number, bit in enumerate(bits) if bit == "1"}
        self.assertEqual(TAKEN - agreed, set())
        active = self.guest.do("features")
        self.assertEqual({name: name in active for name in MEANING},
                         {name: bit in agreed for name, bit in MEANING.items()})
        self.note(f"segmentation of UDP: {'yes' if HOST_USO in agreed else 'no'}")

    @both
    def test_longer_frames_than_the_mtu(self, net):
        for ways, transfer in (("tx", assert_stream_out), ("rx", assert_stream_in)):
            before = self.counted(ways)
            transfer(self, net, MUCH)
            packets, size = (now - then for now, then in zip(self.counted(ways), before))
            self.note(f"{ways} {size // packets} bytes a frame")
            self.assertGreater(size // packets, 4 * 1500)
        self.assertEqual(self.guest.do("damaged_packets"), {})

    def counted(self, ways):
        """Packets and bytes, as the driver counts them."""
        path = f"/sys/class/net/eth0/statistics/{ways}_"
        return [int(word) for word in self.guest.run(f"cat {path}packets {path}bytes").split()]


class Machine(Card):
    """The guest, or QEMU, goes and comes again."""

    session = WIDE

    @limit(40)
    def test_stopped_and_continued(self):
        self.assert_works()
        echo, going = self.exchange()
        near, far = self.pair(self.lab.remote, lab.REMOTE4)
        used = 0
        for _ in range(5):
            with self.guest.stopped():
                time.sleep(0.1)
                used -= lab.cpu_seconds(self.world.server.process.pid)
                time.sleep(0.4)
                used += lab.cpu_seconds(self.world.server.process.pid)
            going.advances()
            self.assert_connected(near, far)
        self.note(f"{going.finish() // 1_000_000} MB")
        echo.stop()
        self.assert_works()
        self.assert_quiet()
        # Two seconds in which nothing could be done.
        self.assertLess(used, 0.5)

    @long
    @limit(90)
    def test_reset_again_and_again(self):
        """In the midst of traffic, while it starts, and as soon as it has started."""
        self.assert_works()
        self.exchange()
        self.guest.press_reset()
        time.sleep(1)
        for _ in range(2):
            self.guest.press_reset()
            self.guest.wait_ready()
        world.configure(self.guest)
        self.assert_works()
        self.assert_quiet()

    @long
    @limit(120)
    def test_killed_and_started_twice(self):
        for _ in range(2):
            self.assert_works()
            self.exchange()
            self.guest.kill()
            self.world.boot()
        self.assert_works()
        self.assert_quiet()

    @long
    @limit(60)
    def test_started_before_the_program(self):
        """QEMU 7.2 waits in its start, before the guest's first instruction."""
        self.assert_works()
        self.guest.kill()
        before = self.world.server
        before.process.kill()
        before.ended()
        with concurrent.futures.ThreadPoolExecutor() as pool:
            late = pool.submit(lambda: (time.sleep(2), self.world.serve(before.path)))
            self.world.boot()
            late.result()
        self.assert_works()
        self.assert_quiet()


class Program(Card):
    """It goes in the midst of traffic, and is started again at the same path; the guest has noticed little."""

    session = WIDE

    def test_killed(self):
        for _ in range(2):
            self.assert_replaced(signal.SIGKILL)

    def test_ended(self):
        self.assert_replaced(signal.SIGTERM)

    def assert_replaced(self, number):
        self.assert_works()
        echo, going = self.exchange()
        near, far = self.pair(self.lab.remote, lab.REMOTE4)
        before = self.world.server
        before.process.send_signal(number)
        self.assertEqual(before.ended(), -number if number == signal.SIGKILL else 0)
        self.world.serve(before.path)
        began = time.monotonic()
        for target in (lab.REMOTE4, lab.REMOTE6):
            self.guest.run(f"for n in $(seq {BACK_WITHIN}); do ping -c 1 -W 1 {target} && exit; done; exit 1")
        self.note(f"back after {time.monotonic() - began:.1f} s")
        self.assertLess(time.monotonic() - began, BACK_WITHIN)
        self.assert_over(near, far)
        going.end()
        self.assertIsInstance(going.error, OSError)
        echo.stop()
        self.assert_works()
        self.assert_quiet()


    def assert_over(self, near, far):
        """The new one knows nothing of the guest's connection; what the old one's kernel had of it is closed."""
        near.sendall(b"are you still there?")
        with self.assertRaises(ConnectionResetError):
            near.recv(1)
        with contextlib.suppress(ConnectionResetError):
            self.assertEqual(far.recv(1), b"")


class Pairs(Card):
    """Several pairs of queues, and a processor for each."""

    link = "vhost-user-4"
    session = WIDE

    def test_all_in_use(self):
        self.assertEqual(self.guest.do("channels"), (PAIRS, PAIRS))
        self.assertEqual(self.queues(), PAIRS)

    @both
    def test_traffic_of_each_processor(self, net):
        before = self.guest.do("statistics")
        self.assert_traffic(net)
        after = self.guest.do("statistics")
        sent = [after[name] - before[name] for name in (f"tx_queue_{nth}_packets" for nth in range(PAIRS))]
        self.note(f"frames sent: {sent}")
        # What a task begins is its own; acknowledgements may hand the rest to whoever takes the interrupts.
        self.assertGreater(min(sent), 1)

    @limit(90)
    def test_one_pair_and_all_again(self):
        # Connections go to the workers in turn: one of these has to leave its own when that has no pair any more.
        self.assert_works()
        echo, going = self.exchange()
        also_echo, also = self.exchange(port=8010, inside=9010)
        self.addCleanup(self.guest.do, "set_channels", PAIRS)
        for count in (1, PAIRS, 1, 2, PAIRS):
            self.guest.do("set_channels", count)
            self.assertEqual((self.guest.do("channels"), self.queues()), ((PAIRS, count), count))
            going.advances()
            also.advances()
            self.assert_traffic(V4)
        self.note(f"{(going.finish() + also.finish()) // 1_000_000} MB")
        also_echo.stop()
        echo.stop()
        self.assert_works()
        self.assert_quiet()

    def queues(self):
        names = self.guest.run("ls /sys/class/net/eth0/queues").split()
        self.assertEqual(len(names) % 2, 0)
        return len(names) // 2

    def assert_traffic(self, net):
        """Both ways at once, by a task for each processor."""
        server = self.lab.service(self.lab.remote, "stream", "--listen", url(net.remote, 8101), "--streams", PAIRS,
                                  "--send", MUCH // PAIRS)
        tasks = [self.guest.begin("run", f"taskset -c {nth} lab stream --connect {url(net.remote, 8101)} "
                                  f"--send {MUCH // PAIRS} --seed {100 + nth}", 30, seconds=40)
                 for nth in range(PAIRS)]
        said = [task() for task in tasks]
        self.assertEqual([status for status, _ in said], [0] * PAIRS, said)
        streams = [json.loads(text)["streams"][0] for _, text in said]
        served = server.result(10)["streams"]
        for theirs, ours in (("sent_hash", "received_hash"), ("received_hash", "sent_hash")):
            self.assertEqual(sorted(stream[theirs] for stream in streams), sorted(stream[ours] for stream in served))
