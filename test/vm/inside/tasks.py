"""What the checks have done in the guest, beside calls of sockets: commands, programs, and what takes many steps."""

import os
import re
import select
import signal
import socket
import subprocess
import time

# ruff: noqa: F401  (what is asked for by name)
from card import channels, features, set_channels, statistics

STARTED = {}


def run(command, seconds):
    """A shell command to its end: (status, what it said)."""
    process = subprocess.Popen(["sh", "-c", command], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                               stderr=subprocess.STDOUT, start_new_session=True)
    try:
        said, _ = process.communicate(timeout=seconds)
        status = process.returncode
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        said, status = process.communicate()[0] + b"\n(out of time)\n", 124
    return status, said.decode(errors="replace")


def start(*argv):
    """A program that runs in the background: its process id."""
    process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    STARTED[process.pid] = process
    return process.pid


def line_of(pid, seconds):
    """The next line that a program writes; empty if it ends or the time is over."""
    return _line(STARTED[pid].stdout, seconds)


def finish(pid, close, seconds):
    """Waits for a program's last line, having ended its input if `close`; then it is ended: (status or None, line)."""
    process = STARTED.pop(pid)
    if close:
        process.stdin.close()
    line = _line(process.stdout, seconds)
    try:
        status = process.wait(1)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        status = None
    process.stdout.close()
    return status, line


def _line(stream, seconds):
    end = time.monotonic() + seconds
    line = b""
    while not line.endswith(b"\n"):
        if not select.select([stream], [], [], max(0, end - time.monotonic()))[0]:
            break
        byte = os.read(stream.fileno(), 1)
        if not byte:
            break
        line += byte
    return line.decode(errors="replace")


def wait_for_ipv6(local, seconds):
    """Waits for an address of IPv6 that may be used, a global one unless `local`, and a default route."""
    end = time.monotonic() + seconds
    scope = "20" if local else "00"
    while time.monotonic() < end:
        with open("/proc/net/if_inet6", encoding="ascii") as file:
            words = [line.split() for line in file]
        with open("/proc/net/ipv6_route", encoding="ascii") as file:
            routes = [line.split() for line in file]
        usable = any(w[5] == "eth0" and w[3] == scope and not int(w[4], 16) & 0x48 for w in words)
        if usable and any(r[9] == "eth0" and r[1] == "00" and r[0] == "0" * 32 for r in routes):
            return True
        time.sleep(0.02)
    raise TimeoutError(f"no address and route of IPv6 within {seconds} s: {words} {routes}")


def connect_time(family, address, port, seconds):
    """How long an attempt takes, and its error by name."""
    began = time.monotonic()
    error = ""
    with socket.socket(family) as attempt:
        attempt.settimeout(seconds)
        try:
            attempt.connect((address, port))
        except OSError as raised:
            error = os.strerror(raised.errno) if raised.errno else "out of time"
    return time.monotonic() - began, error


def tcp_ask(family, address, port, data):
    """What an echo says, over TCP."""
    target = socket.getaddrinfo(address, port, family, socket.SOCK_STREAM, 0, socket.AI_NUMERICHOST)[0][4]
    with socket.socket(family) as stream:
        stream.settimeout(5)
        stream.connect(target)
        stream.sendall(data)
        return stream.recv(len(data))


def pattern(size):
    """Bytes that say where they are."""
    return b"".join(b"%07d " % at for at in range(size // 8 + 1))[:size]


def udp_ask(family, address, port, size):
    """A datagram to an echo: how many bytes come back, and whether they are the right ones."""
    with socket.socket(family, socket.SOCK_DGRAM) as asker:
        asker.settimeout(3)
        asker.sendto(pattern(size), (address, port))
        answer = asker.recv(1 << 17)
    return len(answer), answer == pattern(size)


def damaged_packets():
    """What the kernel has counted of packets with wrong checksums or headers."""
    counted = {}
    with open("/proc/net/snmp", encoding="ascii") as file:
        lines = [line.split() for line in file]
    for names, values in zip(lines[::2], lines[1::2]):
        counted.update({names[0] + name: int(value) for name, value in zip(names[1:], values[1:])})
    with open("/proc/net/snmp6", encoding="ascii") as file:
        counted.update((name, int(value)) for name, value in map(str.split, file))
    wrong = re.compile("InCsumErrors|InHdrErrors|InErrs")
    return {name: value for name, value in counted.items() if value and wrong.search(name)}
