"""`make docs` builds the whole site without a network, and the site asks for nothing elsewhere."""

import importlib
import re
import subprocess
import sys

import pytest
from support.documents import ROOT

pytest.importorskip("mkdocs", reason="needs the extra `docs`: pip install -e '.[docs]'")

# A network that is not there: every connection fails at once.
BUILD = """
import socket, sys

def refuse(*_, **__):
    raise AssertionError("the build asked for the network")

socket.socket.connect = refuse
socket.getaddrinfo = refuse
from mkdocs.__main__ import cli
cli(["build", "--strict", "--site-dir", sys.argv[1]])
"""
TAG = r"<(?:script|img|iframe|link)\b[^>]*?"
LOADED = re.compile(TAG + r"""(?:src|href)=["']?(https?://[^"'> ]+)""")
PACKAGES = ("policy_server", "sim", "edp_robot", "calibration")


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-c", BUILD, str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def test_pages_load_nothing_from_elsewhere(site):
    pages = list(site.rglob("*.html"))
    assert len(pages) > 20
    found = {url for page in pages for url in LOADED.findall(page.read_text())}
    assert not found


@pytest.mark.parametrize("package", PACKAGES)
def test_public_names_have_an_entry(site, package):
    page = (site / "api" / f"{package}.html").read_text()
    names = importlib.import_module(package).__all__
    missing = [name for name in names if f'id="{package}.{name}"' not in page]
    assert names and not missing


def test_what_pages_load_is_found():
    page = '<script src="https://cdn.example.org/a.js"></script><img src="images/a.png">'
    assert LOADED.findall(page) == ["https://cdn.example.org/a.js"]
