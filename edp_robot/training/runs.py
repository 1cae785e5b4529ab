"""The run folder: config before step 0, metrics as they come, and the record that others read."""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Collection, Mapping
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, fields, is_dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar, get_type_hints

import numpy as np

from edp_robot.methods.iql import IQLConfig
from edp_robot.methods.models import NoiseModelConfig
from edp_robot.methods.ranges import Ranged
from edp_robot.training.checkpoint import load_tree, save_tree
from edp_robot.training.folder.lock import locked
from edp_robot.training.folder.old_runs import translated
from edp_robot.training.folder.resume import at, changed_at, differences
from policy_server.contract.commit import source_commit
from policy_server.contract.disk.files import full_disk, sweep, write_atomic
from policy_server.contract.doors.registries import Registry
from sim.core.registry import task_spec
from sim.core.spec import TaskSpec

CHECKPOINT = "checkpoint.safetensors"
CONFIG = "config.json"
KEYS = ("kind", "config", "hash")
MOST = 6  # differences that a message names
HEAD = ["env_step", "name", "value"]


class RunConfig(Ranged):
    """What the config dataclass of every stage tells about its run.

    A stage registers its dataclass in RUN_CONFIGS by the name that config.json holds as `kind`.
    """

    TITLE: ClassVar[str] = "run"
    COMMAND: ClassVar[str] = "edp"
    LENGTH: ClassVar[str] = ""  # the field that a resumed run may change; empty: none
    MAY_CHANGE: ClassVar[tuple[str, ...]] = ()  # fields that it may change besides the length
    POLICY: ClassVar[str] = ""  # the diffusion policy's name in the checkpoint; empty: none
    task: str
    loop: Any
    action_model: NoiseModelConfig

    @classmethod
    def part_classes(cls, values: Mapping[str, Any]) -> dict[str, type]:
        """Returns the classes of the fields whose class depends on `values`."""
        return {}

    @property
    def n_action_steps(self) -> int:
        """Returns the control steps that the policy holds an action."""
        return self.loop.n_action_steps

    @property
    def policy_model(self) -> NoiseModelConfig:
        """Returns the sizes of the diffusion policy's noise model."""
        return self.action_model

    @property
    def is_direct(self) -> bool:
        """Returns whether the run's policy is no diffusion policy, but acts in one call."""
        return False

    @property
    def best_of(self) -> int:
        """Returns how many answers a decision the run's policy chooses from."""
        return 1

    @property
    def critic(self) -> IQLConfig | None:
        """Returns the sizes of the critic that improved the policy, or None."""
        return None

    @property
    def teacher(self) -> str:
        """Returns the run folder that this run distils, or "" if it is no distillation."""
        return ""


RUN_CONFIGS: Registry[type[RunConfig]] = Registry("kind of run", package="edp_robot.training")
C = TypeVar("C", bound=RunConfig)


@dataclass(frozen=True)
class RunRecord(Generic[C]):
    """What a run folder holds."""

    path: Path
    config: C
    config_hash: str
    commit: str

    @classmethod
    def load(cls, path: str | Path, expected: type[C] = RunConfig) -> RunRecord[C]:
        """Returns the record of the run folder `path`, of this version's or an older layout.

        It imports no code that the folder names: the settings of a method that is given as
        `package.module:attribute` are read as far as all methods share them.

        Raises:
            FileNotFoundError: `path` is no run folder.
            ValueError: It holds another kind of run than `expected`, or an unknown method, or its
                config.json is damaged.
        """
        held = read_config(path, KEYS)
        kind = RUN_CONFIGS.get(held["kind"], may_import=False)
        if not issubclass(kind, expected):
            raise ValueError(
                f"{path} holds a {kind.TITLE}, not a {expected.TITLE}; "
                f"give a run of `{expected.COMMAND}`"
            )
        try:
            config = from_dict(kind, translated(held["kind"], held["config"]))
        except (TypeError, KeyError, AttributeError) as error:
            why = f"its values are none of a {kind.TITLE} ({type(error).__name__}: {error})"
            raise ValueError(_damaged(Path(path) / CONFIG, why)) from error
        return cls(Path(path), config, held["hash"], held.get("commit", "unknown"))

    @cached_property
    def spec(self) -> TaskSpec:
        """Returns the spec of the run's task."""
        return task_spec(self.config.task)

    def checkpoint(self) -> Any:
        """Returns the newest checkpoint's tree.

        Raises:
            FileNotFoundError: There is none yet. ValueError: It is damaged.
        """
        return load_tree(self.path / CHECKPOINT)


