"""Where messages go and what they look like: lines for programs, descriptors of the caller's, the journal."""

import json
import os
import re
import socket
import struct
import time

import lab
from support import Case

# Somebody at the journal's socket, in mounts of its own; the rest of the arguments is what runs. Standard error is a stream of
# the journal's if the first is "stream", else /dev/log leads to the journal. Then the bytes of each message are told, in hex.
JOURNAL = r"""
import os, socket, subprocess, sys, threading
how, patience, argv = sys.argv[1], float(sys.argv[2]), sys.argv[3:]
os.makedirs("/run/systemd/journal")
log = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
log.bind("/run/systemd/journal/socket")
environment, stderr = dict(os.environ), None
if how == "stream":
    ours, stderr = socket.socketpair()
    about = os.fstat(stderr.fileno())
    environment["JOURNAL_STREAM"] = f"{about.st_dev}:{about.st_ino}"
else:
    open("/run/systemd/journal/dev-log", "x").close()
    os.symlink("/run/systemd/journal/dev-log", "/dev/log")
heard = []
def listen():
    while data := log.recv(65536):
        heard.append(data)
listener = threading.Thread(target=listen)
process = subprocess.Popen(argv, env=environment, stderr=stderr)
if patience:
    import time
    time.sleep(patience)
listener.start()
status = process.wait()
end = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
end.sendto(b"", "/run/systemd/journal/socket")
listener.join()
print(status)
if stderr is not None:
    stderr.close()
    print("stderr", ours.makefile("rb").read().hex())
for data in heard:
    print(data.hex())
"""

MOUNTS = r"""
    mount -t tmpfs none /mnt && mkdir /mnt/net && touch /mnt/null /mnt/net/tun || exit 90
    mount --bind /dev/null /mnt/null && mount --bind /dev/net/tun /mnt/net/tun || exit 91
    mount --rbind /mnt /dev && mount -t tmpfs none /run || exit 92
    exec /usr/bin/python3 -c "$@" """


def fields(entry):
    """Of one message in the journal's own protocol."""
    found = {}
    while entry:
        name, _, rest = entry.partition(b"\n")
        if b"=" in name:
            name, _, value = name.partition(b"=")
            entry = rest
        else:
            size, = struct.unpack("<Q", rest[:8])
            value, entry = rest[8:8 + size], rest[8 + size:]
            assert entry[:1] == b"\n"
            entry = entry[1:]
        assert re.fullmatch(rb"[A-Z][A-Z0-9_]*", name), name
        found[name.decode()] = value.decode()
    return found


