"""Failures that a person can mend become one line on stderr and an exit code."""

import sys
from collections.abc import Callable

from policy_server.bench.load.figure import FigureError
from policy_server.bench.load.plan import LoadError
from policy_server.contract.errors import BackendError, BundleError, PolicyError, PolicyTimeout
from policy_server.transport.address import ServerError

FAILURES = (
    BundleError,
    BackendError,
    ServerError,
    PolicyError,
    PolicyTimeout,
    LoadError,
    FigureError,
    OSError,
    ValueError,
)


def guarded(name: str, work: Callable[[], int | None]) -> int:
    """Returns what `work` returns, 0 for None; 1 and one line on stderr where it fails; 130 for Ctrl-C.

    Args:
        name: Of the command, without `edp`.
        work: What it does.
    """
    try:
        return work() or 0
    except FAILURES as error:
        print(f"edp {name}: {error}", file=sys.stderr, flush=True)
        return 1
    except KeyboardInterrupt:
        return 130
