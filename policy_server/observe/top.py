"""Shows a running server in the terminal, from two answers to `stats`."""

import json
import shutil
import sys
import time
from collections.abc import Iterator
from typing import Any, Protocol, TextIO

from policy_server.contract.errors import PolicyError, PolicyTimeout

Stats = dict[str, Any]
MIN_INTERVAL_S = 0.1
MAX_INTERVAL_S = 86_400.0
_CLEAR = "\x1b[H\x1b[J"
_HIDE = "\x1b[?25l"
_SHOW = "\x1b[?25h"
_TIMES = (("queue", "queue_us"), ("inference", "inference_us"), ("server", "server_us"))
_PERCENTILES = ("p50_us", "p99_us", "p999_us", "max_us")
_MISSES = ("LATE", "OVERLOADED", "SUPERSEDED")


class Client(Protocol):
    """The part of a `PolicyClient` that `watch` needs."""

    endpoint: str

    def stats(self) -> Stats:
        """Returns the server's answer to `stats`. Raises PolicyTimeout or PolicyError."""
        ...


def rates(before: Stats, after: Stats) -> dict[str, Any] | None:
    """Returns what happened between two answers, or None where the server restarted in between.

    Returns:
        period_s: Time between them by the server's clock [s].
        acts_hz: Requests answered with an action [1/s].
        statuses_hz: Answers by status [1/s].
        miss_share: Share of the act requests that were not computed. None without requests.
        sessions_hz: Actions by session [1/s].
    """
    period_s = after["uptime_s"] - before["uptime_s"]
    n_acts = after["server_us"]["n"] - before["server_us"]["n"]
    if period_s <= 0 or n_acts < 0:
        return None
    counts = {name: n - before["counts"].get(name, 0) for name, n in after["counts"].items()}
    n_missed = sum(counts.get(name, 0) for name in _MISSES)
    old = {row["session"]: row["n_acts"] for row in before["sessions"]}
    return {
        "period_s": period_s,
        "acts_hz": n_acts / period_s,
        "statuses_hz": {name: n / period_s for name, n in sorted(counts.items()) if n},
        "miss_share": n_missed / (n_missed + n_acts) if n_missed + n_acts else None,
        "sessions_hz": {
            row["session"]: (row["n_acts"] - old.get(row["session"], 0)) / period_s
            for row in after["sessions"]
        },
    }


def frame(
    endpoint: str, stats: Stats, rate: dict[str, Any] | None, n_columns: int = 80, n_rows: int = 24
) -> str:
    """Returns one screen of text, cut to its size.

    Args:
        endpoint: The server's endpoint.
        stats: Its newest answer.
        rate: The result of `rates`. None: unknown.
        n_columns: Width of the screen.
        n_rows: Height of the screen. Sessions that do not fit are counted.
    """
    lines = [*_head(endpoint, stats, rate), "", *_latencies(stats), ""]
    lines += _sessions(stats, rate, n_rows - len(lines))
    return "\n".join(_printable(line)[:n_columns].rstrip() for line in lines[:n_rows])


def _head(endpoint: str, stats: Stats, rate: dict[str, Any] | None) -> list[str]:
    speed = "rates after a restart come with the next poll"
    if rate is not None:
        share = rate["miss_share"]
        missed = "no acts" if share is None else f"{100 * share:.2f} % not computed"
        speed = f"{rate['acts_hz']:.1f} acts/s, {missed}"
        others = [f"{name} {hz:.1f}/s" for name, hz in rate["statuses_hz"].items() if name != "OK"]
        speed += "".join(f", {text}" for text in others)
    totals = ", ".join(f"{name} {n}" for name, n in sorted(stats["counts"].items()))
    policy = str(stats["bundle_hash"])[:12]
    return [
        f"edp top  {endpoint}  policy {policy}  up {_duration(stats['uptime_s'])}",
        f"{stats['n_sessions']} sessions, {stats['n_queued']} waiting, {speed}",
        f"since the start: {totals or 'nothing yet'}",
    ]


def _latencies(stats: Stats) -> list[str]:
    columns = "".join(f"{name.removesuffix('_us'):>10}" for name in _PERCENTILES)
    lines = [f"{'[us], since the start':<22}{columns}{'n':>12}"]
    for title, name in _TIMES:
        row = stats[name]
        cells = [f"{row[key]:.0f}" if row["n"] else "-" for key in _PERCENTILES]
        lines.append(f"{title:<22}{''.join(f'{cell:>10}' for cell in cells)}{row['n']:>12}")
    return lines


