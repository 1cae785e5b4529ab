import json

import pytest

from edp_robot import cli
from edp_robot.demo.road import Options, Road, edp, prepare


def test_folders_that_no_demo_made_are_spared(tmp_path, capsys):
    (tmp_path / "thesis.tex").write_text("years of work")
    assert cli.main(["demo", "--out", str(tmp_path)]) == 1
    assert "no demo made it" in capsys.readouterr().err
    assert (tmp_path / "thesis.tex").exists()


def test_the_papers_sizes_are_refused(tmp_path, capsys):
    assert cli.main(["demo", "--preset", "paper", "--out", str(tmp_path / "d")]) == 1
    assert "one by one with --preset paper" in capsys.readouterr().err
    assert not (tmp_path / "d").exists()


def test_a_resumed_demo_counts_the_time_before(tmp_path):
    """9 s of an earlier run are added. A new demo in the same folder begins at zero."""
    mark = tmp_path / "demo.json"
    mark.write_text('{"elapsed_s": 9.0}')
    prepare(tmp_path, resume=True)
    road = Road(Options(tmp_path, "smoke", resume=True))
    with road.stage("export", "exporting"):
        pass
    assert 9.0 < json.loads(mark.read_text())["elapsed_s"] < 60
    prepare(tmp_path, resume=False)
    assert json.loads(mark.read_text()) == {}


def test_a_new_demo_removes_the_earlier_ones_runs(tmp_path):
    prepare(tmp_path, resume=False)
    (tmp_path / "pretrain").mkdir()
    prepare(tmp_path, resume=True)
    assert (tmp_path / "pretrain").exists()
    prepare(tmp_path, resume=False)
    assert not (tmp_path / "pretrain").exists()


@pytest.mark.parametrize("guest", ["notes.md", ".git/HEAD", "policy.onnx/mine"])
def test_a_stage_that_holds_something_else_is_spared(tmp_path, guest):
    prepare(tmp_path, resume=False)
    for file in ("pretrain/config.json", "pretrain/metrics.csv", f"bundle/{guest}"):
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_text("{}")
    name = guest.split("/")[0]
    with pytest.raises(FileExistsError, match=f"bundle holds {name}, which no demo makes"):
        prepare(tmp_path, resume=False)
    assert (tmp_path / "bundle" / guest).exists() and (tmp_path / "pretrain/config.json").exists()


def test_a_demo_json_of_another_program_is_no_mark(tmp_path):
    (tmp_path / "demo.json").write_text('{"slides": 12}')
    with pytest.raises(FileExistsError, match="no demo made it"):
        prepare(tmp_path, resume=False)


def test_a_command_that_fails_is_named(capsys):
    with pytest.raises(RuntimeError, match="`edp prtrain` ended with status 2"):
        edp("prtrain")
