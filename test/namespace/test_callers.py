"""The command lines of the programs that start pasta, to the point where the network works."""

import contextlib
import os
import socket
import subprocess

import lab
from support import Case, read_to_end


class Callers(Case):
    """Each with its own words; the options are those found in the callers' sources."""

    @property
    def pasta(self):
        path = os.path.join(self.lab.dir, "pasta")
        if not os.path.lexists(path):
            os.symlink(self.lab.program.path, path)
        return path

    def start(self, argv, **more):
        process = self.lab.popen(self.lab.as_user(argv), stdin=more.pop("stdin", subprocess.DEVNULL), **more)
        self.addCleanup(self.lab.end, process)
        return process

    def wait_for_address(self, guest, address):
        lab.wait_until(lambda: address in guest.output("ip addr"), 5, f"{address} inside")

    def assert_served(self, guest):
        self.assert_connected(*self.pair(self.lab.remote, lab.REMOTE4, guest=guest))

    def test_nsjail(self):
        """The program is a copy in memory, without a name."""
        with self.lab.empty_guest() as guest:
            script = ("import os, sys; fd = os.memfd_create('pasta', 0); os.write(fd, open(sys.argv[1], 'rb').read()); "
                      "os.execve(fd, ['pasta'] + sys.argv[2:], os.environ)")
            process = self.start(
                ["/usr/bin/python3", "-c", script, self.lab.program.path, "-f", "-q", "--no-dhcp", "--no-dhcpv6", "--no-ra",
                 "--config-net", "--dhcp-dns", "--dns-forward", "10.255.255.1", "--no-map-gw", "-a", "10.255.255.2",
                 "-n", "255.255.255.0", "-g", "10.255.255.1", "-a", "fc00::2", "-g", "fc00::1", "-I", "eth0", "-t",
                 "none", "-u", "none", "-T", "none", "-U", "none", str(guest.pid)])
            self.wait_for_address(guest, "fc00::2")
            self.assertIn("10.255.255.2/24", guest.output("ip addr"))
            self.assert_served(guest)
            self.assert_connected(*self.pair(self.lab.remote, lab.REMOTE6, guest=guest))
        self.assertEqual(process.wait(2), 0)

    def test_nix(self):
        """Standard input and output are the namespaces."""
        self.lab.resolv_conf("nameserver 127.0.0.53")
        self.addCleanup(self.lab.resolv_conf, f"nameserver {lab.REMOTE4}", f"nameserver {lab.REMOTE6}", "search lab.test")
        with self.lab.empty_guest() as guest, lab.Dns(self.lab.host, "127.0.0.53") as resolver:
            with open(guest.path, "rb") as net, open(f"/proc/{guest.pid}/ns/user", "rb") as user:
                process = self.start(
                    [self.pasta, "--quiet", "--foreground", "--config-net", "--gateway", "169.254.1.1", "--address",
                     "169.254.1.2", "--netmask", "16", "--dns-forward", "169.254.1.1", "--gateway", "64:ff9b:1::1",
                     "--address", "64:ff9b:1::2", "--dns-forward", "64:ff9b:1::1", "--ns-ifname", "eth0",
                     "--no-netns-quit", "--netns", "/proc/self/fd/0", "--userns", "/proc/self/fd/1"],
                    stdin=net, stdout=user)
            self.wait_for_address(guest, "64:ff9b:1::2")
            self.assert_served(guest)
            for family, address in ((socket.AF_INET, "169.254.1.1"), (socket.AF_INET6, "64:ff9b:1::1")):
                asked = guest.socket(family, socket.SOCK_DGRAM)
                asked.sendto(b"\x12\x34\1\0\0\1\0\0\0\0\0\0\1x\4test\0\0\1\0\1", (address, 53))
                self.assertEqual(asked.recv(500)[:2], b"\x12\x34")
                asked.close()
            self.assertEqual([name for name, _ in resolver.questions], ["x.test", "x.test"])
            process.terminate()
            self.assertEqual(process.wait(2), 0)

    def test_podman(self):
        """All happens in a user namespace; the network namespace has only a name there."""
        script = r"""
            mount -t tmpfs none /mnt && mkdir /mnt/netns && touch /mnt/netns/box || exit 90
            unshare --net mount --bind /proc/thread-self/ns/net /mnt/netns/box || exit 91
            out=$("$PASTA" --config-net -t 127.0.0.1/8066-8066:80-80 -t ::1/8066-8066:80-80 -u '[::]/8067-8067:81-81' \
                --dns-forward 169.254.1.1 -T none -U none --no-map-gw --quiet --netns /mnt/netns/box \
                --map-guest-addr 169.254.1.2 2>&1)
            echo "status $?, said '$out'"
            nsenter --net=/mnt/netns/box ip -o addr
            nsenter --net=/mnt/netns/box python3 -c "
import socket
listener = socket.create_server(('::', 80), family=socket.AF_INET6, dualstack_ipv6=True)
print('listening', flush=True)
for _ in range(2):
    client = listener.accept()[0]
    client.sendall(b'from the container')
    client.close()"
            umount /mnt/netns/box && rm /mnt/netns/box
            while [ -n "$(find /proc -maxdepth 2 -name comm -exec grep -l '^pasta$' {} + 2>/dev/null)" ]; do sleep 0.05; done
            echo gone"""
        process = self.start(["unshare", "--user", "--map-root-user", "--mount", "--pid", "--fork", "--mount-proc",
                              "sh", "-c", script], stdout=subprocess.PIPE, env={**os.environ, "PASTA": self.pasta})
        self.assertEqual(lab.read_line(process.stdout, 5), "status 0, said ''\n")
        shown = ""
        while not shown.endswith("listening\n"):
            line = lab.read_line(process.stdout, 5)
            self.assertNotEqual(line, "", shown)
            shown += line
        self.assertIn(lab.HOST4, shown)
        for address in ("127.0.0.1", "::1"):
            with self.lab.host.connect(address, 8066) as client:
                self.assertEqual(read_to_end(client), b"from the container")
        self.assertEqual(lab.read_line(process.stdout, 3), "gone\n")

    def test_rootlesskit(self):
        with self.lab.empty_guest() as guest:
            done = self.lab.call(self.lab.as_user(
                [self.pasta, "--stderr", "--ns-ifname=tap0", "--mtu=65520", "--config-net", "--address=10.0.2.100",
                 "--netmask=24", "--gateway=10.0.2.2", "--dns-forward=10.0.2.3", "--ipv4-only", "--tcp-ports=none",
                 "--udp-ports=none", f"--userns=/proc/{guest.pid}/ns/user", f"--netns={guest.path}"]))
            self.assertEqual(done.stdout, "")
            self.assertIn("10.0.2.100/24", guest.output("ip addr show tap0"))
            self.assert_served(guest)

    def test_rootlesskit_implicit_ports(self):
        """What the guest opens, on its loopback too, is the host's at once."""
        with self.lab.empty_guest() as guest:
            argv = [self.pasta, "--stderr", "--ns-ifname=tap0", "--mtu=65520", "--config-net", "--address=10.0.2.100",
                    "--netmask=24", "--gateway=10.0.2.2", "--dns-forward=10.0.2.3", "--no-map-gw", "--ipv4-only",
                    "--tcp-ports=auto", "--udp-ports=auto", "--host-lo-to-ns-lo", str(guest.pid)]
            with open(self.lab.file("out"), "w+b") as out:
                subprocess.run(self.lab.as_user(argv), stdin=subprocess.DEVNULL, stdout=out, stderr=out, check=True)
            with guest.listen("127.0.0.1", 8071) as listener:
                def connected():
                    with contextlib.suppress(OSError):
                        return self.lab.host.connect("127.0.0.1", 8071)
                    return None
                client = self.closing(lab.wait_until(connected, 1.2, "the port"))
                self.assert_connected(client, self.closing(listener.accept()[0]))

    def test_nsjail_splice_only(self):
        with self.lab.empty_guest() as guest:
            process = self.start(
                [self.pasta, "-f", "-q", "--no-dhcp", "--no-dhcpv6", "--no-ra", "--config-net", "--no-map-gw", "-t", "8072",
                 "-u", "none", "-T", "8073", "-U", "none", "--splice-only", str(guest.pid)])

            def listening():
                with contextlib.suppress(OSError):
                    return self.lab.host.connect("127.0.0.1", 8072)
                return None
            with guest.listen("127.0.0.1", 8072) as listener:
                client = self.closing(lab.wait_until(listening, 5, "the port"))
                self.assert_connected(client, self.closing(listener.accept()[0]))
            with self.lab.host.listen("127.0.0.1", 8073) as listener:
                client = self.closing(guest.connect("127.0.0.1", 8073))
                self.assert_connected(client, self.closing(listener.accept()[0]))
            self.assertEqual(guest.output("ip", "-br", "link").count("\n"), 1)
        self.assertEqual(process.wait(2), 0)

    def test_rootlesskit_2_0(self):
        """The interface exists, and is configured by the caller."""
        with self.lab.empty_guest() as guest:
            guest.run("ip tuntap add name tap0 mode tap && ip link set tap0 address 02:00:00:00:00:01 && "
                      "ip link set tap0 up && ip addr add 10.0.2.100/24 dev tap0 && ip route add default via 10.0.2.2")
            process = self.start(
                [self.pasta, "--foreground", "--stderr", "--ns-ifname=tap0", "--mtu=65520", "--no-dhcp", "--no-ra",
                 "--address=10.0.2.100", "--netmask=24", "--gateway=10.0.2.2", "--dns-forward=10.0.2.3",
                 "--tcp-ports=none", "--udp-ports=none", str(guest.pid)],
                stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            lab.wait_until(lambda: "LOWER_UP" in guest.output("ip link show tap0"), 5, "the carrier")
            self.assert_served(guest)
            self.assertIn("mtu 1500", guest.output("ip link show tap0"))
        self.assertEqual(process.wait(2), 0)
