"""`edp bench sampler`: how long one action takes, in torch and in ONNX Runtime, side by side in one run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from edp_robot.cli.train import FROM, write_json


def sampler(
    start: Annotated[Path | None, FROM] = None,
    student: Path | None = None,
    n: int = 2_000,
    json: Path | None = None,
) -> int:
    """Time the 15-step teacher in torch and ONNX Runtime, the student in ONNX Runtime, and the floor of its products.

    Example: edp bench sampler --from runs/demo/finetuned --student runs/demo/student --json sampler.json

    Args:
        start: Run folder with the teacher; untrained networks of the paper's sizes where not given.
        student: Run folder of its distillation.
        n: Calls of each, batch 1, one thread, rounds interleaved.
        json: File to write the result to.
    """
    import torch

    from edp_robot.studies.distillation_measures import interleaved
    from policy_server.bench.latency import host
    from policy_server.bench.statistics import summary

    torch.set_num_threads(1)
    contenders = _contenders(start, student)
    samples = interleaved(contenders, n)
    result: dict[str, Any] = {name: summary(times) for name, times in samples.items()}
    print(f"{'[us], batch 1, one thread':<28}{'p50':>10}{'p99':>10}{'n':>8}")
    for name, row in result.items():
        print(f"{name:<28}{row['p50']:>10.1f}{row['p99']:>10.1f}{row['n']:>8}")
    write_json(
        json,
        {
            "latency_us": result,
            "samples_us": {k: v.tolist() for k, v in samples.items()},
            "host": host(),
        },
    )
    return 0


def _contenders(start: Path | None, student: Path | None) -> dict[str, Any]:
    """Returns what is timed, by name: functions without arguments."""
    from edp_robot.studies.distillation_measures import onnx_call, products_call, torch_call
    from policy_server.runtime.base import OnnxPolicy

    teacher_policy, student_policy, spec, horizon = _policies(start, student)

    matrices = [
        w for w in student_policy.net.parameters() if w.dim() == 2
    ]  # the floor: these products, nothing else

    def runtime(graph: bytes):
        return OnnxPolicy(graph).act

    return {
        "torch_teacher": torch_call(teacher_policy, spec, horizon),
        "onnx_teacher": onnx_call(teacher_policy, spec, horizon, runtime),
        "onnx_student": onnx_call(student_policy, spec, horizon, runtime),
        "numpy_matmul_floor": products_call([w.detach().numpy() for w in matrices]),
    }


def _policies(start: Path | None, student: Path | None):
    """Returns (teacher, student, spec, horizon) of the runs, or untrained ones of the paper's sizes on the arm."""
    from edp_robot.config.schema import NoiseModelConfig
    from edp_robot.deploy.export import load_policy
    from edp_robot.deploy.policies import DiffusionPolicy
    from edp_robot.deploy.students import PairedStudent
    from edp_robot.training.models import noise_model, normaliser
    from sim.core.registry import task_spec

    if start is not None and student is not None:
        teacher, held = load_policy(start), load_policy(student)
        return teacher.policy, held.policy, teacher.source.spec, teacher.source.n_action_steps
    if start is not None or student is not None:
        raise ValueError(
            "give both --from and --student, or neither for untrained networks of the paper's sizes"
        )
    spec = task_spec("arm-press")
    norm, model = normaliser(spec), noise_model(spec.act_dim, spec.obs_dim, NoiseModelConfig())
    teacher_policy = DiffusionPolicy(norm, model, spec.act_dim).eval()
    return teacher_policy, PairedStudent(norm, spec.obs_dim, spec.act_dim).eval(), spec, 10