class Journal(Case):
    def heard(self, how, *argv, patience=0):
        """Status of the program, what it wrote to standard error, and the messages."""
        argv = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", MOUNTS, "sh", JOURNAL, how, str(patience), *argv]
        lines = self.lab.call(self.lab.as_user(argv)).stdout.splitlines()
        status, rest = int(lines[0]), lines[1:]
        stderr = b""
        if how == "stream":
            stderr = bytes.fromhex(rest.pop(0).partition(" ")[2])
        return status, stderr.decode(), [fields(bytes.fromhex(line)) for line in rest]

    def run_argv(self, *options):
        return [self.lab.program.path, "run", *options, "--"]

    def test_what_standard_error_would_have_keeps_its_level(self):
        control = "/tmp/no such\ndirectory/socket"
        status, stderr, entries = self.heard("stream", *self.run_argv("-d", "--dns", "192.0.2.77", "--control", control), "true")
        self.assertEqual((status, stderr), (1, ""))
        last = entries[-1]
        self.assertIn("cannot listen at the control socket '/tmp/no such?directory/socket'", last["MESSAGE"])
        self.assertEqual((last["PRIORITY"], last["SYSLOG_FACILITY"], last["SYSLOG_IDENTIFIER"], last["SPELT_INSTANCE"]),
                         ("3", "3", "spelt", control))

    def test_messages_say_who_and_where(self):
        status, stderr, entries = self.heard("stream", *self.run_argv("-d"), "sh", "-c", "echo of the command >&2; exit 3")
        self.assertEqual((status, stderr), (3, "of the command\n"))
        self.assertTrue(all(e["SYSLOG_IDENTIFIER"] == "spelt" and e["SPELT_INSTANCE"].isdigit() for e in entries))
        self.assertEqual({e["PRIORITY"] for e in entries} - {"3", "4"}, {"6", "7"})
        self.assertIn("app::start", {e["CODE_MODULE"] for e in entries})

    def test_it_has_the_place_of_the_system_log(self):
        _, _, entries = self.heard("system", *self.run_argv(), "true")
        self.assertEqual(entries, [])
        _, _, entries = self.heard("system", *self.run_argv("-i", "nosuch0"), "true")
        self.assertIn("nosuch0", entries[-1]["MESSAGE"])

    def test_one_that_is_busy_loses_messages_and_holds_up_nobody(self):
        ping = ["ping", "-q", "-c", "300", "-i", "0.002", lab.REMOTE4]
        began = time.monotonic()
        status, _, entries = self.heard("stream", *self.run_argv("--trace"), "sh", "-c", " ".join(ping) + " >&2; sleep 2; " +
                                        " ".join(ping[:3] + ["1"] + ping[-1:]) + " >&2", patience=1.5)
        self.assertEqual(status, 0)
        self.assertLess(time.monotonic() - began, 10)
        lost = [e for e in entries if "could not be logged" in e["MESSAGE"]]
        self.assertTrue(lost)
        self.assertGreater(int(lost[0]["SPELT_LOST"]), 100)
        self.assertTrue([e for e in entries if e.get("SPELT_FLOW", "").startswith("ICMP ")])


