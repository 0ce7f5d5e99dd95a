"""What both command lines print, where, and the status they end with."""

import json
import os
import re
import signal
import subprocess

import lab
from support import Case, limit

NO_PORTS = ("-t", "none", "-u", "none", "-T", "none", "-U", "none")


class CommandLine(Case):
    @property
    def name(self):
        """The program under the name `pasta`."""
        if self.lab.program.kind == "pasta":
            return self.lab.program.path
        path = os.path.join(self.lab.dir, "pasta")
        if not os.path.lexists(path):
            os.symlink(self.lab.program.path, path)
        return path

    def pasta(self, *argv, **more):
        return self.lab.call(self.lab.as_user([self.name, *argv]), check=False, **more)

    def spelt(self, *argv, **more):
        return self.lab.call(self.lab.as_user([self.lab.program.path, *argv]), check=False, **more)

    def assert_refused(self, done, sentence):
        """One line on standard error, nothing on standard output, status 1."""
        self.assertEqual((done.returncode, done.stdout), (1, ""), done.stderr)
        self.assertEqual(done.stderr.count("\n"), 1, done.stderr)
        self.assertIn(sentence, done.stderr)

    def attached(self, *argv):
        """What is printed by pasta while it gives a new namespace connectivity: (standard output, standard error)."""
        with self.lab.empty_guest() as guest, open(self.lab.file("out"), "w+b") as out, \
                open(self.lab.file("err"), "w+b") as err:
            done = subprocess.run(self.lab.as_user([*argv, str(guest.pid)]), stdin=subprocess.DEVNULL, stdout=out,
                                  stderr=err, timeout=10, check=False)
            texts = []
            for file in (out, err):
                file.seek(0)
                texts.append(file.read().decode())
        self.assertEqual(done.returncode, 0, texts[1])
        return texts


