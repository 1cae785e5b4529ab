"""A policy as one ONNX graph with everything folded in, checked against torch, in a bundle."""

from __future__ import annotations

import io
import logging
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

from policy_server.bundle import Bundle, Field, save
from sim.spec import FieldSpec, TaskSpec

from ..policies import Deployed
from ..runs import config_hash, read_config, source_commit
from .distill import Source, load_source, load_student, visited_states

OPSET = 20
PARITY_LIMIT = 1e-5
N_GOLDEN = 64
N_PARITY = 4096


class ParityError(RuntimeError):
    """The exported graph computes something else than torch does."""


@dataclass(frozen=True)
class Exportable:
    """What `export` writes: a policy, the run it came from and how it samples."""

    policy: nn.Module
    source: Source
    method: str
    n_denoise_steps: int
    run: Path


def load_policy(run: str | Path, n_denoise_steps: int = 15) -> Exportable:
    """Returns the policy of a distillation, fine-tuning or pre-training run.

    Raises:
        FileNotFoundError, ValueError: no run with a diffusion policy or student.
    """
    if read_config(run)["kind"] == "DistillConfig":
        student, source = load_student(run)
        return Exportable(student, source, "student", student.n_denoise_steps, Path(run))
    source = load_source(run, n_denoise_steps)
    return Exportable(source.teacher, source, "dpm-solver++", n_denoise_steps, Path(run))


def to_onnx(policy: nn.Module, spec: TaskSpec, horizon: int) -> bytes:
    """Returns the graph (obs, noise) -> action, batch dynamic, normaliser, sampler, action map and limits inside."""
    deployed = Deployed(policy, spec.action_map, horizon).eval().requires_grad_(False)
    example = (torch.zeros(2, spec.obs_dim), torch.zeros(2, spec.act_dim))
    batch = torch.export.Dim("batch", min=1, max=65536)
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            deployed,
            example,
            input_names=["obs", "noise"],
            output_names=["action"],
            dynamic_shapes={"obs": {0: batch}, "noise": {0: batch}},
            opset_version=OPSET,
            dynamo=True,
            verbose=False,
        )
    buffer = io.BytesIO()
    program.save(buffer)  # type: ignore[union-attr]
    return buffer.getvalue()


def onnx_session(graph: bytes):
    """Returns a CPU session of the graph, one thread."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    return ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])


def parity(graph: bytes, policy: nn.Module, spec: TaskSpec, horizon: int, states: torch.Tensor) -> float:
    """Returns the largest |onnx - torch| over N_PARITY visited states with fresh noise, in physical units."""
    generator = torch.Generator().manual_seed(0)
    obs = states[torch.randint(len(states), (N_PARITY,), generator=generator)]
    noise = torch.randn(N_PARITY, spec.act_dim, generator=generator)
    with torch.no_grad():
        expected = Deployed(policy, spec.action_map, horizon).eval()(obs, noise).numpy()
    got = onnx_session(graph).run(None, {"obs": obs.numpy(), "noise": noise.numpy()})[0]
    return float(np.abs(got - expected).max())


def golden(policy: nn.Module, spec: TaskSpec, horizon: int, states: torch.Tensor) -> dict[str, np.ndarray]:
    """Returns N_GOLDEN (obs, noise, action) triples computed by torch, which a server replays before it serves."""
    generator = torch.Generator().manual_seed(1)
    obs = states[torch.randint(len(states), (N_GOLDEN,), generator=generator)]
    noise = torch.randn(N_GOLDEN, spec.act_dim, generator=generator)
    with torch.no_grad():
        action = Deployed(policy, spec.action_map, horizon).eval()(obs, noise)
    return {"obs": obs.numpy(), "noise": noise.numpy(), "action": action.numpy()}


def as_field(field: FieldSpec) -> Field:
    """Returns the bundle's form of a task's field."""
    return Field(field.name, field.start, field.stop, field.unit, field.low, field.high, field.max_rate)


def export(run: str | Path, out: str | Path, metrics: dict | None = None, n_denoise_steps: int = 15) -> Bundle:
    """Writes the policy of `run` as a bundle and returns it, read back and verified.

    Args:
        run: folder of a distillation, fine-tuning or pre-training run.
        out: the bundle's folder; a bundle that is there is replaced.
        metrics: what is known of it (success, returns), for the manifest.
        n_denoise_steps: of the solver, where the run holds a teacher.

    Raises:
        ParityError: the graph differs from torch by more than PARITY_LIMIT.
        FileNotFoundError, ValueError: `run` holds no policy that can be exported.
    """
    item = load_policy(run, n_denoise_steps)
    spec, horizon, policy = item.source.spec, item.source.n_action_steps, item.policy
    graph = to_onnx(policy, spec, horizon)
    states = visited_states(item.source, 16, 1, 3)
    error = parity(graph, policy, spec, horizon, states)
    if not error <= PARITY_LIMIT:
        raise ParityError(f"onnx and torch differ by {error:.3g}, allowed is {PARITY_LIMIT}; nothing was written")
    return save(
        Path(out),
        name=f"{spec.name}-{item.method}-{item.n_denoise_steps}",
        task=spec.name,
        source_commit=source_commit(),
        config_hash=config_hash(read_config(run)["config"]),
        obs=tuple(map(as_field, spec.obs)),
        action=tuple(map(as_field, spec.action)),
        horizon=horizon,
        n_action_steps=horizon,
        control_period_s=spec.control_period_s,
        latent_dim=spec.act_dim,
        sampler={"method": item.method, "n_denoise_steps": item.n_denoise_steps, "opset": OPSET},
        metrics=metrics or {},
        parity={"max_abs_error": error, "n": N_PARITY},
        onnx_bytes=graph,
        golden=golden(policy, spec, horizon, states),
    )
