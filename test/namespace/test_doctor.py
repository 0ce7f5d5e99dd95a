"""What `spelt doctor` says of machines that allow less than others."""

import errno
import json
import os
import pty
import unittest.mock

# Not a class of it, whose tests would be this file's too.
import test_seccomp
from support import Case


class Doctor(Case):
    def call(self, *options, wrapper=(), where=None, user=None):
        argv = [*wrapper, self.lab.program.path, "doctor", *options]
        return self.lab.call((user or self.lab.as_user)(argv, where), check=False)

    def findings(self, *wrapper, **more):
        """By id, and the status."""
        done = self.call("--json", wrapper=wrapper, **more)
        self.assertEqual(done.stderr, "")
        found = {finding["id"]: finding for finding in json.loads(done.stdout)}
        for finding in found.values():
            self.assertEqual(set(finding), {"id", "state", "what", "found", "mend"})
            # Every advice names a command or a file, and nothing else is advised.
            if finding["state"] == "ok":
                self.assertIsNone(finding["mend"])
            else:
                self.assertRegex(finding["mend"], "[`/]", finding)
        self.assertEqual(done.returncode, int(any(f["state"] == "missing" for f in found.values())), done.stdout)
        return found, done.returncode

    def runs(self, *wrapper, user=None):
        """The status of `run` in the same circumstances."""
        argv = [*wrapper, *self.lab.program.run(["-q"], ["true"])]
        return self.lab.call((user or self.lab.as_user)(argv), check=False).returncode

    def assert_found(self, finding, state, found, mend):
        self.assertEqual(finding["state"], state, finding)
        self.assertIn(found, finding["found"])
        self.assertIn(mend, finding["mend"])


class Well(Doctor):
    def test_where_run_works(self):
        with unittest.mock.patch.dict(os.environ, XDG_RUNTIME_DIR=self.lab.dir):
            found, status = self.findings()
        self.assertEqual((status, self.runs()), (0, 0))
        for name in ("user-namespaces", "tun", "tap", "isolation", "seccomp", "landlock", "ping", "peek-offset", "udp-offloads",
                     "socket-lists", "runtime-dir", "ipv6", "route-ipv4", "route-ipv6", "names"):
            self.assertEqual(found[name]["state"], "ok", found[name])
        self.assertIn("gateway 192.0.2.1", found["route-ipv4"]["found"])

    def test_by_root(self):
        found, status = self.findings(user=self.lab.as_root)
        self.assertEqual((status, found["tap"]["state"]), (0, "ok"), found)

    def test_lines_are_aligned_and_end_with_a_sentence(self):
        done = self.call()
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        *lines, empty, last = done.stdout.splitlines()
        self.assertEqual((empty, last.startswith("spelt can ")), ("", True))
        column = lines[0].index("  6.") if "  6." in lines[0] else lines[0].rindex("  ", 0, 40)
        for line in lines:
            self.assertRegex(line, "^(ok|warning|missing) +[A-Za-z/]")
            self.assertRegex(line[column:], r"^  \S")
        self.assertNotIn("\x1b", done.stdout)

    def test_colours_are_for_terminals(self):
        def printed(**environment):
            ours, theirs = pty.openpty()
            with unittest.mock.patch.dict(os.environ, TERM="xterm", **environment):
                argv = self.lab.as_user([self.lab.program.path, "doctor"])
                process = self.lab.popen(argv, stdin=theirs, stdout=theirs, stderr=theirs)
            os.close(theirs)
            text = b""
            try:
                while piece := os.read(ours, 65536):
                    text += piece
            except OSError as e:
                # How a terminal ends whose other side is closed.
                self.assertEqual(e.errno, errno.EIO)
            os.close(ours)
            self.lab.end(process)
            return text
        self.assertIn(b"\x1b[32mok", printed())
        self.assertNotIn(b"\x1b", printed(NO_COLOR="1"))

    def test_nothing_stays(self):
        self.call()
        links = self.lab.call(["ip", "-netns", f"{self.lab.name}host", "-brief", "link"]).stdout
        self.assertNotIn("spelt0", links)


class Commands(Doctor):
    def test_help_and_version(self):
        done = self.call("--help")
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        self.assertIn("Usage: spelt doctor [--json]", done.stdout)
        self.assertTrue(all(len(line) <= 80 for line in done.stdout.splitlines()), done.stdout)
        self.assertRegex(self.call("-V").stdout, r"^spelt \S+\n$")
        overview = self.lab.call([self.lab.program.path, "--help"]).stdout
        self.assertRegex(overview, r"\n  doctor +\S")

    def test_other_arguments_are_refused(self):
        done = self.call("--jsn")
        self.assertEqual((done.returncode, done.stdout, done.stderr.count("\n")), (1, "", 1))
        self.assertIn("'--jsn'", done.stderr)

    def test_it_is_no_command_of_pasta(self):
        pasta = self.lab.install(self.lab.program.path, "pasta")
        done = self.lab.call(self.lab.as_user([pasta, "--config-net", "-q", "doctor"]), check=False)
        self.assertEqual((done.returncode, done.stdout), (127, ""))


