#!/usr/bin/python3
"""Runs the checks in a world per program and prints the table. Called by test/consumers/run."""

import argparse
import fnmatch
import os
import sys
import time
import traceback

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

# ruff: noqa: E402, F401  (found through the path above; the last six register their checks, in the table's order)
import checks
import lab
import world
import podman_run
import podman_ports
import podman_options
import podman_bridge
import others
import demo


def main():
    options = arguments()
    chosen = [one for one in checks.CHECKS
              if not options.patterns or any(fnmatch.fnmatch(one.name, f"*{p}*") for p in options.patterns)]
    if options.list:
        print("\n".join(one.name for one in chosen))
        return 0
    if not chosen:
        sys.exit(f"No check's name contains {' or '.join(options.patterns)}; --list shows them all.")
    laboratory = lab.Lab()
    columns = {"ours": lambda: world.World(laboratory, options.cache, laboratory.program.path, laboratory.program.path)}
    if options.peer:
        columns["peer"] = lambda: world.World(laboratory, options.cache, "/usr/bin/pasta", "/usr/bin/slirp4netns",
                                              inside=True)
    results = {}
    for column, make in columns.items():
        place = make()
        for one in chosen:
            results[one.name, column] = attempt(place, one, column, options)
        place.close()
    print_table(chosen, list(columns), results)
    return int(any(result.startswith("FAIL") for (_, column), result in results.items() if column == "ours"))


def attempt(place, one, column, options):
    """Makes one check; what it printed is shown only if it failed."""
    start = time.monotonic()
    try:
        note = one.function(place)
        result = f"ok ({note})" if note else "ok"
    except Exception as error:  # whatever happens to a check is its result
        result = "FAIL"
        if not isinstance(error, (world.Failure, TimeoutError)):
            place.transcript.append(traceback.format_exc())
        place.transcript.append(f"!! {type(error).__name__}: {error}\n")
    failed = result == "FAIL"
    recorded = "".join(" ".join(words) + "\n" for words in place.recorded())
    transcript = place.clean()
    place.recorded()
    if options.argv:
        with open(options.argv, "a", encoding="utf-8") as file:
            file.write(f"# {column}: {one.name}\n{recorded}")
    print(f"{column}: {one.name}: {result} [{time.monotonic() - start:.1f} s]", flush=True)
    if failed or options.verbose:
        text = transcript + ("started:\n" + recorded if recorded else "")
        print("".join(f"    {line}\n" for line in text.splitlines()), end="", flush=True)
    return result


def print_table(chosen, columns, results):
    print()
    print("| check | " + " | ".join(columns) + " |")
    print("|---|" + "---|" * len(columns))
    for one in chosen:
        print(f"| {one.name} | " + " | ".join(results[one.name, column] for column in columns) + " |")
    for column in columns:
        found = [results[one.name, column] for one in chosen]
        print(f"\n{column}: {sum(r.startswith('ok') for r in found)} of {len(found)} checks passed")


def arguments():
    parser = argparse.ArgumentParser(prog="test/consumers/run")
    parser.add_argument("patterns", nargs="*", help="only the checks whose name contains one of these")
    parser.add_argument("--cache", required=True, help=argparse.SUPPRESS)
    parser.add_argument("--peer", action="store_true", help="make every check with Debian's pasta too")
    parser.add_argument("--argv", metavar="FILE", help="append the command lines the programs were started with")
    parser.add_argument("--list", action="store_true", help="print the names of the checks")
    parser.add_argument("--verbose", action="store_true", help="print what was said in checks that passed, too")
    options = parser.parse_args()
    options.cache = os.path.abspath(options.cache)
    return options


if __name__ == "__main__":
    sys.exit(main())
