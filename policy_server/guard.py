"""Failures that a person can mend become one line on stderr and an exit code."""

import sys
from collections.abc import Callable

from policy_server.bundle import BundleError
from policy_server.endpoint import ServerError
from policy_server.errors import BackendError, PolicyError, PolicyTimeout
from policy_server.load import LoadError
from policy_server.load_figure import FigureError

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
