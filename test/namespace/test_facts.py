"""What is documented of pasta's start, namespaces and ports, and is not the subject of another file."""

import json
import os
import select
import socket
import stat
import struct
import subprocess
import time

import lab
from lab.packets import ipv4
from support import V4, V6, Case, both
from test_privileges import has_ended
from test_regress_hosts import WITHOUT_IPV6

QUICK = 1.2
"""Within a second, and some air for two busy cores."""
NO_PORTS = ("-t", "none", "-u", "none", "-T", "none", "-U", "none")


class Facts(Case):
    @property
    def name(self):
        path = os.path.join(self.lab.dir, "pasta")
        if not os.path.lexists(path):
            os.symlink(self.lab.program.path, path)
        return path

    def pasta(self, *argv, **more):
        return self.lab.call(self.lab.as_user([self.name, *argv]), check=False, **more)

    def said(self, *argv, **more):
        done = self.pasta(*argv, **more)
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        return done.stdout


class Spawned(Facts):
    def test_host_name(self):
        here = self.lab.call(self.lab.as_user(["hostname"])).stdout.strip()
        self.assertEqual(self.said("hostname").strip(), f"pasta-{here}"[:64])
        self.assertEqual(self.said("-H", "inside", "hostname").strip(), "inside")
        done = self.lab.call(["unshare", "--uts", "sh", "-c", f'hostname {"h" * 64}; exec "$@"', "sh",
                              *self.lab.as_user([self.name, "hostname"])])
        self.assertEqual(done.stdout.strip(), "pasta-" + "h" * 58)

    def test_the_shell_is_a_login_shell(self):
        shell = self.lab.file("shell")
        os.unlink(shell)
        os.symlink("/bin/sh", shell)
        done = self.pasta(input="tr '\\0' ' ' </proc/$$/cmdline", env={**os.environ, "SHELL": shell})
        self.assertEqual(done.stdout.split()[0], f"-{os.path.basename(shell)}")
        without = {name: value for name, value in os.environ.items() if name != "SHELL"}
        done = self.pasta(input="tr '\\0' ' ' </proc/$$/cmdline", env=without)
        self.assertEqual(done.stdout.split()[0], "-sh")

    def test_ids_and_capabilities(self):
        script = "cat /proc/self/uid_map /proc/self/gid_map /proc/self/setgroups; grep -E 'CapEff|CapBnd' /proc/self/status"
        words = self.said("sh", "-c", script).split()
        self.assertEqual(words[:7], ["0", str(lab.USER), "1"] * 2 + ["deny"])
        self.assertEqual(words[8], words[10])
        self.assertEqual(int(words[8], 16) & ((1 << 38) - 1), (1 << 38) - 1)

    def test_only_group_0_may_ping(self):
        self.assertEqual(self.said("cat", "/proc/sys/net/ipv4/ping_group_range").split(), ["0", "0"])

    def test_exit_statuses(self):
        self.assertEqual(self.pasta("sh", "-c", "exit 7").returncode, 7)
        self.assertEqual(self.pasta("--no-pidns", "sh", "-c", "kill -TERM $$").returncode, 143)

    def test_without_a_process_namespace_proc_is_the_hosts(self):
        self.assertEqual(self.said("--no-pidns", "ls", "/proc/1/comm"), "/proc/1/comm\n")
        self.assertEqual(self.said("--no-pidns", "sh", "-c", "readlink /proc/self/ns/pid").strip(),
                         os.readlink("/proc/self/ns/pid"))

    def test_loopback_is_up_and_the_interface_down_without_configuration(self):
        links = {link["ifname"]: link["flags"] for link in json.loads(self.said("ip", "-json", "link"))}
        self.assertIn("UP", links["lo"])
        self.assertNotIn("UP", links["eth0"])

    def test_mtu_is_set_with_configuration_and_unless_0(self):
        for options, mtu in ((["--config-net", "-m", "0"], 1500), (["--config-net"], 65520), (["-m", "9000"], 1500)):
            shown = self.said(*options, "ip", "-json", "link", "show", "dev", "eth0")
            self.assertEqual(json.loads(shown)[0]["mtu"], mtu, options)

    def test_mask_of_an_address_without_one(self):
        for address, length in (("10.9.8.7", 8), ("172.20.8.7", 16), ("198.51.100.7", 24), ("250.1.2.3", 32)):
            shown = self.said("--config-net", "-4", "-a", address, "-g", lab.GATEWAY4, "ip", "-json", "-4", "addr", "show", "eth0")
            self.assertEqual([(a["local"], a["prefixlen"]) for a in json.loads(shown)[0]["addr_info"]], [(address, length)])

    def test_own_address_and_gateway_replace_what_is_copied(self):
        self.lab.ip("host", "addr add 192.0.2.5/24 dev eth0", "addr add 2001:db8:1::5/64 dev eth0 nodad",
                    "route add 198.18.9.0/24 via 192.0.2.1", "-6 route add 2001:db8:99::/64 via 2001:db8:1::1")
        try:
            script = "ip -o addr show eth0; ip route; ip -6 route"
            shown = self.said("--config-net", "sh", "-c", script)
            for part in ("192.0.2.5/24", "2001:db8:1::5/64", "198.18.9.0/24 via 192.0.2.1",
                         "2001:db8:99::/64 via 2001:db8:1::1"):
                self.assertIn(part, shown)
            shown = self.said("--config-net", "-a", "2001:db8:1::55", "-g", "192.0.2.9", "sh", "-c", script)
            # Addresses of IPv4 and routes of IPv6 are copied; the others are one each.
            for part in ("192.0.2.5/24", "2001:db8:1::55/64", "default via 192.0.2.9",
                         "2001:db8:99::/64 via 2001:db8:1::1"):
                self.assertIn(part, shown)
            for part in ("2001:db8:1::5/", "198.18.9.0/24", f"via {lab.GATEWAY4}"):
                self.assertNotIn(part, shown)
        finally:
            self.lab.ip("host", "addr del 192.0.2.5/24 dev eth0", "addr del 2001:db8:1::5/64 dev eth0",
                        "route del 198.18.9.0/24", "-6 route del 2001:db8:99::/64")

    def test_names_of_the_interface(self):
        with self.lab.another_host("addr add 2001:db8:7::2/64 nodad", "-6 route add default via 2001:db8:7::1") as (host, _):
            argv = self.lab.as_user([self.name, "--config-net", "-6", "ip", "-br", "link"], where=host)
            self.assertIn("eth0", self.lab.call(argv).stdout)
        argv = self.lab.as_user([self.name, "ip", "-br", "link"], where=self.lab.bare)
        self.assertIn("tap0", self.lab.call(argv).stdout)


