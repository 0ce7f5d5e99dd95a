"""An interface whose queues several threads serve, each with flows of its own: nobody must notice, and what there is
only one of must be everybody's."""

import concurrent.futures
import itertools
import os
import signal
import socket
import statistics
import subprocess
import threading
import time

import lab
import test_queues
from support import V4, V6, Case, both, read_to_end
from test_stress import Limited

COUNT = 4
OPTIONS = ("--queues", str(COUNT), "--threads", str(COUNT))


class Traffic(test_queues.Run):
    """What holds for several queues, with a thread for each of them."""

    options = (*test_queues.OPTIONS, "--threads", str(COUNT))


class Threads(Case):
    options = OPTIONS

    def tasks(self):
        """The directory of each thread in /proc."""
        tasks = f"/proc/{self.guest.translator()}/task"
        return [os.path.join(tasks, task) for task in os.listdir(tasks)]

    def statuses(self):
        for task in self.tasks():
            with open(f"{task}/status", encoding="ascii") as file:
                yield {name: value.strip() for name, _, value in (line.partition(":") for line in file)}

    def test_there_is_one_for_each_worker(self):
        self.assertEqual(len(self.tasks()), COUNT)

    def test_none_has_capabilities(self):
        sets = ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")
        found = [int(status[name], 16) for status in self.statuses() for name in sets]
        self.assertEqual(found, [0] * COUNT * len(sets))

    def test_none_can_gain_privileges(self):
        self.assertEqual([status["NoNewPrivs"] for status in self.statuses()], ["1"] * COUNT)

    def test_all_are_in_one_root(self):
        roots = [os.stat(f"{task}/root") for task in self.tasks()]
        self.assertEqual(len({(root.st_dev, root.st_ino) for root in roots}), 1)

    def test_root_of_each_is_empty(self):
        self.assertEqual([os.listdir(f"{task}/root") for task in self.tasks()], [[]] * COUNT)


class End(Case):
    def test_program_ends_while_the_guest_floods_one_worker(self):
        """From a port that is listened to: all these flows are the first worker's, whichever queue they come through. A
        worker that took all messages there were before it looked at anything else never heard of the signal."""
        pid_file = self.lab.file("pid")
        guest = self.closing(self.lab.empty_guest())
        argv = self.lab.program.attach(["-q", "-f", "-P", pid_file, *OPTIONS, "-u", "7000"], str(guest.pid))
        program = self.lab.popen(self.lab.as_user(argv))
        self.addCleanup(self.lab.end, program)
        lab.wait_until(lambda: os.path.getsize(pid_file), 5, "readiness")
        for nth in range(4):
            flood = self.lab.popen(guest.argv([
                self.lab.tool, "udp-flood", "--connect", f"192.0.2.{120 + nth}:1024", "--ports", "60000", "--size", "1",
                "--from", "7000", "--seconds", "20"]))
            self.addCleanup(self.lab.end, flood)
        time.sleep(1.5)
        program.send_signal(signal.SIGTERM)
        self.assertEqual(program.wait(2), 0)


class Names(Case):
    """A client may use its port again: the guest's connections are told apart by their names, whoever has them."""

    options = (*OPTIONS, "-t", "8001:80,8002:80")

    def client(self, source, port):
        client = self.closing(self.lab.remote.socket(socket.AF_INET))
        client.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        client.bind((lab.REMOTE4, source))
        client.connect((lab.HOST4, port))
        return client

    def twin_is_reset(self, source):
        """Whether a connection is that would be, for the guest, the one that the same port has already."""
        try:
            self.client(source, 8002).recv(1)
        except ConnectionResetError:
            return True
        return False

    def originals(self, listener, first):
        """Connections of eight ports, which all workers have some of: (port, client, server)."""
        for source in range(first, first + 2 * COUNT):
            client = self.client(source, 8001)
            served = self.closing(listener.accept()[0])
            served.settimeout(10)
            yield source, client, served

    def test_connection_of_a_name_that_is_in_use_is_reset(self):
        with self.guest.listen("0.0.0.0", 80) as listener:
            for source, _, _ in self.originals(listener, 6100):
                self.assertTrue(self.twin_is_reset(source))

    def test_connection_whose_name_another_asks_for_goes_on(self):
        with self.guest.listen("0.0.0.0", 80) as listener:
            for source, client, served in self.originals(listener, 6200):
                self.twin_is_reset(source)
                self.assert_connected(client, served)

    def test_port_that_is_used_again_and_again_is_served_at_once(self):
        """The guest compares sequence numbers with those of the connection before, which another worker had."""
        with self.guest.listen("0.0.0.0", 80) as listener:
            server = threading.Thread(target=self.greet, args=(listener, 20))
            server.start()
            for nth in range(20):
                began = time.monotonic()
                with self.client(6000, 8001) as client:
                    self.assertEqual(read_to_end(client), b"hello")
                self.assertLess(time.monotonic() - began, 0.1, f"connection {nth}")
                time.sleep(0.02)
            server.join()

    def greet(self, listener, count):
        """The guest's end closes first."""
        for _ in range(count):
            served, _ = listener.accept()
            served.sendall(b"hello")
            served.close()