class PastaForms(CommandLine):
    def test_an_unknown_option_brings_the_usage_on_standard_error(self):
        for option, complaint in (("--x", "unrecognized option '--x'"), ("--x=1", "unrecognized option '--x=1'"),
                                  ("-Z", "invalid option -- 'Z'"), ("-qZ", "invalid option -- 'Z'"),
                                  ("--quiet=1", "option '--quiet' doesn't allow an argument"),
                                  ("--no-c", "option '--no-c' is ambiguous; possibilities: '--no-copy-routes' "
                                             "'--no-copy-addrs'")):
            with self.subTest(option):
                done = self.pasta(option, "true")
                self.assertEqual((done.returncode, done.stdout), (1, ""))
                first, second = done.stderr.splitlines()[:2]
                self.assertEqual(first, f"{self.name}: {complaint}")
                self.assertRegex(second, "^Usage: ")

    def test_a_missing_value_brings_the_usage(self):
        for option, complaint in (("-m", "option requires an argument -- 'm'"),
                                  ("--mtu", "option '--mtu' requires an argument")):
            with self.subTest(option):
                done = self.pasta(option)
                self.assertEqual((done.returncode, done.stdout), (1, ""))
                self.assertEqual(done.stderr.splitlines()[0], f"{self.name}: {complaint}")

    def test_the_probe_for_an_option_that_is_not_there(self):
        """Podman compares the combined output and wants status 1 exactly."""
        done = self.pasta("--config-net", "--map-guest-addr-x", "169.254.1.2", "--netns", "/x")
        self.assertEqual(done.returncode, 1)
        self.assertIn("unrecognized option '--map-guest-addr", done.stderr)

    def test_help_and_version_are_on_standard_output_only(self):
        for argv, first in ((["--help"], "Usage: "), (["-h"], "Usage: "), (["-qh"], "Usage: "),
                            (["--version"], "pasta "), (["--host-lo-to-ns-lo", "--version"], "pasta "),
                            (["-4", "-t", "80", "--version"], "pasta "), (["--version", "--x"], "pasta ")):
            with self.subTest(argv):
                done = self.pasta(*argv)
                self.assertEqual((done.returncode, done.stderr), (0, ""))
                self.assertTrue(done.stdout.startswith(first), done.stdout)
        self.assertRegex(self.pasta("--version").stdout.splitlines()[0], r"^pasta \S+$")

    def test_a_faulty_option_fails_even_before_version(self):
        for argv in (["--x", "--version"], ["-m", "99999", "--version"], ["--socket", "/x", "--version"]):
            with self.subTest(argv):
                done = self.pasta(*argv)
                self.assertEqual((done.returncode, done.stdout), (1, ""))

    def test_abbreviations_bundles_and_both_forms_of_values(self):
        for argv in (["--mt=1400", "--config-n"], ["--mtu", "1400", "--config-net"], ["-qm1400", "--config-net"],
                     ["-qm", "1400", "--config-net", "--"], ["-m9000", "--mtu=1400", "--config-net"]):
            with self.subTest(argv):
                # Not /sys, which is the host's inside.
                done = self.pasta(*argv, "ip", "-json", "link", "show", "dev", "eth0")
                self.assertEqual((done.stderr, done.returncode), ("", 0))
                self.assertEqual(json.loads(done.stdout)[0]["mtu"], 1400)

    def test_options_end_at_the_command(self):
        self.assertEqual(self.pasta("echo", "-Z", "--version", "-m").stdout, "-Z --version -m\n")

    def test_options_of_another_mode_are_refused_in_one_line(self):
        for argv in (["--vhost-user"], ["--one-off"], ["-1"], ["--socket", "/x"], ["--fd", "3"]):
            with self.subTest(argv):
                self.assert_refused(self.pasta(*argv, "true"), "is for passt mode only")

    def test_values_are_refused_in_one_line(self):
        for argv, sentence in ((["-m", "65522"], "65522"), (["-a", "127.0.0.1"], "127.0.0.1"), (["-n", "33"], "33"),
                               (["-g", "0.0.0.0"], "0.0.0.0"), (["-M", "1:2:3:4:5:6"], "1:2:3:4:5:6"),
                               (["-i", "nosuch0"], "nosuch0"), (["--outbound-if4", "nosuch0"], "nosuch0"),
                               (["--log-size", "40959"], "40959"), (["-I", "sixteen-bytes-16"], "sixteen-bytes-16"),
                               (["-l", "/no/such/file"], "/no/such/file"), (["-P", "/no/such/file"], "/no/such/file"),
                               (["-t", "8080,"], "8080,"), (["-t", "8080-8081:9090"], "8080-8081:9090"),
                               (["-T", "127.0.0.1/80"], "127.0.0.1/80"), (["-t", "8080", "-t", "*/8080"], "*/8080"),
                               (["-t", "8080", "-t", "none"], "none"), (["-t", "8080", "--no-tcp"], "--no-tcp"),
                               (["--no-splice", "--splice-only"], "--splice-only"),
                               (["--netns", "no-such-name"], "no-such-name"), (["0"], "'0'"),
                               (["99999999"], "99999999")):
            with self.subTest(argv):
                self.assert_refused(self.pasta(*argv), sentence)

    def test_a_port_that_is_taken_is_named_with_its_option(self):
        with self.lab.host.listen("127.0.0.1", 8093):
            done = self.pasta("-t", "127.0.0.1/8092-8093", "true")
        self.assert_refused(done, "Failed to bind port 8093 (Address already in use) for option '-t 127.0.0.1/8092-8093'")


