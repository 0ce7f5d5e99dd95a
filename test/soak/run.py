#!/usr/bin/python3
"""Tests of endurance, as root: limits reached and left, floods, hours of traffic, and what may happen to a machine.

    test/soak/run.py [--list] [--quick | --smoke] [--scale F] [--minutes M] [--programs a,b] [--peer NAME=PATH]...
                     [--json FILE] [PATTERN...]

Each test runs in a process and a laboratory of its own (test/lab), with a limit of time, and prints what it found. The
status is 1 if spelt missed something that a test needs; what another program misses is only told. A pattern is a part
of a test's name.

Programs: spelt (SPELT_BIN), each `--peer` (a pasta; test/perf/fetch-peers.sh gets the newest), and each with `-vm`
behind its name: behind a socket, as it serves a virtual machine (of a peer, the passt beside its pasta).

Without --quick or --smoke the tests have the size that doc/reliability.md tells of, and take hours: `mixed` one,
`rate` ten minutes. --scale multiplies counts and times, --minutes is for those two. doc/reliability.md is made by
test/soak/table.py from the file of --json.
"""

import argparse
import atexit
import dataclasses
import json
import os
import platform
import re
import signal
import subprocess
import sys
import tempfile
import time
import traceback

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

# ruff: noqa: E402,F401  (found through the path above; the modules of tests register them)
import lab as laboratory
import limits
import long
import readers
import misfortunes
import host
import fairness
import sizes
from trial import TESTS, Trial

# Beyond what a test asks for: the laboratory, the program's start, and a busy machine.
GRACE = 45


@dataclasses.dataclass
class Candidate:
    name: str
    kind: str
    link: str
    path: str


def candidates(options):
    found = [Candidate("spelt", "spelt", "tap", ""), Candidate("spelt-vm", "spelt", "vm", "")]
    for name, path in (peer.split("=", 1) for peer in options.peer):
        found += [Candidate(name, "pasta", "tap", path),
                  Candidate(name + "-vm", "passt", "vm", os.path.join(os.path.dirname(path), "passt"))]
    if options.programs:
        wanted = options.programs.split(",")
        unknown = set(wanted) - {one.name for one in found}
        if unknown:
            sys.exit(f"Not known: {', '.join(sorted(unknown))}.")
        found = [one for one in found if one.name in wanted]
    return found


def one(name, candidate, chosen):
    """In a process of its own: one test of one program. Returns what it found."""
    function = [function for function in TESTS if function.__name__ == name][0]
    trial = Trial(laboratory.Program(candidate.path, candidate.kind), candidate.link, chosen)
    try:
        function(trial)
    except Exception as error:  # pylint: disable=broad-except
        where = traceback.extract_tb(error.__traceback__)
        place = [f"{os.path.basename(f.filename)}:{f.lineno}" for f in where if "/soak/" in f.filename][-1:]
        trial.missed.append(f"{type(error).__name__} at {''.join(place)}: {error}"[:400])
    finally:
        try:
            trial.stack.close()
        except Exception as error:  # pylint: disable=broad-except
            trial.missed.append(f"at the end: {type(error).__name__}: {error}"[:300])
    return {"figures": trial.figures, "missed": trial.missed}


def in_a_process(function, candidate, options):
    """Starts this program again for one test, and ends it if it takes too long."""
    limit = function.seconds(options.sizes) * (1 if candidate.kind == "spelt" else 2) + GRACE
    with tempfile.NamedTemporaryFile("r", prefix="spelt-soak-") as out:
        argv = [sys.executable, os.path.abspath(__file__), "--one", function.__name__, out.name]
        argv += ["--given", json.dumps([dataclasses.asdict(candidate), dataclasses.asdict(options.sizes)])]
        began = time.monotonic()
        child = subprocess.Popen(argv, stdin=subprocess.DEVNULL, start_new_session=True)
        try:
            child.wait(limit)
        except BaseException as error:
            child.terminate()
            try:
                child.wait(20)
            except subprocess.TimeoutExpired:
                os.killpg(child.pid, signal.SIGKILL)
                child.wait()
            if not isinstance(error, subprocess.TimeoutExpired):
                raise
            return {"figures": [], "missed": [f"did not end within {limit:.0f} s"], "seconds": limit}
        finally:
            sweep(child.pid)
        text = out.read()
    found = json.loads(text) if text else {"figures": [], "missed": [f"the test ended with status {child.returncode}"]}
    return {**found, "seconds": round(time.monotonic() - began, 1)}


