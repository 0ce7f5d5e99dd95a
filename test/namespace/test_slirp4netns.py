"""Started under the name slirp4netns: its callers' command lines, its network, its socket for requests."""

import json
import os
import select
import socket
import subprocess
import time

import lab
from support import Case, V4, V6, read_to_end

GUEST4, HOST4, DNS4 = "10.0.2.100", "10.0.2.2", "10.0.2.3"
GUEST6, HOST6, DNS6 = "fd00::100", "fd00::2", "fd00::3"
QUESTION = b"\x12\x34\1\0\0\1\0\0\0\0\0\0\1x\4test\0\0\1\0\1"


class Slirp(Case):
    """A program that somebody starts and waits for."""

    @property
    def program(self):
        path = os.path.join(self.lab.dir, "slirp4netns")
        if not os.path.lexists(path):
            os.symlink(self.lab.program.path, path)
        return path

    def start(self, *arguments, inherit=(), **more):
        more.setdefault("stdin", subprocess.DEVNULL)
        more.setdefault("stdout", subprocess.PIPE)
        more.setdefault("stderr", subprocess.PIPE)
        process = self.lab.popen(self.lab.as_user([self.program, *map(str, arguments)]),
                                 pass_fds=[end.fileno() for end in inherit], **more)
        self.addCleanup(self.lab.end, process)
        if process.stderr:
            self.addCleanup(process.stderr.close)
        return process

    def pipe(self):
        """Both ends of a pipe, closed after the test if not before."""
        reader, writer = os.pipe()
        return self.closing(open(reader, "rb", buffering=0)), self.closing(open(writer, "wb", buffering=0))

    def start_until_ready(self, *arguments, inherit=(), **more):
        """With `--ready-fd`; returns when the program has said so."""
        reader, writer = self.pipe()
        process = self.start("-r", writer.fileno(), *arguments, inherit=(writer, *inherit), **more)
        writer.close()
        said = read_all(reader, 10)
        if said != b"1":
            process.kill()
            self.fail(f"{arguments}: said {said!r}: {process.stderr.read()!r}")
        return process

    def served(self, *options, **more):
        """A guest that is configured and ready."""
        guest = self.enter(self.lab.empty_guest())
        process = self.start_until_ready("-c", *options, guest.pid, "tap0", **more)
        return guest, process

    def enter(self, context):
        self.addCleanup(context.__exit__, None, None, None)
        return context.__enter__()

    def assert_out(self, guest, family):
        self.assert_connected(*self.pair(self.lab.remote, family.remote, guest=guest))

    def assert_asked(self, guest, server):
        asked = self.closing(guest.socket(lab.family_of(server), socket.SOCK_DGRAM))
        asked.sendto(QUESTION, (server, 53))
        self.assertEqual(asked.recv(500)[:2], b"\x12\x34")


