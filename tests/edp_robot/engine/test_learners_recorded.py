"""Every learner: recorded grad_steps give what plain ones give, to the last bit."""

import copy

import pytest
import torch
from support.counting_rewards import Counting, CountingRND
from support.learners import TRAININGS, pretraining

from edp_robot.config import presets
from edp_robot.engine.recorded import Recorded, Recording
from edp_robot.methods.explore.rnd import RND
from edp_robot.training.checkpoint import flatten

ROUNDS = 4  # of ten grad_steps


@pytest.fixture
def replays(monkeypatch):
    """Returns a list with an entry for each replayed grad_step."""
    found = []
    replay = Recording.replay

    def counted(self, *inputs):
        found.append(self)
        return replay(self, *inputs)

    monkeypatch.setattr(Recording, "replay", counted)
    return found


def made(name):
    torch.manual_seed(0)
    return TRAININGS[name]()


def run(training, rounds):
    for i in rounds:
        training.round(i)
    return training


def unequal(one, other):
    """Returns what differs between two states: names of tensors, and "counts" for all else."""
    tensors, rest = flatten(one)
    others, other_rest = flatten(other)
    assert tensors.keys() == others.keys()
    wrong = [name for name in tensors if not torch.equal(tensors[name], others[name])]
    return wrong + ([] if str(rest) == str(other_rest) else ["counts"])


def differing(one, other):
    """Returns what differs between two trainings: of their states, and "metrics"."""
    wrong = unequal(one.state(), other.state())
    return wrong + ([] if one.metrics == other.metrics else ["metrics"])


@pytest.mark.parametrize("name", TRAININGS)
def test_recorded_grad_steps_equal_plain_ones(name, replays, monkeypatch):
    recorded = run(made(name), range(ROUNDS))
    assert len(replays) > 20
    with monkeypatch.context() as patch:
        patch.setattr(Recorded, "__call__", lambda self, *inputs: self.step(*inputs))
        plain = run(made(name), range(ROUNDS))
    assert differing(recorded, plain) == []
    assert recorded.metrics[0] != recorded.metrics[-1]


VARIANTS = ("network", "paper", "maze", "exact")  # of pre-training with edp
RESTORED = [name for name in TRAININGS if not name.startswith(VARIANTS) and not name.endswith("-1")]


@pytest.mark.parametrize("name", RESTORED)
def test_a_learner_restored_in_the_middle_goes_on_as_if_uninterrupted(name, replays):
    whole = run(made(name), [0])
    middle = copy.deepcopy(whole.state())
    seen = list(whole.metrics)
    run(whole, [1, 2])
    other = run(made(name), [3])  # has recordings of its own when it is restored
    other.load(middle)
    other.metrics = seen
    n_before = len(replays)
    run(other, [1, 2])
    assert len(replays) > n_before
    assert differing(whole, other) == []


@pytest.mark.parametrize("name", ["edp-3", "paper-1", "finetune-edp", "distill-consistency"])
def test_a_copy_of_a_learner_learns_by_itself(name):
    """A recording holds the tensors of one learner, and its copy gets none of them."""
    one = run(made(name), [0])
    other = copy.deepcopy(one)
    drawn = torch.get_rng_state()
    before = copy.deepcopy(one.learner.state())
    run(other, [1])
    assert unequal(before, one.learner.state()) == []
    torch.set_rng_state(drawn)
    run(one, [1])
    assert differing(one, other) == []


@pytest.mark.parametrize("name", ["Counting", "CountingRND"])
def test_a_reward_of_ones_own_may_count_in_python(name):
    config = presets.pretrain("smoke", "arm", method=f"support.counting_rewards:{name}")
    training = run(pretraining(config), range(2))
    assert training.learner.intrinsic.n_calls == 20
    assert [metrics.get("n_calls") for metrics in training.metrics] == [10, None, 20, None]


def test_only_a_class_that_says_so_itself_is_recorded():
    assert RND.recordable
    assert not CountingRND.recordable
    assert not Counting.recordable
