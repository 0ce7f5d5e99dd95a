#!/usr/bin/python3
"""Measures programs side by side, as root:

    test/perf/run.py [--socket] [--quick] [--rounds N] [--only PATTERN]... [--programs a,b] [--peer NAME=PATH]...
                     [--json FILE]

Every row is measured for one program after the other, `rounds` times over, and the median counts: this way the drift of a
shared machine meets all of them. Compare inside one run only. The most robust figure is the processor time the
translator itself takes (all its threads, no helpers), given per GB, per packet or per connection.

Programs: spelt (SPELT_BIN), debian (/usr/bin/pasta), slirp4netns, each `--peer` (a pasta; test/perf/fetch-peers.sh gets
the newest), and two references without any translation in user space: loopback (client and server in one namespace)
and kernel (veth pairs and NAT by nftables, to a server in the next namespace). With `--socket` the guest is behind a
stream socket, as a virtual machine is, and the programs are spelt-vm, debian-vm (/usr/bin/passt), NAME-vm of each peer
that has a passt beside its pasta, and loopback. `lab plug --offload` stands for the machine: it cuts, sums and joins
segments as QEMU and a guest's network card do, and what that costs is shown beside what the translator costs.

Traffic goes to a server on the host through the gateway address (out), and from the host to a forwarded port at the
host's own address (in); over loopback from side to side (splice) it skips the link where the program can do that. Kernel buffers are the defaults, congestion control is CUBIC.
"""

import argparse
import contextlib
import json
import os
import platform
import shutil
import socket
import statistics
import subprocess
import sys
import time

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

import lab as laboratory  # noqa: E402  (found through the path above)
import table  # noqa: E402

OUT_PORT, SPLICE_PORT, IN_PORT = 5301, 5302, 5201
FORWARDED = "5201-5204"


class NotOffered(Exception):
    """The program has no such function."""


# The ways between a guest and the outside


class Path:
    """A way; `guest` and `outside` are where commands run."""

    def __init__(self, lab):
        self.lab, self.outside = lab, lab.host
        self.guest, self.pid, self.relay = None, None, None

    def target(self, version):
        """Address a client in the guest connects to."""
        raise NotImplementedError

    def entry(self, version):
        """Address a client outside connects to."""
        raise NotImplementedError

    def local(self, version):
        """Loopback address from which the other side's is reached."""
        raise NotOffered("no way from loopback to loopback")

    def close(self):
        pass

    def cpu(self):
        """Seconds so far of the translator, and of the relay in the place of a machine."""
        return {name: laboratory.cpu_seconds(pid) for name, pid in (("cpu", self.pid), ("relay", self.relay)) if pid}

    def spent(self, before, amount, scale):
        """Processor time since `before` for each of so many things."""
        return {name: (now - before[name]) / amount * scale for name, now in self.cpu().items()} if amount else {}


class Translated(Path):
    def __init__(self, lab, program, mtu):
        super().__init__(lab)
        self.guest = lab.empty_guest()
        argv = program.attach(["-f", "-q", "-m", str(mtu), "-t", FORWARDED, "-u", FORWARDED,
                               "-T", str(SPLICE_PORT), "-U", str(SPLICE_PORT)], str(self.guest.pid))
        self.log = open(lab.file("log"), "w+", encoding="utf-8")
        self.process = lab.popen(lab.as_user(argv), stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log)
        # The last thing to be ready is the listening port.
        laboratory.wait_until(lambda: self.process.poll() is not None or is_listening(lab.host, 5204), 5, "readiness")
        if self.process.poll() is not None:
            self.log.seek(0)
            raise RuntimeError(f"{' '.join(argv)}: status {self.process.returncode}: {self.log.read()}")
        laboratory.tune(self.guest)
        self.pid = self.process.pid

    def target(self, version):
        return laboratory.GATEWAY4 if version == 4 else laboratory.GATEWAY6

    def entry(self, version):
        return laboratory.HOST4 if version == 4 else laboratory.HOST6

    def local(self, version):
        return "127.0.0.1" if version == 4 else "::1"

    def close(self):
        self.lab.end(self.process)
        self.guest.close()
        self.log.close()


