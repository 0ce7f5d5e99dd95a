"""The AppArmor profile and the SELinux module of contrib/: their own tools accept them, and the profile allows what the program
is seen to do."""

import contextlib
import glob
import itertools
import os
import re
import shutil
import socket
import subprocess
import time

import lab
from support import Case, limit

CONTRIB = os.path.join(os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))), "contrib")
PROFILE = os.path.join(CONTRIB, "apparmor", "spelt")
# What a kernel can enforce is asked of it; this one may know none of it.
FEATURES = "/etc/apparmor.d/abi/3.0"
MAKEFILE = "/usr/share/selinux/devel/Makefile"

MOUNT_FLAGS = {"MS_RDONLY": "ro", "MS_NOSUID": "nosuid", "MS_NODEV": "nodev", "MS_NOEXEC": "noexec", "MS_BIND": "bind"}
CALL = re.compile(r"(\d+) +(\w+)\((.*)\) += (-?\d+)(?:<(.*)>)?(?: (E[A-Z]+) .*)?$")
BEGUN = re.compile(r"(\d+) +(.*) <unfinished \.\.\.>$")
ENDED = re.compile(r"(\d+) +<\.\.\. \w+ resumed>(.*)$")


def regex(pattern):
    """Of a pattern of AppArmor's, variables replaced (apparmor.d(5), Globbing)."""
    out, depth = "", 0
    for token in re.findall(r"\*\*|\[[^]]*\]|\\.|.", pattern):
        depth += (token == "{") - (token == "}")
        if token == "," and depth:
            out += "|"
        else:
            known = {"**": ".*", "*": "[^/]*", "?": "[^/]", "{": "(?:", "}": ")"}
            out += known.get(token) or (token if token[0] in "[\\" else re.escape(token))
    return re.compile(out + "$")


class Profile:
    """What it allows, from what the parser makes of it: includes put in place."""

    def __init__(self):
        text = subprocess.run(["apparmor_parser", "-p", PROFILE], capture_output=True, text=True, check=True).stdout
        self.values, self.files, self.mounts, self.networks = {}, [], [], set()
        for line in text.splitlines():
            line = line.partition("#")[0].strip()
            if found := re.match(r"(@\{\w+\})\s*(\+?)=\s*(.*)$", line):
                name, more, values = found.groups()
                self.values[name] = (self.values.get(name, []) if more else []) + values.replace('"', "").split()
            elif line.endswith(","):
                self.rule(line[:-1].split())

    def rule(self, words):
        if words[0] == "owner":
            del words[0]
        if words[0][0] in "/@" and len(words) == 2:
            self.files.append((self.patterns(words[0]), words[1]))
        elif words[0] == "mount":
            rule = re.match(r"mount( fstype=(\w+))?( options=\((.*?)\))?( (\S+))? -> (\S+)$", " ".join(words))
            self.mounts.append((rule[2], set(rule[4].split(", ")), self.patterns(rule[7])))
        elif words[0] == "network":
            self.networks.add((f"AF_{words[1].upper()}", f"SOCK_{words[2].upper()}"))
        elif words[0] == "unix" and words[1].startswith("type="):
            self.networks.add(("AF_UNIX", f"SOCK_{words[1][5:].upper()}"))

    def patterns(self, pattern):
        if variable := re.search(r"@\{\w+\}", pattern):
            before, after = pattern[:variable.start()], pattern[variable.end():]
            each = (self.patterns(before + value + after) for value in self.values[variable[0]])
            return list(itertools.chain.from_iterable(each))
        return [regex(re.sub("//+", "/", pattern))]

    def allows_file(self, path, access):
        given = {letter for patterns, letters in self.files if any(p.match(path) for p in patterns) for letter in letters}
        return set(access) <= given

    def allows_mount(self, kind, options, target):
        target = target.rstrip("/") + "/" if kind else target
        return any((kind, options) == rule[:2] and any(p.match(target) for p in rule[2]) for rule in self.mounts)


def calls(path):
    """Each call that was finished: process, name, arguments, result, what it is, error."""
    begun = {}
    with open(path, encoding="utf-8", errors="replace") as trace:
        for line in trace:
            line = line.rstrip()
            if found := BEGUN.match(line):
                begun[found[1]] = found[2]
                continue
            if found := ENDED.match(line):
                line = f"{found[1]} {begun.pop(found[1], '')}{found[2]}"
            if found := CALL.match(line):
                yield found.groups()


def access(flags):
    if "O_PATH" in flags:
        return ""
    return {"O_WRONLY": "w", "O_RDWR": "rw"}.get(flags.split("|")[0], "r")


def mount_options(flags):
    flags = set(flags.split("|"))
    for name in ("UNBINDABLE", "SLAVE"):
        if f"MS_{name}" in flags:
            return {"rw", "r" * ("MS_REC" in flags) + name.lower()}
    return {MOUNT_FLAGS[flag] for flag in flags} | (set() if "MS_RDONLY" in flags else {"rw"})


class Parsed(Case):
    """By the tools of their own."""

    def test_apparmor(self):
        done = self.lab.call(["apparmor_parser", "-Q", "-K", "--warn=all", "-M", FEATURES, PROFILE], check=False)
        self.assertEqual((done.returncode, done.stdout, done.stderr), (0, "", ""))

    def test_selinux(self):
        build = os.path.join(self.lab.dir, "policy")
        os.mkdir(build)
        for file in glob.glob(os.path.join(CONTRIB, "selinux", "spelt.*")):
            shutil.copy(file, build)
        done = self.lab.call(["make", "-C", build, "-f", MAKEFILE, "spelt.pp"], check=False)
        self.assertEqual((done.returncode, done.stderr), (0, ""), done.stdout)
        self.assertTrue(os.path.getsize(os.path.join(build, "spelt.pp")))


