"""What a guest boots from: Debian's kernel for clouds, and a file system of busybox, Python and what the checks need.

The kernel's package is fetched once and what is needed of it kept in ${XDG_CACHE_HOME:-/var/cache}/spelt-vm; nothing is
installed. The file system is made anew for every run, which takes less than a second.
"""

import contextlib
import lzma
import os
import py_compile
import re
import shutil
import stat
import subprocess
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
CACHE = os.path.join(os.environ.get("XDG_CACHE_HOME") or "/var/cache", "spelt-vm")
PACKAGE = "linux-image-cloud-amd64"
DRIVERS = ("virtio_pci", "virtio_net", "virtio_rng")
PROGRAMS = ("/usr/sbin/dhcpcd",)
MODULES = ("import array, ast, encodings.ascii, encodings.idna, fcntl, os, re, select, signal, socket, struct, "
           "subprocess, sys, threading, time, traceback, tty")
"""What the programs in the guest import: these modules are copied, and those that they import themselves."""


def kernel():
    """Directory with `vmlinuz` and, in the order to load them, `modules/*`; fetched if it is not there."""
    ready = os.path.join(CACHE, "kernel")
    if not os.path.exists(ready):
        os.makedirs(CACHE, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=CACHE) as work:
            _fetch(work)
            made = os.path.join(work, "made")
            os.chmod(made, 0o755)
            with contextlib.suppress(FileExistsError):
                os.rename(made, ready)
    return ready


def _fetch(work):
    depends = _said("apt-cache", "depends", PACKAGE)
    found = re.search(r"Depends: (linux-image-\S+)", depends)
    if not found:
        sys.exit(f"apt knows no {PACKAGE}: run `apt-get update` first.")
    print(f"Fetching {found[1]}, once.", file=sys.stderr)
    _said("apt-get", "-q", "-o", "APT::Sandbox::User=root", "download", found[1], cwd=work)
    package = next(name for name in os.listdir(work) if name.endswith(".deb"))
    root = os.path.join(work, "root")
    _said("dpkg-deb", "-x", os.path.join(work, package), root)
    made, everything = os.path.join(work, "made"), os.path.join(work, "modules")
    os.makedirs(os.path.join(made, "modules"))
    os.makedirs(everything)
    for directory, _, names in os.walk(root):
        for name in names:
            if name.startswith("vmlinuz-"):
                shutil.copy(os.path.join(directory, name), os.path.join(made, "vmlinuz"))
            elif re.search(r"\.ko(\.xz)?$", name):
                shutil.copy(os.path.join(directory, name), os.path.join(everything, name.replace("-", "_")))
    for number, (name, data) in enumerate(drivers(everything)):
        with open(os.path.join(made, "modules", f"{number:02}-{name}.ko"), "wb") as file:
            file.write(data)


def _said(*argv, **more):
    done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=600, check=False,
                          **more)
    if done.returncode != 0:
        sys.exit(f"{' '.join(argv)}: status {done.returncode}: {done.stdout}{done.stderr}")
    return done.stdout


def build(target, tool):
    """Writes the guest's file system to `target`; `tool` is the laboratory's."""
    image = busybox()
    for directory in ("root", "var/lib/dhcpcd", "var/run"):
        image.directory(directory)
    image.data("etc/passwd", b"root:x:0:0:root:/root:/bin/sh\n")
    image.data("etc/group", b"root:x:0:\n")
    image.python()
    image.program(tool, "bin/lab")
    for program in PROGRAMS:
        image.program(program)
    for name in os.listdir(os.path.join(HERE, "inside")):
        if os.path.isfile(os.path.join(HERE, "inside", name)):
            image.copy(os.path.join(HERE, "inside", name), name if name == "init" else f"inside/{name}")
    with open(target, "wb") as file:
        image.write(file)


def busybox():
    """A file system with busybox, and the modules of the drivers in /lib/modules; /init is still to come."""
    image = Image()
    modules = os.path.join(kernel(), "modules")
    for name in os.listdir(modules):
        image.copy(os.path.join(modules, name), f"lib/modules/{name}")
    for directory in ("dev", "proc", "sys", "tmp", "run"):
        image.directory(directory)
    image.copy("/bin/busybox")
    for name in _said("/bin/busybox", "--list").split():
        if name != "busybox":
            image.link(f"bin/{name}", "busybox")
    return image


def drivers(directory):
    """The modules of the drivers and of what these need, in the order to load them: (name, bytes). A kernel may have
    some of them built in."""
    files = {name.split(".")[0]: os.path.join(directory, name) for name in os.listdir(directory)}
    order = {}

    def load(name):
        if name in order or name not in files:
            return
        with (lzma.open if files[name].endswith(".xz") else open)(files[name], "rb") as file:
            data = file.read()
        for needed in re.search(rb"\0depends=([^\0]*)\0", data)[1].decode().split(","):
            load(needed.replace("-", "_"))
        order[name] = data

    for name in DRIVERS:
        load(name)
    return list(order.items())


class Image:
    """A file system as the kernel unpacks it at its start: a cpio archive."""

    def __init__(self):
        self.entries = {}

    def directory(self, path):
        self._parents(path)
        self.entries.setdefault(path, (stat.S_IFDIR | 0o755, b""))

    def link(self, path, target):
        self._add(path, stat.S_IFLNK | 0o777, target.encode())

    def data(self, path, data, mode=0o755):
        self._add(path, stat.S_IFREG | mode, data)

    def copy(self, source, path=None):
        """A file with what it contains, at the same place unless told."""
        if not os.path.exists(source):
            sys.exit(f"{source} is missing: install the Debian packages of test/vm/packages.txt, and build with "
                     "`cargo build --release --bins --examples`.")
        with open(source, "rb") as file:
            self.data(path or source.lstrip("/"), file.read())

    def program(self, source, path=None):
        """A program, or a shared object, with the libraries it loads."""
        self.copy(source, path)
        done = subprocess.run(["ldd", source], capture_output=True, text=True, timeout=60, check=False)
        for library in re.findall(r"(/\S+) \(0x", done.stdout):
            self.copy(library)

    def python(self):
        """The interpreter that runs this, and the compiled modules that the guest needs."""
        self.program(os.path.realpath(sys.executable))
        self.link("bin/python3", os.path.realpath(sys.executable))
        listing = f"{MODULES}\nfor m in list(sys.modules.values()):\n  print(getattr(m, '__file__', None) or '')"
        with tempfile.TemporaryDirectory() as work:
            for file in filter(None, _said(sys.executable, "-I", "-S", "-c", listing).splitlines()):
                if not file.endswith(".py"):
                    self.program(file)
                    continue
                compiled = os.path.join(work, "compiled")
                py_compile.compile(file, compiled, doraise=True,
                                   invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH)
                self.copy(compiled, file.lstrip("/") + "c")

    def _add(self, path, mode, data):
        self._parents(path)
        self.entries[path] = (mode, data)

    def _parents(self, path):
        parts = path.split("/")
        for length in range(1, len(parts)):
            self.entries.setdefault("/".join(parts[:length]), (stat.S_IFDIR | 0o755, b""))

    def write(self, file):
        for number, (path, (mode, data)) in enumerate([*self.entries.items(), ("TRAILER!!!", (0, b""))], 1):
            fields = (number, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(path) + 1, 0)
            head = b"070701" + b"".join(b"%08x" % field for field in fields) + path.encode() + b"\0"
            file.write(head + bytes(-len(head) % 4) + data + bytes(-len(data) % 4))
