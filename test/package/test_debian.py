"""The packages: what they bring, what they leave alone, and that nothing stays."""

from support import Case

OURS = ("spelt", "spelt-passt", "spelt-slirp4netns")
NAMES = ("passt", "pasta", "pesto")


class Package(Case):
    def test_lintian_finds_no_error(self):
        said = self.world.root(f"lintian --fail-on error {' '.join(f'/packages/{name}.deb' for name in OURS)}")
        self.assertNotIn("E:", said)
        print(said, end="")

    def test_the_program_alone(self):
        """It takes no name that others have."""
        before = self.world.files()
        self.install("spelt")
        self.assertIn("spelt ", self.world.user("spelt --version"))
        for name in (*NAMES, "slirp4netns"):
            self.world.user(f"command -v {name}", status=1)
            self.assertIn(name, self.world.user(f"/usr/libexec/spelt/{name} --version").splitlines()[0])
        url = self.serve()
        self.assertEqual(self.world.user(f"spelt run -q -- curl -sf {url}"), "hello from the next machine\n")
        self.assertRegex(self.world.user("spelt doctor"), "\nspelt can (run|do all it knows) here")
        self.assertEqual(self.world.root("find /etc -newer /packages -path '*spelt*'"), "")
        self.world.root("apt-get -q purge -y spelt")
        self.assertEqual(self.world.files(), before)

    def test_manual_and_completions(self):
        self.install(*OURS)
        for page in ("spelt", "spelt-ctl", "spelt-respond", "spelt-announce", *NAMES, "slirp4netns"):
            self.assertIn(page, self.world.user(f"MANWIDTH=80 man {page} | head -n 1").lower())
        said = self.world.user('set +eu; . /usr/share/bash-completion/bash_completion; _comp_load spelt || _completion_loader'
                               ' spelt; COMP_WORDS=(spelt respond --docker); COMP_CWORD=2; _spelt; echo "${COMPREPLY[@]}"')
        self.assertEqual(said, "--docker-network\n")
        self.assertIn("flows", self.world.user("fish -c \"complete -C 'spelt ctl flo'\""))

    def test_the_names(self):
        before = self.world.files()
        self.install(*OURS)
        url = self.serve()
        for name in (*NAMES, "slirp4netns"):
            self.assertEqual(self.world.user(f"readlink -f /usr/bin/{name}"), "/usr/bin/spelt\n")
            self.assertIn(f"/usr/libexec/spelt/{name}", self.world.root(f"update-alternatives --list {name}"))
            self.assertIn(name, self.world.user(f"{name} --version").splitlines()[0])
        self.assertEqual(self.world.user(f"pasta -q --config-net -- curl -sf {url}"), "hello from the next machine\n")
        # What asks for Debian's packages is content.
        self.world.root("apt-get check")
        # Another build of an administrator's may be chosen.
        self.world.root("install -m 755 /usr/bin/true /usr/local/bin/other;"
                        " update-alternatives --install /usr/bin/pasta pasta /usr/local/bin/other 10;"
                        " update-alternatives --set pasta /usr/local/bin/other")
        # As an update does it: the choice stays.
        self.world.root("dpkg -i /packages/spelt.deb /packages/spelt-passt.deb")
        self.assertEqual(self.world.user("readlink -f /usr/bin/pasta"), "/usr/local/bin/other\n")
        self.world.root("update-alternatives --remove pasta /usr/local/bin/other; rm /usr/local/bin/other")
        self.world.root("apt-get -q purge -y spelt")
        self.assertFalse(any(map(self.is_installed, OURS)))
        self.assertEqual(self.world.files(), before)

    def test_beside_debians_passt(self):
        """Theirs is left alone by the program, is exchanged by the names, and comes back whole."""
        self.install("passt", "slirp4netns")
        theirs = self.world.files()
        self.install("spelt")
        self.assert_theirs()
        self.world.root("apt-get -q purge -y spelt")
        self.assertEqual(self.world.files(), theirs)

        self.install(*OURS)
        self.assertFalse(self.is_installed("passt") or self.is_installed("slirp4netns"))
        self.assertEqual(self.world.user("readlink -f $(command -v pasta)"), "/usr/bin/spelt\n")

        self.install("passt", "slirp4netns")
        self.assertFalse(self.is_installed("spelt-passt") or self.is_installed("spelt-slirp4netns"))
        self.assertTrue(self.is_installed("spelt"))
        self.assert_theirs()
        self.world.root("apt-get -q purge -y 'spelt*'")
        self.assert_theirs()
        self.assertEqual(self.world.files(), theirs)

    def test_with_dpkg_alone(self):
        """Which replaces theirs, as ours asks for that, and refuses theirs as long as ours is there. Nothing is half there."""
        self.world.root("dpkg -i /packages/passt.deb /packages/spelt.deb")
        self.world.root("dpkg -i /packages/spelt-passt.deb")
        self.assertFalse(self.is_installed("passt"))
        self.assertIn("pasta", self.world.user("pasta --version").splitlines()[0])
        self.assertIn("spelt-passt conflicts with passt", self.world.root("dpkg -i /packages/passt.deb", status=1))
        self.assertEqual(self.world.user("readlink -f /usr/bin/pasta"), "/usr/bin/spelt\n")
        self.world.root("dpkg -r spelt-passt; dpkg -i /packages/passt.deb")
        self.assertEqual(self.world.root("dpkg -V passt; update-alternatives --list pasta 2>&1 || true"),
                         "update-alternatives: error: no alternatives for pasta\n")
        self.world.root("dpkg --audit; dpkg --purge spelt-passt spelt; dpkg -V passt")

    def assert_theirs(self):
        self.assertEqual(self.world.root("dpkg -V passt slirp4netns"), "")
        for name in ("passt", "pasta", "slirp4netns"):
            self.assertNotIn("spelt", self.world.user(f"readlink -f /usr/bin/{name}"))
            self.world.user(f"{name} --version")