class Summary(CommandLine):
    """The lines for people, which there are parsers for."""

    def test_of_the_default(self):
        _, text = self.attached(self.name, *NO_PORTS)
        expected = f"""\
Template interface: eth0 (IPv4), eth0 (IPv6)
Namespace interface: eth0
MAC:
    host: 9a:55:9a:55:9a:55
    NAT to host 127.0.0.1: {lab.GATEWAY4}
DHCP:
    assign: {lab.HOST4}
    mask: 255.255.255.0
    router: {lab.GATEWAY4}
DNS:
    {lab.REMOTE4}
DNS search list:
    lab.test
    NAT to host ::1: {lab.GATEWAY6}
NDP/DHCPv6:
    assign: {lab.HOST6}
    router: {lab.GATEWAY6}
    our link-local: FE80
DNS:
    {lab.REMOTE6}
DNS search list:
    lab.test
Inbound forwarding rules (HOST):
Outbound forwarding rules (SPLICE):
"""
        self.assertEqual(re.sub(r"fe80::\S+", "FE80", text), expected)

    def test_of_rules(self):
        _, text = self.attached(self.name, "-4", "-t", "8094,8095-8097:9095-9097", "-t", "127.0.0.1/8098:80",
                                "-t", "%eth0/8099", "-u", "0.0.0.0/5394:192.0.2.7/53", "-T", "none", "-U", "none")
        rules = text[text.index("Inbound"):].replace(" \n", "\n")
        self.assertEqual(rules, """\
Inbound forwarding rules (HOST):
    TCP [0.0.0.0]:8094  =>  8094
    TCP [0.0.0.0]:8095-8097  =>  9095-9097
    TCP [127.0.0.1]:8098  =>  80
    TCP [0.0.0.0]%eth0:8099  =>  8099
    UDP [0.0.0.0]:5394  =>  192.0.2.7:53
Outbound forwarding rules (SPLICE):
""")
        self.assertNotIn("IPv6", text)

    def test_parts_that_are_off_are_left_out(self):
        _, text = self.attached(self.name, "--no-map-gw", "--no-dhcp", "--no-dhcpv6", "-D", "none", *NO_PORTS)
        for part in ("NAT to host", "DHCP", "DNS"):
            self.assertNotIn(part, text)
        self.assertIn("\nNDP:\n", text)

    def test_of_other_addresses(self):
        _, text = self.attached(self.name, "-o", lab.HOST4, "--outbound-if4", "eth0", "-I", "inside", "-M",
                                "02:00:00:00:00:01", "-a", "10.0.0.2/8", "-g", "10.0.0.1", "-4", *NO_PORTS)
        for line in ("Outbound interface: eth0 (IPv4)", f"Outbound IPv4 address: {lab.HOST4}",
                     "Namespace interface: inside", "    host: 02:00:00:00:00:01", "    assign: 10.0.0.2",
                     "    mask: 255.0.0.0", "    router: 10.0.0.1"):
            self.assertIn(line + "\n", text)

    def test_quiet_is_silent(self):
        self.assertEqual(self.attached(self.name, "-q", "--config-net", *NO_PORTS), ["", ""])

    def test_nothing_is_on_standard_output(self):
        self.assertEqual(self.attached(self.name, *NO_PORTS)[0], "")

    def test_debug_lines_begin_with_the_time(self):
        done = self.pasta("-d", *NO_PORTS, "true")
        self.assertEqual((done.returncode, done.stdout), (0, ""))
        for line in done.stderr.splitlines():
            self.assertRegex(line, r"^\d+\.\d{4}: ")


class Ends(CommandLine):
    def test_signals_end_a_foreground_instance_with_success(self):
        for number in (signal.SIGTERM, signal.SIGQUIT):
            with self.subTest(number), self.lab.empty_guest() as guest:
                process = self.lab.popen(self.lab.as_user([self.name, "-f", *NO_PORTS, str(guest.pid)]),
                                         stdin=subprocess.DEVNULL, stderr=subprocess.PIPE)
                self.addCleanup(self.lab.end, process)
                self.addCleanup(process.stderr.close)
                while b"SPLICE" not in process.stderr.readline():
                    self.assertIsNone(process.poll())
                os.kill(process.pid, number)
                self.assertEqual(process.wait(5), 0)


class Statistics(CommandLine):
    def test_they_need_the_foreground(self):
        self.assert_refused(self.pasta("--stats", "1", "--netns", "/x"), "--foreground")

    @limit(20)
    def test_a_line_tells_what_has_passed(self):
        done = self.pasta("--stats", "1", "--config-net", *NO_PORTS, "sh", "-c", f"ping -c2 -i1.5 {lab.REMOTE4} >&2")
        lines = [line for line in done.stderr.splitlines() if "stats: " in line]
        self.assertRegex(lines[0], r"stats: \d+ frames \(\d+ bytes\) from the guest, \d+ \(\d+ bytes\) to it")

    @limit(20)
    def test_nothing_is_said_where_nothing_happens(self):
        # With an interface, each neighbour that the host finds is announced.
        done = self.pasta("--stats", "1", "--splice-only", *NO_PORTS, "sleep", "2.5")
        self.assertEqual((done.returncode, done.stderr.count("stats: ")), (0, 0), done.stderr)


