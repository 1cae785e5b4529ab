"""Output that is not read any more ends no command: a closed terminal, `| head`, a full disk."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import sys
from collections.abc import Iterator
from typing import BinaryIO, TextIO


class Lasting(io.TextIOBase):
    """A text stream that goes on when what it writes to is gone. Then it drops what is written.

    Attributes:
        error: What the first write that failed raised. None: none failed.

    Args:
        stream: The stream to write to.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self.error: OSError | None = None

    def write(self, text: str, /) -> int:
        """Writes `text` and returns its length."""
        with self._surviving():
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        """Writes what is buffered."""
        with self._surviving():
            self._stream.flush()

    def isatty(self) -> bool:
        """Returns whether it is a terminal."""
        return self._stream.isatty()

    def fileno(self) -> int:
        """Returns the number of the file."""
        return self._stream.fileno()

    def writable(self) -> bool:
        """Returns True."""
        return True

    @property
    def buffer(self) -> BinaryIO:
        """The stream of bytes below."""
        return self._stream.buffer

    @property
    def encoding(self) -> str:
        """The encoding of the text."""
        return self._stream.encoding

    @property
    def errors(self) -> str | None:
        """What happens to a character that the encoding lacks."""
        return self._stream.errors

    @contextlib.contextmanager
    def _surviving(self) -> Iterator[None]:
        """Keeps the error of a stream that is gone. From then on its file is the null device."""
        try:
            yield
        except BlockingIOError:
            raise
        except OSError as error:
            self.error = self.error or error
            with contextlib.suppress(OSError):
                null = os.open(os.devnull, os.O_WRONLY)
                os.dup2(null, self._stream.fileno())
                os.close(null)

    def is_cut(self) -> bool:
        """Returns whether output is missing that is wanted, as on a full disk.

        A reader that went away (a closed terminal, `| head`) wants none.
        """
        error = self.error
        return error is not None and error.errno not in (errno.EPIPE, errno.EIO, errno.ENXIO)


@contextlib.contextmanager
def lasting_output() -> Iterator[Lasting | None]:
    """Makes stdout and stderr last for the length of the block.

    Yields stdout, or None where the process was started without it.
    """
    with contextlib.ExitStack() as stack:
        stdout = Lasting(sys.stdout) if sys.stdout is not None else None
        if stdout is not None:
            stack.enter_context(contextlib.redirect_stdout(stdout))
            stack.callback(stdout.flush)
        if sys.stderr is not None:
            stack.enter_context(contextlib.redirect_stderr(Lasting(sys.stderr)))
        yield stdout
