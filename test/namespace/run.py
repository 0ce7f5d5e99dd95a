#!/usr/bin/python3
"""Tests in real namespaces: `run.py [--list] [--without PATTERN]... [PATTERN...]`, as root. Prints one line a test and a
closing line.

A pattern is a part of a test's name. A test that lacks something it needs fails; none is skipped.
"""

import argparse
import importlib
import os
import pathlib
import signal
import sys
import time
import traceback
import unittest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
sys.dont_write_bytecode = True

import support  # noqa: E402  (found through the path above)

LIMIT = 30


class OutOfTime(Exception):
    """A test took longer than its limit."""


class Result(unittest.TestResult):
    """Prints a line as soon as a test is done, and the reasons of all failures at the end."""

    def __init__(self):
        super().__init__()
        self.passed, self.failed, self.reasons, self.began, self.bad = 0, 0, [], 0.0, False

    def startTest(self, test):
        super().startTest(test)
        self.began, self.bad = time.monotonic(), False
        method = getattr(test, test._testMethodName)
        signal.alarm(getattr(method, "limit", None) or LIMIT)

    def stopTest(self, test):
        signal.alarm(0)
        took = time.monotonic() - self.began
        print(f"{name_of(test)} ... {'FAILED' if self.bad else 'ok'} ({took:.2f} s)", flush=True)
        self.failed += self.bad
        self.passed += not self.bad
        super().stopTest(test)

    def addError(self, test, err):
        self.bad = True
        self.reasons.append((name_of(test), "".join(traceback.format_exception(*err, limit=-3))))

    addFailure = addError

    def addSkip(self, test, reason):
        self.bad = True
        self.reasons.append((name_of(test), f"skipped: {reason}"))


def name_of(test):
    if not hasattr(test, "_testMethodName"):
        return str(test)
    return f"{type(test).__module__}.{test._testMethodName.removeprefix('test_')}"


def out_of_time(*_):
    raise OutOfTime("the test took longer than its limit")


def tests_in(suite):
    for test in suite:
        if isinstance(test, unittest.TestSuite):
            yield from tests_in(test)
        else:
            yield test


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--list", action="store_true", help="print the names and end")
    parser.add_argument("--without", action="append", default=[], metavar="PATTERN", help="leave these out")
    parser.add_argument("patterns", nargs="*", help="parts of the names of the tests to run")
    options = parser.parse_args()

    loader = unittest.TestLoader()
    here = pathlib.Path(__file__).parent
    modules = [importlib.import_module(file.stem) for file in sorted(here.glob("test_*.py"))]
    chosen = [test for module in modules for test in tests_in(loader.loadTestsFromModule(module))
              if (not options.patterns or any(pattern in name_of(test) for pattern in options.patterns))
              and not any(pattern in name_of(test) for pattern in options.without)]
    if options.list:
        print("\n".join(map(name_of, chosen)))
        return 0
    signal.signal(signal.SIGALRM, out_of_time)
    result = Result()
    # A suite, not a loop: it calls the tearDownClass of each class after its last test.
    unittest.TestSuite(chosen).run(result)
    for name, reason in result.reasons:
        print(f"\n--- {name}\n{reason}")
    print(f"{result.passed} passed, {result.failed} failed")
    return 1 if result.failed or not result.passed else 0


if __name__ == "__main__":
    sys.exit(main())
