"""The gateway's answers, asked by the clients people use. The guest's interface is there, and nothing is configured."""

import json
import os
import time

import lab
from support import Case

SCRIPT = """#!/bin/sh
env >> %s
"""


class Unconfigured(Case):
    """A guest of `attach --no-config-net`, its interface up."""

    def setUp(self):
        extra = getattr(getattr(self, self._testMethodName), "options", ())
        self.own = self.lab.attached("--no-config-net", *extra)
        self.addCleanup(self.own.close)
        self.link = self.own.interface()
        self.own.run("ip", "link", "set", self.link, "up")

    def script(self):
        """(program that writes what it is told into a file, that file)"""
        told, path = self.lab.file("told"), self.lab.file("script")
        with open(path, "w", encoding="ascii") as file:
            file.write(SCRIPT % told)
        os.chmod(path, 0o755)
        return path, told

    def run_client(self, *command, timeout=25):
        """With the outer root's rights, and directories for its state that nobody else sees. What it leaves in the background
        ends with it, as a process namespace does."""
        quoted = " ".join(f"'{word}'" for word in command)
        script = ("mount -t tmpfs none /run; mkdir -p /var/lib/dhcpcd /var/lib/dhcp; mount -t tmpfs none /var/lib/dhcpcd;"
                  f"mount -t tmpfs none /var/lib/dhcp; {quoted}")
        argv = [self.lab.tool, "enter", "--net-only", str(self.own.pid), "--", "unshare", "--mount", "--pid", "--fork",
                "sh", "-c", script]
        return self.lab.call(argv, timeout=timeout, check=False)

    def told(self, path):
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read()

    def wait_for_link_local(self):
        """Duplicate address detection of the kernel takes a second or two."""
        def settled():
            found = json.loads(self.own.output("ip", "-json", "-6", "addr", "show", "dev", self.link, "scope", "link"))
            return [a for link in found for a in link.get("addr_info", []) if not a.get("tentative")]
        return lab.wait_until(settled, 8, "the link-local address")


class Dhcp(Unconfigured):
    def test_udhcpc(self):
        script, told = self.script()
        self.run_client("udhcpc", "-i", self.link, "-s", script, "-n", "-q", "-f", "-t", "3", "-T", "1")
        for line in (f"ip={lab.HOST4}", f"router={lab.GATEWAY4}", "mask=24"):
            self.assertIn(line + "\n", self.told(told))

    def test_udhcpc_learns_the_mtu(self):
        script, told = self.script()
        self.run_client("udhcpc", "-i", self.link, "-s", script, "-O", "mtu", "-n", "-q", "-f", "-t", "3", "-T", "1")
        self.assertIn("mtu=65520\n", self.told(told))

    def test_dhclient_v4(self):
        script, told = self.script()
        self.run_client("timeout", "8", "dhclient", "-4", "-1", "-v", "-sf", script, "-pf", "/run/pid",
                        "-lf", "/run/leases", self.link)
        for line in (f"new_ip_address={lab.HOST4}", f"new_routers={lab.GATEWAY4}", "new_subnet_mask=255.255.255.0"):
            self.assertIn(line + "\n", self.told(told))

    def test_dhclient_v6(self):
        self.wait_for_link_local()
        script, told = self.script()
        self.run_client("timeout", "12", "dhclient", "-6", "-1", "-v", "-sf", script, "-pf", "/run/pid",
                        "-lf", "/run/leases", self.link)
        self.assertIn(f"new_ip6_address={lab.HOST6}\n", self.told(told))

    def test_dhcpcd(self):
        script, told = self.script()
        self.run_client("timeout", "15", "dhcpcd", "-4", "-1", "-B", "-A", "-t", "8", "-c", script, "-f", "/dev/null",
                        self.link)
        self.assertIn(f"new_ip_address={lab.HOST4}\n", self.told(told))

    def test_address_from_dhcp_works(self):
        script = self.lab.file("script")
        with open(script, "w", encoding="ascii") as file:
            file.write('#!/bin/sh\n[ "$1" = bound ] || exit 0\nip addr add $ip/$mask dev $interface\n'
                       "ip route add default via $router dev $interface\n")
        os.chmod(script, 0o755)
        self.run_client("udhcpc", "-i", self.link, "-s", script, "-n", "-q", "-f", "-t", "3", "-T", "1")
        self.assert_connected(*self.pair(self.lab.remote, lab.REMOTE4, guest=self.own))


class Neighbours(Unconfigured):
    def test_kernel_configures_itself(self):
        def configured():
            return "2001:db8:1:" in self.own.output("ip", "-6", "addr", "show", "dev", self.link, "scope", "global",
                                                    "-tentative")
        lab.wait_until(configured, 10, "an address by router advertisement")
        self.assertIn("default via fe80:", self.own.output("ip -6 route show default"))

    def test_address_from_router_advertisement_works(self):
        def configured():
            return "2001:db8:1:" in self.own.output("ip", "-6", "addr", "show", "dev", self.link, "scope", "global",
                                                    "-tentative")
        lab.wait_until(configured, 10, "an address by router advertisement")
        self.assert_connected(*self.pair(self.lab.remote, lab.REMOTE6, guest=self.own))

    def test_rdisc6(self):
        self.wait_for_link_local()
        text = self.run_client("rdisc6", "-1", "-w", "3000", self.link).stdout
        self.assertIn("2001:db8:1::/64", text)
        self.assertIn("65520", text)

    def test_ndisc6_finds_the_gateway(self):
        self.wait_for_link_local()
        text = self.run_client("ndisc6", "-1", "-w", "2000", "-r", "2", lab.GATEWAY6, self.link).stdout
        self.assertIn("Target link-layer address", text)

    def test_ndisc6_gets_no_answer_for_the_guests_own_address(self):
        self.own.run("ip", "addr", "add", f"{lab.HOST6}/64", "dev", self.link, "nodad")
        self.wait_for_link_local()
        done = self.run_client("ndisc6", "-1", "-w", "500", "-r", "2", lab.HOST6, self.link)
        self.assertNotIn("Target link-layer address", done.stdout)

    def test_duplicate_address_detection_succeeds(self):
        self.own.run("ip", "addr", "add", f"{lab.HOST6}/64", "dev", self.link)
        time.sleep(2.5)
        shown = self.own.output("ip", "-6", "addr", "show", "dev", self.link)
        self.assertIn(lab.HOST6, shown)
        self.assertNotIn("dadfailed", shown)

    def test_arping_finds_the_gateway(self):
        self.own.run("ip", "addr", "add", f"{lab.HOST4}/24", "dev", self.link)
        done = self.run_client("arping", "-c", "2", "-w", "3", "-I", self.link, lab.GATEWAY4)
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)

    def test_arping_finds_no_second_owner_of_the_guests_address(self):
        done = self.run_client("arping", "-D", "-c", "2", "-w", "2", "-I", self.link, lab.HOST4)
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        self.assertIn("Received 0 response", done.stdout)

    def test_arp_answers_do_not_differ(self):
        self.own.run("ip", "addr", "add", f"{lab.HOST4}/24", "dev", self.link)
        for _ in range(3):
            self.own.run("ip", "neigh", "flush", "dev", self.link)
            self.own.run("ping", "-c1", "-W2", lab.GATEWAY4)
        shown = json.loads(self.own.output("ip", "-json", "neigh", "show", lab.GATEWAY4))
        self.assertRegex(shown[0]["lladdr"], "^[0-9a-f][26ae]:")
