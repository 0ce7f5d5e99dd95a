#!/usr/bin/python3
"""Runs the demonstrations as their reader would, an ordinary user in a fresh clone and a terminal of 80 columns, and checks
what they show. As root:

    test/demo/run.py [--short] [--record] [--verbose] [NAME...]

They run on the host of the laboratory (test/lab), as `user` in /home/user/spelt. With --record the casts in doc/casts are made
anew, and with them the texts in doc/demos.md. `containers` needs Podman: test/consumers/run runs it.
"""

import argparse
import os
import re
import shutil
import sys

sys.dont_write_bytecode = True
HERE = os.path.dirname(os.path.abspath(__file__))
TEST = os.path.dirname(HERE)
sys.path[:0] = [TEST, os.path.join(TEST, "vm"), os.path.join(TEST, "perf")]

# ruff: noqa: E402  (found through the path above)
import cast
import chart
import image
import lab

CASTS = os.path.join(lab.ROOT, "doc/casts")
TITLES = {
    "namespace": "What a program in a namespace sees and reaches",
    "ports": "Ports in both directions",
    "vm": "A virtual machine behind a socket",
    "vm-vhost-user": "A virtual machine behind vhost-user",
    "respond": "Public IPv6 for containers on an on-link prefix",
    "embed": "The engine in another program",
}

# For each: its command, its time limit in seconds, and what it has to show, in this order.
DEMOS = {
    "namespace": (["demo/namespace"], 20, [
        r"This runs as user, not as root\.", r"192\.0\.2\.2/24", r"default via 192\.0\.2\.1 dev eth0",
        r"\$ spelt run -- ip -brief", r"192\.0\.2\.2/24", r"default via 192\.0\.2\.1 dev eth0",
        r"curl: \(7\)", r"\$ spelt run -- curl \S+ .*192\.0\.2\.1", r"\nhello from the loopback of the machine\n",
        r"--no-map-gw", r"curl: \((7|28)\)", r"echo \$\?\n7\n", r"\n0\.\d\d\d seconds\n$"]),
    "ports": (["demo/ports"], 20, [
        r"service of the machine: you reached 127\.0\.0\.1, I see you as 127\.0\.0\.1\n",
        r"service of the machine: you reached 127\.0\.0\.1, I see you as 127\.0\.0\.1\n",
        r"service inside: you reached 192\.0\.2\.2, I see you as 192\.0\.2\.2\n",
        r"connection refused", r"late service inside: you reached 192\.0\.2\.2, I see you as 192\.0\.2\.2\n"]),
    "vm": (["demo/vm"], 60, [
        r"\n(?P<sum>[0-9a-f]{32})  data\n", r"lease of 192\.0\.2\.2 obtained", r"inet 192\.0\.2\.2/24", r"inet6 2001:db8:1:0:",
        r"2 packets transmitted, 2 packets received", r"\n(?P=sum)  -\n", r"\nhello from the guest\n"]),
    "vm-vhost-user": (["demo/vm", "--vhost-user"], 60, [
        r"spelt vm --vhost-user", r"lease of 192\.0\.2\.2 obtained", r"2 packets transmitted, 2 packets received",
        r"\nhello from the guest\n"]),
    "respond": (["demo/respond"], 20, [
        r"100% packet loss", r"Answering for 2001:db8:1:0:ff::/112 on eth0", r"2 received, 0% packet loss",
        r"lladdr 02:00:00:00:01:02", r"::99 ping statistics", r"100% packet loss", r"\nanswered +[1-9]", r"\nabsent +[1-9]"]),
    "embed": (["target/release/examples/embed"], 20, [
        r"ARP: 192\.0\.2\.1 is at 02:00:00:00:00:01\.",
        r"DHCP: address 192\.0\.2\.7/24, router 192\.0\.2\.1, name server 192\.0\.2\.53",
        r"\n    hello from the host\n", r"saw a client at 127\.0\.0\.1:", r"hello from the guest; I see you as 192\.0\.2\.1\n",
        r"\d+ frames from the guest, \d+ to it\."]),
}

# The user's home is where the clone is; nothing of this machine's homes is seen.
SETUP = r"""
mount -t tmpfs -o mode=755 none /home
mkdir -p /home/user/spelt
mount --bind "$1" /home/user/spelt
printf 'root:x:0:0:root:/root:/bin/sh\nuser:x:%s:%s:user:/home/user:/bin/bash\n' "$2" "$2" >/home/passwd
mount --bind /home/passwd /etc/passwd
chown "$2" /home/user
hostname machine
cd /home/user/spelt
user=$2
shift 2
exec setpriv --reuid="$user" --regid="$user" --clear-groups "$@"
"""


