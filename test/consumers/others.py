"""Buildah and RootlessKit."""

import os
import signal

import lab
from checks import (FAMILIES, both_echoed, check, contains, equal, expect, inside, inside_udp, serve, tcp_echoed,
                    udp_echoed)
from world import IMAGE, Echo


@check("buildah run: TCP and UDP to a remote host, IPv4 and IPv6")
def buildah_run(world):
    try:
        world.user("buildah from --name work $IMAGE")
        for _, host, remote, _ in FAMILIES:
            with Echo(world.lab.remote, remote) as echo:
                out = world.user(f"buildah run --isolation=rootless work sh -c '{inside('TCP', remote, echo.port)}; "
                                 f"echo; {inside_udp(remote, echo.port)}'").out
            equal(out, f"{host} question\n{host} question", f"what {remote} answered")
    finally:
        world.user("buildah rm work", check=False)
    expect(any(words[0] == "pasta" for words in world.recorded()), "no pasta was started")


@check("buildah run: with options for pasta")
def buildah_options(world):
    try:
        world.user("buildah from --name work $IMAGE")
        out = world.user("buildah run --isolation=rootless --network=pasta:-m,1280 work ip link show eth0").out
        contains(out, "mtu 1280", "the interface")
    finally:
        world.user("buildah rm work", check=False)


@check("buildah build: a step that needs the network")
def buildah_build(world):
    with Echo(world.lab.remote, lab.REMOTE4) as echo:
        world.write("/tmp/build/Containerfile",
                    f"FROM {IMAGE}\nRUN {inside('TCP', lab.REMOTE4, echo.port)} >/said\nRUN cat /said\n")
        out = world.user("buildah build --isolation=rootless -t built /tmp/build; status=$?; podman rmi -f built; "
                         "exit $status", timeout=120).out
    contains(out, f"{lab.HOST4} question", "what the step read")


@check("podman build: a step that needs the network")
def podman_build(world):
    with Echo(world.lab.remote, lab.REMOTE4) as echo:
        world.write("/tmp/build/Containerfile",
                    f"FROM {IMAGE}\nRUN {inside('TCP', lab.REMOTE4, echo.port)} >/said\nRUN cat /said\n")
        out = world.user("podman build --isolation=oci -t built /tmp/build; status=$?; podman rmi -f built; "
                         "exit $status", timeout=120).out
    contains(out, f"{lab.HOST4} question", "what the step read")


def rootlesskit(world, options, script):
    return world.user(f"rootlesskit {options} --copy-up=/etc --copy-up=/run --disable-host-loopback bash -c '{script}'")


@check("rootlesskit --net=pasta: TCP and UDP to a remote host")
def rootlesskit_pasta(world):
    _rootlesskit_outwards(world, "--net=pasta")


@check("rootlesskit --net=pasta --ipv6: TCP and UDP to a remote host")
def rootlesskit_pasta6(world):
    # Release 2.0 configures the interface itself, with IPv4 alone.
    _rootlesskit_outwards(world, "--net=pasta --ipv6")


@check("rootlesskit --net=pasta --port-driver=implicit: ports appear")
def rootlesskit_implicit(world):
    _rootlesskit_ports(world, "--net=pasta --port-driver=implicit", 8060)


@check("rootlesskit --net=slirp4netns: TCP and UDP to a remote host")
def rootlesskit_slirp(world):
    _rootlesskit_outwards(world, "--net=slirp4netns")


@check("rootlesskit --net=slirp4netns --port-driver=slirp4netns: a published port")
def rootlesskit_slirp_ports(world):
    # With --disable-host-loopback slirp4netns itself answers no UDP client on loopback.
    _rootlesskit_ports(world, "--net=slirp4netns --port-driver=slirp4netns -p 0.0.0.0:8062:8062/tcp "
                              "-p 0.0.0.0:8062:8062/udp", 8062, udp_from_loopback=False)


@check("podman --network=slirp4netns: outwards, and a published port")
def podman_slirp(world):
    serve(world, "--network=slirp4netns:port_handler=slirp4netns -p 8080:80 -p 8080:80/udp")
    both_echoed(world.lab.remote, lab.HOST4, 8080)
    with Echo(world.lab.remote, lab.REMOTE4) as echo:
        out = world.user(f"podman exec box sh -c '{inside('TCP', lab.REMOTE4, echo.port)}'").out
    equal(out, f"{lab.HOST4} question", "what the remote host answered")


def _rootlesskit_outwards(world, options):
    for _, host, remote, _ in FAMILIES[:1]:
        with Echo(world.lab.remote, remote) as echo:
            out = rootlesskit(world, options, f"{inside('TCP', remote, echo.port)}; echo; "
                                              f"{inside_udp(remote, echo.port)}").out
        contains(out, f"{host} question\n{host} question", f"what {remote} answered")


def _rootlesskit_ports(world, options, port, udp_from_loopback=True):
    server = world.start(f"rootlesskit {options} --copy-up=/etc --copy-up=/run --disable-host-loopback "
                         f"sh /tmp/serve/all {port}")
    try:
        world.wait_listening(port)
        lab.wait_until(lambda: f":{port} " in world.root("ss -Hltn").out and f":{port} " in world.root("ss -Hlun").out,
                       5, f"a listener outside at port {port}")
        tcp_echoed(world.lab.host, "127.0.0.1", port)
        if udp_from_loopback:
            udp_echoed(world.lab.host, "127.0.0.1", port)
        both_echoed(world.lab.remote, lab.HOST4, port)
    finally:
        for pid in world.processes("rootlesskit"):
            os.kill(pid, signal.SIGTERM)
        lab.wait_until(lambda: not world.processes("rootlesskit"), 5, "the end of rootlesskit")
        world.lab.end(server)
    lab.wait_until(lambda: not world.translators(), 5, "the end of the translator")
