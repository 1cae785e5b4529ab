"""Networks: the noise model eps_hat(x_t, t | condition), perceptrons, twin critics.

Each of them can be a stack: `n` networks of one shape side by side, one for each seed that is
trained at once. Every parameter and buffer then has leading axes `stack`, and so have inputs and
outputs; a product of stacked matrices is one call. The network of one seed is the same module
without a stack, loaded from `unstacked` weights.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# SiLU is nine times as fast as Mish on a CPU without a vectorised Mish
ACTIVATIONS = {"mish": nn.Mish, "silu": nn.SiLU, "relu": nn.ReLU}
Stack = tuple[int, ...]


def unstacked(weights: Mapping[str, Tensor], index: int) -> dict[str, Tensor]:
    """Returns the weights of one network of a stack, from the stack's state_dict.

    Raises:
        IndexError: The stack has no such network.
    """
    sizes = {len(v) for v in weights.values()}
    if any(not -n <= index < n for n in sizes):
        raise IndexError(f"no network {index} in a stack of {min(sizes)}; count from 0")
    return {k: v[index] for k, v in weights.items()}


class Linear(nn.Module):
    """x W + b, (*stack, ..., n_in) to (*stack, ..., n_out).

    The weight is (*stack, n_in, n_out), the bias (*stack, n_out).
    """

    def __init__(self, n_in: int, n_out: int, stack: Stack = ()) -> None:
        super().__init__()
        bound = 1 / math.sqrt(n_in)
        self.weight = nn.Parameter(torch.empty(*stack, n_in, n_out).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(*stack, n_out).uniform_(-bound, bound))

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        n = self.weight.dim() - 2
        if not n:
            return F.linear(x, self.weight.T, self.bias)
        if self.bias.numel() == self.bias.shape[-1]:  # a stack of one
            weight = self.weight.view(self.weight.shape[-2:])
            return F.linear(x, weight.T, self.bias.view(-1))
        weight = self.weight.flatten(0, n - 1)
        bias = self.bias.flatten(0, n - 1).unsqueeze(1)
        rows = x.reshape(len(weight), -1, x.shape[-1])
        return torch.baddbmm(bias, rows, weight).reshape(*x.shape[:-1], -1)


class LayerNorm(nn.Module):
    """Layer normalisation over the last axis, with gain and shift (*stack, width)."""

    def __init__(self, width: int, stack: Stack = ()) -> None:
        super().__init__()
        self.width = width
        self.n = len(stack)
        self.weight = nn.Parameter(torch.ones(*stack, width))
        self.bias = nn.Parameter(torch.zeros(*stack, width))

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        if not self.n:
            return F.layer_norm(x, (self.width,), self.weight, self.bias)
        if self.weight.numel() == self.width:  # a stack of one
            return F.layer_norm(x, (self.width,), self.weight.view(-1), self.bias.view(-1))
        shape = (*self.weight.shape[:-1], *[1] * (x.dim() - self.n - 1), self.width)
        normal = F.layer_norm(x, (self.width,))
        return torch.addcmul(self.bias.view(shape), normal, self.weight.view(shape))


class FourierTime(nn.Module):
    """Embeds t (*stack, ...) as (*stack, ..., out_dim): fixed random frequencies, then an MLP."""

    frequency: Tensor

    def __init__(
        self,
        n_features: int = 64,
        out_dim: int = 128,
        scale: float = 30.0,
        activation: str = "mish",
        stack: Stack = (),
    ) -> None:
        super().__init__()
        self.n = len(stack)
        self.register_buffer("frequency", torch.randn(*stack, n_features // 2) * scale)
        layers = (
            Linear(n_features, out_dim, stack),
            ACTIVATIONS[activation](),
            Linear(out_dim, out_dim, stack),
        )
        self.mlp = nn.Sequential(*layers)

    def forward(self, t: Tensor) -> Tensor:  # noqa: D102
        shape = (*self.frequency.shape[:-1], *[1] * (t.dim() - self.n), -1)
        angle = 2 * math.pi * t.unsqueeze(-1) * self.frequency.view(shape)
        return self.mlp(torch.cat([angle.sin(), angle.cos()], -1))


class Fourier(nn.Module):
    """[x, sin W x, cos W x], (*stack, ..., n_in) to (*stack, ..., n_in + n_features).

    W is fixed and random. A perceptron of a bare position is smooth; with these features it can
    change where a wall is (Tancik et al., arXiv 2006.10739).

    Args:
        n_in: Length of x.
        n_features: Number of sines and cosines, even; 0 gives x itself.
        scale: Standard deviation of W's entries [cycles/unit].
        stack: Leading axes.

    Raises:
        ValueError: `n_features` is odd or negative.
    """

    frequency: Tensor

    def __init__(self, n_in: int, n_features: int, scale: float = 1.0, stack: Stack = ()) -> None:
        super().__init__()
        if n_features < 0 or n_features % 2:
            raise ValueError(
                f"n_features={n_features}: sines and cosines come in pairs; give an even number"
            )
        self.n = len(stack)
        self.n_out = n_in + n_features
        drawn = torch.randn(*stack, n_in, n_features // 2)
        self.register_buffer("frequency", 2 * math.pi * scale * drawn)

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        if self.frequency.shape[-1] == 0:
            return x
        lead = x.shape[: self.n]
        angle = (x.reshape(*lead, -1, x.shape[-1]) @ self.frequency).reshape(*x.shape[:-1], -1)
        return torch.cat([x, angle.sin(), angle.cos()], -1)


class ResidualBlock(nn.Module):
    """x + W2 act(W1 LayerNorm(dropout(x)))."""

    def __init__(
        self, width: int, inner: int, dropout: float, activation: str, stack: Stack = ()
    ) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Dropout(dropout) if dropout else nn.Identity(),
            LayerNorm(width, stack),
            Linear(width, inner, stack),
            ACTIVATIONS[activation](),
            Linear(inner, width, stack),
        )

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        return x + self.layers(x)


class NoiseModel(nn.Module):
    """eps_hat(x_t, t | condition), the shape of x_t (sizes: method section 2).

    The last layer starts at zero, so an untrained model predicts no noise.

    Args:
        dim: Length of x_t.
        cond_dim: Length of the condition; 0 for none.
        width: Width between the blocks.
        inner: Width inside a block.
        n_blocks: Number of residual blocks.
        dropout: Share of inputs that a block drops in training.
        activation: Name of the activation.
        stack: Leading axes.
        n_features: Fourier features of x_t.
        feature_scale: Their scale [cycles/unit].
        time_dim: Length of the time's embedding.
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
        stack: Stack = (),
        n_features: int = 0,
        feature_scale: float = 1.0,
        time_dim: int = 128,
    ) -> None:
        super().__init__()
        self.stack = stack
        self.time = FourierTime(out_dim=time_dim, activation=activation, stack=stack)
        self.features = Fourier(dim, n_features, feature_scale, stack)
        self.stem = Linear(self.features.n_out + cond_dim + time_dim, width, stack)
        blocks = (ResidualBlock(width, inner, dropout, activation, stack) for _ in range(n_blocks))
        self.blocks = nn.Sequential(*blocks)
        self.activation = ACTIVATIONS[activation]()
        self.head = Linear(width, dim, stack)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, x_t: Tensor, t: Tensor, condition: Tensor | None = None) -> Tensor:
        """Returns the predicted noise (*stack, ..., dim).

        Args:
            x_t: Noised data (*stack, ..., dim).
            t: Times. They broadcast to x_t without its last axis: with the stack's axes in front,
                or with one axis at most, which is then the same for the whole stack.
            condition: (*stack, ..., cond_dim), or None.
        """
        time = self.time(t.expand(*self.stack, *t.shape) if t.dim() < 2 else t)
        ones = [1] * (x_t.dim() - time.dim())
        time = time.view(*self.stack, *ones, *time.shape[len(self.stack) :])
        time = time.expand(*x_t.shape[:-1], -1)
        x = self.features(x_t)
        parts = [x, time] if condition is None else [x, condition, time]
        return self.head(self.activation(self.blocks(self.stem(torch.cat(parts, -1)))))


