#!/usr/bin/python3
"""Started by `run`, which makes what it needs: suite.py [PATTERN...]; a pattern is a part of a test's name."""

import os
import sys
import unittest

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

import support  # noqa: E402  (found through the path above)


def tests_in(suite):
    for test in suite:
        if isinstance(test, unittest.TestSuite):
            yield from tests_in(test)
        else:
            yield test


def main():
    found = tests_in(unittest.TestLoader().discover(os.path.dirname(os.path.abspath(__file__)), "test_*.py"))
    chosen = [test for test in found if not sys.argv[1:] or any(pattern in test.id() for pattern in sys.argv[1:])]
    if not chosen:
        sys.exit("No test has such a name.")
    done = unittest.TextTestRunner(stream=sys.stdout, verbosity=2).run(unittest.TestSuite(chosen))
    support.Case.end()
    sys.exit(0 if done.wasSuccessful() and not done.skipped else 1)


if __name__ == "__main__":
    main()