class Joined(Facts):
    def attach(self, guest, *options, **more):
        out = self.lab.file("out")
        with open(out, "w+b") as file:
            done = subprocess.run(self.lab.as_user([self.name, *options, str(guest.pid)]), stdin=subprocess.DEVNULL,
                                  stdout=file, stderr=file, timeout=10, check=False, **more)
            file.seek(0)
            return done.returncode, file.read().decode()

    def test_ping_is_left_as_it_is(self):
        with self.lab.empty_guest() as guest:
            before = guest.output("cat /proc/sys/net/ipv4/ping_group_range")
            self.assertEqual(self.attach(guest, "-q", "--config-net"), (0, ""))
            self.assertEqual(guest.output("cat /proc/sys/net/ipv4/ping_group_range"), before)

    def test_pid_file_is_cut_and_stays(self):
        path = os.path.join(self.lab.dir, f"pid-{time.monotonic_ns()}")
        with self.lab.empty_guest() as guest:
            self.assertEqual(self.attach(guest, "-q", "-P", path), (0, ""))
            self.assertEqual(stat.S_IMODE(os.stat(path).st_mode), 0o600)
            pid = int(open(path, encoding="ascii").read())
        lab.wait_until(lambda: has_ended(pid), 3, "the end")
        self.assertTrue(os.path.exists(path))
        with open(path, "w", encoding="ascii") as file:
            file.write("9" * 100 + "\n")
        os.chmod(path, 0o666)
        with self.lab.empty_guest() as guest:
            self.assertEqual(self.attach(guest, "-q", "-P", path), (0, ""))
            self.assertRegex(open(path, encoding="ascii").read(), r"^\d{1,7}\n$")

    def test_end_of_the_namespace_is_told_in_one_line(self):
        with self.lab.empty_guest() as guest:
            process = self.lab.popen(self.lab.as_user([self.name, "-f", *NO_PORTS, str(guest.pid)]),
                                     stdin=subprocess.DEVNULL, stderr=subprocess.PIPE)
            self.addCleanup(self.lab.end, process)
            self.addCleanup(process.stderr.close)
            while b"SPLICE" not in process.stderr.readline():
                self.assertIsNone(process.poll())
        self.assertEqual(process.wait(3), 0)
        self.assertEqual(process.stderr.read().count(b"\n"), 1)

    def test_descriptors_of_the_caller_are_let_go(self):
        """A caller that waits for the end of a pipe must not wait for the daemon or the command."""
        with self.lab.empty_guest() as guest:
            for argv in (["-q", str(guest.pid)], ["-q", "sh", "-c", "sleep 5 &"]):
                reader, writer = os.pipe()
                done = subprocess.run(self.lab.as_user([self.name, *argv]), stdin=subprocess.DEVNULL, pass_fds=[writer],
                                      timeout=5, check=False)
                os.close(writer)
                self.assertEqual(done.returncode, 0)
                self.assertEqual(select.select([reader], [], [], 1)[0], [reader], argv)
                self.assertEqual(os.read(reader, 1), b"")
                os.close(reader)

    def test_nix_in_the_background(self):
        """Standard input and output are the namespaces, and stay unwritten."""
        with self.lab.empty_guest() as guest, open(guest.path, "rb") as net, \
                open(f"/proc/{guest.pid}/ns/user", "rb") as user:
            argv = [self.name, "--quiet", "--config-net", "--gateway", "169.254.1.1", "--address", "169.254.1.2",
                    "--netmask", "16", "--dns-forward", "169.254.1.1", "--ns-ifname", "eth0", "-P",
                    path := self.lab.file("pid"), "--netns", "/proc/self/fd/0", "--userns", "/proc/self/fd/1"]
            done = subprocess.run(self.lab.as_user(argv), stdin=net, stdout=user, stderr=subprocess.PIPE, timeout=10,
                                  check=False)
            self.assertEqual((done.returncode, done.stderr), (0, b""))
            self.assert_connected(*self.pair(self.lab.remote, lab.REMOTE4, guest=guest))
            # Nothing tells of this namespace's end.
            os.kill(int(open(path, encoding="ascii").read()), 15)

    def test_only_the_name_counts(self):
        """An unmounted namespace goes on as long as its name is there."""
        path = f"/run/netns/{self.lab.name}named"
        with open(path, "w", encoding="ascii"):
            pass
        pid_file = self.lab.file("pid")
        with self.lab.empty_guest() as guest:
            self.lab.call(["mount", "--bind", guest.path, path])
            argv = [self.name, "-q", "--config-net", "-P", pid_file, "--userns", f"/proc/{guest.pid}/ns/user", "--netns", path]
            self.assertEqual(self.lab.call(self.lab.as_user(argv)).stderr, "")
            pid = int(open(pid_file, encoding="ascii").read())
            self.lab.call(["umount", path])
            time.sleep(0.3)
            self.assert_connected(*self.pair(self.lab.remote, lab.REMOTE4, guest=guest))
            os.unlink(path)
            lab.wait_until(lambda: has_ended(pid), 2, "the end")

    def test_no_default_route_means_no_dhcp_and_no_map(self):
        with self.lab.another_host("addr add 10.1.0.2/24") as (host, _):
            argv = [self.name, "-f", "-4", *NO_PORTS, "-d", "true"]
            text = self.lab.call(self.lab.as_user(argv, where=host)).stderr
        for part in ("DHCP:", "NAT to host"):
            self.assertNotIn(part, text)
        self.assertIn("Template interface: eth0 (IPv4)", text)
        text = self.lab.call(self.lab.as_user([self.name, "-d", *NO_PORTS, "true"], where=self.lab.bare)).stderr
        self.assertNotIn("Template interface", text)
        self.assertIn("assign: 169.254.2.1", text)


