"""Two ways to train a student: paired regression, consistency distillation (method section 7)."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from typing_extensions import override

from edp_robot.deploy.students import ConsistencyStudent, PairedStudent, Student
from edp_robot.diffusion.schedule import add_noise, alpha_sigma
from edp_robot.diffusion.solver import time_grid
from edp_robot.engine import Adam, Recorded
from edp_robot.methods.ddpg import polyak_update
from edp_robot.methods.ranges import NotNegative, Rate, Seed
from edp_robot.training.chunks import cosine_rate
from edp_robot.training.runs import RUN_CONFIGS, RunConfig
from edp_robot.training.source import Source


@RUN_CONFIGS.register("DistillConfig")
@dataclass(frozen=True)
class DistillConfig(RunConfig):
    """Distillation of a run's diffusion policy into a student of 1, 2 or 4 network calls.

    `start` is the run folder with the teacher. `rollout_episodes` of 64 environments each give the
    states to distil on. `polish_tau` is where the teacher takes over from a paired student of 2 or
    4 calls; None stands for students.POLISH_TAU. `n_times` and `polyak` belong to consistency
    distillation: the length of its grid of times, and the rate of its running average.
    """

    TITLE = "distillation"
    COMMAND = "edp distill"
    LENGTH = "n_chunks"
    start: str = ""
    steps: Literal[1, 2, 4] = 1
    method: Literal["paired", "consistency"] = "paired"
    seed: Seed = 0
    teacher_denoise_steps: int = 15
    width: int = 256
    n_layers: int = 3
    activation: Literal["mish", "silu", "relu"] = "relu"
    learning_rate: NotNegative = 1e-3
    batch: int = 256
    pairs_per_chunk: int = 16_384
    passes_per_chunk: int = 2
    n_chunks: int = 60
    rollout_episodes: int = 4
    polish_tau: Rate | None = None
    n_times: int = 10
    polyak: Rate = 0.05

    def __post_init__(self) -> None:
        if self.steps not in (1, 2, 4):
            raise ValueError(f"steps={self.steps}: students of 1, 2 or 4 network calls exist")
        if self.method not in ("paired", "consistency"):
            raise ValueError(f"method={self.method!r}: there are paired and consistency")
        super().__post_init__()

    @property
    def teacher(self) -> str:
        """Returns the run folder with the teacher."""
        return self.start


class Distiller:
    """Trains a student on the teacher's answers, drawn in chunks that are used for a few passes.

    The teacher makes a call for each of its denoising steps, the student one, so answers are dear.

    Args:
        source: The run with the teacher.
        student: What is trained.
        states: Raw observations (n, obs_dim) to distil on.
        config: Sizes and rates.
    """

    def __init__(
        self, source: Source, student: Student, states: Tensor, config: DistillConfig
    ) -> None:
        self.source = source
        self.student = student
        self.states = states
        self.config = config
        self.optimizer = Adam(student.net.parameters(), config.learning_rate)
        self._step = Recorded(self._fit_once)
        self.n_done = 0

    def loss(self, obs: Tensor, noise: Tensor, action: Tensor) -> Tensor:
        """Returns what is minimised, a scalar.

        Args:
            obs: Normalised observations (batch, obs_dim).
            noise: Noise (batch, act_dim).
            action: The teacher's actions (batch, act_dim) for this noise.
        """
        raise NotImplementedError

    def stepped(self) -> None:
        """Runs after each grad_step."""

    def pairs(self) -> tuple[Tensor, Tensor, Tensor]:
        """Returns (normalised obs, noise, teacher's action), each (pairs_per_chunk, ...)."""
        rows = torch.randint(len(self.states), (self.config.pairs_per_chunk,))
        obs = self.states[rows]
        noise = torch.randn(len(rows), self.source.spec.act_dim)
        return self.student.normaliser(obs), noise, self.source.teacher(obs, noise)

    def chunk(self) -> dict[str, float]:
        """Draws one chunk of pairs and fits it; returns the mean loss."""
        obs, noise, target = self.pairs()
        config = self.config
        n_total = config.n_chunks * config.passes_per_chunk * config.pairs_per_chunk / config.batch
        losses = []
        for _ in range(config.passes_per_chunk):
            for rows in torch.randperm(len(obs)).split(config.batch):
                rate = cosine_rate(config.learning_rate, self.n_done / n_total)
                self.optimizer.set_rate(rate)
                losses.append(self._step(obs[rows], noise[rows], target[rows])["loss"].clone())
                self.n_done += 1
        return {"loss": torch.stack(losses).mean().item()}

    def _fit_once(self, obs: Tensor, noise: Tensor, action: Tensor) -> dict[str, Tensor]:
        """Takes one grad_step (arguments as for `loss`); returns the loss."""
        loss = self.loss(obs, noise, action)
        self.optimizer.descend(loss)
        self.stepped()
        return {"loss": loss.detach()}

    def state(self) -> dict[str, Any]:
        """Returns a tree for the checkpoint."""
        return {
            "net": self.student.net.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "n_done": self.n_done,
        }

    def load(self, saved: dict[str, Any]) -> None:
        """Restores what `state` returned."""
        self.student.net.load_state_dict(saved["net"])
        self.optimizer.load_state_dict(saved["optimizer"])
        self.n_done = saved["n_done"]
        self._step.forget()


class PairedRegression(Distiller):
    """Fits mu(s, z) to ODE_psi(s, z) with the same z, so that it learns the map, not its mean."""

    @override
    def loss(self, obs: Tensor, noise: Tensor, action: Tensor) -> Tensor:
        """Returns the mean of ||mu - a|| (`distance`) of the network's own output.

        The distance is not squared. Where the teacher's map jumps from mode to mode, the minimum of
        the square lies between the two, and that of the distance (the geometric median) at the
        likelier one. The output is not clamped as in the deployed student, because that stops the
        gradient outside the box.
        """
        return distance(self.student.net(torch.cat([obs, noise], -1)), action).mean()


class ConsistencyDistillation(Distiller):
    """Fits f(x_t, t) to f_average(x_u, u), where x_u is one teacher step from x_t.

    u is the next time of a grid. x_t is a sample of the teacher, noised afresh. f_average is the
    running average of f, and is what is deployed. The teacher's step is Heun's, which averages the
    data predictions of both ends.
    """

    student: ConsistencyStudent

    def __init__(
        self, source: Source, student: ConsistencyStudent, states: Tensor, config: DistillConfig
    ) -> None:
        super().__init__(source, student, states, config)
        self.learner = copy.deepcopy(student.net)
        self.optimizer = Adam(self.learner.parameters(), config.learning_rate)
        self.times = torch.tensor(time_grid(config.n_times))

    @override
    def loss(self, obs: Tensor, noise: Tensor, action: Tensor) -> Tensor:
        """Returns the mean square between f at both ends of one teacher step.

        `noise` is not used: the action is noised afresh.
        """
        i = torch.randint(self.config.n_times, (len(obs),))
        t = self.times[i]
        u = self.times[i + 1]
        x_t = add_noise(action, torch.randn_like(action), t)
        with torch.no_grad():
            x_u = self.teacher_step(x_t, t, u, obs)
            target = self.student.net(x_u, u[:, None], obs).clamp(-1, 1)
        return (self.learner(x_t, t[:, None], obs) - target).square().mean()

    def teacher_step(self, x_t: Tensor, t: Tensor, u: Tensor, obs: Tensor) -> Tensor:
        """Returns x_u (batch, act_dim), one step of Heun's along the teacher's ODE.

        Args:
            x_t: Where it starts (batch, act_dim).
            t: The time there (batch,).
            u: The earlier time where it ends (batch,).
            obs: Normalised observations (batch, obs_dim).
        """
        first = self.predict(x_t, t, obs)
        second = self.predict(towards(x_t, first, t, u), u, obs)
        return towards(x_t, (first + second) / 2, t, u)

    def predict(self, x: Tensor, t: Tensor, obs: Tensor) -> Tensor:
        """Returns the teacher's data prediction (batch, act_dim), clipped to the box.

        Args:
            x: Noised actions (batch, act_dim).
            t: Their times (batch,).
            obs: Normalised observations (batch, obs_dim).
        """
        alpha, sigma = (c.unsqueeze(-1) for c in alpha_sigma(t))
        return ((x - sigma * self.source.teacher.model(x, t, obs)) / alpha).clamp(-1, 1)

    def stepped(self) -> None:
        """Moves the average towards f."""
        polyak_update(self.student.net, self.learner, self.config.polyak)

    def state(self) -> dict[str, Any]:
        """Returns a tree for the checkpoint, f included."""
        return {**super().state(), "learner": self.learner.state_dict()}

    def load(self, saved: dict[str, Any]) -> None:
        """Restores what `state` returned."""
        super().load(saved)
        self.learner.load_state_dict(saved["learner"])


def distance(a: Tensor, b: Tensor, tiny: float = 0.01) -> Tensor:
    """Returns sqrt(||a - b||^2 + tiny^2) - tiny (batch,), a distance that is smooth at zero.

    Args:
        a: Vectors (batch, dim).
        b: Vectors (batch, dim).
        tiny: Where the distance turns from a square to a cone (a pseudo-Huber loss).
    """
    return ((a - b).square().sum(-1) + tiny**2).sqrt() - tiny


def towards(x_t: Tensor, x0: Tensor, t: Tensor, u: Tensor) -> Tensor:
    """Returns x_u (batch, dim) on the ODE through x_t whose data prediction stays x0 (DDIM).

    Source: method Eq. 1.

    Args:
        x_t: Noised data (batch, dim).
        x0: Data prediction (batch, dim).
        t: Time of x_t (batch,).
        u: Time of the result (batch,).
    """
    alpha_t, sigma_t = (c.unsqueeze(-1) for c in alpha_sigma(t))
    alpha_u, sigma_u = (c.unsqueeze(-1) for c in alpha_sigma(u))
    return alpha_u * x0 + sigma_u / sigma_t * (x_t - alpha_t * x0)


DISTILLERS = {"paired": PairedRegression, "consistency": ConsistencyDistillation}


def make_student(source: Source, config: DistillConfig) -> Student:
    """Returns an untrained student for `source`."""
    teacher = source.teacher
    dims = (source.spec.obs_dim, source.spec.act_dim)
    sizes = (config.width, config.n_layers, config.activation)
    if config.method == "consistency":
        student = ConsistencyStudent(teacher.normaliser, *dims, *sizes)
    else:
        student = PairedStudent(
            teacher.normaliser, *dims, *sizes, teacher=teacher.model, tau=config.polish_tau
        )
    return student.with_steps(config.steps)
