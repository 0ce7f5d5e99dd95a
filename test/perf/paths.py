"""The ways between a guest and the outside."""

import functools
import json
import os
import socket
import subprocess
import time

import lab as laboratory

OUT_PORT, SPLICE_PORT, IN_PORT = 5301, 5302, 5201
FORWARDED = "5201-5204"


class NotOffered(Exception):
    """The program has no such function."""


class Path:
    """A way; `guest` and `outside` are where commands run."""

    def __init__(self, lab):
        self.lab, self.outside = lab, lab.host
        self.guest, self.pid, self.relay = None, None, None

    def target(self, version):
        """Address a client in the guest connects to."""
        raise NotImplementedError

    def entry(self, version):
        """Address a client outside connects to."""
        raise NotImplementedError

    def local(self, version):
        """Loopback address from which the other side's is reached."""
        raise NotOffered("no way from loopback to loopback")

    def close(self):
        pass

    def has_ended(self):
        """Whether one of its processes is gone."""
        return self.pid is not None and self.process.poll() is not None

    def cpu(self):
        """Seconds so far of the translator, and of the relay in the place of a machine."""
        return {name: laboratory.cpu_seconds(pid) for name, pid in (("cpu", self.pid), ("relay", self.relay)) if pid}

    def spent(self, before, amount, scale):
        """Processor time since `before` for each of so many things."""
        return {name: (now - before[name]) / amount * scale for name, now in self.cpu().items()} if amount else {}


class Translated(Path):
    def __init__(self, lab, program, mtu):
        super().__init__(lab)
        self.guest = lab.empty_guest()
        argv = program.attach(["-f", "-q", "-m", str(mtu), "-t", FORWARDED, "-u", FORWARDED,
                               "-T", str(SPLICE_PORT), "-U", str(SPLICE_PORT)], str(self.guest.pid))
        self.log = open(lab.file("log"), "w+", encoding="utf-8")
        self.process = lab.popen(lab.as_user(argv), stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log)
        # The last thing to be ready is the listening port.
        laboratory.wait_until(lambda: self.process.poll() is not None or is_listening(lab.host, 5204), 5, "readiness")
        if self.process.poll() is not None:
            self.log.seek(0)
            raise RuntimeError(f"{' '.join(argv)}: status {self.process.returncode}: {self.log.read()}")
        laboratory.tune(self.guest)
        self.pid = self.process.pid

    def target(self, version):
        return laboratory.GATEWAY4 if version == 4 else laboratory.GATEWAY6

    def entry(self, version):
        return laboratory.HOST4 if version == 4 else laboratory.HOST6

    def local(self, version):
        return "127.0.0.1" if version == 4 else "::1"

    def close(self):
        self.lab.end(self.process)
        self.guest.close()
        self.log.close()


class Machine(Path):
    """A guest behind a socket, and the relay in the place of a virtual machine."""

    def __init__(self, lab, program, mtu, vhost_user=0):
        super().__init__(lab)
        self.guest = lab.vm("-q", "-m", str(mtu), "-t", FORWARDED, "-u", FORWARDED, plug=("--offload",),
                            program=program, vhost_user=vhost_user)
        laboratory.tune(self.guest)
        self.process = self.guest.process
        self.pid, self.relay = self.process.pid, self.guest.cable.process.pid

    target, entry = Translated.target, Translated.entry

    def has_ended(self):
        return super().has_ended() or self.guest.cable.process.poll() is not None

    def close(self):
        self.guest.close()


class Slirp(Path):
    def __init__(self, lab, program, mtu):
        super().__init__(lab)
        self.guest = lab.empty_guest()
        api = os.path.join(lab.dir, f"slirp-{self.guest.pid}")
        read, write = os.pipe()
        argv = [program.path, "--configure", "--mtu", str(mtu), "--enable-ipv6", "--api-socket", api, "--ready-fd",
                str(write), str(self.guest.pid), "tap0"]
        self.process = lab.popen(lab.as_user(argv), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                                 stderr=subprocess.DEVNULL, pass_fds=[write])
        os.close(write)
        os.read(read, 1)
        os.close(read)
        for port in range(5201, 5205):
            for protocol in ("tcp", "udp"):
                self.forward(api, protocol, port)
        laboratory.tune(self.guest)
        self.pid = self.process.pid
        time.sleep(2.5)  # its IPv6 address comes by router advertisement, with duplicate address detection

    def forward(self, api, protocol, port):
        with socket.socket(socket.AF_UNIX) as control:
            control.settimeout(5)
            control.connect(api)
            arguments = {"proto": protocol, "host_addr": "0.0.0.0", "host_port": port, "guest_port": port}
            control.sendall(json.dumps({"execute": "add_hostfwd", "arguments": arguments}).encode())
            control.shutdown(socket.SHUT_WR)
            answer = control.recv(4096)
        if b"error" in answer:
            raise RuntimeError(answer.decode())

    def target(self, version):
        return "10.0.2.2" if version == 4 else "fd00::2"

    def entry(self, version):
        if version == 6:
            raise NotOffered("no inbound IPv6")
        return laboratory.HOST4

    def close(self):
        self.lab.end(self.process)
        self.guest.close()


