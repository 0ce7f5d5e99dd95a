#!/usr/bin/python3
"""Our pesto with pasta, and theirs with ours and with their own: `run.py DIRECTORY [PATTERN...]`, as root.

DIRECTORY is what `test/perf/fetch-peers.sh DIRECTORY` has filled: pasta and pesto of Debian sid. A stable release has no pesto, so
that this is not part of all tests; test/namespace/test_pesto.py has their bytes instead.
"""

import os
import signal
import sys
import unittest

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [os.path.join(os.path.dirname(HERE), "namespace")]
sys.dont_write_bytecode = True

import run  # noqa: E402  (found through the path above)
import test_pesto  # noqa: E402


class OurClientTheirInstance(test_pesto.OurClient, test_pesto.Anybodys, test_pesto.Pesto):
    """What could not be bound is noticed, and is not in the way of others."""


class TheirClientOurInstance(test_pesto.Anybodys, test_pesto.Pesto):
    """It cannot notice; nothing is changed all the same."""

    def test_a_port_that_is_taken(self):
        with self.lab.host.listen("0.0.0.0", 7471):
            self.pesto("-A", "-t", "7470-7472")
            self.assertEqual(self.rules(), self.BEFORE)
        self.assertIn("Failed to bind port 7471", self.guest.errors())


class TheirClientTheirInstance(test_pesto.Anybodys, test_pesto.Pesto):
    """That what is true of ours is true of theirs."""


def main():
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    programs = [os.path.join(sys.argv[1], "root", "usr", "bin", name) for name in ("pasta", "pesto")]
    for path in programs:
        if not os.path.exists(path):
            sys.exit(f"{path} is missing: run `test/perf/fetch-peers.sh {sys.argv[1]}` first.")
    OurClientTheirInstance.daemon, TheirClientOurInstance.client = programs
    TheirClientTheirInstance.daemon, TheirClientTheirInstance.client = programs
    classes = [OurClientTheirInstance, TheirClientOurInstance, TheirClientTheirInstance]
    loader = unittest.TestLoader()
    chosen = [test for cls in classes for test in loader.loadTestsFromTestCase(cls)
              if not sys.argv[2:] or any(pattern in name_of(test) for pattern in sys.argv[2:])]
    run.name_of = name_of
    signal.signal(signal.SIGALRM, run.out_of_time)
    result = run.Result()
    unittest.TestSuite(chosen).run(result)
    for name, reason in result.reasons:
        print(f"\n--- {name}\n{reason}")
    print(f"{result.passed} passed, {result.failed} failed")
    return 1 if result.failed or not result.passed else 0


def name_of(test):
    method = getattr(test, "_testMethodName", None)
    return f"{type(test).__name__}.{method.removeprefix('test_')}" if method else str(test)


if __name__ == "__main__":
    sys.exit(main())
