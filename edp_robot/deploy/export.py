"""A policy as one ONNX graph with everything folded in, checked against torch, in a bundle."""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from torch import nn

from edp_robot.deploy.guard import guarded
from edp_robot.deploy.policies import BestOfK, Deployed
from edp_robot.training.distill import load_student
from edp_robot.training.finetune import load_tuned
from edp_robot.training.runs import RunRecord
from edp_robot.training.source import Source, load_critic, load_source, visited_states
from policy_server.contract.bundle import Bundle, save
from policy_server.contract.bundle_folder import check_replaceable
from policy_server.contract.commit import source_commit
from policy_server.contract.field import Field, difference, scales, tolerances
from policy_server.contract.manifest import Manifest
from policy_server.contract.onnx_import import import_onnxruntime
from sim.core.spec import TaskSpec

OPSET = 20
# Allowed difference from torch, as a share of each action's range. Each call of a solver divides
# by alpha, which multiplies what float32 rounded before.
PARITY_SHARE = 1e-5
SOLVER_SHARE = 2.5e-5
N_GOLDEN = 16  # a server replays them before it answers: under 50 ms even of a 15-step teacher
N_PARITY = 4096
TIE = 1e-4  # times 1 + |Q|: two answers nearer than that are a tie of the best of K
BATCH_SIZES = (
    1,
    4,
    8,
    16,
)  # a server opens these with static shapes, all others with a dynamic one
BATCH_DIM = "batch"
_log = logging.getLogger(__name__)


class ParityError(RuntimeError):
    """The exported graph computes something else than torch does."""


@dataclass(frozen=True)
class Exportable:
    """A policy to export.

    Attributes:
        policy: Answers (raw obs, noise).
        source: The run of its teacher.
        record: The run that it comes from.
        method: How it samples, like "dpm-solver++".
        n_denoise_steps: Network calls of one answer.
    """

    policy: nn.Module
    source: Source
    record: RunRecord
    method: str
    n_denoise_steps: int

    def sampler(self) -> dict[str, Any]:
        """Returns the manifest's entry on how the graph samples."""
        entry = {"method": self.method, "n_denoise_steps": self.n_denoise_steps, "opset": OPSET}
        best = {"best_of": self.policy.k} if isinstance(self.policy, BestOfK) else {}
        return {**entry, **best, "batch_sizes": list(BATCH_SIZES)}


def load_policy(
    run: str | Path, n_denoise_steps: int = 15, best_of: int | None = None
) -> Exportable:
    """Returns the policy of a run.

    Args:
        run: Folder of a distillation, fine-tuning, pre-training or cloning.
        n_denoise_steps: Denoising steps, where the run holds a teacher.
        best_of: Answers a decision, of which the run's critic chooses one. 1: there is no choice.
            None: as the run was trained to act.

    Raises:
        FileNotFoundError: `run` is no run folder.
        ValueError: It holds no policy, or no critic for `best_of`.
    """
    record = RunRecord.load(run)
    if record.config.is_direct:
        return _direct(record, best_of or 1)
    if record.config.teacher:
        policy, source = load_student(run)
        method = f"student-{record.config.method}"
        n_denoise_steps = policy.n_denoise_steps
    else:
        source = load_source(run, n_denoise_steps)
        policy = source.teacher
        method = "dpm-solver++"
    k = best_of or record.config.best_of
    critic = load_critic(run, source.spec) if k > 1 else None
    if critic is not None:
        policy = BestOfK(policy, source.teacher.normaliser, critic, k)
    return Exportable(policy, source, record, method, n_denoise_steps)


def _direct(record: RunRecord, best_of: int) -> Exportable:
    """Returns a fine-tuned policy that acts in one network call."""
    if best_of > 1:
        raise ValueError(
            f"{record.path} is a fine-tuning by {record.config.method}, whose policy answers at "
            "once; best of K wants a diffusion policy or a student of one"
        )
    source = load_tuned(record.path)
    return Exportable(source.policy, source, record, record.config.method, 1)


