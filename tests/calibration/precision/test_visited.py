import numpy as np
import pytest
from support.graphs import modes_graph

from calibration.file import CalibrationError
from calibration.precision.visited import MAX_ROWS, answers, collect, is_simulated, read_obs
from policy_server.runtime.base import load_backend


class Recorder:
    """A policy that answers 0 and keeps its inputs."""

    def __init__(self):
        self.asked = []

    def act(self, obs, noise):
        self.asked.append((obs.copy(), noise.copy()))
        return np.zeros((len(obs), 1, 3), np.float32)


def save_obs(path, obs, **more):
    np.savez(path, obs=obs, **more)
    return path


def test_answers_are_whole_chunks_and_the_noise_is_the_seeds_own_stream():
    chunk = np.array([[[0.6, 1.8], [0.7, 1.9]]])
    asked = []

    class Fixed:
        def act(self, obs, noise):
            return chunk

    answer = answers(Fixed(), 4, 7, asked.append)
    assert np.array_equal(answer(np.zeros((1, 2))), chunk)
    answer(np.ones((1, 2)))
    stream = np.random.default_rng(7)
    for rows in asked:
        assert np.array_equal(rows.noise, stream.standard_normal((1, 4), dtype=np.float32))
    assert np.array_equal(asked[1].obs, np.ones((1, 2)))


def test_rows_are_what_the_policy_was_asked_in_its_task(modes_bundle):
    manifest = load_backend(modes_bundle(modes_graph()), "cpu").manifest
    policy = Recorder()
    visited = collect(policy, manifest, is_simulated(manifest), None, 3)
    parts = (visited.calibration, visited.held_out)
    for rows, (obs, noise) in zip(parts, policy.asked, strict=True):
        assert len(rows.obs) == 32  # episodes of one decision
        assert np.array_equal(rows.obs, obs)
        assert np.array_equal(rows.noise, noise)
    assert not np.isin(visited.held_out.obs, visited.calibration.obs).any()


def test_the_end_of_a_recording_is_held_out(modes_bundle, tmp_path):
    manifest = load_backend(modes_bundle(modes_graph()), "cpu").manifest
    obs = np.arange(8000.0).reshape(4000, 2)
    visited = collect(Recorder(), manifest, False, save_obs(tmp_path / "r.npz", obs, target=obs), 0)
    first = visited.calibration.obs[:, 0]
    second = visited.held_out.obs[:, 0]
    assert len(first) == MAX_ROWS
    assert len(second) == 1000
    assert first.max() < 6000 <= second.min()
    assert (np.diff(first) > 0).all()  # no row twice
    assert visited.held_out.noise.shape == (1000, 3)


def test_no_data_is_an_error(modes_bundle):
    manifest = load_backend(modes_bundle(modes_graph(), task="a-robot-of-mine"), "cpu").manifest
    assert not is_simulated(manifest)
    said = r"no calibration data.*'a-robot-of-mine'.*--data FILE.npz.*arm-press"
    with pytest.raises(CalibrationError, match=said):
        collect(Recorder(), manifest, False, None, 0)


def test_a_task_of_other_sizes_is_refused(modes_bundle):
    manifest = load_backend(modes_bundle(modes_graph(), task="arm-press"), "cpu").manifest
    with pytest.raises(CalibrationError, match=r"\(2, 3\), task 'arm-press' in sim \(22, 6\)"):
        is_simulated(manifest)


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        ({"obs": np.zeros((0, 2))}, r"float64 \(0, 2\)"),
        ({"obs": np.zeros((39, 2))}, r"n >= 40"),
        ({"obs": np.zeros((50, 3))}, r"expected obs \(n, 2\)"),
        ({"obs": np.zeros(50)}, r"\(50,\)"),
        ({"state": np.zeros((50, 2))}, r"holds \['state'\]"),
        ({"obs": np.full((50, 2), np.nan)}, r"not finite in 50 rows"),
        ({"obs": np.array([[None] * 2] * 50)}, "not an .npz file of plain arrays"),
    ],
)
def test_a_recording_without_observations_is_refused(tmp_path, arrays, said):
    np.savez(tmp_path / "r.npz", **arrays)
    with pytest.raises(CalibrationError, match=said):
        read_obs(tmp_path / "r.npz", 2)


def test_other_files_are_refused(tmp_path):
    (tmp_path / "r.npz").write_text("obs: 1 2 3")
    np.save(tmp_path / "r.npy", np.zeros((50, 2)))
    for name in ("r.npz", "r.npy", "missing.npz"):
        with pytest.raises(CalibrationError, match="no calibration data"):
            read_obs(tmp_path / name, 2)
