"""Stations on the host's link keep their MACs in the guest."""

import json
import os
import signal
import socket
import threading
import time

import lab
from support import Case, V4, both

OURS = "9a:55:9a:55:9a:55"
BROADCAST, ALL_NODES = "ff:ff:ff:ff:ff:ff", "33:33:00:00:00:01"
ONE, TWO = "02:00:00:00:00:51", "02:00:00:00:00:52"
ETH_P_ALL = 3


def mac(six):
    return ":".join(f"{byte:02x}" for byte in six)


class Frames:
    """What the guest receives, from now on."""

    def __init__(self, guest):
        self.socket = guest.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL), timeout=0.2)
        with guest.entered():
            self.socket.bind((guest.interface(), ETH_P_ALL))

    def until(self, wanted, timeout=5):
        """The first frame for which `wanted` is true."""
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            try:
                frame, origin = self.socket.recvfrom(65536)
            except TimeoutError:
                continue
            if origin[2] != socket.PACKET_OUTGOING and wanted(frame):
                return frame
        raise TimeoutError("no such frame")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.socket.close()


def is_from(address, protocol):
    """Frames whose IP source and protocol these are."""
    packed = socket.inet_pton(lab.family_of(address), address)
    if len(packed) == 4:
        return lambda f: f[12:14] == b"\x08\x00" and f[26:30] == packed and f[23] == protocol
    return lambda f: f[12:14] == b"\x86\xdd" and f[22:38] == packed and f[20] == protocol


def is_announcement_of(address):
    """RFC 5227 section 2.3, RFC 4861 section 7.2.6: to everybody, by the address about itself."""
    packed = socket.inet_pton(lab.family_of(address), address)
    if len(packed) == 4:
        request = b"\x08\x06\x00\x01\x08\x00\x06\x04\x00\x01"
        return lambda f: f[12:22] == request and f[28:32] == packed and f[38:42] == packed
    return lambda f: f[12:14] == b"\x86\xdd" and f[20] == 58 and f[54] == 136 and f[62:78] == packed


class Base(Case):
    def mac_of(self, where, address, timeout=5, expected=None):
        """The MAC that the namespace has for a neighbour; waits for the one expected."""
        def look():
            argv = ["ip", "-json", "neigh", "show", "to", address]
            found = where.output(*argv) if isinstance(where, lab.Guest) else self.lab.call(
                self.lab.as_root(argv, where)).stdout
            macs = [n["lladdr"] for n in json.loads(found or "[]") if "lladdr" in n]
            return macs and (expected is None or macs == [expected]) and macs[0]
        try:
            return lab.wait_until(look, timeout, "the neighbour")
        except TimeoutError:
            shown = where.output("ip", "neigh") if isinstance(where, lab.Guest) else ""
            raise AssertionError(f"{address} is not at {expected}: {shown}") from None

    def neighbour(self, *arguments):
        self.lab.ip("host", "neigh " + " ".join(arguments) + " dev eth0")

    def station(self, address, its_mac):
        """An entry of the host's table that stays until the test's end."""
        self.neighbour("replace", address, "lladdr", its_mac, "nud permanent")
        self.addCleanup(lambda: self.lab.call(
            self.lab.as_root(["ip", "neigh", "del", address, "dev", "eth0"], self.lab.host), check=False))

    def resolve(self, guest, *addresses):
        """Makes the guest ask for the MACs."""
        for address in addresses:
            with guest.socket(lab.family_of(address), socket.SOCK_DGRAM) as asking:
                asking.sendto(b"", (address, 9))

    def remote_mac(self):
        links = json.loads(self.lab.call(self.lab.as_root(["ip", "-json", "link", "show", "eth0"],
                                                          self.lab.remote)).stdout)
        return links[0]["address"]

    def make_known(self, address):
        """The host talks to a neighbour."""
        self.lab.call(self.lab.as_root(["ping", "-c1", "-W2", address], self.lab.host))


