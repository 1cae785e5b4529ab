"""The report on versions in fewer bits, and what is kept."""

from dataclasses import replace

import numpy as np
import pytest
from support.graphs import make_graph, modes_graph

from calibration.file import CalibrationError
from calibration.precision.half import to_fp16
from calibration.precision.judge import (
    ClosedLoop,
    action_errors,
    closed_loop,
    compare,
    rounded_errors,
)
from calibration.precision.versions import Version, check_request, table, verdict
from calibration.precision.visited import Rows, Visited
from policy_server.runtime.base import load_backend

VISITED = Visited(
    Rows(np.zeros((1, 1)), np.zeros((1, 1))), Rows(np.zeros((1, 1)), np.zeros(1)), "s"
)


def run(returns, successes=(0.5,) * 20):
    return ClosedLoop(np.array(returns, float), np.array(successes, float), 200)


def test_the_interval_is_that_of_paired_groups():
    """Differences are -2 and 0 in turn: mean -1, deviation sqrt(20 / 19), for any groups."""
    base = np.linspace(0, 20, 20)
    found = compare(run(base), run(base - np.tile([2, 0], 10)))
    half = 2.093 * np.sqrt(20 / 19) / np.sqrt(20)
    assert found["return_difference_ci"] == pytest.approx([-1 - half, -1 + half])
    assert (found["return_loss"], found["loss_of"]) == (pytest.approx(0.1), "return")


@pytest.mark.parametrize(
    ("base", "other", "loss"),
    [
        (run([10.0] * 20), run([11.0] * 20), -0.1),
        (run([-10.0] * 20), run([-11.0] * 20), 0.1),
        (run([0.0] * 20, [0.8] * 20), run([0.0] * 20, [0.6] * 20), 0.25),
        (run([0.0] * 20, [0.0] * 20), run([0.0] * 20, [0.0] * 20), None),
    ],
)
def test_loss_is_a_share_of_return_or_else_of_success(base, other, loss):
    found = compare(base, other)["return_loss"]
    assert found == (loss if loss is None else pytest.approx(loss))


def test_a_task_without_success_has_none():
    silent = ClosedLoop(np.full(20, 10.0), None, 200)
    found = compare(silent, silent)
    assert found["success"] is None and (found["return_loss"], found["loss_of"]) == (0, "return")
    assert "success" not in str(compare(replace(silent, returns=np.zeros(20)), silent)["loss_of"])
    empty = {"max_abs_error": 0.0, "mean_abs_error": 0.0, "max_share": None}
    errors = {**empty, "golden_abs_errors": [0.0]}
    line = table("p", VISITED, [Version("int8", b"", errors, found, {"p50": 1, "p99": 1}, {})])[-1]
    assert line.split()[-4:] == ["-", "1.0", "1.0", "0"]


def version(loss, name="int8"):
    loop = {"return_loss": loss, "loss_of": "return", "n_episodes": 200}
    return Version(name, b"graph", {}, loop, {}, {})


def test_more_than_two_percent_is_refused():
    assert version(0.0201).refused
    assert not any(version(loss).refused for loss in (-1.0, 0.0, 0.02, None))
    said = "refused; it loses 2.01% of the return in 200 episodes, more than 2%. --force keeps it"
    assert said in verdict(version(0.0201), force=False)
    assert "kept, by --force" in verdict(version(0.0201), force=True)
    assert "gains 5.00%" in verdict(version(-0.05), force=False)
    assert "not known" in verdict(version(None), force=False)


def test_errors_are_absolute_and_shares_of_each_range(modes_bundle):
    """The error is 0.1 in one of three actions of range 2: 0.05 of it, a third on average."""
    manifest = load_backend(modes_bundle(modes_graph()), "cpu").manifest
    golden = {
        "obs": np.zeros((2, 2)),
        "noise": np.zeros((2, 3)),
        "action": np.full((2, 1, 3), -0.3),
    }

    class Zero:
        def act(self, obs, noise):
            return np.zeros((len(obs), 1, 3))

    rows = Rows(np.zeros((5, 2)), np.zeros((5, 3)))
    expected = np.tile(np.array([0.1, 0, 0]), (5, 1, 1))
    found = action_errors("int8", Zero(), rows, expected, golden, manifest)
    assert found == {
        "max_abs_error": 0.1,
        "mean_abs_error": pytest.approx(0.1 / 3),
        "max_share": pytest.approx(0.05),
        "mean_share": pytest.approx(0.05 / 3),
        "golden_abs_errors": [0.3, 0.3, 0.3],
        "n": 5,
    }


def test_fp16_is_judged_by_rounding_everywhere():
    """A tanh between two layers: ONNX Runtime's CPU keeps it in float32, a GPU rounds it too."""
    nodes = [("Gemm", "obs w", "h1"), ("Tanh", "h1", "h2"), ("Gemm", "h2 w", "command")]
    graph = to_fp16(make_graph(nodes, {"w": [[1.0]]}, (1, 1, 1)))
    obs = np.linspace(-1, 1, 201, dtype=np.float32)[:, None]
    rounded = np.tanh(obs.astype(np.float16)).astype(np.float64)[:, None]
    golden = {"obs": obs, "noise": obs, "action": np.tanh(obs.astype(np.float64))[:, None]}
    expected = np.abs(rounded - golden["action"]).max()
    assert rounded_errors(graph, golden) == pytest.approx([expected], rel=0.05)


def test_a_layer_that_overflows_in_fp16_is_refused_behind_a_limit_too():
    """1e3 times 100 is infinite in float16. Min and Max make a command of it, as in old bundles."""
    nodes = [
        ("Gemm", "obs w", "h"),
        ("Gemm", "h w", "far"),
        ("Max", "far low", "above"),
        ("Min", "above high", "command"),
    ]
    constants = {"w": [[1e3]], "low": -1.0, "high": 1.0}
    graph = to_fp16(make_graph(nodes, constants, (1, 1, 1)))
    obs = np.full((2, 1), 0.1, np.float32)
    golden = {"obs": obs, "noise": obs, "action": np.ones((2, 1, 1), np.float32)}
    with pytest.raises(CalibrationError, match=r"fp16: Gemm \S+ overflows on the golden"):
        rounded_errors(graph, golden)


def test_episodes_are_the_same_for_every_version(modes_bundle):
    manifest = load_backend(modes_bundle(modes_graph()), "cpu").manifest

    class Asked:
        def __init__(self, answer):
            self.answer = answer
            self.seen = []

        def act(self, obs, noise):
            self.seen.append(np.concatenate([obs, noise], 1))
            return np.full((len(obs), 1, 3), self.answer)

    one = Asked(0.0)
    other = Asked(1.0)
    runs = [closed_loop(policy, manifest, 21, 0) for policy in (one, other)]
    assert runs[0].n_episodes == 40  # 21, rounded up to whole groups
    assert runs[0].returns.shape == (20,)
    assert np.array_equal(one.seen, other.seen)
    assert len(np.unique(np.concatenate(one.seen), axis=0)) == 40


@pytest.mark.parametrize(("episodes", "precisions"), [(0, ("int8",)), (40, ()), (40, ("fp32",))])
def test_nonsense_is_refused(episodes, precisions):
    with pytest.raises(CalibrationError, match="expected 1 or more, of fp16 and int8"):
        check_request(episodes, precisions)
