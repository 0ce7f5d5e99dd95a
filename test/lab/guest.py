"""Guests that the program under test serves: one in a namespace, and one behind a socket."""

import json
import os

from .addresses import GATEWAY4, GATEWAY6, HOST4, HOST6
from .namespace import Namespace
from .process import wait_until

QUEUE = 20_000


class Guest(Namespace):
    """A guest that the program under test serves; use as a context manager or call close()."""

    def __init__(self, lab, pid, process=None, holder=None, log=None):
        super().__init__(f"/proc/{pid}/ns/net")
        self.lab, self.pid, self.process, self.holder, self.log = lab, pid, process, holder, log

    def argv(self, command):
        return [self.lab.tool, "enter", str(self.pid), "--", *command]

    def run(self, *command, timeout=20, check=True, **more):
        """Runs a command inside as the guest's root; a single string is for the shell."""
        if len(command) == 1:
            command = ("sh", "-c", command[0])
        return self.lab.call(self.argv(command), timeout=timeout, check=check, **more)

    def output(self, *command, **more):
        return self.run(*command, **more).stdout

    def interface(self):
        """Name of the interface that the guest has besides lo."""
        links = json.loads(self.output("ip", "-json", "link"))
        return [link["ifname"] for link in links if link["ifname"] not in ("lo", "sit0", "ip6tnl0", "tunl0")][0]

    def errors(self):
        """What the program has written to its standard error so far."""
        with open(self.log, encoding="utf-8", errors="replace") as file:
            return file.read()

    def translator(self):
        """Process id of the program itself, which lives outside."""
        return self.lab.translators(self)[0]

    def close(self):
        for process in (self.process, self.holder):
            if process:
                self.lab.end(process)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


class VmGuest(Guest):
    """A guest behind a socket. The namespace and its interface stay when the relay goes; the next one takes them over."""

    def __init__(self, lab, pid, process, holder, log, path, socket_pair=None, vhost_user=0):
        super().__init__(lab, pid, process=process, holder=holder, log=log)
        self.socket_path, self.pair, self.cable = path, socket_pair, None
        self.wiring = ["--vhost-user", path, "--pairs", vhost_user] if vhost_user else ["--stream", path]

    def plug(self, *options):
        """Starts the relay between the guest's interface `eth0` and the program's socket."""
        tap = f"{self.path}:eth0"
        if self.pair:
            # The relay gets the descriptor: with it goes the connection.
            with self.pair as ours:
                self.cable = self.lab.plug(tap, "--fd", ours.fileno(), *options, pass_fds=[ours.fileno()])
            self.pair = None
        else:
            self.cable = self.lab.plug(tap, *self.wiring, *options)

    def unplug(self):
        """Ends the relay. Returns what it counted."""
        cable, self.cable = self.cable, None
        return cable.stop() if cable else None

    def configure(self, mtu):
        """Addresses and routes as the program's lease would have them."""
        self.sysctl("net.ipv6.conf.eth0.accept_ra", 0)
        self.link_up(mtu)
        self.run(f"ip addr add {HOST4}/24 dev eth0; ip addr add {HOST6}/64 dev eth0 nodad;"
                 f"ip route add default via {GATEWAY4}; ip route add default via {GATEWAY6}")
        # Until a guest has said something nobody knows where it is.
        self.run("ping", "-c1", "-W1", GATEWAY4, check=False)

    def ask_for_addresses(self):
        """Addresses and routes by DHCP, router advertisement and the guest kernel's own means."""
        self.link_up()
        script = self.lab.file("script")
        with open(script, "w", encoding="ascii") as file:
            file.write('#!/bin/sh\n[ "$1" = bound ] || exit 0\nip link set $interface ${mtu:+mtu $mtu}\n'
                       "ip addr add $ip/$mask dev $interface\nip route add default via $router dev $interface\n")
        os.chmod(script, 0o755)
        # With the outer root's rights: its sockets need more than the guest's root may.
        self.lab.call([self.lab.tool, "enter", "--net-only", str(self.pid), "--", "udhcpc", "-i", "eth0", "-s", script,
                       "-O", "mtu", "-n", "-q", "-f", "-t", "5", "-T", "1"])
        wait_until(lambda: self.output("ip -6 addr show dev eth0 scope global -tentative"), 10,
                   "an address by router advertisement")

    def link_up(self, mtu=1500):
        """A machine's network card holds its kernel up while the ring is full; a tap drops, unless its queue is long."""
        self.run(f"ip link set lo up; ip link set eth0 mtu {mtu} txqueuelen {QUEUE} up")

    def lost(self):
        """Frames that the guest's interface has dropped."""
        return json.loads(self.output("ip -json -statistics link show eth0"))[0]["stats64"]["tx"]["dropped"]

    def counter(self, name):
        """A counter of the guest's TCP, such as RetransSegs or TCPLossProbes."""
        for file, heading in (("snmp", "Tcp:"), ("netstat", "TcpExt:")):
            with self.entered(), open(f"/proc/thread-self/net/{file}", encoding="ascii") as lines:
                names, values = (line.split() for line in lines if line.startswith(heading))
            if name in names:
                return int(values[names.index(name)])
        raise KeyError(name)

    def resent(self):
        """Segments sent again, but for the last one of a burst whose acknowledgement is late, on a busy machine for
        example: that is sent again to probe (RFC 8985 section 7)."""
        return self.counter("RetransSegs") - self.counter("TCPLossProbes")

    def close(self):
        self.unplug()
        if self.pair:
            self.pair.close()
        super().close()