class CallersOfSlirp(Slirp):
    """Each with its own words."""

    def test_rootlesskit_slirp(self):
        """The interface exists and is configured by the caller."""
        guest = self.enter(self.lab.empty_guest())
        guest.run("ip tuntap add name tap0 mode tap && ip link set tap0 address 02:50:00:00:00:01 && "
                  "ip link set tap0 up && ip link set tap0 mtu 65520 && ip addr add 10.0.2.100/24 dev tap0 && "
                  "ip route add default via 10.0.2.2 dev tap0")
        process = self.start_until_ready("--mtu", 65520, "--disable-host-loopback", "--enable-sandbox",
                                         "--enable-seccomp", guest.pid, "tap0")
        self.assert_out(guest, V4)
        self.assertIn("02:50:00:00:00:01", guest.output("ip link show tap0"))
        self.assertIsNone(process.poll())

    def test_rootlesskit_slirp_with_detached_namespace(self):
        """Named by paths; with IPv6 the guest takes its address from advertisements."""
        guest = self.enter(self.lab.empty_guest())
        self.start_until_ready("--mtu", 65520, "--cidr", "10.0.9.0/24", "--enable-ipv6", "--api-socket",
                               os.path.join(self.lab.dir, "rk.sock"), f"--userns-path=/proc/{guest.pid}/ns/user",
                               "--netns-type=path", guest.path, "tap0")
        guest.run("ip link set tap0 up && ip addr add 10.0.9.100/24 dev tap0 && ip route add default via 10.0.9.2")
        self.assert_out(guest, V4)
        lab.wait_until(lambda: "inet6 fd00::" in guest.output("ip -6 addr show dev tap0 -tentative scope global"), 10,
                       "an address from an advertisement")
        self.assert_out(guest, V6)

    def test_podman_slirp(self):
        guest = self.enter(self.lab.empty_guest())
        reader, writer = self.pipe()
        path = os.path.join(self.lab.dir, "podman.sock")
        process = self.start_until_ready(
            "--disable-host-loopback", "--mtu=65520", "--enable-sandbox", "--enable-seccomp", "--enable-ipv6", "-c", "-e",
            reader.fileno(), "--netns-type=path", guest.path, "tap0", "--api-socket", path, inherit=(reader,))
        reader.close()
        shown = guest.output("ip addr show tap0")
        for expected in (f"inet {GUEST4}/24", f"inet6 {GUEST6}/64", "mtu 65520", "UP"):
            self.assertIn(expected, shown)
        self.assertIn(f"default via {HOST4}", guest.output("ip route"))
        self.assert_out(guest, V4)
        self.assert_out(guest, V6)
        writer.write(b"this is not the end")
        self.assert_out(guest, V4)
        self.assertIsNone(process.poll())
        writer.close()
        self.assertEqual(process.wait(3), 0)

    def test_buildah_slirp(self):
        guest = self.enter(self.lab.empty_guest())
        process = self.start_until_ready("--mtu", 65520, "-c", guest.pid, "tap0")
        self.assertIn(f"inet {GUEST4}/24", guest.output("ip addr show tap0"))
        self.assertNotIn("inet6 fd00", guest.output("ip addr show tap0"))
        self.assert_out(guest, V4)
        process.terminate()
        self.assertEqual(process.wait(3), 0)


class LifeOfSlirp(Slirp):
    def test_the_caller_decides_when_it_is_over(self):
        reader, writer = self.pipe()
        guest, process = self.served("-e", reader.fileno(), inherit=(reader,))
        reader.close()
        guest.close()
        with self.assertRaises(subprocess.TimeoutExpired):
            process.wait(0.5)
        writer.close()
        self.assertEqual(process.wait(3), 0)

    def test_it_ends_a_while_after_the_namespace(self):
        """Callers take the namespace away first and expect a process to end."""
        guest, process = self.served()
        guest.close()
        with self.assertRaises(subprocess.TimeoutExpired):
            process.wait(3)
        self.assertEqual(process.wait(5), 0)

    def test_it_dies_with_a_caller_that_asked_for_it(self):
        """RootlessKit has the kernel do it; the sandbox must not undo that."""
        guest = self.enter(self.lab.empty_guest())
        reader, writer = self.pipe()
        script = 'setpriv --pdeathsig KILL -- "$@" & echo $!; wait'
        parent = self.lab.popen(
            self.lab.as_user(["sh", "-c", script, "sh", self.program, "-c", "-r", str(writer.fileno()), str(guest.pid),
                              "tap0"]), pass_fds=[writer.fileno()], stdout=subprocess.PIPE)
        self.addCleanup(self.lab.end, parent)
        writer.close()
        child = int(lab.read_line(parent.stdout, 5))
        # The shell has the other end open as well.
        self.assertEqual(reader.read(1), b"1")
        parent.kill()
        lab.wait_until(lambda: lab.comm(child) == "", 3, "the program's end")

    def test_a_caller_that_is_gone_already_is_noticed(self):
        reader, writer = self.pipe()
        writer.close()
        _, process = self.served("-e", reader.fileno(), inherit=(reader,))
        self.assertEqual(process.wait(3), 0)

    def test_a_signal_ends_it(self):
        _, process = self.served()
        process.terminate()
        self.assertEqual(process.wait(3), 0)

    def test_nothing_is_said_before_a_failure(self):
        reader, writer = self.pipe()
        process = self.start("-c", "-r", writer.fileno(), 2 ** 31 - 1, "tap0", inherit=(writer,))
        writer.close()
        self.assertEqual(read_all(reader, 5), b"")
        self.assertEqual(process.wait(3), 1)
        self.assertRegex(process.stderr.read().decode(), r"^slirp4netns: there is no process 2147483647")

    def test_descriptors_that_are_not_open_are_refused(self):
        for option in ("--ready-fd", "--exit-fd"):
            guest = self.enter(self.lab.empty_guest())
            process = self.start("-c", f"{option}=77", guest.pid, "tap0")
            self.assertEqual(process.wait(3), 1)
            self.assertIn(f"descriptor 77 (option '{option}')", process.stderr.read().decode())

    def test_a_file_as_exit_descriptor_never_ends_it(self):
        null = self.closing(open("/dev/null", "rb", buffering=0))
        guest, process = self.served("-e", null.fileno(), inherit=(null,))
        self.assert_out(guest, V4)
        self.assertIsNone(process.poll())

    def test_the_banner_is_on_standard_output(self):
        _, process = self.served("--mtu=1400", "--cidr=10.7.0.0/24")
        process.terminate()
        out, errors = process.communicate(timeout=5)
        lines = out.decode().splitlines()
        self.assertEqual(lines[:6], ["Starting slirp", "* MTU:             1400", "* Network:         10.7.0.0",
                                     "* Netmask:         255.255.255.0", "* Gateway:         10.7.0.2",
                                     "* DNS:             10.7.0.3"])
        self.assertEqual(errors, b"")

    def test_help_and_version_are_for_programs_to_read(self):
        for option, expected in (("--help", "--enable-seccomp"), ("--version", "slirp4netns version 1.2.0\n")):
            done = self.lab.call([self.program, option])
            self.assertIn(expected, done.stdout)
            self.assertEqual(done.stderr, "")


