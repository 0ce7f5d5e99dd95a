"""The examples of contrib/, given to the programs that read them."""

import os
import pathlib
import subprocess

import lab
from support import CONTRIB, Case


class Examples(Case):
    def setUp(self):
        super().setUp()
        self.install("spelt")

    def test_units(self):
        """Those of the package, for which systemd looks up programs and manuals as well. It has nothing to say."""
        for unit in ("spelt-vm@.socket", "spelt-vm-control@.socket", "spelt-vm@.service", "spelt-attach@.service"):
            self.assertEqual(self.world.user(f"systemd-analyze --user verify /usr/lib/systemd/user/{unit}"), "", unit)
        for unit in ("spelt-attach@.service", "spelt-respond.service"):
            self.assertEqual(self.world.root(f"systemd-analyze verify /usr/lib/systemd/system/{unit}"), "", unit)

    def test_command_lines_of_units(self):
        """Would start, with what the units' comments have as options."""
        self.world.user("spelt vm --check --foreground --one-off -t 2222:22 --vhost-user")
        self.world.root("ip netns add web; spelt attach --check --foreground -t 8080:80 -- web; ip netns del web")

    def test_quadlet(self):
        self.example("containers/web.container", "/home/user/.config/containers/systemd/web.container")
        said = self.world.user("/usr/libexec/podman/quadlet -dryrun -user 2>&1")
        self.assertIn("--network pasta", said)
        self.assertIn("--publish 8080:80", said)
        self.assertNotIn("rror", said)

    def test_podman(self):
        """A container by containers.conf, while no pasta is in any search path."""
        self.example("containers/containers.conf", "/home/user/.config/containers/containers.conf.d/spelt.conf")
        self.world.write("/etc/containers/containers.conf", '[containers]\ncgroups = "disabled"\nlog_driver = "k8s-file"\n'
                         '[engine]\ncgroup_manager = "cgroupfs"\nevents_logger = "file"\n')
        self.world.user("podman import -q /packages/image.tar localhost/test:latest")
        url = self.serve()
        said = self.world.user(f"podman run --rm localhost/test:latest /bin/wget -qO- {url}")
        self.assertEqual(said, "hello from the next machine\n")

    def test_rootlesskit(self):
        """By the links, which come first in its search path."""
        url = self.serve()
        for options in ("--net=pasta", "--net=slirp4netns --slirp4netns-binary=/usr/libexec/spelt/slirp4netns"):
            said = self.world.user(f"PATH=/usr/libexec/spelt:$PATH rootlesskit {options} --copy-up=/etc"
                                   f" --disable-host-loopback curl -sf {url}")
            self.assertIn("hello from the next machine\n", said, options)

    def test_libvirt(self):
        for name in ("passt.xml", "vhost-user.xml"):
            self.example(f"libvirt/{name}", f"/tmp/{name}")
            self.assertIn("validates", self.world.user(f"virt-xml-validate /tmp/{name} domain"))

    def test_libvirt_starts_machines(self):
        """Of an ordinary user, by both files: without KVM, which this machine may not have, and with a disk that is empty."""
        self.install("spelt-passt")
        for name in ("passt", "vhost-user"):
            self.example(f"libvirt/{name}.xml", f"/home/user/{name}.xml")
        self.world.user("qemu-img create -q -f qcow2 guest.qcow2 16M; libvirtd -d;"
                        " sed -i \"s/type='kvm'/type='qemu'/; s,/var/lib/libvirt/images,$HOME,\" *.xml")
        virsh = "virsh -q -c qemu:///session"
        self.world.user(f"for i in $(seq 50); do {virsh} list && break; sleep 0.1; done; {virsh} create passt.xml")
        self.assertEqual(self.world.root("pgrep -c -f '^passt --one-off --socket'"), "1\n")
        self.assertIn("127.0.0.1:2222", self.world.root("ss -Hltn"))
        self.world.user(f"{virsh} destroy spelt-passt; for i in $(seq 50); do pgrep passt || exit 0; sleep 0.1; done; exit 1")

        self.world.user("spelt vm -q --vhost-user --socket /run/user/1000/spelt-vm-guest.socket;"
                        f" {virsh} create vhost-user.xml")
        self.assertIn("running", self.world.user(f"{virsh} domstate spelt-vhost-user"))
        self.world.user(f"{virsh} destroy spelt-vhost-user; spelt ctl stats; spelt ctl quit")

    def test_bubblewrap(self):
        url = self.serve()
        said = self.world.user("bwrap --unshare-user --unshare-net --unshare-pid --bind / / --dev /dev --info-fd 3"
                               " sleep 30 3>info & sleep 1; pid=$(grep child-pid info | tr -dc 0-9); spelt attach -q $pid;"
                               f" nsenter -t $pid -U -n --preserve-credentials curl -sf {url}; kill %1")
        self.assertEqual(said, "hello from the next machine\n")

    def test_metrics(self):
        self.example("node_exporter/spelt-metrics", "/tmp/spelt-metrics")
        said = self.world.user("spelt run -q -- sleep 30 & for i in $(seq 50); do spelt list | grep -q sleep && break;"
                               " sleep 0.1; done; sh /tmp/spelt-metrics; kill %1")
        self.assertRegex(said, r'spelt_[a-z_]+\{pid="[0-9]+"')

    def test_ping(self):
        self.example("60-ping-group-range.conf", "/etc/sysctl.d/60-ping-group-range.conf")
        self.world.root("sysctl -w net.ipv4.ping_group_range='1 0'; sysctl -p /etc/sysctl.d/60-ping-group-range.conf")
        self.assertIn("0% packet loss", self.world.user(f"spelt run -q -- ping -c 1 -W 5 {lab.REMOTE4}"))

    def test_index(self):
        """contrib/README.md names each file there is."""
        with open(os.path.join(CONTRIB, "README.md"), encoding="utf-8") as file:
            index = file.read()
        for directory, _, files in os.walk(CONTRIB):
            for name in files:
                inside = pathlib.PurePath(directory, name).relative_to(CONTRIB)
                named = [str(inside), name, *(f"{parent}/" for parent in inside.parents)]
                self.assertTrue(name == "README.md" or any(f"`{one}`" in index for one in named), inside)


