"""A Debian system of its own on the laboratory's `host`, to install in; all that is changed is gone with it."""

import atexit
import os
import shutil
import subprocess
import tempfile

import debian_root
import lab

UID = 1000
USER = {"HOME": "/home/user", "USER": "user", "LC_ALL": "C.UTF-8", "XDG_RUNTIME_DIR": f"/run/user/{UID}",
        "PATH": "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"}
ROOT = {"HOME": "/root", "LC_ALL": "C.UTF-8", "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "DEBIAN_FRONTEND": "noninteractive"}


class World:
    """`systemd`: the first process is systemd, instead of one that only waits for others' ends."""

    def __init__(self, laboratory, root, packages, systemd=False):
        self.lab, self.init = laboratory, "systemd" if systemd else "catatonit"
        self.settings = {name: _setting(name) for name in SETTINGS}
        self.cgroup = tempfile.mkdtemp(prefix="spelt-package-", dir=_cgroups())
        os.chmod(self.cgroup, 0o755)
        with open(self.lab.file("root"), "wb+") as log:
            self.holder = self.lab.popen(
                ["sh", "-euc", JOIN, "sh", self.cgroup, "ip", "netns", "exec", os.path.basename(laboratory.host.path),
                 "unshare", "--mount", "--pid", "--fork", "--ipc", "--uts", "--cgroup", "--kill-child", "sh", "-euc", START,
                 "sh", root, self.init],
                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log)
            atexit.register(self.close)
            if lab.read_line(self.holder.stdout, 20) != "ready\n":
                self.close()
                log.seek(0)
                raise RuntimeError(f"the system in {root} did not start: {log.read().decode()}")
        self.pid = lab.wait_until(self._init, 5, "the first process")
        for name in os.listdir(packages):
            # Without the version, which is that of the day.
            self.copy(os.path.join(packages, name), f"/packages/{name.split('_')[0]}.deb")
        self.root("for file in /packages/*_*.deb; do mv $file ${file%%_*}.deb; done")
        # Manual pages are what the packages have to show.
        self.root("sed -i /path-exclude/d /etc/apt/apt.conf.d/90root")

    def _init(self):
        return next((pid for pid in lab.descendants(self.holder.pid) if lab.comm(pid) == self.init), None)

    def path(self, inside):
        return f"/proc/{self.pid}/root{inside}"

    def copy(self, source, path, mode=0o644):
        shutil.copyfile(source, self.path(path))
        os.chmod(self.path(path), mode)

    def write(self, path, text):
        with open(self.path(path), "w", encoding="utf-8") as file:
            file.write(text)

    def read(self, path):
        with open(self.path(path), encoding="utf-8", errors="replace") as file:
            return file.read()

    def root(self, script, **more):
        """Runs a shell script as root to its end, and returns what it said on both streams."""
        return self._run(["env", "-i", "-C", "/", *_environment(ROOT), "bash", "-euc", script], script, **more)

    def user(self, script, **more):
        return self._run(["setpriv", f"--reuid={UID}", f"--regid={UID}", "--init-groups", "env", "-i", "-C", USER["HOME"],
                          *_environment(USER), "bash", "-euc", script], script, **more)

    def _run(self, argv, script, timeout=120, status=0):
        enter = ["nsenter", f"--target={self.pid}", "--mount", "--pid", "--net", "--ipc", "--uts", "--cgroup", "--",
                 "timeout", "-k", "5", str(timeout), *argv]
        # A file: what a script leaves running must not hold us up.
        with open(self.lab.file("out"), "w+b") as out:
            done = subprocess.run(enter, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT, timeout=timeout + 10,
                                  check=False)
            out.seek(0)
            text = out.read().decode(errors="replace")
        if done.returncode != status:
            raise AssertionError(f"`{script}` ended with status {done.returncode}, not {status}:\n{text}")
        return text

    def files(self):
        """Each file, directory and link of the system, with what a link leads to. Of what package managers note for themselves
        only the alternatives."""
        here = self.root("find / -xdev \\( -path /packages -o -path /tmp -o -path /run -o -path /proc -o -path /dev"
                         " -o -path /sys"
                         " -o -path '/var/cache/*' -o -path '/var/log/*' -o -path '/var/lib/apt/*'"
                         " -o -path '/var/lib/dpkg/[!a]*' -o -path /var/lib/dpkg/available -o -path '/var/lib/systemd/*'"
                         " \\) -prune -o -printf '%p %y %m %l\\n'")
        return set(here.splitlines())

    def close(self):
        atexit.unregister(self.close)
        self.lab.end(self.holder)
        for name, value in self.settings.items():
            if _setting(name) != value:
                _setting(name, value)
        for directory, _, _ in os.walk(self.cgroup, topdown=False):
            lab.wait_until(lambda directory=directory: _removed(directory), 10, f"the end of what runs in {directory}")


def _cgroups():
    """Where this machine has cgroups of version 2."""
    with open("/proc/mounts", encoding="utf-8") as file:
        return next(line.split()[1] for line in file if line.split()[2] == "cgroup2")


def _setting(name, value=None):
    path = f"/proc/sys/{name}"
    if value is None:
        with open(path, encoding="ascii") as file:
            return file.read()
    with open(path, "w", encoding="ascii") as file:
        return file.write(value)


def _removed(cgroup):
    try:
        os.rmdir(cgroup)
    except OSError:
        return False
    return True


def _environment(values):
    return [f"{key}={value}" for key, value in values.items()]


# Of the whole machine, which systemd changes at its start.
SETTINGS = ("fs/file-max", "fs/nr_open")

# systemd is to have no other cgroups than those below.
JOIN = """
echo 0 >"$1/cgroup.procs"
shift
exec "$@"
"""

START = debian_root.script(r"""
init=$2
mount -t cgroup2 none sys/fs/cgroup
mkdir -p run/user/1000 run/lock
chown 1000:1000 run/user/1000
chmod 700 run/user/1000
hostname package
mkdir -p etc/containers
printf '[storage]\ndriver = "vfs"\n' >etc/containers/storage.conf
for unit in systemd-sysctl systemd-modules-load systemd-binfmt; do
    ln -s /dev/null "etc/systemd/system/$unit.service"
done
""", r"""
echo ready
exec </dev/null >/dev/null
case "$init" in
systemd)
    umount -l /dev/pts
    exec env -i container=oci /usr/sbin/chroot / /lib/systemd/systemd systemd.unit=basic.target 2>/dev/null
    ;;
*) exec chroot / /usr/bin/catatonit -P 2>/dev/null ;;
esac
""")