class Machine(Path):
    """A guest behind a socket, and the relay in the place of a virtual machine."""

    def __init__(self, lab, program, mtu):
        super().__init__(lab)
        self.guest = lab.vm("-q", "-m", str(mtu), "-t", FORWARDED, "-u", FORWARDED, plug=("--offload",),
                            program=program)
        laboratory.tune(self.guest)
        self.process = self.guest.process
        self.pid, self.relay = self.process.pid, self.guest.cable.process.pid

    target, entry = Translated.target, Translated.entry

    def close(self):
        self.guest.close()


class Slirp(Path):
    def __init__(self, lab, program, mtu):
        super().__init__(lab)
        self.guest = lab.empty_guest()
        api = os.path.join(lab.dir, f"slirp-{self.guest.pid}")
        read, write = os.pipe()
        argv = [program.path, "--configure", "--mtu", str(mtu), "--enable-ipv6", "--api-socket", api, "--ready-fd",
                str(write), str(self.guest.pid), "tap0"]
        self.process = lab.popen(lab.as_user(argv), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                                 stderr=subprocess.DEVNULL, pass_fds=[write])
        os.close(write)
        os.read(read, 1)
        os.close(read)
        for port in range(5201, 5205):
            for protocol in ("tcp", "udp"):
                self.forward(api, protocol, port)
        laboratory.tune(self.guest)
        self.pid = self.process.pid
        time.sleep(2.5)  # its IPv6 address comes by router advertisement, with duplicate address detection

    def forward(self, api, protocol, port):
        with socket.socket(socket.AF_UNIX) as control:
            control.settimeout(5)
            control.connect(api)
            arguments = {"proto": protocol, "host_addr": "0.0.0.0", "host_port": port, "guest_port": port}
            control.sendall(json.dumps({"execute": "add_hostfwd", "arguments": arguments}).encode())
            control.shutdown(socket.SHUT_WR)
            answer = control.recv(4096)
        if b"error" in answer:
            raise RuntimeError(answer.decode())

    def target(self, version):
        return "10.0.2.2" if version == 4 else "fd00::2"

    def entry(self, version):
        if version == 6:
            raise NotOffered("no inbound IPv6")
        return laboratory.HOST4

    def close(self):
        self.lab.end(self.process)
        self.guest.close()


class Loopback(Path):
    def __init__(self, lab, _program, _mtu):
        super().__init__(lab)
        self.guest = lab.host

    def target(self, version):
        return "127.0.0.1" if version == 4 else "::1"

    entry = local = target