def mlp(
    sizes: Sequence[int], layer_norm: bool = True, stack: Stack = (), activation: str = "silu"
) -> nn.Sequential:
    """Returns a perceptron with a linear last layer.

    Args:
        sizes: Width of the input and of each layer.
        layer_norm: Whether a LayerNorm comes before each activation.
        stack: Leading axes.
        activation: Name of the activation.
    """
    layers: list[nn.Module] = []
    for i, (n_in, n_out) in enumerate(zip(sizes[:-1], sizes[1:], strict=True)):
        layers.append(Linear(n_in, n_out, stack))
        if i < len(sizes) - 2:
            layers += [LayerNorm(n_out, stack)] if layer_norm else []
            layers.append(ACTIVATIONS[activation]())
    return nn.Sequential(*layers)


class TwinCritic(nn.Module):
    """Two Q functions at once: their values are (*stack, 2, batch).

    The obs is (*stack, batch, obs_dim), the action (*stack, batch, act_dim).
    """

    def __init__(
        self,
        obs_dim: int,
        act_dim: int,
        width: int,
        n_layers: int = 2,
        layer_norm: bool = True,
        stack: Stack = (),
        fourier: tuple[int, float] = (0, 1.0),
    ) -> None:
        super().__init__()
        self.features = Fourier(obs_dim, *fourier, stack)
        sizes = [self.features.n_out + act_dim, *[width] * n_layers, 1]
        self.layers = mlp(sizes, layer_norm, (*stack, 2))

    def forward(self, obs: Tensor, action: Tensor) -> Tensor:  # noqa: D102
        x = torch.cat([self.features(obs), action], -1).unsqueeze(-3)
        return self.layers(x.expand(*x.shape[:-3], 2, *x.shape[-2:])).squeeze(-1)


