"""Ways to start, and surroundings, with which pasta once failed; doc/regressions.md lists the reports."""

import os
import subprocess
import time

import lab
from support import Case
from test_lifetime import alive


class Start(Case):
    def test_b215_nothing_lands_on_the_standard_streams(self):
        with self.lab.empty_guest() as guest:
            for closed in ("<&-", ">&-", "2>&-", "<&- >&- 2>&-"):
                pid_file = self.lab.file("pid")
                argv = self.lab.program.attach(["-q", "-P", pid_file, "-t", "8083"], str(guest.pid))
                self.lab.call(self.lab.as_user(["sh", "-c", f'exec "$@" {closed}', "sh", *argv]))
                daemon = read_pid(pid_file)
                ends = [os.readlink(f"/proc/{daemon}/fd/{number}") for number in range(3)]
                # The mounts of before are there as long as the process that reads resolv.conf; else there is no more of the path.
                self.assertIn(ends, (["/dev/null"] * 3, ["/null"] * 3), closed)
                self.assert_connected(*self.pair(self.lab.remote, lab.REMOTE4, guest=guest))
                os.kill(daemon, 15)
                lab.wait_until(lambda: not alive(daemon), 3, "the end of the daemon")

    def test_crun2283_maps_that_cannot_be_written(self):
        """As in a container whose /proc is read-only."""
        script = 'mount --bind /proc /proc && mount -o remount,bind,ro /proc && exec "$@"'
        argv = self.lab.program.run([], ["ip", "-4", "addr", "show", "dev", "eth0"])
        done = self.lab.call(self.lab.as_user(["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", script, "sh",
                                               *argv]), check=False)
        self.assertIn(lab.HOST4, done.stdout, done.stderr)
        self.assertIn("map", done.stderr)

    def in_chroot(self, *options):
        """A root on a shared mount: pivot_root(2) fails there with EINVAL, as it does on an initial RAM file system."""
        script = """
            mount --make-rprivate / && mount --make-shared / && mount -t tmpfs none /mnt && cd /mnt || exit 90
            mkdir proc dev sys tmp run etc usr var || exit 91
            for d in bin sbin lib lib64; do [ -L /$d ] && ln -s usr/$d $d; done
            for d in proc dev sys tmp etc usr var; do mount --rbind /$d $d || exit 92; done
            exec chroot . "$@" """
        argv = self.lab.program.run(["--netns-only", *options], ["ping", "-c1", "-W2", lab.REMOTE4])
        return self.lab.call(self.lab.as_root(["unshare", "--mount", "sh", "-c", script, "sh", *argv]), check=False)

    def test_b104_root_that_cannot_be_replaced(self):
        done = self.in_chroot()
        self.assertEqual(done.returncode, 1)
        self.assertIn("--chroot-fallback", done.stderr)

    def test_b104_chroot_fallback(self):
        self.assertIn("1 received", self.in_chroot("--chroot-fallback").stdout)

    def test_upstream_2024_02_no_inotify(self):
        """The user has no instance left: the end of the namespace is noticed all the same."""
        script = r"""
            mount -t tmpfs none /mnt && touch /mnt/box && unshare --net mount --bind /proc/thread-self/ns/net /mnt/box || exit 90
            echo 0 >/proc/sys/user/max_inotify_instances || exit 91
            "$@" || exit 92
            read pid </tmp/pid
            umount /mnt/box && rm /mnt/box
            for i in $(seq 60); do [ -d /proc/$pid ] || { echo gone; exit; }; sleep 0.05; done"""
        script = script.replace("/tmp/pid", pid_file := self.lab.file("pid"))
        done = self.lab.call(self.lab.as_user(
            ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", script, "sh",
             *self.lab.program.attach(["-q", "-P", pid_file], "/mnt/box")]), check=False)
        self.assertEqual((done.returncode, done.stdout, done.stderr), (0, "gone\n", ""))

    def test_rhbz2426863_unreadable_sysctls(self):
        script = f"""mount -t tmpfs -o mode=0700 none /proc/sys/net && exec setpriv --reuid={lab.USER} --regid={lab.USER} \
            --clear-groups -- "$@" """
        exchange = ("import socket; s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.settimeout(3); "
                    f"s.sendto(b'x', ('{lab.REMOTE4}', 4461)); print(s.recv(9))")
        argv = self.lab.as_root(["unshare", "--mount", "sh", "-c", script, "sh",
                                 *self.lab.program.run(["-q"], ["/usr/bin/python3", "-c", exchange])])
        with self.lab.service(self.lab.remote, "echo", "--listen", f"{lab.REMOTE4}:4461"):
            done = self.lab.call(argv, check=False)
        self.assertEqual(done.stdout, "b'x'\n", done.stderr)

    def test_p23737_p27634_restart_with_connections_in_time_wait(self):
        for _ in range(5):
            with self.lab.guest("-t", "8053") as guest:
                client, served, _ = self.inbound(self.lab.remote, lab.HOST4, 8053, guest=guest)
                self.assert_connected(client, served)
                served.close()
                self.assertEqual(client.recv(1), b"")
                client.close()
                # One more is cut off by the end.
                self.inbound(self.lab.remote, lab.HOST4, 8053, guest=guest)

    def test_p24804_errors_are_told_from_inside_the_sandbox(self):
        path = os.path.join(self.lab.dir, f"log-{time.monotonic_ns()}")
        with self.lab.guest("-l", path, "--trace") as guest:
            for address in (lab.UNREACHABLE4, lab.UNREACHABLE6):
                with self.assertRaises(OSError):
                    guest.connect(address, 80, timeout=2)
            self.assert_connected(*self.pair(self.lab.remote, lab.REMOTE4, guest=guest))
        with open(path, encoding="utf-8") as file:
            self.assertIn(f"> {lab.UNREACHABLE4}", file.read())

    def test_d21_outbound_interface_that_does_not_exist(self):
        done = self.run_command("true", options=["--outbound-if4", "nosuch0"])
        self.assertEqual(done.returncode, 1)
        self.assertIn("nosuch0", done.stderr)

    def test_d21_group_address_as_mac(self):
        done = self.run_command("true", options=["-M", "01:00:5e:00:00:01"])
        self.assertEqual(done.returncode, 1)
        self.assertIn("01:00:5e:00:00:01", done.stderr)

    def test_d21_mtu_below_the_smallest(self):
        done = self.run_command("true", options=["-m", "67"])
        self.assertEqual(done.returncode, 1)
        self.assertIn("67", done.stderr)


