"""A guest whose network card is the program's (vhost-user); `lab plug --vhost-user` stands for hypervisor and driver, and
ends with an error at what no device may do."""

import os
import signal
import socket
import threading
import time

import test_vm
from support import V4, V6, both, limit
from test_vm import PORTS, bracket

MEGABYTE = 1_000_000
# Virtio's numbers of what a driver may do without.
CSUM, GUEST_CSUM, MRG_RXBUF, EVENT_IDX = 0, 1, 15, 29
GUEST_OFFLOADS, HOST_OFFLOADS = (7, 8, 54, 55), (11, 12, 56)


def without(*features):
    return [word for feature in features for word in ("--without", feature)]


class Card(test_vm.Streams):
    options, more = (*PORTS, "-m", "1500"), {"vhost_user": 1}

    @both
    @limit(60)
    def test_200_megabytes_both_ways(self, net):
        self.transfer(net, 200 * MEGABYTE, 200 * MEGABYTE)

    @both
    @limit(60)
    def test_200_megabytes_at_a_forwarded_port(self, net):
        self.transfer(net, 200 * MEGABYTE, 200 * MEGABYTE, inbound=True)

    @limit(60)
    def test_eight_streams(self):
        self.transfer(V4, 20 * MEGABYTE, 20 * MEGABYTE, streams=8)

    @limit(60)
    def test_guest_never_retransmits(self):
        before = self.guest.resent()
        self.transfer(V4, 200 * MEGABYTE, 0)
        self.assertLessEqual(self.guest.resent(), before)

    @both
    def test_datagrams_out(self, net):
        with self.lab.service(self.lab.host, "echo", "--listen", f"{bracket(net.loopback)}:4451"):
            done = self.lab.traffic(self.guest, "udp-rr", "--connect", f"{bracket(net.gateway)}:4451", "--count", 1000)
        self.assertEqual((done["count"], done["lost"]), (1000, 0))

    @both
    def test_datagrams_of_any_size(self, net):
        inside, outside = self.closing(self.guest.bind(net.any, 8081)), self.closing(self.lab.remote.bind(net.any))
        for size in (0, 1, 1472, 1473, 9000, 60_000):
            data = os.urandom(size)
            outside.sendto(data, (net.host, 8081))
            got, peer = inside.recvfrom(65536)
            self.assertEqual(got, data)
            inside.sendto(data[::-1], peer)
            self.assertEqual(outside.recv(65536), data[::-1])

    @both
    def test_echo(self, net):
        self.assertIn(" 0% packet loss", self.guest.output("ping", "-c3", "-i0.2", "-s1400", net.remote))


class Pairs(Card):
    """Two pairs of queues."""

    more = {"vhost_user": 2}

    def test_there_are_two(self):
        self.assertEqual(self.guest.cable.first["pairs"], 2)


class CrossedPairs(Pairs):
    """What the program sends through one pair is answered through the other: packets of a flow reach another worker than the
    one that has it."""

    options, more = (*PORTS, "-m", "1500", "--threads", "2"), {"vhost_user": 2, "plug": ("--cross",)}

    def test_each_worker_is_a_thread(self):
        tasks = os.listdir(f"/proc/{self.guest.translator()}/task")
        self.assertEqual(len(tasks), 2)


class LargeFrames(Card):
    options = (*PORTS, "-m", "65520")


class SmallBuffers(Card):
    more = {"vhost_user": 1, "plug": ("--buffer", 1536)}


class Plain(Card):
    """A driver that does everything itself: one buffer a frame, no offloads, no event index."""

    more = {"vhost_user": 1, "plug": without(CSUM, GUEST_CSUM, MRG_RXBUF, EVENT_IDX, *GUEST_OFFLOADS, *HOST_OFFLOADS)}


class Joined(Card):
    """Segments of the MTU, which the relay makes large frames of."""

    more = {"vhost_user": 1, "plug": ("--offload", *without(*GUEST_OFFLOADS))}

    @limit(60)
    def test_fewer_frames_than_came(self):
        guest = self.closing(self.another_guest("-m", "1500"))
        self.transfer(V4, 0, 200 * MEGABYTE, guest=guest)
        counted = guest.unplug()["from_program"]
        self.assertGreater(counted["frames"], 5 * counted["writes"])


class Unplugged(test_vm.Streams):
    """The hypervisor goes, and another comes, whose memory is another too."""

    options, more = PORTS, {"vhost_user": 2}

    @both
    def test_connection_outlives_the_hypervisor(self, net):
        near, far = self.pair(self.lab.remote, net.remote)
        self.assert_connected(near, far)
        self.guest.cable.process.kill()
        self.guest.cable.process.wait()
        far.sendall(b"meanwhile")
        time.sleep(0.3)
        self.guest.plug()
        self.assertEqual(near.recv(9, socket.MSG_WAITALL), b"meanwhile")
        self.assert_connected(near, far)

    @limit(60)
    def test_transfer_goes_on(self):
        def replug():
            for _ in range(3):
                time.sleep(0.2)
                self.guest.cable.process.kill()
                self.guest.cable.process.wait()
                time.sleep(0.2)
                self.guest.plug()
        thread = threading.Thread(target=replug)
        thread.start()
        try:
            self.transfer(V4, 1000 * MEGABYTE, 1000 * MEGABYTE)
        finally:
            thread.join()

    def test_twenty_times(self):
        for nth in range(20):
            if nth % 2:
                self.guest.unplug()
            else:
                self.guest.cable.process.kill()
                self.guest.cable.process.wait()
            self.guest.plug()
        for net in (V4, V6):
            self.assert_connected(*self.pair(self.lab.remote, net.remote))

    @limit(60)
    def test_transfer_to_a_guest_that_stops(self):
        pid = self.guest.cable.process.pid

        def stop():
            time.sleep(0.3)
            os.kill(pid, signal.SIGSTOP)
            time.sleep(2)
            os.kill(pid, signal.SIGCONT)
        thread = threading.Thread(target=stop)
        thread.start()
        try:
            self.transfer(V4, 0, 1000 * MEGABYTE)
        finally:
            thread.join()
