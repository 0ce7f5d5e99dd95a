"""Rootless bridge networks: one pasta for the user's network namespace, in which Podman's own bridge is."""

import lab
from checks import (FAMILIES, both_echoed, check, contains, equal, expect, inside, inside_udp, serve, tcp_echoed,
                    udp_echoed)
from world import Echo


@check("bridge: TCP and UDP to a remote host, IPv4 and IPv6")
def outwards(world):
    world.user("podman network create --ipv6 net")
    for _, host, remote, _ in FAMILIES:
        with Echo(world.lab.remote, remote) as echo:
            out = world.user(f"podman run --rm --network=net $IMAGE sh -c '{inside('TCP', remote, echo.port)}; echo; "
                             f"{inside_udp(remote, echo.port)}'").out
        equal(out, f"{host} question\n{host} question", f"what {remote} answered")


@check("bridge: published ports from loopback and from afar")
def published(world):
    world.user("podman network create --ipv6 net")
    serve(world, "--network=net -p 8080:80 -p 8080:80/udp")
    notes = []
    for _, host, _, loopback in FAMILIES:
        for where, address in ((world.lab.host, loopback), (world.lab.remote, host)):
            notes.append(tcp_echoed(where, address, 8080))
            udp_echoed(where, address, 8080)
    return "seen as " + ", ".join(notes)


@check("bridge: five containers one after another on the same port")
def five_runs(world):
    world.user("podman network create net")
    for _ in range(5):
        serve(world, "--rm --network=net -p 8080:80")
        tcp_echoed(world.lab.remote, lab.HOST4, 8080)
        world.user("podman rm -f -t 0 box")


@check("bridge: containers find each other by name")
def by_name(world):
    world.user("podman network create net")
    serve(world, "--network=net", name="served")
    out = world.user("podman run --rm --network=net $IMAGE sh -c 'nslookup served; printf question | "
                     "socat -t 3 - TCP4:served:80'").out
    contains(out, " question", "the answer")


@check("bridge: names of the outside are resolved")
def names(world):
    world.user("podman network create net")
    with lab.Dns(world.lab.host, lab.HOST4) as resolver:
        world.write("/etc/resolv.conf", f"nameserver {lab.HOST4}\n")
        try:
            out = world.user("podman run --rm --network=net $IMAGE nslookup name.test").out
        finally:
            world.write("/etc/resolv.conf", f"nameserver {lab.REMOTE4}\n")
    contains(out, "192.0.2.80", "the answer")
    expect(any(name == "name.test" for name, _ in resolver.questions), "the resolver was not asked")


@check("bridge: one pasta with --pid, gone after the last container")
def lifetime(world):
    world.user("podman network create net")
    serve(world, "--network=net", name="one")
    serve(world, "--network=net", name="two")
    equal(len(world.translators()), 1, "processes of pasta's")
    commands = [words for words in world.recorded() if words[0] == "pasta" and "--pid" in words]
    expect(commands, "no pasta was started with --pid")
    path = commands[0][commands[0].index("--pid") + 1]
    text = world.read(path).strip()
    expect(text.isdigit(), f"{path} has {text!r}")
    world.user(f"kill -0 {text}")
    world.user("podman rm -f -t 0 one")
    equal(len(world.translators()), 1, "processes of pasta's with one container left")
    world.user("podman rm -f -t 0 two")
    lab.wait_until(lambda: not world.translators(), 5, "the end of pasta")


@check("bridge: a network joined and left while the container runs")
def connected_later(world):
    world.user("podman network create net && podman network create other")
    serve(world, "--network=net -p 8080:80")
    world.user("podman network connect other box && podman network disconnect net box")
    tcp_echoed(world.lab.remote, lab.HOST4, 8080)


@check("bridge: the host by the name host.containers.internal")
def the_host(world):
    world.user("podman network create net")
    with Echo(world.lab.host, lab.HOST4) as echo:
        command = inside("TCP", "host.containers.internal", echo.port)
        contains(world.user(f"podman run --rm --network=net $IMAGE sh -c '{command}'").out, " question", "the answer")


@check("bridge and default network side by side")
def side_by_side(world):
    world.user("podman network create net")
    serve(world, "--network=net -p 8080:80 -p 8080:80/udp", name="one")
    serve(world, "-p 8081:81 -p 8081:81/udp", ports=(81,), name="two")
    for port in (8080, 8081):
        both_echoed(world.lab.remote, lab.HOST4, port)
