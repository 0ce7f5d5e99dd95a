#!/usr/bin/python3
"""An instance for each machine or namespace, many of them on one host: memory of an instance and time to start it. As root:

    test/perf/many.py [--count N] [--rounds N] [--only attach|vm] [--peer NAME=PATH]... [--json FILE]

Programs: spelt (SPELT_BIN), debian (/usr/bin/pasta and passt), each `--peer` (a pasta with its passt beside it;
test/perf/fetch-peers.sh gets the newest). In a round each program in turn has all its instances started, one after the
other, as an ordinary user; a start has ended when the command line returns and the instance serves. Then all are idle, and
their memory is read, as the kernel counts it for each process: PSS, in which what N share is counted as an Nth for each, and
RSS. The order changes from round to round. Each table is of medians over all instances of all rounds. On a machine that is not
calm, compare processor time, not what passed.
"""

import argparse
import contextlib
import json
import os
import platform
import resource
import shutil
import signal
import statistics
import subprocess
import sys
import time

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

import lab as laboratory  # noqa: E402  (found through the path above)

LIMIT = 20


class Attach:
    """Namespaces of one user, which are there before; `attach` returns when all is ready."""

    title = "`attach`: one for each network namespace"

    def __init__(self, lab, count):
        self.lab, self.guests = lab, []
        for _ in range(count):
            self.guests.append(lab.empty_guest())

    def argv(self, program, nth, pid_file):
        # As ours by default, and as Podman calls them: they would look for ports in use, each of them every second.
        ports = ["-t", "none", "-u", "none", "-T", "none", "-U", "none"] if program.kind == "pasta" else []
        return program.attach(["-q", "--pid", pid_file, *ports], str(self.guests[nth].pid))

    def close(self):
        for guest in self.guests:
            guest.close()


class Machine:
    """Sockets for machines, which nobody has connected to; `vm` returns when it listens."""

    title = "`vm`: one for each virtual machine, before it connects"

    def __init__(self, lab, _count):
        self.lab = lab

    def argv(self, program, nth, pid_file):
        return program.vm(["-q", "--pid", pid_file, "--socket", os.path.join(self.lab.dir, f"many-{nth}.socket")])

    def close(self):
        pass


def programs(lab, kind, peers):
    found = [("spelt", lab.program)]
    for name, path in [("debian", shutil.which("pasta") or "/usr/bin/pasta"), *peers]:
        if kind == "vm":
            path = os.path.join(os.path.dirname(path), "passt")
        if not os.path.exists(path):
            sys.exit(f"{path} is missing: install it, or do without it (--peer).")
        found.append((name, laboratory.Program(path, "passt" if kind == "vm" else "pasta")))
    return found


def memory(pid):
    """PSS and RSS in MiB of a process and those it has started."""
    sums = [0, 0]
    for one in {pid} | laboratory.descendants(pid):
        try:
            with open(f"/proc/{one}/smaps_rollup", encoding="ascii") as file:
                found = dict(line.split()[:2] for line in file if line.startswith(("Pss:", "Rss:")))
        except OSError as error:
            if one != pid:
                continue  # It was on its way out.
            raise RuntimeError(f"the instance {pid} has ended by itself") from error
        sums = [before + int(found[name]) / 1024 for before, name in zip(sums, ("Pss:", "Rss:"), strict=True)]
    return sums


def timed(argv, **more):
    """What became of it, and milliseconds: passed, and of processors, for all that has ended meanwhile."""
    def spent():
        usage = resource.getrusage(resource.RUSAGE_CHILDREN)
        return usage.ru_utime + usage.ru_stime
    began, before = time.perf_counter(), spent()
    done = subprocess.run(argv, stdin=subprocess.DEVNULL, timeout=LIMIT, check=False, **more)
    return done, (time.perf_counter() - began) * 1e3, (spent() - before) * 1e3


def running(pid):
    """Milliseconds of processors that a process and what it has started have had."""
    total = 0
    for one in {pid} | laboratory.descendants(pid):
        for task in os.listdir(f"/proc/{one}/task"):
            with open(f"/proc/{one}/task/{task}/schedstat", encoding="ascii") as file:
                total += int(file.read().split()[0]) / 1e6
    return total