class Addresses(Case):
    """What one worker learns of the guest does not make the others' knowledge old."""

    options = (*OPTIONS, "-t", "8001")
    SECOND4, SECOND6 = "192.0.2.200", "2001:db8:1::77"

    def setUp(self):
        """The guest speaks from a second IPv6 address, and then from a second IPv4 address through all queues."""
        self.addCleanup(self.tearDownClass)
        self.guest.run(f"ip addr add {self.SECOND6}/128 dev eth0 nodad; ip addr add {self.SECOND4}/32 dev eth0")
        self.guest.run("ping", "-6", "-c1", "-W2", "-I", self.SECOND6, V6.remote)
        server = self.closing(self.lab.remote.bind(V4.remote))
        for _ in range(30):
            client = self.closing(self.guest.bind(self.SECOND4))
            client.sendto(b"x", server.getsockname())
            server.recv(10)
        # A worker tells what it has learnt when it has done the rest.
        time.sleep(0.05)

    def assert_goes_to(self, net, address):
        _, served, _ = self.inbound(self.lab.remote, net.host, 8001)
        self.assertEqual(served.getsockname()[0], address)

    def test_connection_goes_to_the_ipv6_address_that_one_worker_saw(self):
        self.assert_goes_to(V6, self.SECOND6)

    def test_connection_goes_to_the_ipv4_address_that_all_workers_saw(self):
        self.assert_goes_to(V4, self.SECOND4)


class Datagrams(Case):
    options = (*OPTIONS, "-m", "1500")

    def meet(self, neighbour):
        """Until the guest's kernel has heard of its neighbour it keeps only a few packets."""
        self.guest.run("ping", "-c1", "-W2", neighbour)

    @both
    def test_all_peers_of_a_socket_see_its_port(self, net):
        servers = [self.closing(self.lab.remote.bind(net.remote)) for _ in range(32)]
        targets = [server.getsockname() for server in servers]
        self.meet(net.remote)
        for first in range(5000, 5120, 30):
            ports = range(first, first + 30)
            clients = [self.closing(self.guest.bind(net.any, port)) for port in ports]
            for client, target in itertools.product(clients, targets):
                client.sendto(b"x", target)
            for server in servers:
                self.assertEqual(sorted(server.recvfrom(10)[1][1] for _ in ports), list(ports))

    @both
    def test_fragmented_datagrams_pass_both_ways_whole(self, net):
        """What comes in fragments is put together in one place, and belongs to flows of all workers."""
        self.meet(net.gateway)
        servers = [self.closing(self.lab.host.bind(net.loopback)) for _ in range(12)]
        clients = [self.closing(self.guest.socket(net.af, socket.SOCK_DGRAM)) for _ in servers]
        expected = [bytes([n]) * 60_000 for n in range(len(servers))]
        for data, client, server in zip(expected, clients, servers):
            client.sendto(data, (net.gateway, server.getsockname()[1]))
        for server in servers:
            server.sendto(*server.recvfrom(65536))
        self.assertTrue([client.recv(65536) for client in clients] == expected)


