"""Who wants little gets it soon, whatever others want.

A round trip over TCP is measured while nothing else goes on, and beside a bulk transfer at full speed, a flood of
datagrams and a thousand idle connections. Clients and servers of the load want the processors as well, and what the
kernel's scheduler makes of that is not the program's doing. So the same load also runs *beside* the program, from the
host over the same veth, while the round trip goes through it as before; and all is done twice:

first    The program and both ends of the round trip have the processors first (SCHED_RR), the load what is left. What
         the round trip waits for then is what is before it in the program and in the kernel's queues: at most three
         times as long as alone.
equal    All processes are alike. At most three times as long as with the load beside the program.
"""

import contextlib
import json
import statistics
import subprocess
import time

import lab as laboratory
from lab.service import Service

from trial import test

ROUNDS = 3
AIM = 3


@test("fairness: a round trip beside transfer, flood and idle connections",
      lambda sizes: 60 + ROUNDS * 12 * (sizes.measure_seconds + 3), links=("tap",))
def fairness(trial):
    server = trial.echo(7001)
    # Idle connections have a server of their own: it would look through them all.
    trial.echo(7002)
    subject = trial.subject()
    rounds = ROUNDS if trial.sizes.measure_seconds > 1 else 1
    for direction in ("out", "in") if trial.sizes.judged else ("out",):
        for first in (True, False):
            for pid in (subject.pid, server.process.pid):
                trial.lab.call(["chrt", *(["--rr", "-a", "-p", "1"] if first else ["--other", "-a", "-p", "0"]), str(pid)])
            cases = {"alone": None, "through": subject.guest, "beside": trial.lab.host}
            found = {name: [] for name in cases}
            for _ in range(rounds):
                for name, where in cases.items():
                    with load(trial, where, direction):
                        found[name].append(round_trips(trial, subject.guest, first))
            tell(trial, direction, first, found)
    trial.need(not subject.ended(), "the program ended")


def tell(trial, direction, first, found):
    middle = {name: [statistics.median(one[which] for one in each) for which in ("p50_us", "p99_us")]
              for name, each in found.items()}
    fewest = min(one["count"] for one in found["through"])
    how = f"transfer {direction}, {'the round trip first' if first else 'all alike'}"
    times = [f"{name} {p50:.0f} / {p99:.0f} µs" for name, (p50, p99) in middle.items()]
    alone, through, beside = (middle[name][1] for name in ("alone", "through", "beside"))
    base = alone if first else max(alone, beside)
    trial.figure(f"{how}: p50 / p99 {', '.join(times)}; p99 ×{through / base:.1f} of {'alone' if first else 'beside'}"
                 + (f", only {fewest} round trips" if fewest < 1000 else ""))
    if not trial.sizes.judged:
        return
    trial.need(fewest > 100, f"{how}: only {fewest} round trips in {trial.sizes.measure_seconds:.0f} s")
    trial.need(through <= AIM * base, f"{how}: p99 {through:.0f} µs, more than {AIM} times {base:.0f} µs")


def round_trips(trial, guest, first):
    argv = [trial.lab.tool, "tcp-rr", "--connect", f"{laboratory.REMOTE4}:7001", "--count", "10000000", "--seconds",
            str(max(1, int(trial.sizes.measure_seconds)))]
    argv = [*(["chrt", "--rr", "1"] if first else []), *guest.argv(argv)]
    done = trial.lab.call(argv, timeout=90, check=False)
    # None at all: not even the connection came about.
    return json.loads(done.stdout.splitlines()[-1]) if done.returncode == 0 else {"count": 0, "p50_us": 0, "p99_us": 0}


@contextlib.contextmanager
def load(trial, where, direction):
    """From `where` to `remote`; `in` is the same connection with the bytes going the other way."""
    if where is None:
        yield
        return
    lab, target = trial.lab, laboratory.REMOTE4

    def argv(place, *words):
        command = [lab.tool, *map(str, words)]
        return place.argv(command) if isinstance(place, laboratory.Guest) else lab.as_root(command, place)
    with contextlib.ExitStack() as stack:
        def serve(place, *words):
            service = Service(lab, argv(place, *words))
            stack.callback(service.stop)

        def start(*words):
            process = lab.popen(argv(where, *words), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                                stderr=subprocess.DEVNULL)
            stack.callback(lab.end, process)
        serve(where, "hold", "--connect", f"{target}:7002", "--count", trial.sizes.idle)
        serve(lab.remote, "bulk-serve", "--listen", f"{target}:7003")
        serve(lab.remote, "udp-sink", "--listen", f"{target}:7004")
        start("bulk", "--connect", f"{target}:7003", "--count", 1, "--up" if direction == "out" else "--down", 1 << 50,
              "--seconds", 60)
        start("udp-flood", "--connect", f"{target}:7004", "--size", 1400, "--seconds", 60)
        time.sleep(0.5)
        yield
