"""What `edp top` shows: a server's rates, latencies, misses and sessions, from two answers to `stats`."""

import json
import shutil
import sys
import time
from collections.abc import Iterator
from typing import Any, TextIO

from policy_server.contract.errors import PolicyError, PolicyTimeout
from policy_server.control.client import PolicyClient
from policy_server.transport.keys import ClientKeys

Stats = dict[str, Any]
_CLEAR, _HIDE, _SHOW = "\x1b[H\x1b[J", "\x1b[?25l", "\x1b[?25h"
_TIMES = (("queue", "queue_us"), ("inference", "inference_us"), ("server", "server_us"))
_PERCENTILES = ("p50_us", "p99_us", "p999_us", "max_us")
_MISSES = ("LATE", "OVERLOADED", "SUPERSEDED")


def rates(before: Stats, after: Stats) -> dict[str, Any] | None:
    """Returns what happened between two answers to `stats`, or None where the server was restarted in between.

    Returns:
        period_s by the server's clock [s], acts_hz (answered with an action), statuses_hz (by status, what happened at
        all), miss_share (of the acts that were answered either way, the share not computed, None without any) and
        sessions_hz (actions by session ordinal).
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
        endpoint: Of the server.
        stats: Its newest answer.
        rate: What `rates` returned; None where it is not known.
        n_columns: Of the screen.
        n_rows: Of the screen; sessions that do not fit are counted.
    """
    lines = [*_head(endpoint, stats, rate), "", *_latencies(stats), ""]
    lines += _sessions(stats, rate, n_rows - len(lines))
    return "\n".join(_printable(line)[:n_columns].rstrip() for line in lines[:n_rows])


def _head(endpoint: str, stats: Stats, rate: dict[str, Any] | None) -> list[str]:
    speed = "rates after a restart come with the next poll"
    if rate is not None:
        shares = rate["miss_share"]
        missed = "no acts" if shares is None else f"{100 * shares:.2f} % not computed"
        speed = f"{rate['acts_hz']:.1f} acts/s, {missed}"
        others = [f"{name} {hz:.1f}/s" for name, hz in rate["statuses_hz"].items() if name != "OK"]
        speed += "".join(f", {text}" for text in others)
    totals = (
        ", ".join(f"{name} {n}" for name, n in sorted(stats["counts"].items())) or "nothing yet"
    )
    return [
        f"edp top  {endpoint}  policy {str(stats['bundle_hash'])[:12]}  up {_duration(stats['uptime_s'])}",
        f"{stats['n_sessions']} sessions, {stats['n_queued']} waiting, {speed}",
        f"since the start: {totals}",
    ]


def _latencies(stats: Stats) -> list[str]:
    columns = "".join(f"{name.removesuffix('_us'):>10}" for name in _PERCENTILES)
    lines = [f"{'[us], since the start':<22}{columns}{'n':>12}"]
    for title, name in _TIMES:
        row = stats[name]
        values = (
            "".join(f"{row[key]:>10.0f}" for key in _PERCENTILES)
            if row["n"]
            else f"{'-':>10}" * len(_PERCENTILES)
        )
        lines.append(f"{title:<22}{values}{row['n']:>12}")
    return lines


def _sessions(stats: Stats, rate: dict[str, Any] | None, n_rows: int) -> list[str]:
    """Returns the table of sessions, the busiest first."""
    hz = {} if rate is None else rate["sessions_hz"]
    rows = sorted(stats["sessions"], key=lambda row: (-hz.get(row["session"], 0.0), row["session"]))
    n_shown = (
        len(rows) if len(rows) < n_rows else max(n_rows - 2, 0)
    )  # two lines: the title, and how many are not shown
    lines = [
        f"{'session':>8}{'acts/s':>10}{'acts':>12}{'late':>8}{'errors':>8}{'p50 us':>10}{'p99 us':>10}{'idle s':>9}"
    ]
    for row in rows[:n_shown]:
        speed = f"{hz[row['session']]:>10.1f}" if row["session"] in hz else f"{'-':>10}"
        counts = f"{row['n_acts']:>12}{row['n_late']:>8}{row['n_errors']:>8}"
        lines.append(
            f"{row['session']:>8}{speed}{counts}{row['p50_us']:>10.0f}{row['p99_us']:>10.0f}{row['idle_s']:>9.1f}"
        )
    n_more = stats["n_sessions"] - n_shown
    return [*lines, f"{n_more:>8} more"] if n_more > 0 else lines


def _duration(seconds: float) -> str:
    minutes, hours = int(seconds // 60), int(seconds // 3600)
    return (
        f"{seconds:.0f} s"
        if minutes < 1
        else f"{minutes} min"
        if hours < 1
        else f"{hours} h {minutes % 60} min"
    )


def _printable(line: str) -> str:
    """Returns the line without control characters: a server's text must not steer the terminal."""
    return "".join(c if c.isprintable() else "?" for c in line)


def watch(
    endpoint: str,
    interval_s: float = 1.0,
    once: bool = False,
    as_json: bool = False,
    keys: ClientKeys | None = None,
    out: TextIO | None = None,
) -> None:
    """Shows a server until Ctrl-C; while it does not answer, that is what is shown.

    Args:
        endpoint: Of the server.
        interval_s: Between two polls, at least 0.1 [s].
        once: One frame, after two polls, and an end.
        as_json: One object a line with endpoint, stats and rates (as `rates`), without the screen.
        keys: For a server with keys.
        out: Where instead of stdout.

    Raises:
        PolicyTimeout, PolicyError: With `once` or `as_json`, no answer.
        ValueError: The interval or the endpoint is not usable.
    """
    if interval_s < 0.1:
        raise ValueError(f"interval {interval_s} s, expected at least 0.1 s")
    stream: TextIO = out or sys.stdout
    live = stream.isatty() and not once and not as_json
    with PolicyClient(endpoint, 2.0, keys) as client:
        stream.write(_HIDE if live else "")
        try:
            for stats, rate in _polls(client, interval_s, patient=live):
                if as_json:
                    text = json.dumps({"endpoint": endpoint, "stats": stats, "rates": rate})
                else:
                    size = shutil.get_terminal_size() if live else (120, 100)
                    text = stats if isinstance(stats, str) else frame(endpoint, stats, rate, *size)
                stream.write(f"{_CLEAR}{text}" if live else f"{text}\n")
                stream.flush()
                if once:
                    return
        finally:
            stream.write(f"{_SHOW}\n" if live else "")


def _polls(
    client: PolicyClient, interval_s: float, patient: bool
) -> Iterator[tuple[Any, dict[str, Any] | None]]:
    """Yields (stats, rates) at each interval from the second poll on; the complaint instead of stats if patient."""
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
