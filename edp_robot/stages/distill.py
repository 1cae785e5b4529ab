"""From a 15-step teacher to a one-step student: paired regression, and a polish by the teacher (method section 7)."""

from __future__ import annotations

import copy
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import trange

from sim.hold import Hold
from sim.registry import make_vec
from sim.spec import TaskSpec

from ..config import DistillConfig, NoiseModelConfig
from ..policies import DiffusionPolicy, StudentPolicy
from ..runs import Run, load_tree, read_config, save_tree
from .evaluate import torch_actor
from .models import noise_model, normaliser
from .pretrained import load_pretrained, part

POLICY = {"PretrainConfig": "action_model", "FinetuneConfig": "psi_average"}


@dataclass(frozen=True)
class Source:
    """A run that holds a diffusion policy: its teacher, task, held steps, config, and replay's obs (n, obs_dim)."""

    teacher: DiffusionPolicy
    spec: TaskSpec
    n_action_steps: int
    config: dict[str, Any]
    replay_obs: Tensor


def load_source(run: str | Path, n_denoise_steps: int = 15) -> Source:
    """Returns the fine-tuned (or pre-trained) diffusion policy of a run folder, with its task.

    Raises:
        FileNotFoundError: no run there. ValueError: a run that holds no diffusion policy.
    """
    held = read_config(run)
    config, kind = held["config"], held["kind"]
    if kind not in ("PretrainConfig", "FinetuneConfig") or config["method"] not in ("edp", "edp-guidance"):
        raise ValueError(
            f"{run} is a {kind} of method {config.get('method')!r} and holds no diffusion policy; "
            "give a run of `edp pretrain` or `edp finetune` with --method edp"
        )
    weights, replay = policy_weights(run, kind)
    env = make_vec(config["task"], 1, 0)
    spec = env.task_spec  # type: ignore[attr-defined]
    env.close()
    model = noise_model(spec.act_dim, spec.obs_dim, NoiseModelConfig(**config["action_model"]))
    model.load_state_dict(part(weights, POLICY[kind]))
    norm = normaliser(spec)
    norm.load_state_dict(part(weights, "normaliser"))
    teacher = DiffusionPolicy(norm, model, spec.act_dim, n_denoise_steps).requires_grad_(False).eval()
    visited = replay["arrays"]["obs"].reshape(-1, spec.obs_dim)
    return Source(teacher, spec, config["loop"]["n_action_steps"], config, visited)


