"""Podman's default network: what the container finds, and what it reaches."""

import hashlib
import json

import lab
from checks import FAMILIES, check, contains, equal, expect, inside, inside_udp, serve, tcp_echoed
from world import Echo


@check("podman info shows pasta")
def info(world):
    done = world.user("podman info --format '{{.Host.Pasta.Executable}} {{.Host.Pasta.Version}}'")
    expect(done.out.split()[0].endswith("/pasta") and len(done.out.split()) > 1, f"said {done.out!r}")
    return done.out.split("\n")[0].split(" ", 1)[1]


@check("run: addresses, routes and MTU of the host")
def copied(world):
    # The shell of busybox would take its own `ip` for the bare name.
    show = "for what in addr route \"-6 route\"; do /usr/bin/ip -json $what; echo; done"
    out = world.user(f"podman run --rm $IMAGE sh -c '{show}'").out
    addresses, routes4, routes6 = [json.loads(line) for line in out.splitlines() if line.startswith("[")]
    link = next(one for one in addresses if one["ifname"] == "eth0")
    equal(link["mtu"], 65520, "the MTU")
    found = {(one["local"], one["prefixlen"]) for one in link["addr_info"] if one["scope"] == "global"}
    equal(found, {(lab.HOST4, 24), (lab.HOST6, 64)}, "the addresses")
    equal(_gateway(routes4), lab.GATEWAY4, "the IPv4 gateway")
    equal(_gateway(routes6), lab.GATEWAY6, "the IPv6 gateway")


def _gateway(routes):
    return next((route.get("gateway") for route in routes if route["dst"] == "default"), None)


@check("run: nothing but the container's output")
def silent(world):
    equal(world.user("podman run --rm $IMAGE echo said").out, "said\n", "the output")


@check("run: TCP and UDP to a remote host, IPv4 and IPv6")
def outwards(world):
    for _, host, remote, _ in FAMILIES:
        with Echo(world.lab.remote, remote) as echo:
            out = world.user(f"podman run --rm $IMAGE sh -c '{inside('TCP', remote, echo.port)}; echo; "
                             f"{inside_udp(remote, echo.port)}'").out
        equal(out, f"{host} question\n{host} question", f"what {remote} answered")


@check("run: 64 MiB to a remote host and back")
def bulk(world):
    with Echo(world.lab.remote, lab.REMOTE4) as echo:
        out = world.user(f"podman run --rm $IMAGE sh -c 'dd if=/dev/zero bs=1M count=64 2>/dev/null | "
                         f"socat -t 20 - TCP:{lab.REMOTE4}:{echo.port} | tail -c +{len(lab.HOST4) + 2} | "
                         "sha256sum'").out
    equal(out.split()[0], hashlib.sha256(bytes(64 << 20)).hexdigest(), "the checksum")


@check("run: ping to a remote host, IPv4 and IPv6")
def ping(world):
    world.user(f"podman run --rm --cap-add net_raw $IMAGE sh -c 'ping -c 1 -W 3 {lab.REMOTE4} && "
               f"ping -6 -c 1 -W 3 {lab.REMOTE6}'")


@check("run: names are resolved through 169.254.1.1")
def names(world):
    with lab.Dns(world.lab.host, lab.HOST4) as resolver:
        world.write("/etc/resolv.conf", f"nameserver {lab.HOST4}\n")
        try:
            out = world.user("podman run --rm $IMAGE sh -c 'cat /etc/resolv.conf; nslookup name.test 169.254.1.1'").out
        finally:
            world.write("/etc/resolv.conf", f"nameserver {lab.REMOTE4}\n")
    contains(out, "nameserver 169.254.1.1", "/etc/resolv.conf")
    contains(out, "192.0.2.80", "the answer")
    expect("name.test" in [name for name, _ in resolver.questions], "the resolver was not asked")


@check("run: the host by the name host.containers.internal")
def the_host(world):
    with Echo(world.lab.host, lab.HOST4) as echo:
        command = inside("TCP", "host.containers.internal", echo.port)
        contains(world.user(f"podman run --rm $IMAGE sh -c '{command}'").out, " question", "the answer")


@check("run: the host's loopback is out of reach")
def no_loopback(world):
    for _, _, _, loopback in FAMILIES:
        with Echo(world.lab.host, loopback) as echo:
            for target in (loopback, lab.GATEWAY6 if ":" in loopback else lab.GATEWAY4):
                out = world.user(f"podman run --rm $IMAGE sh -c '{inside('TCP', target, echo.port)}'", check=False).out
                expect("question" not in out, f"{loopback} answers to {target}")


@check("run: a pod shares one network")
def pod(world):
    world.user("podman pod create --name pod -p 8090:80")
    try:
        serve(world, "--pod pod")
        tcp_echoed(world.lab.remote, lab.HOST4, 8090)
        with Echo(world.lab.remote, lab.REMOTE4) as echo:
            out = world.user(f"podman run --rm --pod pod $IMAGE sh -c '{inside('TCP', '127.0.0.1', 80)}; echo; "
                             f"{inside('TCP', lab.REMOTE4, echo.port)}'").out
        equal(out.split("\n")[1], f"{lab.HOST4} question", "what the remote host answered")
        contains(out, " question\n", "what the other container answered")
    finally:
        world.user("podman pod rm -f -t 0 pod")
