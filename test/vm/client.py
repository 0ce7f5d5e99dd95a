"""A client of the program's stream socket that has no system behind it: it sends the frames it is told to send."""

import contextlib
import random
import socket
import struct
import time

import lab
import packets
from packets import ACK, ARP, FIN, ICMP, ICMP6, IPV4, IPV6, PSH, RST, SYN, TCP, UDP

MAC = bytes.fromhex("525400654321")
LINK_LOCAL = "fe80::5054:ff:fe65:4321"
BULK = b"\2\4\xff\xd0\1\3\3\x08"
"""Options of a SYN for much data: segments as long as can be, and a window of 16 MB."""


class Closed(Exception):
    """The program has closed the connection."""


class Client:
    """Has the addresses that the guest is to have, and answers those who ask for them."""

    def __init__(self, path=None, address4=lab.HOST4, address6=lab.HOST6, connection=None):
        self.addresses = {4: address4, 6: address6}
        self.gateways, self.mac = {4: lab.GATEWAY4, 6: lab.GATEWAY6}, {}
        self.connection = connection or socket.socket(socket.AF_UNIX)
        if path:
            self.connection.connect(path)
        self.connection.settimeout(10)
        self.held, self.piece = b"", 1 << 18
        self.gathered = None
        self.seen = []
        """Every packet that came, the oldest first."""

    # Frames

    def write(self, data):
        """Bytes as they are, without a length."""
        if self.gathered is not None:
            self.gathered += data
            return
        try:
            self.connection.sendall(data)
        except (BrokenPipeError, ConnectionResetError):
            raise Closed from None

    @contextlib.contextmanager
    def at_once(self):
        """What is sent meanwhile leaves in one piece, at the end."""
        self.gathered = bytearray()
        try:
            yield
        finally:
            data, self.gathered = self.gathered, None
        self.write(data)

    def send(self, frame):
        self.write(struct.pack("!I", len(frame)) + frame)

    def receive(self, seconds=5):
        """The next packet, or None if none comes in time. Questions for our addresses are answered on the way."""
        end = time.monotonic() + seconds
        while len(self.held) < 4 or len(self.held) < 4 + self._length():
            self.connection.settimeout(max(0.001, end - time.monotonic()))
            try:
                piece = self.connection.recv(self.piece)
            except TimeoutError:
                return None
            except ConnectionResetError:
                piece = b""
            if not piece:
                raise Closed
            self.held += piece
        length = self._length()
        assert 14 <= length <= 65549, f"the program sends a frame of length {length}"
        frame, self.held = self.held[4:4 + length], self.held[4 + length:]
        packet = packets.parse(frame)
        self.seen.append(packet)
        self._answer(packet)
        return packet

    def _length(self):
        return int.from_bytes(self.held[:4], "big")

    def _answer(self, packet):
        if packet.kind == ARP and packet.operation == 1 and packet.target == self.addresses[4] != packet.source:
            reply = packets.arp(2, MAC, self.addresses[4], packet.from_mac, packet.source)
            self.send(packets.ethernet(packet.from_mac, MAC, ARP, reply))
        elif packet.protocol == ICMP6 and packet.payload[0] == 135 and packet.source != "::":
            target = str(packets.ipaddress.ip_address(packet.payload[8:24]))
            if target in (self.addresses[6], LINK_LOCAL):
                message = b"\x88\0\0\0\x60\0\0\0" + packet.payload[8:24] + b"\2\1" + MAC
                reply = packets.ip(target, packet.source, ICMP6, message, ttl=255)
                self.send(packets.ethernet(packet.from_mac, MAC, IPV6, reply))

    def expect(self, what, wanted, seconds=5):
        """The first packet from now on that is `wanted`."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            packet = self.receive(left)
            if packet and wanted(packet):
                return packet
        raise TimeoutError(f"no {what} within {seconds} s")

    def nothing(self, what, unwanted, seconds=0.5):
        """No packet that is `unwanted` comes in this time."""
        with contextlib.suppress(TimeoutError):
            packet = self.expect(what, unwanted, seconds)
            raise AssertionError(f"{what} came: {packet.frame[:100].hex()}")

    def closed_within(self, seconds):
        """Whether the program closes the connection in this time."""
        end = time.monotonic() + seconds
        try:
            while time.monotonic() < end:
                self.receive(end - time.monotonic())
        except Closed:
            return True
        return False

    # Packets

    def mac_for(self, target):
        """Where a frame for this address goes."""
        address = packets.ipaddress.ip_address(target)
        if str(address) == "255.255.255.255":
            return packets.BROADCAST
        if address.is_multicast:
            return b"\x33\x33" + address.packed[-4:] if address.version == 6 else b"\1\0\x5e" + address.packed[-3:]
        return self.resolve(address.version)

    def resolve(self, version):
        """The gateway's hardware address, asked for once."""
        if version in self.mac:
            return self.mac[version]
        gateway = self.gateways[version]
        if version == 4:
            question = packets.arp(1, MAC, self.addresses[4], bytes(6), gateway)
            self.send(packets.ethernet(packets.BROADCAST, MAC, ARP, question))
            answer = self.expect(f"answer for {gateway}",
                                 lambda p: p.kind == ARP and p.operation == 2 and p.source == gateway)
        else:
            self.send_solicitation(gateway)
            wanted = packets.packed(gateway)
            answer = self.expect(f"answer for {gateway}", lambda p: p.protocol == ICMP6 and p.payload[0] == 136
                                 and p.payload[8:24] == wanted)
        self.mac[version] = answer.from_mac
        return answer.from_mac

    def send_solicitation(self, target):
        wanted = packets.packed(target)
        group = str(packets.ipaddress.ip_address(bytes.fromhex("ff0200000000000000000001ff") + wanted[13:]))
        message = b"\x87\0\0\0\0\0\0\0" + wanted + b"\1\1" + MAC
        packet = packets.ip(self.addresses[6], group, ICMP6, message, ttl=255)
        self.send(packets.ethernet(self.mac_for(group), MAC, IPV6, packet))

    def send_ip(self, target, protocol, payload, source=None, **more):
        """An IP packet, by way of the gateway unless it is for a group."""
        version = 6 if ":" in target else 4
        packet = packets.ip(source or self.addresses[version], target, protocol, payload, **more)
        self.send(packets.ethernet(self.mac_for(target), MAC, IPV6 if version == 6 else IPV4, packet))

    def send_udp(self, target, port, data, source_port=4000, **more):
        self.send_ip(target, UDP, packets.udp(source_port, port, data), **more)

    def ping(self, target, sequence=1):
        """Asks for an echo and returns the answer."""
        version = 6 if ":" in target else 4
        self.send_ip(target, ICMP if version == 4 else ICMP6, packets.echo(version, 77, sequence, b"raw client"))
        return self.expect(f"echo from {target}", lambda p: p.source == target and p.payload.endswith(b"raw client")
                           and p.payload[0] in (0, 129) and p.payload[6:8] == sequence.to_bytes(2, "big"))

    def assert_served(self):
        """The program answers this client."""
        self.ping(self.gateways[4])
        self.ping(self.gateways[6])

    def close(self):
        self.connection.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


