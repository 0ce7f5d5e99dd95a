#!/usr/bin/python3
"""How many solicitations a second are answered, and at what cost: `respond.py [--seconds N] [PROGRAM...]`, as root.

1,000 prefixes and 10,000 solicitations a second, one a target, from a router over veth; a table for doc/respond.md. Programs:
spelt, ndppd (if installed).
"""

import argparse
import contextlib
import os
import pathlib
import socket
import subprocess
import sys
import tempfile
import time

HERE = pathlib.Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE.parent / "namespace")]
sys.dont_write_bytecode = True

import lab  # noqa: E402
import respond_world  # noqa: E402

PREFIXES, RATE = 1000, 10_000


def prefix(number):
    return f"2001:db8:{number:x}:0:ff::/112"


def commands(directory, program):
    spelt = [program, "respond", "-q", "--control", "none", "-i", "eth0"]
    conf = os.path.join(directory, "ndppd.conf")
    with open(conf, "w", encoding="ascii") as file:
        rules = "".join(f"rule {prefix(n)} {{ static }}\n" for n in range(PREFIXES))
        file.write(f"proxy eth0 {{ router no\n{rules} }}\n")
    return {"spelt": [*spelt, *(word for n in range(PREFIXES) for word in ("-s", prefix(n)))],
            "spelt, one prefix": [*spelt, "-s", "2001:db8::/32"],
            "ndppd": ["ndppd", "-c", conf]}


def memory(pid):
    """Resident and proportional, in KiB."""
    with open(f"/proc/{pid}/smaps_rollup", encoding="ascii") as file:
        found = dict(line.split(":", 1) for line in file if ":" in line)
    return [int(found[name].split()[0]) for name in ("Rss", "Pss")]


def processor(pid):
    with open(f"/proc/{pid}/stat", encoding="ascii") as file:
        fields = file.read().rsplit(")", 1)[1].split()
    return sum(map(int, fields[11:13])) / os.sysconf("SC_CLK_TCK")


def ask(wire, seconds):
    """So many a second, evenly; how many were sent, and how many answers came."""
    wire.socket.setblocking(False)
    frames = [respond_world.solicitation(f"2001:db8:{n % PREFIXES:x}:0:ff::{n % 65521:x}") for n in range(20_000)]
    began, sent, answers = time.monotonic(), 0, 0
    while (now := time.monotonic() - began) < seconds + 0.5:
        while sent < min(now, seconds) * RATE:
            with contextlib.suppress(BlockingIOError):
                wire.send(frames[sent % len(frames)])
                sent += 1
        with contextlib.suppress(BlockingIOError):
            while True:
                frame, address = wire.socket.recvfrom(200)
                answers += address[2] != socket.PACKET_OUTGOING and frame[12:14] == b"\x86\xdd" and frame[54] == 136
        time.sleep(0.001)
    return sent, answers


def measure(world, name, argv, seconds):
    process = subprocess.Popen(world.inside("host", argv), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wire = respond_world.Wire(world)
        wire.socket.setsockopt(socket.SOL_SOCKET, 33, 32 << 20)  # SO_RCVBUFFORCE
        target = respond_world.solicitation(prefix(PREFIXES - 1).split("/")[0] + "7")
        lab.wait_until(lambda: wire.send(target) or wire.answer(timeout=0.3), 10, name)
        idle = memory(process.pid)
        before = processor(process.pid)
        sent, answers = ask(wire, seconds)
        used = processor(process.pid) - before
        after = memory(process.pid)
        wire.close()
    finally:
        process.terminate()
        process.wait(10)
    print(f"| {name} | {sent / seconds:.0f} | {100 * answers / sent:.1f} % | {100 * used / seconds:.1f} % | "
          f"{idle[0] / 1024:.1f} / {idle[1] / 1024:.1f} | {after[0] / 1024:.1f} / {after[1] / 1024:.1f} |", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=5)
    parser.add_argument("programs", nargs="*")
    options = parser.parse_args()
    world = respond_world.World(lab.Lab())
    print(f"| {PREFIXES} prefixes | asked a second | answered | processor | RSS / PSS at first, MiB | and then |")
    print("| --- | --- | --- | --- | --- | --- |")
    with tempfile.TemporaryDirectory() as directory:
        for name, argv in commands(directory, world.lab.program.path).items():
            if not options.programs or name in options.programs:
                measure(world, name, argv, options.seconds)


if __name__ == "__main__":
    main()