class Surroundings(Facts):
    def test_splice_only_needs_no_tun_device(self):
        script = 'mount -t tmpfs none /dev/net && exec "$@"'
        argv = [self.name, "-q", "--splice-only", "-T", "8441", "ip", "-br", "link"]
        done = self.lab.call(self.lab.as_user(["unshare", "-Urm", "sh", "-c", script, "sh", *argv]), check=False)
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        self.assertRegex(done.stdout, r"^lo\b")


    def test_ipv6_only_needs_a_kernel_with_ipv6(self):
        done = self.lab.call(self.lab.as_user(["/usr/bin/python3", "-c", WITHOUT_IPV6, self.name, "-6", "true"]), check=False)
        self.assertEqual((done.returncode, done.stderr.count("\n")), (1, 1), done.stderr)
        self.assertIn("--ipv6-only", done.stderr)

    def test_an_interface_that_goes_ends_us_and_one_that_rests_does_not(self):
        with self.lab.empty_guest() as guest:
            process = self.lab.popen(self.lab.as_user([self.name, "-f", "-q", "--config-net", *NO_PORTS, str(guest.pid)]),
                                     stdin=subprocess.DEVNULL, stderr=subprocess.PIPE)
            self.addCleanup(self.lab.end, process)
            self.addCleanup(process.stderr.close)
            lab.wait_until(lambda: lab.HOST4 in guest.output("ip addr"), 5, "the configuration")
            guest.run(f"ip link set eth0 down && ip link set eth0 up && ip route add default via {lab.GATEWAY4}")
            self.assert_connected(*self.pair(self.lab.remote, lab.REMOTE4, guest=guest))
            guest.run("ip link del eth0")
            self.assertEqual(process.wait(3), 1)
            self.assertEqual(process.stderr.read().count(b"\n"), 1)

    def test_a_command_outlives_its_interface(self):
        script = "ip link del eth0; sleep 0.3; ip -br link; exit 5"
        done = self.pasta("--config-net", "-T", "8443", "sh", "-c", script)
        self.assertEqual((done.returncode, done.stdout.count("\n"), done.stderr.count("\n")), (5, 1, 1), done.stderr)
        self.assertIn("interface is gone", done.stderr)

    def test_command_in_a_user_namespace_that_exists(self):
        with self.lab.empty_guest() as guest:
            script = f"readlink /proc/self/ns/user /proc/self/ns/net; id -u; ping -c1 -W2 {lab.REMOTE4}; exit 5"
            done = self.pasta("--config-net", "--userns", f"/proc/{guest.pid}/ns/user", "-t", "8442", "sh", "-c", script)
            self.assertEqual((done.returncode, done.stderr), (5, ""))
            user, net, uid = done.stdout.split()[:3]
            self.assertEqual((user, uid), (os.readlink(f"/proc/{guest.pid}/ns/user"), "0"))
            self.assertNotEqual(net, os.readlink(guest.path))
            self.assertIn("1 received", done.stdout)
        for path, complaint in (("/proc/self/ns/user", "leave out `--userns`"), ("/proc/self/ns/net", "not a user namespace")):
            done = self.pasta("--userns", path, "true")
            self.assertEqual((done.returncode, done.stderr.count("\n")), (1, 1))
            self.assertIn(complaint, done.stderr)


