import pytest

from edp_robot.config import presets
from edp_robot.config.settings import changed

CONFIG = presets.pretrain("demo", "arm")


def test_nested_fields_are_set_with_their_types():
    settings = ["ddpg.discount=0.5", "loop.n_envs=3", "centre_reward=false", "reward.estimator=iid"]
    made = changed(CONFIG, [*settings, "ddpg.explore_noise=[0.1, 0.3]", "ddpg.learning_rate=1"])
    assert (made.ddpg.discount, made.loop.n_envs, made.centre_reward) == (0.5, 3, False)
    assert made.reward.estimator == "iid"
    assert (made.ddpg.explore_noise, made.ddpg.learning_rate) == ((0.1, 0.3), 1.0)
    assert isinstance(made.ddpg.learning_rate, float)
    assert changed(CONFIG, []) == CONFIG


@pytest.mark.parametrize(
    ("setting", "problem"),
    [
        ("ddpg.discoun=0.5", r"there is no 'discoun'; there are: width, n_layers"),
        ("batch.size=3", "there is no 'size'; there are: none below it"),
        ("ddpg=3", "is a group; name one of width"),
        ("batch=many", "expected int, as 64"),
        ("batch=1.5", "expected int"),
        ("centre_reward=1", "expected bool, as true"),
        ("batch", "expected NAME=VALUE"),
        (
            "reward.estimator=best",
            "there is no 'best'; there are: "
            "iid, stratified, antithetic, shared, centred, fixed, exact",
        ),
        ("reward.model.activation=relu", "there is no 'relu'; there are: mish, silu"),
        ("ddpg.discount=1.5", r"discount=1.5: give a number in \[0, 1\)"),
    ],
)
def test_mistakes_are_explained(setting, problem):
    with pytest.raises(ValueError, match=problem):
        changed(CONFIG, [setting])


def test_settings_that_belong_together_come_in_any_order():
    """An odd number of draws suits `iid`, but not the preset's estimator."""
    made = changed(CONFIG, ["reward.n_draws=5", "reward.estimator=iid"])
    assert (made.reward.n_draws, made.reward.estimator) == (5, "iid")
    with pytest.raises(ValueError, match="n_draws=5: antithetic noise comes in pairs"):
        changed(CONFIG, ["reward.n_draws=5", "reward.estimator=shared"])


def test_names_of_older_versions_stand_for_todays():
    old = ["score_reward.n_draws=8", "state_model.n_features=3"]
    today = ["reward.n_draws=8", "reward.model.n_features=3"]
    assert changed(CONFIG, old) == changed(CONFIG, today)
    tune = presets.finetune("demo", "arm-press", method="resampling")
    old = ["iql.expectile=0.8", "improve.n_uniform=2", "batch=64", "loop.n_envs=2"]
    today = ["tuner.iql.expectile=0.8", "tuner.n_uniform=2", "tuner.batch=64", "loop.n_envs=2"]
    assert changed(tune, old) == changed(tune, today)
    ddpg = presets.finetune("demo", "arm-press", method="ddpg")
    assert changed(ddpg, ["ddpg.discount=0.5"]).tuner.discount == 0.5


def test_a_setting_of_another_method_is_refused():
    with pytest.raises(ValueError, match=r"no setting 'rnd.width': there is no 'width'"):
        changed(CONFIG, ["rnd.width=3"])
