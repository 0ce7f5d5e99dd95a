"""The program under test: where it is, whose it is when it runs, how it is called."""

import os

USER = 65534

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
TARGET = os.environ.get("CARGO_TARGET_DIR", os.path.join(ROOT, "target"))


class Program:
    """A translator, and its command lines; those of spelt all have `options`."""

    def __init__(self, path, kind=None, options=()):
        self.path, self.options = path, options
        name = os.path.basename(path)
        self.kind = kind or next((peer for peer in ("pasta", "passt") if peer in name), "spelt")

    def run(self, options, command):
        if self.kind == "pasta":
            return [self.path, "--config-net", *options, *(["--", *command] if command else [])]
        return [self.path, "run", *self.options, *options, *(["--", *command] if command else [])]

    def attach(self, options, target):
        """Option `--no-config-net` is the absence of `--config-net` in pasta's terms."""
        if self.kind == "pasta":
            where = [target] if target.isdigit() else ["--netns", target]
            config = [] if "--no-config-net" in options else ["--config-net"]
            return [self.path, *config, *(o for o in options if o != "--no-config-net"), *where]
        return [self.path, "attach", *self.options, *options, target]

    def vm(self, options):
        """For a virtual machine."""
        return [self.path, *(["vm"] if self.kind == "spelt" else []), *self.options, *options]
