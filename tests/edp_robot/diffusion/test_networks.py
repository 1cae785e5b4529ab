import math

import pytest
import torch
from torch import nn

from edp_robot.diffusion.networks import (
    Fourier,
    FourierTime,
    LayerNorm,
    Linear,
    NoiseModel,
    Normaliser,
    TwinCritic,
    mlp,
    unstacked,
)


def tiny_model(**changes) -> NoiseModel:
    torch.manual_seed(0)
    sizes = {"dim": 2, "cond_dim": 3, "width": 8, "inner": 16, "n_blocks": 2, "dropout": 0.5}
    model = NoiseModel(**{**sizes, **changes})
    nn.init.normal_(model.head.weight)
    return model


def test_untrained_model_predicts_no_noise():
    model = NoiseModel(2, 3, 8, 16, 2)
    assert model(torch.randn(5, 2), torch.rand(5), torch.randn(5, 3)).abs().max() == 0


def test_every_input_matters():
    model = tiny_model().eval()
    x = torch.randn(4, 2)
    t = torch.full((4,), 0.5)
    condition = torch.randn(4, 3)
    out = model(x, t, condition)
    assert out.shape == (4, 2)
    for changed in [(x + 1, t, condition), (x, t + 0.1, condition), (x, t, condition + 1)]:
        assert ((model(*changed) - out).abs().sum(-1) > 1e-4).all()


def test_one_set_of_times_serves_a_batch_of_states():
    model = tiny_model(cond_dim=0).eval()
    x_t = torch.randn(5, 3, 2)
    t = torch.tensor([0.1, 0.5, 0.9])
    expected = torch.stack([model(x_t[:, k], t[k].expand(5)) for k in range(3)], 1)
    torch.testing.assert_close(model(x_t, t), expected)


def test_dropout_only_in_training():
    model = tiny_model(cond_dim=0)
    x = torch.randn(4, 2)
    t = torch.rand(4)
    assert not torch.equal(model(x, t), model(x, t))
    model.eval()
    assert torch.equal(model(x, t), model(x, t))


def test_paper_sizes():
    n_parameters = sum(p.numel() for p in NoiseModel(2).parameters())
    block = 2 * 256 + 256 * 1024 + 1024 + 1024 * 256 + 256
    time = 64 * 128 + 128 + 128 * 128 + 128
    assert n_parameters == time + (130 * 256 + 256) + 3 * block + (256 * 2 + 2)


def test_fourier_features_by_hand():
    embed = FourierTime(n_features=4, out_dim=4, scale=30.0)
    embed.frequency.copy_(torch.tensor([1.0, 0.25]))
    embed.mlp = nn.Identity()
    angles = (math.pi, math.pi / 4)
    expected = torch.tensor([[*map(math.sin, angles), *map(math.cos, angles)]])
    torch.testing.assert_close(embed(torch.tensor([0.5])), expected, atol=1e-6, rtol=0)


def test_frequencies_are_saved_but_not_trained():
    embed = FourierTime()
    assert "frequency" in embed.state_dict()
    assert "frequency" not in dict(embed.named_parameters())


def test_mlp_layers():
    def names(network):
        return [type(layer).__name__ for layer in network]

    assert names(mlp([2, 4, 3])) == ["Linear", "LayerNorm", "SiLU", "Linear"]
    assert names(mlp([2, 4, 3], layer_norm=False)) == ["Linear", "SiLU", "Linear"]
    assert mlp([2, 4, 3])(torch.zeros(7, 2)).shape == (7, 3)


@pytest.mark.parametrize("shape", [(5,), (5, 3)])
def test_linear_by_hand(shape):
    layer = Linear(4, 2)
    x = torch.randn(*shape, 4)
    torch.testing.assert_close(layer(x), x @ layer.weight + layer.bias)


def members(make, n):
    """Returns a stack of n networks, and the same networks one by one."""
    stack = make(stack=(n,))
    for p in stack.parameters():
        nn.init.normal_(p, std=0.3)
    single = [make(stack=()) for _ in range(n)]
    for i, network in enumerate(single):
        network.load_state_dict(unstacked(stack.state_dict(), i))
    return stack.eval(), [network.eval() for network in single]


