"""A router, a host with a bridge, and a container behind it, in namespaces: the provider gives the host an on-link prefix."""

import atexit
import contextlib
import itertools
import json
import os
import socket
import struct
import subprocess
import time

import lab
import lab.packets

PREFIX = "2001:db8:1"
ROUTER, HOST, INNER = f"{PREFIX}::1", f"{PREFIX}::2", f"{PREFIX}:0:ff::"
CONTAINER, SECOND = f"{INNER}5", f"{INNER}6"
ROUTER4, HOST4, CONTAINER4 = "203.0.113.1", "203.0.113.2", "203.0.113.65"
ROUTER_MAC, HOST_MAC, BRIDGE_MAC, CONTAINER_MAC = (f"02:00:00:00:01:0{n}" for n in range(1, 5))

# What is after the provider's heart: an advertisement that speaks for the container comes from it.
GUARD = f"""
table ip6 guard {{
    chain in {{
        type filter hook input priority 0;
        icmpv6 type nd-neighbor-advert @th,64,128 0x{socket.inet_pton(socket.AF_INET6, CONTAINER).hex()} \\
            ip6 saddr != {CONTAINER} counter drop
    }}
}}
"""

SO_TIMESTAMP = 29


class World:
    """`router` and `host` share a link, `eth0` on either side; the host has the bridge `br0`, and on it `container`."""

    _numbers = itertools.count(1)

    def __init__(self, laboratory):
        self.lab, self.names, number = laboratory, {}, next(World._numbers)
        atexit.register(self.close)
        for name in ("router", "host", "container"):
            self.names[name] = f"{laboratory.name}{name[0]}{number}"
            self.lab.call(["ip", "netns", "add", self.names[name]])
        self.furnish()

    def furnish(self):
        for name in self.names:
            self.write(name, "net.ipv6.conf.default.accept_dad", 0)
            self.write(name, "net.ipv6.conf.all.accept_dad", 0)
            self.ip(name, "link set lo up")
        self.ip("router", f"link add eth0 address {ROUTER_MAC} type veth peer name eth0 address {HOST_MAC} "
                          f"netns {self.names['host']}")
        self.ip("router", f"address add {ROUTER}/64 dev eth0 nodad")
        self.ip("router", f"address add {ROUTER4}/24 dev eth0")
        self.ip("router", "link set eth0 up")
        self.ip("host", f"address add {HOST}/128 dev eth0 nodad")
        self.ip("host", f"address add {HOST4}/32 dev eth0")
        self.ip("host", "link set eth0 up")
        self.ip("host", f"-6 route add {ROUTER} dev eth0")
        self.ip("host", f"-6 route add default via {ROUTER} dev eth0")
        self.ip("host", f"route add {ROUTER4} dev eth0")
        self.ip("host", f"route add default via {ROUTER4} dev eth0")
        self.ip("host", f"link add br0 address {BRIDGE_MAC} type bridge")
        self.ip("host", "link set br0 up")
        self.ip("host", f"link add port type veth peer name eth0 address {CONTAINER_MAC} netns {self.names['container']}")
        self.ip("host", "link set port master br0 up")
        self.ip("host", f"address add {INNER}1/112 dev br0 nodad")
        self.ip("host", "address add 203.0.113.126/26 dev br0")
        self.write("host", "net.ipv6.conf.all.forwarding", 1)
        self.write("host", "net.ipv4.ip_forward", 1)
        self.ip("container", f"address add {CONTAINER}/112 dev eth0 nodad")
        self.ip("container", f"address add {CONTAINER4}/26 dev eth0")
        self.ip("container", "link set eth0 up")
        self.ip("container", f"-6 route add default via {INNER}1")
        self.ip("container", "route add default via 203.0.113.126")
        for name in ("router", "host", "container"):
            lab.wait_until(lambda name=name: self.link_local(name), 5, f"a link-local address of {name}")

    def close(self):
        for name in self.names.values():
            subprocess.run(["ip", "netns", "delete", name], check=False, capture_output=True)

    def inside(self, name, argv):
        return ["ip", "netns", "exec", self.names[name], *argv]

    def call(self, name, *argv, check=True):
        return self.lab.call(self.inside(name, argv), check=check)

    def ip(self, name, text, check=True):
        return self.lab.call(["ip", "-netns", self.names[name], *text.split()], check=check).stdout

    def write(self, name, key, value):
        self.namespace(name).sysctl(key, value)

    def namespace(self, name):
        return lab.Namespace(f"/run/netns/{self.names[name]}")

    def link_local(self, name, device="eth0"):
        found = json.loads(self.ip(name, f"-json -6 address show dev {device} scope link"))
        found = [a for link in found for a in link.get("addr_info", []) if "local" in a and not a.get("tentative")]
        return found[0]["local"] if found else None

    def reaches(self, address, name="router", wait="0.6"):
        """One echo request, and whether it was answered; what is known of neighbours is forgotten before."""
        for family in ("-6", "-4"):
            self.ip(name, f"{family} neigh flush dev eth0", check=False)
        return self.call(name, "ping", "-n", "-c1", "-W", wait, address, check=False).returncode == 0

    def guard(self):
        """The router's side refuses advertisements whose source is not their target, from now on."""
        subprocess.run(self.inside("router", ["nft", "-f", "-"]), input=GUARD, text=True, check=True, timeout=10)

    @contextlib.contextmanager
    def responding(self, *options, name="host", tracer=lambda argv: argv):
        """`spelt respond` on eth0, ready, with a control socket; `tracer` may put a command before it."""
        if not any(o in ("-c", "--config") for o in options):
            options = ("-i", "eth0", *options)
        control = self.lab.file("respond") + ".socket"
        argv = [self.lab.program.path, "respond", "--control", control, *options]
        with self.running(tracer(argv), name) as process:
            lab.wait_until(lambda: os.path.exists(control) or process.poll() is not None, 5, "the control socket")
            lab.wait_until(lambda: "Answering for" in self.errors(process), 5, f"the responder:\n{self.errors(process)}")
            yield Responder(self, process, control)

    @contextlib.contextmanager
    def running(self, argv, name):
        with open(self.lab.file("err"), "w+", encoding="utf-8") as errors:
            process = subprocess.Popen(self.inside(name, argv), stdin=subprocess.DEVNULL, stdout=errors, stderr=errors)
            process.said = errors
            try:
                yield process
            finally:
                process.terminate()
                process.wait(10)

    @staticmethod
    def errors(process):
        process.said.flush()
        with open(process.said.name, encoding="utf-8") as file:
            return file.read()

    @contextlib.contextmanager
    def captured(self, name):
        """What crosses `eth0`, in a file whose path is given; it is there when the context is over."""
        path, wire = self.lab.file("pcap"), Wire(self, name)
        try:
            yield path
            time.sleep(0.1)
            wire.socket.setblocking(False)
            with open(path, "wb") as file, contextlib.suppress(BlockingIOError):
                file.write(struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 65535, 1))
                while True:
                    frame, control, _, _ = wire.socket.recvmsg(2000, 100)
                    stamp = next(data for level, kind, data in control if (level, kind) == (socket.SOL_SOCKET, SO_TIMESTAMP))
                    file.write(struct.pack("<IIII", *struct.unpack("qq", stamp), len(frame), len(frame)) + frame)
        finally:
            wire.close()


