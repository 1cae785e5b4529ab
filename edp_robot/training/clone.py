"""Cloning: a diffusion policy of shown actions (the second term of method Eq. 4, on given data)."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from edp_robot.diffusion.losses import denoising_loss
from edp_robot.engine import Adam, Recorded
from edp_robot.methods import shown_data
from edp_robot.methods.ddpg import polyak_update
from edp_robot.methods.models import NoiseModelConfig, noise_model, normaliser
from edp_robot.methods.obs_statistics import fit
from edp_robot.methods.ranges import Rate, Seed
from edp_robot.training.chunks import cosine_rate, train_in_chunks
from edp_robot.training.devices import seed_all
from edp_robot.training.runs import RUN_CONFIGS, Run, RunConfig
from sim.core.registry import task_spec
from sim.core.spec import TaskSpec
from sim.tasks import experts

N_REPLAYED = 20_000  # observations that distillation starts from


@RUN_CONFIGS.register("CloneConfig")
@dataclass(frozen=True)
class CloneConfig(RunConfig):
    """A diffusion policy of demonstrations, without exploration or reward.

    `data` is an .npz file with raw obs (n, obs_dim) and action (n, act_dim) in [-1, 1]; what lies
    outside by at most 1e-5, float32's rounding, is clipped. If it is empty, the task's own expert
    shows `n_pairs`.
    """

    TITLE = "cloning"
    COMMAND = "edp clone"
    POLICY = "action_model"
    LENGTH = "n_chunks"
    task: str = "modes"
    data: str = ""
    seed: Seed = 0
    n_action_steps: int = 1
    n_pairs: int = 20_000
    n_chunks: int = 60
    grad_steps_per_chunk: int = 100
    batch: int = 512
    polyak: Rate = 0.005
    action_model: NoiseModelConfig = field(default_factory=NoiseModelConfig)


def demonstrations(config: CloneConfig, spec: TaskSpec) -> tuple[Tensor, Tensor]:
    """Returns raw obs (n, obs_dim) and actions (n, act_dim) in [-1, 1].

    They come from `config.data`, or else from the task's own expert.

    Raises:
        ValueError: There are no data and no expert, or the shapes or values do not fit the task.
        FileNotFoundError: There is no such file.
    """
    if config.data:
        obs, action = shown_data.read(config.data)
    elif config.task in experts.EXPERTS:
        obs, action = experts.demonstrations(config.task, config.n_pairs, config.seed)
    else:
        known = ", ".join(experts.EXPERTS)
        raise ValueError(
            f"task {config.task!r} shows nothing by itself ({known} do); "
            "give --data FILE.npz with obs and action"
        )
    obs, action = shown_data.checked(obs, action, spec)
    return torch.from_numpy(obs), torch.from_numpy(action)


class Cloner:
    """Minimises the denoising loss on demonstrations. The running average becomes the policy.

    Args:
        spec: The task.
        config: Sizes and rates.
        obs: Raw observations (n, obs_dim).
        action: Actions (n, act_dim) in [-1, 1].
    """

    def __init__(self, spec: TaskSpec, config: CloneConfig, obs: Tensor, action: Tensor) -> None:
        self.config = config
        self.obs = obs
        self.action = action
        model = noise_model(spec.act_dim, spec.obs_dim, config.action_model)
        self.networks = nn.ModuleDict({"learner": model, "action_model": copy.deepcopy(model)})
        norm = normaliser(spec)
        fit(norm, spec, obs.numpy())
        self.networks["normaliser"] = norm
        self.optimizer = Adam(model.parameters(), config.action_model.learning_rate)
        self._step = Recorded(self._fit_once)
        self.n_chunks = 0

    def chunk(self) -> dict[str, float]:
        """Takes `grad_steps_per_chunk` grad_steps; returns the mean denoising loss."""
        config = self.config
        done = self.n_chunks / config.n_chunks
        self.optimizer.set_rate(cosine_rate(config.action_model.learning_rate, done))
        losses = []
        for _ in range(config.grad_steps_per_chunk):
            rows = torch.randint(len(self.obs), (config.batch,))
            fitted = self._step(self.networks["normaliser"](self.obs[rows]), self.action[rows])
            losses.append(fitted["loss"].clone())
        self.n_chunks += 1
        return {"denoising_loss": torch.stack(losses).mean().item()}

    def _fit_once(self, obs: Tensor, action: Tensor) -> dict[str, Tensor]:
        """Takes one grad_step at normalised states (batch, obs_dim); returns the loss."""
        learner = self.networks["learner"]
        loss = denoising_loss(learner, action, obs)
        self.optimizer.descend(loss)
        polyak_update(self.networks["action_model"], learner, self.config.polyak)
        return {"loss": loss.detach()}

    def state(self) -> dict[str, Any]:
        """Returns networks, optimizer, and some states as a replay's, which distillation reads."""
        return {
            "learner": {"model": self.networks.state_dict()},
            "optimizer": self.optimizer.state_dict(),
            "n_trained": self.n_chunks,
            "replay": {"arrays": {"obs": self.obs[-N_REPLAYED:]}},
        }

    def load(self, saved: dict[str, Any]) -> None:
        """Restores what `state` returned."""
        self.networks.load_state_dict(saved["learner"]["model"])
        self.optimizer.load_state_dict(saved["optimizer"])
        self.n_chunks = saved["n_trained"]
        self._step.forget()


def clone(config: CloneConfig, out: str, resume: bool = False) -> None:
    """Fits a diffusion policy to demonstrations, into a run folder.

    Args:
        config: Task, data and sizes.
        out: Run folder.
        resume: Whether to go on from the folder's checkpoint.

    Raises:
        FileExistsError: `out` holds a run and `resume` is False.
        FileNotFoundError: There is no such data file.
        ValueError: The demonstrations do not fit the task, or there are none.
        KeyboardInterrupt: SIGINT came. The last checkpoint stays.
    """
    seed_all(config.seed)
    spec = task_spec(config.task)
    cloner = Cloner(spec, config, *demonstrations(config, spec))
    with Run(out, config, resume) as run:
        train_in_chunks(run, cloner, config.n_chunks, title=f"clone {config.task}", resume=resume)