class Ill(Doctor):
    """Something is not allowed, and `run` does not start."""

    def in_mounts(self, script):
        """A wrapper: mounts of one's own, changed by a shell's script as root."""
        def user(argv, where=None):
            shell = f'{script}; exec setpriv --reuid=65534 --regid=65534 --clear-groups -- "$@"'
            return self.lab.as_root(["unshare", "--mount", "sh", "-ec", shell, "sh", *argv], where)
        return user

    def test_without_the_device(self):
        user = self.in_mounts("mount -t tmpfs none /dev/net")
        found, status = self.findings(user=user)
        self.assertEqual((status, self.runs(user=user)), (1, 1))
        self.assert_found(found["tun"], "missing", "No such file", "modprobe tun")
        self.assert_found(found["tap"], "missing", "No such file", "/dev/net/tun")
        self.assertEqual(found["user-namespaces"]["state"], "ok")

    def test_without_the_right_to_the_device(self):
        user = self.in_mounts("mount -t tmpfs none /dev/net; mknod -m 600 /dev/net/tun c 10 200")
        found, status = self.findings(user=user)
        self.assertEqual((status, self.runs(user=user)), (1, 1))
        self.assert_found(found["tun"], "missing", "Permission denied", "chmod 0666 /dev/net/tun")

    def test_without_user_namespaces(self):
        wrapper = ["unshare", "--user", "--map-root-user", "sh", "-ec",
                   'echo 0 >/proc/sys/user/max_user_namespaces; exec "$@"', "sh"]
        found, status = self.findings(*wrapper)
        self.assertEqual((status, self.runs(*wrapper)), (1, 1))
        self.assert_found(found["user-namespaces"], "missing", "user.max_user_namespaces is 0",
                          "sysctl -w user.max_user_namespaces=")
        self.assert_found(found["tap"], "warning", "not tried", "spelt doctor")

    def test_without_mechanisms_of_the_kernel(self):
        for lacking, name in ((test_seccomp.Lacking.LANDLOCK, "landlock"), (test_seccomp.Lacking.FILTER, "seccomp")):
            wrapper = ["/usr/bin/python3", "-c", test_seccomp.WITHOUT, *map(str, lacking)]
            found, status = self.findings(*wrapper)
            self.assertEqual((status, self.runs(*wrapper)), (1, 1))
            for finding in (found[name], found["isolation"]):
                self.assertEqual(finding["state"], "missing", finding)
                self.assertIn("--allow-degraded", finding["mend"])

    def test_where_all_namespaces_are_forbidden(self):
        """As in a container."""
        wrapper = ["/usr/bin/python3", "-c", test_seccomp.WITHOUT, *map(str, test_seccomp.Lacking.NAMESPACES)]
        found, status = self.findings(*wrapper)
        self.assertEqual(status, 1)
        self.assert_found(found["isolation"], "missing", "user namespace", "--allow-degraded")

    def test_a_limit_on_files_that_leaves_none(self):
        wrapper = ["prlimit", "--nofile=12:12", "--"]
        found, status = self.findings(*wrapper)
        self.assertEqual((status, self.runs(*wrapper)), (1, 1))
        self.assert_found(found["open-files"], "missing", "12", "LimitNOFILE=")


class Poorer(Doctor):
    """Guests do without something, and `run` starts."""

    def test_ping_is_for_other_groups(self):
        with self.lab.another_host("addr add 192.0.2.9/24 dev eth0", "route add default via 192.0.2.1") as (host, _):
            host.sysctl("net.ipv4.ping_group_range", "1 0")
            found, status = self.findings(where=host)
            self.assertEqual(status, 0)
            self.assert_found(found["ping"], "warning", "no groups; yours: 65534", "net.ipv4.ping_group_range=")
            host.sysctl("net.ipv4.ping_group_range", "65534 65534")
            self.assertEqual(self.findings(where=host)[0]["ping"]["state"], "ok")

    def test_a_low_limit_on_files(self):
        wrapper = ["prlimit", "--nofile=200:300", "--"]
        found, status = self.findings(*wrapper)
        self.assertEqual((status, self.runs(*wrapper)), (0, 0))
        self.assert_found(found["open-files"], "warning", "200, which spelt raises to 300", "LimitNOFILE=")

    def test_a_host_without_a_network(self):
        with self.lab.another_host(ipv6=False) as (host, _):
            found, status = self.findings(where=host)
            self.assertEqual(status, 0)
            self.assert_found(found["route-ipv4"], "warning", "reaches the host only", "ip -4 route")
            self.assert_found(found["ipv6"], "warning", "disable_ipv6 is 1", "sysctl -w")
            self.assertNotIn("route-ipv6", found)

    def test_ports_that_are_privileged_elsewhere(self):
        with self.lab.another_host() as (host, _):
            host.sysctl("net.ipv4.ip_unprivileged_port_start", "80")
            found, _ = self.findings(where=host)
            self.assertIn("80 and above", found["low-ports"]["found"])

    def test_no_place_for_sockets(self):
        with unittest.mock.patch.dict(os.environ, XDG_RUNTIME_DIR="/no/such/directory"):
            found, status = self.findings()
        self.assertEqual(status, 0)
        self.assert_found(found["runtime-dir"], "warning", "/no/such/directory", "spelt vm --socket")
