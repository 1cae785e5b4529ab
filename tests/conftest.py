"""Settings and fixtures of all tests."""

import gc
import os
import signal

import pytest
from xdist.scheduler import LoadFileScheduling

pytest_plugins = ["support.serving"]  # fixtures of bundles and running servers

# Tiny shapes gain nothing from a second thread, and waiting threads burn what others need.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# A shell's background job ignores SIGINT, and one under nohup SIGHUP; so do their children. Tests
# send both to commands.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
for name in ("SIGHUP", "SIGQUIT"):
    number = getattr(signal, name, None)
    if number is not None and signal.getsignal(number) is signal.SIG_IGN:
        signal.signal(number, signal.SIG_DFL)


@pytest.fixture(scope="module", autouse=True)
def few_collections():
    """Stops the garbage collector in a file's tests.

    Every control run and measurement begins with a collection, which takes 0.2 s once torch and
    its objects are loaded.
    """
    gc.disable()
    yield
    gc.enable()


class FileScheduling(LoadFileScheduling):
    """Gives each process a file at a time, and each document of test_docs.py by itself."""

    def _split_scope(self, nodeid: str) -> str:
        is_document = "::test_every_block_of_a_document_runs[" in nodeid
        return nodeid if is_document else super()._split_scope(nodeid)


def pytest_xdist_make_scheduler(config, log):
    if config.getoption("dist") == "loadfile":
        return FileScheduling(config, log)
    return None
