"""The units, under a systemd that runs: of the system, and of an ordinary user."""

import lab
from support import Case

CONTROL = "/run/user/1000/spelt-vm-guest-control.socket"


class Units(Case):
    systemd = True

    def setUp(self):
        super().setUp()
        lab.wait_until(self.is_up, 60, "systemd")
        self.install("spelt")

    def is_up(self):
        said = self.world.root("systemctl is-system-running || true").strip()
        return said in ("running", "degraded")

    def user_manager(self):
        self.world.root("loginctl enable-linger user")
        lab.wait_until(lambda: "running" in self.world.user("systemctl --user is-system-running || true"), 30, "user's systemd")

    def wait_for(self, state, unit, manager=""):
        def of(command):
            return (self.world.user if manager else self.world.root)(f"systemctl {manager} {command} {unit} || true")
        lab.wait_until(lambda: of("is-active").strip() == state, 10, f"{unit} {state}")
        return of("show -p StatusText")

    def test_attach_of_the_system(self):
        url = self.serve()
        self.world.root("mkdir -p /etc/spelt; echo 'SPELT_OPTIONS=\"-t 8080:80\"' >/etc/spelt/attach-web.conf;"
                        " ip netns add web; systemctl start spelt-attach@web")
        # Ready means ready.
        self.assertIn("Serving the namespace", self.wait_for("active", "spelt-attach@web"))
        self.assertEqual(self.world.root(f"ip netns exec web curl -sf {url}"), "hello from the next machine\n")
        self.assertIn(":8080", self.world.root("ss -Hltn"))
        self.world.root("ip netns del web")
        self.wait_for("inactive", "spelt-attach@web")

    def test_machines_of_a_user(self):
        self.user_manager()
        self.world.user("mkdir -p .config/spelt; echo 'SPELT_OPTIONS=\"-t 2222:22\"' >.config/spelt/vm-guest.conf;"
                        " systemctl --user enable --now spelt-vm@guest.socket spelt-vm-control@guest.socket")
        self.wait_for("inactive", "spelt-vm@guest.service", "--user")
        self.assertNotIn(":2222", self.world.root("ss -Hltn"))
        # Whoever asks first begins it.
        self.assertIn("vm", self.world.user(f"spelt ctl -i {CONTROL} stats; spelt ctl -i {CONTROL} info"))
        self.assertIn("Serving virtual machines", self.wait_for("active", "spelt-vm@guest.service", "--user"))
        self.assertIn(":2222", self.world.root("ss -Hltn"))
        self.world.user("systemctl --user stop spelt-vm@guest.service")
        # And the next machine that connects.
        self.wait_for("inactive", "spelt-vm@guest.service", "--user")
        self.world.user("timeout 20 qemu-system-x86_64 -nodefaults -display none -S -device virtio-net-pci,netdev=net -netdev"
                        " stream,id=net,server=off,addr.type=unix,addr.path=/run/user/1000/spelt-vm-guest.socket &")
        self.wait_for("active", "spelt-vm@guest.service", "--user")

    def test_namespace_and_command_of_a_user(self):
        url = self.serve()
        self.user_manager()
        said = self.world.user("unshare -r -n sleep 60 & systemctl --user start spelt-attach@$!; systemctl --user is-active"
                               f" spelt-attach@$!; nsenter -t $! -U -n --preserve-credentials curl -sf {url}; kill $!")
        self.assertEqual(said, "active\nhello from the next machine\n")
        said = self.world.user("systemd-run --user --unit=command -p Type=notify spelt run -t 8081:81 -- sleep 60; spelt list")
        self.assertIn("sleep 60", said)
        self.assertIn(":8081", self.world.root("ss -Hltn"))

    def test_container_of_a_user(self):
        """web.container, with an image of ours and with what containers.conf says; clients keep their addresses."""
        self.user_manager()
        self.example("containers/containers.conf", "/home/user/.config/containers/containers.conf.d/spelt.conf")
        self.example("containers/web.container", "/home/user/.config/containers/systemd/web.container")
        # Controllers of cgroups may be those of another version on this machine.
        self.world.write("/etc/containers/containers.conf", "[containers]\npids_limit = 0\n")
        # The generated unit waits for the network to be up, which nobody in this system says.
        self.world.root("systemctl start network-online.target")
        self.world.user("podman import -q /packages/image.tar localhost/test:latest;"
                        " mkdir www; echo hello from inside >www/hello;"
                        " sed -i s,^Image=.*,Image=localhost/test:latest, .config/containers/systemd/web.container;"
                        " systemctl --user daemon-reload; systemctl --user start web || { journalctl --user -eu web; exit 1; }")
        argv = self.lab.as_root(["curl", "-sf", "--retry", "5", "--retry-connrefused", "--interface", lab.REMOTE4,
                                 f"http://{lab.HOST4}:8080/hello"], self.lab.remote)
        self.assertEqual(self.lab.call(argv).stdout, "hello from inside\n")
        self.assertIn(lab.REMOTE4, self.world.user("podman logs systemd-web 2>&1"))
        self.world.user("systemctl --user stop web")

    def test_neighbour_discovery(self):
        self.world.root("systemctl start spelt-respond")
        self.wait_for("inactive", "spelt-respond")
        self.world.root("mkdir -p /etc/spelt; echo 'SPELT_OPTIONS=\"-i eth0 --subnet 2001:db8:1:0:ff::/112\"'"
                        " >/etc/spelt/respond.conf; systemctl start spelt-respond")
        self.wait_for("active", "spelt-respond")
        self.world.root("spelt ctl -i /run/spelt/respond.sock stats")
