"""`run`: commands, exit statuses, what they find, and wrong command lines."""

import os
import signal
import subprocess

import lab
from support import Case


class Commands(Case):
    def test_exit_status_is_passed_on(self):
        self.assertEqual(self.run_command("sh", "-c", "exit 7").returncode, 7)

    def test_success_is_passed_on(self):
        self.assertEqual(self.run_command("true").returncode, 0)

    def test_killed_command_gives_128_and_the_signal(self):
        guest = self.lab.guest()
        os.kill(guest.pid, signal.SIGKILL)
        self.assertEqual(guest.process.wait(5), 128 + signal.SIGKILL)
        guest.close()

    def test_missing_command_gives_127(self):
        done = self.run_command("/no/such/command")
        self.assertEqual(done.returncode, 127)
        self.assertIn("/no/such/command", done.stderr)

    def test_command_without_permission_gives_126(self):
        done = self.run_command("/etc/passwd")
        self.assertEqual(done.returncode, 126)
        self.assertIn("/etc/passwd", done.stderr)

    def test_default_command_is_the_shell(self):
        argv = self.lab.as_user(self.lab.program.run([], []))
        done = self.lab.call(argv, check=False, input="echo in the shell\nexit 3\n",
                             env={**os.environ, "SHELL": "/bin/sh"})
        self.assertEqual((done.returncode, done.stdout), (3, "in the shell\n"))

    def test_input_and_output_are_the_commands(self):
        done = self.run_command("cat", input="through\n")
        self.assertEqual(done.stdout, "through\n")

    def test_directory_and_environment_are_kept(self):
        done = self.run_command("sh", "-c", "pwd; echo $LAB_MARK", cwd="/tmp", env={**os.environ, "LAB_MARK": "kept"})
        self.assertEqual(done.stdout, "/tmp\nkept\n")

    def test_command_is_root_inside(self):
        self.assertEqual(self.run_command("id", "-u").stdout, "0\n")

    def test_command_sees_only_its_own_processes(self):
        self.assertLess(len(self.run_command("sh", "-c", "ls -d /proc/[0-9]*").stdout.split()), 6)

    def test_namespaces_are_new(self):
        kinds = ("user", "net", "pid", "mnt", "ipc", "uts")
        inside = self.run_command("sh", "-c", "for k in %s; do readlink /proc/self/ns/$k; done" % " ".join(kinds))
        here = [os.readlink(f"/proc/self/ns/{kind}") for kind in kinds]
        self.assertEqual(len(inside.stdout.split()), len(kinds))
        self.assertEqual(set(inside.stdout.split()) & set(here), set())

    def test_nothing_is_printed_on_success(self):
        self.assertEqual(self.run_command("true", options=["-q"]).stderr, "")

    def test_closed_standard_streams_are_no_obstacle(self):
        argv = self.lab.as_user(["sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh", *self.lab.program.run([], ["true"])])
        self.assertEqual(self.lab.call(argv, check=False).returncode, 0)


class WrongCommandLines(Case):
    def assert_refused(self, offending, *argv):
        done = self.lab.call(self.lab.as_user([self.lab.program.path, *argv]), check=False)
        self.assertEqual(done.returncode, 1, done.stderr)
        self.assertIn(offending, done.stderr)
        self.assertEqual(len(done.stderr.strip().splitlines()), 1, done.stderr)

    def test_unknown_option(self):
        self.assert_refused("--no-such-option", "run", "--no-such-option", "--", "true")

    def test_unknown_subcommand(self):
        self.assert_refused("walk", "walk")

    def test_mtu_too_large(self):
        self.assert_refused("70000", "run", "-m", "70000", "--", "true")

    def test_mtu_not_a_number(self):
        self.assert_refused("many", "run", "-m", "many", "--", "true")

    def test_bad_address(self):
        self.assert_refused("192.0.2.300", "run", "-a", "192.0.2.300", "--", "true")

    def test_loopback_gateway(self):
        self.assert_refused("127.0.0.1", "run", "-g", "127.0.0.1", "--", "true")

    def test_unknown_interface(self):
        self.assert_refused("nosuch0", "run", "-i", "nosuch0", "--", "true")

    def test_port_out_of_range(self):
        self.assert_refused("99999", "run", "-t", "99999", "--", "true")

    def test_port_range_backwards(self):
        self.assert_refused("90-80", "run", "-t", "90-80", "--", "true")

    def test_port_not_a_number(self):
        self.assert_refused("http", "run", "-u", "http", "--", "true")

    def test_attach_without_target(self):
        self.assert_refused("attach", "attach")

    def test_attach_to_a_missing_process(self):
        self.assert_refused("99999999", "attach", "99999999")

    def test_attach_to_a_missing_name(self):
        self.assert_refused("no-such-name", "attach", "no-such-name")

    def test_attach_to_a_missing_path(self):
        self.assert_refused("/no/such/path", "attach", "/no/such/path")

    def test_attach_to_a_file_that_is_no_namespace(self):
        self.assert_refused("/etc/passwd", "attach", "/etc/passwd")


