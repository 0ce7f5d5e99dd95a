"""Measures every row for one program after the other, and sums up what was found."""

import contextlib
import os
import platform
import statistics
import subprocess
import sys
import time

import lab as laboratory
from paths import (IN_PORT, OUT_PORT, PATHS, SOCKET_PATHS, SPLICE_PORT, NotOffered, Translated,
                   vhost_user_paths)
from rows import rows


class Harness:
    def __init__(self, lab, options, programs):
        self.lab, self.options, self.programs = lab, options, programs
        self.paths = SOCKET_PATHS if options.socket else PATHS
        if options.vhost_user:
            self.paths = vhost_user_paths(options.pairs)
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
        if self.options.socket or self.options.vhost_user:
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
            # A program that ended, of its own or because a row went wrong, gets a new start, and so does a relay.
            if path is not None and path.has_ended():
                print(f"the program or its relay ended before {row[0]}", file=sys.stderr)
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