def _sessions(stats: Stats, rate: dict[str, Any] | None, n_rows: int) -> list[str]:
    """Returns the table of sessions, the busiest first."""
    hz = {} if rate is None else rate["sessions_hz"]
    rows = sorted(stats["sessions"], key=lambda row: (-hz.get(row["session"], 0.0), row["session"]))
    # Two lines are the title and the number of hidden sessions.
    n_shown = len(rows) if len(rows) < n_rows else max(n_rows - 2, 0)
    title = f"{'session':>8}{'acts/s':>10}{'acts':>12}{'late':>8}{'errors':>8}"
    lines = [f"{title}{'p50 us':>10}{'p99 us':>10}{'idle s':>9}"]
    for row in rows[:n_shown]:
        speed = f"{hz[row['session']]:.1f}" if row["session"] in hz else "-"
        counts = f"{row['n_acts']:>12}{row['n_late']:>8}{row['n_errors']:>8}"
        times = f"{row['p50_us']:>10.0f}{row['p99_us']:>10.0f}{row['idle_s']:>9.1f}"
        lines.append(f"{row['session']:>8}{speed:>10}{counts}{times}")
    n_more = stats["n_sessions"] - n_shown
    return [*lines, f"{n_more:>8} more"] if n_more > 0 else lines


def _duration(seconds: float) -> str:
    minutes = int(seconds // 60)
    hours = minutes // 60
    if hours:
        return f"{hours} h {minutes % 60} min"
    return f"{minutes} min" if minutes else f"{seconds:.0f} s"


def _printable(line: str) -> str:
    """Returns the line without control characters, so that a server cannot steer the terminal."""
    return "".join(c if c.isprintable() else "?" for c in line)


def watch(
    client: Client,
    interval_s: float = 1.0,
    once: bool = False,
    as_json: bool = False,
    out: TextIO | None = None,
) -> None:
    """Shows a server until Ctrl-C. While the server does not answer, a terminal shows the error.

    Args:
        client: A client of the server.
        interval_s: Time between two polls, at least 0.1, at most a day [s].
        once: Show one frame, after two polls, and end.
        as_json: Write one object a line instead of a screen: endpoint, stats, rates.
        out: Where to write; None for stdout.

    Raises:
        PolicyTimeout: No answer came, and the output is not a live screen.
        PolicyError: The server refused, likewise.
        ValueError: The interval is too short, too long, or no number.
    """
    if not MIN_INTERVAL_S <= interval_s <= MAX_INTERVAL_S:
        raise ValueError(
            f"interval {interval_s} s, expected at least {MIN_INTERVAL_S} s, "
            f"at most {MAX_INTERVAL_S:g} s"
        )
    stream: TextIO = out or sys.stdout
    live = stream.isatty() and not once and not as_json
    stream.write(_HIDE if live else "")
    try:
        for stats, rate in _polls(client, interval_s, patient=live):
            if as_json:
                text = json.dumps({"endpoint": client.endpoint, "stats": stats, "rates": rate})
            else:
                size = shutil.get_terminal_size() if live else (120, 100)
                text = (
                    stats if isinstance(stats, str) else frame(client.endpoint, stats, rate, *size)
                )
            stream.write(f"{_CLEAR}{text}" if live else f"{text}\n")
            stream.flush()
            if once:
                return
    finally:
        stream.write(f"{_SHOW}\n" if live else "")


def _polls(
    client: Client, interval_s: float, patient: bool
) -> Iterator[tuple[Any, dict[str, Any] | None]]:
    """Yields (stats, rates) at each interval from the second poll on.

    If the server does not answer, it raises, or yields the message instead of stats if `patient`.
    """
    before: Stats | None = None
    due_s = time.monotonic()
    while True:
        try:
            after = client.stats()
        except (PolicyTimeout, PolicyError) as error:
            if not patient:
                raise
            before = None
            yield _printable(str(error)), None
        else:
            if before is not None:
                yield after, rates(before, after)
            before = after
        due_s = max(due_s + interval_s, time.monotonic())
        time.sleep(max(due_s - time.monotonic(), 0.0))