def to_onnx(policy: nn.Module, spec: TaskSpec, horizon: int) -> bytes:
    """Returns the graph (obs, noise) -> action with a dynamic batch.

    Normaliser, sampler, action map and limits are inside. The sampler is unrolled: its coefficients
    are constants, and there is no Loop, If or Scan.

    Args:
        policy: Answers (raw obs, noise).
        spec: Its task.
        horizon: Commands of an answer.
    """
    deployed = Deployed(policy, spec.action_map, horizon).eval().requires_grad_(False)
    example = (torch.zeros(2, spec.obs_dim), torch.zeros(2, latent_dim(policy)))
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
    return guarded(onnx.load_from_string(buffer.getvalue())).SerializeToString()


def latent_dim(policy: nn.Module) -> int:
    """Returns how many numbers of noise an answer of the policy takes."""
    return int(policy.latent_dim)  # type: ignore[arg-type]


def onnx_session(graph: bytes, batch: int | None = None) -> Any:
    """Returns a CPU session of the graph with one thread, for the static batch size if given."""
    ort = import_onnxruntime()
    options = ort.SessionOptions()
    if batch:
        options.add_free_dimension_override_by_name(BATCH_DIM, batch)
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    return ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])


Triples = dict[str, np.ndarray]  # obs (n, obs_dim), noise (n, latent_dim), action of torch


def compared(deployed: Deployed, states: torch.Tensor, n: int, seed: int) -> Triples:
    """Returns obs, noise and torch's commands for n visited states with fresh noise, float32.

    Where the best of K is nearly a tie, rounding decides between actions that may be far apart.
    Such draws are left out, so a policy with `best_of` gives fewer than n.

    Args:
        deployed: The policy with its action map.
        states: Raw observations to draw from.
        n: Number of draws.
        seed: Seeds the draws.
    """
    policy = deployed.policy
    generator = torch.Generator().manual_seed(seed)
    obs = states[torch.randint(len(states), (n,), generator=generator)]
    noise = torch.randn(n, latent_dim(policy), generator=generator)
    with torch.no_grad():
        if isinstance(policy, BestOfK):
            best, second = policy.candidates(obs, noise)[1].topk(2, 1).values.T
            clear = best - second > TIE * (1 + best.abs())
            obs = obs[clear]
            noise = noise[clear]
        action = deployed(obs, noise)
    return {"obs": obs.numpy(), "noise": noise.numpy(), "action": action.numpy()}


