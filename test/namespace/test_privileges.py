"""Who we are and where: root and ordinary users, other users' namespaces, containers that lack something. Ids such as b172
or D21 are those of known defects of other translators."""

import contextlib
import os
import signal
import socket
import subprocess
import time
import unittest.mock

import lab
from support import Case


def status(pid):
    with open(f"/proc/{pid}/status", encoding="ascii") as file:
        return {name: value.strip() for name, _, value in (line.partition(":") for line in file)}


def ids(pid):
    """User and group."""
    now = status(pid)
    return now["Uid"].split()[0], now["Gid"].split()[0]


def has_ended(pid):
    try:
        return status(pid)["State"][0] in "ZX"
    except OSError:
        return True


def without_setfcap(argv):
    return ["setpriv", "--bounding-set=-setfcap", "--inh-caps=-setfcap", "--", *argv]


class PrivilegeCase(Case):
    @contextlib.contextmanager
    def as_root(self):
        """The laboratory starts programs as root, not as an ordinary user."""
        with unittest.mock.patch.object(self.lab, "as_user", self.lab.as_root):
            yield

    def root_guest(self, *options, **more):
        with self.as_root():
            return self.closing(self.lab.guest(*options, **more))

    def attach_as_root(self, target, *options):
        """Returns the process id of what stays in the background."""
        path = self.lab.file("pid")
        with self.as_root():
            self.lab.attach(target, "-q", "-P", path, *options)
        with open(path, encoding="ascii") as file:
            pid = int(file.read())
        self.addCleanup(self.kill, pid)
        return pid

    def kill(self, pid):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)

    def run_as_root(self, *command, options=(), prefix=()):
        argv = self.lab.as_root([*prefix, *self.lab.program.run(["-q", *options], list(command))])
        return self.lab.call(argv, check=False)

    def run_as_user(self, *command, options=(), prefix=(), **more):
        argv = self.lab.as_user([*prefix, *self.lab.program.run(["-q", *options], list(command))])
        return self.lab.call(argv, check=False, **more)

    def root_owned_namespace(self):
        name = f"{self.lab.name}owned"
        self.lab.call(["ip", "netns", "add", name])
        self.addCleanup(subprocess.run, ["ip", "netns", "delete", name], check=False, capture_output=True)
        return lab.Namespace(f"/run/netns/{name}")

    def assert_served(self, guest):
        self.assert_connected(*self.pair(self.lab.remote, lab.REMOTE4, guest=guest))

    def assert_ended(self, pid, seconds=3):
        lab.wait_until(lambda: has_ended(pid), seconds, "its end")


