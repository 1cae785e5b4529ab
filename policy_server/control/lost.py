"""A reading or a target that did not come through: which failures of a robot may pass."""

import contextlib
from collections.abc import Iterator

# What a mistake in the code raises. It would come again at the next tick, so it ends the run.
MISTAKES = (
    *(TypeError, AttributeError, NameError, LookupError, AssertionError, ArithmeticError),
    *(NotImplementedError, RecursionError, ImportError, MemoryError),
)


class Lost(RuntimeError):
    """A reading or a target was lost. The next one may come through."""


@contextlib.contextmanager
def losing(what: str) -> Iterator[None]:
    """Turns a failure in the block that may pass into `Lost`.

    A bus that misses a packet raises OSError, ConnectionError, TimeoutError, RuntimeError, or an
    error of its library's own. All of these may pass. Those of MISTAKES go on as they are.

    Args:
        what: What is lost then, like "reading".

    Raises:
        Lost: The block failed, and not by a mistake in the code.
    """
    try:
        yield
    except (Lost, *MISTAKES):
        raise
    except Exception as error:
        raise Lost(f"{what} lost: {type(error).__name__}: {error}") from error
