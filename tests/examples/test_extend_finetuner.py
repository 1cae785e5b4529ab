"""The example of a fine-tuner works from a folder outside the package."""

import json
import shutil
from pathlib import Path

import pytest
from support.own_folder import edp, edp_process

EXAMPLE = Path(__file__).parents[2] / "examples" / "extend" / "my_tuner.py"
SMALL = ["loop.env_steps=2400", "tuner.n_states=32", "tuner.n_best=3"]
SHORT = ["--set", "n_chunks=1", "pairs_per_chunk=256"]


def finetuning(pretrained, *more):
    """Returns the command that fine-tunes with the example."""
    options = ["--task", "arm-press", "--preset", "smoke", "--from", pretrained]
    options += ["--method", "my_tuner:BestOfK", "--eval-episodes", "4", "--out", "press"]
    return ["finetune", *options, "--set", *SMALL, *more]


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
    edp_process(folder, *finetuning(pretrained))
    return folder


def test_it_tunes_with_its_own_settings(folder):
    held = json.loads((folder / "press" / "config.json").read_text())["config"]
    assert held["method"] == "my_tuner:BestOfK"
    assert (held["tuner"]["n_best"], held["tuner"]["n_proposals"]) == (3, 16)
    assert "q_best" in (folder / "press" / "metrics.csv").read_text()


def test_it_resumes(folder, pretrained):
    assert "success" in edp(folder, *finetuning(pretrained, "--resume")).stdout
    changed = finetuning(pretrained, "tuner.n_best=4", "--resume")
    other = edp(folder, *changed, check=False)
    assert other.returncode != 0
    assert "another config: tuner.n_best=3 there, 4 asked" in other.stderr


def test_what_it_tuned_is_exported_and_distilled(folder, tmp_path):
    """These need no code of the example: DiffusionTuner says where its policy lies."""
    run = str(folder / "press")
    few = ("--denoise-steps", 2)
    edp(tmp_path, "export", "--from", run, *few, "--out", "teacher")
    edp(tmp_path, "export", "--from", run, *few, "--best-of", "4", "--out", "best")
    assert (tmp_path / "teacher" / "policy.onnx").exists()
    assert (tmp_path / "best" / "policy.onnx").exists()
    edp(tmp_path, "distill", "--from", run, "--preset", "smoke", *SHORT, "--out", "student")
    edp(tmp_path, "export", "--from", "student", "--out", "bundle")
    assert (tmp_path / "bundle" / "policy.onnx").exists()


def test_it_is_one_short_file():
    assert len(EXAMPLE.read_text().splitlines()) < 100
