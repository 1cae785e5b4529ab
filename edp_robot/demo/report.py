"""The demo's report: one HTML file with every picture inside, and one JSON file with every number."""

from __future__ import annotations

import base64
import html
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

STYLE = """
body{font:15px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#1d2733}
h1{font-size:1.7rem;margin-bottom:.2rem}h2{margin-top:2.2rem;border-top:1px solid #d8dde3;padding-top:1rem}
table{border-collapse:collapse;margin:1rem 0;font-variant-numeric:tabular-nums}
td,th{padding:.3rem .9rem;text-align:left;border-bottom:1px solid #e3e7ec}td.n{text-align:right}
.yes{color:#1d7a3e}.no{color:#b3261e;font-weight:600}img{max-width:100%}p.note{color:#5b6672}
"""


@dataclass(frozen=True)
class Target:
    """One figure that the demo is asked to reach: `value` against `limit`, at least or at most."""

    name: str
    value: float
    limit: float
    at_least: bool = True

    @property
    def reached(self) -> bool:
        """Whether it is."""
        return self.value >= self.limit if self.at_least else self.value <= self.limit

    def row(self) -> list[str]:
        """Returns [name, asked, measured, verdict] as text."""
        sign = "at least" if self.at_least else "at most"
        return [
            self.name,
            f"{sign} {self.limit:.4g}",
            f"{self.value:.4g}",
            "reached" if self.reached else "falls short",
        ]


def targets(r: dict[str, Any]) -> list[Target]:
    """Returns the figures that the demo is asked to reach, from its report."""
    success, latency = r["success"], r["latency_us"]
    speed_up = latency["torch_teacher"]["p50"] / latency["onnx_student"]["p50"]
    control = r["control"]
    return [
        Target(
            "exploration: coverage against random actions",
            r["coverage"]["edp"] / r["coverage"]["random"],
            1.5,
        ),
        Target("success after fine-tuning", success["finetuned"], 0.95),
        Target(
            "success above training from scratch", success["finetuned"] - success["scratch"], 0.3
        ),
        Target(
            "student's success over the teacher's",
            success["student"] / max(success["finetuned"], 1e-9),
            0.98,
        ),
        Target(
            "served success below the student's",
            success["student"] - success["served"],
            0.05,
            False,
        ),
        Target("ONNX against torch, largest difference", r["parity"]["max_abs_error"], 1e-5, False),
        Target("one-step student against 15-step torch teacher, times faster", speed_up, 50),
        Target(
            "missed deadlines, share of ticks",
            control["missed_deadlines"] / max(control["ticks"], 1),
            0.01,
            False,
        ),
        Target("whole demo [s]", r["wall_s"]["total"], 300, False),
    ]


def text_table(rows: list[list[str]]) -> str:
    """Returns rows as aligned text."""
    widths = [max(len(r[i]) for r in rows) for i in range(len(rows[0]))]
    return "\n".join(
        "  ".join(c.ljust(w) for c, w in zip(r, widths, strict=True)).rstrip() for r in rows
    )


def picture(data: bytes, kind: str = "png") -> str:
    """Returns an <img> with the picture inside."""
    return f'<img alt="" src="data:image/{kind};base64,{base64.b64encode(data).decode()}">'


def html_table(rows: list[list[str]]) -> str:
    """Returns rows as a table; 'reached' and 'falls short' are coloured."""
    colour = {"reached": "yes", "falls short": "no"}
    body = "".join(
        "<tr>"
        + "".join(f'<td class="{colour.get(c, "")}">{html.escape(c)}</td>' for c in row)
        + "</tr>"
        for row in rows
    )
    return f"<table>{body}</table>"


def numbers(r: dict[str, Any]) -> list[list[str]]:
    """Returns every number of the report, one a row."""
    rows: list[list[str]] = []

    def walk(prefix: str, value: Any) -> None:
        if isinstance(value, dict):
            for key, inner in value.items():
                walk(f"{prefix}.{key}" if prefix else key, inner)
        elif isinstance(value, (int, float, str)) and not isinstance(value, bool):
            rows.append([prefix, f"{value:.6g}" if isinstance(value, float) else str(value)])

    walk("", r)
    return rows


def write(folder: Path, r: dict[str, Any], sections: list[tuple[str, str, list[str]]]) -> None:
    """Writes report.json and report.html.

    Args:
        folder: where to.
        r: the numbers.
        sections: (title, what one sees, pictures as HTML).
    """
    rows = [t.row() for t in targets(r)]
    (folder / "report.json").write_text(
        json.dumps(r, indent=1, sort_keys=True, allow_nan=False) + "\n"
    )
    parts = [
        f"<h2>{html.escape(t)}</h2><p>{html.escape(note)}</p>{''.join(images)}"
        for t, note, images in sections
    ]
    host = r["host"]
    where = f"{host.get('cpu', '?')}, {host.get('n_cores', '?')} cores, commit {r['commit'][:12]}"
    page = (
        f"<!doctype html><html lang=en><meta charset=utf-8><title>EDP Robot: demo</title><style>{STYLE}</style>"
        f"<h1>EDP Robot: the whole road, once</h1><p class=note>{html.escape(where)}</p>"
        f"<h2>Asked and measured</h2>{html_table([['figure', 'asked', 'measured', ''], *rows])}{''.join(parts)}"
        f"<h2>Every number</h2>{html_table(numbers(r))}</html>"
    )
    (folder / "report.html").write_text(page, encoding="utf-8")
