"""contrib/install.sh, as an ordinary user who has the source and a program that was built."""

import os
import tarfile
import tempfile

from support import REPOSITORY, Case

PARTS = ("contrib", "doc/man", "LICENSE-MIT")


class Install(Case):
    def setUp(self):
        super().setUp()
        self.world.root("apt-get -q install -y /packages/spelt.deb && cp /usr/bin/spelt /tmp/built"
                        " && apt-get -q purge -y spelt && chmod 755 /tmp/built")
        with tempfile.NamedTemporaryFile(suffix=".tar") as archive:
            with tarfile.open(archive.name, "w") as tar:
                for part in PARTS:
                    tar.add(os.path.join(REPOSITORY, part), f"source tree/{part}")
            self.world.copy(archive.name, "/tmp/source.tar")
        self.world.user("tar -xf /tmp/source.tar")
        self.script = "'source tree/contrib/install.sh'"

    def home(self):
        return set(self.world.user("find . -path './source tree' -prune -o -print").splitlines())

    def test_of_a_built_program(self):
        before = self.home()
        said = self.world.user(f"{self.script} --binary /tmp/built --links")
        self.assertIn("is not in your PATH yet", said)
        self.assertRegex(said, "\nspelt can (run|do all it knows) here")
        path = "PATH=$HOME/.local/bin:$PATH"
        self.assertIn("spelt ", self.world.user(f"{path} spelt --version"))
        for name in ("passt", "pasta", "pesto", "slirp4netns"):
            for where in (f"{path} {name}", f".local/libexec/spelt/{name}"):
                self.assertIn(name, self.world.user(f"{where} --version").splitlines()[0])
        url = self.serve()
        self.assertEqual(self.world.user(f"{path} spelt run -q -- curl -sf {url}"), "hello from the next machine\n")
        self.assertIn("flows", self.world.user(f"{path} fish -c \"complete -C 'spelt ctl flo'\""))
        for page in ("spelt", "pasta"):
            self.assertIn(page, self.world.user(f"{path} MANWIDTH=80 man {page} | head -n 1").lower())
        units = self.world.user("grep -h ^ExecStart= .local/share/systemd/user/*.service").splitlines()
        self.assertEqual(len(units), 2)
        for unit in units:
            self.assertTrue(unit.startswith("ExecStart=/home/user/.local/bin/spelt "), unit)
        self.world.user(f"{path} systemd-analyze --user verify .local/share/systemd/user/spelt-vm@.service")

        # Once more, with less: what is not wanted any more goes.
        self.world.user(f"{self.script} --binary /tmp/built --links=pasta")
        self.assertEqual(self.world.user("ls .local/bin"), "pasta\nspelt\n")
        self.world.user(f"{self.script} --uninstall")
        self.assertEqual(self.home() - before - {"./.cache"}, set(self.leftovers()))
        self.assertIn("is missing", self.world.user(f"{self.script} --uninstall", status=1))

    def leftovers(self):
        """What fish keeps of its own."""
        return [path for path in self.home() if "fish" in path or path in ("./.config", "./.local", "./.local/share")]

    def test_it_overwrites_nothing_of_others(self):
        self.world.user("mkdir -p .local/bin; echo mine >.local/bin/pasta")
        before = self.home()
        said = self.world.user(f"{self.script} --binary /tmp/built --links", status=1)
        self.assertIn("'/home/user/.local/bin/pasta' exists, and this script has not installed it", said)
        self.assertEqual(self.home(), before)
        self.world.user(f"{self.script} --binary /tmp/built --links=passt")
        self.world.user(f"{self.script} --uninstall")
        self.assertEqual((self.home(), self.world.user("cat .local/bin/pasta")), (before, "mine\n"))

    def test_what_it_refuses(self):
        for options, text in (("--links=nosuch", "does not know 'nosuch'"), ("--binary /usr/bin/true", "is not spelt"),
                              ("--binary /nosuch", "does not run"), ("--nosuch", "there is no option '--nosuch'"),
                              ("--prefix '/tmp/a b'", "has characters other than"),
                              ("", "there is no cargo")):
            self.assertIn(text, self.world.user(f"{self.script} {options}", status=1))
        self.assertIn("--uninstall", self.world.user(f"{self.script} --help"))
        self.world.user("! test -e .local")

    def test_another_prefix(self):
        self.world.root(f"cp -r '/home/user/source tree' /root/source; /root/source/contrib/install.sh --binary /tmp/built"
                        " --prefix=/usr/local")
        self.assertIn("spelt ", self.world.user("spelt --version"))
        self.world.user("systemd-analyze --user verify spelt-vm@one.socket spelt-attach@one.service")
        self.world.root("/root/source/contrib/install.sh --uninstall --prefix /usr/local")
        self.assertEqual(self.world.root("find /usr/local -name '*spelt*'"), "")