class Debugging(Facts):
    def test_the_summary_of_a_command_has_the_same_form(self):
        lines = self.pasta("-d", *NO_PORTS, "true").stderr.splitlines()
        self.assertRegex(lines[0], r"^\d+\.\d{4}: Template interface: eth0 \(IPv4\), eth0 \(IPv6\)$")


class SmallMtu(Case):
    """Too small for IPv6, which the kernel does not have on such a link (RFC 8200 §5)."""

    options = ("-m", "1000")

    def test_ipv4_goes_on_alone(self):
        self.assert_connected(*self.pair(self.lab.remote, lab.REMOTE4))
        self.assertIn("mtu 1000", self.guest.output("ip", "link", "show", "eth0"))
        self.assertIn("IPv6 will not work", self.guest.errors())


class Claims(Case):
    options = ("-t", "8590")

    def test_an_address_of_ours_is_not_the_guests(self):
        """A guest that sends from the gateway's address does not become the gateway."""
        self.assert_connected(*self.inbound(self.lab.remote, lab.HOST4, 8590)[:2])
        raw = self.closing(self.guest.socket(socket.AF_PACKET, socket.SOCK_RAW))
        raw.bind(("eth0", 0x0800))
        segment = struct.pack("!HHHH", 1, 9, 9, 0) + b"x"
        raw.send(b"\x9a\x55" * 3 + raw.getsockname()[4] + b"\x08\x00" + ipv4(lab.GATEWAY4, lab.REMOTE4, 17, segment))
        time.sleep(0.1)
        for where, address in ((self.lab.remote, lab.HOST4), (self.lab.host, "127.0.0.1")):
            self.assert_connected(*self.inbound(where, address, 8590)[:2])


