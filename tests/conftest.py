"""Settings and fixtures of all tests."""

import os
import signal

from xdist.scheduler import LoadFileScheduling

pytest_plugins = ["support.serving"]  # fixtures of bundles and running servers

# Tiny shapes gain nothing from a second thread, and waiting threads burn what others need.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# A shell's background job ignores SIGINT, and so do its children. Tests send it to servers.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


class FileScheduling(LoadFileScheduling):
    """Gives each process a file at a time, and each document of test_docs.py by itself."""

    def _split_scope(self, nodeid: str) -> str:
        is_document = "::test_every_block_of_a_document_runs[" in nodeid
        return nodeid if is_document else super()._split_scope(nodeid)


def pytest_xdist_make_scheduler(config, log):
    if config.getoption("dist") == "loadfile":
        return FileScheduling(config, log)
    return None