class Limits(Case):
    """They are for all workers together."""

    DESCRIPTORS = 1024

    def flood(self, threads):
        """A guest that begins flows without end, through all queues; and how many sockets the program has then."""
        guest = self.closing(self.lab.guest("--queues", str(COUNT), "--threads", str(threads),
                                            program=Limited(self.lab.program, self.DESCRIPTORS)))
        flood = self.lab.popen(guest.argv([self.lab.tool, "udp-flood", "--connect", f"{lab.DEAD4}:1024",
                                           "--ports", "60000", "--rate", "20000", "--seconds", "10"]),
                               stdout=subprocess.DEVNULL)
        self.addCleanup(self.lab.end, flood)
        descriptors = f"/proc/{guest.translator()}/fd"
        counts = []
        for _ in range(20):
            time.sleep(0.05)
            counts.append(sum(link.startswith("socket:") for link in links_in(descriptors)))
        return guest, counts

    def test_flood_of_datagrams_takes_a_quarter_of_the_descriptors(self):
        _, counts = self.flood(COUNT)
        self.assertTrue(100 < statistics.median(counts) < self.DESCRIPTORS / 4 + 20, counts)
        # A worker that had no processor while others grew takes its part of what was free before.
        self.assertLess(max(counts), self.DESCRIPTORS / 2, counts)

    def test_connections_are_made_during_a_flood_of_datagrams(self):
        guest, _ = self.flood(COUNT)
        for _ in range(2 * COUNT):
            self.assert_connected(*self.pair(self.lab.remote, lab.REMOTE4, guest=guest))


class Crowd(Case):
    """Connections both ways and datagrams, all at the same time."""

    options = (*OPTIONS, "-t", "8001")
    EACH = 25

    def crowd(self, net, guest):
        """The flows, as the ports of both ends on the guest's link."""
        with concurrent.futures.ThreadPoolExecutor() as pool:
            parts = [pool.submit(part, net, guest) for part in (self.outbound, self.inward, self.datagrams)]
            return [flow for part in parts for flow in part.result(20)]

    def outbound(self, net, guest):
        pairs = [self.pair(self.lab.remote, net.remote, guest=guest) for _ in range(self.EACH)]
        for near, far in pairs:
            self.assert_connected(near, far)
        return [(near.getsockname()[1], far.getsockname()[1]) for near, far in pairs]

    def inward(self, net, guest):
        flows = []
        with guest.listen(net.any, 8001) as listener:
            for _ in range(self.EACH):
                client = self.closing(self.lab.remote.connect(net.host, 8001))
                served, peer = listener.accept()
                self.closing(served).settimeout(10)
                self.assert_connected(client, served)
                flows.append((8001, peer[1]))
        return flows

    def datagrams(self, net, guest):
        server = self.closing(self.lab.remote.bind(net.remote))
        clients = [self.closing(guest.socket(net.af, socket.SOCK_DGRAM)) for _ in range(self.EACH)]
        for n, client in enumerate(clients):
            client.sendto(bytes([n]), server.getsockname())
            data, seen = server.recvfrom(10)
            server.sendto(data, seen)
            self.assertEqual(client.recv(10), bytes([n]))
        return [(client.getsockname()[1], server.getsockname()[1]) for client in clients]

    @both
    def test_connections_both_ways_and_datagrams_at_once(self, net):
        self.assertEqual(len(set(self.crowd(net, self.guest))), 3 * self.EACH)

    def capture(self):
        """The path of a capture that all threads wrote, and the flows in it."""
        path = self.lab.file("pcap")
        with self.lab.guest(*self.options, "-p", path) as guest:
            flows = self.crowd(V4, guest)
            time.sleep(0.3)
        return path, flows

    def test_capture_is_of_whole_frames(self):
        """Not of parts of several: in each IPv4 packet is what it says, and there are no others but IPv6 and ARP."""
        path, _ = self.capture()
        fields = [argument for name in ("eth.type", "ip.len", "frame.len") for argument in ("-e", name)]
        shown = self.lab.call(["tshark", "-n", "-r", path, "-T", "fields", "-E", "occurrence=f", *fields])
        self.assertNotIn("cut short", shown.stderr)
        for kind, told, found in (line.split("\t") for line in shown.stdout.splitlines()):
            self.assertIn(int(kind, 16), (0x0800, 0x0806, 0x86dd))
            self.assertIn(told, ("", str(int(found) - 14)))

    def test_capture_has_both_directions_of_every_flow(self):
        path, flows = self.capture()
        ports = [argument for name in ("srcport", "dstport") for argument in ("-e", f"tcp.{name}", "-e", f"udp.{name}")]
        shown = self.lab.call(["tshark", "-n", "-r", path, "-Y", "tcp || udp", "-T", "fields", *ports])
        # One of both protocols is empty in each line.
        found = {tuple(map(int, line.split())) for line in shown.stdout.splitlines()}
        self.assertEqual({flow for flow in flows if flow not in found or flow[::-1] not in found}, set())


def links_in(directory):
    for name in os.listdir(directory):
        try:
            yield os.readlink(os.path.join(directory, name))
        except OSError:
            continue