def sweep(pid):
    """What a test's process that was killed could not remove: the namespaces are named after it."""
    for name in os.listdir("/run/netns") if os.path.isdir("/run/netns") else ():
        if re.fullmatch(f"lab{pid}[a-z]+", name):
            pids = subprocess.run(["ip", "netns", "pids", name], capture_output=True, text=True, check=False).stdout
            for one_pid in map(int, pids.split()):
                try:
                    os.kill(one_pid, signal.SIGKILL)
                except ProcessLookupError:
                    pass
            subprocess.run(["ip", "netns", "delete", name], check=False)


def run_all(options, programs, chosen):
    """Prints a line for each; returns the report."""
    report = {"meta": meta(options, programs), "order": [program.name for program in programs], "tests": {}}
    for function in chosen:
        row = report["tests"][function.__name__] = {"title": function.title, "programs": {}}
        for program in programs:
            if program.link not in function.links:
                continue
            found = row["programs"][program.name] = in_a_process(function, program, options)
            verdict = "MISSED" if found["missed"] else "ok"
            print(f"{function.__name__} {program.name} ... {verdict} ({found['seconds']:.1f} s)", flush=True)
            for word, lines in (("  ", found["figures"]), ("  missed: ", found["missed"])):
                for line in lines:
                    print(word + line, flush=True)
            save(options, report)
    return report


def save(options, report):
    if options.json:
        with open(options.json, "w", encoding="utf-8") as file:
            json.dump(report, file, indent=1, ensure_ascii=False)


def meta(options, programs):
    def first_line(*argv):
        done = subprocess.run(argv, capture_output=True, text=True, check=False, cwd=laboratory.ROOT)
        return (done.stdout.splitlines() or [""])[0]
    ours = os.environ.get("SPELT_BIN", os.path.join(laboratory.TARGET, "release", "spelt"))
    return {"kernel": platform.release(), "cpus": os.cpu_count(), "date": time.strftime("%Y-%m-%d"),
            "commit": first_line("git", "rev-parse", "--short", "HEAD"), "sizes": dataclasses.asdict(options.sizes),
            "versions": {one.name: first_line(one.path or ours, "--version") for one in programs}}


def parsed():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    much = parser.add_mutually_exclusive_group()
    much.add_argument("--quick", action="store_true", help="a minute or less for most tests")
    much.add_argument("--smoke", action="store_true", help="a second or two: does each test work at all?")
    parser.add_argument("--scale", type=float, default=1.0, help="multiplies counts and times")
    parser.add_argument("--minutes", type=float, help="length of the tests `rate` and `mixed`")
    parser.add_argument("--list", action="store_true", help="print the tests and end")
    parser.add_argument("--programs", help="names, separated by commas (default: all there are)")
    parser.add_argument("--peer", action="append", default=[], metavar="NAME=PATH", help="a pasta to be compared with")
    parser.add_argument("--json", metavar="FILE", help="where the result goes, after each test")
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--given", help=argparse.SUPPRESS)
    parser.add_argument("patterns", nargs="*", metavar="PATTERN", help="parts of the names of the tests to run")
    options = parser.parse_args()
    options.sizes = sizes.SMOKE if options.smoke else sizes.QUICK if options.quick else sizes.FULL
    if options.scale != 1.0:
        options.sizes = sizes.scaled(options.sizes, options.scale)
    if options.minutes:
        options.sizes = dataclasses.replace(options.sizes, rate_seconds=options.minutes * 60,
                                            mixed_seconds=options.minutes * 60)
    return options


def main():
    options = parsed()
    if options.one:
        name, out = options.one
        candidate, chosen = json.loads(options.given)
        found = one(name, Candidate(**candidate), sizes.Sizes(**chosen))
        with open(out, "w", encoding="utf-8") as file:
            json.dump(found, file)
        # Threads that wait for traffic that will not come do not keep us; the laboratory removes itself.
        sys.stdout.flush()
        atexit._run_exitfuncs()  # pylint: disable=protected-access
        os._exit(0)
    chosen = [test for test in TESTS if not options.patterns or any(p in test.__name__ for p in options.patterns)]
    if options.list:
        print("\n".join(f"{test.__name__:16} {test.title}" for test in chosen))
        return 0
    programs = candidates(options)
    # Who ends us ends the test that is running, and what that has started.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    report = run_all(options, programs, chosen)
    ours = [found for row in report["tests"].values() for name, found in row["programs"].items()
            if name in ("spelt", "spelt-vm")]
    missed = sum(bool(found["missed"]) for found in ours)
    print(f"{len(ours) - missed} passed, {missed} missed something")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
