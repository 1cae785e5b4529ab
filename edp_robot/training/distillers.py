"""The two ways to train a student (method section 7): paired regression, and consistency distillation."""

from __future__ import annotations

import copy

import torch
from torch import Tensor

from edp_robot.config.schema import DistillConfig
from edp_robot.deploy.students import ConsistencyStudent, PairedStudent, Student
from edp_robot.diffusion.schedule import add_noise, alpha_sigma
from edp_robot.diffusion.solver import time_grid
from edp_robot.methods.ddpg import polyak_update
from edp_robot.training.chunks import set_cosine_rate
from edp_robot.training.source import Source


class Distiller:
    """Trains a student on the teacher's answers, which are drawn in chunks, each used for a few passes.

    Teacher calls cost as much as its denoising steps are many; a student's call costs one.
    """

    def __init__(
        self, source: Source, student: Student, states: Tensor, config: DistillConfig
    ) -> None:
        self.source, self.student, self.states, self.config = source, student, states, config
        self.optimizer = torch.optim.Adam(
            student.net.parameters(), lr=config.learning_rate, fused=True
        )
        self.n_done = 0

    def loss(self, obs: Tensor, noise: Tensor, action: Tensor) -> Tensor:
        """Returns what is minimised, a scalar, on normalised obs and the teacher's action from this noise."""
        raise NotImplementedError

    def stepped(self) -> None:
        """Called after each grad_step."""

    def pairs(self) -> tuple[Tensor, Tensor, Tensor]:
        """Returns (normalised obs, noise, teacher's action), each (pairs_per_chunk, ...)."""
        rows = torch.randint(len(self.states), (self.config.pairs_per_chunk,))
        obs = self.states[rows]
        noise = torch.randn(len(rows), self.source.spec.act_dim)
        return self.student.normaliser(obs), noise, self.source.teacher(obs, noise)

    def chunk(self) -> dict[str, float]:
        """Draws one chunk of pairs and fits it; returns the mean loss."""
        obs, noise, target = self.pairs()
        config, losses = self.config, []
        n_total = config.n_chunks * config.passes_per_chunk * config.pairs_per_chunk / config.batch
        for _ in range(self.config.passes_per_chunk):
            for rows in torch.randperm(len(obs)).split(self.config.batch):
                set_cosine_rate(self.optimizer, self.config.learning_rate, self.n_done / n_total)
                loss = self.loss(obs[rows], noise[rows], target[rows])
                self.optimizer.zero_grad(set_to_none=True)
                loss.backward()
                self.optimizer.step()
                self.stepped()
                losses.append(loss.detach())
                self.n_done += 1
        return {"loss": torch.stack(losses).mean().item()}

    def state(self) -> dict:
        """Returns everything that `load` needs to go on exactly from here."""
        return {
            "net": self.student.net.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "n_done": self.n_done,
        }

    def load(self, saved: dict) -> None:
        """Goes back to what `state` returned."""
        self.student.net.load_state_dict(saved["net"])
        self.optimizer.load_state_dict(saved["optimizer"])
        self.n_done = saved["n_done"]


class PairedRegression(Distiller):
    """Fits mu(s, z) to ODE_psi(s, z) with the same z: the student learns the teacher's map, not its mean."""

    def loss(self, obs: Tensor, noise: Tensor, action: Tensor) -> Tensor:
        """Returns the mean of ||mu - a|| (`distance`), of the net's own output.

        Not of its square: where the teacher's map jumps from mode to mode, the square's minimum lies between the two,
        this one's (the geometric median) at the likelier. Clamping first, as the deployed student does, would stop the
        gradient outside the box.
        """
        return distance(self.student.net(torch.cat([obs, noise], -1)), action).mean()


