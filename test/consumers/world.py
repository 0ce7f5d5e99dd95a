"""A Debian system of its own on the laboratory's `host`, in which an ordinary user's containers run.

Its files are those that debian-root.sh made, under an overlay that is gone with the world; its processes have their own
process ids, and `catatonit` reaps those that nobody waits for. The program under test is /usr/local/bin/pasta there,
through a script that records the command line it is started with.
"""

import os
import re
import shlex
import shutil
import subprocess
import threading

import debian_root
import lab

IMAGE = "localhost/consumers:latest"
UID = 1000


class World:
    """`pasta` is the program under that name: a path outside, or one inside with inside=True; so is `slirp4netns`."""

    def __init__(self, laboratory, cache, pasta, slirp4netns, inside=False):
        self.lab, self.cache = laboratory, cache
        self.transcript, self.background, self.started = [], None, None
        self.shared = self.lab.file("argv")
        with open(self.lab.file("root"), "wb+") as log:
            self.holder = self.lab.popen(
                ["ip", "netns", "exec", os.path.basename(laboratory.host.path), "unshare", "--mount", "--pid", "--fork",
                 "--ipc", "--uts", "--kill-child", "sh", "-euc", START, "sh", f"{cache}/root", self.shared],
                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log)
            if lab.read_line(self.holder.stdout, 20) != "ready\n":
                log.seek(0)
                raise RuntimeError(f"the system in {cache}/root did not start: {log.read().decode()}")
        self.pid = lab.wait_until(self._init, 5, "the first process")
        self._install("pasta", pasta, inside)
        self._install("slirp4netns", slirp4netns, inside)
        self.write("/home/user/.config/containers/containers.conf", CONTAINERS_CONF)
        self.write("/home/user/.config/containers/storage.conf", '[storage]\ndriver = "vfs"\n')
        for name, text in SERVERS.items():
            self.write(f"/tmp/serve/{name}", text, 0o755)
        self.copy(f"{cache}/image.tar", "/tmp/image.tar")
        self.user(f"podman import /tmp/image.tar {IMAGE}", timeout=120)
        self.transcript.clear()

    def _init(self):
        return next((pid for pid in lab.descendants(self.holder.pid) if lab.comm(pid) == "catatonit"), None)

    def _install(self, name, program, inside):
        if not inside:
            self.copy(program, f"/usr/local/lib/consumers/{name}", 0o755)
            program = f"/usr/local/lib/consumers/{name}"
        self.write(f"/usr/local/bin/{name}", RECORDER.format(name=name, program=program), 0o755)

    # Files

    def path(self, inside):
        return f"/proc/{self.pid}/root{inside}"

    def write(self, path, text, mode=0o644):
        """Directories that are missing below the user's home are the user's."""
        missing = os.path.dirname(path)
        self.root(f"mkdir -p {missing}; case {missing} in /home/user/*) chown -R {UID}:{UID} /home/user;; esac")
        with open(self.path(path), "w", encoding="utf-8") as file:
            file.write(text)
        os.chmod(self.path(path), mode)

    def copy(self, source, path, mode=0o644):
        self.root(f"mkdir -p {os.path.dirname(path)}")
        shutil.copyfile(source, self.path(path))
        os.chmod(self.path(path), mode)

    def read(self, path):
        with open(self.path(path), encoding="utf-8", errors="replace") as file:
            return file.read()

    # Commands

    def user(self, script, **more):
        """Runs a shell script as the ordinary user to its end; what it says on both streams is in `.out`."""
        return self._run(self.argv(script), script, **more)

    def root(self, script, **more):
        return self._run(self._enter("sh", "-c", script), script, **more)

    def start(self, script):
        """Runs a shell script as the ordinary user in the background; it ends with the check."""
        self.transcript.append(f"& {script}\n")
        self.background = self.lab.file("background")
        with open(self.background, "wb") as out:
            self.started = self.lab.popen(self.argv(script), stdin=subprocess.PIPE, stdout=out, stderr=out)
        return self.started

    def argv(self, script):
        environment = [f"{key}={value}" for key, value in ENVIRONMENT.items()]
        return self._enter("setpriv", f"--reuid={UID}", f"--regid={UID}", "--init-groups", "env", "-i", "-C",
                           "/home/user", *environment, "bash", "-c", script)

    def _enter(self, *argv):
        return ["nsenter", f"--target={self.pid}", "--mount", "--pid", "--net", "--ipc", "--uts", "--", *argv]

    def _run(self, argv, script, timeout=60, check=True, **more):
        more.setdefault("stdin", subprocess.DEVNULL)
        if "input" in more:
            del more["stdin"]
        # `timeout` inside ends all the script has started, and a file cannot be held open by what it leaves behind on
        # purpose; Podman itself waits for the end of its pasta's streams, which is to be seen.
        at = argv.index("--") + 1
        argv = argv[:at] + ["timeout", "-k", "5", str(timeout)] + argv[at:]
        with open(self.lab.file("out"), "w+b") as out:
            status = subprocess.run(argv, stdout=out, stderr=subprocess.STDOUT, timeout=timeout + 10, check=False,
                                    **more).returncode
            out.seek(0)
            text = out.read().decode(errors="replace")
        self.transcript.append(f"$ {script}\n{text}" + (f"(status {status})\n" if status else ""))
        if check and status != 0:
            raise Failure(f"`{script}` ended with status {status}" + (", its time being over" if status == 124 else ""))
        return Done(status, text)

    # What is asked of it

    def processes(self, name):
        """Process ids, as seen from outside, of the world's processes of this name that still run."""
        found = lab.descendants(self.holder.pid)
        if self.started and self.started.poll() is None:
            found |= lab.descendants(self.started.pid)
        return [pid for pid in found if lab.comm(pid).split(".")[0] == name and not _ended(pid)]

    def translators(self):
        return [pid for name in ("pasta", "passt", "spelt", "slirp4netns") for pid in self.processes(name)]

    def wait_listening(self, port, kind="tcp", timeout=10):
        """Until some socat has a socket at this port."""
        lab.wait_until(lambda: any(_bound(pid, kind, port) for pid in self.processes("socat")), timeout,
                       f"a server at {kind} port {port}")

    def recorded(self):
        """The command lines the programs were started with since the last call."""
        with open(self.shared, "r+", encoding="utf-8") as file:
            lines = file.read().splitlines()
            file.truncate(0)
        return [shlex.split(line) for line in lines]

    def clean(self):
        """Leaves no container, and takes the transcript."""
        self.user("podman rm -fa -t 0; podman network prune -f", timeout=60, check=False)
        text = "".join(self.transcript)
        self.transcript.clear()
        if self.background:
            with open(self.background, encoding="utf-8", errors="replace") as file:
                text += "in the background:\n" + file.read()
            self.background = None
        return text

    def close(self):
        self.lab.end(self.holder)