def start(lab, argv, pid_file):
    """Milliseconds from the start to the return, those of processors, and the process that stays."""
    with open(lab.file("many"), "w+b") as out:
        done, took, spent = timed(lab.as_user(argv), stdout=out, stderr=out)
        out.seek(0)
        if done.returncode != 0:
            raise RuntimeError(f"{' '.join(argv)}: status {done.returncode}: {out.read().decode()}")
    with open(pid_file, encoding="ascii") as file:
        pid = int(file.read())
    return took, spent + running(pid), pid


def one_round(lab, kind, program, count):
    what = kind(lab, count)
    pids = []
    try:
        times, spent = [], []
        for nth in range(count):
            pid_file = lab.file("pid")
            took, cpu, pid = start(lab, what.argv(program, nth, pid_file), pid_file)
            times.append(took)
            spent.append(cpu)
            pids.append(pid)
        found = [memory(pid) for pid in pids]
        return {"start": times, "cpu": spent, "pss": [pss for pss, _ in found], "rss": [rss for _, rss in found]}
    finally:
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)
        what.close()
        for pid in pids:
            laboratory.wait_until(lambda pid=pid: not os.path.exists(f"/proc/{pid}/exe"), LIMIT, "the end of an instance")


def overhead(lab):
    """Milliseconds of what each start has before the program: `ip netns exec` and `setpriv`; and those of processors."""
    found = [timed(lab.as_user(["/bin/true"]))[1:] for _ in range(100)]
    return [statistics.median(column) for column in zip(*found, strict=True)]


def measure(lab, kind, options):
    chosen = programs(lab, "vm" if kind is Machine else "attach", options.peers)
    found = {name: [] for name, _ in chosen}
    for nth in range(options.rounds):
        turn = nth % len(chosen)
        for name, program in chosen[turn:] + chosen[:turn]:
            load = os.getloadavg()[0]
            result = one_round(lab, kind, program, options.count)
            result["load"] = load
            found[name].append(result)
            print(f"round {nth + 1} of {options.rounds}, {kind.__name__}: {name}, load {load:.2f}", file=sys.stderr)
    return found


def table(kind, found, options, idle):
    print(f"\n{kind.title}; {options.count} instances, {options.rounds} rounds")
    print("\n| | start, ms: median, 95th of 100, last ten of a round | processor time of a start, ms | PSS, MiB | RSS, MiB "
          f"| PSS of all {options.count}, MiB |")
    print("| --- | --- | --- | --- | --- | --- |")
    for name, rounds in found.items():
        times = [ms - idle[0] for one in rounds for ms in one["start"]]
        last = [ms - idle[0] for one in rounds for ms in one["start"][-10:]]
        cpu = statistics.median(ms for one in rounds for ms in one["cpu"]) - idle[1]
        percentile = statistics.quantiles(times, n=20)[-1]
        pss = statistics.median(mib for one in rounds for mib in one["pss"])
        rss = statistics.median(mib for one in rounds for mib in one["rss"])
        total = statistics.median(sum(one["pss"]) for one in rounds)
        print(f"| {name} | {statistics.median(times):.1f}, {percentile:.1f}, {statistics.median(last):.1f} | {cpu:.1f} "
              f"| {pss:.2f} | {rss:.2f} | {total:.0f} |")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", choices=("attach", "vm"))
    parser.add_argument("--peer", action="append", default=[], metavar="NAME=PATH")
    parser.add_argument("--json", metavar="FILE")
    options = parser.parse_args()
    options.peers = [tuple(peer.split("=", 1)) for peer in options.peer]
    resource.setrlimit(resource.RLIMIT_NOFILE, (8192, 8192))
    lab = laboratory.Lab()
    idle = overhead(lab)
    results = {"kernel": platform.release(), "cpus": os.cpu_count(), "count": options.count, "overhead_ms": idle,
               "load_at_first": os.getloadavg()}
    print(f"Linux {platform.release()}, {os.cpu_count()} cores; load at first {os.getloadavg()[0]:.2f}; "
          f"{idle[0]:.1f} ms of each start, {idle[1]:.1f} of them of processors, are not the program's, and subtracted")
    for name, kind in (("attach", Attach), ("vm", Machine)):
        if options.only in (None, name):
            results[name] = measure(lab, kind, options)
            table(kind, results[name], options, idle)
    if options.json:
        with open(options.json, "w", encoding="utf-8") as file:
            json.dump(results, file)


if __name__ == "__main__":
    main()