class Checking(CommandLine):
    """Forms of `spelt` only."""

    def test_a_valid_configuration(self):
        for argv in (["run", "--check"], ["run", "--check", "-t", "8080", "-i", "eth0", "--", "true"]):
            with self.subTest(argv):
                done = self.spelt(*argv)
                self.assertEqual((done.returncode, done.stdout, done.stderr), (0, "configuration is valid\n", ""))

    def test_nothing_is_started_or_bound(self):
        with self.lab.host.listen("0.0.0.0", 8091):
            done = self.spelt("run", "--check", "-t", "8091", "--pid", os.path.join(self.lab.dir, "checked"), "true")
        self.assertEqual((done.returncode, done.stdout), (0, "configuration is valid\n"), done.stderr)
        self.assertFalse(os.path.exists(os.path.join(self.lab.dir, "checked")))

    def test_what_is_wrong_is_told(self):
        for argv, sentence in ((["run", "--check", "-i", "nosuch0"], "nosuch0"),
                               (["run", "--check", "-t", "%nosuch0/80"], "nosuch0"),
                               (["run", "--check", "-o", "192.0.2.222"], "192.0.2.222"),
                               (["run", "--check", "-t", "192.0.2.222/8080"], "(Cannot assign requested address)"),
                               (["run", "--check", "-t", "80"], "Failed to bind port 80 (Permission denied) for"),
                               (["run", "--check", "-t", "80", "-t", "80"], "80"),
                               (["run", "--check", "--pid", "/no/such/x"], "/no/such/x"),
                               (["run", "--check", "--pid", "/etc/x"], "'/etc/x' for option '--pid'"),
                               (["run", "--check", "--log-file", "/etc/passwd"], "'/etc/passwd' for option '--log-"),
                               (["run", "--check", "--runas", "no-such-user"], "no-such-user"),
                               (["run", "--check", "no-such-command"], "no-such-command"),
                               (["attach", "--check", "99999999"], "99999999"),
                               (["attach", "--check", "/etc/passwd"], "/etc/passwd"),
                               (["attach", "--check", "no-such-name"], "no-such-name")):
            with self.subTest(argv):
                self.assert_refused(self.spelt(*argv), sentence)

    def test_a_target_is_opened_and_left_alone(self):
        with self.lab.empty_guest() as guest:
            done = self.spelt("attach", "--check", str(guest.pid))
            self.assertEqual((done.returncode, done.stdout), (0, "configuration is valid\n"), done.stderr)
            self.assertNotIn("eth0", guest.output("ip link"))

    def test_the_summary_of_a_check(self):
        done = self.spelt("run", "--check", "--json", "-t", "8090:80", "true")
        self.assertEqual((done.returncode, done.stderr, done.stdout.count("\n")), (0, "", 1))
        summary = json.loads(done.stdout)
        self.assertNotIn("pid", summary)
        self.assertEqual(summary["dhcp"], {"assign": lab.HOST4, "prefix": 24, "router": lab.GATEWAY4})
        self.assertEqual(summary["dns"], [lab.REMOTE4, lab.REMOTE6])
        self.assertEqual([(r["protocol"], r["first"], r["target_last"]) for r in summary["inbound"]], [("tcp", 8090, 80)])

    def test_the_summary_of_an_attached_namespace(self):
        out, err = self.attached(self.lab.program.path, "attach", "--json", "-u", "5392:53")
        summary = json.loads(out)
        self.assertEqual(err, "")
        self.assertGreater(summary["pid"], 1)
        self.assertEqual((summary["namespace_interface"], summary["inbound"][0]["target_first"]), ("eth0", 53))

    def test_the_summary_says_that_all_is_ready_in_the_foreground_too(self):
        with self.lab.empty_guest() as guest:
            process = self.lab.popen(self.lab.as_user([self.lab.program.path, "attach", "-f", "--json", "-t", "8089:89",
                                                       str(guest.pid)]),
                                     stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
            self.addCleanup(self.lab.end, process)
            self.addCleanup(process.stderr.close)
            self.assertEqual(json.loads(lab.read_line(process.stdout, 5))["pid"], process.pid)
            self.assert_connected(*self.inbound(self.lab.host, lab.HOST4, 8089, 89, guest=guest)[:2])

    def test_the_output_of_a_command_is_its_own(self):
        self.assert_refused(self.spelt("run", "--json", "true"), "--check")


class SpeltForms(CommandLine):
    def test_help_and_version_are_on_standard_output_only(self):
        for argv in (["--help"], ["-h"], ["run", "--help"], ["run", "-h"], ["attach", "--help"], ["attach", "-h"]):
            with self.subTest(argv):
                done = self.spelt(*argv)
                self.assertEqual((done.returncode, done.stderr), (0, ""))
                self.assertIn("Usage: spelt", done.stdout)
                self.assertLessEqual(max(map(len, done.stdout.splitlines())), 80)
        for argv in (["--version"], ["-V"], ["run", "--version"], ["attach", "-V"]):
            with self.subTest(argv):
                done = self.spelt(*argv)
                self.assertEqual((done.returncode, done.stderr), (0, ""))
                self.assertRegex(done.stdout.splitlines()[0], r"^spelt \d\S*$")

    def test_mistypes_are_answered_with_a_suggestion(self):
        for argv, suggestion in ((["rum"], "'run'"), (["run", "--mtus", "3"], "'--mtu'"),
                                 (["attach", "--tcp-prots", "80", "1"], "'--tcp-ports'"),
                                 (["run", "-t", "http"], "'all', 'auto' or 'none'")):
            with self.subTest(argv):
                self.assert_refused(self.spelt(*argv), suggestion)
