"""What the checks share: the laboratory, a program with its socket, and the guest that is running just now."""

import dataclasses
import os
import socket
import subprocess
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[1:1] = [os.path.dirname(HERE), os.path.join(os.path.dirname(HERE), "namespace")]

# ruff: noqa: E402  (found through the path above)
import client
import guest
import image
import lab
import support

MAP4, MAP6 = "192.0.2.77", "2001:db8:1::77"
"""What leads to the host's loopback where the gateway does not."""
ALSO4, ALSO6 = "192.0.2.78", "2001:db8:1::78"
"""What leads to the host's address that the guest has, too."""
DNS4, DNS6 = "169.254.1.1", "2001:db8:1::53"
TCP_PORTS = UDP_PORTS = "8001,8010-8012:9010-9012"


@dataclasses.dataclass(frozen=True)
class Session:
    """A program with these options and a guest, for one check after another. The checks come in the order of names."""

    name: str
    options: tuple
    bare: bool = False
    """The program's host has no network."""

    def arguments(self, directory):
        return [option.format(directory=directory) for option in self.options]


NARROW = Session("1 narrow", (
    "-m", "1500", "-H", "machine", "--fqdn", "machine.one.test", "-D", DNS4, "-D", DNS6, "-D", lab.REMOTE4,
    "-S", "one.test", "-S", "two.example.test", "--dns-forward", DNS4, "--dns-host", "127.0.0.1",
    "--dns-forward", DNS6, "--dns-host", "::1", "--map-host-loopback", MAP4, "--map-host-loopback", MAP6,
    "--map-guest-addr", ALSO4, "--map-guest-addr", ALSO6, "-t", TCP_PORTS, "-u", UDP_PORTS,
    "--pcap", "{directory}/narrow.pcap"))
"""A link as Ethernet has it, and everything set."""
WIDE = Session("2 wide", ("-t", TCP_PORTS, "-u", UDP_PORTS))
"""Long packets, and nothing set but ports."""
LOCAL = Session("3 local", ("-t", TCP_PORTS, "-u", UDP_PORTS), bare=True)


class Server:
    """The program under test, in the foreground: it listens at `path`, or has a connection already, or makes one to where
    somebody listens (`at`)."""

    def __init__(self, laboratory, options, where=None, path=None, connection=None, as_root=False, at=None):
        self.lab, self.stays = laboratory, True
        self.path = path or socket_path(laboratory)
        self.log, pid = laboratory.file("program"), laboratory.file("pid")
        link = ["--socket", self.path] if connection is None else ["--fd", str(connection.fileno())]
        link = ["--connect", at] if at else link
        self.argv = laboratory.program.vm(["-f", "--pid", pid, *link, *options])
        run_as = laboratory.as_root if as_root else laboratory.as_user
        with open(self.log, "wb") as log:
            self.process = laboratory.popen(run_as(self.argv, where), stdin=subprocess.DEVNULL, stdout=log,
                                            stderr=log, pass_fds=[connection.fileno()] if connection else [])
        try:
            # The pid is written when everything is ready.
            lab.wait_until(lambda: os.path.getsize(pid) > 1 or not self.alive(), 10, "the program's start")
            if not self.alive():
                raise RuntimeError(f"{' '.join(self.argv)}: status {self.process.returncode}: {self.said()}")
        except BaseException:
            self.close()
            raise

    def client(self, *arguments, **more):
        return client.Client(self.path, *arguments, **more)

    def alive(self):
        return self.process.poll() is None

    def said(self):
        with open(self.log, encoding="utf-8", errors="replace") as file:
            return file.read()

    def ended(self, seconds=5):
        """Waits for the program's own end, and returns its status."""
        self.stays = False
        return self.process.wait(seconds)

    def close(self):
        self.lab.end(self.process)


def socket_path(laboratory):
    """A path where no file is."""
    path = laboratory.file("socket")
    os.unlink(path)
    return path