class Switches(Case):
    """--no-tcp, --no-udp, --no-icmp"""

    def reaches(self, guest):
        found = set()
        with self.lab.remote.listen(lab.REMOTE4) as listener:
            try:
                guest.connect(lab.REMOTE4, listener.getsockname()[1], timeout=0.3).close()
                found.add("tcp")
            except OSError:
                pass
        with self.lab.remote.bind(lab.REMOTE4) as server, guest.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            server.settimeout(0.3)
            client.sendto(b"x", server.getsockname())
            try:
                server.recv(1)
                found.add("udp")
            except TimeoutError:
                pass
        if "1 received" in guest.run("ping", "-c1", "-W0.3", lab.REMOTE4, check=False).stdout:
            found.add("icmp")
        return found

    def test_each_is_off_alone(self):
        for off in ("tcp", "udp", "icmp"):
            with self.subTest(off), self.lab.guest(f"--no-{off}") as guest:
                self.assertEqual(self.reaches(guest), {"tcp", "udp", "icmp"} - {off})


class Following(Case):
    """-T auto, -U auto: ports that the host uses are the namespace's, on its loopback."""

    options = ("-T", "auto", "-U", "auto", "-t", "auto", "-u", "auto")

    @both
    def test_port_appears_and_disappears(self, net):
        port = 8401 if net is V4 else 8402
        with self.assertRaises(ConnectionRefusedError):
            self.guest.connect(net.loopback, port, timeout=1)
        with self.lab.service(self.lab.host, "echo", "--listen",
                              f"{'[::1]' if net is V6 else '127.0.0.1'}:{port}"):
            def connected():
                try:
                    with self.guest.connect(net.loopback, port, timeout=1) as client:
                        client.sendall(b"x")
                        return client.recv(1) == b"x"
                except OSError:
                    return False
            lab.wait_until(connected, QUICK, "the port")

        def refused():
            try:
                self.guest.connect(net.loopback, port, timeout=1).close()
            except ConnectionRefusedError:
                return True
            except OSError:
                pass
            return False
        lab.wait_until(refused, QUICK, "the port's end")

    @both
    def test_datagram_port_appears(self, net):
        port = 8403 if net is V4 else 8404
        with self.lab.host.bind(net.loopback, port) as server, \
                self.guest.socket(net.af, socket.SOCK_DGRAM, timeout=0.1) as client:
            server.settimeout(0.1)
            client.connect((net.loopback, port))

            def heard():
                try:
                    client.send(b"x")
                    return server.recv(1)
                except (TimeoutError, ConnectionRefusedError):
                    return None
            lab.wait_until(heard, QUICK, "the port")

    def test_ports_do_not_come_back(self):
        """What is forwarded one way is not found and forwarded the other way."""
        with self.guest.listen("0.0.0.0", 8405):
            def open_outside():
                try:
                    self.lab.remote.connect(lab.HOST4, 8405, timeout=1).close()
                    return True
                except OSError:
                    return False
            lab.wait_until(open_outside, QUICK, "the port")
            time.sleep(0.8)
        lab.wait_until(lambda: not open_outside(), QUICK, "the port's end")
        with self.assertRaises(ConnectionRefusedError):
            self.guest.connect("127.0.0.1", 8405, timeout=1)


class OneVersion(Case):
    def test_ports_of_the_namespace_are_of_the_versions_that_are_on(self):
        for option, on, off in (("-4", V4, V6), ("-6", V6, V4)):
            with self.lab.guest(option, "-T", "8411", "-t", "8412") as guest:
                with self.lab.host.listen(on.loopback, 8411) as listener:
                    client = self.closing(guest.connect(on.loopback, 8411))
                    self.assert_connected(client, self.closing(listener.accept()[0]))
                with self.assertRaises(ConnectionRefusedError):
                    guest.connect(off.loopback, 8411, timeout=1)
                with self.assertRaises(ConnectionRefusedError):
                    self.lab.host.connect(off.loopback, 8412, timeout=1)
                client, served, _ = self.inbound(self.lab.remote, on.host, 8412, guest=guest)
                self.assert_connected(client, served)


