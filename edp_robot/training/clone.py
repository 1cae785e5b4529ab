"""Cloning: a diffusion policy of shown actions (method Eq. 4, its second term, on data instead of a replay)."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from edp_robot.config.schema import CloneConfig
from edp_robot.diffusion.losses import denoising_loss
from edp_robot.methods.ddpg import polyak_update
from edp_robot.training.chunks import set_cosine_rate, train_in_chunks
from edp_robot.training.models import noise_model, normaliser
from edp_robot.training.runs import Run
from sim.core.registry import task_spec
from sim.core.spec import TaskSpec
from sim.tasks import experts


def demonstrations(config: CloneConfig, spec: TaskSpec) -> tuple[Tensor, Tensor]:
    """Returns raw obs (n, obs_dim) and actions (n, act_dim) in [-1, 1], of `config.data` or of the task's own expert.

    Raises:
        ValueError: no data are given and the task has no expert, or their shapes are not the task's.
        FileNotFoundError: no such file.
    """
    if config.data:
        with np.load(config.data, allow_pickle=False) as file:
            if missing := {"obs", "action"} - set(file.files):
                raise ValueError(
                    f"{config.data} lacks {sorted(missing)}; it holds {sorted(file.files)}"
                )
            obs, action = (file[k].astype(np.float32) for k in ("obs", "action"))
    elif config.task in experts.EXPERTS:
        obs, action = experts.demonstrations(config.task, config.n_pairs, config.seed)
    else:
        known = ", ".join(experts.EXPERTS)
        raise ValueError(
            f"task {config.task!r} shows nothing by itself ({known} do); give --data FILE.npz with obs and action"
        )
    expected = ((len(obs), spec.obs_dim), (len(obs), spec.act_dim))
    if (obs.shape, action.shape) != expected or not len(obs):
        raise ValueError(
            f"obs {obs.shape}, action {action.shape}: {config.task} wants {expected}, and a row or more"
        )
    if not np.isfinite(obs).all() or not (np.abs(action) <= 1).all():
        raise ValueError(
            "obs must be finite, and actions in [-1, 1]; map commands by the task's action map first"
        )
    return torch.from_numpy(obs), torch.from_numpy(action)


class Cloner:
    """Denoising loss on demonstrations; the running average is what is kept."""

    def __init__(self, spec: TaskSpec, config: CloneConfig, obs: Tensor, action: Tensor) -> None:
        self.config, self.obs, self.action = config, obs, action
        model = noise_model(spec.act_dim, spec.obs_dim, config.action_model)
        self.networks = nn.ModuleDict({"learner": model, "action_model": copy.deepcopy(model)})
        self.networks["normaliser"] = normaliser(spec)
        self.optimizer = torch.optim.Adam(
            model.parameters(), lr=config.action_model.learning_rate, fused=True
        )
        self.n_chunks = 0

    def chunk(self) -> dict[str, float]:
        """Runs `grad_steps_per_chunk`; returns the mean denoising loss."""
        config, losses = self.config, []
        set_cosine_rate(
            self.optimizer, config.action_model.learning_rate, self.n_chunks / config.n_chunks
        )
        for _ in range(config.grad_steps_per_chunk):
            rows = torch.randint(len(self.obs), (config.batch,))
            condition = self.networks["normaliser"](self.obs[rows])
            loss = denoising_loss(self.networks["learner"], self.action[rows], condition)
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()
            self.optimizer.step()
            polyak_update(self.networks["action_model"], self.networks["learner"], config.polyak)
            losses.append(loss.detach())
        self.n_chunks += 1
        return {"denoising_loss": torch.stack(losses).mean().item()}

    def state(self) -> dict[str, Any]:
        """Returns the networks, the optimizer, and some states as a replay's, for distillation to start from."""
        return {
            "learner": {"model": self.networks.state_dict()},
            "optimizer": self.optimizer.state_dict(),
            "n_trained": self.n_chunks,
            "replay": {"arrays": {"obs": self.obs[-20_000:]}},
        }

    def load(self, saved: dict[str, Any]) -> None:
        """Goes back to what `state` returned."""
        self.networks.load_state_dict(saved["learner"]["model"])
        self.optimizer.load_state_dict(saved["optimizer"])
        self.n_chunks = saved["n_trained"]


def clone(config: CloneConfig, out: str, resume: bool = False) -> None:
    """Fits a diffusion policy to demonstrations, into the run folder `out`.

    Raises:
        FileExistsError: `out` holds a run and resume is False. FileNotFoundError, ValueError: see `demonstrations`.
        KeyboardInterrupt: saved; `resume` goes on.
    """
    torch.manual_seed(config.seed)
    spec = task_spec(config.task)
    cloner = Cloner(spec, config, *demonstrations(config, spec))
    train_in_chunks(
        Run(out, config, resume), cloner, config.n_chunks, f"clone {config.task}", resume
    )
