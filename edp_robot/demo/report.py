"""The demo's report: an HTML file with every picture in it, and a JSON file with every number."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment
from markupsafe import Markup

from policy_server.contract.disk.files import write_atomic, write_json

HEAD = ["figure", "asked", "measured", ""]
PAGE = """<!doctype html><html lang=en><meta charset=utf-8><title>EDP Robot: demo</title><style>
body{font:15px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}
body{color:#1d2733}
h1{font-size:1.7rem;margin-bottom:.2rem}
h2{margin-top:2.2rem;border-top:1px solid #d8dde3;padding-top:1rem}
table{border-collapse:collapse;margin:1rem 0;font-variant-numeric:tabular-nums}
td{padding:.3rem .9rem;text-align:left;border-bottom:1px solid #e3e7ec}
.reached{color:#1d7a3e}.falls-short{color:#b3261e;font-weight:600}
img{max-width:100%}.note{color:#5b6672}
</style>
{%- macro table(rows) %}
<table>{% for row in rows %}<tr>
{%- for cell in row %}<td class="{{ cell | replace(' ', '-') if cell in verdicts }}">{{ cell }}</td>
{%- endfor %}</tr>{% endfor %}</table>
{%- endmacro %}
<h1>EDP Robot: the whole pipeline, once</h1>
<p class=note>{{ r.host.cpu }}, {{ r.host.n_cores }} cores, commit {{ r.commit[:12] }}</p>
<h2>Asked and measured</h2>{{ table(targets) }}
{%- for section in sections %}
<h2>{{ section.title }}</h2><p>{{ section.text }}</p>{{ section.pictures | join }}
{%- endfor %}
<h2>Every number</h2>{{ table(numbers) }}</html>
"""


@dataclass(frozen=True)
class Target:
    """A figure that the demo is asked to reach: `value` at least or at most `limit`."""

    name: str
    value: float
    limit: float
    at_least: bool = True

    @property
    def reached(self) -> bool:
        """Whether `value` is on the right side of `limit`."""
        return self.value >= self.limit if self.at_least else self.value <= self.limit

    def row(self) -> list[str]:
        """Returns [name, asked, measured, verdict] as text."""
        sign = "at least" if self.at_least else "at most"
        verdict = "reached" if self.reached else "falls short"
        return [self.name, f"{sign} {self.limit:.4g}", f"{self.value:.4g}", verdict]


@dataclass(frozen=True)
class Section:
    """A part of the report: its title, what one sees, and its pictures."""

    title: str
    text: str
    pictures: list[Markup]


def targets(r: dict[str, Any]) -> list[Target]:
    """Returns the figures that the demo is asked to reach, from its numbers `r`."""
    success = r["success"]
    control = r["control"]
    coverage = r["coverage"]["edp"] / r["coverage"]["random"]
    kept = success["student"] / max(success["finetuned"], 1e-9)
    lost = success["student"] - success["served"]
    speed_up = r["latency_us"]["torch_teacher"]["p50"] / r["latency_us"]["onnx_student"]["p50"]
    missed = control["missed_deadlines"] / max(control["ticks"], 1)
    above_scratch = success["finetuned"] - success["scratch"]
    difference = r["parity"]["max_abs_error"]
    return [
        Target("exploration: coverage against random actions", coverage, 1.5),
        Target("success after fine-tuning", success["finetuned"], 0.95),
        Target("success above training from scratch", above_scratch, 0.3),
        Target("student's success over the teacher's", kept, 0.98),
        Target("served success below the student's", lost, 0.05, at_least=False),
        Target("ONNX against torch, largest difference", difference, 1e-5, at_least=False),
        Target("one-step student against 15-step torch teacher, times faster", speed_up, 50),
        Target("missed deadlines, share of ticks", missed, 0.01, at_least=False),
        Target("whole demo [s]", r["wall_s"]["total"], 300, at_least=False),
    ]


def target_rows(r: dict[str, Any]) -> list[list[str]]:
    """Returns the table of targets with its head, from the demo's numbers `r`."""
    return [HEAD, *(target.row() for target in targets(r))]


def text_table(rows: list[list[str]]) -> str:
    """Returns rows as aligned text."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)


def picture(data: bytes, kind: str = "png") -> Markup:
    """Returns an <img> element with the picture in it."""
    encoded = base64.b64encode(data).decode()
    return Markup('<img alt="" src="data:image/{};base64,{}">').format(kind, encoded)


def flat(prefix: str, value: Any) -> list[list[str]]:
    """Returns [name, number] of every number and text in nested dictionaries."""
    if isinstance(value, dict):
        rows = (flat(f"{prefix}.{key}" if prefix else key, value[key]) for key in value)
        return [row for part in rows for row in part]
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return []
    return [[prefix, f"{value:.6g}" if isinstance(value, float) else str(value)]]


def write(folder: Path, r: dict[str, Any], sections: list[Section]) -> None:
    """Writes report.json and report.html.

    Args:
        folder: Folder of the files.
        r: The demo's numbers.
        sections: The parts between the targets and the list of all numbers.
    """
    write_json(folder / "report.json", r)
    page = Environment(autoescape=True).from_string(PAGE)
    verdicts = ("reached", "falls short")
    tables = {"targets": target_rows(r), "numbers": flat("", r)}
    html = page.render(r=r, sections=sections, verdicts=verdicts, **tables)
    write_atomic(folder / "report.html", html)