class Later(Case):
    """--freebind with IPv6."""

    LATER = "2001:db8:77::7"

    def test_b101_b174_addresses_that_come_later(self):
        with self.lab.guest("--freebind", "-t", f"[{self.LATER}]/8431", "-u", f"[{self.LATER}]/8431") as guest:
            self.lab.ip("host", f"addr add {self.LATER}/128 dev lo")
            self.addCleanup(subprocess.run, ["ip", "-netns", f"{self.lab.name}host", "addr", "del", f"{self.LATER}/128",
                                             "dev", "lo"], check=False)
            self.assert_connected(*self.inbound(self.lab.host, self.LATER, 8431, guest=guest)[:2])
            server = self.closing(guest.bind("::", 8431))
            client = self.closing(self.lab.host.socket(socket.AF_INET6, socket.SOCK_DGRAM))
            client.sendto(b"question", (self.LATER, 8431))
            server.sendto(b"answer", server.recvfrom(100)[1])
            self.assertEqual(client.recvfrom(100)[1][:2], (self.LATER, 8431))


class OnTheWire(Case):
    """Frames that the guest's kernel would not send."""

    options = ("-t", "8421")

    def setUp(self):
        self.guest.run("ping", "-c1", "-W2", lab.GATEWAY4)
        words = self.guest.output("ip", "neigh", "show", lab.GATEWAY4).split()
        self.raw = self.closing(self.guest.socket(socket.AF_PACKET, socket.SOCK_RAW))
        self.raw.bind(("eth0", 0))
        self.macs = bytes.fromhex(words[words.index("lladdr") + 1].replace(":", "")) + self.raw.getsockname()[4]

    def send(self, packet, kind=b"\x08\0"):
        self.raw.send(self.macs + kind + packet)

    def datagram(self, text, port):
        """Without a checksum."""
        return struct.pack("!HHHH", 7777, port, 8 + len(text), 0) + text

    def datagram6(self, text, port, padding=b""):
        udp = self.datagram(text, port)
        return (struct.pack("!IHBB16s16s", 6 << 28, len(udp), 17, 64, socket.inet_pton(socket.AF_INET6, lab.HOST6),
                            socket.inet_pton(socket.AF_INET6, lab.REMOTE6)) + udp + padding)

    def test_absent_checksums_and_padding(self):
        for net in (V4, V6):
            with self.lab.remote.bind(net.remote) as server:
                port = server.getsockname()[1]
                for padding in (b"", bytes(20)):
                    if net is V4:
                        self.send(ipv4(lab.HOST4, lab.REMOTE4, 17, self.datagram(b"text", port)) + padding)
                    else:
                        self.send(self.datagram6(b"text", port, padding), b"\x86\xdd")
                    self.assertEqual(server.recv(100), b"text", (net.name, padding))

    def test_what_is_dropped_in_silence(self):
        with self.lab.remote.bind(lab.REMOTE4) as server:
            port = server.getsockname()[1]
            good = ipv4(lab.HOST4, lab.REMOTE4, 17, self.datagram(b"good", port))
            bad = ipv4(lab.HOST4, lab.REMOTE4, 17, self.datagram(b"bad", port))
            self.send(bad, b"\x81\0\0\1\x08\0")                     # a VLAN's
            self.send(bad, struct.pack("!H", len(bad)))                # IEEE 802.3
            self.send(ipv4("127.0.0.1", lab.REMOTE4, 17, self.datagram(b"bad", port)))
            self.send(ipv4("0.0.0.0", lab.REMOTE4, 17, self.datagram(b"bad", port)))
            for protocol in (2, 47, 132):
                self.send(ipv4(lab.HOST4, lab.REMOTE4, protocol, bytes(32)))
            self.send(ipv4(lab.HOST4, lab.REMOTE4, 17, self.datagram(b"bad", 0)))
            self.send(good)
            self.assertEqual(server.recv(100), b"good")
        # Nor have those senders become the guest's address.
        self.assert_connected(*self.inbound(self.lab.remote, lab.HOST4, 8421)[:2])

    def test_multicast_of_the_link_goes_out_on_the_hosts(self):
        server = self.closing(self.lab.remote.socket(socket.AF_INET6, socket.SOCK_DGRAM, timeout=3))
        server.bind(("::", 8422))
        with self.lab.remote.entered():
            index = socket.if_nametoindex("eth0")
        server.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP,
                          socket.inet_pton(socket.AF_INET6, "ff02::1234") + struct.pack("=I", index))
        client = self.closing(self.guest.socket(socket.AF_INET6, socket.SOCK_DGRAM))
        with self.guest.entered():
            index = socket.if_nametoindex("eth0")
        client.sendto(b"all of you", ("ff02::1234", 8422, 0, index))
        self.assertEqual(server.recv(100), b"all of you")
