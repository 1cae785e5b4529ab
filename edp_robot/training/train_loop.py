"""The one training loop of pre-training and fine-tuning: act, step the worlds, learn, log, save."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from gymnasium.vector import VectorEnv
from tqdm import tqdm

from edp_robot.methods.learner import Finisher, Follower, Learner
from edp_robot.methods.replay import Replay, TooFewSteps
from edp_robot.training.checkpoint import load_tree
from edp_robot.training.devices import CPU, random_state, set_random_state
from edp_robot.training.loop_config import LoopConfig, Progress, SavableWorlds
from edp_robot.training.observe import Decision, SeedsObserver
from edp_robot.training.runs import Run
from policy_server.contract.signals import Stop, stop_on_signals
from sim.core.finite import NotFinite

FINAL_CHUNK = 50  # grad_steps after the last env_step between two looks at signals and the clock


class Loop:
    """Runs a learner on a (held) vector environment until `env_steps`; resumes any checkpoint.

    Args:
        config: How long and how often.
        env: VectorEnv as `sim.core.hold.Hold` makes it.
        learner: What acts and learns.
        run: The run folder.
        seed: Seeds the replay's sampling and the random first actions. The caller seeds torch.
        observer: Counts what the worlds show.
        title: Title of the progress bar.
        n_seeds: Learners trained at once, each with config.n_envs of the environments. 0: one
            learner, and batches without an axis for learners.
        device: The device of the learner's networks, whose random state the checkpoint holds.
        offline_rounds: Rounds of learning before the first env_step, for a learner with data of
            its own.
    """

    def __init__(
        self,
        config: LoopConfig,
        env: VectorEnv,
        learner: Learner,
        run: Run,
        *,
        seed: int,
        observer: SeedsObserver,
        title: str,
        n_seeds: int = 0,
        device: torch.device = CPU,
        offline_rounds: int = 0,
    ) -> None:
        self.config = config
        self.env = env
        self.learner = learner
        self.run = run
        self.observer = observer
        self.title = title
        self.device = device
        self.offline_rounds = offline_rounds
        obs_dim = env.single_observation_space.shape[0]  # type: ignore[index]
        act_dim = env.single_action_space.shape[0]  # type: ignore[index]
        capacity = config.replay_capacity * max(1, n_seeds)
        n_decisions = -(-config.env_steps // self.per_decision)
        self.replay = Replay(
            capacity, env.num_envs, obs_dim, act_dim, seed, n_seeds, expected=n_decisions
        )
        self.rng = np.random.default_rng(seed)
        self.seed = seed
        self.progress = Progress()
        self._before = 0
        self.obs, _ = env.reset(seed=seed)
        self.metrics: dict[str, float] = {}
        self._started = 0.0
        self._cpu_before = 0.0
        self._saved_at = 0.0

    def resume(self) -> None:
        """Restores the run folder's checkpoint. Without one, the run and its metrics start anew."""
        if not self.run.checkpoint_path.exists():
            self.run.truncate(-1)
            return
        saved = load_tree(self.run.checkpoint_path)
        self.progress = Progress(**saved["progress"])
        self.learner.load(saved["learner"])
        self.replay.load(saved["replay"])
        self.observer.load(saved["observer"])
        self.rng.bit_generator.state = saved["rng"]
        set_random_state(saved["torch_rng"], self.device)
        # What belongs before the first env_step is measured again.
        self.run.truncate(self.progress.env_step if self.progress.decision else -1)
        worlds = self.env.unwrapped
        if "env" in saved and isinstance(worlds, SavableWorlds):
            worlds.set_state({name: _as_array(value) for name, value in saved["env"].items()})
            self.obs = saved["obs"].numpy()
        else:
            self._start_anew()

    def _start_anew(self) -> None:
        """Begins new episodes in worlds that cannot be restored, none of which ran before.

        The episodes that the checkpoint cut short end in the replay, and observers forget them.
        """
        self.replay.cut()
        self.observer.forget()
        seeds = np.random.SeedSequence((self.seed, self.progress.decision))
        self.obs, _ = self.env.reset(seed=int(seeds.generate_state(1)[0]))

    def save(self) -> None:
        """Writes the checkpoint: learner, replay, random states, and worlds that can be saved."""
        tree = {
            "progress": vars(self.progress),
            "learner": self.learner.state(),
            "replay": self.replay.state(),
            "observer": self.observer.state(),
            "rng": self.rng.bit_generator.state,
            "torch_rng": random_state(self.device),
            "obs": self.obs,
        }
        worlds = self.env.unwrapped
        if isinstance(worlds, SavableWorlds):
            tree["env"] = dict(worlds.get_state())
        self.run.save(tree)

    def __call__(
        self, evaluate: Callable[[], dict[str, float]] | None = None, evaluate_every: int = 0
    ) -> Progress:
        """Trains to the end, closes worlds and run, and returns where the run stands.

        It evaluates before the first env_step, and then whenever `evaluate_every` more are taken.
        SIGINT or SIGTERM ends it after the decision at hand, so that no checkpoint falls between a
        world's step and its place in the replay.

        Raises:
            FloatingPointError: A metric is not finite. The last checkpoint stays as it is.
            NotFinite: An environment gave a number that is not finite. It stays as well.
            KeyboardInterrupt: A signal stopped the run. Its checkpoint is saved.
        """
        try:
            if not self.is_over:
                self.run.go_on()
                self._train(evaluate, evaluate_every)
            else:
                self.run.say_done(self.progress.env_step, self._spent)
        except NotFinite as error:
            raise NotFinite(f"{error}; {self._what_is_saved()}") from error
        finally:
            self.env.close()
            self.run.close()
        return self.progress

    @property
    def is_over(self) -> bool:
        """Returns whether nothing is left to do."""
        return self._done >= 1 and not self._n_final

    @property
    def _done(self) -> float:
        """Returns the share of the env_steps that is over, or of the budget, whichever is more."""
        return min(1.0, max(self.progress.env_step / self.config.env_steps, self._share_spent))

    @property
    def _share_spent(self) -> float:
        """Returns the share of the budget that is used up, 0 without one."""
        budget = self.config.max_cpu_s
        return min(1.0, self.progress.cpu_s / budget) if budget else 0.0

    @property
    def _n_rows(self) -> int:
        """Returns how many rows of each metric are due by now."""
        config = self.config
        by_step = self.progress.env_step // max(1, config.env_steps // config.n_logs)
        return max(by_step, int(self._share_spent * config.n_logs))

    @property
    def _spent(self) -> float:
        """Returns the budget [s] if it is what ended the run, else 0."""
        config = self.config
        return config.max_cpu_s if self.progress.env_step < config.env_steps else 0.0

    @property
    def _n_final(self) -> int:
        """Returns the grad_steps that are left for after the last env_step."""
        has_any = isinstance(self.learner, Finisher)
        return self.config.final_updates - self.progress.final_updates if has_any else 0

    def _train(self, evaluate: Callable[[], dict[str, float]] | None, evaluate_every: int) -> None:
        self._started = time.monotonic() - self.progress.wall_s
        self._cpu_before = time.process_time() - self.progress.cpu_s
        self._saved_at = time.monotonic()
        with stop_on_signals() as stop:
            self._begin(stop, evaluate)
            self._play(stop, evaluate, evaluate_every)
            self._finish(stop)
        is_whole = self.is_over
        if is_whole:
            self.log()
        self.save()
        if not is_whole:
            saved = self.run.checkpoint_path
            print(f"\ninterrupted: {saved} is saved; the same command with --resume goes on")
            raise KeyboardInterrupt

    def _begin(self, stop: Stop, evaluate: Callable[[], dict[str, float]] | None) -> None:
        """Takes the rounds that come before the first env_step, and evaluates what they gave."""
        progress = self.progress
        if progress.decision:
            return
        if progress.offline_rounds < self.offline_rounds:
            self._learn_offline(stop)
        if stop.is_set():
            return
        if progress.offline_rounds:
            self.run.log(0, {**self._costs(), **self.metrics})
        if evaluate:
            self.run.log(0, evaluate())

    def _learn_offline(self, stop: Stop) -> None:
        """Takes the rounds before the first env_step that are left, as far as there are data."""
        progress = self.progress
        with self._bar(self.offline_rounds, progress.offline_rounds, "offline round") as bar:
            while progress.offline_rounds < self.offline_rounds and not stop.is_set():
                if not self._round(0.0):
                    return  # the worlds will bring more
                progress.offline_rounds += 1
                bar.update()
                self._keep_time()

    def _play(
        self, stop: Stop, evaluate: Callable[[], dict[str, float]] | None, evaluate_every: int
    ) -> None:
        """Takes the env_steps that are left, and learns from them."""
        progress = self.progress
        with self._bar(self.config.env_steps, progress.env_step, "env_step") as bar:
            while self._done < 1 and not stop.is_set():
                n_logged = self._n_rows
                self.decision()
                progress.final_updates = 0
                bar.update(progress.env_step - self._before)
                self._keep_time()
                if evaluate and self._is_due(evaluate_every):
                    self.run.log(progress.env_step, evaluate())
                if self._n_rows > n_logged and self._done < 1:
                    shown = [f"{name}={value:.3g}" for name, value in self.log().items()]
                    bar.set_postfix_str(", ".join(shown[:4]), refresh=False)

    def _finish(self, stop: Stop) -> None:
        """Takes the grad_steps of a Finisher that are left, once all env_steps are taken."""
        progress = self.progress
        total = self.config.final_updates
        learner = self.learner
        if not isinstance(learner, Finisher) or not self._n_final or stop.is_set():
            return
        with self._bar(total, progress.final_updates, "grad_step") as bar:
            while self._n_final and not stop.is_set():
                n = min(FINAL_CHUNK, self._n_final)
                done = progress.final_updates / total
                self._learned(learner.finish(self.replay, n, done))
                progress.final_updates += n
                bar.update(n)
                self._keep_time()

    def _keep_time(self) -> None:
        """Notes how long the run has taken, and saves it where that is due."""
        self.progress.wall_s = time.monotonic() - self._started
        self.progress.cpu_s = time.process_time() - self._cpu_before
        if time.monotonic() - self._saved_at > self.config.checkpoint_every_s:
            self.save()
            self._saved_at = time.monotonic()

    @property
    def per_decision(self) -> int:
        """Returns the env_steps of one decision that no episode's end cuts short."""
        return self.config.n_envs * self.config.n_action_steps

    def _bar(self, total: int, done: int, unit: str) -> tqdm:
        return tqdm(total=total, initial=done, desc=self.title, unit=unit, disable=None)

    def _is_due(self, every: int) -> bool:
        """Returns whether the last decision passed a multiple of `every` env_steps."""
        return self.progress.env_step // every > self._before // every

    def decision(self) -> None:
        """Takes one decision in every environment, and a round of learning when it is due.

        Raises:
            FloatingPointError: A metric is not finite.
        """
        progress = self.progress
        config = self.config
        self._before = progress.env_step
        progress.env_step += self.collect()
        if isinstance(self.learner, Follower):
            self.learner.follow(self.replay)
        progress.decision += 1
        explores = progress.env_step < config.random_env_steps
        if explores or progress.decision % config.decisions_per_update:
            return
        self._round(self._done)

    def _round(self, done: float) -> bool:
        """Takes a round of grad_steps; returns whether there were data enough for it.

        Args:
            done: Share of the run that is over.
        """
        n_updates = self.config.updates_per_round
        began = time.process_time()
        try:
            metrics = self.learner.update(self.replay, n_updates, done)
        except TooFewSteps:
            if self.replay.max_rows == self.replay.n_rows:
                raise  # more will never come
            return False
        self.progress.grad_steps += n_updates
        self.progress.learn_cpu_s += time.process_time() - began
        self._learned(metrics)
        return True

    def _learned(self, metrics: dict[str, float]) -> None:
        """Keeps the metrics of what was just learned.

        Raises:
            FloatingPointError: One of them is not finite.
        """
        if bad := [name for name, value in metrics.items() if not np.isfinite(value)]:
            raise FloatingPointError(
                f"{', '.join(bad)} not finite after {self.progress.env_step} env_steps; try a "
                f"lower learning rate; {self._what_is_saved()}"
            )
        self.metrics = self.metrics | metrics

    def _what_is_saved(self) -> str:
        """Returns in words from where --resume goes on."""
        path = self.run.checkpoint_path
        if not path.exists():
            return "no checkpoint was saved yet"
        return f"the last good checkpoint is {path}, from which --resume goes on"

    def log(self) -> dict[str, float]:
        """Writes and returns the newest metrics."""
        shown = {**self.observer.metrics(), **self._costs(), **self.metrics}
        self.run.log(self.progress.env_step, shown)
        return shown

    def _costs(self) -> dict[str, float]:
        """Returns what the run has taken. A learner's own count of grad_steps takes precedence."""
        names = ("wall_s", "cpu_s", "grad_steps", "learn_cpu_s")
        return {name: vars(self.progress)[name] for name in names}

    def collect(self) -> int:
        """Takes one decision in every environment: acts, steps, stores.

        Returns the control steps that one learner's environments played.
        """
        if self.progress.env_step < self.config.random_env_steps:
            action = self.rng.uniform(-1, 1, self.env.action_space.shape).astype(np.float32)
        else:
            action = self.learner.act(self.obs)
        obs, reward, terminated, truncated, infos = self.env.step(action)
        self.replay.add(self.obs, action, reward, infos["final_obs"], terminated, truncated)
        ended = terminated | truncated
        success = infos.get("success")
        explored = infos.get("explored")
        seen = Decision(self.obs, infos["path"], infos["reward_sum"], success, ended, explored)
        self.observer.observe(seen)
        self.obs = obs
        n_learners = len(self.observer.observers)
        return round(float(infos["n_control_steps"].sum()) / n_learners)


def _as_array(value: Any) -> Any:
    return value.numpy() if isinstance(value, torch.Tensor) else value
