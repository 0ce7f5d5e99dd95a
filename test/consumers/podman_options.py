"""Options for pasta that users give to Podman."""

import json

import lab
from checks import FAMILIES, both_echoed, check, contains, equal, expect, inside, inside_udp, refused, serve, tcp_echoed
from world import Echo


# Ports that the kernel chooses for clients are left alone by `auto`; the laboratory has those from 10000 on.
BELOW_EPHEMERAL = 8066


def addresses(world, options):
    """What `ip -json addr` says in a container with these options for pasta."""
    out = world.user(f"podman run --rm --network=pasta:{options} $IMAGE ip -json addr").out
    return json.loads(next(line for line in out.splitlines() if line.startswith("[")))


def link(world, options, name="eth0"):
    return next(one for one in addresses(world, options) if one["ifname"] == name)


def globals_of(one):
    return {(found["local"], found["prefixlen"]) for found in one["addr_info"] if found["scope"] == "global"}


@check("pasta:-m, --mtu")
def mtu(world):
    equal(link(world, "-m,1280")["mtu"], 1280, "the MTU")
    equal(link(world, "--mtu,9000")["mtu"], 9000, "the MTU")


@check("pasta:-a, -n, -g for both families")
def assigned(world):
    one = link(world, "-a,198.51.100.5,-n,24,-g,198.51.100.1,-a,2001:db8:9::5,-g,fe80::1")
    equal(globals_of(one), {("198.51.100.5", 24), ("2001:db8:9::5", 64)}, "the addresses")


@check("pasta:-I, --ns-mac-addr")
def interface(world):
    one = link(world, "-I,outside0,--ns-mac-addr,9a:dd:31:ea:92:98", "outside0")
    equal(one["address"], "9a:dd:31:ea:92:98", "the hardware address")


@check("pasta:-4 and pasta:-6")
def one_family(world):
    equal(globals_of(link(world, "-4")), {(lab.HOST4, 24)}, "the addresses with -4")
    equal(globals_of(link(world, "-6")), {(lab.HOST6, 64)}, "the addresses with -6")


@check("pasta:-i takes the addresses of the named interface")
def template(world):
    equal(globals_of(link(world, "-i,eth0")), {(lab.HOST4, 24), (lab.HOST6, 64)}, "the addresses")


@check("pasta:--map-gw, the host's loopback by the gateway's address")
def map_gw(world):
    for (_, _, _, loopback), gateway in zip(FAMILIES, (lab.GATEWAY4, lab.GATEWAY6)):
        with Echo(world.lab.host, loopback) as echo:
            out = world.user(f"podman run --rm --network=pasta:--map-gw $IMAGE sh -c "
                             f"'{inside('TCP', gateway, echo.port)}; echo; {inside_udp(gateway, echo.port)}'").out
        equal(out, f"{loopback} question\n{loopback} question", f"what {loopback} answered")


@check("pasta:--map-host-loopback")
def map_host_loopback(world):
    with Echo(world.lab.host, "127.0.0.1") as echo:
        out = world.user(f"podman run --rm --network=pasta:--map-host-loopback,11.11.11.11 $IMAGE sh -c "
                         f"'{inside('TCP', '11.11.11.11', echo.port)}'").out
    contains(out, " question", "what 127.0.0.1 answered")


@check("pasta:-T, -U, the host's loopback by the container's")
def outwards_over_loopback(world):
    for _, _, _, loopback in FAMILIES:
        with Echo(world.lab.host, loopback) as echo:
            out = world.user(f"podman run --rm --network=pasta:-T,{echo.port},-U,{echo.port} $IMAGE sh -c "
                             f"'{inside('TCP', loopback, echo.port)}; echo; {inside_udp(loopback, echo.port)}'").out
        equal(out.count(" question"), 2, f"answers of {loopback}")


@check("pasta:-T with another port inside")
def outwards_translated(world):
    with Echo(world.lab.host, "127.0.0.1") as echo:
        out = world.user(f"podman run --rm --network=pasta:-T,5000:{echo.port} $IMAGE sh -c "
                         f"'{inside('TCP', '127.0.0.1', 5000)}'").out
    contains(out, " question", "what 127.0.0.1 answered")


