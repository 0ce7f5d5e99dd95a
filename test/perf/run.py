#!/usr/bin/python3
"""Measures programs side by side, as root:

    test/perf/run.py [--socket | --vhost-user [--pairs N]] [--quick] [--rounds N] [--only PATTERN]...
                     [--programs a,b] [--peer NAME=PATH]... [--json FILE]

Every row is measured for one program after the other, `rounds` times over, and the median counts: this way the drift of a
shared machine meets all of them. Compare inside one run only. The most robust figure is the processor time the
translator itself takes (all its threads, no helpers), given per GB, per packet or per connection.

Programs: spelt (SPELT_BIN), debian (/usr/bin/pasta), slirp4netns, each `--peer` (a pasta; test/perf/fetch-peers.sh gets
the newest), and two references without any translation in user space: loopback (client and server in one namespace)
and kernel (veth pairs and NAT by nftables, to a server in the next namespace). With `--socket` the guest is behind a
stream socket, as a virtual machine is, and the programs are spelt-vm, debian-vm (/usr/bin/passt), NAME-vm of each peer
that has a passt beside its pasta, and loopback. `lab plug --offload` stands for the machine: it cuts, sums and joins
segments as QEMU and a guest's network card do, and what that costs is shown beside what the translator costs. With
`--vhost-user` the guest's network card is the program's (spelt-vhost, NAME-vhost), and `lab plug --vhost-user` plays
hypervisor and driver: what the program does not offer to do, the guest's kernel does.

Traffic goes to a server on the host through the gateway address (out), and from the host to a forwarded port at the
host's own address (in); over loopback from side to side (splice) it skips the link where the program can do that. Kernel buffers are the defaults, congestion control is CUBIC.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

# ruff: noqa: E402  (found through the path above)
import lab as laboratory
import table
from harness import Harness


def chosen_programs(options, lab):
    found = []

    def add(name, kind, path, more=()):
        program = laboratory.Program(path or "", kind, more)
        program.name = name
        found.append(program)
    spelt = lab.program.path if lab.program.kind == "spelt" else None
    peers = [peer.split("=", 1) for peer in options.peer]
    suffix = suffix_of(options)
    if suffix:
        add("spelt" + suffix, "spelt", spelt)
        for name, path in [*peers, ("debian", shutil.which("pasta") or "")]:
            passt = os.path.join(os.path.dirname(path), "passt")
            usable = os.path.exists(passt) and (not options.vhost_user or offers_vhost_user(passt))
            add(name + suffix, "passt", passt if usable else None)
        add("loopback", "loopback", "")
    else:
        add("spelt", "spelt", spelt)
        if options.queues > 1:
            add("queues", "spelt", spelt, ("--queues", str(options.queues)))
        for name, path in peers:
            add(name, "pasta", path)
        for name, kind, command in (("debian", "pasta", "pasta"), ("slirp4netns", "slirp4netns", "slirp4netns")):
            add(name, kind, shutil.which(command))
        add("loopback", "loopback", "")
        add("kernel", "kernel", "")
    found = [program for program in found if program.path or program.kind in ("loopback", "kernel")]
    if options.programs:
        wanted = options.programs.split(",")
        unknown = set(wanted) - {program.name for program in found}
        if unknown:
            sys.exit(f"Not known or not installed: {', '.join(sorted(unknown))}.")
        found = [program for program in found if program.name in wanted]
    return found


def suffix_of(options):
    return "-vm" if options.socket else "-vhost" if options.vhost_user else ""


def offers_vhost_user(passt):
    done = subprocess.run([passt, "--help"], capture_output=True, text=True, check=False)
    return "--vhost-user" in done.stdout + done.stderr


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    links = parser.add_mutually_exclusive_group()
    links.add_argument("--socket", action="store_true", help="guests behind a socket, as virtual machines are")
    links.add_argument("--vhost-user", action="store_true", help="guests whose network card is the program's")
    parser.add_argument("--pairs", type=int, default=1, help="with --vhost-user: pairs of queues (default: 1)")
    parser.add_argument("--queues", type=int, default=1,
                        help="measure a program 'queues' too: spelt with so many queues of the tap")
    parser.add_argument("--quick", action="store_true", help="one round of short measurements")
    parser.add_argument("--rounds", type=int, help="rounds (default: 5)")
    parser.add_argument("--seconds", type=int, help="length of one throughput measurement (default: 3)")
    parser.add_argument("--only", action="append", default=[], metavar="PATTERN", help="rows whose name contains this")
    parser.add_argument("--programs", help="names, separated by commas (default: all there are)")
    parser.add_argument("--peer", action="append", default=[], metavar="NAME=PATH", help="a further pasta")
    parser.add_argument("--against", help="the program others are compared with (default: the first peer, or debian)")
    parser.add_argument("--json", default=os.path.join(laboratory.TARGET, "perf.json"), help="where the result goes")
    parser.add_argument("--verbose", action="store_true", help="print each value")
    options = parser.parse_args()
    lab = laboratory.Lab()
    harness = Harness(lab, options, chosen_programs(options, lab))
    harness.measure()
    report = harness.report()
    against = options.peer[0].split("=")[0] if options.peer else "debian"
    report["against"] = options.against or against + suffix_of(options)
    report["socket"], report["vhost_user"] = options.socket, options.vhost_user
    with open(options.json, "w", encoding="utf-8") as file:
        json.dump(report, file, indent=1, ensure_ascii=False)
    print(table.text(report))
    print(f"written to {options.json}")


if __name__ == "__main__":
    main()
