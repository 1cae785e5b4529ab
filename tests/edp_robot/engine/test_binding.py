import pytest
import torch

from edp_robot.engine.binding import bound

aten = torch.ops.aten
X = torch.arange(12.0).view(3, 4)


@pytest.mark.parametrize(
    ("func", "args", "expected"),
    [
        (aten.mul.out, (X, 2.0), torch.mul),
        (aten.sum.IntList_out, (X, [0]), torch.sum),
        (aten.cat.out, ([X, X], -1), torch.cat),
        (aten.silu.out, (X,), torch._C._nn.silu),
    ],
    ids=lambda value: str(value) if isinstance(value, torch._ops.OpOverload) else None,
)
def test_torchs_function_takes_the_operations_place(func, args, expected):
    kwargs = {"out": torch.empty(0)}
    function = bound(func, args, kwargs)
    assert function is expected
    assert kwargs["out"].numel() == 0  # it was not run
    kwargs["out"].resize_(0)
    made = function(*args, **kwargs).clone()
    assert torch.equal(made, func(*args, out=torch.empty(0)))


def test_in_place_operations_are_not_run_either():
    x = torch.ones(2)
    function = bound(aten.mul_.Tensor, (x, 3.0), {})
    assert function is torch.Tensor.mul_
    assert x.tolist() == [1, 1]


@pytest.mark.parametrize(
    ("func", "args", "kwargs"),
    [
        (aten.mul.Scalar, (X, 2.0), {}),  # torch.mul reaches mul.Tensor
        (aten.native_layer_norm.out, (X, [4], None, None, 1e-5), {}),  # has no out in Python
        (aten.index_put_.default, (X, [None, torch.tensor([0])], X[:, :1]), {}),  # refuses None
        (aten.silu_backward.default, (X, X), {}),  # no function of this name
    ],
    ids=lambda value: str(value) if isinstance(value, torch._ops.OpOverload) else None,
)
def test_where_it_reaches_another_operation_the_operation_stays(func, args, kwargs):
    assert bound(func, args, kwargs) == func._op
