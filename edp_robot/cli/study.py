"""`edp study exploration | ablation | finetuning | distillation`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from tyro.conf import arg


def _exploration() -> Any:
    from edp_robot.studies.exploration import Options

    return Options


def _ablation() -> Any:
    from edp_robot.studies.ablation import Options

    return Options


def _distillation() -> Any:
    from edp_robot.studies.distillation import Options

    return Options


def _finetuning() -> Any:
    from edp_robot.studies.finetuning.finetuning_study import Options

    return Options


# The options are the fields of each study's own dataclass, loaded when its command is asked for.
def exploration(options: Annotated[Any, arg(name="", constructor_factory=_exploration)]) -> int:
    """Make the table of exploration results: each method in each maze, several seeds.

    With --domains: each recipe on each body for the same processor time, and tasks learned after
    it. Ctrl-C stops it. The same command continues, and runs nothing twice. Tables and figures are
    written again after every run.
    Example: edp study exploration --mazes a tree --methods edp random --n-seeds 3
    Example: edp study exploration --domains walker arm --cpu-s 240 --processes 2
    """
    if not options.domains:
        return _run(options, options.out / "table.md")
    from edp_robot.studies.domains.domain_study import BodyOptions, BodyStudy

    study = BodyStudy(BodyOptions(**options.of_bodies()), _machine())
    return _ran(study, options.out / "domains.md")


def ablation(options: Annotated[Any, arg(name="", constructor_factory=_ablation)]) -> int:
    """Make the table of what matters in exploration: the default with one thing changed at a time.

    Ctrl-C stops it. The same command continues, and runs nothing twice.
    Example: edp study ablation --mazes large --variants default iid t-whole
    """
    return _run(options, options.out / "ablation.md")


def finetuning(options: Annotated[Any, arg(name="", constructor_factory=_finetuning)]) -> int:
    """Make the table of fine-tuning: methods on tasks, several seeds, from shared pre-trainings.

    Each method starts from pre-trained weights and data, from one of them, and from scratch. Ctrl-C
    stops it. The same command continues, and runs nothing twice. Tables and figures are written
    again after every run.
    Example: edp study finetuning --methods edp ddpg --tasks arm-press --n-seeds 3 --processes 2
    """
    from edp_robot.studies.finetuning.finetuning_study import FinetuningStudy

    return _ran(FinetuningStudy(options, _machine()), options.out / "table.md")


def distillation(options: Annotated[Any, arg(name="", constructor_factory=_distillation)]) -> int:
    """Make the table of distillation: teachers of 1 to 15 steps, students of 1, 2 and 4 calls.

    Ctrl-C stops it. The same command continues: it trains nothing twice and measures no return
    twice, but it takes all times again.
    Example: edp study distillation --tasks modes arm-press
    """
    from edp_robot.studies import distillation as study
    from policy_server.bench.statistics import summary
    from policy_server.runtime.onnxruntime import OnnxPolicy

    runtimes: dict[str, Any] = {"ONNX Runtime": lambda graph: OnnxPolicy(graph).act}
    made = study.DistillationStudy(options, _machine(), runtimes, summary)
    if not made():
        return 1
    print(options.out / "table.md")
    return 0


def _machine() -> str:
    """Returns this machine in words."""
    from policy_server.bench.host import host

    here = host()
    return f"{here['cpu']}, {here['n_cores']} cores, {here['kernel']}, Python {here['python']}"


def _run(options: Any, table: Path) -> int:
    """Runs a study of pre-trainings and returns the exit status, 1 where a run failed."""
    from edp_robot.studies.study import Study

    return _ran(Study(options, _machine()), table)


def _ran(study: Any, table: Path) -> int:
    """Runs a study and returns the exit status, 1 where a run failed."""
    if study():
        print(table)
        return 0
    print(f"{len(study.failed)} of {len(study.jobs)} runs failed:")
    for job, problem in study.failed.items():
        print(f"  {job.title}: {problem}; log: {job.log_path}")
    return 1