class Connection:
    """A TCP connection of a client: just enough of one, without losses."""

    def __init__(self, client, target, port, source_port=None, options=b"\2\4\x05\xb4"):
        self.client, self.target, self.port = client, target, port
        self.source_port = source_port or random.randrange(20_000, 60_000)
        self.options = options
        self.seq, self.ack = random.randrange(1 << 32), 0
        self.syn = None
        """The other side's SYN, or SYN and ACK."""

    def transmit(self, flags, data=b"", options=b""):
        segment = packets.tcp(self.source_port, self.port, self.seq, self.ack, flags, data, options)
        self.client.send_ip(self.target, TCP, segment)
        self.seq = (self.seq + len(data) + bool(flags & SYN) + bool(flags & FIN)) & 0xFFFFFFFF

    def ours(self, packet):
        return (packet.protocol == TCP and packet.source == self.target and packet.source_port == self.port
                and packet.target_port == self.source_port)

    def open(self, data=b""):
        """Connects; `data` goes with the last segment of the handshake."""
        self.transmit(SYN, options=self.options)
        self.syn = self.client.expect("SYN and ACK", lambda p: self.ours(p) and p.flags & (SYN | RST))
        if self.syn.flags & RST:
            raise ConnectionRefusedError
        assert self.syn.flags & (SYN | ACK) == SYN | ACK and self.syn.ack == self.seq, self.syn
        self.ack = (self.syn.seq + 1) & 0xFFFFFFFF
        self.transmit(ACK | (PSH if data else 0), data)
        return self

    def accept(self, syn):
        """Takes a connection that begins with `syn`."""
        self.syn, self.ack = syn, (syn.seq + 1) & 0xFFFFFFFF
        self.transmit(SYN | ACK, options=self.options)
        return self

    def send(self, data):
        """Sends, and waits for its acknowledgement."""
        self.transmit(ACK | PSH, data)
        self.client.expect("acknowledgement", lambda p: self.ours(p) and p.ack == self.seq)

    def read(self, count, seconds=5):
        """So many bytes, acknowledged as they come, in order; what comes out of order is left out."""
        data, end = b"", time.monotonic() + seconds
        while len(data) < count:
            packet = self.client.expect(f"data ({len(data)} of {count} bytes came)",
                                        lambda p: self.ours(p) and (p.data or p.flags & RST), end - time.monotonic())
            if packet.flags & RST:
                raise ConnectionResetError
            if packet.seq == self.ack:
                data += packet.data
                self.ack = (self.ack + len(packet.data)) & 0xFFFFFFFF
            self.transmit(ACK)
        return data

    def read_end(self, seconds=5):
        """The other side's FIN, acknowledged. It may have come with the last data."""
        packet = next((p for p in self.client.seen if self.ours(p) and p.flags & FIN), None)
        packet = packet or self.client.expect("FIN", lambda p: self.ours(p) and p.flags & (FIN | RST), seconds)
        if packet.flags & RST:
            raise ConnectionResetError
        self.ack = (packet.seq + len(packet.data) + 1) & 0xFFFFFFFF
        self.transmit(ACK)


def inbound(client, port, seconds=5):
    """The SYN of a connection to a port of ours, and a Connection that can accept it."""
    syn = client.expect(f"SYN to port {port}", lambda p: p.protocol == TCP and p.target_port == port
                        and p.flags & (SYN | ACK) == SYN, seconds)
    return syn, Connection(client, syn.source, syn.source_port, source_port=port)
