import json

import pytest
import results_page

PAGE = "before\n<!-- peers: begin -->\nold\n<!-- peers: end -->\nafter\n"
DEMO = "<!-- measured by make demo: begin --><!-- measured by make demo: end -->"
REPORT = {
    "commit": "0123456789abcdef",
    "host": {"cpu": "A CPU", "n_cores": 2, "kernel": "Linux", "python": "3.11"},
    "wall_s": {"total": 301.0},
    "coverage": {"edp": 0.6, "random": 0.3},
    "success": {"before": 0.0, "scratch": 0.1, "finetuned": 0.9, "student": 0.9, "served": 0.9},
    "latency_us": {
        "torch_teacher": {"p50": 1000.0, "p99": 2000.0},
        "onnx_student": {"p50": 10.0, "p99": 20.0},
    },
    "parity": {"max_abs_error": 1e-7},
    "roundtrip_us": {"p50": 200.0, "p99": 300.0, "p999": 400.0, "n": 20000},
    "control": {"missed_deadlines": 1, "ticks": 4000, "period_jitter_us_p99": 16.0},
}


@pytest.fixture
def page(tmp_path, monkeypatch):
    path = tmp_path / "results.md"
    path.write_text(PAGE + DEMO)
    monkeypatch.setattr(results_page, "PAGE", path)
    monkeypatch.setattr(results_page, "PICTURE", tmp_path / "road.png")
    return path


def test_a_table_replaces_what_is_between_its_markers(page, tmp_path):
    folder = tmp_path / "peers"
    folder.mkdir()
    (folder / "table.md").write_text("| new |\n")
    results_page.main(folder)
    new = "<!-- peers: begin -->\n| new |\n<!-- peers: end -->"
    assert page.read_text() == f"before\n{new}\nafter\n{DEMO}"


def test_a_demos_report_becomes_a_table_that_keeps_what_falls_short(page, tmp_path):
    folder = tmp_path / "demo"
    folder.mkdir()
    (folder / "report.json").write_text(json.dumps(REPORT))
    (folder / "road.png").write_bytes(b"picture")
    results_page.main(folder)
    text = page.read_text()
    assert "On A CPU, 2 cores, Linux, Python 3.11, no GPU; commit 0123456789ab, 301 s" in text
    assert "| success after fine-tuning | at least 0.95 | 0.9 | falls short |" in text
    assert "| whole demo [s] | at most 300 | 301 | falls short |" in text
    assert "times faster | at least 50 | 100 | reached |" in text
    assert "p50 / p99 [us]: torch teacher 1000 / 2000, onnx student 10 / 20." in text
    assert results_page.PICTURE.read_bytes() == b"picture"


def test_a_page_without_the_markers_is_refused(page):
    with pytest.raises(SystemExit, match="has 0 blocks between <!-- soak: begin -->"):
        results_page.put("soak", "| new |")