class Lines(Case):
    def objects(self, text):
        found = [json.loads(line) for line in text.splitlines()]
        for one in found:
            self.assertRegex(one["time"], r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z$")
            self.assertIn(one["level"], ("error", "warn", "info", "debug", "trace"))
            self.assertEqual(one["instance"], str(one["pid"]))
            self.assertTrue(one["message"] and one["target"])
        self.assertTrue(found)
        return found


class Objects(Lines):
    def test_on_standard_error(self):
        done = self.run_command("ping", "-c1", lab.REMOTE4, options=("--trace", "--log-format", "json"))
        self.assertEqual(done.returncode, 0, done.stderr)
        found = self.objects(done.stderr)
        packets = [o for o in found if o.get("flow", "").startswith(f"ICMP {lab.HOST4} > ") and o["direction"] == "from guest"]
        self.assertEqual([(o["level"], o["target"]) for o in packets], [("trace", "link::trace")])

    def test_why_it_does_not_start(self):
        done = self.run_command("true", options=("--log-format", "json", "-i", "nosuch0"))
        self.assertEqual(done.returncode, 1)
        error, = self.objects(done.stderr)
        self.assertEqual(error["level"], "error")
        self.assertIn("nosuch0", error["message"])

    def test_in_a_file_of_limited_size(self):
        path = self.lab.file("log")
        os.unlink(path)
        options = ("--trace", "--log-format", "json", "--log-file", path, "--log-size", "40960")
        done = self.run_command("ping", "-q", "-c", "200", "-i", "0.002", lab.REMOTE4, options=options)
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        self.assertLessEqual(os.stat(path).st_size, 40960)
        with open(path, encoding="utf-8") as file:
            found = self.objects(file.read())
        self.assertIn("log truncated", found[0]["message"])

    def test_another_form_is_refused(self):
        done = self.run_command("true", options=("--log-format", "xml"))
        self.assertEqual(done.returncode, 1)
        self.assertIn("Invalid log format 'xml' for option '--log-format': give 'text' or 'json'", done.stderr)


class Background(Lines):
    def logged(self, *options):
        """Number of the process that stays, and what the log file says."""
        path, pid_file = self.lab.file("log"), self.lab.file("pid")
        os.unlink(path)
        with self.lab.attached("-d", "--log-file", path, "-P", pid_file, *options):
            with open(pid_file, encoding="ascii") as file:
                pid = int(file.read())
            with open(path, encoding="utf-8") as file:
                return pid, file.read()

    def test_the_first_line_names_who_stays(self):
        pid, text = self.logged()
        self.assertRegex(text.splitlines()[0], rf"^spelt \S+: /.* \({pid}\)$")

    def test_every_object_names_who_stays(self):
        pid, text = self.logged("--log-format", "json")
        found = self.objects(text)
        self.assertEqual({o["pid"] for o in found}, {pid})
        self.assertTrue(found[0]["message"].endswith(f" ({pid})"), found[0])
        self.assertGreater(len(found), 5)


class Descriptors(Case):
    def start(self, write, *options, command=("true",), **more):
        argv = [self.lab.program.path, "run", "--log-fd", str(write), *options, "--", *command]
        return self.lab.call(self.lab.as_user(argv), pass_fds=[write], check=False, **more)

    def test_pipe_file_and_socket_get_lines(self):
        path = self.lab.file("log")
        read, write = os.pipe()
        one, other = socket.socketpair()
        made = os.open(path, os.O_WRONLY | os.O_APPEND)
        for reader, writer in ((os.fdopen(read, "rb"), write), (one.makefile("rb"), other.detach()), (open(path, "rb"), made)):
            done = self.start(writer, "-d")
            os.close(writer)
            self.assertEqual((done.returncode, done.stderr), (0, ""))
            with reader:
                text = reader.read().decode()
            self.assertRegex(text, r"(?m)^\d+\.\d{4}: info:    Namespace interface: ")
        one.close()

    def test_errors_at_the_start_are_told_the_user_too(self):
        read, write = os.pipe()
        done = self.start(write, "-i", "nosuch0", "--log-format", "json")
        os.close(write)
        with os.fdopen(read, "rb") as reader:
            line, = reader.read().decode().splitlines()
        self.assertEqual(json.loads(line)["message"], json.loads(done.stderr)["message"])

    def test_nobody_who_reads_holds_it_up(self):
        """Closed at the other end, and full."""
        ping = ("ping", "-q", "-c", "500", "-i", "0.002", lab.REMOTE4)
        read, write = os.pipe()
        done = self.start(write, "--trace", command=ping)
        self.assertEqual(done.returncode, 0, done.stderr)
        os.close(read)
        done = self.start(write, "--trace", command=ping)
        self.assertEqual(done.returncode, 0, done.stderr)
        os.close(write)

    def test_the_command_does_not_have_it(self):
        read, write = os.pipe()
        done = self.start(write, command=("ls", "-l", f"/proc/self/fd/{write}"))
        self.assertNotEqual(done.returncode, 0)
        self.assertNotIn("pipe:", done.stdout)
        os.close(read)
        os.close(write)

    def test_in_the_background(self):
        read, write = os.pipe()
        with self.lab.empty_guest() as guest:
            argv = [self.lab.program.path, "attach", "-d", "--log-fd", str(write), str(guest.pid)]
            self.lab.call(self.lab.as_user(argv), pass_fds=[write])
            os.close(write)
        with os.fdopen(read, "rb") as reader:
            self.assertIn("the namespace is gone: ending", reader.read().decode())

    def test_what_is_no_place_for_a_log_is_refused(self):
        with open("/dev/null", "rb") as file:
            number = file.fileno()
            done = self.start(number)
        self.assertEqual(done.returncode, 1)
        self.assertIn(f"descriptor {number} (option '--log-fd') is not open for writing", done.stderr)
        argv = [self.lab.program.path, "run", "--check", "--log-fd", "77"]
        self.assertIn("was not left open by the caller", self.lab.call(self.lab.as_user(argv), check=False).stderr)
        for number, complaint in (("77", "was not left open by the caller"), ("2", "give the number of an open descriptor")):
            done = self.run_command("true", options=("--log-fd", number))
            self.assertEqual(done.returncode, 1)
            self.assertIn(complaint, done.stderr)
        done = self.run_command("true", options=("--log-fd", "5", "--log-file", "/tmp/x"))
        self.assertIn("'--log-file' and '--log-fd' contradict", done.stderr)