class Machines(Case):
    """contrib/qemu/spelt-qemu with the QEMU of this machine, which boots nothing: the card's link comes up without a guest."""

    def connected(self, *options):
        path = os.path.join(CONTRIB, "qemu", "spelt-qemu")
        control = os.path.join(self.lab.dir, "qemu-control")
        environment = ["env", f"SPELT={self.lab.program.path}", "XDG_RUNTIME_DIR=", "VECTORS=0"]
        argv = self.lab.as_user([*environment, "bash", "-s", "--", *options, "--control", control, "--memory", "64M", "--",
                                 "-nodefaults", "-display", "none", "-S"])
        with open(path, "rb") as script, open(self.lab.file("qemu"), "w+b") as log:
            process = self.lab.popen(argv, stdin=script, stdout=log, stderr=log)
            self.addCleanup(self.lab.end, process)
            ask = self.lab.as_user([self.lab.program.path, "ctl", "-i", control, "stats"])
            lab.wait_until(lambda: subprocess.run(ask, capture_output=True, check=False).returncode == 0, 10, "the program")
            machines = lab.wait_until(lambda: self.machines(process), 10, "QEMU")
            # It ends with QEMU, and nothing of it stays.
            serving = self.lab.translators()
            self.assertEqual(len(serving), 1)
            os.kill(machines[0], 15)
            process.wait(10)
            lab.wait_until(lambda: not self.lab.translators(), 10, "the end of spelt")
            log.seek(0)
            return log.read().decode()

    def machines(self, process):
        return [pid for pid in lab.descendants(process.pid) if "qemu" in lab.comm(pid)]

    def test_stream(self):
        self.assertNotIn("rror", self.connected("-t", "2222:22"))

    def test_vhost_user(self):
        self.assertNotIn("rror", self.connected("--vhost-user"))
