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

from edp_robot.deploy.policies import BestOfK, Deployed
from edp_robot.training.distill import load_student
from edp_robot.training.runs import RunRecord
from edp_robot.training.source import Source, load_critic, load_source, visited_states
from policy_server.contract.bundle import Bundle, save
from policy_server.contract.commit import source_commit
from policy_server.contract.field import Field
from policy_server.contract.manifest import Manifest
from sim.core.spec import FieldSpec, TaskSpec

OPSET = 20
PARITY_LIMIT = 1e-5
N_GOLDEN = 16  # a server replays them before it answers: of a 15-step teacher in well under 50 ms
N_PARITY = 4096
TIE = 1e-4  # of 1 + |Q|: nearer than that, the best of K is not decided
BATCH_SIZES = (
    1,
    4,
    8,
    16,
)  # that a server opens with static shapes; all others run with a dynamic one
BATCH_DIM = "batch"


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

    def sampler(self) -> dict:
        """Returns the manifest's entry on how the graph samples."""
        best = {"best_of": self.policy.k} if isinstance(self.policy, BestOfK) else {}
        return {
            "method": self.method,
            "n_denoise_steps": self.n_denoise_steps,
            "opset": OPSET,
            **best,
        }


def load_policy(run: str | Path, n_denoise_steps: int = 15, best_of: int = 1) -> Exportable:
    """Returns the policy of a distillation, fine-tuning or pre-training run; with `best_of`, its critic chooses.

    Raises:
        FileNotFoundError, ValueError: no run with a diffusion policy or student; no critic.
    """
    record = RunRecord.load(run)
    if record.config.teacher:
        policy, source = load_student(run)
        method = f"student-{record.config.method}"
        n_denoise_steps = policy.n_denoise_steps
    else:
        source = load_source(run, n_denoise_steps)
        policy, method = source.teacher, "dpm-solver++"
    if best_of > 1:
        policy = BestOfK(policy, source.teacher.normaliser, load_critic(run, source.spec), best_of)
    return Exportable(policy, source, method, n_denoise_steps, Path(run))


def to_onnx(policy: nn.Module, spec: TaskSpec, horizon: int) -> bytes:
    """Returns the graph (obs, noise) -> action, batch dynamic, normaliser, sampler, action map and limits inside.

    The sampler is unrolled: coefficients are constants, and there is no Loop, If or Scan.
    """
    deployed = Deployed(policy, spec.action_map, horizon).eval().requires_grad_(False)
    example = (torch.zeros(2, spec.obs_dim), torch.zeros(2, int(policy.latent_dim)))  # type: ignore[arg-type]
    batch = torch.export.Dim(BATCH_DIM, min=1, max=65536)
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


