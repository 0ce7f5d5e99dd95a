"""Beginning and end: attach in the background, pid files, signals, kills, what is left behind."""

import json
import os
import signal
import stat
import subprocess
import time

import lab
from support import Case, both


class Attach(Case):
    def assert_served(self, guest):
        self.assert_connected(*self.pair(self.lab.remote, lab.REMOTE4, guest=guest))

    def test_by_process_id(self):
        with self.lab.attached() as guest:
            self.assert_served(guest)

    def test_by_namespace_path(self):
        with self.lab.empty_guest() as guest:
            self.lab.attach(f"/proc/{guest.pid}/ns/net")
            self.assert_served(guest)

    def test_by_descriptor_path(self):
        with self.lab.empty_guest() as guest:
            keeper = self.lab.popen(self.lab.as_user(["sh", "-c", f"exec 7</proc/{guest.pid}/ns/net; echo; exec cat"]),
                                    stdin=subprocess.PIPE, stdout=subprocess.PIPE)
            self.addCleanup(self.lab.end, keeper)
            self.assertEqual(lab.read_line(keeper.stdout, 5), "\n")
            self.lab.attach(f"/proc/{keeper.pid}/fd/7")
            self.assert_served(guest)

    def test_by_name(self):
        with self.lab.empty_guest() as guest:
            self.name_it(guest)
            self.lab.attach(f"{self.lab.name}named")
            self.assert_served(guest)

    def test_by_descriptor_of_the_program_itself(self):
        with self.lab.empty_guest() as guest, open(guest.path, "rb") as net:
            argv = self.lab.as_user(self.lab.program.attach(["-q"], "/proc/self/fd/0"))
            subprocess.run(argv, stdin=net, timeout=5, check=True)
            self.assert_served(guest)
            daemon = [pid for pid in self.lab.translators() if "/proc/self/fd/0" in command_line(pid)]
            self.assertEqual(len(daemon), 1)
            # Nothing tells of this namespace's end.
            os.kill(daemon[0], signal.SIGTERM)

    def test_by_descriptor_of_a_name(self):
        pid_file = self.lab.file("pid")
        guest = self.lab.empty_guest()
        with open(self.name_it(guest), "rb") as net:
            argv = self.lab.as_user(self.lab.program.attach(["-q", "-P", pid_file], "/proc/self/fd/0"))
            subprocess.run(argv, stdin=net, timeout=5, check=True)
        daemon = self.read_pid(pid_file)
        self.assert_served(guest)
        guest.close()
        self.unname()
        lab.wait_until(lambda: not alive(daemon), 2, "the end of the daemon")

    def test_from_inside_the_user_namespace(self):
        with self.lab.empty_guest() as guest:
            enter = ["nsenter", f"--user=/proc/{guest.pid}/ns/user", "--preserve-credentials"]
            done = self.lab.call(self.lab.as_user([*enter, *self.lab.program.attach(["-q"], guest.path)]))
            self.assertEqual(done.stderr, "")
            self.assert_served(guest)

    def test_again_after_a_kill(self):
        pid_file = self.lab.file("pid")
        with self.lab.attached("-t", "8068", "-P", pid_file) as guest:
            os.kill(self.read_pid(pid_file), signal.SIGKILL)
            lab.wait_until(lambda: "eth0" not in guest.output("ip link"), 2, "the end of the interface")
            self.lab.attach(str(guest.pid), "-t", "8068")
            self.assert_served(guest)

    def test_failure_is_said_and_leaves_no_daemon(self):
        with self.lab.attached() as guest:
            before = set(self.lab.translators())
            status, text = self.lab.attach(str(guest.pid), check=False)
            self.assertEqual((status, len(text.splitlines())), (1, 1), text)
            self.assertIn("choose another name", text)
            # One of an earlier test may have been about to end.
            self.assertLessEqual(set(self.lab.translators()), before)

    def name_it(self, guest):
        """As `ip netns attach` would: a bind mount of the namespace. Mounts made here do not show in the mount
        namespaces that `ip netns exec` makes unless they propagate, which /run/netns does."""
        path = f"/run/netns/{self.lab.name}named"
        with open(path, "w", encoding="ascii"):
            pass
        self.lab.call(["mount", "--bind", f"/proc/{guest.pid}/ns/net", path])
        self.addCleanup(self.unname)
        return path

    def unname(self):
        path = f"/run/netns/{self.lab.name}named"
        subprocess.run(["umount", "-l", path], check=False, capture_output=True)
        if os.path.exists(path):
            os.unlink(path)

    def test_everything_is_ready_at_return(self):
        with self.lab.attached("-t", "8061") as guest, guest.listen("0.0.0.0", 8061) as listener:
            self.assertIn(lab.HOST4, guest.output("ip addr"))
            client = self.closing(self.lab.remote.connect(lab.HOST4, 8061))
            self.assert_connected(client, self.closing(listener.accept()[0]))

    def test_nothing_is_printed_with_quiet(self):
        with self.lab.empty_guest() as guest:
            self.assertEqual(self.lab.attach(str(guest.pid), "-q"), (0, ""))

    def test_output_is_let_go(self):
        """A caller that reads the output to its end must not wait for the daemon."""
        with self.lab.empty_guest() as guest:
            argv = self.lab.as_user(self.lab.program.attach(["-q"], str(guest.pid)))
            done = subprocess.run(argv, capture_output=True, timeout=5, check=False, stdin=subprocess.DEVNULL)
        self.assertEqual(done.returncode, 0, done.stderr)

    def test_upstream_2024_02_ends_soon_after_the_process_it_served(self):
        pid_file = self.lab.file("pid")
        guest = self.lab.attached("-P", pid_file)
        daemon = self.read_pid(pid_file)
        self.assertTrue(alive(daemon))
        guest.close()
        lab.wait_until(lambda: not alive(daemon), 2, "the end of the daemon")

    def test_ends_soon_after_the_name_it_served(self):
        pid_file = self.lab.file("pid")
        guest = self.lab.empty_guest()
        self.name_it(guest)
        self.lab.attach(f"{self.lab.name}named", "-P", pid_file)
        daemon = self.read_pid(pid_file)
        guest.close()
        self.unname()
        lab.wait_until(lambda: not alive(daemon), 2, "the end of the daemon")

    def test_pid_file_is_complete_at_return(self):
        pid_file = self.lab.file("pid")
        with self.lab.attached("-P", pid_file):
            with open(pid_file, encoding="ascii") as file:
                self.assertRegex(file.read(), "^[0-9]+\n$")
            self.assertTrue(alive(self.read_pid(pid_file)))

    def test_pid_file_in_the_foreground(self):
        pid_file = self.lab.file("pid")
        with self.lab.guest("-P", pid_file) as guest:
            self.assertEqual(self.read_pid(pid_file), guest.translator())

    def read_pid(self, path):
        with open(path, encoding="ascii") as file:
            return int(file.read())

    def test_foreground_stays(self):
        with self.lab.empty_guest() as guest:
            process = self.lab.popen(self.lab.as_user(self.lab.program.attach(["-f"], str(guest.pid))),
                                     stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            self.addCleanup(self.lab.end, process)
            lab.wait_until(lambda: lab.HOST4 in guest.output("ip addr"), 5, "the configuration")
            self.assertIsNone(process.poll())


class Signals(Case):
    def assert_ends_cleanly(self, number):
        with self.lab.empty_guest() as guest:
            pid_file = self.lab.file("pid")
            options = ["-f", "-t", "8062", "-P", pid_file]
            process = self.lab.popen(self.lab.as_user(self.lab.program.attach(options, str(guest.pid))),
                                     stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            self.addCleanup(self.lab.end, process)
            lab.wait_until(lambda: os.path.getsize(pid_file), 5, "readiness")
            process.send_signal(number)
            self.assertEqual(process.wait(2), 0)
            self.lab.host.listen("0.0.0.0", 8062).close()

    def test_terminate(self):
        self.assert_ends_cleanly(signal.SIGTERM)

    def test_interrupt(self):
        self.assert_ends_cleanly(signal.SIGINT)

    def test_hang_up(self):
        self.assert_ends_cleanly(signal.SIGHUP)


class NothingIsLeft(Case):
    """After the end of `run`, whoever was killed: no process, no namespace, no listening port."""

    def assert_clean_after(self, kill):
        guest = self.lab.guest("-t", "8063")
        inode = f"net:[{os.stat(guest.path).st_ino}]"
        family = lab.descendants(guest.process.pid) | {guest.process.pid, guest.translator()}
        kill(guest)
        lab.wait_until(lambda: not self.lab.inside(inode), 2, "the end of the namespace's processes")
        guest.process.wait(2)
        lab.wait_until(lambda: not [pid for pid in family if alive(pid)], 2, "the end of all processes")
        self.lab.host.listen("0.0.0.0", 8063).close()
        guest.close()

    def test_program_killed(self):
        self.assert_clean_after(lambda guest: os.kill(guest.translator(), signal.SIGKILL))

    def test_command_killed(self):
        self.assert_clean_after(lambda guest: os.kill(guest.pid, signal.SIGKILL))

    def test_program_terminated(self):
        self.assert_clean_after(lambda guest: os.kill(guest.translator(), signal.SIGTERM))

    def test_command_ended(self):
        self.assert_clean_after(lambda guest: guest.process.stdin.close())

    def test_command_with_children_ended(self):
        def kill(guest):
            guest.run("sleep 100 </dev/null >/dev/null 2>&1 &")
            guest.process.stdin.close()
        self.assert_clean_after(kill)


class Confinement(Case):
    options = ()

    def status(self, field):
        with open(f"/proc/{self.guest.translator()}/status", encoding="ascii") as file:
            return [line.split(":")[1].strip() for line in file if line.startswith(field + ":")][0]

    def test_no_new_privileges(self):
        self.assertEqual(self.status("NoNewPrivs"), "1")

    def test_one_thread(self):
        self.assertEqual(self.status("Threads"), "1")

    def test_capabilities_are_few(self):
        """At most CAP_SYS_ADMIN, CAP_NET_BIND_SERVICE and CAP_NET_ADMIN, all in a user namespace of our own."""
        allowed = (1 << 21) | (1 << 10) | (1 << 12)
        self.assertEqual(int(self.status("CapEff"), 16) & ~allowed, 0)

    def test_root_directory_is_empty(self):
        self.assertEqual(os.listdir(f"/proc/{self.guest.translator()}/root"), [])

    def test_namespaces_are_detached(self):
        for kind in ("ipc", "uts", "mnt", "user"):
            self.assertNotEqual(os.readlink(f"/proc/{self.guest.translator()}/ns/{kind}"),
                                os.readlink(f"/proc/self/ns/{kind}"), kind)

    def test_user_is_an_ordinary_one(self):
        self.assertEqual(self.status("Uid").split()[0], str(lab.USER))


class Records(Case):
    def test_capture_holds_what_the_guest_sees(self):
        path = self.lab.file("pcap")
        with self.lab.guest("-p", path) as guest:
            guest.run("ping", "-c2", "-i0.2", "-W2", lab.GATEWAY4)
            self.assert_connected(*self.pair(self.lab.remote, lab.REMOTE4, guest=guest))
            time.sleep(0.3)
        shown = self.lab.call(["tshark", "-r", path, "-T", "json", "-e", "icmp.type", "-e", "tcp.flags.syn",
                               "-e", "frame.len"])
        frames = [frame["_source"]["layers"] for frame in json.loads(shown.stdout)]
        self.assertEqual([f["icmp.type"][0] for f in frames if "icmp.type" in f], ["8", "0", "8", "0"])
        self.assertEqual(len([f for f in frames if f.get("tcp.flags.syn", ["0"])[0] in ("1", "True")]), 2)

    def test_capture_is_well_formed(self):
        path = self.lab.file("pcap")
        with self.lab.guest("-p", path) as guest:
            near, far = self.pair(self.lab.remote, lab.REMOTE4, guest=guest)
            near.sendall(b"x" * 300_000)
            self.assertEqual(len(self.read(far, 300_000)), 300_000)
            time.sleep(0.3)
        shown = self.lab.call(["tshark", "-r", path, "-Y", "_ws.malformed"])
        self.assertEqual((shown.stdout, "cut short" in shown.stderr), ("", False))

    def read(self, stream, count):
        data = b""
        while len(data) < count and (piece := stream.recv(65536)):
            data += piece
        return data

    def fresh(self, name):
        """A path at which there is nothing yet."""
        return os.path.join(self.lab.dir, f"{name}-{time.monotonic_ns()}")

    def test_log_file(self):
        path = self.fresh("log")
        with self.lab.guest("-l", path, "-d"):
            pass
        self.assertGreater(os.stat(path).st_size, 0)

    def test_log_file_of_somebody_else_that_may_be_written(self):
        path = self.lab.file("log")
        with self.lab.guest("-l", path, "-d"):
            pass
        self.assertGreater(os.stat(path).st_size, 0)

    def test_log_file_is_limited(self):
        path = self.fresh("log")
        with self.lab.guest("-l", path, "--log-size", "40960", "--trace", "-t", "8064") as guest:
            for _ in range(300):
                try:
                    guest.connect(lab.REMOTE4, 9)
                except OSError:
                    pass
            self.assertGreater(os.stat(path).st_size, 20480)
            self.assertLessEqual(os.stat(path).st_size, 40960)
            with open(path, encoding="utf-8") as file:
                self.assertIn("log truncated", file.readline())

    def test_log_file_tells_why_it_ended(self):
        path = self.fresh("log")
        with self.lab.host.listen("0.0.0.0", 8069):
            done = self.run_command("true", options=["-l", path, "-t", "8069"])
        self.assertEqual(done.returncode, 1)
        with open(path, encoding="utf-8") as file:
            self.assertIn("ERROR:   Failed to bind port 8069 (Address already in use)", file.read())

    def test_every_packet_is_logged_with_trace(self):
        path = self.fresh("log")
        self.run_command("ping", "-c1", "-W2", lab.REMOTE4, options=["-l", path, "--trace"])
        with open(path, encoding="utf-8") as file:
            text = file.read()
        self.assertIn(f"from guest: ICMP {lab.HOST4} > {lab.REMOTE4} type 8", text)
        self.assertIn(f"to guest: ICMP {lab.REMOTE4} > {lab.HOST4} type 0", text)

    def test_system_log(self):
        """What the daemon says goes there; /dev is not ours to change, so it happens among mounts of its own."""
        script = r"""
            mount -t tmpfs none /mnt && mkdir /mnt/net && touch /mnt/null /mnt/net/tun || exit 90
            mount --bind /dev/null /mnt/null && mount --bind /dev/net/tun /mnt/net/tun || exit 91
            mount --rbind /mnt /dev || exit 92
            exec /usr/bin/python3 -c '
import socket, subprocess, sys
log = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
log.bind("/dev/log")
with subprocess.Popen(["unshare", "--net", "cat"], stdin=-1, stdout=-1) as guest:
    guest.stdin.write(b"x"); guest.stdin.flush(); guest.stdout.read(1)
    subprocess.run([*sys.argv[1:], str(guest.pid)], check=True)
    log.setblocking(False)
    # The kernel holds ten lines, and no more come before the end.
    for _ in range(10):
        print(log.recv(4096).decode())
    guest.stdin.close()
log.settimeout(4)
line = ""
while "is gone" not in line:
    line = log.recv(4096).decode()
    print(line, flush=True)' "$@" """
        argv = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", script, "sh",
                *self.lab.program.attach([], "")[:-1]]
        done = self.lab.call(self.lab.as_user(argv))
        self.assertRegex(done.stdout, r"(?m)^<30>[a-z]+\[[0-9]+\]: Namespace interface: eth0$")
        self.assertRegex(done.stdout, r"(?m)^<30>[a-z]+\[[0-9]+\]: the namespace is gone: ending$")

    def test_capture_has_as_many_frames_as_the_guest_counts(self):
        """Large ones, segmented by nobody, count as one on both sides."""
        path = self.lab.file("pcap")
        with self.lab.guest("-4", "-p", path) as guest:
            near, far = self.pair(self.lab.remote, lab.REMOTE4, guest=guest)
            for one, other in ((near, far), (far, near)):
                one.sendall(bytes(500_000))
                self.assertEqual(len(self.read(other, 500_000)), 500_000)
            guest.run("ip link set eth0 down")
            link = json.loads(guest.output("ip", "-json", "-stats", "link", "show", "eth0"))[0]
            time.sleep(0.2)
        shown = self.lab.call(["tshark", "-r", path, "-T", "fields", "-e", "eth.src", "-e", "frame.len"])
        frames = [line.split() for line in shown.stdout.splitlines()]
        ours = [int(size) for source, size in frames if source != link["address"]]
        theirs = [int(size) for source, size in frames if source == link["address"]]
        # The guest's kernel does not count the Ethernet header of what it receives, 14 bytes.
        self.assertEqual((len(theirs), sum(theirs)), (link["stats64"]["tx"]["packets"], link["stats64"]["tx"]["bytes"]))
        self.assertEqual(len(ours), link["stats64"]["rx"]["packets"])
        self.assertGreater(max(ours), 60_000)
        self.assertGreater(max(theirs), 60_000)

    def test_pid_file_is_private_or_readable_only(self):
        path = self.fresh("pid")
        with self.lab.guest("-P", path):
            self.assertEqual(stat.S_IMODE(os.stat(path).st_mode) & 0o022, 0)


class Idle(Case):
    @both
    def test_upstream_2025_01_no_processor_time_without_traffic(self, net):
        with self.lab.guest() as guest:
            near, _ = self.pair(self.lab.remote, net.remote, guest=guest)
            time.sleep(2.5)
            self.assertLess(self.least_of_three(guest.translator(), 3), 0.01)
            near.close()

    def least_of_three(self, pid, seconds):
        """CPU seconds in as many seconds. The least of them: what the machine's own host takes from it in the middle of a
        system call is counted as the process's."""
        used = []
        for _ in range(3):
            before = lab.cpu_seconds(pid)
            time.sleep(seconds)
            used.append(lab.cpu_seconds(pid) - before)
            if used[-1] < 0.01:
                break
        return min(used)

    def test_memory_without_traffic(self):
        with self.lab.guest() as guest:
            with open(f"/proc/{guest.translator()}/smaps_rollup", encoding="ascii") as file:
                sizes = {line.split(":")[0]: int(line.split()[1]) for line in file if line.endswith("kB\n")}
        self.assertLess(sizes["Pss"], 5 * 1024)


def command_line(pid):
    with open(f"/proc/{pid}/cmdline", "rb") as file:
        return file.read().decode(errors="replace")


def alive(pid):
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as file:
            return file.read().rsplit(")", 1)[1].split()[0] not in "ZX"
    except OSError:
        return False
