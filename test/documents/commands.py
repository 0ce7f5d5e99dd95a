"""How each command of README.md is run, and what is asserted. A command that is not here fails."""

import json
import os
import re
import shutil
import subprocess

import blocks
from fake_engine import FakeEngine
import lab
import world

TABLE = {}


def check(place, command):
    assert command in TABLE, f"README.md has the command `{command}`, and commands.py does not say how to run it"
    TABLE[command](place, command)


def check_table():
    known = set(blocks.commands("README.md"))
    assert known and known == set(TABLE), f"not in README.md: {set(TABLE) - known}"


def runs(*commands):
    def add(function):
        for command in commands:
            assert command not in TABLE, command
            TABLE[command] = function
        return function
    return add


@runs("cargo build --release && ./target/release/spelt run")
def build_and_run(place, command):
    """The build is what test/run has done before; the shell reads what a person would type."""
    build, start = command.split(" && ")
    done = [line.split() for line in blocks.read("test/run").splitlines()]
    assert any(set(build.split()) <= set(words) for words in done), f"test/run does not `{build}`"
    out, _ = place.call(start, status=7, input=b"ip addr; ip route; ip -6 route; cat /etc/resolv.conf; exit 7\n")
    for part in (f"{lab.HOST4}/24", f"{lab.HOST6}/64", f"default via {lab.GATEWAY4}", f"default via {lab.GATEWAY6}",
                 f"nameserver {lab.REMOTE4}"):
        assert part in out, f"no {part!r} in {out}"


@runs("spelt doctor")
def doctor(place, command):
    out, _ = place.call(command)
    assert "ok       isolation of spelt" in out and "missing" not in out, out


@runs("spelt run -- curl https://example.org/")
def curl(place, command):
    out, _ = place.call(command)
    assert out.encode() == world.BODY, out


@runs("contrib/install.sh")
def install(place, command):
    """In a home of its own: the program is in the PATH of all the others already."""
    for directory in ("contrib", "doc/man"):
        shutil.copytree(os.path.join(lab.ROOT, directory), os.path.join(place.home, directory), dirs_exist_ok=True)
    place.call(f"mkdir own && HOME=$PWD/own {command}")
    out, _ = place.call("own/.local/bin/spelt --version")
    assert out.startswith("spelt "), out
    assert "installed" in place.call("ls own/.local/share/spelt")[0]


@runs("spelt run -t 8080:80 -- python3 -m http.server --bind :: 80")
def web_server(place, command):
    with place.running(command):
        assert b"Directory listing" in place.page(place.lab.remote, lab.HOST4, 8080)
        for address in ("127.0.0.1", "::1"):
            assert b"Directory listing" in place.page(place.lab.host, address, 8080)


@runs("spelt run -4 --no-map-gw -- ./untrusted-program")
def untrusted(place, command):
    """It looks for IPv6 and for a service of the host's loopback, which it finds if it may."""
    program = os.path.join(place.home, "untrusted-program")
    with open(program, "w", encoding="ascii") as file:
        file.write(f"#!/bin/sh\nip addr\ncurl -s -m 2 http://{lab.GATEWAY4}:8082/\ncurl -s https://example.org/\n")
    os.chmod(program, 0o755)
    place.serve(place.lab.host, "127.0.0.1", 8082)
    trusted, _ = place.call("spelt run -- ./untrusted-program")
    assert trusted.encode().count(world.BODY) == 2 and lab.HOST6 in trusted, trusted
    out, _ = place.call(command)
    assert out.encode().count(world.BODY) == 1 and lab.HOST4 in out and lab.HOST6 not in out, out


VM = "spelt vm -t 2222:22 --socket /tmp/vm.socket"


@runs(VM)
def machine(place, command):
    """Until the next command, which is QEMU's."""
    command = elsewhere(place, command)
    _, err = place.call(command)
    assert "-netdev stream" in err and place.socket in err, err
    assert place.modes() == ["vm"]
    with place.lab.remote.connect(lab.HOST4, 2222):
        pass


@runs("qemu-system-x86_64 -m 1G -drive file=disk.img,format=raw -device virtio-net-pci,netdev=net "
      "-netdev stream,id=net,server=off,addr.type=unix,addr.path=/tmp/vm.socket")
def qemu(place, command):
    """Without a screen, and with an empty disk: the firmware then asks for a lease, which is traffic both ways."""
    with open(os.path.join(place.home, "disk.img"), "wb") as disk:
        disk.truncate(1 << 20)
    os.chown(disk.name, lab.USER, lab.USER)

    def exchanged():
        stats = json.loads(place.call("spelt ctl --json stats")[0])
        return stats["frames_from_guest"] and stats["frames_to_guest"]
    with place.running(elsewhere(place, command) + " -display none"):
        lab.wait_until(exchanged, 15, "traffic with the machine")
    place.call("spelt ctl quit")
    lab.wait_until(lambda: not place.modes(), 5, "the end of spelt")


