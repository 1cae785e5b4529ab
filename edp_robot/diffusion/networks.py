"""Networks: the noise model eps_hat(x_t, t | condition), plain and batched perceptrons, and the normaliser."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

ACTIVATIONS = {"mish": nn.Mish, "silu": nn.SiLU}  # on a CPU without a vectorised Mish, SiLU is nine times as fast


class FourierTime(nn.Module):
    """Embeds t (batch,) in [0, 1] as (batch, out_dim): fixed random frequencies of scale 30, then an MLP."""

    frequency: Tensor

    def __init__(self, n_features: int = 64, out_dim: int = 128, scale: float = 30.0, activation: str = "mish") -> None:
        super().__init__()
        self.register_buffer("frequency", torch.randn(n_features // 2) * scale)
        self.mlp = nn.Sequential(nn.Linear(n_features, out_dim), ACTIVATIONS[activation](), nn.Linear(out_dim, out_dim))

    def forward(self, t: Tensor) -> Tensor:  # noqa: D102
        angle = 2 * math.pi * t.unsqueeze(-1) * self.frequency
        return self.mlp(torch.cat([angle.sin(), angle.cos()], -1))


class ResidualBlock(nn.Module):
    """x + W2 act(W1 LayerNorm(dropout(x)))."""

    def __init__(self, width: int, inner: int, dropout: float, activation: str) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Dropout(dropout) if dropout else nn.Identity(),
            nn.LayerNorm(width),
            nn.Linear(width, inner),
            ACTIVATIONS[activation](),
            nn.Linear(inner, width),
        )

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        return x + self.layers(x)


class NoiseModel(nn.Module):
    """eps_hat(x_t, t | condition): (batch, dim) from x_t (batch, dim), t (batch,) or
    broadcasting to it, condition (batch, cond_dim) or None.

    The last layer starts at zero, so that an untrained model predicts no noise. Sizes: method section 2.
    """

    def __init__(
        self,
        dim: int,
        cond_dim: int = 0,
        width: int = 256,
        inner: int = 1024,
        n_blocks: int = 3,
        dropout: float = 0.1,
        activation: str = "mish",
    ) -> None:
        super().__init__()
        self.time = FourierTime(activation=activation)
        self.stem = nn.Linear(dim + cond_dim + 128, width)
        self.blocks = nn.Sequential(*(ResidualBlock(width, inner, dropout, activation) for _ in range(n_blocks)))
        self.activation = ACTIVATIONS[activation]()
        self.head = nn.Linear(width, dim)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, x_t: Tensor, t: Tensor, condition: Tensor | None = None) -> Tensor:  # noqa: D102
        time = self.time(t).expand(*x_t.shape[:-1], -1)
        parts = [x_t, time] if condition is None else [x_t, condition, time]
        return self.head(self.activation(self.blocks(self.stem(torch.cat(parts, -1)))))


def mlp(sizes: Sequence[int], layer_norm: bool = True) -> nn.Sequential:
    """Returns a perceptron with SiLU, LayerNorm before each activation if asked, and a linear last layer."""
    layers: list[nn.Module] = []
    for i, (n_in, n_out) in enumerate(zip(sizes[:-1], sizes[1:], strict=True)):
        layers.append(nn.Linear(n_in, n_out))
        if i < len(sizes) - 2:
            layers += [nn.LayerNorm(n_out), nn.SiLU()] if layer_norm else [nn.SiLU()]
    return nn.Sequential(*layers)


class BatchedLinear(nn.Module):
    """`n` linear layers side by side: (n, batch, n_in) to (n, batch, n_out) in one matrix product."""

    def __init__(self, n: int, n_in: int, n_out: int) -> None:
        super().__init__()
        bound = 1 / math.sqrt(n_in)
        self.weight = nn.Parameter(torch.empty(n, n_in, n_out).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(n, 1, n_out).uniform_(-bound, bound))

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        return torch.baddbmm(self.bias, x, self.weight)


class TwinCritic(nn.Module):
    """Two Q functions at once: (2, batch) from obs (batch, obs_dim) and action (batch, act_dim)."""

    def __init__(self, obs_dim: int, act_dim: int, width: int, n_layers: int = 2, layer_norm: bool = True) -> None:
        super().__init__()
        sizes = [obs_dim + act_dim, *[width] * n_layers, 1]
        layers: list[nn.Module] = []
        for i, (n_in, n_out) in enumerate(zip(sizes[:-1], sizes[1:], strict=True)):
            layers.append(BatchedLinear(2, n_in, n_out))
            if i < n_layers:
                layers += [nn.LayerNorm(n_out), nn.SiLU()] if layer_norm else [nn.SiLU()]
        self.layers = nn.Sequential(*layers)

    def forward(self, obs: Tensor, action: Tensor) -> Tensor:  # noqa: D102
        x = torch.cat([obs, action], -1)
        return self.layers(x.expand(2, *x.shape)).squeeze(-1)


class Normaliser(nn.Module):
    """(x - centre) / scale, clipped to +-`clip`; part of every network that sees observations, and of the export."""

    centre: Tensor
    scale: Tensor

    def __init__(self, centre: Tensor, scale: Tensor, clip: float = 5.0) -> None:
        super().__init__()
        self.register_buffer("centre", centre.float())
        self.register_buffer("scale", scale.float())
        self.clip = clip

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        return ((x - self.centre) / self.scale).clamp(-self.clip, self.clip)
