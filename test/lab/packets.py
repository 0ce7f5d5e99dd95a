"""Packets that a kernel would not send, byte by byte."""

import socket
import struct


def checksum(data):
    total = sum(struct.unpack(f"!{len(data) // 2}H", data[:len(data) // 2 * 2]))
    total += (data[-1] << 8) if len(data) % 2 else 0
    total = (total & 0xFFFF) + (total >> 16)
    return ~((total & 0xFFFF) + (total >> 16)) & 0xFFFF


def ipv4(source, target, protocol, payload):
    """With the checksums of the IP header and of TCP; UDP may go without, and ICMP brings its own."""
    header = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 20 + len(payload), 1, 0, 64, protocol, 0, socket.inet_aton(source),
                         socket.inet_aton(target))
    header = header[:10] + struct.pack("!H", checksum(header)) + header[12:]
    if protocol == 6:
        pseudo = header[12:20] + struct.pack("!HH", 6, len(payload))
        payload = payload[:16] + struct.pack("!H", checksum(pseudo + payload)) + payload[18:]
    return header + payload


def first_fragment(source, target, identification, payload):
    """Of a packet whose others do not come."""
    packet = bytearray(ipv4(source, target, 17, payload))
    packet[4:6], packet[6:8], packet[10:12] = struct.pack("!H", identification), b"\x20\x00", b"\0\0"
    packet[10:12] = struct.pack("!H", checksum(packet[:20]))
    return bytes(packet)


def tcp_syn(source, target):
    return struct.pack("!HHIIBBHHH", source, target, source * 7919, 0, 5 << 4, 2, 64240, 0, 0)


def udp(source, target, payload=b"x"):
    return struct.pack("!HHHH", source, target, 8 + len(payload), 0) + payload


def echo(identifier):
    message = struct.pack("!BBHHH", 8, 0, 0, identifier, 1) + b"lab!"
    return message[:2] + struct.pack("!H", checksum(message)) + message[4:]