class Freebind(Case):
    """A port on an address that the host gets later."""

    LATER = "198.51.100.77"

    def later(self):
        self.lab.ip("host", f"addr add {self.LATER}/32 dev lo")
        self.addCleanup(subprocess.run, ["ip", "-netns", f"{self.lab.name}host", "addr", "del", f"{self.LATER}/32",
                                         "dev", "lo"], check=False)

    def test_b101_tcp(self):
        with self.lab.guest("--freebind", "-t", f"{self.LATER}/8084") as guest:
            self.later()
            self.assert_connected(*self.inbound(self.lab.host, self.LATER, 8084, guest=guest)[:2])

    def test_b174_udp(self):
        with self.lab.guest("--freebind", "-u", f"{self.LATER}/8084") as guest:
            self.later()
            server = self.closing(guest.bind("0.0.0.0", 8084))
            client = self.closing(self.lab.host.bind("0.0.0.0"))
            client.sendto(b"question", (self.LATER, 8084))
            data, peer = server.recvfrom(100)
            self.assertEqual(data, b"question")
            server.sendto(b"answer", peer)
            self.assertEqual(client.recvfrom(100), (b"answer", (self.LATER, 8084)))


def read_pid(path):
    with open(path, encoding="ascii") as file:
        return int(file.read())
