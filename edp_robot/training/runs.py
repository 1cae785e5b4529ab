"""The run folder: config before step 0, metrics as they come, and the record that others read."""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, is_dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar, get_type_hints

import numpy as np

from edp_robot.methods.iql import IQLConfig
from edp_robot.methods.models import NoiseModelConfig
from edp_robot.training.checkpoint import load_tree
from edp_robot.training.old_runs import translated
from policy_server.contract.commit import source_commit
from policy_server.contract.doors.registries import Registry
from policy_server.contract.files import write_atomic
from sim.core.registry import task_spec
from sim.core.spec import TaskSpec

CHECKPOINT = "checkpoint.safetensors"
HEAD = ["env_step", "name", "value"]


class RunConfig:
    """What the config dataclass of every stage tells about its run.

    A stage registers its dataclass in RUN_CONFIGS by the name that config.json holds as `kind`.
    """

    TITLE: ClassVar[str] = "run"
    COMMAND: ClassVar[str] = "edp"
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
            ValueError: It holds another kind of run than `expected`, or an unknown method.
        """
        held = read_config(path)
        kind = RUN_CONFIGS.get(held["kind"], may_import=False)
        if not issubclass(kind, expected):
            raise ValueError(
                f"{path} holds a {kind.TITLE}, not a {expected.TITLE}; "
                f"give a run of `{expected.COMMAND}`"
            )
        config = from_dict(kind, translated(held["kind"], held["config"]))
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


def read_config(path: str | Path) -> dict[str, Any]:
    """Returns config.json of a run folder as it stands there.

    Raises:
        FileNotFoundError: `path` is no run folder.
    """
    file = Path(path) / "config.json"
    if not file.exists():
        raise FileNotFoundError(f"{path} is no run folder: it has no config.json")
    return json.loads(file.read_text())


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

    Args:
        path: The folder. It is made if it is missing.
        config: A dataclass. It is written before anything else.
        resume: Whether the folder may hold a run already, of the same config.

    Raises:
        FileExistsError: The folder holds a run and `resume` is False.
        ValueError: The run in the folder has another config.
    """

    def __init__(self, path: str | Path, config: Any, resume: bool = False) -> None:
        self.path = Path(path)
        self._writer = None
        kind = type(config).__name__
        values = config_dict(config)
        if (self.path / "config.json").exists():
            self._check(kind, values, resume)
        held = {
            "kind": kind,
            "config": values,
            "hash": config_hash(config),
            "commit": source_commit(),
        }
        write_atomic(self.path / "config.json", json.dumps(held, indent=1))

    def _check(self, kind: str, values: dict[str, Any], resume: bool) -> None:
        """Raises unless the run in the folder may go on with the config `values`."""
        if not resume:
            raise FileExistsError(
                f"{self.path} holds a run already; add --resume, or choose another --out"
            )
        held = read_config(self.path)
        old = translated(held["kind"], held["config"])
        changed = [name for name, value in values.items() if old.get(name) != value]
        if held["kind"] != kind or changed:
            raise ValueError(
                f"{self.path} was started with another config (differs in {changed}); cannot resume"
            )

    @property
    def checkpoint_path(self) -> Path:
        """Returns where the newest checkpoint lies."""
        return self.path / CHECKPOINT

    def log(self, env_step: int, metrics: dict[str, float]) -> None:
        """Appends rows (env_step, name, value) to metrics.csv and to TensorBoard's events."""
        path = self.path / "metrics.csv"
        fresh = not path.exists()
        with path.open("a", newline="") as file:
            writer = csv.writer(file)
            if fresh:
                writer.writerow(HEAD)
            writer.writerows([env_step, name, repr(float(v))] for name, v in metrics.items())
        if self._writer is None:
            from torch.utils.tensorboard import SummaryWriter

            self._writer = SummaryWriter(str(self.path))
        for name, value in metrics.items():
            self._writer.add_scalar(name, value, env_step)

    def truncate(self, env_step: int) -> None:
        """Drops metrics later than `env_step`, which a resumed run writes again."""
        path = self.path / "metrics.csv"
        if path.exists():
            kept = [HEAD, *(row for row in _rows(path) if int(row[0]) <= env_step)]
            write_atomic(path, "".join(",".join(row) + "\n" for row in kept))

    def close(self) -> None:
        """Flushes TensorBoard's events."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None


def read_metrics(path: str | Path, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Returns (env_steps, values) of one metric of a run folder."""
    rows = [row for row in _rows(Path(path) / "metrics.csv") if row[1] == name]
    return np.array([int(row[0]) for row in rows]), np.array([float(row[2]) for row in rows])


def _rows(path: Path) -> list[list[str]]:
    """Returns the whole rows of metrics.csv; a kill may have left a part of one."""
    rows = csv.reader(path.read_text().splitlines())
    return [row for row in rows if len(row) == 3 and row[0].isdigit()]
