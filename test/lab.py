"""A throw-away network in namespaces, and guests in it.

    guest ----- spelt, run by an ordinary user in `host` ----- remote ----- far
                                                   \\---- relay with delay and loss ----/

host    eth0 192.0.2.2/24, 2001:db8:1::2/64, default routes to .1 and ::1; lo 203.0.113.5 and 2001:db8:4::5;
        /etc/resolv.conf of its own
remote  192.0.2.1 and .10, 2001:db8:1::1 and ::10; routes between host and far
far     198.51.100.2/24 and 2001:db8:2::2/64 behind a link of MTU 1400
bare    lo and nothing else
slow    198.18.0.1 (host) and .2 (far), 2001:db8:5::1 and ::2: only while a relay runs

A guest of vm() is behind a socket, as a virtual machine is: a namespace with a tap, and `lab plug` in QEMU's place.

The program under test is named by SPELT_BIN (default: target/release/spelt); a name that contains `pasta` or `passt` is
used with the command line of that program. Needs root. Everything is removed when the process ends, whatever ends it.
"""

import atexit
import contextlib
import ctypes
import json
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time

HOST4, HOST6 = "192.0.2.2", "2001:db8:1::2"
GATEWAY4, GATEWAY6 = "192.0.2.1", "2001:db8:1::1"
REMOTE4, REMOTE6 = "192.0.2.10", "2001:db8:1::10"
OTHER4, OTHER6 = "203.0.113.5", "2001:db8:4::5"
DEAD4, DEAD6 = "192.0.2.99", "2001:db8:1::99"
FAR4, FAR6 = "198.51.100.2", "2001:db8:2::2"
UNREACHABLE4, UNREACHABLE6 = "203.0.113.200", "2001:db8:ffff::1"
SLOW4, SLOW6 = "198.18.0.2", "2001:db8:5::2"
USER = 65534
NAMES = ("host", "remote", "far", "bare")
QUEUE = 20_000

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
TARGET = os.environ.get("CARGO_TARGET_DIR", os.path.join(ROOT, "target"))
LIBC = ctypes.CDLL(None, use_errno=True)


class Program:
    """A translator, and its command lines."""

    def __init__(self, path, kind=None):
        self.path = path
        name = os.path.basename(path)
        self.kind = kind or next((peer for peer in ("pasta", "passt") if peer in name), "spelt")

    def run(self, options, command):
        if self.kind == "pasta":
            return [self.path, "--config-net", *options, *(["--", *command] if command else [])]
        return [self.path, "run", *options, *(["--", *command] if command else [])]

    def attach(self, options, target):
        """Option `--no-config-net` is the absence of `--config-net` in pasta's terms."""
        if self.kind == "pasta":
            where = [target] if target.isdigit() else ["--netns", target]
            config = [] if "--no-config-net" in options else ["--config-net"]
            return [self.path, *config, *(o for o in options if o != "--no-config-net"), *where]
        return [self.path, "attach", *options, target]

    def vm(self, options):
        """For a virtual machine."""
        return [self.path, *(["vm"] if self.kind == "spelt" else []), *options]


class Namespace:
    """A network namespace, given by the path of its file."""

    def __init__(self, path):
        self.path = path

    @contextlib.contextmanager
    def entered(self):
        """The calling thread is inside; a socket stays where it was made."""
        home = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        away = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            _setns(away)
            yield
        finally:
            _setns(home)
            os.close(home)
            os.close(away)

    def socket(self, family, kind=socket.SOCK_STREAM, protocol=0, timeout=10):
        with self.entered():
            made = socket.socket(family, kind, protocol)
        made.settimeout(timeout)
        return made

    def listen(self, address, port=0, backlog=128):
        """A TCP listener; port 0 is any."""
        listener = self.socket(family_of(address))
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((address, port))
        listener.listen(backlog)
        return listener

    def bind(self, address, port=0):
        """A UDP socket."""
        bound = self.socket(family_of(address), socket.SOCK_DGRAM)
        bound.bind((address, port))
        return bound

    def connect(self, address, port, timeout=10):
        stream = self.socket(family_of(address), timeout=timeout)
        try:
            stream.connect((address, port))
        except OSError:
            stream.close()
            raise
        return stream

    def sysctl(self, name, value):
        # /proc/sys/net shows the namespace of the thread that opens the file.
        with self.entered(), open("/proc/sys/" + name.replace(".", "/"), "w", encoding="ascii") as file:
            file.write(str(value))