class Kernel(Path):
    """veth pairs and NAT: guest - host - remote."""

    def __init__(self, lab, _program, mtu):
        super().__init__(lab)
        self.name = lab.name + "guest"
        try:
            self.build(lab, mtu)
        except BaseException:
            self.close()
            raise

    def build(self, lab, mtu):
        lab.call(["ip", "netns", "add", self.name])
        self.guest, self.outside = laboratory.Namespace(f"/run/netns/{self.name}"), lab.remote
        laboratory.tune(self.guest)
        lab.ip("host", f"link set eth0 mtu {mtu}", f"link add toguest mtu {mtu} type veth peer name eth0 netns {self.name}",
               "addr add 10.77.0.1/24 dev toguest", "addr add fd77::1/64 dev toguest nodad", "link set toguest up")
        lab.ip("remote", f"link set eth0 mtu {mtu}")
        lab.ip("guest", "link set lo up", f"link set eth0 mtu {mtu} up", "addr add 10.77.0.2/24 dev eth0",
               "addr add fd77::2/64 dev eth0 nodad", "route add default via 10.77.0.1", "route add default via fd77::1")
        for name in ("net.ipv4.ip_forward", "net.ipv6.conf.all.forwarding"):
            lab.host.sysctl(name, 1)
        lab.call(lab.as_root(["nft", "-f", "-"]), input="""
            table inet lab {
                chain out { type nat hook postrouting priority srcnat; oifname "eth0" masquerade; }
                chain in {
                    type nat hook prerouting priority dstnat
                    iifname "eth0" meta l4proto { tcp, udp } th dport 5201-5204 dnat ip to 10.77.0.2
                    iifname "eth0" meta l4proto { tcp, udp } th dport 5201-5204 dnat ip6 to fd77::2
                }
            }
            """)
        lab.call(["ip", "netns", "exec", self.name, "ping", "-6", "-c2", "-i0.2", "-W2", laboratory.REMOTE6])

    def target(self, version):
        """The server's first address, which is the one it answers from."""
        return laboratory.GATEWAY4 if version == 4 else laboratory.GATEWAY6

    def entry(self, version):
        return laboratory.HOST4 if version == 4 else laboratory.HOST6

    def close(self):
        self.lab.call(self.lab.as_root(["nft", "delete", "table", "inet", "lab"]), check=False)
        for name in ("net.ipv4.ip_forward", "net.ipv6.conf.all.forwarding"):
            self.lab.host.sysctl(name, 0)
        self.lab.call(["ip", "-netns", self.lab.name + "host", "link", "delete", "toguest"], check=False)
        self.lab.ip("host", "link set eth0 mtu 1500")
        self.lab.ip("remote", "link set eth0 mtu 1500")
        self.lab.call(["ip", "netns", "delete", self.name], check=False)


PATHS = {"spelt": Translated, "pasta": Translated, "slirp4netns": Slirp, "loopback": Loopback, "kernel": Kernel}
SOCKET_PATHS = {"spelt": Machine, "passt": Machine, "loopback": Loopback}


# What is measured; each takes (harness, path) and returns {"value": ..., "cpu": ..., "relay": ...}


