"""The one training loop: act, step the worlds, store, learn, log, save. Pre-training and fine-tuning share it."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from gymnasium.vector import VectorEnv
from tqdm import tqdm

from edp_robot.methods.replay import Replay
from edp_robot.training.devices import CPU, random_state, set_random_state
from edp_robot.training.runs import Run, load_tree, save_tree


@dataclass(frozen=True)
class LoopConfig:
    """How long to train, and how often to do what. One env_step is one control step of one environment.

    Where several learners are trained at once, all numbers are those of one.
    """

    env_steps: int = 100_000
    n_envs: int = 32
    n_action_steps: int = 1
    random_env_steps: int = 4_000
    replay_capacity: int = 1_000_000
    decisions_per_update: int = 1
    updates_per_round: int = 32
    n_logs: int = 50  # rows of each metric over the run
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

    def update(self, replay: Replay, n_updates: int, done: float) -> dict[str, float]:
        """Learns from the replay; `done` is the share of the run that lies behind; returns metrics."""
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


class Loop:
    """Runs a learner on a (held) vector environment until `env_steps`; resumable at any checkpoint.

    Args:
        config: see LoopConfig.
        env: VectorEnv as `sim.core.hold.Hold` makes it.
        learner: what acts and learns.
        run: the run folder.
        seed: of the replay's sampling and the random first actions; torch must be seeded by the caller.
        observer: called with each decision's observations, path and success, e.g. to measure coverage;
            returns metrics when asked (`observer.metrics()`), and has `state()` and `load()`.
        title: of the progress bar.
        n_seeds: learners trained at once, each with config.n_envs of the environments; 0 for one without that axis.
        device: that the learner's networks are on, whose random state belongs to the checkpoint.
    """

    def __init__(
        self,
        config: LoopConfig,
        env: VectorEnv,
        learner: Learner,
        run: Run,
        seed: int,
        observer: Any,
        title: str,
        n_seeds: int = 0,
        device: torch.device = CPU,
    ) -> None:
        self.config, self.env, self.learner, self.run = config, env, learner, run
        self.observer, self.title, self.device = observer, title, device
        obs_dim, act_dim = env.single_observation_space.shape[0], env.single_action_space.shape[0]  # type: ignore[index]
        capacity = config.replay_capacity * max(1, n_seeds)
        self.replay = Replay(capacity, env.num_envs, obs_dim, act_dim, seed, n_seeds)
        self.rng = np.random.default_rng(seed)
        self.progress = Progress()
        self.obs, _ = env.reset(seed=seed)
        self.metrics: dict[str, float] = {}

    def resume(self) -> None:
        """Goes back to the run folder's checkpoint, if there is one."""
        if not self.run.checkpoint_path.exists():
            self.run.truncate(
                -1
            )  # killed before its first checkpoint: it starts again, and so do its metrics
            return
        saved = load_tree(self.run.checkpoint_path)
        self.progress = Progress(**saved["progress"])
        self.learner.load(saved["learner"])
        self.replay.load(saved["replay"])
        self.observer.load(saved["observer"])
        self.rng.bit_generator.state = saved["rng"]
        set_random_state(saved["torch_rng"], self.device)
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
            "torch_rng": random_state(self.device),
            "obs": self.obs,
        }
        if hasattr(self.env.unwrapped, "get_state"):
            tree["env"] = dict(self.env.unwrapped.get_state())  # type: ignore[attr-defined]
        save_tree(self.run.checkpoint_path, tree)

    def __call__(
        self, evaluate: Callable[[], dict[str, float]] | None = None, evaluate_every: int = 0
    ) -> Progress:
        """Trains to the end; on Ctrl-C finishes the decision at hand, saves, and raises KeyboardInterrupt.

        Raises:
            FloatingPointError: a metric is not finite; the last checkpoint stays as it is.
        """
        progress, config = self.progress, self.config
        if progress.env_step >= config.env_steps:
            return progress
        started, saved_at = time.monotonic() - progress.wall_s, time.monotonic()
        per_decision, log_every = (
            config.n_envs * config.n_action_steps,
            max(1, config.env_steps // config.n_logs),
        )
        bar = tqdm(
            total=config.env_steps,
            initial=progress.env_step,
            desc=self.title,
            unit="env_step",
            disable=None,
        )
        with bar, asked_to_stop() as stop:
            while progress.env_step < config.env_steps and not stop:
                metrics = self.decision()
                bar.update(per_decision)
                progress.wall_s = time.monotonic() - started
                if evaluate and progress.env_step % evaluate_every < per_decision:
                    self.run.log(progress.env_step, evaluate())
                if progress.env_step % log_every < per_decision:
                    shown = self.log(metrics)
                    bar.set_postfix(
                        {k: f"{v:.3g}" for k, v in list(shown.items())[:4]}, refresh=False
                    )
                if time.monotonic() - saved_at > config.checkpoint_every_s:
                    self.save()
                    saved_at = time.monotonic()
        if not stop:
            self.log(metrics)
        self.save()
        if stop:
            print(
                f"\ninterrupted: {self.run.checkpoint_path} is saved; the same command with --resume goes on"
            )
            raise KeyboardInterrupt
        return progress

    def decision(self) -> dict[str, float]:
        """One decision in every environment, and a round of learning when it is due; returns the newest metrics."""
        progress, config = self.progress, self.config
        self.collect()
        progress.env_step += config.n_envs * config.n_action_steps
        progress.decision += 1
        if (
            progress.env_step >= config.random_env_steps
            and progress.decision % config.decisions_per_update == 0
        ):
            self.metrics = self.learner.update(
                self.replay, config.updates_per_round, progress.env_step / config.env_steps
            )
            if bad := [k for k, v in self.metrics.items() if not np.isfinite(v)]:
                raise FloatingPointError(
                    f"{', '.join(bad)} not finite after {progress.env_step} env_steps; the last good checkpoint is "
                    f"{self.run.checkpoint_path}; try a lower learning rate"
                )
        return self.metrics

    def log(self, metrics: dict[str, float]) -> dict[str, float]:
        """Writes and returns what is known now."""
        shown = {**self.observer.metrics(), **metrics, "wall_s": self.progress.wall_s}
        self.run.log(self.progress.env_step, shown)
        return shown

    def collect(self) -> None:
        """One decision in every environment: act, step, store."""
        if self.progress.env_step < self.config.random_env_steps:
            action = self.rng.uniform(-1, 1, self.env.action_space.shape).astype(np.float32)
        else:
            action = self.learner.act(self.obs)
        obs, reward, terminated, truncated, infos = self.env.step(action)
        self.replay.add(self.obs, action, reward, infos["final_obs"], terminated, truncated)
        self.observer.observe(self.obs, infos["path"], infos["success"], terminated | truncated)
        self.obs = obs


@contextmanager
def asked_to_stop() -> Iterator[list[int]]:
    """Yields a list that a first Ctrl-C (or SIGTERM) makes non-empty; a second one interrupts at once.

    So a checkpoint is never taken between a world's step and its place in the replay.
    """
    asked: list[int] = []

    def note(signum: int, frame: Any) -> None:
        if asked:
            raise KeyboardInterrupt
        asked.append(signum)

    if threading.current_thread() is not threading.main_thread():
        yield asked
        return
    old = {s: signal.signal(s, note) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield asked
    finally:
        for signum, handler in old.items():
            signal.signal(signum, handler)


def _as_saved(value: Any) -> Any:
    return value.numpy() if isinstance(value, torch.Tensor) else value
