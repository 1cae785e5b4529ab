"""From raw samples to numbers, ratios against the targets, a table and a figure."""

from __future__ import annotations

from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from peer_patterns import OURS, PEERS
from policy_server.bench.statistics import percentile, summary

P50_TARGETS = {"openpi": 0.8, "gr00t": 0.45, "lerobot": 0.25}
P999_TARGET, RATE_TARGET = 0.5, 3.0
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
    """Returns the summary of all rounds together (n, percentiles and their intervals [us]), and rounds: each's own.

    Args:
        rounds_us: A round's latencies each, (n,) [us]; none may be empty.
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

    A value is the median of the rounds' own ratios, so that a machine whose speed drifts from round to round does not
    count; p99.9, for which a round is too short, is that of all rounds together.

    Args:
        one: `percentiles` by pattern, one client.
        many: `rates` by place and pattern, many clients.
    """
    rows = []
    for ours in (name for name in OURS if name in one):
        for peer in (name for name in P50_TARGETS if name in one):
            rows.append(
                _at_most(
                    ours,
                    f"p50, of {peer}'s",
                    _ratio("p50", one[ours], one[peer]),
                    P50_TARGETS[peer],
                )
            )
        if best := min((one[peer]["p999"] for peer in PEERS if peer in one), default=None):
            rows.append(
                _at_most(ours, "p99.9, of the best peer's", one[ours]["p999"] / best, P999_TARGET)
            )
    return rows + [row for place, patterns in many.items() for row in _many_ratios(place, patterns)]


def _many_ratios(place: str, many: dict[str, Any]) -> list[dict[str, Any]]:
    """Returns the targets of many clients in one place."""
    rows = []
    peers = [many[peer] for peer in PEERS if peer in many]
    for ours in (name for name in OURS if name in many and peers):
        fastest = max(peers, key=lambda row: row["requests_hz"])
        rate = float(np.median(np.divide(many[ours]["rounds_hz"], fastest["rounds_hz"])))
        what = f"req/s, {place}, of the best peer's"
        rows.append(
            {
                "ours": ours,
                "what": what,
                "value": rate,
                "target": RATE_TARGET,
                "met": rate >= RATE_TARGET,
            }
        )
        best = min(peers, key=lambda row: row["p99"])
        rows.append(
            _at_most(
                ours, f"p99, {place}, of the best peer's", _ratio("p99", many[ours], best), 1.0
            )
        )
    return rows


def _ratio(key: str, ours: dict[str, Any], peer: dict[str, Any]) -> float:
    return float(np.median(np.divide(ours["rounds"][key], peer["rounds"][key])))


def _at_most(ours: str, what: str, value: float, target: float) -> dict[str, Any]:
    return {"ours": ours, "what": what, "value": value, "target": target, "met": value <= target}


def table(result: dict[str, Any]) -> str:
    """Returns the result of `peers.py` as Markdown."""
    one, many, settings = result["one_client"], result["many_clients"], result["settings"]
    many_rounds = (
        f"{settings['rounds_many']} of {settings['seconds']:g} s of {settings['clients']} clients"
    )
    lines = [
        f"One bundle ({result['bundle']}), one run on {result['host']['cpu']}, {result['host']['n_cores']} cores: "
        f"{settings['rounds']} rounds of {settings['n']:,} requests of one client, {many_rounds}, patterns by turns. "
        "Percentiles of all rounds; ratios and req/s are medians over rounds. Server and clients on the same machine, "
        "inference included. The many ran free: where the kernel puts them, and apart: the server on a core of its own "
        "and the clients on the others.",
        "",
        "| | p50 [us] | p99 [us] | p99.9 [us] | n |"
        + "".join(f" req/s, {p} | p99 [us], {p} | n, {p} |" for p in many),
        "|---|" + "--:|" * (4 + 3 * len(many)),
    ]
    for name, row in one.items():
        loads = [patterns[name] for patterns in many.values() if name in patterns]
        last = "".join(
            f" {load['requests_hz']:,.0f} | {load['p99']:,.0f} | {load['n']:,} |" for load in loads
        )
        values = " | ".join(f"{row[key]:,.0f}" for key in PERCENTILES)
        lines.append(f"| {TITLES[name]} | {values} | {row['n']:,} |{last}")
    return "\n".join([*lines, "", *_ratio_lines(result["ratios"])]) + "\n"


def _ratio_lines(rows: list[dict[str, Any]]) -> list[str]:
    """Returns a table of ratios, a column for each of ours."""
    ours = list(dict.fromkeys(row["ours"] for row in rows))
    lines = [
        "| ratio | asked | " + " | ".join(TITLES[name] for name in ours) + " |",
        "|---|---|" + "--:|" * len(ours),
    ]
    for what in dict.fromkeys(row["what"] for row in rows):
        found = {row["ours"]: row for row in rows if row["what"] == what}
        target = next(iter(found.values()))["target"]
        cells = [f"{row['value']:.2f}{'' if row['met'] else ' missed'}" for row in found.values()]
        lines.append(
            f"| {what} | {'at least' if target == RATE_TARGET else 'at most'} {target:g} | {' | '.join(cells)} |"
        )
    return lines


def figure(path: Path, samples: dict[str, dict[str, np.ndarray]], n_clients: int) -> None:
    """Draws the share of requests that took longer than t, both axes logarithmic, which shows the tail.

    Args:
        path: File to write.
        samples: Latencies (n,) [us] by kind, "one" or a place of many clients, and pattern; those of many may be empty.
        n_clients: For the titles.
    """
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    titles = {
        kind: "one client" if kind == "one" else f"{n_clients} clients, {kind}" for kind in samples
    }
    panels = [(titles[kind], patterns) for kind, patterns in samples.items() if patterns]
    fig, axes = plt.subplots(
        1, len(panels), figsize=(5.6 * len(panels), 4.6), squeeze=False, layout="constrained"
    )
    for axis, (title, patterns) in zip(axes[0], panels, strict=True):
        for name, times_us in patterns.items():
            x = np.sort(times_us)
            axis.step(
                x, 1 - np.arange(len(x)) / len(x), where="post", label=TITLES[name].replace("`", "")
            )
        for name, p in (("p50", 0.5), ("p99", 0.99), ("p99.9", 0.999)):
            axis.axhline(1 - p, color="0.8", linewidth=0.8, zorder=0)
            axis.annotate(
                name,
                (1, 1 - p),
                xycoords=("axes fraction", "data"),
                ha="left",
                va="center",
                color="0.45",
            )
        axis.set(
            xscale="log",
            yscale="log",
            xlabel="round trip t [us]",
            ylabel="share of requests slower than t",
        )
        axis.set_title(title)
        axis.minorticks_off()
        axis.set_xticks(*_ticks(axis.get_xlim()))
    fig.legend(
        *axes[0, 0].get_legend_handles_labels(), fontsize=8, loc="outside lower center", ncols=3
    )
    fig.savefig(path, dpi=150)
    plt.close(fig)


def _ticks(limits: tuple[float, float]) -> tuple[list[float], list[str]]:
    """Returns 1, 2, 5, 10, ... within the limits, powers of 10 only where they are far apart, and their labels."""
    steps = (1, 2, 5) if limits[1] < 300 * limits[0] else (1,)
    ticks = [m * 10.0**e for e in range(8) for m in steps if limits[0] <= m * 10.0**e <= limits[1]]
    return ticks, [f"{tick:,.0f}" for tick in ticks]


def versions() -> dict[str, str]:
    """Returns the versions of what the peers' patterns run on."""
    return {name: metadata.version(name) for name in ("grpcio", "msgpack", "websockets")}
