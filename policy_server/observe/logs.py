"""Structured logs: one line an event on stderr, as JSON or text.

`log("reloaded", bundle_hash="0f1e")` never waits for the reader of stderr. A thread writes the
lines. Where they are not read, the newest events are dropped and counted.
"""

import atexit
import contextlib
import json
import logging
import math
import queue
import sys
import time
import traceback
from collections import OrderedDict
from collections.abc import Hashable
from logging.handlers import QueueHandler, QueueListener
from numbers import Integral, Real
from typing import Any, Literal, TextIO

Format = Literal["text", "json"]
CLOSE_S = 1.0
_MAX_WAITING = 1000
_MAX_CHARS = 2000
_logger = logging.getLogger("edp")


def setup(form: Format = "text", level: str = "info", stream: TextIO | None = None) -> "LogWriter":
    """Returns a writer that writes this process's events from now on. It is closed at exit.

    Args:
        form: text or json, one object a line.
        level: Lowest level that is written: debug, info, warning or error.
        stream: Where to write; None for stderr.
    """
    return LogWriter(form, level, stream or sys.stderr)


def log(
    event: str, *, level: str = "info", error: BaseException | None = None, **fields: Any
) -> None:
    """Writes one event. Before `setup`, Python's own logging writes warnings and errors only.

    Args:
        event: What happened, a fixed name in snake_case.
        level: debug, info, warning or error.
        error: An exception. It becomes the fields error and traceback.
        **fields: Numbers, strings, lists and dictionaries, with units in their names.
    """
    number = logging.getLevelNamesMapping()[level.upper()]
    if not _logger.isEnabledFor(number):
        return
    if error is not None:
        fields["error"] = f"{type(error).__name__}: {error}"
        fields["traceback"] = "".join(traceback.format_exception(error))[-_MAX_CHARS:]
    extra = {"edp_fields": _plain(fields), "edp_monotonic_ns": time.monotonic_ns()}
    _logger.log(number, "%s", event, extra=extra)


class LogWriter(QueueHandler):
    """Queues events for a thread that writes them, until `close`.

    Attributes:
        n_dropped: Number of lost events: the queue was full, or the stream is broken.
    """

    def __init__(self, form: Format, level: str, stream: TextIO):
        self._waiting: queue.Queue[logging.LogRecord | None] = queue.Queue(_MAX_WAITING)
        super().__init__(self._waiting)
        self.n_dropped = 0
        self._lines = _Lines(self, stream, _Json() if form == "json" else _Text())
        self._lines.start()
        _logger.propagate = False
        _logger.setLevel(level.upper())
        _logger.addHandler(self)
        atexit.register(self.close)

    def handleError(self, record: logging.LogRecord) -> None:
        """Counts an event that was lost."""
        self.n_dropped += 1

    def close(self) -> None:
        """Writes the waiting events, for CLOSE_S at most. May be called twice."""
        if self in _logger.handlers:
            atexit.unregister(self.close)
            _logger.removeHandler(self)
            _logger.setLevel(logging.NOTSET)
            _logger.propagate = True
            with contextlib.suppress(queue.Full):
                self._waiting.put(None, timeout=CLOSE_S)  # Ends the thread.
            with self._waiting.all_tasks_done:
                self._waiting.all_tasks_done.wait_for(self._is_written, CLOSE_S)
        super().close()

    def _is_written(self) -> bool:
        return self._waiting.unfinished_tasks == 0


class _Lines(QueueListener):
    """Writes the queued events. A blocked stream blocks this thread only."""

    def __init__(self, writer: LogWriter, stream: TextIO, formatter: logging.Formatter):
        super().__init__(writer.queue)
        self._writer = writer
        self._stream = stream
        self._formatter = formatter

    def handle(self, record: logging.LogRecord) -> None:
        """Writes one line."""
        try:
            self._stream.write(self._formatter.format(record) + "\n")
            self._stream.flush()
        except (OSError, ValueError):  # The reader has gone, or the stream was closed.
            self._writer.handleError(record)


class Occasional:
    """Decides when a repeated event is worth a line: once a period for each key.

    Args:
        period_s: Least time between two lines of a key [s].
        max_keys: Number of keys that are remembered. The oldest makes room.
    """

    def __init__(self, period_s: float, max_keys: int = 1024):
        self._period_ns = int(period_s * 1e9)
        self._max_keys = max_keys
        self._seen: OrderedDict[Hashable, tuple[int, int]] = OrderedDict()

    def due(self, key: Hashable, now_ns: int | None = None) -> int | None:
        """Returns the number of suppressed events since the key's last line, or None: no line now.

        Args:
            key: Names the event and its origin.
            now_ns: Monotonic time [ns]. None reads the clock.
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
        head = _head(record)
        fields = dict(_fields(record))
        trace = fields.pop("traceback", "")
        words = [f"{head['time']} {head['level']:7} {head['event']}"]
        words += [f"{name}={_word(value)}" for name, value in fields.items()]
        return "\n    | ".join([" ".join(words), *str(trace).splitlines()])


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    """Returns the fields of an event; none for a record that `log` did not make."""
    return vars(record).get("edp_fields", {})


def _head(record: logging.LogRecord) -> dict[str, Any]:
    """Returns event, level, time (wall clock, UTC) and monotonic_s. Fields cannot replace them."""
    seconds = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
    return {
        "event": record.getMessage(),
        "level": record.levelname.lower(),
        "time": f"{seconds}.{int(record.created % 1 * 1e6):06d}Z",
        "monotonic_s": vars(record).get("edp_monotonic_ns", 0) / 1e9,
    }


def _plain(value: Any) -> Any:
    """Returns the value as strict JSON holds it.

    NaN becomes None, bytes become hexadecimal, other objects become text. Long text is cut.
    """
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
    """Returns a value as one printable word, or in quotes as JSON where it is none."""
    text = value if isinstance(value, str) else json.dumps(value)
    is_word = text and text.isascii() and text.isprintable() and " " not in text
    return text if is_word else json.dumps(value)
