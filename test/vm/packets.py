"""Frames: made from their parts, and taken apart again, with every checksum verified."""

import dataclasses
import ipaddress
import socket
import struct

BROADCAST = b"\xff" * 6
ARP, IPV4, IPV6 = 0x0806, 0x0800, 0x86DD
ICMP, TCP, UDP, ICMP6 = 1, 6, 17, 58
FIN, SYN, RST, PSH, ACK = 1, 2, 4, 8, 16


def checksum(data):
    total = sum(struct.unpack(f"!{len(data) // 2}H", data[:len(data) // 2 * 2]))
    total += (data[-1] << 8) if len(data) % 2 else 0
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def packed(address):
    return ipaddress.ip_address(address).packed


def _pseudo(source, target, protocol, length):
    if len(source) == 4:
        return source + target + struct.pack("!HH", protocol, length)
    return source + target + struct.pack("!II", length, protocol)


def _with_checksum(source, target, protocol, at, payload):
    over = b"" if protocol == ICMP else _pseudo(source, target, protocol, len(payload))
    value = checksum(over + payload)
    if protocol == UDP:
        value = value or 0xFFFF
    return payload[:at] + struct.pack("!H", value) + payload[at + 2:]


CHECKSUM_AT = {ICMP: 2, TCP: 16, UDP: 6, ICMP6: 2}


def ip(source, target, protocol, payload, ttl=64):
    """A packet of the addresses' version, with the checksum of what it carries."""
    source, target = packed(source), packed(target)
    if protocol in CHECKSUM_AT:
        payload = _with_checksum(source, target, protocol, CHECKSUM_AT[protocol], payload)
    if len(source) == 16:
        return struct.pack("!IHBB", 6 << 28, len(payload), protocol, ttl) + source + target + payload
    header = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(payload), 1, 0, ttl, protocol, 0) + source + target
    return header[:10] + struct.pack("!H", checksum(header)) + header[12:] + payload


def ethernet(target, source, kind, payload):
    return target + source + struct.pack("!H", kind) + payload


def arp(operation, mac, address, target_mac, target):
    return struct.pack("!HHBBH", 1, IPV4, 6, 4, operation) + mac + packed(address) + target_mac + packed(target)


def udp(source_port, target_port, payload):
    return struct.pack("!HHHH", source_port, target_port, 8 + len(payload), 0) + payload


def tcp(source_port, target_port, seq, ack, flags, payload=b"", options=b"", window=65535):
    options += bytes(-len(options) % 4)
    return struct.pack("!HHIIBBHHH", source_port, target_port, seq & 0xFFFFFFFF, ack & 0xFFFFFFFF,
                       (5 + len(options) // 4) << 4, flags, window, 0, 0) + options + payload


def echo(version, identifier, sequence, payload=b"echo"):
    return struct.pack("!BBHHH", 8 if version == 4 else 128, 0, 0, identifier, sequence) + payload


@dataclasses.dataclass
class Packet:
    """What a frame carries. `payload` is what is behind the IP header, and for TCP and UDP `data` is what is behind
    their own."""

    frame: bytes
    to_mac: bytes
    from_mac: bytes
    kind: int
    source: str = ""
    target: str = ""
    protocol: int = -1
    ttl: int = 0
    payload: bytes = b""
    source_port: int = 0
    target_port: int = 0
    seq: int = 0
    ack: int = 0
    flags: int = 0
    window: int = 0
    options: bytes = b""
    data: bytes = b""
    operation: int = 0
    whole: bool = True

    def is_udp(self, source_port=None, target_port=None):
        return (self.protocol == UDP and source_port in (None, self.source_port)
                and target_port in (None, self.target_port))


def parse(frame):
    """The packet in a frame. A length or a checksum that is wrong is an AssertionError."""
    packet = Packet(frame, frame[:6], frame[6:12], int.from_bytes(frame[12:14], "big"))
    body = frame[14:]
    if packet.kind == ARP:
        packet.operation = int.from_bytes(body[6:8], "big")
        packet.source, packet.target = socket.inet_ntoa(body[14:18]), socket.inet_ntoa(body[24:28])
        return packet
    if packet.kind == IPV4:
        length = int.from_bytes(body[2:4], "big")
        header = (body[0] & 15) * 4
        assert body[0] >> 4 == 4 and header <= length <= len(body), f"wrong length in {frame[:80].hex()}"
        assert checksum(body[:header]) == 0, f"wrong checksum of the header in {frame[:80].hex()}"
        source, target = body[12:16], body[16:20]
        packet.protocol, packet.ttl, packet.payload = body[9], body[8], body[header:length]
        packet.whole = int.from_bytes(body[6:8], "big") & 0x3FFF == 0
    elif packet.kind == IPV6:
        length = int.from_bytes(body[4:6], "big")
        assert body[0] >> 4 == 6 and length <= len(body) - 40, f"wrong length in {frame[:80].hex()}"
        source, target = body[8:24], body[24:40]
        packet.protocol, packet.ttl, packet.payload = body[6], body[7], body[40:40 + length]
        packet.whole = packet.protocol != 44
    else:
        return packet
    packet.source, packet.target = str(ipaddress.ip_address(source)), str(ipaddress.ip_address(target))
    if packet.whole and packet.protocol in CHECKSUM_AT:
        over = b"" if packet.protocol == ICMP else _pseudo(source, target, packet.protocol, len(packet.payload))
        # UDP over IPv4 may go without.
        none = packet.kind == IPV4 and packet.protocol == UDP and packet.payload[6:8] == b"\0\0"
        assert none or checksum(over + packet.payload) == 0, f"wrong checksum in {frame[:80].hex()}"
        _ports(packet)
    return packet


def _ports(packet):
    payload = packet.payload
    if packet.protocol in (TCP, UDP):
        packet.source_port, packet.target_port = struct.unpack("!HH", payload[:4])
    if packet.protocol == UDP:
        assert int.from_bytes(payload[4:6], "big") == len(payload), f"wrong length of UDP in {packet.frame[:80].hex()}"
        packet.data = payload[8:]
    elif packet.protocol == TCP:
        packet.seq, packet.ack, offset, packet.flags, packet.window = struct.unpack("!IIBBH", payload[4:16])
        packet.options, packet.data = payload[20:(offset >> 4) * 4], payload[(offset >> 4) * 4:]


def options_of(data, head=1):
    """Options with a number and a length of `head` bytes each, as DHCP (1) and DHCPv6 (2) have them: a dictionary."""
    found, at = {}, 0
    while at + 2 * head <= len(data):
        number = int.from_bytes(data[at:at + head], "big")
        if head == 1 and number in (0, 255):
            if number == 255:
                break
            at += 1
            continue
        length = int.from_bytes(data[at + head:at + 2 * head], "big")
        found[number] = found.get(number, b"") + data[at + 2 * head:at + 2 * head + length]
        at += 2 * head + length
    return found


def tcp_options(data):
    """Options of TCP: a dictionary by their numbers."""
    found, at = {}, 0
    while at < len(data) and data[at] != 0:
        if data[at] == 1:
            at += 1
            continue
        found[data[at]] = data[at + 2:at + data[at + 1]]
        at += max(2, data[at + 1])
    return found


def ndp_options(data):
    """Options of neighbour discovery, whose lengths count units of eight bytes: a list of (number, what is behind)."""
    found = []
    while data:
        assert len(data) >= 8 and data[1] > 0, f"an option of length 0 in {data.hex()}"
        found.append((data[0], data[2:data[1] * 8]))
        data = data[data[1] * 8:]
    return found


def names_of(data):
    """Domain names as DNS writes them, with pointers."""
    names, at = [], 0
    while at < len(data):
        name, at = _name(data, at)
        if name:
            names.append(name)
    return names


def _name(data, at):
    labels = []
    while at < len(data) and data[at]:
        if data[at] >= 0xC0:
            rest, _ = _name(data, int.from_bytes(data[at:at + 2], "big") & 0x3FFF)
            return ".".join([*labels, rest]), at + 2
        labels.append(data[at + 1:at + 1 + data[at]].decode("ascii", "replace"))
        at += 1 + data[at]
    return ".".join(labels), at + 1