class World:
    """One for each program."""

    def __init__(self, laboratory, link="stream"):
        """`link` is one of `guest.LINKS`."""
        self.lab, self.link = laboratory, link
        self.session, self.server, self.guest = None, None, None
        self.images = image_for(laboratory)

    def guest_of(self, session):
        """The guest of a session, started if another one's is running."""
        if self.session != session or not self.guest:
            self.discard()
            # Without it no program could ask for an echo.
            self.lab.bare.sysctl("net.ipv4.ping_group_range", "0 2147483647")
            self.session = session
            self.serve()
            self.boot()
        return self.guest

    def serve(self, path=None):
        """The session's program, at a path of its own unless told."""
        where = self.lab.bare if self.session.bare else None
        shared = ["--vhost-user"] if self.link.startswith("vhost-user") else []
        self.server = Server(self.lab, [*shared, *self.session.arguments(self.lab.dir)], where, path)

    def boot(self):
        """A new guest for the program that runs, configured as a user's would be."""
        where = self.lab.bare if self.session.bare else None
        netdev, card = guest.LINKS[self.link]
        self.guest = guest.Guest(self.lab, self.images, netdev(self.server.path),
                                 run_as=lambda argv: self.lab.as_user(argv, where), card=card)
        configure(self.guest, self.session.bare)

    def healthy(self):
        """Whether program and guest seem to be as a check expects them."""
        if not self.guest:
            return False
        try:
            targets = ("169.254.2.2", "fe80::1%eth0") if self.session.bare else (lab.REMOTE4, lab.REMOTE6)
            for target in targets:
                self.guest.run(f"ping -c 1 -W 2 {target}", timeout=5)
        except Exception:  # whatever it is that is wrong
            return False
        return self.server.alive()

    def discard(self):
        """Ends the session: the next check that wants it finds a new guest."""
        for thing in (self.guest, self.server):
            if thing:
                thing.close()
        self.session, self.server, self.guest = None, None, None


def image_for(laboratory):
    """Paths of a kernel and an initial file system that an ordinary user may read."""
    kernel, initrd = (os.path.join(laboratory.dir, name) for name in ("vmlinuz", "initrd"))
    if not os.path.exists(initrd):
        laboratory.install(os.path.join(image.kernel(), "vmlinuz"))
        image.build(initrd, laboratory.tool)
        os.chmod(initrd, 0o644)
    return kernel, initrd


def configure(machine, local=False):
    """As most guests do: the kernel listens to router advertisements, and a client of DHCP does the rest."""
    machine.run("ip link set eth0 up")
    machine.run("udhcpc -i eth0 -n -q -f -t 8 -T 1 -s /inside/lease -O search -O staticroutes -O mtu -O 51 -O 54 -O 81")
    machine.do("wait_for_ipv6", local, 20, seconds=30)
    # The program learns what address the guest has from what it sends.
    machine.run(f"ping -6 -c 1 -W 5 {'fe80::1%eth0' if local else lab.REMOTE6}")


class Case(support.Case):
    """A class of checks. One with a `session` has its guest; the others start programs as they need them."""

    session = None
    world = None
    link = ""
    """Only for guests with a link whose name begins with this."""

    @property
    def lab(self):
        return self.world.lab

    @property
    def guest(self):
        return self.world.guest_of(self.session)

    def setUp(self):
        self.noted, self.servers = [], []

    def tearDown(self):
        """The program must have survived."""
        servers = [self.world.server] if self.session and self.world.server else self.servers
        for server in filter(lambda server: server.stays, servers):
            self.assertTrue(server.alive(), f"the program ended with status {server.process.returncode}")

    def server(self, *options, **more):
        made = self.closing(Server(self.lab, options, **more))
        self.servers.append(made)
        return made

    def client(self, *options):
        """A client of a program of its own with these options."""
        return self.closing(self.server(*options).client())

    def note(self, text):
        """For the line of this check."""
        self.noted.append(text)

    def evidence(self):
        """What to look at if the check has failed."""
        found = []
        for server in self.servers or [self.world.server]:
            if server:
                found += [f"$ {' '.join(server.argv)}", server.said()]
        if self.session and self.world.guest:
            found += self.world.guest.said + ["the guest's log:", self.world.guest.problems()]
        return "\n".join(found)

    def assert_works(self):
        """A flow of each kind, each way."""
        for net in (support.V4, support.V6):
            self.assert_connected(*self.pair(self.lab.remote, net.remote))
            client, served, _ = self.inbound(self.lab.remote, net.host, 8001)
            self.assert_connected(client, served)
            client.close()
            served.close()
            self.guest.run(f"ping -c 1 -W 5 {net.remote}")
            with self.lab.remote.bind(net.remote) as server, self.guest.socket(net.af, socket.SOCK_DGRAM) as asker:
                asker.sendto(b"question", (net.remote, server.getsockname()[1]))
                data, address = server.recvfrom(100)
                server.sendto(data, address)
                self.assertEqual(asker.recv(100), b"question")


def url(address, port):
    """An address and a port as the laboratory's tool takes them."""
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def long(thing):
    """A check, or a class of them, that --short leaves out."""
    thing.long = True
    return thing
