"""The example of a fine-tuner works from a folder outside the package."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).parents[2] / "examples" / "extend" / "my_tuner.py"
EDP = [sys.executable, "-m", "edp_robot.cli"]
SMALL = ["loop.env_steps=2400", "tuner.n_states=32", "tuner.n_best=3"]


def edp(folder, *args, check=True):
    command = [*EDP, *args]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=check)


def finetune(folder, pretrained, *more, check=True):
    options = ["--task", "arm-press", "--preset", "smoke", "--from", str(pretrained)]
    options += ["--method", "my_tuner:BestOfK", "--eval-episodes", "4", "--out", "press"]
    return edp(folder, "finetune", *options, "--set", *SMALL, *more, check=check)


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pretrained")
    options = ["--task", "arm", "--preset", "smoke", "--set", "loop.env_steps=3600"]
    edp(folder, "pretrain", "--out", "arm", *options)
    return folder / "arm"


@pytest.fixture(scope="module")
def folder(tmp_path_factory, pretrained):
    """Returns a folder with the example and a run that it fine-tuned."""
    folder = tmp_path_factory.mktemp("own")
    shutil.copy(EXAMPLE, folder)
    finetune(folder, pretrained)
    return folder


def test_it_tunes_with_its_own_settings(folder):
    held = json.loads((folder / "press" / "config.json").read_text())["config"]
    assert held["method"] == "my_tuner:BestOfK"
    assert (held["tuner"]["n_best"], held["tuner"]["n_proposals"]) == (3, 16)
    assert "q_best" in (folder / "press" / "metrics.csv").read_text()


def test_it_resumes(folder, pretrained):
    assert "success" in finetune(folder, pretrained, "--resume").stdout
    other = finetune(folder, pretrained, "tuner.n_best=4", "--resume", check=False)
    assert other.returncode != 0
    assert "another config (differs in ['tuner'])" in other.stderr


def test_what_it_tuned_is_exported_and_distilled(folder, tmp_path):
    """These need no code of the example: DiffusionTuner says where its policy lies."""
    run = str(folder / "press")
    edp(tmp_path, "export", "--from", run, "--out", "teacher")
    edp(tmp_path, "export", "--from", run, "--best-of", "4", "--out", "best")
    assert (tmp_path / "teacher" / "policy.onnx").exists()
    assert (tmp_path / "best" / "policy.onnx").exists()
    edp(tmp_path, "distill", "--from", run, "--preset", "smoke", "--out", "student")
    edp(tmp_path, "export", "--from", "student", "--out", "bundle")
    assert (tmp_path / "bundle" / "policy.onnx").exists()


def test_it_is_one_short_file():
    assert len(EXAMPLE.read_text().splitlines()) < 100
