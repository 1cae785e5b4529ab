import contextlib

import pytest
from support.raw_zmtp import Server, listening

from policy_server.transport.plain_client import PlainLink
from policy_server.transport.plain_server import PlainFront


@pytest.fixture(params=["tcp", "ipc"])
def front(request, tmp_path):
    """A front on each kind of socket."""
    endpoint = f"ipc://{tmp_path}/front" if request.param == "ipc" else "tcp://127.0.0.1:*"
    with contextlib.closing(PlainFront(endpoint)) as front:
        yield front


@pytest.fixture
def ipc(tmp_path):
    """A front on a Unix socket."""
    with contextlib.closing(PlainFront(f"ipc://{tmp_path}/f")) as front:
        yield front


@pytest.fixture(params=["tcp", "ipc"])
def wanted(request, tmp_path):
    """Where a raw server listens."""
    return f"ipc://{tmp_path}/s" if request.param == "ipc" else "tcp://127.0.0.1:0"


@pytest.fixture
def start(wanted):
    """Starts a raw server with the given scripts and returns it with a link to it."""
    with contextlib.ExitStack() as stack:

        def make(*scripts):
            listener, endpoint = stack.enter_context(listening(wanted))
            link = stack.enter_context(contextlib.closing(PlainLink(endpoint, b"me")))
            return Server(listener, scripts), link

        yield make