class Normaliser(nn.Module):
    """(x - centre) / scale within +-`clip`: what every network sees of an observation.

    Entries are scaled by limits, or by statistics of data where `by_data` is true
    (methods/obs_statistics.py decides). Past +-`clip`, limits cut. Statistics are cut softly, since
    nothing says how far an observation may lie outside of what was seen: from +-(clip - 1) on,
    z becomes clip - 1 + b / (1 + b) with b = |z| - (clip - 1). So order is kept, and the bound too.

    A stack of learners may have statistics of its own each: then all tensors are (*stack, obs_dim),
    and x has the stack's axes in front.

    Args:
        centre: What becomes 0 (obs_dim,).
        scale: What becomes 1 (obs_dim,).
        clip: Bound of the result.

    Attributes:
        by_data: Entries whose centre and scale come from data, bool. A state holds it if there are
            any.
        frozen: Whether it stays as it is, whatever data come.
    """

    FAR = 1e4  # a bound before the soft cut, so that no overflow becomes inf / inf
    centre: Tensor
    scale: Tensor
    by_data: Tensor

    def __init__(self, centre: Tensor, scale: Tensor, clip: float = 5.0) -> None:
        super().__init__()
        self.register_buffer("centre", centre.float())
        self.register_buffer("scale", scale.float())
        self.register_buffer("by_data", torch.zeros(centre.shape, dtype=torch.bool))
        self.clip = clip
        self.frozen = False
        self.uses_data = False  # a constant of the exported graph, unlike a look into `by_data`

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        centre, scale, by_data = self._beside(x)
        z = (x - centre) / scale
        if not self.uses_data:
            return z.clamp(-self.clip, self.clip)
        knee = self.clip - 1
        inside = z.clamp(-knee, knee)
        beyond = z.clamp(-self.FAR, self.FAR) - inside
        soft = beyond / (1 + beyond.abs())
        return inside + torch.where(by_data, soft, beyond.clamp(-1, 1))

    def _beside(self, x: Tensor) -> list[Tensor]:
        """Returns centre, scale and by_data in shapes that broadcast to x."""
        own = [self.centre, self.scale, self.by_data]
        stack = self.centre.shape[:-1]
        ones = [1] * (x.dim() - self.centre.dim())
        return [tensor.view(*stack, *ones, -1) for tensor in own] if stack else own

    def set_statistics(self, centre: Tensor, scale: Tensor, by_data: Tensor) -> None:
        """Replaces all three, each (*stack, obs_dim).

        Args:
            centre: What becomes 0.
            scale: What becomes 1.
            by_data: Which entries of both come from data.
        """
        self.centre = centre.to(self.centre)
        self.scale = scale.to(self.scale)
        self.by_data = by_data.to(self.by_data)
        self.uses_data = bool(by_data.any())

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        if not self.uses_data:
            del destination[f"{prefix}by_data"]

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *rest: Any) -> None:
        shape = state_dict.get(f"{prefix}centre", self.centre).shape
        state_dict.setdefault(f"{prefix}by_data", torch.zeros(shape, dtype=torch.bool))
        self.set_statistics(*(t.new_zeros(shape) for t in (self.centre, self.scale, self.by_data)))
        super()._load_from_state_dict(state_dict, prefix, *rest)
        self.uses_data = bool(self.by_data.any())
