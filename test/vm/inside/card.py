"""What ethtool(8) would say and set of the guest's network card."""

import array
import fcntl
import socket
import struct

NAME = b"eth0"
SIOCETHTOOL = 0x8946
GSTRINGS, GSTATS, GSSET_INFO, GFEATURES, GCHANNELS, SCHANNELS = 0x1B, 0x1D, 0x37, 0x3A, 0x3C, 0x3D
STATISTICS, FEATURES = 1, 4
LONGEST_NAME = 32


def _ask(request, answer=b""):
    """What the kernel makes of the request, with room behind it for the answer."""
    data = array.array("B", request + answer)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_one:
        fcntl.ioctl(any_one, SIOCETHTOOL, struct.pack("16sP16x", NAME, data.buffer_info()[0]))
    return data.tobytes()


def _names(which):
    """The names of a set, in the order of its values."""
    count, = struct.unpack_from("I", _ask(struct.pack("IIQI", GSSET_INFO, 0, 1 << which, 0)), 16)
    said = _ask(struct.pack("III", GSTRINGS, which, count), bytes(LONGEST_NAME * count))[12:]
    return [said[at:at + LONGEST_NAME].rstrip(b"\0").decode() for at in range(0, LONGEST_NAME * count, LONGEST_NAME)]


def features():
    """The names of what is switched on."""
    names = _names(FEATURES)
    blocks = (len(names) + 31) // 32
    said = _ask(struct.pack("II", GFEATURES, blocks), bytes(16 * blocks))[8:]
    active = [struct.unpack_from("I", said, 16 * block + 8)[0] for block in range(blocks)]
    return [name for nth, name in enumerate(names) if active[nth // 32] >> nth % 32 & 1]


def statistics():
    """The driver's own counters, by name."""
    names = _names(STATISTICS)
    said = _ask(struct.pack("II", GSTATS, len(names)), bytes(8 * len(names)))
    return dict(zip(names, struct.unpack_from(f"{len(names)}Q", said, 8)))


def channels():
    """How many pairs of queues there could be, and how many are in use."""
    said = struct.unpack("9I", _ask(struct.pack("I", GCHANNELS), bytes(32)))
    return said[4], said[8]


def set_channels(count):
    _ask(struct.pack("9I", SCHANNELS, 0, 0, 0, 0, 0, 0, 0, count))
