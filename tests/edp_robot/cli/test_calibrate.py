from pathlib import Path

from edp_robot import cli
from edp_robot.cli import calibration_commands as commands


def test_quant_hands_its_arguments_on(monkeypatch):
    seen = []
    monkeypatch.setattr(commands, "quant", lambda *args: seen.append(args) or 1)
    words = "calibrate quant b --data r.npz --episodes 40 --precisions int8 fp16 --force --seed 3 --json q.json"
    assert cli.main(words.split()) == 1
    assert seen == [(Path("b"), Path("r.npz"), 40, ("int8", "fp16"), True, 3, Path("q.json"))]


def test_quant_of_what_is_no_bundle_says_so(tmp_path, capsys):
    assert cli.main(["calibrate", "quant", str(tmp_path)]) == 1
    assert "no manifest.json in it: not a bundle folder" in capsys.readouterr().err