@check("pasta:-T,auto: a port that the host begins to serve")
def outwards_auto(world):
    serve(world, "--network=pasta:-T,auto,-U,auto")
    with Echo(world.lab.host, "127.0.0.1", BELOW_EPHEMERAL) as echo:
        def answered():
            ask = f"{inside('TCP', '127.0.0.1', echo.port)}; {inside_udp('127.0.0.1', echo.port)}"
            return world.user(f"podman exec box sh -c '{ask}'", check=False).out.count(" question") == 2
        lab.wait_until(answered, 5, "an answer")


@check("pasta:-t,auto,-u,auto: a port that the container begins to serve")
def inwards_auto(world):
    serve(world, "--network=pasta:-t,auto,-u,auto", ports=(8070,))
    lab.wait_until(lambda: _listening(world, 8070), 3, "the listener on port 8070")
    for _, host, _, loopback in FAMILIES:
        both_echoed(world.lab.host, loopback, 8070)
        both_echoed(world.lab.remote, host, 8070)


def _listening(world, port):
    return f":{port} " in world.root("ss -Hltn").out and f":{port} " in world.root("ss -Hlun").out


@check("pasta:-t,all,-u,all")
def inwards_all(world):
    # A small limit on open files leaves out the high ports.
    serve(world, "--network=pasta:-t,all,-u,all", ports=(2070,))
    for _, host, _, loopback in FAMILIES:
        both_echoed(world.lab.host, loopback, 2070)
        both_echoed(world.lab.remote, host, 2070)


@check("pasta:-t with an exclusion: all but one")
def exclusions(world):
    serve(world, "--network=pasta:-t,~8072", ports=(8070, 8072))
    tcp_echoed(world.lab.host, "127.0.0.1", 8070)
    refused(world.lab.host, "127.0.0.1", 8072)


@check("pasta:--tcp-ports ADDRESS%INTERFACE/PORT:PORT")
def bound_to_interface(world):
    serve(world, f"--network=pasta:--tcp-ports,{lab.HOST4}%eth0/8080:80,-u,%eth0/8080:80")
    both_echoed(world.lab.remote, lab.HOST4, 8080)
    refused(world.lab.host, "127.0.0.1", 8080)


@check("pasta:--dns-forward, the last one of a family wins")
def dns_forward(world):
    with lab.Dns(world.lab.host, lab.HOST4):
        world.write("/etc/resolv.conf", f"nameserver {lab.HOST4}\n")
        try:
            out = world.user("podman run --rm --network=pasta:--dns-forward,198.51.100.9,--dns-forward,198.51.100.1 "
                             "$IMAGE sh -c 'cat /etc/resolv.conf; nslookup name.test 198.51.100.1'").out
        finally:
            world.write("/etc/resolv.conf", f"nameserver {lab.REMOTE4}\n")
    contains(out, "nameserver 198.51.100.1", "/etc/resolv.conf")
    contains(out, "192.0.2.80", "the answer")


@check("pasta:--pid")
def pid_file(world):
    world.user("podman run -d --name box --network=pasta:--pid,/tmp/pasta.pid $IMAGE sleep 60")
    text = world.read("/tmp/pasta.pid")
    expect(text.strip().isdigit(), f"the file has {text!r}")
    world.user(f"kill -0 {text.strip()} && grep -q pasta /proc/{text.strip()}/cmdline")
    world.root("rm /tmp/pasta.pid")


@check("pasta:--log-file, --pcap")
def files(world):
    world.user(f"podman run --rm --network=pasta:--log-file,/tmp/user.log,--pcap,/tmp/user.pcap $IMAGE "
               f"ping -c 1 -W 3 {lab.REMOTE4}; ls -l /tmp/user.log && test -s /tmp/user.pcap; rm -f /tmp/user.*")


@check("pasta:UNKNOWN is refused, and the reason shown")
def unknown(world):
    done = world.user("podman run --rm --network=pasta:--no-such-option $IMAGE true", check=False)
    expect(done.status != 0, "the container started")
    contains(done.out, "unrecognized option '--no-such-option'", "the message")


@check("containers.conf: pasta_options, and the command line wins")
def configured(world):
    path = "/home/user/.config/containers/containers.conf"
    before = world.read(path)
    world.write(path, before + '[network]\npasta_options = ["-m", "1400", "-I", "conf0", "--map-gw"]\n')
    try:
        one = next(one for one in addresses(world, "-m,1300") if one["ifname"] == "conf0")
        equal(one["mtu"], 1300, "the MTU")
    finally:
        world.write(path, before)
