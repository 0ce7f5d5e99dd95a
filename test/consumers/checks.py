"""What checks are, and what they share: a function of a world, registered with the words of its line in the table."""

import dataclasses
import ipaddress
import socket

import lab
from world import Failure

CHECKS = []
FAMILIES = ((4, lab.HOST4, lab.REMOTE4, "127.0.0.1"), (6, lab.HOST6, lab.REMOTE6, "::1"))


@dataclasses.dataclass
class Check:
    name: str
    function: object


def check(name):
    """Registers a check. It raises if it fails, and may return a few words for the table."""
    def register(function):
        CHECKS.append(Check(name, function))
        return function
    return register


def expect(condition, what):
    if not condition:
        raise Failure(what)


def equal(got, wanted, what):
    expect(got == wanted, f"{what}: {got!r} instead of {wanted!r}")


def contains(text, wanted, what):
    expect(wanted in text, f"{what}: no {wanted!r} in it")


def serve(world, options="", ports=(80,), name="box"):
    """A container that answers as `Echo` does on these TCP and UDP ports of all its addresses, once they listen."""
    words = " ".join(map(str, ports))
    done = world.user(f"podman run -d --name {name} -v /tmp/serve:/tmp/serve:ro {options} $IMAGE "
                      f"sh /tmp/serve/all {words}")
    for port in ports:
        world.wait_listening(port)
        world.wait_listening(port, "udp")
    return done


def tcp(where, address, port, data=b"question"):
    """Asks an echo: (the address it saw us under, what came back)."""
    with where.connect(address, port, timeout=10) as stream:
        stream.sendall(data)
        stream.shutdown(socket.SHUT_WR)
        answer = b""
        while piece := stream.recv(1 << 16):
            answer += piece
    return _split(answer)


def udp(where, address, port, data=b"question"):
    asked = where.socket(lab.family_of(address), socket.SOCK_DGRAM, timeout=5)
    with asked:
        asked.sendto(data, (address, port))
        return _split(asked.recv(65536))


def tcp_echoed(where, address, port):
    """As `tcp`, with the answer checked; the address it saw us under."""
    return _checked(tcp, where, address, port)


def udp_echoed(where, address, port):
    return _checked(udp, where, address, port)


def both_echoed(where, address, port):
    tcp_echoed(where, address, port)
    udp_echoed(where, address, port)


def refused(where, address, port):
    """Nobody serves TCP there."""
    try:
        seen, data = tcp(where, address, port)
    except OSError:
        return
    expect(not data, f"{address} port {port} answers, to {seen}")


def free(world, port):
    """The port can be had on all addresses, at once."""
    for address in ("0.0.0.0", "::"):
        with world.lab.host.socket(lab.family_of(address)) as bound:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            bound.bind((address, port))
            bound.listen()


def inside(kind, address, port, data="question"):
    """The shell command for the container that asks an echo. The server keeps a UDP exchange open: -T ends it."""
    target = f"[{address}]" if ":" in address else address
    family = 6 if ":" in address else 4
    return f"printf {data} | socat -t 3 -T 3 - {kind}{family}:{target}:{port}"


def inside_udp(address, port, data="question"):
    return inside("UDP", address, port, data).replace("-t 3 -T 3", "-t 1")


def plain(address):
    """An address as socat and sockets print them, IPv4 in IPv6 as IPv4."""
    found = ipaddress.ip_address(address.strip("[]").split("%")[0])
    return str(getattr(found, "ipv4_mapped", None) or found)


def _checked(ask, where, address, port):
    try:
        seen, data = ask(where, address, port)
    except OSError as error:
        raise Failure(f"{ask.__name__} to {address} port {port}: {error}") from error
    equal(data, b"question", f"the answer of {address} port {port}")
    return seen


def _split(answer):
    seen, _, data = answer.partition(b" ")
    return (plain(seen.decode()) if seen else "nobody"), data