def parity(
    graph: bytes, expected: Triples, fields: tuple[Field, ...], share: float = PARITY_SHARE
) -> dict[str, Any]:
    """Returns how far the graph is from torch, for the manifest.

    It is what `agreement` returns, with "n", the number of states, and "static", the largest
    difference in each batch size [unit]. The dynamic graph answers all states, each static batch
    size the first N_GOLDEN.

    Args:
        graph: The graph.
        expected: Obs, noise and torch's commands.
        fields: Fields of the command.
        share: Allowed difference, as a share of each command's range.

    Raises:
        ParityError: The graph differs by more.
    """
    feeds = {name: expected[name] for name in ("obs", "noise")}

    def errors(session: Any, rows: slice) -> np.ndarray:
        got = session.run(None, {name: value[rows] for name, value in feeds.items()})[0]
        check_finite(graph, feeds, got)
        return np.abs(got - expected["action"][rows]).max((0, 1))

    n = len(expected["obs"])
    found = {"": errors(onnx_session(graph), slice(None))}
    for size in BATCH_SIZES:
        session = onnx_session(graph, size)
        starts = range(0, min(N_GOLDEN, n) // size * size, size)
        found[str(size)] = np.max([errors(session, slice(i, i + size)) for i in starts], axis=0)
    agreed = agreement(fields, np.max([*found.values()], axis=0), expected["action"], share)
    static = {size: float(error.max()) for size, error in found.items() if size}
    return {**agreed, "n": n, "static": static}


def check_finite(graph: bytes, feeds: dict[str, np.ndarray], action: np.ndarray) -> None:
    """Checks that a graph answers numbers.

    Args:
        graph: The graph.
        feeds: Its inputs by name, of these rows and perhaps more.
        action: What it answered (n, horizon, act_dim).

    Raises:
        ParityError: A number is NaN or infinite. The message says where in the graph it came from.
    """
    bad = np.flatnonzero(~np.isfinite(action).all((1, 2)))
    if not len(bad):
        return
    model = onnx.load_from_string(graph)
    outputs = [(node, name) for node in model.graph.node for name in node.output if name]
    known = {value.name for value in model.graph.output}
    model.graph.output.extend(onnx.ValueInfoProto(name=n) for _, n in outputs if n not in known)
    row = {value.name: feeds[value.name][bad[:1]] for value in model.graph.input}
    found = onnx_session(model.SerializeToString()).run([name for _, name in outputs], row)
    first = (
        f", first in {node.op_type} ({name.removeprefix('policy/')})"
        for (node, name), value in zip(outputs, found, strict=True)
        if value.dtype.kind == "f" and not np.isfinite(value).all()
    )
    raise ParityError(
        f"the graph computes NaN or infinity from {len(bad)} of {len(action)} finite observations"
        f"{next(first, '')}; nothing was written. Does a normaliser divide by 0?"
    )


def agreement(
    fields: tuple[Field, ...], errors: np.ndarray, action: np.ndarray, share: float
) -> dict[str, float]:
    """Returns {"max_abs_error" [unit], "max_relative_error", a share of the range} of a graph.

    Args:
        fields: Fields of the command.
        errors: Largest difference of each command (act_dim,).
        action: The commands that are right (n, horizon, act_dim).
        share: Allowed difference, as a share of each command's range.

    Raises:
        ParityError: A difference is larger, or not a number.
    """
    allowed = tolerances(fields, action, share)
    if not (errors <= allowed).all():
        raise ParityError(
            f"the graph and the original differ: {difference(fields, errors, allowed)} "
            f"({share:g} of its range); nothing was written"
        )
    relative = errors / scales(fields, action)
    return {"max_abs_error": float(errors.max()), "max_relative_error": float(relative.max())}


def warn_of_unnamed(fields: Iterable[Field]) -> None:
    """Logs a warning that names the fields whose entries have no known names."""
    unnamed = [field.name for field in fields if field.entry_names() is None]
    if unnamed:
        _log.warning(
            "the entries of %s have no names: `edp control` cannot compare their order with the "
            "robot's",
            ", ".join(unnamed),
        )


def export(
    run: str | Path,
    out: str | Path,
    metrics: dict | None = None,
    n_denoise_steps: int = 15,
    best_of: int | None = None,
) -> Bundle:
    """Writes the policy of `run` as a bundle and returns it, read back and verified.

    Args:
        run: Folder of a distillation, fine-tuning, pre-training or cloning.
        out: The bundle's folder. A bundle that is there, with nothing beside it, is replaced.
        metrics: What is known of the policy (success, returns), for the manifest.
        n_denoise_steps: Denoising steps, where the run holds a teacher.
        best_of: Answers a decision inside the graph, of which the critic chooses one. None: as
            the run was trained to act.

    Raises:
        ParityError: The graph differs from torch by more than PARITY_SHARE of a command's range,
            or that of a solver by more than SOLVER_SHARE.
        FileNotFoundError, ValueError: `run` holds no policy, or `out` something that is none.
    """
    check_replaceable(out)
    item = load_policy(run, n_denoise_steps, best_of)
    spec = item.source.spec
    horizon = item.source.n_action_steps
    graph = to_onnx(item.policy, spec, horizon)
    states = visited_states(item.source, n_envs=16, n_episodes=1, seed=3)
    deployed = Deployed(item.policy, spec.action_map, horizon).eval()
    share = PARITY_SHARE if item.n_denoise_steps == 1 else SOLVER_SHARE
    found = parity(graph, compared(deployed, states, N_PARITY, seed=0), spec.action, share)
    warn_of_unnamed((*spec.obs, *spec.action))
    manifest = Manifest(
        name=f"{spec.name}-{item.method}-{item.n_denoise_steps}",
        task=spec.name,
        source_commit=source_commit(),
        config_hash=item.record.config_hash,
        obs=spec.obs,
        action=spec.action,
        horizon=horizon,
        n_action_steps=horizon,
        control_period_s=spec.control_period_s,
        latent_dim=latent_dim(item.policy),
        sampler=item.sampler(),
        metrics=metrics or {},
        parity=found,
    )
    golden = compared(deployed, states, N_GOLDEN, seed=1)
    return save(out, manifest, onnx_bytes=graph, golden=golden)
