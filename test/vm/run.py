#!/usr/bin/python3
"""A real guest, and clients without a system behind them, on the program's socket, as root:

    test/vm/run.py [--list] [--short] [--link LINK] [--peer PASST] [--keep] [PATTERN...]

prints a line for each check and a closing line; the status is 1 if one failed. See README.md beside this file.
"""

import argparse
import atexit
import importlib
import os
import pathlib
import shutil
import signal
import stat
import sys
import tempfile
import time
import traceback
import unittest

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

# ruff: noqa: E402  (found through the path above)
import world
import guest
import lab

LIMIT = 60


class OutOfTime(Exception):
    """A check took longer than its limit."""


class Result(unittest.TestResult):
    """Prints a line as soon as a check is done, and why it failed."""

    def __init__(self, column):
        super().__init__()
        self.column, self.found, self.reasons = column, {}, []
        self.began = 0.0

    def startTest(self, test):
        super().startTest(test)
        self.began, self.reasons = time.monotonic(), []
        signal.alarm(getattr(method_of(test), "limit", None) or LIMIT)

    def stopTest(self, test):
        signal.alarm(0)
        took = time.monotonic() - self.began
        word = "FAILED" if self.reasons else "ok"
        noted = "".join(f"; {text}" for text in test.noted)
        print(f"{self.column}{name_of(test)} ... {word} ({took:.2f} s{noted})", flush=True)
        self.found[name_of(test)] = word + (f" ({'; '.join(test.noted)})" if test.noted else "")
        if self.reasons:
            # A peer's failure is explained by its last line.
            lines = [*"\n".join(self.reasons).strip().splitlines(), *test.evidence().splitlines()]
            lines = self.reasons[0].strip().splitlines()[-1:] if self.column == "peer: " else lines
            print("".join(f"    {line}\n" for line in lines), end="", flush=True)
            # What a failure leaves behind is not the next check's fault.
            if not test.world.healthy():
                test.world.discard()
        super().stopTest(test)

    def addError(self, test, err):
        if issubclass(err[0], SystemExit):
            raise err[1]
        self.reasons.append("".join(traceback.format_exception(*err, limit=-3)))

    addFailure = addError

    def addSkip(self, test, reason):
        self.reasons.append(f"skipped: {reason}")

    def passed(self):
        return sum(word.startswith("ok") for word in self.found.values())


def name_of(test):
    module, kind = type(test).__module__.partition("_")[2], type(test).__name__.lower()
    return f"{module}.{kind}.{test._testMethodName.removeprefix('test_')}"


def method_of(test):
    return getattr(test, test._testMethodName)


def is_long(test):
    return getattr(method_of(test), "long", False) or getattr(type(test), "long", False)


def out_of_time(*_):
    raise OutOfTime("the check took longer than its limit")


def checks(files="checks_*.py"):
    """All of them, those without a guest first, and those of one guest together."""
    loader = unittest.TestLoader()
    found = []
    for file in sorted(pathlib.Path(__file__).parent.glob(files)):
        for suite in loader.loadTestsFromModule(importlib.import_module(file.stem)):
            found += suite
    return sorted(found, key=lambda test: test.session.name if test.session else "")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--list", action="store_true", help="print the names and end")
    parser.add_argument("--short", action="store_true", help="leave out what takes long")
    parser.add_argument("--link", choices=guest.LINKS, default="stream",
                        help="how guests are connected; but for stream, only checks with a guest are made")
    parser.add_argument("--peer", metavar="PASST", help="make every check with this program, too")
    parser.add_argument("--keep", action="store_true", help="keep logs and captures, and say where they are")
    parser.add_argument("patterns", nargs="*", help="parts of the names of the checks to make")
    options = parser.parse_args()

    chosen = [test for test in checks() if not (options.short and is_long(test))
              and (options.link == "stream" or test.session) and options.link.startswith(test.link)
              and (not options.patterns or any(pattern in name_of(test) for pattern in options.patterns))]
    if options.list:
        print("\n".join(map(name_of, chosen)))
        return 0
    if not chosen:
        sys.exit(f"No check's name contains {' or '.join(options.patterns)}; --list shows them all.")
    signal.signal(signal.SIGALRM, out_of_time)
    laboratory = lab.Lab()
    if options.keep:
        atexit.register(keep, laboratory)
    programs = {"ours": laboratory.program}
    if options.peer:
        programs["peer"] = lab.Program(os.path.abspath(options.peer), "passt")
    results = {}
    for column, program in programs.items():
        results[column] = Result(f"{column}: " if options.peer else "")
        laboratory.program = program
        make(chosen, world.World(laboratory, options.link), results[column])
    if options.peer:
        print_table(chosen, results)
    for column, result in results.items():
        print(f"{column + ': ' if options.peer else ''}{result.passed()} passed, "
              f"{len(result.found) - result.passed()} failed")
    return int(results["ours"].passed() < len(chosen))


def make(chosen, place, result):
    """All checks in one world."""
    world.Case.world = place
    try:
        for test in chosen:
            test.run(result)
    finally:
        place.discard()


def print_table(chosen, results):
    print("\n| check | " + " | ".join(results) + " |")
    print("|---|" + "---|" * len(results))
    for name in map(name_of, chosen):
        print(f"| {name} | " + " | ".join(result.found[name] for result in results.values()) + " |")
    print()


def keep(laboratory):
    """Copies what programs and guests have written."""
    def left_out(directory, names):
        return [name for name in names if not stat.S_ISREG(os.lstat(os.path.join(directory, name)).st_mode)
                or name in ("initrd", "vmlinuz", "lab") or os.access(os.path.join(directory, name), os.X_OK)]
    target = tempfile.mkdtemp(prefix="spelt-vm-")
    shutil.copytree(laboratory.dir, target, ignore=left_out, dirs_exist_ok=True)
    print(f"Logs and captures are in {target}.")


if __name__ == "__main__":
    sys.exit(main())
