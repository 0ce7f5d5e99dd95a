#!/usr/bin/python3
"""Turns files of test/soak/run.py --json into a table: `table.py FILE...` prints it, `table.py FILE... DOCUMENT.md` puts
it between the lines `<!-- table: begin -->` and `<!-- table: end -->` of the document (doc/reliability.md). Of a test and
program that are in several files the last one counts."""

import json
import re
import sys

FIRST, LAST = "<!-- table: begin -->", "<!-- table: end -->"


def merged(files):
    """One report of several."""
    whole = {"metas": [], "order": [], "tests": {}}
    for name in files:
        with open(name, encoding="utf-8") as file:
            report = json.load(file)
        whole["metas"].append(report["meta"])
        whole["order"] += [name for name in report["order"] if name not in whole["order"]]
        for name, row in report["tests"].items():
            known = whole["tests"].setdefault(name, {"title": row["title"], "programs": {}})
            for program, found in row["programs"].items():
                known["programs"][program] = {**found, "sizes": report["meta"]["sizes"]}
    whole["order"].sort(key=lambda name: not name.startswith("spelt"))
    return whole


def text(report):
    meta = report["metas"][-1]
    versions = {name: version for one in report["metas"] for name, version in one["versions"].items()}
    lines = [f"Linux {meta['kernel']}, {meta['cpus']} cores, commit {meta['commit']}, {meta['date']}.", ""]
    lines += [f"- {name}: {version}" for name, version in versions.items() if not name.endswith("-vm")]
    lines += ["", "| test | " + " | ".join(report["order"]) + " |", "| --- |" + " --- |" * len(report["order"])]
    for name, row in report["tests"].items():
        title = row["title"].split(": ", 1)[1]
        lines.append(f"| `{name}`: {title} | "
                     + " | ".join(cell(row["programs"].get(program)) for program in report["order"]) + " |")
    return "\n".join(lines)


def cell(found):
    if not found:
        return "–"
    words = "**passed**" if not found["missed"] else "**missed**: " + "; ".join(map(short, found["missed"][:4]))
    more = len(found["missed"]) - 4
    words += f"; and {more} more of the kind" if more > 0 else ""
    return "<br>".join([words, *map(short, found["figures"])]).replace("|", "\\|")


def short(line):
    """Without what is only of this run: where the laboratory was, what it was called."""
    line = re.sub(r"\S*/tmp/\S*/", "", line.strip())
    line = re.sub(r"\bip netns exec lab\d+", "", line)
    return re.sub(r"\s+", " ", line)


def main():
    names = sys.argv[1:]
    document = names.pop() if names and names[-1].endswith(".md") else None
    if not names:
        sys.exit(__doc__)
    made = text(merged(names))
    if document is None:
        print(made)
        return
    with open(document, encoding="utf-8") as file:
        whole = file.read()
    if FIRST not in whole or LAST not in whole:
        sys.exit(f"{document} has no lines {FIRST} and {LAST}.")
    before, rest = whole.split(FIRST, 1)
    after = rest.split(LAST, 1)[1]
    with open(document, "w", encoding="utf-8") as file:
        file.write(f"{before}{FIRST}\n{made}\n{LAST}{after}")


if __name__ == "__main__":
    main()
