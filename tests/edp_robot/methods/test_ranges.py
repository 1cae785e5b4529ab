"""Every number of every config has a range, and what lies outside is named."""

import math
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Annotated

import pytest

from edp_robot.cli import main
from edp_robot.config import presets
from edp_robot.methods.explore.intrinsic_reward import INTRINSIC_REWARDS
from edp_robot.methods.finetune.fine_tuner import FINE_TUNERS
from edp_robot.methods.ranges import Natural, Range, Ranged, Share, check_range
from edp_robot.training.runs import RUN_CONFIGS


@dataclass(frozen=True)
class Sizes(Ranged):
    n: int = 1
    n_more: Natural = 0
    rate: float = 0.5
    share: Share | None = None
    pair: tuple[float, float] = (1.0, 2.0)
    offset: Annotated[float, Range()] = 0.0
    on: bool = False


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        ({"n": 0}, "n=0: must be at least 1"),
        ({"n_more": -1}, "n_more=-1: must be at least 0"),
        ({"rate": 0.0}, "rate=0.0: must be above 0"),
        ({"rate": math.nan}, "rate=nan"),
        ({"rate": math.inf}, "rate=inf"),
        ({"share": 1.5}, r"share=1.5: give a number in \[0, 1\]"),
        ({"pair": (1.0, -1.0)}, "pair=-1.0"),
        ({"offset": math.nan}, "offset=nan: must be a finite number"),
    ],
)
def test_numbers_outside_are_named(values, problem):
    Sizes(n_more=0, share=1.0, offset=-3.0)
    with pytest.raises(ValueError, match=problem):
        Sizes(**values)


def configs():
    """Yields the defaults of every config of ours, those inside others too."""
    for registry in (RUN_CONFIGS, INTRINSIC_REWARDS, FINE_TUNERS):
        for name in registry.names():
            part = registry.get(name)
            yield from nested((part if registry is RUN_CONFIGS else part.Config)())


def nested(config):
    yield config
    for field in fields(config):
        value = getattr(config, field.name)
        if is_dataclass(value):
            yield from nested(value)


def test_every_number_of_every_config_refuses_nan_and_what_is_far_below():
    tried = set()
    for config in configs():
        for field in fields(config):
            value = getattr(config, field.name)
            if isinstance(value, (int, float)) and not isinstance(value, bool):
                for wrong in (math.nan, -2):
                    with pytest.raises(ValueError, match=rf"{field.name}\b.*(=|nan|-2)"):
                        replace(config, **{field.name: wrong})
                tried.add(field.name)
    assert {"n_logs", "batch", "learning_rate", "polyak", "n_chunks", "n_proposals"} <= tried


@pytest.mark.parametrize(
    "setting", ["loop.n_logs=0", "batch=0", "ddpg.n_step=0", "ddpg.learning_rate=NaN", "seed=-1"]
)
def test_a_wrong_number_on_the_command_line_is_one_line(tmp_path, capsys, setting):
    out = tmp_path / "run"
    words = ["pretrain", "--preset", "smoke", "--out", str(out), "--set", setting]
    assert main(words) == 1
    said = capsys.readouterr().err
    name, _, value = setting.rpartition(".")[2].partition("=")
    assert f"{name}={value.lower()}:" in said and said.count("\n") == 1
    assert not out.exists()


def test_presets_are_in_range():
    for preset in presets.NAMES:
        presets.pretrain(preset, "arm")
        presets.finetune(preset, "arm-press")
        presets.clone(preset, "modes")
        presets.distill(preset, "run")
    check_range("n", 1)