class Personality(Case):
    """By the name `pasta` the same program takes pasta's command line."""

    def pasta(self, *argv, **more):
        program = self.lab.program.path
        if self.lab.program.kind != "pasta":
            program = os.path.join(self.lab.dir, "pasta")
            if not os.path.lexists(program):
                os.symlink(self.lab.program.path, program)
        return self.lab.call(self.lab.as_user([program, *argv]), check=False, **more)

    def test_command_runs_and_status_is_passed_on(self):
        self.assertEqual(self.pasta("--config-net", "--", "sh", "-c", "exit 5").returncode, 5)

    def test_command_needs_no_dashes(self):
        self.assertEqual(self.pasta("--config-net", "sh", "-c", "exit 6").returncode, 6)

    def test_network_is_configured_with_config_net(self):
        done = self.pasta("--config-net", "-q", "--", "ip", "-4", "addr", "show", "dev", "eth0")
        self.assertIn(lab.HOST4, done.stdout)

    def test_network_is_not_configured_without(self):
        done = self.pasta("-q", "--", "ip", "-4", "addr")
        self.assertNotIn(lab.HOST4, done.stdout)

    def test_attach_by_process_id(self):
        with self.lab.empty_guest() as guest:
            argv = [os.path.join(self.lab.dir, "pasta"), "--config-net", "-q", str(guest.pid)]
            self.pasta("--version")
            program = lab.Program(argv[0] if self.lab.program.kind != "pasta" else self.lab.program.path, "pasta")
            self.lab.attach(str(guest.pid), "-q", program=program)
            self.assertIn(lab.HOST4, guest.output("ip -4 addr"))

    def test_version_is_on_standard_output(self):
        done = self.pasta("--version")
        self.assertEqual(done.returncode, 0)
        self.assertRegex(done.stdout.splitlines()[0], "^pasta ")

    def test_help_is_on_standard_output(self):
        done = self.pasta("--help")
        self.assertEqual(done.returncode, 0)
        self.assertIn("--config-net", done.stdout)

    def test_unknown_option_is_named_as_callers_expect(self):
        done = self.pasta("--no-such-option", "--", "true")
        self.assertEqual(done.returncode, 1)
        self.assertIn("unrecognized option '--no-such-option", done.stderr)


class Spelt(Case):
    def call_spelt(self, *argv):
        return self.lab.call(self.lab.as_user([self.lab.program.path, *argv]), check=False)

    def test_version(self):
        done = self.call_spelt("--version")
        self.assertEqual(done.returncode, 0)
        self.assertRegex(done.stdout, "^spelt [0-9]")

    def test_help_names_both_commands(self):
        done = self.call_spelt("--help")
        self.assertEqual(done.returncode, 0)
        self.assertIn("run", done.stdout)
        self.assertIn("attach", done.stdout)


class Interrupts(Case):
    def test_terminal_interrupt_reaches_the_command(self):
        """Ctrl-C goes to the whole foreground group; the command's own answer to it must count."""
        process = self.lab.popen(
            self.lab.as_user(self.lab.program.run([], ["sh", "-c", "trap 'exit 9' INT; echo up; while :; do sleep 0.1; done"])),
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
        self.addCleanup(self.lab.end, process)
        self.assertEqual(lab.read_line(process.stdout, 5), "up\n")
        os.killpg(process.pid, signal.SIGINT)
        self.assertEqual(process.wait(5), 9)