class Failure(Exception):
    """What a check expected did not happen."""


class Done:
    def __init__(self, status, out):
        self.status, self.out = status, out


class Echo:
    """Answers every TCP connection and UDP datagram at an address with the sender's address and what was sent."""

    def __init__(self, where, address, port=0):
        self.tcp = where.listen(address, port)
        self.port = self.tcp.getsockname()[1]
        self.udp = where.bind(address, self.port)
        for one, serve in ((self.tcp, self._serve_tcp), (self.udp, self._serve_udp)):
            one.settimeout(None)
            threading.Thread(target=serve, daemon=True).start()

    def _serve_tcp(self):
        while True:
            try:
                client, peer = self.tcp.accept()
            except OSError:
                return
            threading.Thread(target=_answer, args=(client, peer), daemon=True).start()

    def _serve_udp(self):
        while True:
            try:
                data, peer = self.udp.recvfrom(65536)
            except OSError:
                return
            if not data:
                return
            self.udp.sendto(peer[0].encode() + b" " + data, peer)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for one in (self.tcp, self.udp):
            try:
                one.shutdown(2)
            except OSError:
                pass
            one.close()


def _answer(client, peer):
    with client:
        client.settimeout(20)
        try:
            client.sendall(peer[0].encode() + b" ")
            while data := client.recv(1 << 16):
                client.sendall(data)
        except OSError:
            pass


def _ended(pid):
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            return file.read().rsplit(")", 1)[1].split()[0] in "ZX"
    except OSError:
        return True


def _bound(pid, kind, port):
    for name in (kind, kind + "6"):
        try:
            with open(f"/proc/{pid}/net/{name}", encoding="ascii") as file:
                if re.search(rf":{port:04X} [0-9A-F]+:0000 ", file.read()):
                    return True
        except OSError:
            pass
    return False


ENVIRONMENT = {
    "HOME": "/home/user", "USER": "user", "LC_ALL": "C.UTF-8", "XDG_RUNTIME_DIR": f"/run/user/{UID}",
    "PATH": "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin", "IMAGE": IMAGE,
}

# There is nobody who could give the user a part of the cgroup tree.
CONTAINERS_CONF = """
[containers]
cgroups = "disabled"
log_driver = "k8s-file"
[engine]
cgroup_manager = "cgroupfs"
events_logger = "file"
"""

# What answers inside, as Echo does outside: `all PORT...`. socat would take quotes in a command for its own.
SERVERS = {
    "tcp": '#!/bin/sh\nprintf "%s " "$SOCAT_PEERADDR"\nexec cat\n',
    "udp": '#!/bin/sh\nprintf "%s %s" "$SOCAT_PEERADDR" "$(cat)"\n',
    "all": """#!/bin/sh
for port; do
    socat -t 30 TCP6-LISTEN:$port,ipv6only=0,reuseaddr,fork,backlog=128 EXEC:/tmp/serve/tcp &
    socat UDP6-RECVFROM:$port,ipv6only=0,fork EXEC:/tmp/serve/udp &
done
wait
""",
}

RECORDER = """#!/bin/bash
echo "{name} ${{*@Q}}" >>/run/consumers/argv
exec {program} "$@"
"""

START = debian_root.script(r"""
argv=$2
mount -t cgroup2 none sys/fs/cgroup
mount -t tmpfs -o mode=700,uid=1000,gid=1000 none home/user
mkdir -p run/user/1000 run/consumers run/lock
chown 1000:1000 run/user/1000
chmod 700 run/user/1000
touch run/consumers/argv
chmod 666 "$argv"
mount --bind "$argv" run/consumers/argv
hostname consumers
""", r"""
echo ready
exec chroot / /usr/bin/catatonit -P </dev/null >/dev/null 2>&1
""")
