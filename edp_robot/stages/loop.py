"""The one training loop: act, step the worlds, store, learn, log, save. Pre-training and fine-tuning share it."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from gymnasium.vector import VectorEnv
from tqdm import tqdm

from ..rl.replay import Replay
from ..runs import Run, load_tree, save_tree


@dataclass(frozen=True)
class LoopConfig:
    """How long to train, and how often to do what. One env_step is one control step of one environment."""

    env_steps: int = 100_000
    n_envs: int = 32
    n_action_steps: int = 1
    random_env_steps: int = 4_000
    replay_capacity: int = 1_000_000
    decisions_per_update: int = 1
    updates_per_round: int = 32
    log_every_s: float = 2.0
    checkpoint_every_s: float = 30.0

    def __post_init__(self) -> None:
        for name in ("env_steps", "n_envs", "n_action_steps", "decisions_per_update"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)}: must be at least 1")


class Learner(Protocol):
    """What learns; stages write one each."""

    def act(self, obs: np.ndarray) -> np.ndarray:
        """Returns actions (n, act_dim) in [-1, 1] for observations (n, obs_dim), exploration included."""
        ...

    def update(self, replay: Replay, n_updates: int) -> dict[str, float]:
        """Learns from the replay; returns metrics."""
        ...

    def state(self) -> Any:
        """Returns a tree of tensors and JSON values for the checkpoint."""
        ...

    def load(self, saved: Any) -> None:
        """Goes back to what `state` returned."""
        ...


@dataclass
class Progress:
    """Where a run stands; saved with every checkpoint."""

    env_step: int = 0
    decision: int = 0
    wall_s: float = 0.0
    n_success: int = 0
    n_episodes: int = 0
    recent: list[float] = field(default_factory=list)


class Loop:
    """Runs a learner on a (held) vector environment until `env_steps`; resumable at any checkpoint.

    Args:
        config: see LoopConfig.
        env: VectorEnv as `sim.hold.Hold` makes it.
        learner: what acts and learns.
        run: the run folder.
        seed: of the replay's sampling and the random first actions; torch must be seeded by the caller.
        observer: called with each path (n_action_steps, n, obs_dim) and success (n,), e.g. to measure coverage;
            returns metrics when asked (`observer.metrics()`), and has `state()` and `load()`.
        title: of the progress bar.
    """

    def __init__(
        self, config: LoopConfig, env: VectorEnv, learner: Learner, run: Run, seed: int, observer: Any, title: str
    ) -> None:
        self.config, self.env, self.learner, self.run = config, env, learner, run
        self.observer, self.title = observer, title
        obs_dim, act_dim = env.single_observation_space.shape[0], env.single_action_space.shape[0]  # type: ignore[index]
        self.replay = Replay(config.replay_capacity, config.n_envs, obs_dim, act_dim, seed)
        self.rng = np.random.default_rng(seed)
        self.progress = Progress()
        self.obs, _ = env.reset(seed=seed)
        self.episode_success = np.zeros(config.n_envs, bool)

    def resume(self) -> None:
        """Goes back to the run folder's checkpoint, if there is one."""
        if not self.run.checkpoint_path.exists():
            self.run.truncate(-1)  # killed before its first checkpoint: it starts again, and so do its metrics
            return
        saved = load_tree(self.run.checkpoint_path)
        self.progress = Progress(**saved["progress"])
        self.learner.load(saved["learner"])
        self.replay.load(saved["replay"])
        self.observer.load(saved["observer"])
        self.rng.bit_generator.state = saved["rng"]
        torch.set_rng_state(saved["torch_rng"].to(torch.uint8))
        self.episode_success = saved["episode_success"].numpy().astype(bool)
        self.run.truncate(self.progress.env_step)
        if "env" in saved:
            self.env.unwrapped.set_state({k: _as_saved(v) for k, v in saved["env"].items()})  # type: ignore[attr-defined]
            self.obs = saved["obs"].numpy()

    def save(self) -> None:
        """Writes the checkpoint: learner, replay, random states, and the worlds where they can be saved."""
        tree = {
            "progress": vars(self.progress),
            "learner": self.learner.state(),
            "replay": self.replay.state(),
            "observer": self.observer.state(),
            "rng": self.rng.bit_generator.state,
            "torch_rng": torch.get_rng_state(),
            "episode_success": self.episode_success.astype(np.uint8),
            "obs": self.obs,
        }
        if hasattr(self.env.unwrapped, "get_state"):
            tree["env"] = dict(self.env.unwrapped.get_state())  # type: ignore[attr-defined]
        save_tree(self.run.checkpoint_path, tree)

    def __call__(self, evaluate: Callable[[], dict[str, float]] | None = None, evaluate_every: int = 0) -> Progress:
        """Trains to the end, or until Ctrl-C, which saves and raises KeyboardInterrupt again."""
        progress, config = self.progress, self.config
        started, logged, saved_at = time.monotonic() - progress.wall_s, 0.0, time.monotonic()
        per_decision = config.n_envs * config.n_action_steps
        bar = tqdm(total=config.env_steps, initial=progress.env_step, desc=self.title, unit="env_step", mininterval=0.5, disable=None)
        metrics: dict[str, float] = {}
        try:
            while progress.env_step < config.env_steps:
                self.collect()
                progress.env_step += per_decision
                progress.decision += 1
                bar.update(per_decision)
                if progress.env_step >= config.random_env_steps and progress.decision % config.decisions_per_update == 0:
                    metrics = self.learner.update(self.replay, config.updates_per_round)
                progress.wall_s = time.monotonic() - started
                if evaluate and progress.env_step % evaluate_every < per_decision:
                    self.run.log(progress.env_step, evaluate())
                if progress.wall_s - logged > config.log_every_s:
                    logged = progress.wall_s
                    shown = {**self.observer.metrics(), **metrics, "wall_s": progress.wall_s}
                    self.run.log(progress.env_step, shown)
                    bar.set_postfix({k: f"{v:.3g}" for k, v in list(shown.items())[:4]}, refresh=False)
                if time.monotonic() - saved_at > config.checkpoint_every_s:
                    self.save()
                    saved_at = time.monotonic()
        except KeyboardInterrupt:
            print(f"\ninterrupted: saving {self.run.checkpoint_path}; the same command with --resume goes on from there")
            raise
        finally:
            self.save()
            bar.close()
        self.run.log(progress.env_step, {**self.observer.metrics(), **metrics, "wall_s": progress.wall_s})
        return progress

    def collect(self) -> None:
        """One decision in every environment: act, step, store."""
        if self.progress.env_step < self.config.random_env_steps:
            action = self.rng.uniform(-1, 1, self.env.action_space.shape).astype(np.float32)
        else:
            action = self.learner.act(self.obs)
        obs, reward, terminated, truncated, infos = self.env.step(action)
        self.replay.add(self.obs, action, reward, infos["final_obs"], terminated, truncated)
        self.observer.observe(infos["path"], infos["success"], terminated | truncated)
        self.obs = obs


def _as_saved(value: Any) -> Any:
    return value.numpy() if isinstance(value, torch.Tensor) else value