def read_config(path: str | Path, keys: Collection[str] = ()) -> dict[str, Any]:
    """Returns config.json of a run folder as it stands there.

    Raises:
        FileNotFoundError: `path` is no run folder.
        ValueError: config.json is empty or cut, or lacks one of the `keys`.
    """
    file = Path(path) / CONFIG
    if not file.exists():
        raise FileNotFoundError(f"{path} is no run folder: it has no {CONFIG}")
    text = file.read_text(errors="replace")
    try:
        held = json.loads(text)
    except ValueError as error:
        raise ValueError(_damaged(file, str(error) if text.strip() else "it is empty")) from error
    held = held if isinstance(held, dict) else {}
    if lacks := [key for key in keys if key not in held]:
        raise ValueError(_damaged(file, f"it lacks {', '.join(lacks)}"))
    if "config" in keys and not isinstance(held["config"], dict):
        raise ValueError(_damaged(file, "its values are no object"))
    return held


def _damaged(file: Path, why: str) -> str:
    """Returns what to do about a config.json that is no config."""
    return (
        f"{file} is damaged: {why}; put a copy of it back, or start again in another folder (a run "
        "of the same options writes the same file)"
    )


def with_held_length(config: C, path: str | Path) -> C:
    """Returns the config with the length (`LENGTH`) of the run in a folder, where there is one.

    Raises:
        ValueError: Its config.json is damaged.
    """
    if not (Path(path) / CONFIG).exists():
        return config
    try:
        return changed_at(
            config, config.LENGTH, at(read_config(path, KEYS)["config"], config.LENGTH)
        )
    except KeyError:
        return config  # another kind of run, which Run refuses


def config_dict(config: Any) -> dict[str, Any]:
    """Returns a (nested) dataclass as plain JSON values."""
    return json.loads(json.dumps(asdict(config)))


def from_dict(cls: Any, values: Mapping[str, Any], partial: bool = False) -> Any:
    """Returns the dataclass `cls` from what `config_dict` made, nested dataclasses and tuples too.

    Args:
        cls: The dataclass.
        values: Its fields as JSON values.
        partial: Whether to drop values that `cls` has no field for.

    Raises:
        ValueError: There are such values and `partial` is False.
    """
    names = [field.name for field in fields(cls)]
    hints = get_type_hints(cls)
    if issubclass(cls, RunConfig):
        hints |= cls.part_classes(values)
    unknown = [name for name in values if name not in names]
    if unknown and not partial:
        raise ValueError(
            f"{cls.__name__} has no {unknown}; another version wrote this run, read it with that"
        )
    own_method = ":" in values.get("method", "")
    made = {}
    for name in [name for name in names if name in values]:
        value = values[name]
        if is_dataclass(hints[name]):
            value = from_dict(hints[name], value, partial or own_method)
        made[name] = tuple(value) if isinstance(value, list) else value
    return cls(**made)


def config_hash(config: Any) -> str:
    """Returns the sha256 of the config's canonical JSON."""
    return hashlib.sha256(json.dumps(config_dict(config), sort_keys=True).encode()).hexdigest()