class Guest(Namespace):
    """A guest that the program under test serves; use as a context manager or call close()."""

    def __init__(self, lab, pid, process=None, holder=None, log=None):
        super().__init__(f"/proc/{pid}/ns/net")
        self.lab, self.pid, self.process, self.holder, self.log = lab, pid, process, holder, log

    def argv(self, command):
        return [self.lab.tool, "enter", str(self.pid), "--", *command]

    def run(self, *command, timeout=20, check=True, **more):
        """Runs a command inside as the guest's root; a single string is for the shell."""
        if len(command) == 1:
            command = ("sh", "-c", command[0])
        return self.lab.call(self.argv(command), timeout=timeout, check=check, **more)

    def output(self, *command, **more):
        return self.run(*command, **more).stdout

    def interface(self):
        """Name of the interface that the guest has besides lo."""
        links = json.loads(self.output("ip", "-json", "link"))
        return [link["ifname"] for link in links if link["ifname"] not in ("lo", "sit0", "ip6tnl0", "tunl0")][0]

    def errors(self):
        """What the program has written to its standard error so far."""
        with open(self.log, encoding="utf-8", errors="replace") as file:
            return file.read()

    def translator(self):
        """Process id of the program itself, which lives outside."""
        return self.lab.translators(self)[0]

    def close(self):
        for process in (self.process, self.holder):
            if process:
                self.lab.end(process)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


class VmGuest(Guest):
    """A guest behind a socket. The namespace and its interface stay when the relay goes; the next one takes them over."""

    def __init__(self, lab, pid, process, holder, log, path, socket_pair=None):
        super().__init__(lab, pid, process=process, holder=holder, log=log)
        self.socket_path, self.pair, self.cable = path, socket_pair, None

    def plug(self, *options):
        """Starts the relay between the guest's interface `eth0` and the program's socket."""
        tap = f"{self.path}:eth0"
        if self.pair:
            # The relay gets the descriptor: with it goes the connection.
            with self.pair as ours:
                self.cable = self.lab.plug(tap, "--fd", ours.fileno(), *options, pass_fds=[ours.fileno()])
            self.pair = None
        else:
            self.cable = self.lab.plug(tap, "--stream", self.socket_path, *options)

    def unplug(self):
        """Ends the relay. Returns what it counted."""
        cable, self.cable = self.cable, None
        return cable.stop() if cable else None

    def configure(self, mtu):
        """Addresses and routes as the program's lease would have them."""
        self.sysctl("net.ipv6.conf.eth0.accept_ra", 0)
        self.link_up(mtu)
        self.run(f"ip addr add {HOST4}/24 dev eth0; ip addr add {HOST6}/64 dev eth0 nodad;"
                 f"ip route add default via {GATEWAY4}; ip route add default via {GATEWAY6}")
        # Until a guest has said something nobody knows where it is.
        self.run("ping", "-c1", "-W1", GATEWAY4, check=False)

    def ask_for_addresses(self):
        """Addresses and routes by DHCP, router advertisement and the guest kernel's own means."""
        self.link_up()
        script = self.lab.file("script")
        with open(script, "w", encoding="ascii") as file:
            file.write('#!/bin/sh\n[ "$1" = bound ] || exit 0\nip link set $interface ${mtu:+mtu $mtu}\n'
                       "ip addr add $ip/$mask dev $interface\nip route add default via $router dev $interface\n")
        os.chmod(script, 0o755)
        # With the outer root's rights: its sockets need more than the guest's root may.
        self.lab.call([self.lab.tool, "enter", "--net-only", str(self.pid), "--", "udhcpc", "-i", "eth0", "-s", script,
                       "-O", "mtu", "-n", "-q", "-f", "-t", "5", "-T", "1"])
        wait_until(lambda: self.output("ip -6 addr show dev eth0 scope global -tentative"), 10,
                   "an address by router advertisement")

    def link_up(self, mtu=1500):
        """A machine's network card holds its kernel up while the ring is full; a tap drops, unless its queue is long."""
        self.run(f"ip link set lo up; ip link set eth0 mtu {mtu} txqueuelen {QUEUE} up")

    def lost(self):
        """Frames that the guest's interface has dropped."""
        return json.loads(self.output("ip -json -statistics link show eth0"))[0]["stats64"]["tx"]["dropped"]

    def counter(self, name):
        """A counter of the guest's TCP, such as RetransSegs."""
        with self.entered(), open("/proc/thread-self/net/snmp", encoding="ascii") as file:
            names, values = (line.split() for line in file if line.startswith("Tcp:"))
        return int(values[names.index(name)])

    def close(self):
        self.unplug()
        if self.pair:
            self.pair.close()
        super().close()


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
        with contextlib.suppress(shutil.SameFileError):
            shutil.copy(path, copy)
        os.chmod(copy, 0o755)
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

    def vm(self, *options, kind=None, dhcp=False, plug=(), program=None):
        """A guest of `vm`. `kind`: the program gets one end of a socket pair of this type instead of a path to listen at;
        `plug`: options of the relay; `dhcp`: the guest asks for its addresses and the MTU."""
        program, path = program or self.program, self.file("socket")
        os.unlink(path)
        pid_file = self.file("pid")
        mtu = options[options.index("-m") + 1] if "-m" in options else 65520
        options = ["-f", "--pid", pid_file, *options]
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
            guest = VmGuest(self, empty.pid, process, empty.holder, log, path, ours)
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


