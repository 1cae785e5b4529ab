import io
import json

import numpy as np
import pytest
from PIL import Image

from edp_robot.demo import charts
from edp_robot.demo.report import (
    Section,
    Target,
    flat,
    picture,
    target_rows,
    targets,
    text_table,
    write,
)

NUMBERS = {
    "success": {"finetuned": 0.9, "scratch": 0.3, "student": 0.9, "served": 0.88},
    "coverage": {"edp": 0.6, "random": 0.2},
    "latency_us": {"torch_teacher": {"p50": 3000.0}, "onnx_student": {"p50": 30.0}},
    "parity": {"max_abs_error": 2e-6},
    "control": {"ticks": 400, "missed_deadlines": 2},
    "wall_s": {"total": 120.0},
    "host": {"cpu": "A <fast> one", "n_cores": 2},
    "commit": "0123456789abcdef",
}


@pytest.mark.parametrize(
    ("value", "at_least", "reached"),
    [(2.0, True, True), (2.1, True, True), (1.9, True, False), (2.1, False, False)],
)
def test_a_target_is_reached_on_its_side_of_the_limit(value, at_least, reached):
    target = Target("x", value, 2.0, at_least)
    assert target.reached is reached
    assert target.row()[-1] == ("reached" if reached else "falls short")


def test_targets_by_hand():
    found = {target.name: target.value for target in targets(NUMBERS)}
    assert found["exploration: coverage against random actions"] == pytest.approx(3.0)
    assert found["success above training from scratch"] == pytest.approx(0.6)
    assert found["served success below the student's"] == pytest.approx(0.02)
    assert found["missed deadlines, share of ticks"] == pytest.approx(0.005)
    short = [target.name for target in targets(NUMBERS) if not target.reached]
    assert short == ["success after fine-tuning"]


def test_columns_of_a_text_table_are_aligned():
    rows = target_rows(NUMBERS)
    lines = text_table(rows).splitlines()
    assert len({line.index("at ") for line in lines[1:]}) == 1
    assert lines[2].endswith("falls short")


def test_every_number_is_listed_once():
    assert flat("", {"a": {"b": 1.5, "c": True}, "d": "x", "e": [1]}) == [
        ["a.b", "1.5"],
        ["d", "x"],
    ]


def test_the_page_holds_its_pictures_and_escapes_text(tmp_path):
    sections = [Section("A & B", "what <one> sees", [picture(b"\x89PNG")])]
    write(tmp_path, NUMBERS, sections)
    page = (tmp_path / "report.html").read_text()
    assert "A &lt;fast&gt; one" in page
    assert "A &amp; B" in page
    assert '<img alt="" src="data:image/png;base64,iVBORw==">' in page
    assert '<td class="falls-short">falls short</td>' in page
    assert '<td class="">at least 0.95</td>' in page
    assert json.loads((tmp_path / "report.json").read_text()) == NUMBERS


def size(png):
    return Image.open(io.BytesIO(png)).size


def test_rows_of_a_collage_have_one_width():
    tall = charts.curves({"a": (np.arange(3), np.arange(3))}, "x", "y")
    wide = charts.latencies({"a": np.arange(1.0, 9.0)})
    width, height = size(charts.collage([[tall], [tall, wide]], width=600))
    assert width == 600
    assert height > 300


def test_every_chart_is_a_picture():
    cubes = np.array([[0, 0, 0], [1, 0, 0], [1, 1, 2]])
    made = [
        charts.workspace({"a": cubes[:1], "b": cubes}, cubes, 0.02),
        charts.teacher_and_student(np.zeros((4, 2)), np.ones((4, 2))),
        charts.control_times(np.full(9, 1e4), np.full(9, 2e6), 1e7),
    ]
    assert all(min(size(png)) > 200 for png in made)
