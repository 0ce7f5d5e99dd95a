"""A path with delay and loss between the host and the other end."""

import socket
import time

from support import Case, both, limit

FIFTY_MEGABYTES = 50_000_000


class DelayAndLoss(Case):
    """At 10 ms single segments are lost, at 50 ms whole TSO frames: with segments CUBIC alone would take a minute."""

    options = ()

    def assert_transfers(self, net, round_trip_ms, server_sends, guest_sends, **more):
        bracket = "[%s]" if net.af == socket.AF_INET6 else "%s"
        with self.lab.relay(round_trip_ms / 2, 0.001, seed=round_trip_ms, **more), \
                self.lab.service(self.lab.far, "stream", "--listen", f"{bracket % net.slow}:5998", "--send",
                                 server_sends, "--seconds", 50) as server:
            client = self.lab.traffic(self.guest, "stream", "--connect", f"{bracket % net.slow}:5998", "--send",
                                      guest_sends, "--seed", 2, "--seconds", 50)
            served = server.result()
        near, far = client["streams"][0], served["streams"][0]
        self.assertEqual((near["received"], far["received"]), (server_sends, guest_sends))
        self.assertEqual((near["received_hash"], far["received_hash"]), (far["sent_hash"], near["sent_hash"]))

    @both
    @limit(60)
    def test_50_megabytes_out_at_10_ms(self, net):
        self.assert_transfers(net, 10, 0, FIFTY_MEGABYTES, no_offload=True)

    @both
    @limit(60)
    def test_50_megabytes_in_at_10_ms(self, net):
        self.assert_transfers(net, 10, FIFTY_MEGABYTES, 0, no_offload=True)

    @both
    @limit(60)
    def test_50_megabytes_out_at_50_ms(self, net):
        self.assert_transfers(net, 50, 0, FIFTY_MEGABYTES)

    @both
    @limit(60)
    def test_50_megabytes_in_at_50_ms(self, net):
        self.assert_transfers(net, 50, FIFTY_MEGABYTES, 0)

    def test_round_trip_is_the_paths(self):
        with self.lab.relay(20), self.lab.service(self.lab.far, "echo", "--listen", "198.18.0.2:5997"):
            done = self.lab.traffic(self.guest, "tcp-rr", "--connect", "198.18.0.2:5997", "--count", 30)
        self.assertLess(done["p50_us"], 43_000)

    def test_vanished_path_does_not_hold_up_other_connections(self):
        with self.lab.relay(1):
            near, far = self.pair(self.lab.far, "198.18.0.2")
            self.assert_connected(near, far)
        near.sendall(b"x" * 50_000)
        began = time.monotonic()
        self.assert_connected(*self.pair(self.lab.remote, "192.0.2.10"))
        self.assertLess(time.monotonic() - began, 1)
