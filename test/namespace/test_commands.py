"""`run`: commands, exit statuses, what they find, and wrong command lines."""

import os
import pty
import select
import shlex
import shutil
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

    def test_b215_closed_standard_streams_are_no_obstacle(self):
        argv = self.lab.as_user(["sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh", *self.lab.program.run([], ["true"])])
        self.assertEqual(self.lab.call(argv, check=False).returncode, 0)


class Surroundings(Case):
    """Callers and hosts that are not as usual."""

    def exec_from_python(self, before, *command):
        argv = self.lab.program.run([], list(command))
        script = f"import os, signal; {before}; os.execv({argv[0]!r}, {argv!r})"
        return self.lab.call(self.lab.as_user(["/usr/bin/python3", "-c", script]), check=False, timeout=5)

    def test_caller_that_ignores_the_end_of_its_children(self):
        done = self.exec_from_python("signal.signal(signal.SIGCHLD, signal.SIG_IGN)", "sh", "-c", "exit 5")
        self.assertEqual(done.returncode, 5)

    def test_caller_that_blocks_all_signals(self):
        done = self.exec_from_python("signal.pthread_sigmask(signal.SIG_BLOCK, range(1, 65))",
                                     "sh", "-c", "grep SigBlk /proc/self/status; exit 5")
        self.assertEqual((done.returncode, done.stdout), (5, "SigBlk:\t0000000000000000\n"))

    def test_nohup(self):
        done = self.lab.call(self.lab.as_user(["nohup", *self.lab.program.run([], ["sh", "-c", "kill -HUP $$; echo on"])]))
        self.assertEqual(done.stdout, "on\n")

    def test_orphan_that_a_real_time_signal_kills(self):
        done = self.run_command("sh", "-c", "(sleep 9 & echo $! >&3) 3>&1 | { read p; kill -RTMIN+8 $p; sleep 0.3; exit 5; }")
        self.assertEqual(done.returncode, 5)

    def test_command_that_a_real_time_signal_kills(self):
        self.assertEqual(self.run_command("bash", "-c", "kill -40 $$").returncode, 168)

    def test_resolv_conf_of_ours_stays_where_the_host_replaces_its_own(self):
        """As systemd-resolved does, whose file a link names. A user may have no view of /etc of their own, so root makes it."""
        directory = self.lab.file("etc")
        os.unlink(directory)
        argv = shlex.join(self.lab.program.run(["-q", "-D", "192.0.2.99"],
                                               ["sh", "-c", "cat /etc/resolv.conf; read x; cat /etc/resolv.conf"]))
        user = f"setpriv --reuid={lab.USER} --regid={lab.USER} --clear-groups --"
        script = (f"set -e; umask 022; cp -a /etc {directory}; rm {directory}/resolv.conf; mount --bind {directory} /etc\n"
                  "mkdir /etc/stub; echo nameserver 127.0.0.53 >/etc/stub/file; ln -s stub/file /etc/resolv.conf\n"
                  f"mkfifo -m 666 {directory}/go; exec 3<>{directory}/go\n"
                  f"{user} {argv} <&3 & sleep 0.5\n"
                  "for n in 1 2 3; do echo nameserver 127.0.0.53 >/etc/stub/new; mv /etc/stub/new /etc/stub/file; sleep 0.1\n"
                  "done; echo >&3; wait $!")
        self.addCleanup(shutil.rmtree, directory)
        done = self.lab.call(self.lab.as_root(["unshare", "-m", "sh", "-c", "umount /etc/resolv.conf; " + script]))
        self.assertEqual(done.stdout.count("nameserver 192.0.2.99"), 2, done)
        self.assertNotIn("127.0.0.53", done.stdout)

    def test_b172_nested(self):
        inner = self.lab.program.run(["-q"], ["ping", "-c1", "-W2", lab.REMOTE4])
        done = self.run_command(*self.lab.program.run(["-q"], inner))
        self.assertIn("1 received", done.stdout, done.stderr)

    def test_b172_in_a_user_namespace(self):
        done = self.lab.call(self.lab.as_user(["unshare", "--user", "--map-root-user",
                                               *self.lab.program.run([], ["ping", "-c1", "-W2", lab.REMOTE6])]))
        self.assertIn("1 received", done.stdout)

    def test_d21_root(self):
        for options in ([], ["--netns-only"]):
            done = self.lab.call(self.lab.as_root(self.lab.program.run(options, ["ping", "-c1", "-W2", lab.REMOTE4])))
            self.assertIn("1 received", done.stdout)

    def test_b216_without_a_user_namespace_the_users_are_the_hosts(self):
        argv = self.lab.program.run(["--netns-only"], ["readlink", "/proc/self/ns/user"])
        self.assertEqual(self.lab.call(self.lab.as_root(argv)).stdout.strip(), os.readlink("/proc/self/ns/user"))

    def test_without_a_user_namespace_no_mount_shows_outside(self):
        script = ("mount --make-rshared /; \"$@\" sh -c 'ls -d /proc/[0-9]* | wc -l'; ls -d /proc/[0-9]* | wc -l")
        argv = self.lab.program.run(["--netns-only"], [])
        done = self.lab.call(self.lab.as_root(["unshare", "--mount", "sh", "-c", script, "sh", *argv]))
        inside, outside = map(int, done.stdout.split())
        self.assertLess(inside, 6)
        self.assertGreater(outside, 10)

    def test_without_a_user_namespace_an_ordinary_user_gets_a_reason(self):
        done = self.run_command("true", options=["--netns-only"])
        self.assertEqual(done.returncode, 1)
        self.assertIn("only root", done.stderr)

    def without_tun(self, setup):
        script = f'mount -t tmpfs none /dev/net && {setup} && exec setpriv --reuid={lab.USER} --regid={lab.USER} ' \
                 '--clear-groups -- "$@"'
        argv = self.lab.as_root(["unshare", "--mount", "sh", "-c", script, "sh", *self.lab.program.run([], ["true"])])
        done = self.lab.call(argv, check=False)
        self.assertEqual((done.returncode, len(done.stderr.splitlines())), (1, 1), done.stderr)
        return done.stderr

    def test_no_tun_device(self):
        self.assertIn("modprobe tun", self.without_tun("true"))

    def test_tun_device_without_permission(self):
        self.assertIn("chmod 0666 /dev/net/tun", self.without_tun("mknod -m 600 /dev/net/tun c 10 200"))

    def test_no_more_namespaces(self):
        script = 'echo 0 >/proc/sys/user/max_net_namespaces && exec "$@"'
        done = self.lab.call(self.lab.as_user(["unshare", "--user", "--map-root-user", "sh", "-c", script, "sh",
                                               *self.lab.program.run([], ["true"])]), check=False)
        self.assertEqual(done.returncode, 1)
        self.assertIn("max_net_namespaces", done.stderr)

    def test_two_hundred_in_a_row_leave_nothing(self):
        before = len(self.lab.copies())
        script = 'for i in $(seq 200); do "$@" || exit 1; done'
        self.lab.call(self.lab.as_user(["sh", "-c", script, "sh", *self.lab.program.run([], ["true"])]))
        # Namespaces are taken down in the background.
        lab.wait_until(lambda: len(self.lab.copies()) <= before, 5, "the end of all processes")


