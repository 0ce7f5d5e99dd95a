#!/usr/bin/python3
"""What `spelt ctl flows --watch` costs who is looked at: throughput and processor time of one bulk flow, with and without a watcher
on a terminal of 200 columns and 50 lines, in turn, beside no other flows and beside many idle ones. As root:

    test/perf/watch.py [--pairs N] [--seconds N] [--idle N] [--period SECONDS]
"""

import argparse
import contextlib
import fcntl
import json
import os
import pty
import resource
import statistics
import struct
import subprocess
import sys
import tempfile
import termios
import threading

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

import lab as laboratory  # noqa: E402  (found through the path above)
from paths import is_listening  # noqa: E402

PORT = 5201


@contextlib.contextmanager
def idle_flows(lab, guest, count):
    with contextlib.ExitStack() as stack, lab.remote.listen(laboratory.REMOTE4, backlog=1024) as listener:
        for _ in range(count):
            stack.enter_context(guest.connect(laboratory.REMOTE4, listener.getsockname()[1]))
            stack.enter_context(listener.accept()[0])
        yield


@contextlib.contextmanager
def watcher(lab, control, period):
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 50, 200, 0, 0))
    argv = lab.as_user([lab.program.path, "ctl", "-i", control, "flows", "--watch", str(period)])
    process = lab.popen(argv, stdin=theirs, stdout=theirs, stderr=theirs)
    os.close(theirs)

    def drain():
        with contextlib.suppress(OSError):
            while os.read(ours, 65536):
                pass
    reader = threading.Thread(target=drain)
    reader.start()
    try:
        yield
        if process.poll() is not None:
            raise RuntimeError("the watcher has ended")
    finally:
        lab.end(process)
        reader.join()
        os.close(ours)


def bulk(lab, guest, seconds):
    """Gb/s, and processor seconds of the translator for a gigabyte."""
    pid = guest.translator()
    server = lab.popen(lab.as_root(["iperf3", "-s", "-1", "-p", str(PORT)], lab.remote), stdin=subprocess.DEVNULL,
                       stdout=subprocess.DEVNULL)
    try:
        laboratory.wait_until(lambda: is_listening(lab.remote, PORT), 5, "the server")
        before = laboratory.cpu_seconds(pid)
        argv = ["iperf3", "-c", laboratory.REMOTE4, "-p", str(PORT), "-t", str(seconds), "-J"]
        received = json.loads(guest.run(*argv, timeout=seconds + 20).stdout)["end"]["sum_received"]
        spent = laboratory.cpu_seconds(pid) - before
    finally:
        lab.end(server)
    return received["bits_per_second"] / 1e9, spent / (received["bytes"] / 1e9)


def compare(lab, guest, control, options):
    """Per cent that a watcher takes of throughput, and adds to processor time: of each pair."""
    slower, dearer = [], []
    for nth in range(options.pairs):
        found = {}
        for watched in (nth % 2 == 0, nth % 2 == 1):
            with watcher(lab, control, options.period) if watched else contextlib.nullcontext():
                found[watched] = bulk(lab, guest, options.seconds)
        (rate, cost), (watched_rate, watched_cost) = found[False], found[True]
        slower.append(100 * (1 - watched_rate / rate))
        dearer.append(100 * (watched_cost / cost - 1))
        print(f"  {rate:6.2f} Gb/s {cost:.3f} s/GB; watched {watched_rate:6.2f} Gb/s {watched_cost:.3f} s/GB", flush=True)
    return slower, dearer


def spread(numbers):
    quarters = statistics.quantiles(numbers, n=4) if len(numbers) > 1 else numbers * 3
    return f"{statistics.median(numbers):+.1f} % (half of the pairs within {quarters[0]:+.1f} and {quarters[2]:+.1f})"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=10)
    parser.add_argument("--seconds", type=int, default=4)
    parser.add_argument("--idle", type=int, default=5000)
    parser.add_argument("--period", type=float, default=1)
    options = parser.parse_args()
    resource.setrlimit(resource.RLIMIT_NOFILE, (2 * options.idle + 1000,) * 2)
    lab = laboratory.Lab()
    try:
        directory = tempfile.mkdtemp(dir=lab.dir)
        os.chown(directory, laboratory.USER, laboratory.USER)
        control = os.path.join(directory, "control")
        for idle in (0, options.idle):
            with lab.guest("--control", control) as guest, idle_flows(lab, guest, idle):
                print(f"beside {idle} idle flows:", flush=True)
                slower, dearer = compare(lab, guest, control, options)
                print(f"  throughput lost: {spread(slower)}\n  processor time added: {spread(dearer)}", flush=True)
    finally:
        lab.close()


if __name__ == "__main__":
    main()