class Current(Case):
    """What the program does in each of its modes, by a tracer, the profile allows."""

    def trace(self, argv, user=None, seconds=0.0):
        """Runs the program to its end, or as long as this, and looks at what it did."""
        path, pid = self.lab.file("trace"), None
        calls_of_interest = "trace=%file,socket,connect,bind"
        # Not as the user: a program that cannot be traced by its own user cannot be looked at either.
        argv = ["strace", "-f", "-y", "-qq", "-o", path, "-e", calls_of_interest, *(user or self.lab.as_user)(argv)]
        process = self.lab.popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        if seconds:
            time.sleep(seconds)
            for pid in lab.descendants(process.pid):
                if lab.comm(pid) in ("spelt", "pasta", "passt", "slirp4netns"):
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, 15)
        errors = process.communicate(timeout=15)[1].decode()
        seen = list(calls(path))
        self.assertIn("pivot_root", {name for _, name, *_ in seen}, errors)
        self.check(seen)

    def check(self, seen):
        profile, known, ours, missing = Profile(), set(), set(), []
        for pid, name, arguments, result, what, error in seen:
            if pid not in known and ours:
                # Neither those before the program nor the command make processes.
                ours.add(pid)
            known.add(pid)
            if name == "execve" and result == "0":
                # Before the program there are those that bring it to its place, after it the command, with rights of its own.
                began, path = pid in ours, arguments.split('"')[1]
                (ours.add if path.startswith(self.lab.dir) else ours.discard)(pid)
                if began and not profile.allows_file(path, "x"):
                    missing.append(f"execve({arguments})")
            elif pid in ours:
                if not self.is_allowed(profile, name, arguments, int(result), what, error):
                    missing.append(f"{name}({arguments}) = {result} {what or error or ''}")
        self.assertTrue(ours)
        self.assertEqual(missing, [], f"{PROFILE} has no rules for them")

    def is_allowed(self, profile, name, arguments, result, what, error):
        paths = re.findall(r'"([^"]*)"', arguments)
        if name == "openat" and result >= 0:
            # By the name that the file has, not by that of a link. A namespace has none.
            flags = arguments.split(", ")[2]
            slash = "/" if "O_DIRECTORY" in flags else ""
            return what[0] != "/" or profile.allows_file(what + slash, access(flags))
        if name == "openat" and error == "ENOENT" and paths[0][0] == "/":
            path = paths[0].replace("/proc/self/", "/proc/1/")
            return profile.allows_file(path, access(arguments.split(", ")[2]))
        if name in ("bind", "connect") and "sun_path=\"" in arguments:
            return profile.allows_file(paths[-1].replace("/var/run/", "/run/"), "w")
        if name == "mount":
            source, target, kind, flags, _ = arguments.split(", ", 4)
            kind = None if kind == "NULL" else kind.strip('"')
            return profile.allows_mount(kind, mount_options(flags), target.strip('"'))
        if name == "socket":
            domain, kind, _ = arguments.split(", ")
            return (domain, kind.split("|")[0]) in profile.networks
        return True

    def called(self, name):
        return self.lab.install(self.lab.program.path, name)

    def path(self):
        path = self.lab.file("made")
        os.unlink(path)
        return path

    def test_run(self):
        more = ["-q", "-t", "auto", "-T", "6001", "-l", self.path(), "--pcap", self.path(), "--pid", self.path()]
        self.trace(self.lab.program.run([*more, "--dns", "192.0.2.10"], ["true"]))
        self.trace([self.called("pasta"), "-q", "--config-net", "-t", "8001", "--", "true"])

    def test_run_as_root(self):
        self.trace(self.lab.program.run(["-q", "--runas", "1234:5678"], ["true"]), user=self.lab.as_root)

    def test_doctor(self):
        self.trace([self.lab.program.path, "doctor"])

    @limit(60)
    def test_attach(self):
        with self.lab.empty_guest() as guest:
            self.trace(self.lab.program.attach(["-f", "-T", "auto", "-t", "auto"], str(guest.pid)), seconds=2)
        with self.lab.empty_guest() as guest:
            slirp = [self.called("slirp4netns"), "-c", "--api-socket", self.path(), str(guest.pid), "tap0"]
            self.trace(slirp, seconds=2)

    def test_attach_as_root(self):
        name = f"{self.lab.name}shut"
        self.lab.call(["ip", "netns", "add", name])
        self.addCleanup(subprocess.run, ["ip", "netns", "delete", name], check=False, capture_output=True)
        self.trace(self.lab.program.attach(["-f"], f"/run/netns/{name}"), user=self.lab.as_root, seconds=2)

    @limit(60)
    def test_vm(self):
        self.trace(self.lab.program.vm(["-f", "--socket", self.path(), "--vhost-user"]), seconds=1.5)
        self.trace([self.called("passt"), "-f", "--pid", self.path()], user=self.lab.as_root, seconds=1.5)
        with socket.socket(socket.AF_UNIX) as listener:
            path = self.path()
            listener.bind(path)
            os.chmod(path, 0o666)
            listener.listen()
            self.trace(self.lab.program.vm(["-f", "--connect", path]), seconds=1.5)
