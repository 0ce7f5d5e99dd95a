"""Completion in the shells themselves."""

import os
import subprocess
import tempfile

from lab import wait_until
from support import Case

COMPLETIONS = os.path.join(os.path.dirname(__file__), "..", "..", "contrib", "completions")


class Completion(Case):
    def bash(self, environment, *words):
        script = ('source "$1"; shift; COMP_WORDS=("$@"); COMP_CWORD=$(( $# - 1 )); _spelt; '
                  'printf "%s\\n" "${COMPREPLY[@]}"')
        argv = ["env", *environment, "bash", "-c", script, "bash", os.path.join(COMPLETIONS, "spelt.bash"),
                self.lab.program.path, *words]
        return self.lab.call(self.lab.as_user(argv)).stdout.split()

    def fish(self, environment, line):
        directory = os.path.dirname(self.lab.program.path)
        script = f"set -gx PATH {directory} $PATH; source {COMPLETIONS}/spelt.fish; complete -C '{line}'"
        argv = ["env", *environment, "HOME=/tmp", "fish", "--no-config", "-c", script]
        return self.lab.call(self.lab.as_user(argv)).stdout

    def test_bash(self):
        self.assertEqual(self.bash([], "ctl", "forw"), ["forward"])
        self.assertEqual(self.bash([], "run", "--log-format", "=", "j"), ["json"])
        self.assertIn("/etc/passwd", self.bash([], "run", "--log-file", "/etc/pass"))
        self.assertIn("true", self.bash([], "run", "--", "tru"))
        self.assertEqual(self.bash([], "respond", "--docker"), ["--docker-network"])
        self.assertEqual(self.bash([], "announce", "--re"), ["--reply"])
        self.assertEqual(self.bash([], "ctl", "nothing", "--no-such"), [])

    def test_instances(self):
        directory = tempfile.mkdtemp(dir=self.lab.dir)
        os.chown(directory, 65534, 65534)
        environment = [f"XDG_RUNTIME_DIR={directory}"]
        argv = ["env", *environment, self.lab.program.path, "run", "--", "sleep", "20"]
        process = self.lab.popen(self.lab.as_user(argv), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self.addCleanup(self.lab.end, process)
        def numbers():
            return [word for word in self.bash(environment, "ctl", "-i", "") if word.isdigit()]
        wait_until(numbers, 5, "the instance")
        pid, = numbers()
        self.assertIn(f"{pid}\trun sleep 20", self.fish(environment, "spelt ctl -i "))

    def test_fish(self):
        self.assertEqual(self.fish([], "spelt ctl flo"), "flows\tShow connections and other flows\n")
        self.assertEqual([line.split("\t")[0] for line in self.fish([], "spelt run --log-format ").splitlines()], ["json", "text"])

    def test_zsh(self):
        """What it would offer, told by a stand-in for what shows it."""
        path = os.path.join(COMPLETIONS, "_spelt")
        self.lab.call(["zsh", "-n", path])
        script = ('_describe() { print -l "${(@P)3}" }; _files() { print files }; _command_names() { print commands }; '
                  'words=("$@"); CURRENT=$#words; source ' + path)
        argv = ["zsh", "-f", "-c", script, "zsh", self.lab.program.path]
        self.assertEqual(self.lab.call([*argv, "ctl", "flo"]).stdout, "flows:Show connections and other flows\n")
        self.assertEqual(self.lab.call([*argv, "run", "--", ""]).stdout, "commands\n")