class Neighbours(Base):
    options = ()

    @both
    def test_b120_known_at_start(self, net):
        self.make_known(net.remote)
        with self.lab.guest() as guest:
            self.resolve(guest, net.remote)
            self.mac_of(guest, net.remote, expected=self.remote_mac())

    @both
    def test_b120_found_by_the_guests_own_traffic(self, net):
        self.neighbour("flush", "to", net.remote)
        with self.lab.guest() as guest:
            guest.run("ping", "-c1", "-W2", net.remote)
            self.mac_of(guest, net.remote, expected=self.remote_mac())

    @both
    def test_b120_frames_have_the_stations_mac(self, net):
        self.make_known(net.remote)
        expected = self.remote_mac()
        with Frames(self.guest) as frames:
            near, far = self.pair(self.lab.remote, net.remote)
            self.assert_connected(near, far)
            self.assertEqual(mac(frames.until(is_from(net.remote, 6))[6:12]), expected, "TCP")
            with self.lab.remote.bind(net.remote) as server, self.guest.bind(net.any) as client:
                client.sendto(b"question", server.getsockname()[:2])
                server.sendto(b"answer", server.recvfrom(100)[1])
                self.assertEqual(client.recv(100), b"answer")
            self.assertEqual(mac(frames.until(is_from(net.remote, 17))[6:12]), expected, "UDP")
            self.guest.run("ping", "-c1", "-W2", net.remote)
            echo = frames.until(is_from(net.remote, 1 if net is V4 else 58))
            self.assertEqual(mac(echo[6:12]), expected, "ICMP")

    @both
    def test_stations_behind_a_router_have_our_mac(self, net):
        with Frames(self.guest) as frames:
            self.guest.run("ping", "-c1", "-W2", net.far)
            echo = frames.until(is_from(net.far, 1 if net is V4 else 58))
        self.assertEqual(mac(echo[6:12]), OURS)

    @both
    def test_gateway_has_our_mac(self, net):
        self.make_known(net.gateway)
        with self.lab.guest() as guest:
            guest.run("ping", "-c1", "-W2", net.far)
            self.mac_of(guest, net.gateway, expected=OURS)

    @both
    def test_gateway_has_its_own_mac_where_it_is_not_mapped(self, net):
        self.make_known(net.gateway)
        with self.lab.guest("--no-map-gw") as guest:
            guest.run("ping", "-c1", "-W2", net.far)
            self.mac_of(guest, net.gateway, expected=self.remote_mac())

    @both
    def test_mapped_guest_address_has_our_mac(self, net):
        address = "192.0.2.66" if net is V4 else "2001:db8:1::66"
        self.station(address, ONE)
        with self.lab.guest("--map-guest-addr", address) as guest:
            self.resolve(guest, address)
            self.mac_of(guest, address, expected=OURS)

    @both
    def test_changes_reach_the_guest(self, net):
        address = "192.0.2.98" if net is V4 else "2001:db8:1::98"
        self.resolve(self.guest, address)
        self.mac_of(self.guest, address, expected=OURS)
        for now in (ONE, TWO):
            self.station(address, now)
            self.mac_of(self.guest, address, expected=now)
        self.neighbour("del", address)
        self.mac_of(self.guest, address, expected=OURS)

    @both
    def test_changes_are_announced_to_all(self, net):
        address, to = ("192.0.2.97", BROADCAST) if net is V4 else ("2001:db8:1::97", ALL_NODES)
        for expected in (ONE, TWO, OURS):
            with Frames(self.guest) as frames:
                if expected == OURS:
                    self.neighbour("del", address)
                else:
                    self.station(address, expected)
                told = frames.until(is_announcement_of(address))
            self.assertEqual((mac(told[:6]), mac(told[6:12])), (to, expected))
            if net is V4:
                self.assertEqual((mac(told[22:28]), mac(told[32:38])), (expected, "00:00:00:00:00:00"))
            else:
                # Override set, solicited clear.
                self.assertEqual((told[58] & 0xe0, told[78:80], mac(told[80:86])), (0x20, b"\x02\x01", expected))

    @both
    def test_station_at_the_guests_address_is_not_announced(self, net):
        own, witness = ("192.0.2.76", "192.0.2.75") if net is V4 else ("2001:db8:1::76", "2001:db8:1::75")
        with self.lab.guest("-a", own) as guest, Frames(guest) as frames:
            self.station(own, ONE)
            self.station(witness, ONE)
            either = [is_announcement_of(own), is_announcement_of(witness)]
            told = frames.until(lambda f: any(match(f) for match in either))
            self.assertTrue(either[1](told))

    def test_b203_added_while_the_table_is_read(self):
        addresses = [f"192.0.2.{n}" for n in range(101, 200)] + [f"2001:db8:1::1:{n}" for n in range(101, 200)]
        started = threading.Event()
        added = []

        def add():
            for address in addresses:
                self.neighbour("replace", address, "lladdr", ONE, "nud permanent")
                added.append(address)
                if started.is_set() and len(added) > 4:
                    return

        thread = threading.Thread(target=add)
        thread.start()
        try:
            with self.lab.guest() as guest:
                started.set()
                thread.join()
                self.resolve(guest, *added)
                for address in added:
                    self.mac_of(guest, address, expected=ONE)
        finally:
            started.set()
            thread.join()
            for address in added:
                self.neighbour("del", address)

    def test_more_changes_than_the_kernel_keeps_for_us(self):
        addresses = [f"192.0.2.{n}" for n in range(101, 250)] + [f"2001:db8:1::2:{n}" for n in range(1000, 1999)]
        batch = self.lab.as_root(["ip", "-batch", "-"], self.lab.host)
        add = "".join(f"neigh replace {address} lladdr {ONE} nud permanent dev eth0\n" for address in addresses)
        with self.lab.guest() as guest:
            self.resolve(guest, addresses[-1])
            self.mac_of(guest, addresses[-1], expected=OURS)
            translator = guest.translator()
            os.kill(translator, signal.SIGSTOP)
            try:
                self.lab.call(batch, input=add)
            finally:
                os.kill(translator, signal.SIGCONT)
            try:
                # Whether it is announced is a matter of the rate; the answer must be right.
                lab.wait_until(lambda: self._asks_anew(guest, addresses[-1]) == ONE, 5, "the new list")
                lab.wait_until(lambda: self._asks_anew(guest, addresses[0]) == ONE, 5, "the new list")
            finally:
                self.lab.call(batch, input="".join(f"neigh del {address} dev eth0\n" for address in addresses))
            lab.wait_until(lambda: self._asks_anew(guest, addresses[-1]) == OURS, 5, "the end of the flood")

    def _asks_anew(self, guest, address):
        guest.run("ip", "neigh", "flush", "to", address)
        self.resolve(guest, address)
        return self.mac_of(guest, address)
