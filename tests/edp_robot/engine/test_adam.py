import copy

import pytest
import torch
from torch import nn

from edp_robot.engine import Adam, Recorded

LAYOUTS = {
    "plain": lambda: torch.randn(5, 7),
    "transposed": lambda: torch.randn(7, 5).T,
    "permuted": lambda: torch.randn(3, 4, 5).permute(2, 0, 1),
    "one column": lambda: torch.randn(5, 1),
}


def loss_of(weight, factor):
    return (weight @ factor).square().sum() + weight.sin().sum()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_it_equals_torchs_adam(layout):
    """Parameters of any strides, whose gradients come in the strides of a product."""
    torch.manual_seed(0)
    parameter = nn.Parameter(LAYOUTS[layout]())
    reference = nn.Parameter(parameter.detach().clone(memory_format=torch.contiguous_format))
    ours = Adam([parameter], 1e-2)
    theirs = torch.optim.Adam([reference], lr=1e-2)
    factor = torch.randn(parameter.shape[-1], 3)
    for _ in range(20):
        ours.descend(loss_of(parameter, factor))
        theirs.zero_grad()
        loss_of(reference, factor).backward()
        theirs.step()
    torch.testing.assert_close(parameter, reference, rtol=1e-6, atol=1e-6)
    assert parameter.grad is None


def test_a_gradient_of_other_strides_than_the_parameters():
    """The weight is used transposed, so its gradient comes transposed."""
    weight = nn.Parameter(torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]))
    slope = torch.tensor([[1.0, -1.0, 1.0], [-1.0, 1.0, 1.0]])
    gradient = torch.autograd.grad((weight.T * slope.T.contiguous()).sum(), weight)[0]
    assert not gradient.is_contiguous()
    before = weight.detach().clone()
    Adam([weight], 0.5).descend((weight.T * slope.T.contiguous()).sum())
    torch.testing.assert_close(weight.detach(), before - 0.5 * slope)  # the first step is the sign


def test_a_part_of_a_larger_tensor_is_refused():
    with pytest.raises(ValueError, match=r"strides \(9, 1\): its memory has gaps; give a clone"):
        Adam([nn.Parameter(torch.randn(6, 9)[:, :4])], 1e-2)


def test_descend_changes_its_own_parameters_alone():
    own = nn.Parameter(torch.ones(2))
    other = nn.Parameter(torch.ones(2))
    unused = nn.Parameter(torch.ones(2))
    Adam([own, unused], 0.1).descend((own * other).sum())
    torch.testing.assert_close(own.detach(), torch.full((2,), 0.9))
    for parameter in (other, unused):
        assert parameter.grad is None
        assert torch.equal(parameter.detach(), torch.ones(2))


def test_a_rate_that_changes_between_replays_is_obeyed():
    weight = nn.Parameter(torch.zeros(2))
    optimizer = Adam([weight], 0.0)

    def descend(x):
        optimizer.descend((weight * x).sum())
        return {"weight": weight.detach().clone()}

    step = Recorded(descend)
    x = torch.ones(2)
    for rate in (0.0, 0.0, 0.5, 0.25, 0.0, 1.0):  # plain, recorded, then four replays
        before = weight.detach().clone()
        optimizer.set_rate(rate)
        # A constant gradient moves Adam by the rate at every step.
        torch.testing.assert_close(step(x)["weight"], before - rate)


@pytest.mark.parametrize("rate", [0.25, torch.tensor(0.25), torch.tensor(0.25).double()])
def test_a_state_with_the_rate_as_a_number_is_restored(rate):
    weight = nn.Parameter(torch.zeros(2))
    optimizer = Adam([weight], 0.1)
    optimizer.descend(weight.sum())
    saved = copy.deepcopy(optimizer.state_dict())
    saved["param_groups"][0]["lr"] = rate
    other = Adam([nn.Parameter(torch.zeros(2))], 0.1)
    other.load_state_dict(saved)
    group = other.param_groups[0]
    assert group["lr"].dtype == torch.float64
    assert float(group["lr"]) == 0.25
    other.set_rate(0.5)
    assert float(rate) == 0.25  # what was loaded is not written to
    assert float(saved["param_groups"][0]["lr"]) == 0.25
    other.descend(other.parameters()[0].sum())
    torch.testing.assert_close(other.parameters()[0].detach(), torch.full((2,), -0.5))
