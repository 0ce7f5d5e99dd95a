"""Names inside the guest."""

import os
import subprocess

import lab
from support import Case, both


class Names(Case):
    def tearDown(self):
        self.lab.resolv_conf(f"nameserver {lab.REMOTE4}", f"nameserver {lab.REMOTE6}", "search lab.test")
        super().tearDown()

    def assert_resolves(self, guest):
        done = guest.run("getent", "ahostsv4", "www.example", check=False)
        self.assertIn("192.0.2.80", done.stdout, guest.output("cat /etc/resolv.conf"))

    @both
    def test_resolver_on_another_host(self, net):
        self.lab.resolv_conf(f"nameserver {net.remote}")
        with lab.Dns(self.lab.remote, net.remote), self.lab.guest() as guest:
            self.assert_resolves(guest)

    @both
    def test_resolver_on_the_hosts_loopback(self, net):
        self.lab.resolv_conf(f"nameserver {net.loopback}")
        with lab.Dns(self.lab.host, net.loopback), self.lab.guest() as guest:
            self.assert_resolves(guest)

    def test_resolver_on_an_unusual_loopback_address(self):
        """systemd-resolved listens on 127.0.0.53 only."""
        self.lab.resolv_conf("nameserver 127.0.0.53", "options edns0 trust-ad")
        with lab.Dns(self.lab.host, "127.0.0.53"), self.lab.guest() as guest:
            self.assert_resolves(guest)

    def test_dnsmasq_on_the_hosts_loopback(self):
        self.lab.resolv_conf("nameserver 127.0.0.1")
        argv = self.lab.as_root(["dnsmasq", "--no-daemon", "--no-resolv", "--no-hosts", "--conf-file=/dev/null",
                                 "--pid-file=", "--user=root", "--listen-address=127.0.0.1", "--bind-interfaces",
                                 "--address=/www.example/192.0.2.80"])
        server = self.lab.popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self.addCleanup(self.lab.end, server)
        with self.lab.guest() as guest:
            def answered():
                return "192.0.2.80" in guest.run("getent", "ahostsv4", "www.example", check=False).stdout
            self.assertTrue(lab.wait_until(answered, 10, "the answer"))

    @both
    def test_resolver_at_the_hosts_own_address(self, net):
        """Which is the guest's own address as well."""
        self.lab.resolv_conf(f"nameserver {net.host}")
        with lab.Dns(self.lab.host, net.host), self.lab.guest() as guest:
            self.assert_resolves(guest)

    def test_resolver_at_the_gateway(self):
        self.lab.resolv_conf(f"nameserver {lab.GATEWAY4}")
        with lab.Dns(self.lab.remote, lab.GATEWAY4), self.lab.guest() as guest:
            self.assert_resolves(guest)

    @both
    def test_resolver_on_the_hosts_loopback_without_the_map(self, net):
        self.lab.resolv_conf(f"nameserver {net.loopback}")
        for options in ([], ["-4"]):
            with lab.Dns(self.lab.host, net.loopback), self.lab.guest("--no-map-gw", *options) as guest:
                self.assert_resolves(guest)

    def test_resolver_of_the_ip_version_that_the_guest_lacks(self):
        for resolver, option in ((lab.REMOTE4, "-6"), (lab.REMOTE6, "-4")):
            self.lab.resolv_conf(f"nameserver {resolver}")
            with lab.Dns(self.lab.remote, resolver) as server, self.lab.guest(option) as guest:
                # getent's ahostsv4 asks nothing without an IPv4 address.
                guest.run("getent", "hosts", "www.example", check=False)
                self.assertIn("www.example", [name for name, _ in server.questions], option)

    def test_no_resolver_means_the_local_machine(self):
        for line in ("# nothing", "nameserver 0.0.0.0"):
            self.lab.resolv_conf(line)
            with lab.Dns(self.lab.host, "127.0.0.1"), self.lab.guest() as guest:
                self.assert_resolves(guest)

    def test_b111_forward_address_without_the_map(self):
        self.lab.resolv_conf("nameserver 127.0.0.53")
        options = ("--dns-forward", "169.254.1.1", "--no-map-gw")
        with lab.Dns(self.lab.host, "127.0.0.53"), self.lab.guest(*options) as guest:
            self.assertIn("nameserver 169.254.1.1\n", guest.output("cat /etc/resolv.conf"))
            self.assert_resolves(guest)

    def test_options_are_kept(self):
        self.lab.resolv_conf("nameserver 127.0.0.53", "options edns0 ndots:3")
        with self.lab.guest() as guest:
            self.assertIn("options edns0 ndots:3\n", guest.output("cat /etc/resolv.conf"))

    def test_none(self):
        with self.lab.guest("-D", "none", "-S", "none") as guest:
            text = guest.output("cat /etc/resolv.conf")
        self.assertNotIn("nameserver", text)
        self.assertNotIn("search", text)

    def test_search_option(self):
        with self.lab.guest("-S", "one.test", "-S", "two.test") as guest:
            self.assertIn("search one.test two.test\n", guest.output("cat /etc/resolv.conf"))

    def test_search_domains_are_kept(self):
        self.lab.resolv_conf(f"nameserver {lab.REMOTE4}", "search inner.test outer.test")
        with lab.Dns(self.lab.remote, lab.REMOTE4) as server, self.lab.guest() as guest:
            guest.run("getent", "ahostsv4", "shortname", check=False)
        self.assertIn("shortname.inner.test", [name for name, _ in server.questions])

    def test_dns_option_replaces_the_hosts_resolvers(self):
        with lab.Dns(self.lab.far, lab.FAR4), self.lab.guest("-D", lab.FAR4) as guest:
            self.assert_resolves(guest)

    def test_attach_leaves_files_alone(self):
        self.lab.resolv_conf("nameserver 127.0.0.53")
        before = self.lab.call(["cat", "/etc/resolv.conf"]).stdout
        with self.lab.attached() as guest:
            self.assertEqual(guest.output("cat /etc/resolv.conf"),
                             self.lab.call(self.lab.as_root(["cat", "/etc/resolv.conf"])).stdout)
        self.assertEqual(self.lab.call(["cat", "/etc/resolv.conf"]).stdout, before)

    def test_the_hosts_file_is_untouched(self):
        path = f"/etc/netns/{self.lab.name}host/resolv.conf"
        before = os.stat(path).st_mtime_ns
        with self.lab.guest():
            pass
        self.assertEqual(os.stat(path).st_mtime_ns, before)
