#!/usr/bin/python3
"""Draws a picture of the throughput in the table of a document (doc/performance.md; test/perf/table.py puts it there):

    test/perf/chart.py doc/performance.md doc/pictures/throughput.svg

The rows are those of `PANELS`; each figure is the table's, nothing is computed but the length of a bar.
"""

import re
import sys
from xml.sax.saxutils import escape

# Title, unit, and rows as they are called in the table, with what they are called in the picture.
PANELS = (
    ("TCP, one stream", "Gb/s", (
        ("TCP out, MTU 1500, IPv4, 1 stream", "out, MTU 1500"),
        ("TCP out, MTU 65520, IPv4, 1 stream", "out, MTU 65520"),
        ("TCP in, MTU 1500, IPv4, 1 stream", "in, MTU 1500"),
        ("TCP in, MTU 65520, IPv4, 1 stream", "in, MTU 65520"),
        ("TCP splice-out, IPv4, 1 stream", "loopback, out"),
        ("TCP splice-in, IPv4, 1 stream", "loopback, in"))),
    ("UDP, received", "thousands of datagrams a second", (
        ("UDP out, 64 bytes", "out, 64 bytes"),
        ("UDP out, 1400 bytes", "out, 1400 bytes"),
        ("UDP in, 64 bytes", "in, 64 bytes"),
        ("UDP in, 1400 bytes", "in, 1400 bytes"))),
)
COLUMNS = (("spelt", "ours"), ("newest", "theirs"), ("loopback", "bare"))
WIDTH, LEFT, RIGHT, BAR, GAP, GROUP = 860, 150, 700, 13, 2, 14

STYLE = """
text { font: 13px system-ui, sans-serif; fill: #1f2328; }
.title { font-size: 17px; font-weight: 600; }
.head { font-weight: 600; }
.small { font-size: 11px; fill: #59636e; }
.figure { font-size: 11px; }
.ours { fill: #0b6bcb; }
.theirs { fill: #b3591b; }
.bare { fill: #8c959f; }
.axis { stroke: #8c959f; stroke-width: 1; }
"""
DARK = """
text { fill: #e6edf3; }
.small { fill: #9198a1; }
.ours { fill: #58a6ff; }
.theirs { fill: #e3924a; }
.bare { fill: #6e7681; }
.axis { stroke: #6e7681; }
"""


def table(document):
    """The line about the machine, what versions there were, and the rows: name to a dictionary of column to cell."""
    text = re.search(r"<!-- table: begin -->\n(.*?)\n<!-- table: end -->", document, re.S)
    if not text:
        sys.exit("The document has no table between its markers.")
    lines = text[1].split("\n")
    versions = dict(re.match(r"- (\S+): (.*)", line).groups() for line in lines if line.startswith("- "))
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")]
    head = rows[0][1:]
    return lines[0], versions, {row[0]: dict(zip(head, row[1:])) for row in rows[2:]}


def row_of(rows, name):
    found = [cells for title, cells in rows.items() if re.match(re.escape(name) + ", (Gb/s|kpps) /", title)]
    if len(found) != 1:
        sys.exit(f"The table has {len(found)} rows that are called {name}.")
    return found[0]


def figure(cell):
    """The number of a cell, and how the table writes it."""
    written = cell.split()[0]
    return (float(written), written) if written != "–" else (None, "")


def cost(cell):
    found = re.search(r" / (\S+)", cell)
    return found[1] if found else None


def panel(title, unit, rows, top):
    """Its drawing, and where it ends."""
    out = [f'<text class="head" x="{LEFT}" y="{top}">{escape(title)}, {escape(unit)}</text>']
    most = max(value for _, cells in rows for name, _ in COLUMNS if (value := figure(cells.get(name, "–"))[0]))
    y = first = top + 12
    for label, cells in rows:
        height = len(COLUMNS) * (BAR + GAP) - GAP
        out.append(f'<text x="{LEFT - 10}" y="{y + height / 2 + 5:.0f}" text-anchor="end">{escape(label)}</text>')
        for name, kind in COLUMNS:
            value, written = figure(cells.get(name, "–"))
            if value is None:
                continue
            length = max(value / most * (RIGHT - LEFT), 1)
            out.append(f'<rect class="{kind}" x="{LEFT}" y="{y}" width="{length:.1f}" height="{BAR}"/>')
            extra = cost(cells[name])
            extra = f" · {extra} {'CPU s/GB' if unit == 'Gb/s' else 'CPU µs each'}" if extra else ""
            out.append(f'<text class="figure" x="{LEFT + length + 6:.1f}" y="{y + BAR - 3}">{written}{extra}</text>')
            y += BAR + GAP
        y += GROUP
    out.append(f'<path class="axis" d="M{LEFT - 0.5} {first - 4}V{y - GROUP + 4}"/>')
    return out, y


def draw(document):
    machine, versions, rows = table(document)
    words = machine.split("; ")
    kernel, cores, _, date = (words[0].split(", ") + [""] * 4)[:4]
    measured = f"{kernel}, {cores}, {date}; {words[1]}. Longer bars are better; less CPU is."
    body = [f'<text class="title" x="20" y="32">Throughput, and the processor time that it takes</text>',
            f'<text class="small" x="20" y="52">{escape(measured)}</text>']
    x = 20
    names = {**versions, "loopback": "no translator: client and server on one loopback"}
    for name, kind in COLUMNS:
        body.append(f'<rect class="{kind}" x="{x}" y="66" width="13" height="13"/>')
        body.append(f'<text x="{x + 19}" y="77">{escape(names[name])}</text>')
        x += 40 + round(len(names[name]) * 7.2)
    y = 112
    for title, unit, wanted in PANELS:
        drawn, y = panel(title, unit, [(label, row_of(rows, name)) for name, label in wanted], y)
        body += drawn
        y += 22
    height = y - 10
    return "\n".join([
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" viewBox="0 0 {WIDTH} {height}" role="img">',
        "<title>Throughput of spelt and pasta</title>",
        f"<style>{STYLE}@media (prefers-color-scheme: dark) {{{DARK}}}\n</style>", *body, "</svg>", ""])


def main():
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    with open(sys.argv[1], encoding="utf-8") as file:
        picture = draw(file.read())
    with open(sys.argv[2], "w", encoding="utf-8") as file:
        file.write(picture)


if __name__ == "__main__":
    main()
