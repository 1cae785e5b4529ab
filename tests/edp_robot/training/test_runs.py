import json
import sys
from dataclasses import dataclass, replace

import numpy as np
import pytest
from support.tiny import tiny_finetune, tiny_pretrain

from edp_robot.methods.finetune.diffusion_tuner import DiffusionTunerConfig
from edp_robot.training.distillers import DistillConfig
from edp_robot.training.runs import Run, RunRecord, config_hash, read_config, read_metrics


@dataclass(frozen=True)
class Inner:
    sizes: tuple[int, ...] = (3, 4)


@dataclass(frozen=True)
class Config:
    task: str = "arm"
    rate: float = 3e-4
    inner: Inner = Inner()


def test_config_lies_there_before_anything_else(tmp_path):
    Run(tmp_path / "a" / "run", Config())
    held = read_config(tmp_path / "a" / "run")
    assert held["kind"] == "Config"
    assert held["config"] == {"task": "arm", "rate": 3e-4, "inner": {"sizes": [3, 4]}}
    assert held["hash"] == config_hash(Config())
    assert held["commit"]


def test_hash_of_a_config_depends_on_every_value_alone():
    assert config_hash(Config()) == config_hash(Config(task="arm"))
    others = (Config(rate=1e-3), Config(inner=Inner((3, 5))))
    assert len({config_hash(c) for c in (Config(), *others)}) == 3


def test_a_run_is_not_overwritten(tmp_path):
    Run(tmp_path, Config()).log(1, {"loss": 2.0})
    with pytest.raises(FileExistsError, match="--resume"):
        Run(tmp_path, Config())
    assert read_metrics(tmp_path, "loss")[1].tolist() == [2]


def test_resume_wants_the_same_config(tmp_path):
    Run(tmp_path, Config())
    with pytest.raises(ValueError, match=r"another config.*rate"):
        Run(tmp_path, replace(Config(), rate=1.0), resume=True)
    assert read_config(tmp_path)["config"]["rate"] == 3e-4
    Run(tmp_path, Config(), resume=True)


def test_resume_of_nothing_starts(tmp_path):
    run = Run(tmp_path / "new", Config(), resume=True)
    assert (tmp_path / "new" / "config.json").exists()
    assert not run.checkpoint_path.exists()
    run.truncate(5)


def test_metrics_are_kept_exactly(tmp_path):
    run = Run(tmp_path, Config())
    run.log(10, {"loss": 1 / 3, "coverage": 0.5})
    run.log(20, {"loss": float("nan")})
    run.close()
    steps, values = read_metrics(tmp_path, "loss")
    assert steps.tolist() == [10, 20]
    assert values[0] == 1 / 3
    assert np.isnan(values[1])
    assert read_metrics(tmp_path, "coverage")[1].tolist() == [0.5]
    assert list(tmp_path.glob("events.*"))


def test_metrics_after_the_checkpoint_are_dropped(tmp_path):
    run = Run(tmp_path, Config())
    for env_step in (10, 20, 30):
        run.log(env_step, {"loss": env_step / 10, "value": 0.0})
    with (tmp_path / "metrics.csv").open("a") as file:
        file.write("40,los")  # killed while writing
    run.truncate(20)
    run.log(30, {"loss": 7.0})
    run.close()
    assert [a.tolist() for a in read_metrics(tmp_path, "loss")] == [[10, 20, 30], [1, 2, 7]]
    assert read_metrics(tmp_path, "value")[0].tolist() == [10, 20]
    assert (tmp_path / "metrics.csv").read_text().splitlines()[0] == "env_step,name,value"


def test_metrics_of_a_run_killed_before_the_header(tmp_path):
    run = Run(tmp_path, Config())
    (tmp_path / "metrics.csv").write_text("")
    run.truncate(20)
    run.log(30, {"loss": 7.0})
    run.close()
    rows = (tmp_path / "metrics.csv").read_text().splitlines()
    assert rows == ["env_step,name,value", "30,loss,7.0"]


def test_no_run_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no run folder.*config\.json"):
        read_config(tmp_path)


@pytest.mark.parametrize("method", ["edp", "rnd", "particle", "random"])
def test_a_record_holds_the_config_as_it_was(tmp_path, method):
    config = tiny_pretrain(method=method, n_seeds=2)
    Run(tmp_path, config)
    record = RunRecord.load(tmp_path)
    assert record.config == config
    assert record.config_hash == config_hash(config)
    assert (record.spec.name, record.config.n_action_steps) == ("arm", 10)


@pytest.mark.parametrize("method", ["edp", "edp-guidance", "ddpg", "onestep", "trqam", "idql"])
def test_a_record_of_a_fine_tuning_holds_its_tuner(tmp_path, method):
    config = tiny_finetune("", method=method)
    Run(tmp_path, config)
    assert RunRecord.load(tmp_path).config == config


def test_a_record_of_another_kind_is_refused(tmp_path):
    Run(tmp_path, tiny_pretrain())
    with pytest.raises(ValueError, match=r"a pre-training, not a distillation; .*`edp distill`"):
        RunRecord.load(tmp_path, DistillConfig)


def stored(folder, **changes):
    """Changes fields of the config that `folder` holds."""
    path = folder / "config.json"
    held = json.loads(path.read_text())
    held["config"].update(changes)
    path.write_text(json.dumps(held))


def test_a_record_imports_no_code_that_the_folder_names(tmp_path, monkeypatch):
    """Settings of a method that lies elsewhere are read as far as all methods share them."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "trap.py").write_text("raise SystemExit('imported')")
    Run(tmp_path / "run", tiny_finetune(""))
    stored(tmp_path / "run", method="trap:Tuner")
    config = RunRecord.load(tmp_path / "run").config
    assert type(config.tuner) is DiffusionTunerConfig
    assert (config.tuner.acting_denoise_steps, config.policy_model.width) == (3, 64)
    Run(tmp_path / "pre", tiny_pretrain())
    stored(tmp_path / "pre", method="trap:Reward")
    assert RunRecord.load(tmp_path / "pre").config.action_model.width == 64
    assert "trap" not in sys.modules


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"method": "curiosity"}, "no intrinsic reward 'curiosity'"),
        ({"novel": 3}, r"PretrainConfig has no \['novel'\]"),
        ({"reward": {"widht": 3}}, r"ScoreRewardConfig has no \['widht'\]"),
    ],
)
def test_a_config_that_nothing_here_reads_is_refused(tmp_path, changes, problem):
    Run(tmp_path, tiny_pretrain())
    stored(tmp_path, **changes)
    with pytest.raises(ValueError, match=problem):
        RunRecord.load(tmp_path)
