"""Writes measured tables into docs/results.md.

    python benchmarks/results_page.py runs/demo results/peers results/soak

Of a demo's folder it takes report.json and the picture. Of any other folder it takes table.md, and
puts it between the markers with the folder's name.
"""

import json
import re
import shutil
import sys
from pathlib import Path

from edp_robot.demo.report import targets

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "results.md"
PICTURE = ROOT / "docs" / "images" / "road.png"
STAGES = ("before", "scratch", "finetuned", "student", "served")


def demo_table(report: dict) -> str:
    """Returns the table of a demo's report as Markdown."""
    host = report["host"]
    control = report["control"]
    trip = report["roundtrip_us"]
    success = ", ".join(f"{stage} {report['success'][stage]:.2f}" for stage in STAGES)
    latency = ", ".join(
        f"{name.replace('_', ' ')} {times['p50']:.0f} / {times['p99']:.0f}"
        for name, times in report["latency_us"].items()
    )
    lines = [
        f"On {host['cpu']}, {host['n_cores']} cores, {host['kernel']}, Python {host['python']}, "
        f"no GPU; commit {report['commit'][:12]}, {report['wall_s']['total']:.0f} s in all.",
        "",
        "| figure | asked | measured | |",
        "|---|---|---|---|",
        *("| " + " | ".join(target.row()) + " |" for target in targets(report)),
        "",
        f"- Success within 2 s from a random pose: {success}.",
        f"- Latency of one action, p50 / p99 [us]: {latency}.",
        f"- Round trip over ZeroMQ [us]: p50 {trip['p50']:.0f}, p99 {trip['p99']:.0f}, "
        f"p99.9 {trip['p999']:.0f} (n = {trip['n']}).",
        f"- Control at 100 Hz: {control['missed_deadlines']} missed deadlines in "
        f"{control['ticks']} ticks, period jitter p99 {control['period_jitter_us_p99']:.0f} us.",
    ]
    return "\n".join(lines)


def put(name: str, block: str) -> None:
    """Replaces the text between the markers with this name by `block`.

    Raises:
        SystemExit: The page does not have exactly one such pair of markers.
    """
    begin = f"<!-- {name}: begin -->"
    end = f"<!-- {name}: end -->"
    new = f"{begin}\n{block.strip()}\n{end}"
    text, n = re.subn(f"{begin}.*?{end}", lambda _: new, PAGE.read_text(), flags=re.S)
    if n != 1:
        raise SystemExit(f"{PAGE.name} has {n} blocks between {begin} and {end}, expected 1")
    PAGE.write_text(text)


def main(folder: Path) -> None:
    """Puts one folder's table, and a demo's picture, into the documents."""
    report = folder / "report.json"
    if not report.exists():
        put(folder.resolve().name, (folder / "table.md").read_text())
        return
    put("measured by make demo", demo_table(json.loads(report.read_text())))
    if (folder / "road.png").exists():
        shutil.copy(folder / "road.png", PICTURE)


if __name__ == "__main__":
    for word in sys.argv[1:]:
        main(Path(word))