class Service:
    """A subcommand of the laboratory's tool that runs until its input ends."""

    def __init__(self, lab, argv, **more):
        self.lab = lab
        self.process = lab.popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, **more)
        line = read_line(self.process.stdout, 10)
        if "ready" not in line:
            lab.end(self.process)
            raise RuntimeError(f"{' '.join(argv)}: not ready: {line!r}")
        self.first = json.loads(line)

    def stop(self, timeout=10):
        """Ends the input and returns what the service found, if it says anything."""
        return self._finish(timeout, close=True)

    def result(self, timeout=60):
        """Waits until the service ends by itself and returns what it found."""
        return self._finish(timeout, close=False)

    def _finish(self, timeout, close):
        if self.process.stdout.closed:
            return None
        if close:
            self.process.stdin.close()
        line = read_line(self.process.stdout, timeout)
        self.lab.end(self.process)
        return json.loads(line) if line else None

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stop()


class Dns:
    """A name server on UDP that knows one answer per address family, and every question it was asked."""

    def __init__(self, where, address, port=53, answer4="192.0.2.80", answer6="2001:db8:1::80"):
        self.socket = where.bind(address, port)
        self.socket.settimeout(None)
        self.open = True
        self.questions = []
        self.answers = {1: socket.inet_pton(socket.AF_INET, answer4), 28: socket.inet_pton(socket.AF_INET6, answer6)}
        self.thread = threading.Thread(target=self._serve, daemon=True)
        self.thread.start()

    def _serve(self):
        while True:
            try:
                query, client = self.socket.recvfrom(4096)
            except OSError:
                return
            if len(query) < 17:
                if not self.open:
                    return
                continue
            end = query.index(0, 12) + 5
            labels, at = [], 12
            while query[at]:
                labels.append(query[at + 1:at + 1 + query[at]].decode("ascii", "replace"))
                at += 1 + query[at]
            kind = int.from_bytes(query[end - 4:end - 2], "big")
            data = self.answers.get(kind)
            self.questions.append((".".join(labels), client))
            records = b"" if data is None else (b"\xc0\x0c" + kind.to_bytes(2, "big") + b"\0\1\0\0\0\x3c"
                                                + len(data).to_bytes(2, "big") + data)
            header = query[:2] + b"\x84\0\0\1" + (b"\0\1" if records else b"\0\0") + b"\0\0\0\0"
            with contextlib.suppress(OSError):
                self.socket.sendto(header + query[12:end] + records, client)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        # A thread blocked in recvfrom holds the socket, and with it the port: shutdown wakes it.
        self.open = False
        with contextlib.suppress(OSError):
            self.socket.shutdown(socket.SHUT_RDWR)
        self.thread.join(5)
        self.socket.close()


def tune(space):
    """What must not depend on the machine: new namespaces inherit its congestion control, and limit ICMP errors."""
    space.sysctl("net.ipv4.tcp_congestion_control", "cubic")
    space.sysctl("net.ipv4.ip_local_port_range", "10000 65000")
    for name, value in (("net.ipv4.icmp_ratelimit", 0), ("net.ipv6.icmp.ratelimit", 0)):
        space.sysctl(name, value)


def allow_cubic():
    """Only what is allowed in the initial namespace may become the default of another."""
    path = "/proc/sys/net/ipv4/tcp_allowed_congestion_control"
    with open(path, encoding="ascii") as file:
        allowed = file.read().split()
    if "cubic" not in allowed:
        with open(path, "w", encoding="ascii") as file:
            file.write(" ".join([*allowed, "cubic"]))


def family_of(address):
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def read_line(stream, timeout):
    """A line of a pipe as text; empty if it ends or nothing comes in time."""
    deadline = time.monotonic() + timeout
    line = b""
    while not line.endswith(b"\n"):
        if not select.select([stream], [], [], max(0, deadline - time.monotonic()))[0]:
            break
        byte = os.read(stream.fileno(), 1)
        if not byte:
            break
        line += byte
    return line.decode(errors="replace")


def wait_until(condition, timeout, what="it"):
    """Returns the first true value of `condition`; raises after `timeout` seconds."""
    deadline = time.monotonic() + timeout
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what} did not happen within {timeout} s")
        time.sleep(0.01)


def processes():
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def comm(pid):
    """Name of a process; empty if it is gone."""
    with contextlib.suppress(OSError):
        with open(f"/proc/{pid}/comm", encoding="utf-8", errors="replace") as file:
            return file.read().strip()
    return ""


def descendants(pid):
    """Process ids of the children, theirs, and so on."""
    found = set()
    with contextlib.suppress(OSError):
        for task in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{task}/children", encoding="ascii") as file:
                for child in map(int, file.read().split()):
                    found |= {child} | descendants(child)
    return found


def cpu_seconds(pid):
    """User and system time of all threads of a process."""
    total = 0
    for task in os.listdir(f"/proc/{pid}/task"):
        with open(f"/proc/{pid}/task/{task}/schedstat", encoding="ascii") as file:
            total += int(file.read().split()[0])
    return total / 1e9


def _setns(descriptor):
    if LIBC.setns(descriptor, 0x40000000) != 0:
        raise OSError(ctypes.get_errno(), "setns")