class LastOfTheTerminal(Case):
    def test_leader_of_a_session_passes_the_hang_up_on(self):
        """As the command of a terminal window, or `ssh -t`: nobody else hears of it."""
        pid, terminal = pty.fork()
        if pid == 0:
            argv = self.lab.as_user(self.lab.program.run(["-q"], ["sh", "-c", "echo up; exec sleep 100 </dev/null"]))
            os.execvp(argv[0], argv)
        try:
            self.assertIn(b"up", os.read(terminal, 100))
        finally:
            os.close(terminal)
        lab.wait_until(lambda: os.waitpid(pid, os.WNOHANG)[0], 5, "the end")


class Terminal(Case):
    """An interactive shell outside, with the program as one of its jobs."""

    def setUp(self):
        self.pid, self.terminal = pty.fork()
        if self.pid == 0:
            argv = self.lab.as_user(["env", "-i", f"PATH={os.environ['PATH']}", "HOME=/tmp", "TERM=dumb", "PS1=outside> ",
                                     "bash", "--norc", "-i"])
            os.execvp(argv[0], argv)
        self.addCleanup(self.close)
        self.expect("outside> ")

    def close(self):
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        os.close(self.terminal)

    def type(self, text):
        os.write(self.terminal, text.encode())

    def expect(self, text):
        seen = b""
        while text.encode() not in seen:
            ready, _, _ = select.select([self.terminal], [], [], 5)
            self.assertTrue(ready, f"{text!r} did not come, but {seen!r}")
            seen += os.read(self.terminal, 65536)

    def enter(self, *command):
        self.type(shlex.join(self.lab.program.run(["-q"], list(command))) + "\n")

    def enter_shell(self):
        self.enter("env", "PS1=inside> ", "bash", "--norc", "-i")
        self.expect("\ninside> ")

    def test_interrupt_ends_the_job_and_not_the_shell(self):
        self.enter_shell()
        self.type("sh -c 'echo up; exec sleep 100'\n")
        self.expect("\nup")
        self.type("\x03")
        self.expect("inside> ")
        self.type("echo status=$?\n")
        self.expect("status=130")

    def test_job_control_inside(self):
        self.enter_shell()
        self.type("sh -c 'echo up; exec sleep 100'\n")
        self.expect("\nup")
        self.type("\x1a")
        self.expect("Stopped")
        self.type("disown -a; exit 3\n")
        self.expect("outside> ")
        self.type("echo status=$?\n")
        self.expect("status=3")

    def test_job_control_outside(self):
        self.enter("sh", "-c", "echo up; exec sleep 100")
        self.expect("\nup")
        self.type("\x1a")
        self.expect("Stopped")
        self.type("fg\n")
        lab.wait_until(lambda: os.tcgetpgrp(self.terminal) != self.pid, 5, "the job in the foreground")
        self.type("\x03")
        self.expect("outside> ")
        self.type("echo status=$?\n")
        self.expect("status=130")

    def test_terminal_is_given_back(self):
        """A shell inside makes itself the foreground, and cannot see whose place it took."""
        argv = shlex.join(self.lab.program.run(["-q"], ["bash", "--norc", "-ic", "true"]))
        self.type(f"sh -c {shlex.quote(argv + '; echo up; read line; echo line=$line')}\n")
        self.expect("\nup")
        self.type("typed\n")
        self.expect("line=typed")


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

    def test_source_address_of_another_host(self):
        self.assert_refused("203.0.113.99", "run", "-o", "203.0.113.99", "--", "true")

    def test_namespace_of_the_program_itself(self):
        self.assert_refused("/proc/self/ns/net", "attach", "/proc/self/ns/net")

    def test_option_that_is_not_implemented_yet(self):
        self.assert_refused("--conf-path", "run", "--conf-path", "/tmp/control", "--", "true")

    def test_option_without_its_value(self):
        self.assert_refused("--mtu", "run", "--mtu")

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

    def test_what_is_said_bears_the_name(self):
        done = self.pasta("--config-net", "-q", "no-such-command")
        self.assertEqual(done.returncode, 127)
        self.assertRegex(done.stderr, "^pasta: .*no-such-command")

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