class Root(PrivilegeCase):
    def test_D21_root_runs_a_command(self):
        self.assert_served(self.root_guest())

    def test_D21_root_runs_a_command_without_user_namespace(self):
        guest = self.root_guest("--netns-only")
        self.assert_served(guest)
        self.assertEqual(os.readlink(f"/proc/{guest.pid}/ns/user"), os.readlink("/proc/self/ns/user"))

    def test_D21_root_attaches_to_its_own_namespace(self):
        guest = self.root_owned_namespace()
        self.attach_as_root(guest.path)
        self.assert_served(guest)

    def test_root_attaches_to_a_namespace_of_another_user(self):
        with self.lab.empty_guest() as guest:
            self.attach_as_root(str(guest.pid))
            self.assert_served(guest)

    def test_root_becomes_nobody(self):
        pid = self.attach_as_root(self.root_owned_namespace().path)
        self.assertEqual(ids(pid), ("65534", "65534"))
        now = status(pid)
        self.assertEqual([int(now[f"Cap{kind}"], 16) for kind in ("Prm", "Eff", "Inh", "Bnd", "Amb")], [0] * 5)
        self.assertEqual((now["Groups"], now["NoNewPrivs"]), ("", "1"))

    def test_root_becomes_nobody_in_the_namespace_too(self):
        """What makes sockets there keeps the right to bind low ports, what changes the interface that to administer networks,
        and what reads resolv.conf none. All end with the other."""
        pid = self.attach_as_root(self.root_owned_namespace().path, "-T", "auto")
        helpers = {lab.comm(helper): helper for helper in lab.descendants(pid) - {pid}}
        rights = {"spelt-broker": 1 << 10, "spelt-upkeep": 1 << 12, "spelt-reader": 0}
        self.assertEqual(set(helpers), set(rights))
        for name, helper in helpers.items():
            lab.wait_until(lambda: status(helper)["Seccomp"] == "2", 5, f"the filter of {name}")
            now = status(helper)
            self.assertEqual((*ids(helper), now["Groups"], now["NoNewPrivs"]), ("65534", "65534", "", "1"), name)
            self.assertEqual([int(now[f"Cap{kind}"], 16) for kind in ("Prm", "Eff", "Inh", "Bnd", "Amb")],
                             [rights[name], rights[name], 0, 0, 0], name)
            os.kill(helper, signal.SIGSTOP)
        self.kill(pid)
        for helper in helpers.values():
            self.assert_ended(helper)

    def test_helpers_go_on_after_a_stop(self):
        """As of a whole container, or of a session before the machine sleeps: the kernel makes a system call of its own then."""
        pid = self.attach_as_root(self.root_owned_namespace().path, "-T", "auto")
        helpers = lab.descendants(pid)
        self.assertEqual(len(helpers), 3)
        for helper in helpers:
            lab.wait_until(lambda: status(helper)["Seccomp"] == "2", 5, "the filter")
        # Each waits for something then.
        time.sleep(0.2)
        for helper in helpers:
            os.kill(helper, signal.SIGSTOP)
            lab.wait_until(lambda: status(helper)["State"].startswith("T"), 5, "the stop")
            os.kill(helper, signal.SIGCONT)
        time.sleep(0.2)
        self.assertEqual([status(helper)["State"][0] for helper in helpers], ["S"] * 3)
        self.kill(pid)

    def test_root_of_a_container_becomes_nobody(self):
        """Such a root has no CAP_SYS_ADMIN, but may enter a user namespace that it made."""
        holder = self.lab.popen(self.lab.as_root(["unshare", "-Urn", "sh", "-c", "echo; exec cat"]),
                                stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self.addCleanup(self.lab.end, holder)
        lab.read_line(holder.stdout, 5)
        path = self.lab.file("pid")
        argv = self.lab.program.attach(["-q", "-P", path], str(holder.pid))
        with open(self.lab.file("attach"), "w+b") as out:
            argv = self.lab.as_root(["setpriv", "--bounding-set=-sys_admin", "--inh-caps=-sys_admin", "--", *argv])
            done = subprocess.run(argv, stdin=subprocess.DEVNULL, stdout=out, stderr=out, timeout=10, check=False)
            out.seek(0)
            self.assertEqual((done.returncode, out.read()), (0, b""))
        with open(path, encoding="ascii") as file:
            pid = int(file.read())
        self.addCleanup(self.kill, pid)
        self.assertEqual(ids(pid), ("65534", "65534"))
        self.assert_served(lab.Namespace(f"/proc/{holder.pid}/ns/net"))

    def test_root_who_runs_a_command_has_no_capabilities(self):
        guest = self.root_guest()
        pid = guest.translator()
        self.assertEqual([int(status(pid)[f"Cap{kind}"], 16) for kind in ("Prm", "Eff", "Inh", "Bnd", "Amb")], [0] * 5)
        self.assertEqual(os.listdir(f"/proc/{pid}/root"), [])

    def test_root_killed_leaves_nothing(self):
        guest = self.root_guest()
        os.kill(guest.translator(), signal.SIGKILL)
        self.assert_ended(guest.pid)

    def test_root_ends_soon_after_a_name_it_may_not_look_at(self):
        """As nobody it may not enter the directory."""
        guest = self.root_owned_namespace()
        directory = self.lab.file("private")
        os.unlink(directory)
        os.mkdir(directory, 0o700)
        path = os.path.join(directory, "box")
        with open(path, "wb"):
            pass
        self.lab.call(["mount", "--bind", guest.path, path])
        self.addCleanup(subprocess.run, ["umount", "-l", path], check=False, capture_output=True)
        pid = self.attach_as_root(path)
        self.assertEqual(ids(pid)[0], "65534")
        subprocess.run(["umount", "-l", path], check=True)
        os.unlink(path)
        self.assert_ended(pid)

    def test_libguestfs_218_root_writes_where_only_another_user_may(self):
        directory = self.lab.file("theirs")
        os.unlink(directory)
        os.mkdir(directory, 0o700)
        os.chown(directory, 12345, 12345)
        path = os.path.join(directory, "pid")
        with self.as_root():
            self.lab.attach(self.root_owned_namespace().path, "-q", "-P", path, "-l", os.path.join(directory, "log"))
        with open(path, encoding="ascii") as file:
            self.addCleanup(self.kill, int(file.read()))
        self.assertEqual(sorted(os.listdir(directory)), ["log", "pid"])


class RunAs(PrivilegeCase):
    def test_attach_as_a_number(self):
        guest = self.root_owned_namespace()
        pid = self.attach_as_root(guest.path, "--runas", "0x7b:010")
        self.assertEqual(ids(pid), ("123", "8"))
        self.assert_served(guest)

    def test_attach_as_a_login(self):
        pid = self.attach_as_root(self.root_owned_namespace().path, "--runas", "daemon")
        self.assertEqual(ids(pid), ("1", "1"))

    def test_attach_as_a_login_and_a_group(self):
        pid = self.attach_as_root(self.root_owned_namespace().path, "--runas", "daemon:bin")
        self.assertEqual(ids(pid), ("1", "2"))

    def test_attach_as_root(self):
        pid = self.attach_as_root(self.root_owned_namespace().path, "--runas", "0")
        self.assertEqual(ids(pid), ("0", "0"))
        self.assertEqual(int(status(pid)["CapPrm"], 16), 0)

    def test_command_belongs_to_the_user(self):
        guest = self.root_guest("--runas", "1234:5678")
        self.assertEqual(ids(guest.pid), ("1234", "5678"))
        self.assertEqual(ids(guest.translator()), ("1234", "5678"))
        self.assertEqual(guest.output("cat /proc/self/uid_map").split(), ["0", "1234", "1"])
        self.assert_served(guest)

    def test_ports_of_root_are_bound_before(self):
        guest = self.root_guest("--runas", "1234", "-t", "81")
        self.assert_connected(*self.inbound(self.lab.remote, lab.HOST4, 81, guest=guest)[:2])

    def test_ports_of_root_may_be_bound_later(self):
        """CAP_NET_BIND_SERVICE stays where ports are to be found out while we run."""
        guest = self.root_guest("--runas", "1234", "-t", "auto")
        now = status(guest.translator())
        self.assertEqual(now["Uid"].split()[0], "1234")
        self.assertEqual([int(now[f"Cap{kind}"], 16) for kind in ("Prm", "Eff", "Bnd")], [1 << 10, 1 << 10, 0])

    def test_command_of_another_user_does_not_outlive_us(self):
        guest = self.root_guest("--runas", "1234")
        os.kill(guest.translator(), signal.SIGKILL)
        self.assert_ended(guest.pid)

    def test_signals_reach_the_command_of_another_user(self):
        guest = self.root_guest("--runas", "1234")
        os.kill(guest.translator(), signal.SIGTERM)
        self.assert_ended(guest.pid)

    def test_without_user_namespace(self):
        guest = self.root_guest("--runas", "1234:5678", "--netns-only")
        self.assertEqual(ids(guest.pid), ("1234", "5678"))
        self.assertEqual(int(status(guest.pid)["CapEff"], 16), 0)
        self.assert_served(guest)

    def test_own_number_needs_no_privilege(self):
        self.assertEqual(self.run_as_user("true", options=["--runas", f"{lab.USER}:{lab.USER}"]).returncode, 0)

    def assert_refused(self, text, done):
        self.assertEqual(done.returncode, 1)
        self.assertEqual(len(done.stderr.splitlines()), 1, done.stderr)
        self.assertIn(text, done.stderr)

    def test_root_by_name_is_refused(self):
        self.assert_refused("'root' is root", self.run_as_root("true", options=["--runas", "root"]))

    def test_unknown_login_is_refused(self):
        self.assert_refused("unknown user 'nosuch'", self.run_as_root("true", options=["--runas", "nosuch"]))

    def test_unknown_group_is_refused(self):
        self.assert_refused("unknown group 'nosuch'", self.run_as_root("true", options=["--runas", "5:nosuch"]))

    def test_another_user_without_privilege_is_refused(self):
        self.assert_refused("only root may", self.run_as_user("true", options=["--runas", "0"]))

    def test_id_that_is_not_mapped_is_refused(self):
        done = self.run_as_user("true", options=["--runas", "5"], prefix=["unshare", "-Ur"])
        self.assert_refused("/proc/self/uid_map", done)


class Places(PrivilegeCase):
    """Where we may be started."""

    def in_user_namespace(self, script, *command, options=()):
        """The script runs as root of an ordinary user's namespaces and ends with `exec "$@"`."""
        argv = self.lab.program.run(["-q", *options], list(command))
        return self.lab.call(self.lab.as_user(["unshare", "-Urm", "sh", "-c", script, "sh", *argv]), check=False)

    def test_b172_inside_another_instance(self):
        inner = self.lab.program.run([], ["sh", "-c", "readlink /proc/self/ns/net; exec cat"])
        with self.lab.guest(command=inner) as guest:
            self.assert_served(guest)

    def test_b172_inside_a_user_namespace(self):
        done = self.in_user_namespace('exec "$@"', "cat", "/proc/self/uid_map")
        self.assertEqual((done.stdout.split(), done.stderr), (["0", "0", "1"], ""))

    def test_crun_2283_maps_cannot_be_written(self):
        done = self.run_as_root("ip", "-4", "-o", "addr", prefix=without_setfcap([]))
        self.assertEqual(done.returncode, 0)
        self.assertIn(lab.HOST4, done.stdout)
        self.assertEqual(len(done.stderr.splitlines()), 1, done.stderr)
        self.assertIn("CAP_SETFCAP", done.stderr)

    def test_crun_2283_maps_cannot_be_written_in_a_user_namespace(self):
        done = self.run_as_user("ip", "-4", "-o", "addr", prefix=["unshare", "-Ur", *without_setfcap([])])
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertIn(lab.HOST4, done.stdout)

    def test_b216_netns_only_writes_no_maps(self):
        done = self.run_as_root("cat", "/proc/self/uid_map", options=["--netns-only"], prefix=without_setfcap([]))
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        self.assertEqual(done.stdout.split(), ["0", "0", "4294967295"])

    def test_netns_only_needs_root(self):
        done = self.run_as_user("true", options=["--netns-only"])
        self.assertEqual((done.returncode, len(done.stderr.splitlines())), (1, 1))
        self.assertIn("only root may", done.stderr)

    def test_user_without_a_map(self):
        done = self.run_as_user("true", prefix=["unshare", "-U"])
        self.assertEqual((done.returncode, len(done.stderr.splitlines())), (1, 1))
        self.assertIn("user namespaces are forbidden here", done.stderr)

    def test_no_tun_device(self):
        done = self.in_user_namespace('mount -t tmpfs none /dev/net && exec "$@"', "true")
        self.assertEqual((done.returncode, len(done.stderr.splitlines())), (1, 1))
        for part in ("/dev/net/tun", "modprobe tun", "--device /dev/net/tun"):
            self.assertIn(part, done.stderr)

    def test_processes_of_others_are_hidden(self):
        script = 'mount -o remount,hidepid=2 /proc && exec "$@"'
        argv = self.lab.program.run(["-q"], ["ip", "-4", "-o", "addr"])
        done = self.lab.call(self.lab.as_user(["unshare", "-Urmpf", "--mount-proc", "sh", "-c", script, "sh", *argv]))
        self.assertIn(lab.HOST4, done.stdout)

    def test_no_proc(self):
        done = self.in_user_namespace('mount -t tmpfs none /proc && exec "$@"', "ip", "-4", "-o", "addr")
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertIn(lab.HOST4, done.stdout)

    def test_p24804_telling_of_errors_is_allowed(self):
        """What it takes to put an error into words must still be there in the sandbox."""
        with self.lab.guest("--trace") as guest:
            for address in (lab.UNREACHABLE4, lab.UNREACHABLE6, lab.REMOTE4, lab.REMOTE6):
                with self.assertRaises(OSError):
                    guest.connect(address, 9, timeout=3)
                with guest.socket(lab.family_of(address), socket.SOCK_DGRAM) as datagrams:
                    datagrams.sendto(b"?", (address, 9))
            self.assert_served(guest)
            self.assertIn(lab.UNREACHABLE4, guest.errors())

    def test_2024_02_no_inotify(self):
        # `ip netns add` may not return to the namespace it came from, but has done its work then.
        script = """mount -t tmpfs none /run; ip netns add box 2>/dev/null
            [ -e /run/netns/box ] && echo 0 >/proc/sys/user/max_inotify_instances || exit 9
            "$@" & sleep 0.5; kill -0 $! || exit 8; ip netns delete box; wait $!"""
        argv = self.lab.program.attach(["-q", "-f"], "/run/netns/box")
        began = time.monotonic()
        done = self.lab.call(self.lab.as_user(["unshare", "-Urm", "sh", "-c", script, "sh",
                                               *argv]), check=False)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertLess(time.monotonic() - began, 4)

    def test_memory_file(self):
        script = ("import os, sys; fd = os.memfd_create('x'); os.write(fd, open(sys.argv[1], 'rb').read()); "
                  "os.execve(fd, ['pasta', '-q', '--config-net', '--', 'ip', '-4', '-o', 'addr'], os.environ)")
        done = self.lab.call(self.lab.as_user(["/usr/bin/python3", "-c", script, self.lab.program.path]))
        self.assertIn(lab.HOST4, done.stdout)

    def chroot(self, *options):
        """In a chroot on which pivot_root(2) fails as on an initial RAM file system: its parent mount is shared."""
        directory = self.lab.file("chroot")
        os.unlink(directory)
        os.mkdir(directory)
        pid_file = self.lab.file("pid")
        argv = self.lab.program.attach(["-q", "-P", pid_file, *options], self.root_owned_namespace().path)
        script = 'mount --rbind / "$0" && exec chroot "$0" "$@"'
        done = self.lab.call(self.lab.as_root(["unshare", "-m", "--propagation", "shared", "sh", "-c", script, directory,
                                               *argv]), check=False)
        return done, pid_file

    def test_b104_no_pivot_root(self):
        done, _ = self.chroot()
        self.assertEqual((done.returncode, len(done.stderr.splitlines())), (1, 1))
        self.assertIn("--chroot-fallback", done.stderr)

    def test_b104_no_pivot_root_with_fallback(self):
        done, pid_file = self.chroot("--chroot-fallback")
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        with open(pid_file, encoding="ascii") as file:
            pid = int(file.read())
        self.addCleanup(self.kill, pid)
        self.assertEqual(os.listdir(f"/proc/{pid}/root"), [])

    def assert_works_without(self, number):
        """The numbers of standard streams must not come to mean something else."""
        pid_file = self.lab.file("pid")
        with self.lab.empty_guest() as guest:
            argv = self.lab.program.attach(["-q", "-f", "-P", pid_file], str(guest.pid))
            process = self.lab.popen(self.lab.as_user(["sh", "-c", f'exec "$@" {number}>&-', "sh", *argv]))
            self.addCleanup(self.lab.end, process)
            pid = int(lab.wait_until(lambda: open(pid_file, encoding="ascii").read(), 5, "the PID file"))
            # Its directory is not mounted any more.
            self.assertEqual(os.path.basename(os.readlink(f"/proc/{pid}/fd/{number}")), "null")
            self.assert_served(guest)

    def test_b215_standard_input_closed(self):
        self.assert_works_without(0)

    def test_b215_standard_output_closed(self):
        self.assert_works_without(1)

    def test_b215_standard_error_closed(self):
        self.assert_works_without(2)


class Choices(PrivilegeCase):
    """Options about the namespaces."""

    def test_no_netns_quit(self):
        guest = self.root_owned_namespace()
        pid = self.attach_as_root(guest.path, "--no-netns-quit")
        self.lab.call(["ip", "netns", "delete", os.path.basename(guest.path)])
        time.sleep(1.5)
        self.assertTrue(os.path.exists(f"/proc/{pid}"))

    def test_no_pidns(self):
        with self.lab.guest("--no-pidns") as guest:
            self.assertEqual(os.readlink(f"/proc/{guest.pid}/ns/pid"), os.readlink("/proc/self/ns/pid"))
            self.assert_served(guest)

    def test_no_pidns_killed_leaves_no_command(self):
        with self.lab.guest("--no-pidns") as guest:
            os.kill(guest.translator(), signal.SIGKILL)
            self.assert_ended(guest.pid)

    def test_ns_ifname_and_mac(self):
        with self.lab.guest("--ns-ifname", "blue0", "--ns-mac-addr", "02:11:22:33:44:55") as guest:
            shown = guest.output("ip -o link show blue0")
        self.assertIn("link/ether 02:11:22:33:44:55", shown)

    def pasta(self, *argv):
        path = self.lab.install(self.lab.program.path, "pasta")
        return self.lab.call(self.lab.as_user([path, "-q", *argv]))

    def test_no_copy_addrs_and_routes(self):
        shown = self.pasta("--config-net", "--no-copy-addrs", "--no-copy-routes", "--", "sh", "-c", "ip -4 -o addr; ip route")
        self.assertIn(f"inet {lab.HOST4}/24", shown.stdout)
        self.assertIn(f"default via {lab.GATEWAY4}", shown.stdout)

    def test_user_and_network_namespace_by_path(self):
        with self.lab.empty_guest() as guest:
            self.pasta("--config-net", "--userns", f"/proc/{guest.pid}/ns/user", "--netns", f"/proc/{guest.pid}/ns/net")
            self.assert_served(guest)
