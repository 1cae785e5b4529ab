"""The example of an intrinsic reward works from a folder outside the package."""

import json
import shutil
from pathlib import Path

import pytest
from support.own_folder import edp, edp_process

EXAMPLE = Path(__file__).parents[2] / "examples" / "extend" / "my_reward.py"
PRETRAIN = ["pretrain", "--task", "arm", "--preset", "smoke", "--out", "explored"]
METHOD = ["--method", "my_reward:HashCount", "--set", "reward.n_bits=8", "loop.env_steps=4800"]
SHORT = ["--set", "n_chunks=1", "pairs_per_chunk=256"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Returns a folder with the example and a run that it explored."""
    folder = tmp_path_factory.mktemp("own")
    shutil.copy(EXAMPLE, folder)
    edp_process(folder, *PRETRAIN, *METHOD)
    return folder


def test_it_explores_with_its_own_settings(folder):
    held = json.loads((folder / "explored" / "config.json").read_text())["config"]
    assert held["method"] == "my_reward:HashCount"
    assert held["reward"] == {"n_bits": 8, "scale": 4.0}
    assert "hashes_seen" in (folder / "explored" / "metrics.csv").read_text()


def test_it_resumes(folder):
    again = edp(folder, *PRETRAIN, *METHOD, "--resume")
    assert "env_steps 4800" in again.stdout
    other = edp(folder, *PRETRAIN, *METHOD, "reward.n_bits=9", "--resume", check=False)
    assert other.returncode != 0
    assert "another config: reward.n_bits=8 there, 9 asked" in other.stderr


def test_what_it_explored_is_exported_and_distilled(folder, tmp_path):
    """These need no code of the example: the settings of its reward do not concern them."""
    run = str(folder / "explored")
    edp(tmp_path, "export", "--from", run, "--denoise-steps", 2, "--out", "teacher")
    assert (tmp_path / "teacher" / "policy.onnx").exists()
    edp(tmp_path, "distill", "--from", run, "--preset", "smoke", *SHORT, "--out", "student")
    edp(tmp_path, "export", "--from", "student", "--out", "bundle")
    assert (tmp_path / "bundle" / "policy.onnx").exists()


def test_a_mistake_in_its_name_is_explained(folder):
    options = ["--out", "none", "--method", "my_reward:HashCuont"]
    failed = edp(folder, "pretrain", "--preset", "smoke", *options, check=False)
    assert failed.returncode != 0
    assert "has no 'HashCuont'; it has:" in failed.stderr and "HashCount" in failed.stderr


def test_it_is_one_short_file():
    assert len(EXAMPLE.read_text().splitlines()) < 100