class Responder:
    """A running one."""

    def __init__(self, world, process, control):
        self.world, self.process, self.control = world, process, control

    def ctl(self, *argv):
        return self.world.lab.call([self.world.lab.program.path, "ctl", "-i", self.control, *argv]).stdout

    def stats(self):
        return json.loads(self.ctl("--json", "stats"))

    def event(self, name):
        return self.stats()["events"][name]

    def drops(self):
        return {d["reason"]: d["count"] for d in self.stats()["drops"] if d["count"]}

    def pid(self):
        return json.loads(self.ctl("--json", "info"))["pid"]


class Wire:
    """The router's end of the link, frame by frame."""

    def __init__(self, place, name="router"):
        with place.namespace(name).entered():
            self.socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
            self.socket.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMP, 1)
            self.socket.bind(("eth0", 0))
        self.socket.settimeout(0.5)

    def close(self):
        self.socket.close()

    def send(self, frame):
        self.socket.send(frame)

    def answer(self, kind=136, timeout=0.5):
        """The next ICMPv6 message of this type, as a whole frame; None if none comes."""
        until = time.monotonic() + timeout
        while (left := until - time.monotonic()) > 0:
            self.socket.settimeout(left)
            try:
                frame, address = self.socket.recvfrom(2000)
            except TimeoutError:
                break
            if address[2] != socket.PACKET_OUTGOING and frame[12:14] == b"\x86\xdd" and frame[54] == kind:
                return frame
        return None


def packed(address):
    return socket.inet_pton(socket.AF_INET6, address)


def solicitation(target, source=ROUTER, mac=ROUTER_MAC, **other):
    """A frame; `other` changes it: options, hop_limit, code, dst, dst_mac, checksum, cut (bytes from its end)."""
    own = bytes.fromhex(mac.replace(":", ""))
    group = packed("ff02::1:ff00:0")[:13] + packed(target)[13:]
    dst = packed(other["dst"]) if "dst" in other else group
    options = other.get("options", b"" if source == "::" else b"\1\1" + own)
    message = struct.pack("!BBHI", 135, other.get("code", 0), 0, 0) + packed(target) + options
    message = message[:len(message) - other.get("cut", 0)]
    pseudo = packed(source) + dst + struct.pack("!II", len(message), 58)
    total = lab.packets.checksum(pseudo + message) ^ other.get("checksum", 0)
    message = message[:2] + struct.pack("!H", total) + message[4:]
    head = struct.pack("!IHBB", 6 << 28, len(message), 58, other.get("hop_limit", 255)) + packed(source) + dst
    return b"\x33\x33" + dst[12:] + other.get("source_mac", own) + b"\x86\xdd" + head + message


def fields(path, display_filter, *names):
    """A row of texts for each frame that the filter of tshark's takes."""
    argv = ["tshark", "-r", path, "-Y", display_filter, "-T", "fields"]
    for name in names:
        argv += ["-e", name]
    done = subprocess.run(argv, capture_output=True, text=True, check=True, timeout=30)
    return [line.split("\t") for line in done.stdout.splitlines()]
