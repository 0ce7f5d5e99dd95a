"""What is measured; each takes (harness, path) and returns {"value": ..., "cpu": ..., "relay": ...}.

Those of a start take (harness, lab, program): there is no path yet.
"""

import contextlib
import json
import os
import subprocess
import time

import lab as laboratory
from paths import Kernel, NotOffered, is_listening


def tcp(direction, version, streams):
    def measure(harness, path):
        with harness.ends(path, direction, version) as (client, server, address, port):
            listening = path.lab.popen(harness.argv(path, server, ["iperf3", "-s", "-1", "-p", str(port)]),
                                       stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            try:
                laboratory.wait_until(lambda: is_listening(server, port), 5, "the iperf3 server")
                before = path.cpu()
                argv = ["iperf3", "-c", address, "-p", str(port), "-t", str(harness.seconds), "-P", str(streams), "-C",
                        "cubic", "-J"]
                done = path.lab.call(harness.argv(path, client, argv), timeout=harness.seconds + 15, check=False)
                result = json.loads(done.stdout)
                if "error" in result:
                    raise RuntimeError(result["error"])
                received = result["end"]["sum_received"]
                spent = path.spent(before, received["bytes"], 1e9)
            finally:
                path.lab.end(listening)
        return {"value": received["bits_per_second"] / 1e9, **spent}
    return measure


def delayed(direction, round_trip_ms):
    """Through the relay, which loses 0.1 % of the segments; loopback stands for the host's own kernel on that path."""
    def measure(_harness, path):
        if isinstance(path, Kernel):
            raise NotOffered("no route to the relay")
        size = 20_000_000
        out, back = (size, 0) if direction == "out" else (0, size)
        with path.lab.relay(round_trip_ms / 2, 0.001, no_offload=True), \
                path.lab.service(path.lab.far, "stream", "--listen", f"{laboratory.SLOW4}:5998", "--send", back) as server:
            client = path.lab.traffic(path.guest, "stream", "--connect", f"{laboratory.SLOW4}:5998", "--send", out)
            served = server.result()
        arrived = served["streams"][0]["received"] + client["streams"][0]["received"]
        if arrived != size:
            raise RuntimeError(f"{arrived} bytes of {size} arrived")
        return {"value": size * 8e-6 / served["seconds"]}
    return measure


def udp(direction, size, gso=0):
    def measure(harness, path):
        with harness.ends(path, direction, 4) as (client, server, address, port):
            any_address = "0.0.0.0"
            with path.lab.service(server, "udp-sink", "--listen", f"{any_address}:{port}") as sink:
                before = path.cpu()
                sent = path.lab.traffic(client, "udp-flood", "--connect", f"{address}:{port}", "--size", size,
                                        "--gso", gso, "--seconds", harness.seconds)
                time.sleep(0.2)
                spent = path.spent(before, 1, 1e6)
                got = sink.stop()
        return {"value": got["received"] / sent["seconds"] / 1e3, "lost": 1 - got["received"] / max(1, sent["sent"]),
                **({name: seconds / got["received"] for name, seconds in spent.items()} if got["received"] else {})}
    return measure


def round_trip(tool, version, direction="out"):
    """All on one core: across two, what is measured is how fast an idle core wakes up."""
    def measure(harness, path):
        with on_one_core(path), harness.ends(path, direction, version) as (client, server, address, port):
            with path.lab.service(server, "echo", "--listen", f"{any_of(version)}:{port}"):
                done = path.lab.traffic(client, tool, "--connect", f"{bracket(address)}:{port}", "--count",
                                        harness.round_trips)
        if done["count"] == 0:
            raise RuntimeError("nothing came back")
        return {"value": done["p50_us"], "p99": done["p99_us"], "lost": done["lost"]}
    return measure


@contextlib.contextmanager
def on_one_core(path):
    """This process, what it starts, and all threads of those of the path."""
    cores = os.sched_getaffinity(0)
    threads = {0} | {int(task) for pid in (path.pid, path.relay) if pid for task in os.listdir(f"/proc/{pid}/task")}
    for one in threads:
        os.sched_setaffinity(one, {min(cores)})
    try:
        yield
    finally:
        for one in threads:
            with contextlib.suppress(OSError):
                os.sched_setaffinity(one, cores)


def connections(parallel, direction="out"):
    def measure(harness, path):
        with harness.ends(path, direction, 4) as (client, server, address, port):
            with path.lab.service(server, "echo", "--listen", f"0.0.0.0:{port}"):
                before = path.cpu()
                done = path.lab.traffic(client, "tcp-crr", "--connect", f"{address}:{port}", "--count",
                                        harness.connections, "--parallel", parallel)
                spent = path.spent(before, done["count"], 1e6)
        return {"value": done["per_second"] / 1e3, "failed": done["failed"], **spent}
    return measure


def bulk(direction):
    def measure(harness, path):
        with harness.ends(path, direction, 4) as (client, server, address, port):
            with path.lab.service(server, "bulk-serve", "--listen", f"0.0.0.0:{port}"):
                done = path.lab.traffic(client, "bulk", "--connect", f"{address}:{port}", "--up", 100_000, "--seconds", 15)
        return {"value": done["seconds"], "failed": done["failed"] + done["unfinished"]}
    return measure


def memory_idle(_harness, path):
    if not path.pid:
        raise NotOffered("no process")
    return {"value": pss(path.pid) / 1024, "rss": rss(path.pid) / 1024}


def memory_per_flow(harness, path):
    if not path.pid:
        raise NotOffered("no process")
    count = 1000
    with harness.ends(path, "out", 4) as (client, server, address, port):
        with path.lab.service(server, "echo", "--listen", f"0.0.0.0:{port}"):
            before = pss(path.pid)
            with path.lab.service(client, "hold", "--connect", f"{address}:{port}", "--count", count) as held:
                after = pss(path.pid)
                alive = held.stop()["alive"]
    return {"value": (after - before) * 1024 / count, "failed": count - alive}


def start(harness, lab, program):
    argv = [lab.tool, "start-time", "--count", str(harness.starts), "--", *program.run(["-q"], ["true"])]
    return {"value": started(lab, argv)["p50_us"] / 1e3}


def attach(harness, lab, program):
    argv = [lab.tool, "start-time", "--count", str(harness.starts), "--namespace", "--",
            *program.attach(["-q"], "12345")]
    # The command line is made with a number, which decides its form; the tool puts the real one in.
    argv = [word if word != "12345" else "{}" for word in argv]
    return {"value": started(lab, argv)["p50_us"] / 1e3}


def started(lab, argv):
    return json.loads(lab.call(lab.as_user(argv), timeout=60).stdout)


def pss(pid):
    return smaps(pid, "Pss")


def rss(pid):
    return smaps(pid, "Rss")


def smaps(pid, name):
    """In KiB."""
    with open(f"/proc/{pid}/smaps_rollup", encoding="ascii") as file:
        return [int(line.split()[1]) for line in file if line.startswith(name + ":")][0]


def bracket(address):
    return f"[{address}]" if ":" in address else address


def any_of(version):
    return "0.0.0.0" if version == 4 else "[::]"
