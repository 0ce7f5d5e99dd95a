"""A throw-away network in namespaces, and guests in it.

    guest ----- spelt, run by an ordinary user in `host` ----- remote ----- far
                                                   \\---- relay with delay and loss ----/

host    eth0 192.0.2.2/24, 2001:db8:1::2/64, default routes to .1 and ::1; lo 203.0.113.5 and 2001:db8:4::5;
        /etc/resolv.conf of its own
remote  192.0.2.1 and .10, 2001:db8:1::1 and ::10; routes between host and far
far     198.51.100.2/24 and 2001:db8:2::2/64 behind a link of MTU 1400
bare    lo and nothing else
slow    198.18.0.1 (host) and .2 (far), 2001:db8:5::1 and ::2: only while a relay runs

A guest of vm() is behind a socket, as a virtual machine is: a namespace with a tap, and `lab plug` in QEMU's place.

The program under test is named by SPELT_BIN (default: target/release/spelt); a name that contains `pasta` or `passt` is
used with the command line of that program. Needs root. Everything is removed when the process ends, whatever ends it.
"""

# ruff: noqa: F401  (what the tests use of it)
from .addresses import (DEAD4, DEAD6, FAR4, FAR6, GATEWAY4, GATEWAY6, HOST4, HOST6, OTHER4, OTHER6, REMOTE4, REMOTE6,
                        SLOW4, SLOW6, UNREACHABLE4, UNREACHABLE6)
from .guest import QUEUE, Guest
from .laboratory import Lab
from .namespace import Namespace, family_of, tune
from .process import comm, cpu_seconds, descendants, processes, read_line, wait_until
from .program import ROOT, TARGET, USER, Program
from .service import Dns
