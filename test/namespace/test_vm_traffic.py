"""Tests of other modules once more, with the guest behind a socket: what they say of traffic holds for every link."""

import test_forward
import test_icmp
import test_regress_traffic
import test_stress
import test_tcp
import test_translation
import test_udp
from support import VmCase


class TcpTargets(VmCase, test_tcp.Targets):
    pass


class TcpEndings(VmCase, test_tcp.Endings):
    pass


class TcpSlowReaders(VmCase, test_tcp.SlowReaders):
    pass


class TcpReal(VmCase, test_tcp.Real):
    pass


class TcpOdd(VmCase, test_tcp.Odd):
    pass


class UdpTargets(VmCase, test_udp.Targets):
    pass


class UdpErrors(VmCase, test_udp.Errors):
    pass


class UdpManyReceivers(VmCase, test_udp.ManyReceivers):
    pass


class UdpLoss(VmCase, test_udp.Loss):
    pass


class Ping(VmCase, test_icmp.Ping):
    pass


class Routes(VmCase, test_icmp.Routes):
    pass


class TcpForwards(VmCase, test_forward.Tcp):
    pass


class UdpForwards(VmCase, test_forward.Udp):
    pass


class Floods(VmCase, test_stress.Floods):
    pass


class Many(VmCase, test_stress.Many):
    pass


class Wire(VmCase, test_regress_traffic.Wire):
    pass


class TcpRegressions(VmCase, test_regress_traffic.Tcp):
    pass


class UdpRegressions(VmCase, test_regress_traffic.Udp):
    pass


class GuestAddress(VmCase, test_translation.GuestAddress):
    pass


class HostLoopback(VmCase, test_translation.HostLoopback):
    # There is no way past the link.
    options = tuple(option for option in test_translation.HostLoopback.options if option != "--no-splice")


class LinkLocal(VmCase, test_translation.LinkLocal):
    pass


class Moved(VmCase, test_translation.Moved):
    pass
