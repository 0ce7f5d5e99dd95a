"""MAC addresses of the host's neighbours as the guest sees them; doc/regressions.md lists the reports.

These say what is specified. What they need is still being built, so they may fail.
"""

import json
import socket
import subprocess

import lab
from support import Case, both


class Neighbours(Case):
    options = ()

    def seen(self, guest, addresses):
        """What the guest learns of these addresses: {address: MAC}."""
        for address in addresses:
            with guest.socket(lab.family_of(address), socket.SOCK_DGRAM) as asker:
                asker.sendto(b"anyone?", (address, 4465))
        wanted = set(addresses)

        def known():
            shown = json.loads(guest.output("ip", "-json", "neigh"))
            found = {n["dst"]: n["lladdr"] for n in shown if n["dst"] in wanted and "lladdr" in n}
            return found if len(found) == len(wanted) else None
        return lab.wait_until(known, 5, "the answers")

    @both
    def test_b120_neighbours_have_their_own_addresses(self, net):
        shown = self.lab.call(["ip", "-netns", f"{self.lab.name}remote", "-json", "link", "show", "eth0"])
        mac = json.loads(shown.stdout)[0]["address"]
        found = self.seen(self.guest, [net.remote, net.gateway])
        self.assertEqual(found[net.remote], mac)
        self.assertEqual(found[net.gateway], "9a:55:9a:55:9a:55")

    def test_b203_neighbours_that_come_while_the_program_starts(self):
        macs = {f"192.0.2.{n}": f"02:00:00:00:04:{n:02x}" for n in range(100, 250)}
        macs |= {f"2001:db8:1::{n:x}": f"02:00:00:00:06:{n:02x}" for n in range(100, 250)}
        lines = "".join(f"neigh replace {a} lladdr {m} dev eth0 nud permanent\n" for a, m in macs.items())
        batch = self.lab.file("batch")
        with open(batch, "w", encoding="ascii") as file:
            file.write(lines)
        self.addCleanup(self.lab.call, ["ip", "-netns", f"{self.lab.name}host", "-batch", "-"], check=False,
                        input=lines.replace("replace", "del").replace("nud permanent", ""))
        adding = self.lab.popen(["ip", "-netns", f"{self.lab.name}host", "-batch", batch], stdout=subprocess.DEVNULL)
        with self.lab.guest() as guest:
            self.assertEqual(adding.wait(5), 0)
            self.lab.end(adding)
            self.assertEqual(self.seen(guest, list(macs)), macs)
