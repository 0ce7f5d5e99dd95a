"""Echo and ICMP errors, as the usual tools show them."""

from support import Case, both


class Ping(Case):
    options = ()

    def ping(self, *arguments):
        return self.guest.run("ping", *arguments, check=False).stdout

    @both
    def test_gateway(self, net):
        self.assertIn(" 0% packet loss", self.ping("-c3", "-i0.2", "-W2", net.gateway))

    @both
    def test_another_host(self, net):
        self.assertIn(" 0% packet loss", self.ping("-c3", "-i0.2", "-W2", net.remote))

    @both
    def test_host_behind_a_router(self, net):
        self.assertIn(" 0% packet loss", self.ping("-c3", "-i0.2", "-W2", net.far))

    @both
    def test_large(self, net):
        self.assertIn(" 0% packet loss", self.ping("-c2", "-i0.2", "-W2", "-s", "3000", net.remote))

    @both
    def test_interval_does_not_matter(self, net):
        # ping waits only twice the longest round trip for the last answer: not long on a busy machine.
        shown = self.ping("-c50", "-i0.01", "-W2", net.remote)
        answered = {int(word.partition("=")[2]) for word in shown.split() if word.startswith("icmp_seq=")}
        self.assertLessEqual(set(range(1, 50)), answered)

    @both
    def test_dead_host(self, net):
        self.assertIn("nreachable", self.ping("-c5", "-i1", "-W4", net.dead))

    @both
    def test_unreachable_network(self, net):
        self.assertIn("nreachable", self.ping("-c2", "-i0.3", "-W2", net.unreachable))

    @both
    def test_hop_limit(self, net):
        self.assertIn(f"From {net.gateway}", self.ping("-n", "-c2", "-i0.3", "-W2", "-t1", net.far))

    @both
    def test_two_at_the_same_time(self, net):
        both_of_them = self.guest.output(f"ping -c5 -i0.2 -W2 {net.remote} & ping -c5 -i0.2 -W2 {net.far}; wait")
        self.assertEqual(both_of_them.count(" 0% packet loss"), 2)


class Routes(Case):
    options = ()

    @both
    def test_b64_traceroute_shows_each_router(self, net):
        lines = self.guest.output("traceroute", "-n", "-q1", "-w2", "-m4", net.far).splitlines()[1:]
        self.assertEqual([line.split()[1] for line in lines], [net.gateway, net.far])

    @both
    def test_traceroute_by_echo_shows_each_router(self, net):
        lines = self.guest.output("traceroute", "-n", "-I", "-q1", "-w2", "-m4", net.far).splitlines()[1:]
        self.assertEqual([line.split()[1] for line in lines], [net.gateway, net.far])

    @both
    def test_tracepath_reaches_the_host(self, net):
        self.assertIn("reached", self.guest.output("tracepath", "-n", "-m5", net.far))

    @both
    def test_tracepath_finds_the_path_mtu(self, net):
        self.assertIn("pmtu 1400", self.guest.output("tracepath", "-n", "-m5", net.far))
