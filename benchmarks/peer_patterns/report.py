"""Turns samples into figures, ratios against the targets, a table and a plot."""

from __future__ import annotations

from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from peer_patterns import OURS, PEERS
from policy_server.bench.statistics import percentile, summary

P50_TARGETS = {"openpi": 0.8, "gr00t": 0.45, "lerobot": 0.25}
P999_TARGET = 0.5
RATE_TARGET = 3.0
PERCENTILES = {"p50": 0.5, "p99": 0.99, "p999": 0.999}
TITLES = {
    "edp-tcp": "`edp serve`, tcp",
    "edp-ipc": "`edp serve`, ipc",
    "edp-ipc-poll": "`edp serve --busy-poll-s 0.001`, ipc",
    "openpi": "openpi: websocket + msgpack",
    "gr00t": "GR00T pattern: REQ/REP + msgpack",
    "lerobot": "LeRobot pattern: gRPC + pickle",
}


def percentiles(rounds_us: list[np.ndarray]) -> dict[str, Any]:
    """Returns `summary` of all rounds together, and under "rounds" the percentiles of each [us].

    Args:
        rounds_us: The latencies (n,) of each round [us]; none may be empty.
    """
    each = {
        name: [percentile(np.sort(row), p) for row in rounds_us] for name, p in PERCENTILES.items()
    }
    return {**summary(np.concatenate(rounds_us)), "rounds": each}


def rates(rounds_us: list[np.ndarray], seconds: float) -> dict[str, Any]:
    """Returns `percentiles` and requests_hz, the median over rounds of answers a second.

    Args:
        rounds_us: See `percentiles`.
        seconds: Length of a round [s].
    """
    each = [len(row) / seconds for row in rounds_us]
    return {"requests_hz": float(np.median(each)), "rounds_hz": each, **percentiles(rounds_us)}


def ratios(one: dict[str, Any], many: dict[str, Any]) -> list[dict[str, Any]]:
    """Returns each target that can be judged: what, value, target and whether it is met.

    A value is the median of the rounds' own ratios, so that a drift of the machine's speed does not
    count. A round is too short for p99.9, whose ratio is that of all rounds together.

    Args:
        one: `percentiles` by pattern, one client.
        many: `rates` by place and pattern, many clients.
    """
    rows = []
    peers = {peer: one[peer] for peer in PEERS if peer in one}
    for ours in (name for name in OURS if name in one and peers):
        for peer, row in peers.items():
            ratio = _ratio("p50", one[ours], row)
            rows.append(_at_most(ours, f"p50, of {peer}'s", ratio, P50_TARGETS[peer]))
        ratio = one[ours]["p999"] / min(row["p999"] for row in peers.values())
        rows.append(_at_most(ours, "p99.9, of the best peer's", ratio, P999_TARGET))
    return rows + [row for place, patterns in many.items() for row in _many_ratios(place, patterns)]


def _many_ratios(place: str, many: dict[str, Any]) -> list[dict[str, Any]]:
    """Returns the targets of many clients in one place."""
    peers = [many[peer] for peer in PEERS if peer in many]
    if not peers:
        return []
    fastest = max(peers, key=lambda row: row["requests_hz"])
    steadiest = min(peers, key=lambda row: row["p99"])
    rows = []
    for ours in (name for name in OURS if name in many):
        rate = float(np.median(np.divide(many[ours]["rounds_hz"], fastest["rounds_hz"])))
        what = f"req/s, {place}, of the best peer's"
        rows.append({**_at_most(ours, what, rate, RATE_TARGET), "met": rate >= RATE_TARGET})
        ratio = _ratio("p99", many[ours], steadiest)
        rows.append(_at_most(ours, f"p99, {place}, of the best peer's", ratio, 1.0))
    return rows


def _ratio(key: str, ours: dict[str, Any], peer: dict[str, Any]) -> float:
    return float(np.median(np.divide(ours["rounds"][key], peer["rounds"][key])))


def _at_most(ours: str, what: str, value: float, target: float) -> dict[str, Any]:
    return {"ours": ours, "what": what, "value": value, "target": target, "met": value <= target}


def table(result: dict[str, Any]) -> str:
    """Returns the result of `peers.py` as Markdown."""
    many = result["many_clients"]
    lines = [
        _setting(result["bundle"], result["settings"], result["host"]),
        "",
        "| | p50 [us] | p99 [us] | p99.9 [us] | n |"
        + "".join(f" req/s, {place} | p99 [us], {place} | n, {place} |" for place in many),
        "|---|" + "--:|" * (4 + 3 * len(many)),
    ]
    for name, row in result["one_client"].items():
        loads = [patterns[name] for patterns in many.values() if name in patterns]
        last = "".join(
            f" {load['requests_hz']:,.0f} | {load['p99']:,.0f} | {load['n']:,} |" for load in loads
        )
        values = " | ".join(f"{row[key]:,.0f}" for key in PERCENTILES)
        lines.append(f"| {TITLES[name]} | {values} | {row['n']:,} |{last}")
    return "\n".join([*lines, "", *_ratio_lines(result["ratios"])]) + "\n"


