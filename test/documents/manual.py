"""Manual pages: those that the program's own tables make now, and without a fault that mandoc or man finds."""

import os
import re
import subprocess

import lab

DIRECTORY = os.path.join(lab.ROOT, "doc", "man")


def pages():
    return sorted(name for name in os.listdir(DIRECTORY) if name.endswith(".1"))


def check_current(tool):
    assert pages() == sorted(os.listdir(os.path.join(DIRECTORY, "source"))), "pages and sources are not the same"
    done = subprocess.run([tool, "manual", "--check", DIRECTORY], capture_output=True, text=True, timeout=10, check=False)
    assert done.returncode == 0, done.stderr


def check(page):
    path = os.path.join(DIRECTORY, page)
    lint = said(["mandoc", "-Tlint", "-Wstyle", path])
    assert lint == (0, "", ""), lint
    # As Debian's lintian asks.
    status, text, complaints = said(["man", "--warnings", "-E", "UTF-8", "-l", "-Tutf8", path])
    assert (status, complaints) == (0, ""), complaints
    # Bold letters are printed twice.
    words = " ".join(re.sub(".\b", "", text).split())
    assert f"NAME {page.removesuffix('.1')} - " in words and "EXIT STATUS" in words, words[:500]


def said(argv):
    """Status, standard output, standard error."""
    environment = {**os.environ, "MANWIDTH": "80", "LC_ALL": "C.UTF-8", "MANROFFSEQ": "", "MANPAGER": "cat"}
    done = subprocess.run(argv, capture_output=True, text=True, timeout=10, check=False, env=environment)
    return done.returncode, done.stdout, done.stderr
