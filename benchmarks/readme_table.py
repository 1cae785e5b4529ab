"""Puts measured tables into the README: python benchmarks/readme_table.py runs/demo results/peers results/soak

The numbers in the README are never typed. Of a demo's folder, report.json and the picture go between the markers of
`make demo`; of any other, table.md goes between the markers with the folder's name.
"""

import json
import re
import shutil
import sys
from pathlib import Path

from edp_robot.demo.report import targets

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"


def table(report: dict) -> str:
    host, success, latency = report["host"], report["success"], report["latency_us"]
    rows = ["| figure | asked | measured | |", "|---|---|---|---|"]
    rows += ["| " + " | ".join(t.row()) + " |" for t in targets(report)]
    steps = [
        f"{name} {success[name]:.2f}"
        for name in ("before", "scratch", "finetuned", "student", "served")
    ]
    times = [
        f"{name.replace('_', ' ')} {v['p50']:.0f} / {v['p99']:.0f}" for name, v in latency.items()
    ]
    trip, control = report["roundtrip_us"], report["control"]
    where = f"{host['cpu']}, {host['n_cores']} cores, {host['kernel']}, Python {host['python']}"
    return "\n".join(
        [
            f"On {where}, no GPU; commit {report['commit'][:12]}, {report['wall_s']['total']:.0f} s in all.",
            "",
            *rows,
            "",
            f"- Success within 2 s from a random pose: {', '.join(steps)}.",
            f"- Latency of one action, p50 / p99 [us]: {', '.join(times)}.",
            f"- Round trip over ZeroMQ [us]: p50 {trip['p50']:.0f}, p99 {trip['p99']:.0f}, p99.9 {trip['p999']:.0f} "
            f"(n = {trip['n']}).",
            f"- Control at 100 Hz: {control['missed_deadlines']} missed deadlines in {control['ticks']} ticks, "
            f"period jitter p99 {control['period_jitter_us_p99']:.0f} us.",
        ]
    )


def put(name: str, block: str) -> None:
    """Replaces what stands between the README's markers of that name."""
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    text, n = re.subn(
        f"{begin}.*?{end}",
        lambda _: f"{begin}\n{block.strip()}\n{end}",
        README.read_text(),
        flags=re.S,
    )
    if n != 1:
        raise SystemExit(f"README.md has {n} blocks between {begin} and {end}, expected 1")
    README.write_text(text)


def main(folder: Path) -> None:
    """Puts one folder's table into the README."""
    if not (folder / "report.json").exists():
        put(folder.resolve().name, (folder / "table.md").read_text())
        return
    put("measured by make demo", table(json.loads((folder / "report.json").read_text())))
    if (folder / "road.png").exists():
        (ROOT / "docs" / "images").mkdir(parents=True, exist_ok=True)
        shutil.copy(folder / "road.png", ROOT / "docs" / "images" / "road.png")


if __name__ == "__main__":
    for word in sys.argv[1:]:
        main(Path(word))