class NetworkOfSlirp(Slirp):
    def test_gateway_is_the_hosts_loopback(self):
        guest, _ = self.served("-6")
        for loopback, gateway in (("127.0.0.1", HOST4), ("::1", HOST6)):
            self.assert_connected(*self.pair(self.lab.host, loopback, guest=guest, target=gateway))
            with self.lab.host.bind(loopback) as server:
                client = self.closing(guest.socket(lab.family_of(gateway), socket.SOCK_DGRAM))
                client.sendto(b"question", (gateway, server.getsockname()[1]))
                data, peer = server.recvfrom(100)
                self.assertEqual((data, peer[0]), (b"question", loopback))
                server.sendto(b"answer", peer)
                self.assertEqual(client.recvfrom(100)[1][0], gateway)

    def test_gateway_is_not_the_hosts_loopback_if_disabled(self):
        guest, _ = self.served("-6", "--disable-host-loopback")
        for loopback, gateway in (("127.0.0.1", HOST4), ("::1", HOST6)):
            with self.lab.host.listen(loopback) as listener, self.assertRaises(OSError):
                self.closing(guest.connect(gateway, listener.getsockname()[1], timeout=2))

    def test_datagrams(self):
        guest, _ = self.served("-6")
        for remote in (V4.remote, V6.remote):
            with self.lab.remote.bind(remote) as server:
                client = self.closing(guest.socket(lab.family_of(remote), socket.SOCK_DGRAM))
                client.sendto(b"question", (remote, server.getsockname()[1]))
                data, peer = server.recvfrom(100)
                server.sendto(data[::-1], peer)
                self.assertEqual(client.recv(100), b"noitseuq")

    def test_names_are_resolved_by_the_hosts_server(self):
        self.lab.resolv_conf("nameserver 127.0.0.53")
        self.addCleanup(self.lab.resolv_conf, f"nameserver {lab.REMOTE4}", f"nameserver {lab.REMOTE6}",
                        "search lab.test")
        with lab.Dns(self.lab.host, "127.0.0.53") as resolver:
            # Even if the guest may not reach the host's loopback otherwise.
            guest, _ = self.served("-6", "--disable-host-loopback")
            self.assert_asked(guest, DNS4)
            self.assert_asked(guest, DNS6)
            self.assertEqual([name for name, _ in resolver.questions], ["x.test", "x.test"])

    def test_names_are_not_resolved_if_disabled(self):
        with lab.Dns(self.lab.remote, lab.REMOTE4) as resolver:
            guest, _ = self.served("--disable-dns")
            asked = self.closing(guest.socket(socket.AF_INET, socket.SOCK_DGRAM, timeout=0.7))
            asked.sendto(QUESTION, (DNS4, 53))
            with self.assertRaises(OSError):
                asked.recv(500)
            self.assertEqual(resolver.questions, [])

    def test_addresses_are_of_the_network_given(self):
        guest, _ = self.served("--cidr=172.20.0.0/16", "--macaddress=02:00:00:00:00:07")
        shown = guest.output("ip addr show tap0")
        for expected in ("inet 172.20.0.100/16", "02:00:00:00:00:07", "mtu 1500"):
            self.assertIn(expected, shown)
        self.assertIn("default via 172.20.0.2", guest.output("ip route"))
        self.assert_out(guest, V4)

    def test_source_address_and_interface(self):
        for option in (f"--outbound-addr={lab.OTHER4}", "--outbound-addr=eth0"):
            guest, _ = self.served(option)
            # No way leads back to that address.
            with self.lab.remote.bind(lab.REMOTE4) as server:
                client = self.closing(guest.socket(socket.AF_INET, socket.SOCK_DGRAM))
                client.sendto(b"question", (lab.REMOTE4, server.getsockname()[1]))
                self.assertEqual(server.recvfrom(100)[1][0], lab.OTHER4 if lab.OTHER4 in option else lab.HOST4)