@pytest.mark.parametrize(
    "make",
    [
        lambda stack: Linear(4, 2, stack),
        lambda stack: LayerNorm(4, stack),
        lambda stack: mlp([4, 8, 2], True, stack),
        lambda stack: mlp([4, 8, 2], False, stack),
    ],
)
@pytest.mark.parametrize("shape", [(5,), (5, 6)])
def test_a_stack_computes_what_its_members_do(make, shape):
    stack, single = members(make, 3)
    x = torch.randn(3, *shape, 4)
    expected = torch.stack([network(row) for network, row in zip(single, x, strict=True)])
    torch.testing.assert_close(stack(x), expected)


@pytest.mark.parametrize("layer_norm", [True, False])
def test_a_stack_of_twin_critics(layer_norm):
    def make(stack):
        return TwinCritic(3, 2, 8, layer_norm=layer_norm, stack=stack)

    stack, single = members(make, 4)
    obs = torch.randn(4, 5, 3)
    action = torch.randn(4, 5, 2)
    rows = zip(single, obs, action, strict=True)
    expected = torch.stack([network(o, a) for network, o, a in rows])
    assert expected.shape == (4, 2, 5)
    torch.testing.assert_close(stack(obs, action), expected)


def test_a_stack_of_noise_models():
    stack, single = members(lambda stack: NoiseModel(2, 3, 8, 16, 2, 0.0, "silu", stack), 3)
    x = torch.randn(3, 5, 2)
    t = torch.rand(3, 5)
    condition = torch.randn(3, 5, 3)
    expected = [network(*row) for network, *row in zip(single, x, t, condition, strict=True)]
    torch.testing.assert_close(stack(x, t, condition), torch.stack(expected))


def test_one_set_of_times_serves_a_whole_stack():
    """There are as many times as networks and as rows, so confused axes would show."""
    stack, single = members(lambda stack: NoiseModel(2, 0, 8, 16, 1, 0.0, "silu", stack), 3)
    x = torch.randn(3, 3, 3, 2)
    t = torch.rand(3)
    expected = torch.stack([network(row, t) for network, row in zip(single, x, strict=True)])
    torch.testing.assert_close(stack(x, t), expected)


def test_a_member_that_a_stack_does_not_have():
    with pytest.raises(IndexError, match="no network 3 in a stack of 3"):
        unstacked(Linear(4, 2, (3,)).state_dict(), 3)


@pytest.mark.parametrize("layer_norm", [True, False])
def test_twin_critic_is_two_critics(layer_norm):
    critic = TwinCritic(3, 2, width=8, layer_norm=layer_norm)
    obs = torch.randn(5, 3)
    action = torch.randn(5, 2)
    for i in (0, 1):
        single = mlp([5, 8, 8, 1], layer_norm)
        single.load_state_dict(unstacked(critic.layers.state_dict(), i))
        expected = single(torch.cat([obs, action], -1)).squeeze(-1)
        torch.testing.assert_close(critic(obs, action)[i], expected)
    assert (critic(obs, action)[0] - critic(obs, action)[1]).abs().min() > 0


def test_normaliser_by_hand():
    normalise = Normaliser(torch.tensor([1.0, 0.0]), torch.tensor([2.0, 0.1]), clip=5.0)
    expected = torch.tensor([[1.0, 5.0], [-0.5, -2.0]])
    torch.testing.assert_close(normalise(torch.tensor([[3.0, 7.0], [0.0, -0.2]])), expected)
    assert set(normalise.state_dict()) == {"centre", "scale"}


def test_fourier_features_of_positions_by_hand():
    """W = 2 pi 0.25: x = 1 gives sin(pi / 2) = 1 and cos(pi / 2) = 0, x = 2 gives 0 and -1."""
    features = Fourier(1, 2)
    features.frequency.copy_(torch.tensor([[2 * math.pi * 0.25]]))
    expected = torch.tensor([[1.0, 1.0, 0.0], [2.0, 0.0, -1.0]])
    torch.testing.assert_close(features(torch.tensor([[1.0], [2.0]])), expected, atol=1e-6, rtol=0)
    assert features.n_out == 3


def test_no_fourier_features_give_the_position_itself():
    assert Fourier(4, 0)(torch.ones(2, 4)).shape == (2, 4)


def test_an_odd_number_of_fourier_features_is_refused():
    with pytest.raises(ValueError, match="n_features=3: sines and cosines come in pairs"):
        Fourier(1, 3)


def test_a_stack_of_fourier_features_is_its_members():
    torch.manual_seed(0)
    stack = Fourier(3, 8, 2.0, (4,))
    one = Fourier(3, 8)
    x = torch.randn(4, 5, 6, 3)
    one.load_state_dict(unstacked(stack.state_dict(), 2))
    torch.testing.assert_close(stack(x)[2], one(x[2]))
