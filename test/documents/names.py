"""Files that pages name exist."""

import os
import re

import blocks
import lab

# A module is named from src/ on, as the compiler knows it.
BASES = ("", "src", "test", "test/namespace")


def pages():
    return ["README.md", *(f"doc/{name}" for name in sorted(os.listdir(os.path.join(lab.ROOT, "doc"))) if name.endswith(".md"))]


def check(page):
    text = blocks.read(page)
    named = re.findall(r"`((?:doc|test|src|demo|contrib)/[\w./-]*|[\w/]+\.(?:rs|md|py))`", text)
    linked = [target for target in re.findall(r"\]\(([^)#]+)[^)]*\)", text) if "://" not in target]
    missing = [name for name in named if not any(os.path.exists(os.path.join(lab.ROOT, base, name)) for base in BASES)]
    near = os.path.join(lab.ROOT, os.path.dirname(page))
    missing += [target for target in linked if not os.path.exists(os.path.join(near, target))]
    assert not missing, f"{page} names what is not there: {missing}"
