import math

import pytest
import torch
from torch import nn

from edp_robot.diffusion.networks import BatchedLinear, FourierTime, NoiseModel, Normaliser, TwinCritic, mlp


def tiny_model(**changes) -> NoiseModel:
    torch.manual_seed(0)
    model = NoiseModel(**{"dim": 2, "cond_dim": 3, "width": 8, "inner": 16, "n_blocks": 2, "dropout": 0.5, **changes})
    nn.init.normal_(model.head.weight)
    return model


def test_untrained_model_predicts_no_noise():
    model = NoiseModel(2, 3, 8, 16, 2)
    assert model(torch.randn(5, 2), torch.rand(5), torch.randn(5, 3)).abs().max() == 0


def test_every_input_matters():
    model = tiny_model().eval()
    x, t, condition = torch.randn(4, 2), torch.full((4,), 0.5), torch.randn(4, 3)
    out = model(x, t, condition)
    assert out.shape == (4, 2)
    for changed in [(x + 1, t, condition), (x, t + 0.1, condition), (x, t, condition + 1)]:
        assert ((model(*changed) - out).abs().sum(-1) > 1e-4).all()


def test_one_set_of_times_serves_a_batch_of_states():
    model = tiny_model(cond_dim=0).eval()
    x_t, t = torch.randn(5, 3, 2), torch.tensor([0.1, 0.5, 0.9])
    expected = torch.stack([model(x_t[:, k], t[k].expand(5)) for k in range(3)], 1)
    torch.testing.assert_close(model(x_t, t), expected)


def test_dropout_only_in_training():
    model, x, t = tiny_model(cond_dim=0), torch.randn(4, 2), torch.rand(4)
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
    expected = [[math.sin(math.pi), math.sin(math.pi / 4), math.cos(math.pi), math.cos(math.pi / 4)]]
    torch.testing.assert_close(embed(torch.tensor([0.5])), torch.tensor(expected), atol=1e-6, rtol=0)


def test_frequencies_are_saved_but_not_trained():
    embed = FourierTime()
    assert "frequency" in embed.state_dict()
    assert "frequency" not in dict(embed.named_parameters())


def test_mlp_layers():
    assert [type(x).__name__ for x in mlp([2, 4, 3])] == ["Linear", "LayerNorm", "SiLU", "Linear"]
    assert [type(x).__name__ for x in mlp([2, 4, 3], layer_norm=False)] == ["Linear", "SiLU", "Linear"]
    assert mlp([2, 4, 3])(torch.zeros(7, 2)).shape == (7, 3)


def test_batched_linear_is_n_linear_layers():
    layer, x = BatchedLinear(3, 4, 2), torch.randn(3, 5, 4)
    expected = torch.stack([x[i] @ layer.weight[i] + layer.bias[i] for i in range(3)])
    torch.testing.assert_close(layer(x), expected)


@pytest.mark.parametrize("layer_norm", [True, False])
def test_twin_critic_is_two_critics(layer_norm):
    critic = TwinCritic(3, 2, width=8, layer_norm=layer_norm)
    obs, action = torch.randn(5, 3), torch.randn(5, 2)
    for i in (0, 1):
        x = torch.cat([obs, action], -1)
        for layer in critic.layers:
            x = x @ layer.weight[i] + layer.bias[i] if isinstance(layer, BatchedLinear) else layer(x)
        torch.testing.assert_close(critic(obs, action)[i], x.squeeze(-1))
    assert (critic(obs, action)[0] - critic(obs, action)[1]).abs().min() > 0


def test_normaliser_by_hand():
    normalise = Normaliser(torch.tensor([1.0, 0.0]), torch.tensor([2.0, 0.1]), clip=5.0)
    expected = torch.tensor([[1.0, 5.0], [-0.5, -2.0]])
    torch.testing.assert_close(normalise(torch.tensor([[3.0, 7.0], [0.0, -0.2]])), expected)
    assert set(normalise.state_dict()) == {"centre", "scale"}
