"""Ports that Podman publishes through pasta."""

import contextlib
import threading

import lab
from checks import (FAMILIES, both_echoed, check, contains, equal, expect, free, refused, serve, tcp, tcp_echoed,
                    udp_echoed)
from world import Failure


@check("publish: TCP from loopback, from the host's own address and from afar")
def published(world):
    return _published(world, "tcp", tcp_echoed)


@check("publish: UDP from loopback, from the host's own address and from afar")
def published_udp(world):
    return _published(world, "udp", udp_echoed)


def _published(world, kind, echoed):
    serve(world, f"-p 8080:80/{kind}")
    notes = []
    for (_, host, remote, loopback), gateway in zip(FAMILIES, (lab.GATEWAY4, lab.GATEWAY6)):
        notes.append(echoed(world.lab.host, loopback, 8080))
        notes.append(echoed(world.lab.host, host, 8080))
        expect(echoed(world.lab.remote, host, 8080) in (remote, gateway), "the client's address is not kept")
    return "seen as " + ", ".join(notes)


@check("publish: a range, translated")
def ranges(world):
    serve(world, "-p 8100-8102:90-92 -p 8100-8102:90-92/udp", ports=(90, 91, 92))
    for port in (8100, 8101, 8102):
        for _, host, _, loopback in FAMILIES:
            both_echoed(world.lab.host, loopback, port)
            both_echoed(world.lab.remote, host, port)


@check("publish: an address of each family only")
def addressed(world):
    serve(world, f"-p 127.0.0.1:8081:80 -p '[::1]:8081:80' -p {lab.HOST4}:8082:80 -p '[{lab.HOST6}]:8082:80' "
                 f"-p {lab.HOST4}:8082:80/udp -p '[{lab.HOST6}]:8082:80/udp'")
    for _, host, _, loopback in FAMILIES:
        tcp_echoed(world.lab.host, loopback, 8081)
        refused(world.lab.host, host, 8081)
        refused(world.lab.remote, host, 8081)
        both_echoed(world.lab.remote, host, 8082)
        refused(world.lab.host, loopback, 8082)


@check("publish: 16 MiB through a published port and back, from loopback and from afar")
def bulk(world):
    data = bytes(range(256)) * 65536
    serve(world, "-p 8080:80")
    for _, host, _, loopback in FAMILIES:
        for where, address in ((world.lab.host, loopback), (world.lab.remote, host)):
            try:
                expect(_echo(where, address, data) == data, f"{address} answered something else")
            except OSError as error:
                raise Failure(f"to {address}: {error}") from error


def _echo(where, address, data):
    """Writes and reads at once: an echo stops reading while nobody takes what it says."""
    with where.connect(address, 8080, timeout=30) as stream:
        writer = threading.Thread(target=_send, args=(stream, data), daemon=True)
        writer.start()
        answer = bytearray()
        while piece := stream.recv(1 << 18):
            answer += piece
        writer.join(5)
    return bytes(answer).partition(b" ")[2]


def _send(stream, data):
    with contextlib.suppress(OSError):
        stream.sendall(data)
        stream.shutdown(1)


@check("publish: a TCP port that is taken: refused, with the port named")
def taken(world):
    with world.lab.host.listen("0.0.0.0", 8085):
        _refused(world.user("podman run --rm -p 127.0.0.1:8085:80 $IMAGE true", check=False))


@check("publish: a UDP port that is taken: refused, with the port named")
def taken_udp(world):
    with world.lab.host.bind("0.0.0.0", 8085):
        _refused(world.user("podman run --rm -p 8085:80/udp $IMAGE true", check=False))


@check("publish: a port that another container has: refused, with the port named")
def taken_by_another(world):
    for kind in ("tcp", "udp"):
        serve(world, f"-p 8085:80/{kind}", name=kind)
        _refused(world.user(f"podman run --rm -p 8085:80/{kind} $IMAGE true", check=False))


def _refused(done):
    expect(done.status != 0, "the container started")
    contains(done.out, "8085", "the message")
    contains(done.out, "Address already in use", "the message")


@check("publish: five containers one after another on the same port")
def five_runs(world):
    for _ in range(5):
        serve(world, "--rm -p 8080:80 -p 8080:80/udp")
        for _, _, _, loopback in FAMILIES:
            tcp_echoed(world.lab.host, loopback, 8080)
        tcp_echoed(world.lab.remote, lab.HOST4, 8080)
        world.user("podman rm -f -t 0 box")


@check("restart: five times in a row on the same port, a connection open each time")
def five_restarts(world):
    serve(world, "-p 8080:80 -p 8080:80/udp")
    for _ in range(5):
        with world.lab.host.connect("127.0.0.1", 8080) as near, world.lab.remote.connect(lab.HOST4, 8080) as far:
            near.sendall(b"x")
            far.sendall(b"x")
            near.recv(1)
            far.recv(1)
            world.user("podman restart -t 0 box")
        world.wait_listening(80)
        world.wait_listening(80, "udp")
        for _, host, _, loopback in FAMILIES:
            both_echoed(world.lab.host, loopback, 8080)
            both_echoed(world.lab.remote, host, 8080)


@check("stop: pasta is gone within 5 s, and its ports")
def stop(world):
    serve(world, "-p 8080:80")
    expect(world.translators(), "there is no process of pasta's")
    tcp_echoed(world.lab.host, "127.0.0.1", 8080)
    world.user("podman stop -t 0 box")
    lab.wait_until(lambda: not world.translators(), 5, "the end of pasta")
    refused(world.lab.host, "127.0.0.1", 8080)
    free(world, 8080)


@check("two containers publish different ports side by side")
def side_by_side(world):
    serve(world, "-p 8080:80", name="one")
    serve(world, "-p 8081:81", ports=(81,), name="two")
    for port in (8080, 8081):
        tcp_echoed(world.lab.host, "127.0.0.1", port)
        tcp_echoed(world.lab.remote, lab.HOST6, port)
    world.user("podman rm -f -t 0 one")
    tcp_echoed(world.lab.remote, lab.HOST6, 8081)


@check("100 connections at once through a published port")
def hundred(world):
    serve(world, "-p 8080:80")
    streams = [world.lab.remote.connect(lab.HOST4, 8080) for _ in range(50)]
    streams += [world.lab.host.connect("127.0.0.1", 8080) for _ in range(50)]
    for stream in streams:
        stream.sendall(b"question")
        stream.shutdown(1)
    for stream in streams:
        answer = b""
        while piece := stream.recv(4096):
            answer += piece
        stream.close()
        expect(answer.endswith(b" question"), f"answered {answer!r}")
    equal(tcp(world.lab.remote, lab.HOST4, 8080)[1], b"question", "one more")