class Requests(Slirp):
    """With a socket for them."""

    def setUp(self):
        self.path = self.lab.file("api") + ".sock"
        # As Podman starts it: clients on the host's loopback reach the guest, not the other way round.
        self.served_guest, self.process = self.served("-6", "--disable-host-loopback", "-a", self.path)

    def connect(self):
        client = self.closing(socket.socket(socket.AF_UNIX))
        client.settimeout(5)
        client.connect(self.path)
        return client

    def send(self, data):
        client = self.connect()
        client.sendall(data)
        client.shutdown(socket.SHUT_WR)
        return read_to_end(client)

    def execute(self, name, **arguments):
        answer = json.loads(self.send(json.dumps({"execute": name, "arguments": arguments}).encode()))
        if "error" in answer:
            return answer["error"]["desc"]
        return answer["return"]


class RequestsOfSlirp(Requests):
    """Those that concern no port."""

    def test_no_ports_are_listed(self):
        self.assertEqual(self.send(b'{"execute": "list_hostfwd"}'), b'{"return":{"entries":[]},"entries":[]}')

    def test_faulty_requests_are_answered(self):
        for data, expected in ((b"", "cannot parse JSON"), (b"nonsense", "cannot parse JSON"),
                               (b"[]", "json_object() failed"), (b"{}", "no execute found"),
                               (b'{"execute":"nope"}', "unknown execute"), (b" " * 9000, "too large message"),
                               (b'{"execute":"add_hostfwd"}', "add_hostfwd: bad arguments.proto"),
                               (b'{"execute":"remove_hostfwd"}', "remove_hostfwd: bad arguments.id")):
            desc = json.loads(self.send(data))["error"]["desc"]
            self.assertTrue(desc.startswith("bad request: " + expected), (data[:40], desc))

    def test_clients_may_be_slow_or_silent(self):
        silent = [self.connect() for _ in range(3)]
        slow = self.connect()
        for byte in b'{"execute":"list_hostfwd"}':
            slow.send(bytes([byte]))
            time.sleep(0.005)
        # The sending side stays open.
        self.assertEqual(read_to_end(slow), b'{"return":{"entries":[]},"entries":[]}')
        self.assert_out(self.served_guest, V4)
        self.assertEqual(len(silent), 3)

    def test_the_socket_left_by_another_is_replaced(self):
        self.process.kill()
        self.process.wait()
        self.assertTrue(os.path.exists(self.path))
        self.served("-a", self.path)
        self.assertEqual(self.execute("list_hostfwd"), {"entries": []})

    def test_where_no_socket_can_be_made_it_says_so(self):
        guest = self.enter(self.lab.empty_guest())
        process = self.start("-c", "-a", "/nonexistent/a.sock", guest.pid, "tap0")
        self.assertEqual(process.wait(3), 1)
        self.assertIn("'/nonexistent/a.sock' (option '--api-socket')", process.stderr.read().decode())