def onnx_session(graph: bytes, batch: int | None = None):
    """Returns a CPU session of the graph, one thread; with `batch`, of that static batch size."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    if batch:
        options.add_free_dimension_override_by_name(BATCH_DIM, batch)
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    return ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])


def compared(
    policy: nn.Module, spec: TaskSpec, horizon: int, states: torch.Tensor, n: int, seed: int
):
    """Returns (obs, noise, torch's command) of n visited states with fresh noise, float32 arrays.

    Where the best of K is nearly a tie, rounding decides between actions that may be far apart: such draws are left
    out, so that of a policy with best_of there are fewer than n.
    """
    generator = torch.Generator().manual_seed(seed)
    obs = states[torch.randint(len(states), (n,), generator=generator)]
    noise = torch.randn(n, int(policy.latent_dim), generator=generator)  # type: ignore[arg-type]
    with torch.no_grad():
        if isinstance(policy, BestOfK):
            best, second = policy.candidates(obs, noise)[1].topk(2, 1).values.T
            clear = best - second > TIE * (1 + best.abs())
            obs, noise = obs[clear], noise[clear]
        action = Deployed(policy, spec.action_map, horizon).eval()(obs, noise)
    return obs.numpy(), noise.numpy(), action.numpy()


def parity(
    graph: bytes, policy: nn.Module, spec: TaskSpec, horizon: int, states: torch.Tensor
) -> dict[str, float | int | dict[str, float]]:
    """Returns the largest |onnx - torch|, in physical units, over N_PARITY visited states with fresh noise.

    Of the dynamic graph, and (of the first N_GOLDEN states) of each static batch size: {"max_abs_error", "n",
    "static": {batch size: error}}, the first being the largest of all.
    """
    obs, noise, expected = compared(policy, spec, horizon, states, N_PARITY, seed=0)
    feeds = {"obs": obs, "noise": noise}

    def error(session, rows: slice) -> float:
        got = session.run(None, {name: value[rows] for name, value in feeds.items()})[0]
        return float(np.abs(got - expected[rows]).max())

    whole, static = error(onnx_session(graph), slice(None)), {}
    for size in BATCH_SIZES:
        session, n = onnx_session(graph, size), min(N_GOLDEN, len(obs)) // size * size
        static[str(size)] = max(error(session, slice(i, i + size)) for i in range(0, n, size))
    return {"max_abs_error": max(whole, *static.values()), "n": len(obs), "static": static}


def golden(
    policy: nn.Module, spec: TaskSpec, horizon: int, states: torch.Tensor
) -> dict[str, np.ndarray]:
    """Returns N_GOLDEN (obs, noise, action) triples computed by torch, which a server replays before it serves."""
    obs, noise, action = compared(policy, spec, horizon, states, N_GOLDEN, seed=1)
    return {"obs": obs, "noise": noise, "action": action}


def as_field(field: FieldSpec) -> Field:
    """Returns the bundle's form of a task's field."""
    return Field(
        field.name, field.start, field.stop, field.unit, field.low, field.high, field.max_rate
    )


def export(
    run: str | Path,
    out: str | Path,
    metrics: dict | None = None,
    n_denoise_steps: int = 15,
    best_of: int = 1,
) -> Bundle:
    """Writes the policy of `run` as a bundle and returns it, read back and verified.

    Args:
        run: folder of a distillation, fine-tuning or pre-training run.
        out: the bundle's folder; a bundle that is there is replaced.
        metrics: what is known of it (success, returns), for the manifest.
        n_denoise_steps: of the solver, where the run holds a teacher.
        best_of: K answers a decision, inside the graph, of which the critic chooses one; 1 for none of that.

    Raises:
        ParityError: the graph differs from torch by more than PARITY_LIMIT.
        FileNotFoundError, ValueError: `run` holds no policy that can be exported.
    """
    item = load_policy(run, n_denoise_steps, best_of)
    spec, horizon, policy = item.source.spec, item.source.n_action_steps, item.policy
    graph = to_onnx(policy, spec, horizon)
    states = visited_states(item.source, 16, 1, 3)
    found = parity(graph, policy, spec, horizon, states)
    error = found["max_abs_error"]
    if not error <= PARITY_LIMIT:  # type: ignore[operator]
        raise ParityError(
            f"onnx and torch differ by {error:.3g}, allowed is {PARITY_LIMIT}; nothing was written"
        )
    return save(
        Path(out),
        Manifest(
            name=f"{spec.name}-{item.method}-{item.n_denoise_steps}",
            task=spec.name,
            source_commit=source_commit(),
            config_hash=RunRecord.load(run).config_hash,
            obs=tuple(map(as_field, spec.obs)),
            action=tuple(map(as_field, spec.action)),
            horizon=horizon,
            n_action_steps=horizon,
            control_period_s=spec.control_period_s,
            latent_dim=int(policy.latent_dim),  # type: ignore[arg-type]
            sampler={**item.sampler(), "batch_sizes": list(BATCH_SIZES)},
            metrics=metrics or {},
            parity=found,
        ),
        onnx_bytes=graph,
        golden=golden(policy, spec, horizon, states),
    )
