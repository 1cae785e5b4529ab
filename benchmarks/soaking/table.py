"""Makes the table of a soak from the results of the parts."""

from __future__ import annotations

import json
from math import inf
from pathlib import Path
from typing import Any, NamedTuple

from soaking.requests import FLAT_MIB

PASSES = {"paced": "", "remote": ", peer of low priority", "flood": ", as fast as it can"}


class Row(NamedTuple):
    """One row: what was done, asked, measured, and whether it is met (None: nothing was asked)."""

    what: str
    asked: str
    measured: str
    met: bool | None = None


def read_results(folder: Path) -> dict[str, dict[str, Any]]:
    """Returns the results of `folder` by part, of those parts that have been run."""
    paths = {part: folder / f"{part}.json" for part in ("requests", "hostile", "reload")}
    return {part: json.loads(path.read_text()) for part, path in paths.items() if path.exists()}


def table(results: dict[str, dict[str, Any]]) -> str:
    """Returns the results of one or more parts as Markdown."""
    rows_of = {"requests": _requests, "hostile": _hostile, "reload": _reload}
    rows = [row for part, found in results.items() for row in rows_of[part](found)]
    verdicts = {True: "met", False: "missed", None: ""}
    lines = [f"| {row.what} | {row.asked} | {row.measured} | {verdicts[row.met]} |" for row in rows]
    return "\n".join(["| what | asked | measured | |", "|---|---|---|---|", *lines]) + "\n"


def _requests(found: dict[str, Any]) -> list[Row]:
    lost = found["n_lost"]
    twice = found["n_twice"]
    early = found["rss_10_mib"]
    end = found["rss_end_mib"]
    return [
        Row(
            f"{found['n_sent']:,} requests",
            "none lost, none answered twice",
            f"{lost} and {twice}",
            not (lost or twice),
        ),
        Row(
            "the server's memory meanwhile",
            f"flat: at most {FLAT_MIB:g} MiB more",
            f"{early:.1f} MiB after a tenth, {end:.1f} MiB in the end",
            end - early <= FLAT_MIB,
        ),
    ]


def _hostile(found: dict[str, Any]) -> list[Row]:
    paced = found["paced"]
    well = paced["alive"] and paced["exact"] and not paced["n_tracebacks"]
    answers = "none, right" if well else "NOT so"
    rows = [Row(_frames(paced, "paced"), "no crash, answers right", answers, well)]
    for name in PASSES:
        one = found[name]
        ratio = one["p99_ratio"] or inf
        beside = one["p99_ratio_neighbour"] or inf
        p99 = f"{ratio:.2f} ({beside:.2f} x that beside the same attack on another server)"
        what = _frames(one, name)
        if name == "paced":
            rows.append(Row(what, "good client's p99 at most 2 x that alone", p99, ratio <= 2))
        else:
            rows.append(Row(what, "(the same)", p99))
    return rows


def _frames(one: dict[str, Any], name: str) -> str:
    n = one["peer"]["n"]
    return f"{n:,} bad frames, {n / one['peer']['elapsed_s']:,.0f}/s{PASSES[name]}"


def _reload(found: dict[str, Any]) -> list[Row]:
    failed = found["n_reloads_failed"] + found["n_lost"] + found["n_wrong"]
    gap = f"longest gap {found['longest_gap_s'] * 1000:.0f} ms"
    counts = f"{failed} of {found['n_sent']:,} requests, {gap}"
    what = f"{found['n_reloads']} reloads under load"
    return [Row(what, "no failed request", counts, not failed)]
