"""Descriptors that a caller passes: namespaces, and how it hears that all is ready and says that all is over."""

import contextlib
import os

import lab
from support import Case


class Passed(Case):
    def namespace(self, kind, pid="self"):
        number = os.open(f"/proc/{pid}/ns/{kind}", os.O_RDONLY)
        self.addCleanup(os.close, number)
        return number

    def call(self, mode, *options, fds=(), command=()):
        argv = [self.lab.program.path, mode, *map(str, options), *command]
        return self.lab.call(self.lab.as_user(argv), pass_fds=list(fds), check=False)


class Namespaces(Passed):
    def test_they_are_served(self):
        for with_user in (False, True):
            with self.lab.empty_guest() as guest:
                net, user = self.namespace("net", guest.pid), self.namespace("user", guest.pid)
                options = ["--netns-fd", net, *(["--userns-fd", user] if with_user else [])]
                done = self.call("attach", *options, "-f", "--check", fds=(net, user))
                self.assertEqual((done.returncode, done.stderr), (0, ""))
                read, write = os.pipe()
                argv = [self.lab.program.path, "attach", "-f", "-q", *map(str, options), "--ready-fd", str(write)]
                process = self.lab.popen(self.lab.as_user(argv), pass_fds=[net, user, write])
                self.addCleanup(self.lab.end, process)
                os.close(write)
                with os.fdopen(read, "rb") as ready:
                    self.assertEqual(ready.read(), b"1")
                self.assert_connected(*self.pair(self.lab.remote, lab.REMOTE4, guest=guest))
                self.lab.end(process)

    def test_what_is_none_is_refused(self):
        net, user = self.namespace("net"), self.namespace("user")
        with open("/dev/null", "rb") as null, self.lab.empty_guest() as guest:
            number, theirs = null.fileno(), self.namespace("net", guest.pid)
            for options, complaint in (
                    (("--netns-fd", user), f"descriptor {user} (option '--netns-fd') is no network namespace"),
                    (("--netns-fd", number), f"descriptor {number} (option '--netns-fd') is no network namespace"),
                    (("--netns-fd", 99), "descriptor 99 (option '--netns-fd') was not left open by the caller"),
                    (("--netns-fd", theirs, "--userns-fd", net),
                     f"descriptor {net} (option '--userns-fd') is no user namespace"),
                    (("--netns-fd", "x"), "Invalid descriptor 'x' for option '--netns-fd'"),
                    (("--netns-fd", theirs, guest.pid), f"Both option '--netns-fd {theirs}' and a process id"),
                    (("--netns-fd", theirs, "--netns", "/x"), "contradict each other"),
                    (("--netns-fd", theirs, "--userns-fd", user, "--netns-only"), "contradict each other"),
                    (("--netns-fd", theirs, "--ready-fd", 98), "(option '--ready-fd') was not left open by the caller"),
            ):
                for check in ((), ("--check",)):
                    done = self.call("attach", *options, *check, fds=(net, user, number, theirs))
                    self.assertEqual(done.returncode, 1, (options, done.stdout))
                    line, = done.stderr.splitlines()
                    self.assertIn(complaint, line)


class Words(Passed):
    def test_ready_is_said_once_and_after_the_start(self):
        read, write = os.pipe()
        done = self.call("run", "--ready-fd", write, "--", fds=[write], command=("sh", "-c", f"ls /proc/self/fd/{write}"))
        os.close(write)
        self.assertEqual(done.returncode, 2, done.stdout)
        with os.fdopen(read, "rb") as ready:
            self.assertEqual(ready.read(), b"1")

    def test_a_start_that_fails_says_nothing(self):
        read, write = os.pipe()
        self.assertEqual(self.call("run", "--ready-fd", write, "-i", "nosuch0", "--", "true", fds=[write]).returncode, 1)
        os.close(write)
        with os.fdopen(read, "rb") as ready:
            self.assertEqual(ready.read(), b"")

    def test_it_ends_with_its_caller(self):
        for mode in ("run", "attach"):
            with contextlib.ExitStack() as stack:
                read, write = os.pipe()
                ready, told = os.pipe()
                what = ("--", "sleep", "60")
                if mode == "attach":
                    what = (stack.enter_context(self.lab.empty_guest()).pid,)
                argv = [self.lab.program.path, mode, "-f", "-q", "--exit-fd", str(read), "--ready-fd", str(told), *map(str, what)]
                process = self.lab.popen(self.lab.as_user(argv), pass_fds=[read, told])
                self.addCleanup(self.lab.end, process)
                os.close(read)
                os.close(told)
                with os.fdopen(ready, "rb") as file:
                    self.assertEqual(file.read(), b"1")
                self.assertIsNone(process.poll())
                os.close(write)
                process.wait(5)