def policy_weights(run: str | Path, kind: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Returns weights by name and replay of a run; of a pre-training of several seeds, those of the first."""
    if kind == "PretrainConfig":
        first = load_pretrained(run)
        return first.weights, first.replay
    saved = load_tree(Path(run) / "checkpoint.safetensors")
    return saved["learner"]["model"], saved["replay"]


def visited_states(source: Source, n_envs: int, n_episodes: int, seed: int) -> Tensor:
    """Returns raw observations (n, obs_dim) that the teacher itself meets, and the replay's newest, for width."""
    env, rows = Hold(make_vec(source.spec.name, n_envs, seed), source.n_action_steps), []
    act = torch_actor(source.teacher, seed)
    obs, _ = env.reset(seed=seed)
    for _ in range(n_episodes * source.spec.episode_steps // source.n_action_steps):
        rows.append(obs)
        obs, *_ = env.step(act(obs))
    env.close()
    return torch.cat([torch.from_numpy(np.concatenate(rows)), source.replay_obs[-20_000:]])


class PairedRegression:
    """Fits mu(s, z) to ODE_psi(s, z) with the same z: the student learns the teacher's map, not its mean.

    Pairs are drawn in chunks, each used for a few passes: teacher calls cost 15 times a student's.
    """

    def __init__(self, source: Source, student: StudentPolicy, states: Tensor, config: DistillConfig) -> None:
        self.source, self.student, self.states, self.config = source, student, states, config
        self.optimizer = torch.optim.Adam(student.net.parameters(), lr=config.learning_rate, fused=True)
        self.n_done = 0

    def pairs(self) -> tuple[Tensor, Tensor, Tensor]:
        """Returns (normalised obs, noise, teacher's action), each (pairs_per_chunk, ...)."""
        rows = torch.randint(len(self.states), (self.config.pairs_per_chunk,))
        obs = self.states[rows]
        noise = torch.randn(len(rows), self.source.spec.act_dim)
        return self.student.normaliser(obs), noise, self.source.teacher(obs, noise)

    def chunk(self) -> float:
        """Draws one chunk of pairs and fits it; returns the last loss, mean square over action elements."""
        obs, noise, target = self.pairs()
        loss = torch.zeros(())
        for _ in range(self.config.passes_per_chunk):
            for rows in torch.randperm(len(obs)).split(self.config.batch):
                self.set_learning_rate()
                # the loss is on the net's own output: clamping first would stop the gradient outside the box
                loss = (self.student.net(torch.cat([obs[rows], noise[rows]], -1)) - target[rows]).square().mean()
                self.optimizer.zero_grad(set_to_none=True)
                loss.backward()
                self.optimizer.step()
                self.n_done += 1
        return loss.item()

    def set_learning_rate(self) -> None:
        """Cosine from the configured rate to a hundredth of it."""
        total = self.config.n_chunks * self.config.passes_per_chunk * self.config.pairs_per_chunk / self.config.batch
        cosine = 0.5 * (1 + np.cos(np.pi * min(1.0, self.n_done / total)))
        for group in self.optimizer.param_groups:
            group["lr"] = self.config.learning_rate * max(0.01, cosine)


def distill(config: DistillConfig, out: str, resume: bool = False) -> StudentPolicy:
    """Distils the diffusion policy of run `config.start` into a student of `config.steps` network calls.

    Raises:
        FileExistsError: `out` holds a run and resume is False. FileNotFoundError, ValueError: no diffusion policy
        in `config.start`. KeyboardInterrupt: saved; `resume` goes on.
    """
    torch.manual_seed(config.seed)
    source = load_source(config.start, config.teacher_denoise_steps)
    run = Run(out, config, resume)
    student = make_student(source, config)
    states = visited_states(source, 64, config.rollout_episodes, config.seed + 1)
    trainer = PairedRegression(source, student, states, config)
    first = restore(run, trainer) if resume else 0
    try:
        for i in trange(first, config.n_chunks, desc="distill", unit="chunk", disable=None):
            run.log(i, {"paired_loss": trainer.chunk()})
            if i % 10 == 9 or i == config.n_chunks - 1:
                store(run, trainer, i + 1)
    except KeyboardInterrupt:
        print(f"\ninterrupted: the last checkpoint is {run.checkpoint_path}; --resume goes on from there")
        raise
    finally:
        run.close()
    return student.eval()


def make_student(source: Source, config: DistillConfig) -> StudentPolicy:
    """Returns an untrained student for `source`; two steps add the teacher's polish."""
    teacher = copy.deepcopy(source.teacher.model) if config.steps == 2 else None
    sizes = (source.spec.obs_dim, source.spec.act_dim, config.width, config.n_layers)
    return StudentPolicy(source.teacher.normaliser, *sizes, teacher=teacher, tau=config.polish_tau)


def store(run: Run, trainer: PairedRegression, n_chunks: int) -> None:
    """Writes the checkpoint."""
    tree = {
        "student": trainer.student.state_dict(),
        "optimizer": trainer.optimizer.state_dict(),
        "n_chunks": n_chunks,
        "n_done": trainer.n_done,
        "torch_rng": torch.get_rng_state(),
    }
    save_tree(run.checkpoint_path, tree)


def restore(run: Run, trainer: PairedRegression) -> int:
    """Goes back to the checkpoint; returns the chunks done."""
    if not run.checkpoint_path.exists():
        return 0
    saved = load_tree(run.checkpoint_path)
    trainer.student.load_state_dict(saved["student"])
    trainer.optimizer.load_state_dict(saved["optimizer"])
    trainer.n_done = saved["n_done"]
    torch.set_rng_state(saved["torch_rng"].to(torch.uint8))
    run.truncate(saved["n_chunks"] - 1)
    return saved["n_chunks"]


def load_student(run: str | Path) -> tuple[StudentPolicy, Source]:
    """Returns the student of a distillation run, and the source it came from (read from the same place).

    Raises:
        FileNotFoundError, ValueError: not a distillation run.
    """
    held = read_config(run)
    if held["kind"] != "DistillConfig":
        raise ValueError(f"{run} is a {held['kind']}, not a distillation; give a run of `edp distill`")
    config = DistillConfig(**json.loads(json.dumps(held["config"])))
    source = load_source(config.start, config.teacher_denoise_steps)
    student = make_student(source, config)
    student.load_state_dict(load_tree(Path(run) / "checkpoint.safetensors")["student"])
    return student.requires_grad_(False).eval(), source