class ConsistencyDistillation(Distiller):
    """Fits f(x_t, t) to f_average(x_u, u), u the next time of a grid and x_u one teacher step from x_t.

    x_t is a sample of the teacher, noised afresh. f_average is the running average of f, which is also what is
    deployed. The teacher's step is Heun's: the data prediction averaged over both ends.
    """

    def __init__(
        self, source: Source, student: ConsistencyStudent, states: Tensor, config: DistillConfig
    ) -> None:
        super().__init__(source, student, states, config)
        self.learner = copy.deepcopy(student.net)
        self.optimizer = torch.optim.Adam(
            self.learner.parameters(), lr=config.learning_rate, fused=True
        )
        self.times = torch.tensor(time_grid(config.n_times))

    def loss(self, obs: Tensor, noise: Tensor, action: Tensor) -> Tensor:
        """Returns the mean square between f at both ends of one teacher step; `noise` is not used again."""
        i = torch.randint(self.config.n_times, (len(obs),))
        t, u = self.times[i], self.times[i + 1]
        x_t = add_noise(action, torch.randn_like(action), t)
        with torch.no_grad():
            target = self.student.net(self.teacher_step(x_t, t, u, obs), u[:, None], obs).clamp(
                -1, 1
            )
        return (self.learner(x_t, t[:, None], obs) - target).square().mean()

    def teacher_step(self, x_t: Tensor, t: Tensor, u: Tensor, obs: Tensor) -> Tensor:
        """Returns x_u (batch, act_dim), one step of Heun's along the teacher's ODE from x_t at t to u < t (batch,)."""
        first = self.predict(x_t, t, obs)
        second = self.predict(towards(x_t, first, t, u), u, obs)
        return towards(x_t, (first + second) / 2, t, u)

    def predict(self, x: Tensor, t: Tensor, obs: Tensor) -> Tensor:
        """Returns the teacher's data prediction (batch, act_dim), clipped to the box."""
        alpha, sigma = (c.unsqueeze(-1) for c in alpha_sigma(t))
        return ((x - sigma * self.source.teacher.model(x, t, obs)) / alpha).clamp(-1, 1)

    def stepped(self) -> None:
        """The average follows."""
        polyak_update(self.student.net, self.learner, self.config.polyak)

    def state(self) -> dict:
        """Returns everything that `load` needs, the learner too."""
        return {**super().state(), "learner": self.learner.state_dict()}

    def load(self, saved: dict) -> None:
        """Goes back to what `state` returned."""
        super().load(saved)
        self.learner.load_state_dict(saved["learner"])


def distance(a: Tensor, b: Tensor, tiny: float = 0.01) -> Tensor:
    """Returns sqrt(||a - b||^2 + tiny^2) - tiny (batch,): the distance, smooth at zero (a pseudo-Huber loss)."""
    return ((a - b).square().sum(-1) + tiny**2).sqrt() - tiny


def towards(x_t: Tensor, x0: Tensor, t: Tensor, u: Tensor) -> Tensor:
    """Returns x_u (batch, dim) on the ODE through x_t whose data prediction stays x0 (DDIM; method Eq. 1)."""
    alpha_t, sigma_t, alpha_u, sigma_u = (
        c.unsqueeze(-1) for c in (*alpha_sigma(t), *alpha_sigma(u))
    )
    return alpha_u * x0 + sigma_u / sigma_t * (x_t - alpha_t * x0)


DISTILLERS = {"paired": PairedRegression, "consistency": ConsistencyDistillation}


def make_student(source: Source, config: DistillConfig) -> Student:
    """Returns an untrained student for `source`."""
    sizes = (
        source.spec.obs_dim,
        source.spec.act_dim,
        config.width,
        config.n_layers,
        config.activation,
    )
    norm, teacher = source.teacher.normaliser, source.teacher.model
    if config.method == "consistency":
        return ConsistencyStudent(norm, *sizes).with_steps(config.steps)
    return PairedStudent(norm, *sizes, teacher=teacher, tau=config.polish_tau).with_steps(
        config.steps
    )