def elsewhere(place, command):
    """/tmp is the whole machine's."""
    place.socket = os.path.join(place.home, "vm.socket")
    assert "/tmp/vm.socket" in command
    return command.replace("/tmp/vm.socket", place.socket)


@runs("contrib/install.sh --links=pasta")
def link(place, command):
    place.call(command)
    out, _ = place.call("PATH=~/.local/bin:$PATH pasta --version")
    assert out.startswith("pasta ") and "This is spelt" in out, out


@runs("podman run --rm -p 8080:80 docker.io/library/nginx")
def podman(place, command):
    """Podman is too much to install here: test/consumers runs it. What it starts for this is run, with the link of before."""
    port = re.search(r"-p (\d+):(\d+)", command)
    ports = "{0}-{0}:{1}-{1}".format(*port.groups())
    with place.lab.empty_guest() as guest, guest.listen("0.0.0.0", int(port[2])) as listener:
        # In Podman's user namespace, where the network namespace has only a name.
        enter = f"nsenter --preserve-credentials --user=/proc/{guest.pid}/ns/user"
        out, err = place.call(
            f"{enter} ~/.local/bin/pasta --config-net -t {ports} --dns-forward 169.254.1.1 -u none -T none -U none --no-map-gw --quiet "
            f"--netns /proc/{guest.pid}/ns/net --map-guest-addr 169.254.1.2")
        assert (out, err) == ("", ""), (out, err)
        reached(place, listener, int(port[1]))


@runs("docker network create --ipv6 --subnet 2001:db8:1:0:ff::/112 -o com.docker.network.bridge.gateway_mode_ipv6=routed public")
def network(_, command):
    """There is no Docker here. What it makes is of the name that the next command is told."""
    assert command.split()[-1] == NETWORK


NETWORK = "public"


@runs(f'sudo "$(command -v spelt)" respond -i eth0 --docker-network {NETWORK}')
def respond(place, command):
    """As root already, and with somebody who plays Docker."""
    engine = FakeEngine(place.lab.file("engine"), "2001:db8:1:0:ff::5", name=NETWORK)
    control, log = place.lab.file("respond") + ".socket", place.lab.file("log")
    options = command.partition(" respond ")[2].split()
    argv = [place.lab.program.path, "respond", *options, "--engine-socket", engine.path, "--control", control]
    with open(log, "wb") as out:
        process = place.lab.popen(place.lab.as_root(argv), stdin=subprocess.DEVNULL, stdout=out, stderr=out)

    def containers():
        done = place.lab.call([place.lab.program.path, "ctl", "-i", control, "--json", "stats"], check=False)
        return done.returncode == 0 and json.loads(done.stdout)["containers"]
    try:
        assert lab.wait_until(containers, 5, "the container") == 1
    finally:
        place.lab.end(process)
        engine.close()


@runs("spelt attach -t 8080:80 1234")
def attach(place, command):
    with place.lab.empty_guest() as guest:
        place.call(command.replace("1234", str(guest.pid)))
        with guest.listen("0.0.0.0", 80) as listener:
            reached(place, listener, 8080)


def reached(place, listener, port):
    """A client from afar, who is seen as who he is."""
    with place.lab.remote.connect(lab.HOST4, port) as client:
        served, (source, _) = listener.accept()
        with served:
            served.sendall(b"hello")
            assert client.recv(5) == b"hello"
        # The router's own addresses are the gateway's too, which is the first.
        assert source in (lab.GATEWAY4, lab.REMOTE4), source


@runs("spelt list")
def listed(place, command):
    with place.instance():
        assert re.search(r"^ *\d+ +run ", place.call(command)[0], re.MULTILINE)


@runs("spelt ctl stats")
def stats(place, command):
    with place.instance():
        assert "from the guest" in place.call(command)[0]


@runs("spelt ctl flows")
def flows(place, command):
    with place.instance("spelt run -- sh -c 'curl -s https://example.org/; exec cat'"):
        lab.wait_until(lambda: f"{lab.REMOTE4}:53" in place.call(command)[0], 5, "a flow to the name server")


@runs("spelt ctl forward add -t 8081:81")
def forward(place, command):
    with place.instance("spelt run -- python3 -m http.server 81"):
        assert "8081:81" in place.call(command)[0]
        assert b"Directory listing" in place.page(place.lab.remote, lab.HOST4, 8081)


@runs("spelt ctl quit")
def quit_it(place, command):
    with place.instance() as process:
        place.call(command)
        process.wait(5)


@runs('sudo -E env "PATH=$PATH" test/run --install')
def everything(_, command):
    """That is what is running. What CI starts has the same words."""
    words = command.removeprefix("sudo -E ").replace('"', "")
    assert words in blocks.read(".ci/run").replace('"', ""), words
    assert "--install)" in blocks.read("test/run")