class Loopback(Path):
    def __init__(self, lab, _program, _mtu):
        super().__init__(lab)
        self.guest = lab.host

    def target(self, version):
        return "127.0.0.1" if version == 4 else "::1"

    entry = local = target


class Kernel(Path):
    """veth pairs and NAT: guest - host - remote."""

    def __init__(self, lab, _program, mtu):
        super().__init__(lab)
        self.name = lab.name + "guest"
        try:
            self.build(lab, mtu)
        except BaseException:
            self.close()
            raise

    def build(self, lab, mtu):
        lab.call(["ip", "netns", "add", self.name])
        self.guest, self.outside = laboratory.Namespace(f"/run/netns/{self.name}"), lab.remote
        laboratory.tune(self.guest)
        lab.ip("host", f"link set eth0 mtu {mtu}", f"link add toguest mtu {mtu} type veth peer name eth0 netns {self.name}",
               "addr add 10.77.0.1/24 dev toguest", "addr add fd77::1/64 dev toguest nodad", "link set toguest up")
        lab.ip("remote", f"link set eth0 mtu {mtu}")
        lab.ip("guest", "link set lo up", f"link set eth0 mtu {mtu} up", "addr add 10.77.0.2/24 dev eth0",
               "addr add fd77::2/64 dev eth0 nodad", "route add default via 10.77.0.1", "route add default via fd77::1")
        for name in ("net.ipv4.ip_forward", "net.ipv6.conf.all.forwarding"):
            lab.host.sysctl(name, 1)
        lab.call(lab.as_root(["nft", "-f", "-"]), input="""
            table inet lab {
                chain out { type nat hook postrouting priority srcnat; oifname "eth0" masquerade; }
                chain in {
                    type nat hook prerouting priority dstnat
                    iifname "eth0" meta l4proto { tcp, udp } th dport 5201-5204 dnat ip to 10.77.0.2
                    iifname "eth0" meta l4proto { tcp, udp } th dport 5201-5204 dnat ip6 to fd77::2
                }
            }
            """)
        lab.call(["ip", "netns", "exec", self.name, "ping", "-6", "-c2", "-i0.2", "-W2", laboratory.REMOTE6])

    def target(self, version):
        """The server's first address, which is the one it answers from."""
        return laboratory.GATEWAY4 if version == 4 else laboratory.GATEWAY6

    def entry(self, version):
        return laboratory.HOST4 if version == 4 else laboratory.HOST6

    def close(self):
        self.lab.call(self.lab.as_root(["nft", "delete", "table", "inet", "lab"]), check=False)
        for name in ("net.ipv4.ip_forward", "net.ipv6.conf.all.forwarding"):
            self.lab.host.sysctl(name, 0)
        self.lab.call(["ip", "-netns", self.lab.name + "host", "link", "delete", "toguest"], check=False)
        self.lab.ip("host", "link set eth0 mtu 1500")
        self.lab.ip("remote", "link set eth0 mtu 1500")
        self.lab.call(["ip", "netns", "delete", self.name], check=False)


PATHS = {"spelt": Translated, "pasta": Translated, "slirp4netns": Slirp, "loopback": Loopback, "kernel": Kernel}
SOCKET_PATHS = {"spelt": Machine, "passt": Machine, "loopback": Loopback}


def vhost_user_paths(pairs):
    """The guest's card is the program's, with up to so many pairs of queues."""
    card = functools.partial(Machine, vhost_user=pairs)
    return {"spelt": card, "passt": card, "loopback": Loopback}


def is_listening(space, port):
    """Whether a TCP listener is at the port, without connecting to it."""
    with space.entered():
        for name in ("tcp", "tcp6"):
            with open(f"/proc/thread-self/net/{name}", encoding="ascii") as file:
                for line in file:
                    words = line.split()
                    if words[3] == "0A" and words[1].endswith(f":{port:04X}"):
                        return True
    return False
