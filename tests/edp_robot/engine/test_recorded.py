"""What a recorded step may do and may not, and what its recordings hold."""

import numpy as np
import pytest
import torch

from edp_robot.engine import Recorded
from edp_robot.engine.recorded import Recording

REFUSED = {
    "_local_scalar_dense": lambda x: x * x.sum().item(),
    "_local_scalar_dense.default": lambda x: x if x.sum() > 0 else -x,
    "equal": lambda x: x * torch.equal(x, x + 1),
    "index": lambda x: x[x > 0].sum(),
    "nonzero": lambda x: torch.nonzero(x.relu()).sum(),
    "_unique2": lambda x: torch.unique(x.relu()).sum(),
    "masked_select": lambda x: x.masked_select(x > 0).sum(),
    "repeat_interleave": lambda x: x.repeat_interleave((x[:, 0] > 0).long(), 0),
    "Tensor.tolist": lambda x: x * x.tolist()[0][0],
    "Tensor.numpy": lambda x: x + torch.from_numpy(x.numpy() + 1),
    "Tensor.__array__": lambda x: x * float(np.asarray(x).mean()),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_depends_on_values_is_refused_by_name(name):
    step = Recorded(lambda x: {"y": REFUSED[name](x)})
    step(torch.ones(3, 2))  # the first call records nothing
    with pytest.raises(RuntimeError, match=rf"{name}\S* depends on values.* take it out of"):
        step(torch.ones(3, 2))
    assert step.recordings == {}


def test_a_constant_that_was_written_is_none():
    def step(x):
        total = torch.zeros(2)
        assert total.tolist() == [0, 0]  # still the same at every call
        total.add_(x)
        return {"y": x * total.tolist()[0]}

    recorded = Recorded(step)
    recorded(torch.ones(2))
    with pytest.raises(RuntimeError, match=r"Tensor\.tolist depends on values"):
        recorded(torch.ones(2))


def test_a_step_that_changes_its_input_is_refused():
    buffer = torch.zeros(2)
    for given, change in ((torch.ones(2), lambda x: x.add_(1)), (buffer, lambda x: buffer.add_(x))):
        step = Recorded(lambda x, change=change: {"y": change(x)})
        step(given)
        with pytest.raises(RuntimeError, match=r"add_\.Tensor changes an input .* clone the input"):
            step(given)


def test_a_result_that_is_no_tensor_is_refused():
    step = Recorded(lambda x: {"y": x, "rate": 0.1})
    step(torch.ones(2))
    with pytest.raises(RuntimeError, match=r"the step returned 0\.1.* return tensors only"):
        step(torch.ones(2))


def test_results_may_be_the_next_inputs():
    step = Recorded(lambda x, y: {"x": y, "y": x, "sum": x + y})
    first = torch.tensor([1.0])
    second = torch.tensor([10.0])
    for i in range(6):
        result = step(first, second)
        first = result["x"]
        second = result["y"]
        assert (first.item(), second.item()) == ((10, 1) if i % 2 == 0 else (1, 10))
        assert result["sum"].item() == 11


def test_other_shapes_strides_and_types_have_recordings_of_their_own():
    calls = []

    def step(x):
        calls.append(x.shape)
        return {"y": x.sum(0) * 2}

    recorded = Recorded(step)
    inputs = [torch.randn(3, 2), torch.randn(2, 3).T, torch.randn(4, 2), torch.randn(3, 2).double()]
    assert len(inputs) == Recorded.MAX_SHAPES
    for _ in range(3):
        for x in inputs:
            assert torch.equal(recorded(x)["y"], x.sum(0) * 2)
    assert len(recorded.recordings) == 4
    assert len(calls) == 1 + 4  # the first call, and one recording each
    for _ in range(3):  # one shape too many
        assert torch.equal(recorded(torch.ones(5, 2))["y"], torch.full((2,), 10.0))
    assert len(calls) == 1 + 4 + 3
    assert len(recorded.recordings) == 4


def test_forget_takes_up_tensors_that_were_replaced():
    held = {"weight": torch.ones(2)}
    step = Recorded(lambda x: {"y": x * held["weight"]})
    for _ in range(3):
        step(torch.ones(2))
    held["weight"] = torch.full((2,), 3.0)
    step.forget()
    for _ in range(3):
        assert step(torch.ones(2))["y"].tolist() == [3, 3]


def test_what_may_not_be_recorded_runs_every_time():
    calls = []
    step = Recorded(lambda x: calls.append(1) or {"y": x * len(calls)}, recordable=False)
    assert [step(torch.ones(()))["y"].item() for _ in range(4)] == [1, 2, 3, 4]


def test_a_replay_calls_only_what_computes():
    """Views, constants and what depends on shapes alone are made once."""
    weight = torch.randn(3, 4)

    def step(x):
        scale = torch.arange(4.0).exp() * torch.tensor(2.0) + torch.ones_like(weight[0])
        y = (x @ weight.T.T).view(2, 2, 4).transpose(0, 1).reshape(4, 4)  # a product and a copy
        return {"y": y * scale}

    recording = Recording(step, torch.randn(4, 3))
    assert len(recording.program.operations) == 3


def test_memory_is_used_again_after_its_last_use():
    def step(x):
        for _ in range(20):
            x = x.sin()
        return {"y": x}

    recording = Recording(step, torch.ones(5))
    memories = {kwargs["out"].data_ptr() for _, _, kwargs in recording.program.operations}
    assert len(memories) == 3  # two in turns, and the result's own
    assert torch.equal(recording.replay(torch.ones(5))["y"], step(torch.ones(5))["y"])


def test_an_exception_in_a_recording_leaves_no_mode_behind():
    def step(x):
        raise KeyError("broken")

    with pytest.raises(KeyError):
        Recording(step, torch.ones(2))
    assert torch.ones(2).tolist() == [1, 1]
    assert torch.utils._python_dispatch._get_current_dispatch_mode() is None