class Run:
    """Writes a run folder: `config.json`, `metrics.csv`, TensorBoard events, a checkpoint.

    One process writes at a time: it holds a lock of the system on `.lock`, which ends with the
    process. Use it as a context, or `close` it.

    Args:
        path: The folder. It is made if it is missing.
        config: A dataclass. It is written before anything else.
        resume: Whether the folder may hold a run already, of the same config but for its length.

    Raises:
        FileExistsError: The folder holds a run and `resume` is False.
        BlockingIOError: Another process writes to the folder.
        ValueError: The run in the folder has another config, or its config.json is damaged.
        DiskFull: There is no space.
    """

    def __init__(self, path: str | Path, config: Any, resume: bool = False) -> None:
        self.path = Path(path)
        known = isinstance(config, RunConfig)
        self.length = config.LENGTH if known else ""
        self._may_change = (self.length, *config.MAY_CHANGE) if known else ()
        self._writer = None
        self._purge_step: int | None = None
        self._config = {
            "kind": type(config).__name__,
            "config": config_dict(config),
            "hash": config_hash(config),
            "commit": source_commit(),
        }
        self._refuse(resume)
        with self._space():
            self._lock = locked(self.path)
        try:
            self._refuse(resume)
            sweep(self.path)
            if (self.path / CONFIG).exists():
                self._check(config)
            else:
                self.go_on()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Run:
        """Returns the run."""
        return self

    def __exit__(self, *_: object) -> None:
        """Closes the run."""
        self.close()

    def _refuse(self, resume: bool) -> None:
        """Raises FileExistsError where the folder holds a run that may not go on."""
        if not resume and (self.path / CONFIG).exists():
            raise FileExistsError(
                f"{self.path} holds a run already; add --resume, or choose another --out"
            )

    def _check(self, config: Any) -> None:
        """Raises ValueError unless the run in the folder may go on with the config."""
        held = read_config(self.path, KEYS)
        old = translated(held["kind"], held["config"])
        other = differences(config, old, self._config["config"])
        if held["kind"] != self._config["kind"]:
            other = [f"kind={held['kind']} there, {self._config['kind']} asked"]
        other = [one for one in other if one.partition("=")[0] not in self._may_change]
        if other:
            more = f"; and {len(other) - MOST} more" if len(other) > MOST else ""
            raise ValueError(
                f"{self.path} was started with another config: {'; '.join(other[:MOST])}{more}. "
                "Resume it with what it was started with, or choose another --out"
            )

    def go_on(self) -> None:
        """Writes the config, for a run that has something left to do."""
        with self._space():
            write_atomic(self.path / CONFIG, json.dumps(self._config, indent=1, allow_nan=False))

    @property
    def checkpoint_path(self) -> Path:
        """Returns where the newest checkpoint lies."""
        return self.path / CHECKPOINT

    def save(self, tree: Any) -> None:
        """Writes the checkpoint, a tree of tensors and JSON values.

        Raises:
            DiskFull: There is no space. The last checkpoint stays.
        """
        with self._space():
            save_tree(self.checkpoint_path, tree)

    def log(self, env_step: int, metrics: dict[str, float]) -> None:
        """Appends rows (env_step, name, value) to metrics.csv and to TensorBoard's events.

        Raises:
            DiskFull: There is no space.
        """
        path = self.path / "metrics.csv"
        with self._space():
            fresh = not path.exists()
            with path.open("a", newline="") as file:
                writer = csv.writer(file)
                if fresh:
                    writer.writerow(HEAD)
                writer.writerows([env_step, name, repr(float(v))] for name, v in metrics.items())
            if self._writer is None:
                from torch.utils.tensorboard import SummaryWriter

                self._writer = SummaryWriter(str(self.path), purge_step=self._purge_step)
            for name, value in metrics.items():
                self._writer.add_scalar(name, value, env_step)

    def truncate(self, env_step: int) -> None:
        """Drops metrics later than `env_step`, which a resumed run writes again."""
        path = self.path / "metrics.csv"
        self._purge_step = env_step + 1
        if path.exists():
            kept = [HEAD, *(row for row in _rows(path) if int(row[0]) <= env_step)]
            with self._space():
                write_atomic(path, "".join(",".join(row) + "\n" for row in kept))

    def say_done(self, n_done: int, spent_s: float = 0.0) -> None:
        """Says that nothing is left to do of the `n_done` env_steps (or chunks) that there are.

        Args:
            n_done: What was done.
            spent_s: The budget of processor time [s] if that ended the run, else 0.
        """
        name = self.length.rpartition(".")[2] or "steps"
        more = "ask for more of them"
        if spent_s:
            more = f"raise loop.max_cpu_s, whose {spent_s:g} s are used up"
        print(f"{self.path} is done: it has {n_done} {name}; to go on, {more}")

    def close(self) -> None:
        """Flushes TensorBoard's events and lets others write to the folder.

        Raises:
            DiskFull: There is no space for the events.
        """
        writer = self._writer
        self._writer = None
        try:
            if writer is not None:
                with self._space():
                    writer.close()
        finally:
            self._lock.release()

    def _space(self) -> AbstractContextManager[None]:
        """Returns a context that says what to do where the disk is full."""
        return full_disk(
            f"{self.path} takes no more; its last checkpoint, if it has one, stays. Free some "
            "space, then the same command with --resume goes on from there"
        )


def read_metrics(path: str | Path, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Returns (env_steps, values) of one metric of a run folder."""
    rows = [row for row in _rows(Path(path) / "metrics.csv") if row[1] == name]
    return np.array([int(row[0]) for row in rows]), np.array([float(row[2]) for row in rows])


def _rows(path: Path) -> list[list[str]]:
    """Returns the whole rows of metrics.csv; a kill or a full disk may have left a part of one."""
    whole, _, _ = path.read_text().rpartition("\n")
    rows = csv.reader(whole.splitlines())
    return [row for row in rows if len(row) == 3 and row[0].isdigit()]
