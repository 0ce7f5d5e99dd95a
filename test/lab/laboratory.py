"""The laboratory: it makes the network, the guests in it, and removes everything."""

import atexit
import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile

from .addresses import GATEWAY4, GATEWAY6, HOST4, REMOTE4, REMOTE6
from .guest import Guest, VmGuest
from .namespace import Namespace, allow_cubic, tune
from .process import comm, descendants, processes, read_line, wait_until
from .program import TARGET, USER, Program
from .service import Service

NAMES = ("host", "remote", "far", "bare")


class Lab:
    """The network. One for a whole run of tests is enough."""

    def __init__(self, program=None):
        if os.geteuid() != 0:
            sys.exit("The laboratory needs root: it makes network namespaces and runs the program in them as nobody.")
        self.name = f"lab{os.getpid()}"
        self.children = []
        self.dir = tempfile.mkdtemp(prefix="spelt-lab-")
        os.chmod(self.dir, 0o777)
        atexit.register(self.close)
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
        os.chmod("/dev/net/tun", 0o666)
        allow_cubic()
        self.tool = self.install(os.path.join(TARGET, "release", "examples", "lab"))
        path = program or os.environ.get("SPELT_BIN", os.path.join(TARGET, "release", "spelt"))
        self.program = Program(path)
        if self.program.kind == "spelt":
            self.program = Program(self.install(path))
        self.host, self.remote, self.far, self.bare = map(self._namespace, NAMES)
        self._wire()

    def install(self, path, name=None):
        """A copy of a program where an ordinary user may execute it: the checkout may be in a private directory."""
        if not os.path.exists(path):
            sys.exit(f"{path} is missing: run `cargo build --release --bins --examples` first.")
        copy = os.path.join(self.dir, name or os.path.basename(path))
        if os.path.realpath(path) == os.path.realpath(copy):
            return copy
        # One of before may still be running: it keeps its file.
        shutil.copy(path, copy + ".new")
        os.chmod(copy + ".new", 0o755)
        os.replace(copy + ".new", copy)
        return copy

    # Guests

    def guest(self, *options, command=None, program=None):
        """A guest of `run`."""
        program = program or self.program
        inside = command or ["sh", "-c", "readlink /proc/self/ns/net; exec cat"]
        log = self.file("log")
        with open(log, "wb") as errors:
            process = self.popen(self.as_user(program.run(options, inside)), stdin=subprocess.PIPE,
                                 stdout=subprocess.PIPE, stderr=errors)
        line = read_line(process.stdout, 10)
        if not line.startswith("net:"):
            self.end(process)
            with open(log, encoding="utf-8", errors="replace") as file:
                raise RuntimeError(f"{' '.join(program.run(options, inside))}: no guest: {line!r}; {file.read()!r}")
        return Guest(self, self._holder(line.strip()), process=process, log=log)

    def empty_guest(self):
        """Namespaces of an ordinary user that nobody serves yet."""
        holder = self.popen(self.as_user(["unshare", "--user", "--map-root-user", "--net", "--mount", "--uts",
                                          "sh", "-c", "readlink /proc/self/ns/net; exec cat"]),
                            stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        inode = read_line(holder.stdout, 10).strip()
        return Guest(self, self._holder(inode), holder=holder)

    def attached(self, *options, program=None):
        """A guest of `attach`, by process id."""
        guest = self.empty_guest()
        try:
            self.attach(str(guest.pid), *options, program=program)
        except BaseException:
            guest.close()
            raise
        return guest

    def attach(self, target, *options, program=None, check=True, timeout=10):
        """Calls `attach` in the background and waits until it returns."""
        # Files, not pipes: what runs on in the background must not be able to hold us up.
        with open(self.file("attach"), "w+b") as out:
            argv = self.as_user((program or self.program).attach(options, target))
            done = subprocess.run(argv, stdin=subprocess.DEVNULL, stdout=out, stderr=out, timeout=timeout, check=False)
            out.seek(0)
            text = out.read().decode(errors="replace")
        if check and done.returncode != 0:
            raise RuntimeError(f"{' '.join(argv)}: status {done.returncode}: {text}")
        return done.returncode, text

    def vm(self, *options, kind=None, dhcp=False, plug=(), program=None, vhost_user=0):
        """A guest of `vm`. `kind`: the program gets one end of a socket pair of this type instead of a path to listen at;
        `plug`: options of the relay; `dhcp`: the guest asks for its addresses and the MTU; `vhost_user`: its network card
        is the program's, with so many pairs of queues."""
        program, path = program or self.program, self.file("socket")
        os.unlink(path)
        pid_file = self.file("pid")
        mtu = options[options.index("-m") + 1] if "-m" in options else 65520
        options = ["-f", "--pid", pid_file, *(["--vhost-user"] if vhost_user else []), *options]
        ours, theirs = socket.socketpair(socket.AF_UNIX, kind) if kind else (None, None)
        options += ["--fd", str(theirs.fileno())] if kind else ["--socket", path]
        log = self.file("log")
        with open(log, "wb") as errors, theirs or contextlib.nullcontext():
            argv = self.as_user(program.vm(options))
            process = self.popen(argv, stdin=subprocess.DEVNULL, stdout=errors, stderr=errors,
                                 pass_fds=[theirs.fileno()] if kind else [])
        guest = None
        try:
            # It is written when all is ready, the listening ports included.
            wait_until(lambda: os.path.getsize(pid_file) or process.poll() is not None, 5, "the program's readiness")
            if process.poll() is not None:
                with open(log, encoding="utf-8", errors="replace") as file:
                    raise RuntimeError(f"{' '.join(argv)}: status {process.returncode}: {file.read()}")
            empty = self.empty_guest()
            guest = VmGuest(self, empty.pid, process, empty.holder, log, path, ours, vhost_user)
            guest.plug(*plug)
            guest.ask_for_addresses() if dhcp else guest.configure(mtu)
            return guest
        except BaseException:
            guest.close() if guest else self.end(process)
            raise

    def plug(self, tap, *options, **more):
        """A relay between the tap (namespace file, colon, name) and a socket."""
        return Service(self, [self.tool, "plug", "--tap", tap, *map(str, options)], **more)

    def _holder(self, inode):
        """Process id, seen from here, of the `cat` that keeps a guest: readlink may not have quite ended yet."""
        return wait_until(lambda: [pid for pid in self.inside(inode) if comm(pid) == "cat"], 5, "the guest's start")[0]

    def inside(self, inode):
        """Process ids in the network namespace `net:[...]`, the newest first."""
        found = []
        for pid in processes():
            with contextlib.suppress(OSError):
                if os.readlink(f"/proc/{pid}/ns/net") == inode:
                    found.append(pid)
        return sorted(found, reverse=True)

    def copies(self):
        """Process ids of this laboratory's program, wherever they are."""
        def is_one(pid):
            with contextlib.suppress(OSError), open(f"/proc/{pid}/cmdline", encoding="utf-8", errors="replace") as file:
                return self.program.path in file.read().split("\0")
            return False
        return [pid for pid in processes() if is_one(pid)]

    def translators(self, guest=None):
        """Process ids of the program under test in `host`."""
        inode = f"net:[{os.stat(self.host.path).st_ino}]"
        names = {os.path.basename(self.program.path), "spelt", "pasta", "pasta.avx2", "passt", "passt.avx2"}
        found = [pid for pid in self.inside(inode) if comm(pid) in names]
        if guest and guest.process:
            family = descendants(guest.process.pid) | {guest.process.pid}
            found = [pid for pid in found if pid in family] or found
        return found

    # Commands

    def as_user(self, argv, where=None):
        """The command line that runs `argv` as an ordinary user in `host`."""
        name = os.path.basename((where or self.host).path)
        return ["ip", "netns", "exec", name, "setpriv", f"--reuid={USER}", f"--regid={USER}", "--clear-groups",
                "--", *argv]

    def as_root(self, argv, where=None):
        return ["ip", "netns", "exec", os.path.basename((where or self.host).path), *argv]

    def popen(self, argv, **more):
        process = subprocess.Popen(argv, start_new_session=True, **more)
        self.children.append(process)
        return process

    def call(self, argv, timeout=20, check=True, **more):
        """Runs a command to its end, text in and out; what takes longer than `timeout` is killed."""
        more.setdefault("stdin", subprocess.DEVNULL)
        if "input" in more:
            del more["stdin"]
        done = subprocess.run(argv, capture_output=True, timeout=timeout, check=False, text=True, errors="replace",
                              **more)
        if check and done.returncode != 0:
            raise RuntimeError(f"{' '.join(argv)}: status {done.returncode}: {done.stdout}{done.stderr}")
        return done

    def end(self, process, timeout=5):
        """Ends a process started with popen: its input ends, then it is killed."""
        if process.stdin:
            with contextlib.suppress(OSError):
                process.stdin.close()
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        try:
            process.wait(timeout)
        except subprocess.TimeoutExpired:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        if process.stdout:
            process.stdout.close()
        if process in self.children:
            self.children.remove(process)

    def service(self, where, *arguments):
        """A subcommand of the laboratory's tool that says when it is ready."""
        return Service(self, self._tool_argv(where, arguments))

    def traffic(self, where, *arguments, timeout=60):
        """A subcommand of the laboratory's tool, to its end. Returns what it found."""
        done = self.call(self._tool_argv(where, arguments), timeout=timeout)
        return json.loads(done.stdout.splitlines()[-1])

    def _tool_argv(self, where, arguments):
        arguments = [self.tool, *map(str, arguments)]
        return where.argv(arguments) if isinstance(where, Guest) else self.as_root(arguments, where)

    # Names

    def file(self, stem):
        """A path in the laboratory's directory that is not in use."""
        with tempfile.NamedTemporaryFile(prefix=stem + "-", dir=self.dir, delete=False) as file:
            os.chmod(file.name, 0o666)
            return file.name

    def resolv_conf(self, *lines, which="host"):
        """What a program started in `host` from now on sees as /etc/resolv.conf."""
        with open(f"/etc/netns/{self.name}{which}/resolv.conf", "w", encoding="ascii") as file:
            file.write("".join(line + "\n" for line in lines))

    # The network

    @contextlib.contextmanager
    def relay(self, delay_ms, loss=0.0, **more):
        """A path from `host` to `far` with this delay each way; yields the relay."""
        arguments = ["relay", "--a", f"{self.host.path}:slow0", "--b", f"{self.far.path}:slow0",
                     "--delay-ms", delay_ms, "--loss", loss]
        for key, value in more.items():
            arguments += ["--" + key.replace("_", "-")] + ([] if value is True else [value])
        relay = Service(self, [self.tool, *map(str, arguments)])
        try:
            for name, number in (("host", 1), ("far", 2)):
                self.ip(name, "link set slow0 txqueuelen 10000 up", f"addr add 198.18.0.{number}/24 dev slow0",
                        f"addr add 2001:db8:5::{number}/64 dev slow0 nodad")
            yield relay
        finally:
            relay.stop()

    @contextlib.contextmanager
    def another_host(self, *commands, peer=(), resolver="127.0.0.53", ipv6=True):
        """A host unlike `host`, and a peer on its link `eth0`, each set up by these commands of ip(8); addresses and routes
        are on eth0 where they name no other device. Yields both."""
        def on_eth0(command):
            return command if command.startswith("link ") or " dev " in command else command + " dev eth0"
        host, other = self._namespace("odd"), self._namespace("oddpeer")
        try:
            for name in ("all", "default"):
                host.sysctl(f"net.ipv6.conf.{name}.disable_ipv6", int(not ipv6))
            host.sysctl("net.ipv4.ping_group_range", "0 2147483647")
            self.resolv_conf(f"nameserver {resolver}", which="odd")
            if commands:
                self.ip("odd", f"link add eth0 type veth peer name eth0 netns {self.name}oddpeer", "link set eth0 up")
                self.ip("oddpeer", "link set eth0 up", *map(on_eth0, peer))
                self.ip("odd", *map(on_eth0, commands))
            yield host, other
        finally:
            for which in ("odd", "oddpeer"):
                self._remove(which)

    def ip(self, which, *commands):
        for command in commands:
            self.call(["ip", "-netns", self.name + which, *command.split()])

    def _namespace(self, which):
        name = self.name + which
        self.call(["ip", "netns", "add", name])
        os.makedirs(f"/etc/netns/{name}", exist_ok=True)
        space = Namespace(f"/run/netns/{name}")
        self.ip(which, "link set lo up")
        tune(space)
        return space

    def _wire(self):
        ours = f"{self.name}%s".__mod__
        self.ip("host", f"link add eth0 type veth peer name eth0 netns {ours('remote')}")
        self.ip("far", f"link add eth0 mtu 1400 type veth peer name eth1 mtu 1400 netns {ours('remote')}")
        for name, link, *addresses in (
                ("host", "lo", "203.0.113.5/32", "2001:db8:4::5/128"),
                ("host", "eth0", "192.0.2.2/24", "2001:db8:1::2/64"),
                ("remote", "eth0", "192.0.2.1/24", "192.0.2.10/24", "2001:db8:1::10/64", "2001:db8:1::1/64"),
                ("remote", "eth1", "198.51.100.1/24", "2001:db8:2::1/64"),
                ("far", "eth0", "198.51.100.2/24", "2001:db8:2::2/64")):
            for address in addresses:
                self.ip(name, f"addr add {address} dev {link}" + (" nodad" if ":" in address else ""))
            self.ip(name, f"link set {link} up")
        self.ip("host", f"route add default via {GATEWAY4}", f"route add default via {GATEWAY6}")
        self.ip("far", "route add default via 198.51.100.1", "route add default via 2001:db8:2::1")
        self.ip("remote", "route add unreachable 203.0.113.128/25", "route add unreachable 2001:db8:ffff::/48")
        for name in ("net.ipv4.ip_forward", "net.ipv6.conf.all.forwarding"):
            self.remote.sysctl(name, 1)
        self.host.sysctl("net.ipv4.ping_group_range", "0 2147483647")
        self.resolv_conf(f"nameserver {REMOTE4}", f"nameserver {REMOTE6}", "search lab.test")
        for name, family, target in (("host", "-4", REMOTE4), ("host", "-6", REMOTE6), ("far", "-4", HOST4)):
            self.call(["ip", "netns", "exec", ours(name), "ping", family, "-c1", "-i0.2", "-W2", target])

    def close(self):
        """Removes everything; calling it again does nothing."""
        for process in list(self.children):
            with contextlib.suppress(Exception):
                os.killpg(process.pid, signal.SIGKILL)
                process.wait(5)
        self.children.clear()
        for which in (*NAMES, "guest", "odd", "oddpeer"):
            self._remove(which)
        with contextlib.suppress(OSError):
            os.rmdir("/etc/netns")
        shutil.rmtree(self.dir, ignore_errors=True)

    def _remove(self, which):
        name = self.name + which
        if not os.path.exists(f"/run/netns/{name}"):
            return
        for pid in subprocess.run(["ip", "netns", "pids", name], capture_output=True, text=True,
                                  check=False).stdout.split():
            with contextlib.suppress(OSError):
                os.kill(int(pid), signal.SIGKILL)
        subprocess.run(["ip", "netns", "delete", name], check=False)
        shutil.rmtree(f"/etc/netns/{name}", ignore_errors=True)
