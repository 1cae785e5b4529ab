import numpy as np
import pytest

from policy_server.runtime.onnxruntime.bound import WARMUP, BoundGraph
from policy_server.runtime.onnxruntime.providers import import_runtime, open_session

SHAPES = {"obs": (4, 3), "noise": (4, 4), "action": (4, 2, 2)}


@pytest.fixture(params=[False, True], ids=["in place", "staged"])
def graph(request, tiny):
    """Buffers of four rows: the session's own arrays, or separate ones as on a GPU."""
    runtime = import_runtime()
    session = open_session(runtime, tiny.onnx_bytes(), "cpu", 1, ("batch", 4))
    return BoundGraph(runtime, session, SHAPES, "cpu", request.param)


@pytest.mark.parametrize("n", [4, 1, 3, 0])
def test_as_many_rows_as_fit(graph, tiny, n):
    rng = np.random.default_rng(n)
    obs = rng.normal(size=(n, 3))
    noise = rng.normal(size=(n, 4))
    answer = graph.act(obs, noise)
    assert answer.shape == (n, 2, 2) and answer.dtype == np.float32
    np.testing.assert_allclose(answer, tiny.expected_action(obs, noise), atol=1e-6)


@pytest.mark.parametrize("n", [4, 2])
def test_answers_are_the_callers_own(graph, n):
    ones = np.ones((n, 3), np.float32)
    zeros = np.zeros((n, 4), np.float32)
    first = graph.act(ones, zeros)
    kept = first.copy()
    second = graph.act(-ones, zeros)
    np.testing.assert_array_equal(first, kept)
    np.testing.assert_array_equal(second, -kept)  # tanh is odd


def test_rows_to_spare_are_zeros(graph):
    graph.act(np.full((4, 3), np.nan), np.full((4, 4), np.inf))
    graph.act(np.ones((1, 3)), np.ones((1, 4)))
    assert not graph.obs[1:].any() and not graph.noise[1:].any() and not graph.action[1:].any()


def test_a_session_never_runs_without_its_buffers(tiny):
    """A CUDA graph is captured in the first run, and always reads from the buffers of that run."""
    runtime = import_runtime()
    runs = []
    session = open_session(runtime, tiny.onnx_bytes(), "cpu", 1, ("batch", 4))
    bound = session.run_with_iobinding
    session.run = lambda *_: pytest.fail("ran with buffers of its own")
    session.run_with_iobinding = lambda *args: (runs.append(1), bound(*args))
    BoundGraph(runtime, session, SHAPES, "cpu")
    assert len(runs) == WARMUP >= 2
