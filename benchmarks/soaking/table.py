"""The table of a soak, from the results of the parts that a folder holds."""

from __future__ import annotations

import json
from math import inf
from pathlib import Path
from typing import Any

from soaking.requests import FLAT_MIB

Row = tuple[
    str, str, str, bool | None
]  # what, asked, measured, whether that is met; None where nothing was asked


def table(folder: Path) -> str:
    """Returns Markdown of what requests.json, hostile.json and reload.json of `folder` say."""
    rows: list[Row] = []
    for part, tell in (("requests", _requests), ("hostile", _hostile), ("reload", _reload)):
        path = folder / f"{part}.json"
        if path.exists():
            rows += tell(json.loads(path.read_text()))
    verdicts = {True: "met", False: "missed", None: ""}
    lines = [
        f"| {what} | {asked} | {measured} | {verdicts[met]} |"
        for what, asked, measured, met in rows
    ]
    return "\n".join(["| what | asked | measured | |", "|---|---|---|---|", *lines]) + "\n"


def _requests(found: dict[str, Any]) -> list[Row]:
    lost, twice = found["n_lost"], found["n_twice"]
    growth_mib = found["rss_end_mib"] - found["rss_10_mib"]
    memory = (
        f"{found['rss_10_mib']:.1f} MiB after a tenth, {found['rss_end_mib']:.1f} MiB in the end"
    )
    return [
        (
            f"{found['n_sent']:,} requests",
            "none lost, none answered twice",
            f"{lost} and {twice}",
            not (lost or twice),
        ),
        (
            "the server's memory meanwhile",
            f"flat: at most {FLAT_MIB:g} MiB more",
            memory,
            growth_mib <= FLAT_MIB,
        ),
    ]


def _hostile(found: dict[str, Any]) -> list[Row]:
    rows: list[Row] = []
    for name, title in (
        ("paced", ""),
        ("remote", ", peer of low priority"),
        ("flood", ", as fast as it can"),
    ):
        one = found[name]
        n, hz = one["peer"]["n"], one["peer"]["n"] / one["peer"]["elapsed_s"]
        well = one["alive"] and one["exact"] and not one["n_tracebacks"]
        ratio, beside = one["p99_ratio"] or inf, one["p99_ratio_neighbour"] or inf
        p99 = f"{ratio:.2f} ({beside:.2f} x that beside the same attack on another server)"
        what = f"{n:,} bad frames, {hz:,.0f}/s{title}"
        if name == "paced":
            rows.append(
                (what, "no crash, answers right", "none, right" if well else "NOT so", well)
            )
        asked = "good client's p99 at most 2 x that alone" if name == "paced" else "(the same)"
        rows.append((what, asked, p99, ratio <= 2 if name == "paced" else None))
    return rows


def _reload(found: dict[str, Any]) -> list[Row]:
    failed = found["n_reloads_failed"] + found["n_lost"] + found["n_wrong"]
    counts = f"{failed} of {found['n_sent']:,} requests, longest gap {found['longest_gap_s'] * 1000:.0f} ms"
    return [(f"{found['n_reloads']} reloads under load", "no failed request", counts, not failed)]
