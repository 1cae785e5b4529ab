"""Structured logs: one line an event on stderr, JSON or text.

`log("reloaded", hash="0f1e")` never makes the caller wait for whoever reads stderr: a thread writes the lines, and
when nobody reads them the newest are dropped and counted.
"""

import atexit
import contextlib
import json
import logging
import math
import queue
import sys
import threading
import time
import traceback
from collections import OrderedDict
from numbers import Integral, Real
from typing import Any, Literal, TextIO

Format = Literal["text", "json"]
CLOSE_S = 1.0
_MAX_WAITING = 1000
_MAX_CHARS = 2000
_logger = logging.getLogger("edp")


def setup(form: Format = "text", level: str = "info", stream: TextIO | None = None) -> "LogWriter":
    """Sends this process's events to stderr from now on; returns the writer, which is closed at exit.

    Args:
        form: text or json, one object a line.
        level: debug, info, warning or error.
        stream: Where instead of stderr.
    """
    return LogWriter(form, level, stream or sys.stderr)


def log(
    event: str, *, level: str = "info", error: BaseException | None = None, **fields: Any
) -> None:
    """Writes one event, or nothing where the process has no `setup` and it is less than a warning.

    Args:
        event: What happened, a name in snake_case that does not change from one time to the next.
        level: debug, info, warning or error.
        error: An exception, which becomes the fields error and traceback.
        **fields: What belongs to it, with units in the names; numbers, strings, lists and dictionaries.
    """
    number = logging.getLevelNamesMapping()[level.upper()]
    if _logger.isEnabledFor(number):
        if error is not None:
            fields = {**fields, "error": f"{type(error).__name__}: {error}"}
            fields["traceback"] = "".join(traceback.format_exception(error))[-_MAX_CHARS:]
        _logger.log(
            number,
            "%s",
            event,
            extra={"edp_fields": _plain(fields), "edp_monotonic_ns": time.monotonic_ns()},
        )


class LogWriter(logging.Handler):
    """Writes events from a thread of its own until `close`; what the queue has no room for is counted and lost.

    Attributes:
        n_dropped: How many events were lost: too many waited, or the stream is broken.
    """

    def __init__(self, form: Format, level: str, stream: TextIO):
        super().__init__()
        self.n_dropped = 0
        self._waiting: queue.Queue[logging.LogRecord | None] = queue.Queue(_MAX_WAITING)
        self._stream = stream
        self.setFormatter(_Json() if form == "json" else _Text())
        self._thread = threading.Thread(target=self._write, name="logs", daemon=True)
        self._thread.start()
        _logger.propagate = False
        _logger.setLevel(level.upper())
        _logger.addHandler(self)
        atexit.register(self.close)

    def emit(self, record: logging.LogRecord) -> None:
        """Queues one event."""
        try:
            self._waiting.put_nowait(record)
        except queue.Full:
            self.n_dropped += 1

    def close(self) -> None:
        """Writes what waits, for CLOSE_S at most, and ends the thread; may be called twice."""
        if self in _logger.handlers:
            atexit.unregister(self.close)
            _logger.removeHandler(self)
            _logger.setLevel(logging.NOTSET)
            _logger.propagate = True
            with contextlib.suppress(queue.Full):
                self._waiting.put(None, timeout=CLOSE_S)
            self._thread.join(CLOSE_S)
        super().close()

    def _write(self) -> None:
        while (record := self._waiting.get()) is not None:
            try:
                self._stream.write(self.format(record) + "\n")
                self._stream.flush()
            except (OSError, ValueError):  # the reader has gone, or the stream was closed
                self.n_dropped += 1


class Occasional:
    """Says when a repeated event is worth a line: once a period for each key.

    Args:
        period_s: Least time between two lines of a key [s].
        max_keys: Keys that are remembered; the oldest makes room.
    """

    def __init__(self, period_s: float, max_keys: int = 1024):
        self._period_ns, self._max_keys = int(period_s * 1e9), max_keys
        self._seen: OrderedDict[Any, tuple[int, int]] = OrderedDict()

    def due(self, key: Any, now_ns: int | None = None) -> int | None:
        """Returns how many events of this key got no line since its last one, or None where this one gets none either.

        Args:
            key: Which event, and of whom; hashable.
            now_ns: Monotonic time [ns]; None for now.
        """
        now_ns = time.monotonic_ns() if now_ns is None else now_ns
        last_ns, n_suppressed = self._seen.get(key, (None, 0))
        if last_ns is not None and now_ns - last_ns < self._period_ns:
            self._seen[key] = (last_ns, n_suppressed + 1)
            return None
        self._seen[key] = (now_ns, 0)
        self._seen.move_to_end(key)
        if len(self._seen) > self._max_keys:
            self._seen.popitem(last=False)
        return n_suppressed


class _Json(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        head = _head(record)
        return json.dumps({**head, **_fields(record), **head}, allow_nan=False)


class _Text(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        head, fields = _head(record), dict(_fields(record))
        trace = fields.pop("traceback", "")
        words = [
            f"{head['time']} {head['level']:7} {head['event']}",
            *(f"{k}={_word(v)}" for k, v in fields.items()),
        ]
        return "\n    | ".join([" ".join(words), *str(trace).splitlines()])


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    return getattr(record, "edp_fields", {})


def _head(record: logging.LogRecord) -> dict[str, Any]:
    """Returns event, level, time (wall clock, UTC) and monotonic_s of a record; fields cannot replace them."""
    seconds = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
    monotonic_ns = getattr(record, "edp_monotonic_ns", 0)
    return {
        "event": record.getMessage(),
        "level": record.levelname.lower(),
        "time": f"{seconds}.{int(record.created % 1 * 1e6):06d}Z",
        "monotonic_s": monotonic_ns / 1e9,
    }


def _plain(value: Any) -> Any:
    """Returns the value as strict JSON can hold it: NaN as None, bytes in hexadecimal, the rest as text, cut short."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, Integral):
        return int(value)
    if isinstance(value, Real):
        return float(value) if math.isfinite(value) else None
    text = value.hex() if isinstance(value, bytes) else str(value)
    return text if len(text) <= _MAX_CHARS else f"{text[:_MAX_CHARS]}..."


def _word(value: Any) -> str:
    """Returns a value without spaces and control characters as it is, else in quotes as JSON: a line stays a line."""
    text = value if isinstance(value, str) else json.dumps(value)
    return (
        text
        if text.isascii() and text.isprintable() and " " not in text and text
        else json.dumps(value)
    )