class PortsAtRunTime(Requests):
    """Needs `Engine::add_forward` and its like."""

    def add(self, **arguments):
        added = self.execute("add_hostfwd", **arguments)
        self.assertIsInstance(added, dict, added)
        return added["id"]

    def test_tcp_comes_and_goes(self):
        number = self.add(proto="tcp", host_addr="0.0.0.0", host_port=18080, guest_addr=GUEST4, guest_port=80)
        for where, address in ((self.lab.host, "127.0.0.1"), (self.lab.remote, lab.HOST4)):
            client, served, peer = self.inbound(where, address, 18080, inner=80, guest=self.served_guest)
            self.assert_connected(client, served)
            # Who it is stays visible.
            self.assertEqual(peer[0], HOST4 if address == "127.0.0.1" else lab.GATEWAY4)
        entry = {"id": number, "proto": "tcp", "host_addr": "0.0.0.0", "host_port": 18080, "guest_addr": GUEST4,
                 "guest_port": 80}
        self.assertEqual(self.execute("list_hostfwd"), {"entries": [entry]})
        self.assertEqual(self.execute("remove_hostfwd", id=number), {})
        self.assertEqual(self.execute("list_hostfwd"), {"entries": []})
        with self.assertRaises(ConnectionRefusedError):
            self.lab.host.connect("127.0.0.1", 18080)
        # What was connected stays so, and the port may be had again.
        self.assert_connected(client, served)
        self.assertNotEqual(self.add(proto="tcp", host_port=18080, guest_port=81), 0)

    def test_udp_comes_and_goes(self):
        number = self.add(proto="udp", host_addr="127.0.0.1", host_port=18081, guest_port=53)
        with self.served_guest.bind(GUEST4, 53) as server, self.lab.host.bind("127.0.0.1") as client:
            client.sendto(b"question", ("127.0.0.1", 18081))
            data, peer = server.recvfrom(100)
            server.sendto(b"answer to " + data, peer)
            self.assertEqual(client.recv(100), b"answer to question")
            self.assertEqual(self.execute("remove_hostfwd", id=number), {})
            late = self.closing(self.lab.host.bind("127.0.0.1"))
            late.sendto(b"question", ("127.0.0.1", 18081))
            server.settimeout(0.3)
            with self.assertRaises(TimeoutError):
                server.recvfrom(100)
            # The port may be had again, even while what began there lives on.
            self.add(proto="udp", host_addr="127.0.0.1", host_port=18081, guest_port=53)
            late.sendto(b"again", ("127.0.0.1", 18081))
            server.settimeout(5)
            self.assertEqual(server.recvfrom(100)[0], b"again")

    def test_ipv6(self):
        self.add(proto="tcp6", host_port=18082, guest_port=80)
        client, served, _ = self.inbound(self.lab.remote, lab.HOST6, 18082, inner=80, guest=self.served_guest)
        self.assert_connected(client, served)

    def test_ports_that_cannot_be_had(self):
        self.add(proto="tcp", host_port=18083, guest_port=80)
        with self.lab.host.listen("127.0.0.1", 18084):
            for port in (18083, 18084, 80):
                why = self.execute("add_hostfwd", proto="tcp", host_port=port, guest_port=80)
                self.assertRegex(why, rf"^bad request: add_hostfwd: slirp_add_hostfwd failed: .*\b{port}\b")
        self.assertEqual(len(self.execute("list_hostfwd")["entries"]), 1)

    def test_numbers_are_not_used_again(self):
        first = self.add(proto="tcp", host_port=18085, guest_port=80)
        self.execute("remove_hostfwd", id=first)
        second = self.add(proto="tcp", host_port=18085, guest_port=80)
        self.assertGreater(second, first)
        self.assertIn("bad arguments.id", self.execute("remove_hostfwd", id=first))

    def test_a_thousand(self):
        numbers = [self.add(proto="tcp", host_port=port, guest_port=80) for port in range(8500, 9500)]
        self.assertEqual([e["id"] for e in self.execute("list_hostfwd")["entries"]], numbers)
        for number in numbers:
            self.assertEqual(self.execute("remove_hostfwd", id=number), {})


def read_all(reader, timeout):
    """What comes until the other end is closed."""
    data, deadline = b"", time.monotonic() + timeout
    while select.select([reader], [], [], max(0, deadline - time.monotonic()))[0]:
        piece = reader.read(100)
        if not piece:
            return data
        data += piece
    raise TimeoutError(f"only {data!r} within {timeout} s")
