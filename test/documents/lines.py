"""Command lines of spelt in the pages of doc/: each would start (`--check`), with names that exist in the place of those that
stand for others."""

import contextlib
import os
import re
import socket

import blocks
import lab

PAGES = ("doc/operation.md", "doc/migration.md", "doc/troubleshooting.md", "doc/support.md", "README.md")
# What these are is for another test, or for a person: they ask for a running instance, or for what is not there.
OTHERS = r"spelt (ctl|list|doctor|respond|announce|--version)(\s|$)"


def check(place, page):
    found = list(command_lines(page))
    assert found, f"{page} has none"
    with place.lab.empty_guest() as guest:
        for command in found:
            tried(place, guest, command)


def command_lines(page):
    text = blocks.read(page)
    for command in [*blocks.commands(page), *re.findall(r"`(spelt [^`]+)`", text)]:
        if re.match(r"spelt (run|attach|vm)( |$)", command) and "..." not in command:
            yield command
        else:
            assert not command.startswith("spelt ") or re.match(OTHERS, command) or "..." in command, command
    for options in re.findall(r"`(-[tuTU] [^`]+)`", text):
        yield f"spelt run {options}"
    # The right column of the table for libslirp has options alone.
    table = text.partition("| `-netdev user,id=net` |")[2].partition("\n\n")[0]
    for row in table.splitlines()[2:]:
        for options in re.findall(r"`(-[^`]+)`", row.split(" | ")[1]):
            yield f"spelt vm -s PATH {options}"


def tried(place, guest, command):
    words = command.split()
    if words[1] == "attach" and (len(words) == 2 or words[-1].startswith("-")):
        words.append("PID")
    for name, value in (("PID", str(guest.pid)), ("1234", str(guest.pid)), ("blue", f"{place.lab.name}bare"),
                        ("/run/netns/blue", f"/run/netns/{place.lab.name}bare"), ("COMMAND", "true"),
                        ("FILE", f"{place.home}/file"), ("./server", "true"), ("psql", "true"),
                        ("./untrusted-program", "true"), ("/tmp/vm.socket", f"{place.home}/vm.socket")):
        words = [value if word == name else word for word in words]
    words = [path(place, guest, words, at) if word == "PATH" else word for at, word in enumerate(words)]
    if "--check" not in words:
        words.insert(2, "--check")
    with contextlib.ExitStack() as opened:
        inherited = []
        for at, word in enumerate(words):
            if word in DESCRIPTORS:
                inherited.append(opened.enter_context(DESCRIPTORS[word](guest)))
                words[at + 1] = str(inherited[-1].fileno())
        out, _ = place.call(" ".join(words), pass_fds=[file.fileno() for file in inherited])
    assert "configuration is valid" in out or out.startswith("{"), (command, out)


def connected(_):
    return socket.socketpair()[0]


# What the examples have a caller open for it.
DESCRIPTORS = {"-F": connected, "--ready-fd": connected, "--exit-fd": connected,
               "--netns-fd": lambda guest: open(guest.path, "rb")}


def path(place, guest, words, at):
    if words[at - 1] == "--userns":
        return f"/proc/{guest.pid}/ns/user"
    return os.path.join(place.home, "x.socket") if words[1] == "vm" else f"/proc/{guest.pid}/ns/net"
