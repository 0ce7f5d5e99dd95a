"""What the tests share: one laboratory, and for each test a system of its own."""

import os
import subprocess
import unittest

import lab
from world import World

REPOSITORY = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
CONTRIB = os.path.join(REPOSITORY, "contrib")
PORT = 8000


class Case(unittest.TestCase):
    maxDiff = 4000
    systemd = False
    _laboratory = None

    @property
    def lab(self):
        if Case._laboratory is None:
            Case._laboratory = lab.Lab()
        return Case._laboratory

    @staticmethod
    def end():
        if Case._laboratory is not None:
            Case._laboratory.close()

    def setUp(self):
        self.world = World(self.lab, os.environ["SPELT_PACKAGE_ROOT"], os.environ["SPELT_PACKAGES"], self.systemd)
        self.addCleanup(self.world.close)

    def serve(self):
        """A web server on the next machine, and its address."""
        directory = os.path.join(self.lab.dir, "www")
        os.makedirs(directory, exist_ok=True)
        with open(os.path.join(directory, "hello"), "w", encoding="ascii") as file:
            file.write("hello from the next machine\n")
        argv = ["python3", "-m", "http.server", str(PORT), "--bind", lab.REMOTE4, "--directory", directory]
        server = self.lab.popen(self.lab.as_root(argv, self.lab.remote), stdin=subprocess.DEVNULL,
                                stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self.addCleanup(self.lab.end, server)
        url = f"http://{lab.REMOTE4}:{PORT}/hello"
        self.world.user(f"for i in $(seq 50); do curl -sf {url} && exit; sleep 0.1; done; exit 1")
        return url

    def example(self, name, path):
        """A file of contrib/, put where the programs that read it look for it."""
        with open(os.path.join(CONTRIB, name), encoding="utf-8") as file:
            text = file.read()
        self.world.root(f"mkdir -p {os.path.dirname(path)}")
        self.world.write(path, text)
        self.world.root("chown -R user: /home/user")

    def install(self, *packages, **more):
        return self.world.root(f"apt-get -q install -y {' '.join(f'/packages/{name}.deb' for name in packages)}", **more)

    def is_installed(self, package):
        said = self.world.root(f"dpkg-query -W -f '${{db:Status-Status}}' {package} 2>/dev/null || true")
        return said == "installed"
