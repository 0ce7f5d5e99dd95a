#!/usr/bin/python3
"""Turns the JSON of test/perf/run.py into a table: `table.py FILE` prints it, `table.py FILE DOCUMENT` puts it between
two marker comments of the document (doc/performance.md): `table: begin` and `table: end`; of a run with --socket
`socket table: begin` and `socket table: end`, with --vhost-user `vhost-user table: begin` and `vhost-user table: end`."""

import json
import sys


def text(report):
    """Markdown: a line about the machine, and a row for each measurement with its ratio to the peer."""
    meta, against = report["meta"], report["against"]
    used = {name for row in report["rows"].values() for name in row["programs"]}
    names = [name for name in report["order"] if name in used]
    lines = [f"Linux {meta['kernel']}, {meta['cpus']} cores, commit {meta['commit']}, {meta['date']}; medians of "
             f"{meta['rounds']} interleaved rounds of {meta['seconds']} s; tcp_wmem {meta['tcp_wmem']}, tcp_rmem "
             f"{meta['tcp_rmem']}. In brackets: times {against}; behind the slash: processor time of the translator"
             + ("; behind the plus: of the relay that stands for a machine." if link_of(report) else "."), ""]
    lines += [f"- {name}: {version}" for name, version in meta["versions"].items()]
    lines += ["", "| | " + " | ".join(names) + " |", "| --- |" + " --- |" * len(names)]
    for row in report["rows"].values():
        title = f"{row['title']}, {row['unit']}" + (f" / {row['cpu_unit']}" if row["cpu_unit"] else "")
        peer = row["programs"].get(against, {}).get("median")
        lines.append(f"| {title} | " + " | ".join(cell(row["programs"].get(name), peer) for name in names) + " |")
    return "\n".join(lines)


def link_of(report):
    """How machines are connected, if they were."""
    return "socket" if report.get("socket") else "vhost-user" if report.get("vhost_user") else ""


def cell(found, peer):
    if not found:
        return "–"
    if "median" not in found:
        return "fails" if found["errors"] and not found["errors"][0].startswith("no ") else "–"
    words = [number(found["median"])]
    if peer:
        words.append(f"(×{number(found['median'] / peer)})")
    if "cpu" in found:
        words.append(f"/ {number(found['cpu'])}")
    if "relay" in found:
        words.append(f"+ {number(found['relay'])}")
    if "p99" in found:
        words.append(f"p99 {number(found['p99'])}")
    if found.get("failed"):
        words.append(f"{found['failed']:.0f} failed")
    if found.get("lost", 0) > 0.0005 and "p99" not in found:
        words.append(f"{found['lost'] * 100:.0f} % lost")
    return " ".join(words)


def number(value):
    """Three digits that mean something."""
    if value >= 100:
        return f"{value:.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}" if value >= 0.1 else f"{value:.3f}"


def main():
    if len(sys.argv) not in (2, 3):
        sys.exit(__doc__)
    with open(sys.argv[1], encoding="utf-8") as file:
        report = json.load(file)
    made = text(report)
    name = f"{link_of(report)} table".strip()
    first, last = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    if len(sys.argv) == 2:
        print(made)
        return
    with open(sys.argv[2], encoding="utf-8") as file:
        document = file.read()
    if first not in document or last not in document:
        sys.exit(f"{sys.argv[2]} has no lines {first} and {last}.")
    before, rest = document.split(first, 1)
    after = rest.split(last, 1)[1]
    with open(sys.argv[2], "w", encoding="utf-8") as file:
        file.write(f"{before}{first}\n{made}\n{last}{after}")


if __name__ == "__main__":
    main()