class Clone:
    """What of a clone and its build the demonstrations use, in the laboratory's directory."""

    def __init__(self, laboratory):
        self.lab = laboratory
        built = [os.path.join(lab.TARGET, kind, "examples/embed") for kind in ("release", "debug")]
        built = sorted(filter(os.path.exists, built), key=os.path.getmtime)
        if not built:
            sys.exit("The example `embed` is missing: run `cargo build --release --bins --examples` first.")
        self.path = os.path.join(laboratory.dir, "clone")
        for name in ("demo", "test/vm"):
            shutil.copytree(os.path.join(lab.ROOT, name), os.path.join(self.path, name))
        os.makedirs(os.path.join(self.path, "target/release/examples"))
        shutil.copy(laboratory.program.path, os.path.join(self.path, "target/release/spelt"))
        shutil.copy(built[-1], os.path.join(self.path, "target/release/examples/embed"))
        image.kernel()

    def argv(self, command):
        environment = ["HOME=/home/user", "USER=user", "TERM=xterm-256color", "COLUMNS=80", "LC_ALL=C.UTF-8",
                       "PATH=/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin",
                       f"XDG_CACHE_HOME={os.path.dirname(image.CACHE)}"]
        return self.lab.as_root(["unshare", "--mount", "--uts", "sh", "-euc", SETUP, "sh", self.path, str(lab.USER),
                                 "env", "-i", *environment, *command])


def check(name, shown, left):
    """What is wrong with what was shown."""
    _, limit, expected = DEMOS[name]
    if shown.status is None:
        return f"it did not end within {limit} s"
    if shown.status != 0:
        return f"its status is {shown.status}"
    text = shown.text()
    pattern = r"(?s:.*?)".join(expected)
    if not re.search(pattern, text):
        reached = next(n for n in range(len(expected)) if not re.search(r"(?s:.*?)".join(expected[:n + 1]), text))
        return f"it does not show {expected[reached]!r} where it is expected"
    if wide := [line for line in text.split("\n") if len(line) > cast.COLUMNS]:
        return f"a line is longer than {cast.COLUMNS} columns: {wide[0]!r}"
    return f"these run still: {left}" if left else None


def leftovers(laboratory):
    """What of a demonstration still runs on the host. Some are on their way out when their caller has gone."""
    def gone():
        return not laboratory.inside(f"net:[{os.stat(laboratory.host.path).st_ino}]")
    try:
        lab.wait_until(gone, 3, "the end of all")
        return []
    except TimeoutError:
        return [lab.comm(pid) for pid in laboratory.inside(f"net:[{os.stat(laboratory.host.path).st_ino}]")]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(DEMOS)} (default: all)")
    parser.add_argument("--short", action="store_true", help="leave out the second virtual machine")
    parser.add_argument("--record", action="store_true", help="write doc/casts and doc/demos.md")
    parser.add_argument("--verbose", action="store_true", help="print what each shows")
    options = parser.parse_args()
    if unknown := set(options.names) - set(DEMOS):
        sys.exit(f"No demonstration is called {', '.join(sorted(unknown))}; there are {', '.join(DEMOS)}.")
    laboratory = lab.Lab()
    clone = Clone(laboratory)
    failed = 0
    for name in options.names or [name for name in DEMOS if not (options.short and name == "vm-vhost-user")]:
        command, limit, _ = DEMOS[name]
        shown = cast.record(TITLES[name], clone.argv(command), limit)
        fault = check(name, shown, leftovers(laboratory))
        failed += fault is not None
        print(f"demo.{name} ... {'FAILED: ' + fault if fault else 'ok'} ({shown.seconds:.2f} s)", flush=True)
        if fault or options.verbose:
            print("".join(f"    {line}\n" for line in shown.text().splitlines()), end="")
        elif options.record:
            shown.write(os.path.join(CASTS, name + ".cast"))
    if options.record:
        replace("doc/demos.md", cast.documented(content("doc/demos.md"), CASTS))
    for path, expected, how in (
            ("doc/demos.md", cast.documented(content("doc/demos.md"), CASTS), "test/demo/cast.py doc/casts doc/demos.md"),
            ("doc/pictures/throughput.svg", chart.draw(content("doc/performance.md")),
             "test/perf/chart.py doc/performance.md doc/pictures/throughput.svg")):
        if content(path) != expected:
            failed += 1
            print(f"{path} ... FAILED: it is older than what it is made from; run {how}")
    return int(failed > 0)


def content(path):
    with open(os.path.join(lab.ROOT, path), encoding="utf-8") as file:
        return file.read()


def replace(path, text):
    with open(os.path.join(lab.ROOT, path), "w", encoding="utf-8") as file:
        file.write(text)


if __name__ == "__main__":
    sys.exit(main())