def _setting(bundle: str, settings: dict[str, Any], host: dict[str, Any]) -> str:
    """Returns what was measured, and where."""
    one = f"{settings['rounds']} rounds of {settings['n']:,} requests of one client"
    many = (
        f"{settings['rounds_many']} of {settings['seconds']:g} s of {settings['clients']} clients"
    )
    return (
        f"One bundle ({bundle}), one run on {host['cpu']}, {host['n_cores']} cores: {one}, {many}; "
        "patterns take turns. Percentiles are of all rounds; ratios and req/s are medians over "
        "rounds. Server and clients share the machine, and times include the inference. The many "
        "clients run twice: free, where the kernel puts them, and apart, with the server on a core "
        "of its own and the clients on the others."
    )


def _ratio_lines(rows: list[dict[str, Any]]) -> list[str]:
    """Returns a table of ratios with a column for each of our patterns."""
    ours = list(dict.fromkeys(row["ours"] for row in rows))
    lines = [
        "| ratio | asked | " + " | ".join(TITLES[name] for name in ours) + " |",
        "|---|---|" + "--:|" * len(ours),
    ]
    for what in dict.fromkeys(row["what"] for row in rows):
        found = {row["ours"]: row for row in rows if row["what"] == what}
        target = next(iter(found.values()))["target"]
        cells = [f"{row['value']:.2f}{'' if row['met'] else ' missed'}" for row in found.values()]
        bound = "at least" if what.startswith("req/s") else "at most"
        lines.append(f"| {what} | {bound} {target:g} | {' | '.join(cells)} |")
    return lines


def figure(path: Path, samples: dict[str, dict[str, np.ndarray]], n_clients: int) -> None:
    """Draws the share of requests that took longer than t on two log axes, which shows the tail.

    Args:
        path: File to write.
        samples: Latencies (n,) [us] by kind, "one" or a place of many clients, and by pattern.
            Those of many clients may be missing.
        n_clients: How many clients the many are.
    """
    panels = {kind: patterns for kind, patterns in samples.items() if patterns}
    size = (5.6 * len(panels), 4.6)
    plot = Figure(figsize=size, layout="constrained")
    FigureCanvasAgg(plot)
    axes = plot.subplots(1, len(panels), squeeze=False)[0]
    for axis, (kind, patterns) in zip(axes, panels.items(), strict=True):
        title = "one client" if kind == "one" else f"{n_clients} clients, {kind}"
        _tails(axis, title, patterns)
    labels = axes[0].get_legend_handles_labels()
    plot.legend(*labels, fontsize=8, loc="outside lower center", ncols=3)
    plot.savefig(path, dpi=150)


def _tails(axis: Axes, title: str, patterns: dict[str, np.ndarray]) -> None:
    """Draws one panel: a curve for each pattern, and a line at each percentile."""
    for name, times_us in patterns.items():
        slower = 1 - np.arange(len(times_us)) / len(times_us)
        axis.step(np.sort(times_us), slower, where="post", label=TITLES[name].replace("`", ""))
    place = {"xycoords": ("axes fraction", "data"), "ha": "left", "va": "center"}
    for name, p in (("p50", 0.5), ("p99", 0.99), ("p99.9", 0.999)):
        axis.axhline(1 - p, color="0.8", linewidth=0.8, zorder=0)
        axis.annotate(name, (1, 1 - p), color="0.45", **place)
    axis.set(xscale="log", yscale="log", title=title)
    axis.set(xlabel="round trip t [us]", ylabel="share of requests slower than t")
    axis.minorticks_off()
    axis.set_xticks(*_ticks(axis.get_xlim()))


def _ticks(limits: tuple[float, float]) -> tuple[list[float], list[str]]:
    """Returns ticks and labels: 1, 2, 5, 10, ... in the limits, powers of 10 in a wide range."""
    low, high = limits
    mantissas = (1, 2, 5) if high < 300 * low else (1,)
    ticks = [m * 10.0**e for e in range(8) for m in mantissas if low <= m * 10.0**e <= high]
    return ticks, [f"{tick:,.0f}" for tick in ticks]


def versions() -> dict[str, str]:
    """Returns the versions of the packages that the peers' patterns run on."""
    return {name: metadata.version(name) for name in ("grpcio", "msgpack", "websockets")}
