"""Instances that are found without being told where: `spelt list`, and who uses it."""

import json
import os
import subprocess
import tempfile
import time

from lab import wait_until
from lab.program import ROOT
from support import Case


class Instances(Case):
    """Sockets by default: where `list` finds them."""

    def start(self, *options):
        directory = tempfile.mkdtemp(dir=self.lab.dir)
        os.chown(directory, 65534, 65534)
        environment = [f"XDG_RUNTIME_DIR={directory}"]
        argv = ["env", *environment, self.lab.program.path, "run", *options, "--", "sleep", "20"]
        process = self.lab.popen(self.lab.as_user(argv), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        self.addCleanup(self.lab.end, process)
        return process, environment

    def call(self, environment, *arguments, check=True):
        return self.lab.call(self.lab.as_user(["env", *environment, self.lab.program.path, *arguments]), check=check)

    def listed(self, environment):
        return json.loads(self.call(environment, "list", "--json").stdout)

    def test_without_a_directory_for_sockets_it_says_so(self):
        done = self.call(["--unset=XDG_RUNTIME_DIR"], "list")
        self.assertIn("PID", done.stdout)
        self.assertIn("XDG_RUNTIME_DIR is not set", done.stderr)

    def test_instance_is_listed_found_and_ended(self):
        process, environment = self.start()
        wait_until(lambda: self.listed(environment), 5, "the instance")
        instance = self.listed(environment)[0]
        self.assertEqual((instance["info"]["mode"], instance["info"]["target"]), ("run", "sleep 20"))
        self.assertIn("run", self.call(environment, "list").stdout)
        # The only one need not be named; by its number it can be.
        self.call(environment, "ctl", "info")
        self.call(environment, "ctl", "-i", str(instance["info"]["pid"]), "stats")
        self.call(environment, "ctl", "quit")
        self.assertEqual(process.wait(5), 143)
        # What it could not take with it is gone after the next look.
        self.assertEqual(self.listed(environment), [])
        self.assertFalse(os.path.exists(instance["socket"]))
        done = self.call(environment, "ctl", "info", check=False)
        self.assertEqual(done.returncode, 1)
        self.assertIn("no instance is running", done.stderr)

    def test_the_script_for_node_exporter_tells_of_each(self):
        process, environment = self.start()
        wait_until(lambda: self.listed(environment), 5, "the instance")
        pid = self.listed(environment)[0]["info"]["pid"]
        script = self.lab.install(os.path.join(ROOT, "contrib", "node_exporter", "spelt-metrics"))
        directory = os.path.dirname(self.lab.program.path)
        path = environment[0].split("=")[1] + "/spelt.prom"
        self.lab.call(self.lab.as_user(["env", *environment, f"PATH={directory}:{os.environ['PATH']}", script, path]))
        with open(path, encoding="ascii") as file:
            lines = file.read().splitlines()
        self.assertIn(f'spelt_build_info{{pid="{pid}",', "\n".join(lines))
        for line in lines:
            self.assertRegex(line, rf'^spelt_[a-z_]+{{pid="{pid}"(,[a-z_]+="[^"]*")*}} [0-9.e+-]+$')

    def test_what_others_left_behind_goes_with_the_next_start(self):
        process, environment = self.start()
        wait_until(lambda: self.listed(environment), 5, "the instance")
        old = self.listed(environment)[0]["socket"]
        self.call(environment, "ctl", "quit")
        process.wait(5)
        self.assertTrue(os.path.exists(old))
        argv = ["env", *environment, self.lab.program.path, "run", "--", "true"]
        self.lab.call(self.lab.as_user(argv))
        self.assertFalse(os.path.exists(old))

    def test_no_socket_if_none_is_wanted(self):
        _, environment = self.start("--control", "none")
        time.sleep(0.5)
        self.assertEqual(self.listed(environment), [])
        directory = environment[0].split("=")[1]
        self.assertEqual(os.listdir(directory), [])

    def test_path_that_cannot_be_had_is_an_error(self):
        done = self.run_command("true", options=("--control", "/nonexistent/control"))
        self.assertEqual(done.returncode, 1)
        self.assertIn("cannot listen at the control socket '/nonexistent/control' (option '--control')", done.stderr)
