#!/usr/bin/python3
"""Tests of what people read: `run.py [PATTERN...]`, as root. Prints one line a check and a closing line.

The commands of README.md, each run as an ordinary user in the laboratory's network; the command lines of spelt in doc/; the
manual pages; the files that pages name. Needs `cargo build --release --bins --examples`.
"""

import os
import sys
import time
import traceback

TESTS = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path[:0] = [TESTS, os.path.join(TESTS, "namespace")]
sys.dont_write_bytecode = True

import blocks  # noqa: E402  (found through the path above)
import commands  # noqa: E402
import lines  # noqa: E402
import manual  # noqa: E402
import names  # noqa: E402
import world  # noqa: E402


def checks(place):
    """Names and functions without arguments."""
    for command in blocks.commands("README.md"):
        yield f"README: {command}", lambda command=command: commands.check(place, command)
    yield "README: the table has no other commands", commands.check_table
    for page in lines.PAGES:
        yield f"command lines of {page}", lambda page=page: lines.check(place, page)
    yield "manual pages are those of the program", lambda: manual.check_current(place.lab.tool)
    for page in manual.pages():
        yield f"manual page {page}", lambda page=page: manual.check(page)
    for page in names.pages():
        yield f"files that {page} names", lambda page=page: names.check(page)


def main(patterns):
    passed, failed = 0, 0
    with world.World() as place:
        for name, check in checks(place):
            if patterns and not any(pattern in name for pattern in patterns):
                continue
            began = time.monotonic()
            try:
                check()
                verdict, reason = "ok", ""
                passed += 1
            except Exception:  # one that fails must not keep the others from being run
                verdict, reason = "FAILED", traceback.format_exc(limit=-3)
                failed += 1
            print(f"{name} ... {verdict} ({time.monotonic() - began:.2f} s)\n{reason}", end="", flush=True)
    print(f"{passed} passed, {failed} failed")
    return 1 if failed or not passed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
