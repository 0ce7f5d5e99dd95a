"""What the pages tell their reader to type."""

import os
import re

import lab


def read(page):
    with open(os.path.join(lab.ROOT, page), encoding="utf-8") as file:
        return file.read()


def commands(page):
    """The commands of the shell's code blocks, in their order, without remarks; one over several lines is one line here."""
    found = []
    for block in re.findall(r"^```sh\n(.*?)^```$", read(page), re.DOTALL | re.MULTILINE):
        for line in re.sub(r"\\\n\s*", "", block).splitlines():
            command = re.sub(r"(^|\s+)#.*", "", line).strip()
            if command:
                found.append(command)
    return found