def tcp(direction, version, streams):
    def measure(harness, path):
        with harness.ends(path, direction, version) as (client, server, address, port):
            listening = path.lab.popen(harness.argv(path, server, ["iperf3", "-s", "-1", "-p", str(port)]),
                                       stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            try:
                laboratory.wait_until(lambda: is_listening(server, port), 5, "the iperf3 server")
                before = path.cpu()
                argv = ["iperf3", "-c", address, "-p", str(port), "-t", str(harness.seconds), "-P", str(streams), "-C",
                        "cubic", "-J"]
                done = path.lab.call(harness.argv(path, client, argv), timeout=harness.seconds + 15, check=False)
                result = json.loads(done.stdout)
                if "error" in result:
                    raise RuntimeError(result["error"])
                received = result["end"]["sum_received"]
                spent = path.spent(before, received["bytes"], 1e9)
            finally:
                path.lab.end(listening)
        return {"value": received["bits_per_second"] / 1e9, **spent}
    return measure


def delayed(direction, round_trip_ms):
    """Through the relay, which loses 0.1 % of the segments; loopback stands for the host's own kernel on that path."""
    def measure(_harness, path):
        if isinstance(path, Kernel):
            raise NotOffered("no route to the relay")
        size = 20_000_000
        out, back = (size, 0) if direction == "out" else (0, size)
        with path.lab.relay(round_trip_ms / 2, 0.001, no_offload=True), \
                path.lab.service(path.lab.far, "stream", "--listen", f"{laboratory.SLOW4}:5998", "--send", back) as server:
            client = path.lab.traffic(path.guest, "stream", "--connect", f"{laboratory.SLOW4}:5998", "--send", out)
            served = server.result()
        arrived = served["streams"][0]["received"] + client["streams"][0]["received"]
        if arrived != size:
            raise RuntimeError(f"{arrived} bytes of {size} arrived")
        return {"value": size * 8e-6 / served["seconds"]}
    return measure


def udp(direction, size, gso=0):
    def measure(harness, path):
        with harness.ends(path, direction, 4) as (client, server, address, port):
            any_address = "0.0.0.0"
            with path.lab.service(server, "udp-sink", "--listen", f"{any_address}:{port}") as sink:
                before = path.cpu()
                sent = path.lab.traffic(client, "udp-flood", "--connect", f"{address}:{port}", "--size", size,
                                        "--gso", gso, "--seconds", harness.seconds)
                time.sleep(0.2)
                spent = path.spent(before, 1, 1e6)
                got = sink.stop()
        return {"value": got["received"] / sent["seconds"] / 1e3, "lost": 1 - got["received"] / max(1, sent["sent"]),
                **({name: seconds / got["received"] for name, seconds in spent.items()} if got["received"] else {})}
    return measure


def round_trip(tool, version, direction="out"):
    """All on one core: across two, what is measured is how fast an idle core wakes up."""
    def measure(harness, path):
        with on_one_core(path), harness.ends(path, direction, version) as (client, server, address, port):
            with path.lab.service(server, "echo", "--listen", f"{any_of(version)}:{port}"):
                done = path.lab.traffic(client, tool, "--connect", f"{bracket(address)}:{port}", "--count",
                                        harness.round_trips)
        if done["count"] == 0:
            raise RuntimeError("nothing came back")
        return {"value": done["p50_us"], "p99": done["p99_us"], "lost": done["lost"]}
    return measure


@contextlib.contextmanager
def on_one_core(path):
    """This process, what it starts, and those of the path."""
    cores = os.sched_getaffinity(0)
    processes = {0, path.pid or 0, path.relay or 0}
    for one in processes:
        os.sched_setaffinity(one, {min(cores)})
    try:
        yield
    finally:
        for one in processes:
            with contextlib.suppress(OSError):
                os.sched_setaffinity(one, cores)


def connections(parallel, direction="out"):
    def measure(harness, path):
        with harness.ends(path, direction, 4) as (client, server, address, port):
            with path.lab.service(server, "echo", "--listen", f"0.0.0.0:{port}"):
                before = path.cpu()
                done = path.lab.traffic(client, "tcp-crr", "--connect", f"{address}:{port}", "--count",
                                        harness.connections, "--parallel", parallel)
                spent = path.spent(before, done["count"], 1e6)
        return {"value": done["per_second"] / 1e3, "failed": done["failed"], **spent}
    return measure


def bulk(direction):
    def measure(harness, path):
        with harness.ends(path, direction, 4) as (client, server, address, port):
            with path.lab.service(server, "bulk-serve", "--listen", f"0.0.0.0:{port}"):
                done = path.lab.traffic(client, "bulk", "--connect", f"{address}:{port}", "--up", 100_000, "--seconds", 15)
        return {"value": done["seconds"], "failed": done["failed"] + done["unfinished"]}
    return measure


def memory_idle(_harness, path):
    if not path.pid:
        raise NotOffered("no process")
    return {"value": pss(path.pid) / 1024, "rss": rss(path.pid) / 1024}


def memory_per_flow(harness, path):
    if not path.pid:
        raise NotOffered("no process")
    count = 1000
    with harness.ends(path, "out", 4) as (client, server, address, port):
        with path.lab.service(server, "echo", "--listen", f"0.0.0.0:{port}"):
            before = pss(path.pid)
            with path.lab.service(client, "hold", "--connect", f"{address}:{port}", "--count", count) as held:
                after = pss(path.pid)
                alive = held.stop()["alive"]
    return {"value": (after - before) * 1024 / count, "failed": count - alive}


def start(harness, lab, program):
    argv = [lab.tool, "start-time", "--count", str(harness.starts), "--", *program.run(["-q"], ["true"])]
    return {"value": started(lab, argv)["p50_us"] / 1e3}


def attach(harness, lab, program):
    argv = [lab.tool, "start-time", "--count", str(harness.starts), "--namespace", "--",
            *program.attach(["-q"], "12345")]
    # The command line is made with a number, which decides its form; the tool puts the real one in.
    argv = [word if word != "12345" else "{}" for word in argv]
    return {"value": started(lab, argv)["p50_us"] / 1e3}


def started(lab, argv):
    return json.loads(lab.call(lab.as_user(argv), timeout=60).stdout)


def rows():
    """(id, title, unit, unit of cpu, better, MTU, how); an MTU of None has no path."""
    for direction in ("out", "in"):
        for mtu in (1500, 65520):
            for version in (4, 6):
                for streams in (1, 4):
                    name = f"tcp-{direction}-{mtu}-v{version}-{streams}"
                    title = f"TCP {direction}, MTU {mtu}, IPv{version}, {streams} stream{'s' if streams > 1 else ''}"
                    yield name, title, "Gb/s", "CPU s/GB", "more", mtu, tcp(direction, version, streams)
    for direction in ("out", "in"):
        for delay in (10, 50):
            yield (f"delay-{direction}-{delay}", f"TCP {direction}, {delay} ms round trip, 0.1 % loss", "Mb/s", None, "more",
                   65520, delayed(direction, delay))
    for direction in ("out", "in"):
        for size in (64, 1400):
            yield (f"udp-{direction}-{size}", f"UDP {direction}, {size} bytes", "kpps", "CPU µs/packet", "more", 65520,
                   udp(direction, size))
    yield "udp-out-gso", "UDP out, 1400 bytes, 16 at a time (GSO)", "kpps", "CPU µs/packet", "more", 65520, \
        udp("out", 1400, 16)
    for tool in ("tcp-rr", "udp-rr"):
        for version in (4, 6):
            yield (f"{tool}-v{version}", f"{tool[:3].upper()} round trip, IPv{version}, p50", "µs", None, "less", 65520,
                   round_trip(tool, version))
    for parallel in (1, 32):
        yield f"crr-{parallel}", f"connect, ask, close; {parallel} in flight", "k/s", "CPU µs each", "more", 65520, \
            connections(parallel)
    for direction in ("splice-out", "splice-in"):
        for version, streams in ((4, 1), (6, 1), (4, 4)):
            name = f"tcp-{direction}-v{version}-{streams}"
            title = f"TCP {direction}, IPv{version}, {streams} stream{'s' if streams > 1 else ''}"
            yield name, title, "Gb/s", "CPU s/GB", "more", 65520, tcp(direction, version, streams)
        for tool in ("tcp-rr", "udp-rr"):
            yield (f"{tool}-{direction}", f"{tool[:3].upper()} round trip, {direction}, p50", "µs", None, "less", 65520,
                   round_trip(tool, 4, direction))
        yield (f"udp-{direction}-1400", f"UDP {direction}, 1400 bytes", "kpps", "CPU µs/packet", "more", 65520,
               udp(direction, 1400))
        yield f"crr-{direction}", f"connect, ask, close; 32 in flight, {direction}", "k/s", "CPU µs each", "more", \
            65520, connections(32, direction)
    for direction in ("out", "in"):
        yield f"bulk-{direction}", f"1000 × 100 kB at once, {direction}", "s", None, "less", 65520, bulk(direction)
    yield "memory-idle", "memory, idle (PSS)", "MiB", None, "less", 65520, memory_idle
    yield "memory-flow", "memory of an idle flow", "B", None, "less", 65520, memory_per_flow
    yield "start", "start: `run -- true`", "ms", None, "less", None, start
    yield "attach", "start: attach", "ms", None, "less", None, attach


class Harness:
    def __init__(self, lab, options, programs):
        self.lab, self.options, self.programs = lab, options, programs
        self.paths = SOCKET_PATHS if options.socket else PATHS
        quick = options.quick
        self.rounds = options.rounds or (1 if quick else 5)
        self.seconds = options.seconds or (1 if quick else 3)
        self.round_trips, self.connections, self.starts = (3000, 3000, 15) if quick else (20_000, 10_000, 50)
        self.results = {}

    @contextlib.contextmanager
    def ends(self, path, direction, version):
        """(where the client runs, where the server runs, address to connect to, port)"""
        if direction == "splice-out":
            yield path.guest, path.outside, path.local(version), SPLICE_PORT
        elif direction == "splice-in":
            yield path.outside, path.guest, path.local(version), IN_PORT
        elif direction == "out":
            yield path.guest, path.outside, path.target(version), OUT_PORT
        else:
            yield path.outside, path.guest, path.entry(version), IN_PORT

    def argv(self, path, where, argv):
        return where.argv(argv) if isinstance(where, laboratory.Guest) else path.lab.as_root(argv, where)

    def measure(self):
        chosen = [row for row in rows()
                  if not self.options.only or any(pattern in row[0] for pattern in self.options.only)]
        if self.options.socket:
            # A machine's loopback is its own, and its start is another's affair.
            chosen = [row for row in chosen if row[5] and "splice" not in row[0]]
        for name, title, unit, cpu_unit, better, _, _ in chosen:
            self.results[name] = {"title": title, "unit": unit, "cpu_unit": cpu_unit, "better": better, "programs": {}}
        for mtu in dict.fromkeys(row[5] for row in chosen):
            # Memory comes first: what a program keeps after a flood is not what it needs when idle.
            group = sorted((row for row in chosen if row[5] == mtu), key=lambda row: not row[0].startswith("memory"))
            for nth in range(self.rounds):
                for program in self.programs:
                    print(f"round {nth + 1} of {self.rounds}, MTU {mtu or 'any'}: {program.name}", file=sys.stderr)
                    self.measure_group(group, mtu, program)

    def measure_group(self, group, mtu, program):
        if mtu is None:
            for row in group:
                if self.paths[program.kind] is Translated:
                    self.record(row, program, lambda how=row[6]: how(self, self.lab, program))
            return
        path = None
        for row in group:
            # A program that ended, of its own or because a row went wrong, gets a new start.
            if path is not None and path.pid and path.process.poll() is not None:
                path.close()
                path = None
            if path is None:
                try:
                    path = self.paths[program.kind](self.lab, program, mtu)
                except Exception as error:  # pylint: disable=broad-except
                    self.note(row, program, error=f"no start: {error}")
                    continue
            self.record(row, program, lambda how=row[6], path=path: how(self, path))
        if path is not None:
            path.close()

    def record(self, row, program, how):
        try:
            self.note(row, program, **how())
        except NotOffered as error:
            self.note(row, program, error=str(error))
        except Exception as error:  # pylint: disable=broad-except
            self.note(row, program, error=f"{type(error).__name__}: {error}"[:300])

    def note(self, row, program, **found):
        self.results[row[0]]["programs"].setdefault(program.name, []).append(found)
        if self.options.verbose:
            print(f"  {row[0]} {program.name}: {found}", file=sys.stderr)

    def report(self):
        for row in self.results.values():
            row["programs"] = {name: summed_up(found) for name, found in row["programs"].items()}
        return {"meta": meta(self), "order": [program.name for program in self.programs], "rows": self.results}


def summed_up(found):
    """Medians of what worked, and every single value for those who want to know the spread."""
    worked = [one for one in found if "error" not in one]
    summary = {"values": [one["value"] for one in worked], "errors": [one["error"] for one in found if "error" in one]}
    for key in ("value", "cpu", "relay", "p99", "lost", "failed", "rss"):
        numbers = [one[key] for one in worked if one.get(key) is not None]
        if numbers:
            summary["median" if key == "value" else key] = statistics.median(numbers)
    return summary


def meta(harness):
    def first_line(*argv):
        done = subprocess.run(argv, capture_output=True, text=True, check=False, cwd=laboratory.ROOT)
        return (done.stdout.splitlines() or [""])[0]

    def setting(name):
        with open(f"/proc/sys/net/ipv4/{name}", encoding="ascii") as file:
            return " ".join(file.read().split())
    versions = {program.name: first_line(program.path, "--version") for program in harness.programs if program.path}
    return {"kernel": platform.release(), "commit": first_line("git", "rev-parse", "--short", "HEAD"),
            "date": time.strftime("%Y-%m-%d"), "cpus": os.cpu_count(), "rounds": harness.rounds,
            "seconds": harness.seconds, "versions": versions, "tcp_wmem": setting("tcp_wmem"),
            "tcp_rmem": setting("tcp_rmem")}


def is_listening(space, port):
    """Whether a TCP listener is at the port, without connecting to it."""
    with space.entered():
        for name in ("tcp", "tcp6"):
            with open(f"/proc/thread-self/net/{name}", encoding="ascii") as file:
                for line in file:
                    words = line.split()
                    if words[3] == "0A" and words[1].endswith(f":{port:04X}"):
                        return True
    return False


def pss(pid):
    return smaps(pid, "Pss")


def rss(pid):
    return smaps(pid, "Rss")


def smaps(pid, name):
    """In KiB."""
    with open(f"/proc/{pid}/smaps_rollup", encoding="ascii") as file:
        return [int(line.split()[1]) for line in file if line.startswith(name + ":")][0]


def bracket(address):
    return f"[{address}]" if ":" in address else address


def any_of(version):
    return "0.0.0.0" if version == 4 else "[::]"


def chosen_programs(options, lab):
    found = []

    def add(name, kind, path):
        program = laboratory.Program(path, kind) if path else laboratory.Program("", kind)
        program.name = name
        found.append(program)
    spelt = lab.program.path if lab.program.kind == "spelt" else None
    peers = [peer.split("=", 1) for peer in options.peer]
    if options.socket:
        add("spelt-vm", "spelt", spelt)
        for name, path in [*peers, ("debian", shutil.which("pasta") or "")]:
            passt = os.path.join(os.path.dirname(path), "passt")
            add(f"{name}-vm", "passt", passt if os.path.exists(passt) else None)
        add("loopback", "loopback", "")
    else:
        add("spelt", "spelt", spelt)
        for name, path in peers:
            add(name, "pasta", path)
        for name, kind, command in (("debian", "pasta", "pasta"), ("slirp4netns", "slirp4netns", "slirp4netns")):
            add(name, kind, shutil.which(command))
        add("loopback", "loopback", "")
        add("kernel", "kernel", "")
    found = [program for program in found if program.path or program.kind in ("loopback", "kernel")]
    if options.programs:
        wanted = options.programs.split(",")
        unknown = set(wanted) - {program.name for program in found}
        if unknown:
            sys.exit(f"Not known or not installed: {', '.join(sorted(unknown))}.")
        found = [program for program in found if program.name in wanted]
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--socket", action="store_true", help="guests behind a socket, as virtual machines are")
    parser.add_argument("--quick", action="store_true", help="one round of short measurements")
    parser.add_argument("--rounds", type=int, help="rounds (default: 5)")
    parser.add_argument("--seconds", type=int, help="length of one throughput measurement (default: 3)")
    parser.add_argument("--only", action="append", default=[], metavar="PATTERN", help="rows whose name contains this")
    parser.add_argument("--programs", help="names, separated by commas (default: all there are)")
    parser.add_argument("--peer", action="append", default=[], metavar="NAME=PATH", help="a further pasta")
    parser.add_argument("--against", help="the program others are compared with (default: the first peer, or debian)")
    parser.add_argument("--json", default=os.path.join(laboratory.TARGET, "perf.json"), help="where the result goes")
    parser.add_argument("--verbose", action="store_true", help="print each value")
    options = parser.parse_args()
    lab = laboratory.Lab()
    harness = Harness(lab, options, chosen_programs(options, lab))
    harness.measure()
    report = harness.report()
    against = options.peer[0].split("=")[0] if options.peer else "debian"
    report["against"] = options.against or against + "-vm" * options.socket
    report["socket"] = options.socket
    with open(options.json, "w", encoding="utf-8") as file:
        json.dump(report, file, indent=1, ensure_ascii=False)
    print(table.text(report))
    print(f"written to {options.json}")


if __name__ == "__main__":
    main()
