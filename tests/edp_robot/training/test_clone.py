from dataclasses import replace

import numpy as np
import pytest
import torch

from edp_robot.config import presets
from edp_robot.training.chunks import cosine_rate
from edp_robot.training.clone import Cloner, clone
from edp_robot.training.source import load_source


def smoke(**changes):
    return replace(
        presets.clone("smoke", "modes"),
        n_chunks=11,
        grad_steps_per_chunk=2,
        n_pairs=200,
        batch=32,
        **changes,
    )


def test_a_clone_is_a_teacher_that_distils(tmp_path):
    clone(smoke(), str(tmp_path / "run"))
    source = load_source(tmp_path / "run", 4)
    with torch.no_grad():
        action = source.teacher(torch.zeros(3, 2), torch.randn(3, 3))
    assert action.shape == (3, 3)
    assert (source.spec.name, source.n_action_steps) == ("modes", 1)
    assert source.replay_obs.shape == (200, 2)


def test_given_demonstrations_are_learned(tmp_path):
    """The demonstrations have one action everywhere, and the sampler learns to give it."""
    shown = np.tile(np.float32([0.5, -0.3, 0.0]), (64, 1))
    np.savez(tmp_path / "d.npz", obs=np.random.default_rng(0).uniform(-1, 1, (64, 2)), action=shown)
    data = str(tmp_path / "d.npz")
    config = replace(smoke(data=data), n_chunks=10, grad_steps_per_chunk=40, polyak=0.05)
    clone(config, str(tmp_path / "run"))
    teacher = load_source(tmp_path / "run").teacher
    with torch.no_grad():
        action = teacher(torch.zeros(100, 2), torch.randn(100, 3))
    np.testing.assert_allclose(action.mean(0).numpy(), shown[0], atol=0.1)
    assert action.std(0).max() < 0.2


def test_a_resumed_clone_equals_an_uninterrupted_one(tmp_path, monkeypatch):
    clone(smoke(), str(tmp_path / "whole"))
    chunk = Cloner.chunk
    count = []

    def cut(self):
        count.append(1)
        if len(count) == 11:  # the checkpoint was after the tenth
            raise KeyboardInterrupt
        return chunk(self)

    monkeypatch.setattr(Cloner, "chunk", cut)
    with pytest.raises(KeyboardInterrupt):
        clone(smoke(), str(tmp_path / "cut"))
    monkeypatch.undo()
    clone(smoke(), str(tmp_path / "cut"), resume=True)
    whole, again = (load_source(tmp_path / k).teacher.state_dict() for k in ("whole", "cut"))
    assert all(torch.equal(whole[k], again[k]) for k in whole)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"obs": np.zeros((2, 2))}, "lacks \\['action'\\]"),
        (
            {"obs": np.zeros((2, 3)), "action": np.zeros((2, 3))},
            r"obs \(2, 3\), action \(2, 3\): modes wants",
        ),
        ({"obs": np.zeros((0, 2)), "action": np.zeros((0, 3))}, "one row or more"),
        (
            {"obs": np.zeros((2, 2)), "action": np.full((2, 3), 1.5)},
            r"actions must lie in \[-1, 1\].* 2 of 2 rows: row 0 has 1.5, row 1 has 1.5",
        ),
        (
            {"obs": np.array([[0, 0], [0, np.nan]]), "action": np.zeros((2, 3))},
            "obs must be finite.* 1 of 2 rows: row 1 has nan",
        ),
        ({"obs": np.full((1, 2), 1e300), "action": np.zeros((1, 3))}, "row 0 has 1e"),
        ({"obs": np.zeros((2, 2)), "action": np.full((2, 3), np.nan)}, "row 0 has nan"),
        ({"obs": np.zeros(2), "action": np.zeros((2, 3))}, r"obs \(2,\)"),
        ({"obs": np.float64(0), "action": np.zeros((2, 3))}, r"obs \(\)"),
        ({"obs": np.zeros((2, 2)), "action": np.zeros((3, 3))}, r"action \(3, 3\)"),
        ({"obs": np.array([["a", "b"]]), "action": np.zeros((1, 3))}, "obs is <U1"),
        ({"obs": np.array([[None, 1]]), "action": np.zeros((1, 3))}, "holds objects"),
    ],
)
def test_demonstrations_that_do_not_fit_are_refused(tmp_path, arrays, message):
    np.savez(tmp_path / "d.npz", **arrays)
    with pytest.raises(ValueError, match=message):
        clone(smoke(data=str(tmp_path / "d.npz")), str(tmp_path / "run"))


def test_a_task_without_an_expert_needs_data(tmp_path):
    problem = r"'arm' shows nothing by itself \(modes, gym:FetchReach-v4 do\)"
    with pytest.raises(ValueError, match=problem):
        clone(replace(smoke(), task="arm"), str(tmp_path / "run"))


def test_the_cosine_by_hand():
    for done, rate in ((0.0, 0.2), (0.5, 0.1), (1.0, 0.002), (2.0, 0.002)):
        assert cosine_rate(0.2, done) == pytest.approx(rate)


@pytest.mark.parametrize("content", [b"", b"PK no zip", b"\x93NUMPY"])
def test_a_file_that_is_no_npz_is_refused(tmp_path, content):
    (tmp_path / "d.npz").write_bytes(content)
    with pytest.raises(ValueError, match=r"d\.npz (is no whole \.npz file|holds objects)"):
        clone(smoke(data=str(tmp_path / "d.npz")), str(tmp_path / "run"))


def test_rounding_is_clipped_and_whole_numbers_and_one_row_are_taken(tmp_path):
    from edp_robot.training.clone import demonstrations
    from sim.core.registry import task_spec

    data = tmp_path / "d.npz"
    np.savez(data, obs=np.array([[0, 1]]), action=np.float32([[1.0000001, -1.0000001, 0.5]]))
    obs, action = demonstrations(smoke(data=str(data)), task_spec("modes"))
    assert obs.tolist() == [[0, 1]] and action.tolist() == [[1, -1, 0.5]]
    assert obs.dtype == action.dtype == torch.float32
    np.savez(data, obs=np.array([[0, 1]]), action=np.array([[1.001, 0, 0]]))
    with pytest.raises(ValueError, match=r"row 0 has 1\.001"):
        demonstrations(smoke(data=str(data)), task_spec("modes"))
