"""`edp pretrain | finetune | distill | export`."""

from __future__ import annotations

import json as json_module
import time
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from edp_robot.config import presets

FROM = tyro.conf.arg(name="from")  # a keyword of Python's, so not a parameter's name
SET = tyro.conf.arg(name="set")  # a builtin's name
Preset = Literal["smoke", "demo", "paper"]


def write_json(path: Path | None, result: dict[str, Any]) -> None:
    """Writes a result for other programs, keys sorted; nothing where no file was asked for."""
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json_module.dumps(result, indent=1, sort_keys=True, allow_nan=False) + "\n")


def pretrain(
    out: Path,
    task: str = "arm",
    method: Literal["edp", "rnd", "particle", "random"] = "edp",
    env_steps: int | None = None,
    seed: int = 0,
    n_seeds: int = 1,
    preset: Preset = "demo",
    settings: Annotated[tuple[str, ...], SET] = (),
    device: Literal["auto", "cpu", "cuda"] = "auto",
    resume: bool = False,
    json: Path | None = None,
) -> int:
    """Explore a task's world without reward, and fit a diffusion policy to what was done.

    Example: edp pretrain --task arm --env-steps 50000 --out runs/arm

    Args:
        out: Run folder.
        task: `edp tasks` lists them.
        method: What pays: edp, states that a diffusion model does not know; rnd, states on which a random network is
            not yet predicted; particle, states far from others. random acts uniformly.
        env_steps: Control steps of all environments of one seed; the preset's where not given.
        seed: Of everything.
        n_seeds: Independent learners trained at once, as stacked networks.
        preset: Sizes and rates.
        settings: Any other field of the run's config.json, as NAME=VALUE: ddpg.discount=0.95 score_reward.n_draws=8.
        device: Where the networks are trained; auto: on a GPU where torch sees one.
        resume: Go on from the checkpoint in --out.
        json: File to write the result to.
    """
    from edp_robot.config.settings import changed
    from edp_robot.training.devices import pick
    from edp_robot.training.pretrain import pretrain as run
    from edp_robot.training.runs import read_metrics

    config = presets.pretrain(
        preset, task, method=method, env_steps=env_steps, seed=seed, n_seeds=n_seeds
    )
    config = changed(config, settings)
    progress = run(config, str(out), resume, pick(device))
    result: dict[str, Any] = {
        "env_steps": progress.env_step,
        "wall_s": progress.wall_s,
        "n_seeds": n_seeds,
    }
    for name in ("coverage", "n_episodes", "n_success_episodes", "grad_steps"):
        values = read_metrics(out, name)[1]
        if len(values):
            result[name] = float(values[-1])
    print(", ".join(f"{k} {v:.4g}" for k, v in result.items()))
    write_json(json, result)
    return 0


def finetune(
    out: Path,
    task: str = "arm-press",
    start: Annotated[Path | None, FROM] = None,
    from_seed: int = 0,
    method: Literal["edp", "edp-guidance", "ddpg"] = "edp",
    env_steps: int | None = None,
    seed: int = 0,
    preset: Preset = "demo",
    reuse_replay: bool | None = None,
    settings: Annotated[tuple[str, ...], SET] = (),
    eval_every: int = 10_000,
    eval_episodes: int = 200,
    resume: bool = False,
    json: Path | None = None,
) -> int:
    """Fine-tune a pre-trained policy to a task's reward; from scratch where no --from is given.

    Example: edp finetune --task arm-press --from runs/arm --out runs/press

    Args:
        out: Run folder.
        task: `edp tasks` lists them.
        start: Run folder of the pre-training.
        from_seed: Which of its seeds, where it trained several at once.
        method: edp or edp-guidance improve the diffusion policy, ddpg the Gaussian one.
        env_steps: Control steps of all environments together; the preset's where not given.
        seed: Of everything.
        preset: Sizes and rates; give the one that the pre-training had.
        reuse_replay: Relabel what pre-training saw with the task's reward; the preset's choice where not given.
        settings: Any other field of the run's config.json, as NAME=VALUE: iql.expectile=0.8 offline_rounds=10.
        eval_every: Control steps between evaluations of 100 episodes; 0 for none.
        eval_episodes: Episodes of the evaluation at the end.
        resume: Go on from the checkpoint in --out.
        json: File to write the result to.
    """
    from edp_robot.config.settings import changed
    from edp_robot.training.finetune import final_policy
    from edp_robot.training.finetune import finetune as run

    changes = {"method": method, "env_steps": env_steps, "seed": seed, "reuse_replay": reuse_replay}
    config = presets.finetune(preset, task, start=str(start or ""), start_seed=from_seed, **changes)
    config = changed(config, settings)
    progress = run(config, str(out), resume, eval_every)
    evaluation = final_policy(out, eval_episodes)
    print(
        f"success {evaluation.success:.3f} [{evaluation.success_low:.3f}, {evaluation.success_high:.3f}]"
    )
    write_json(
        json, {"env_steps": progress.env_step, "wall_s": progress.wall_s, **evaluation.to_json()}
    )
    return 0


def clone(
    out: Path,
    task: str = "modes",
    data: Path | None = None,
    seed: int = 0,
    preset: Preset = "demo",
    settings: Annotated[tuple[str, ...], SET] = (),
    resume: bool = False,
    json: Path | None = None,
) -> int:
    """Fit a diffusion policy to demonstrations.

    Example: edp clone --task modes --out runs/modes

    Args:
        out: Run folder.
        task: `edp tasks` lists them.
        data: File .npz with arrays obs (n, obs_dim), raw, and action (n, act_dim) in [-1, 1]; where not given, the
            task's own expert shows its actions (modes and gym:FetchReach-v4 have one).
        seed: Of everything.
        preset: Sizes and rates.
        settings: Any other field of the run's config.json, as NAME=VALUE: n_chunks=100.
        resume: Go on from the checkpoint in --out.
        json: File to write the result to.
    """
    from edp_robot.config.settings import changed
    from edp_robot.training.clone import clone as run
    from edp_robot.training.runs import read_metrics

    began = time.monotonic()
    config = presets.clone(preset, task, data=str(data or ""), seed=seed)
    run(changed(config, settings), str(out), resume)
    loss = float(read_metrics(out, "denoising_loss")[1][-1])
    print(f"denoising loss {loss:.3g}")
    write_json(json, {"denoising_loss": loss, "wall_s": time.monotonic() - began})
    return 0


def distill(
    start: Annotated[Path, FROM],
    out: Path,
    steps: Literal[1, 2, 4] = 1,
    method: Literal["paired", "consistency"] = "paired",
    width: int | None = None,
    n_layers: int | None = None,
    seed: int = 0,
    preset: Preset = "demo",
    settings: Annotated[tuple[str, ...], SET] = (),
    resume: bool = False,
    json: Path | None = None,
) -> int:
    """Distil a run's diffusion policy from 15 denoising steps to 1, 2 or 4 network calls.

    Example: edp distill --from runs/press --steps 1 --out runs/student

    Args:
        start: Run folder with the teacher.
        out: Run folder.
        steps: Network calls of the student.
        method: paired regression on the teacher's own noise-to-action map (of 2 or 4 calls the last ones are the
            teacher's solver's), or consistency distillation along its ODE.
        width: Of the student's layers; the preset's where not given.
        n_layers: Hidden layers of the student; the preset's where not given.
        seed: Of everything.
        preset: Sizes and rates.
        settings: Any other field of the run's config.json, as NAME=VALUE: activation=relu n_chunks=100.
        resume: Go on from the checkpoint in --out.
        json: File to write the result to.
    """
    from edp_robot.config.settings import changed
    from edp_robot.training.distill import distill as run
    from edp_robot.training.runs import read_metrics

    began = time.monotonic()
    sizes = {"width": width, "n_layers": n_layers}
    config = presets.distill(preset, str(start), steps=steps, method=method, seed=seed, **sizes)
    run(changed(config, settings), str(out), resume)
    loss = float(read_metrics(out, "loss")[1][-1])
    what = "distance of actions" if method == "paired" else "mean square along the teacher's steps"
    print(f"{method} loss {loss:.2g} ({what} in [-1, 1])")
    write_json(json, {"loss": loss, "wall_s": time.monotonic() - began})
    return 0


def export(
    start: Annotated[Path, FROM],
    out: Path,
    denoise_steps: int = 15,
    best_of: int = 1,
    metrics: Path | None = None,
    json: Path | None = None,
) -> int:
    """Export a run's policy as a bundle: one ONNX graph with everything in it, checked against torch.

    Example: edp export --from runs/student --out runs/bundle

    Args:
        start: Run folder of a distillation, or of a training for the teacher itself.
        out: Bundle folder.
        denoise_steps: Of the solver, where the run holds a teacher.
        best_of: Draw K actions inside the graph and answer the one that the fine-tuning's critic values most.
        metrics: JSON file with what is known of the policy, for the manifest.
        json: File to write the result to.
    """
    from edp_robot.deploy.export import export as run

    began = time.monotonic()
    known = json_module.loads(metrics.read_text()) if metrics else None
    bundle = run(start, out, known, denoise_steps, best_of)
    error = bundle.manifest.parity["max_abs_error"]
    print(f"{bundle.manifest.name}: {bundle.path}, largest difference from torch {error:.2g}")
    write_json(
        json,
        {"max_abs_error": error, "name": bundle.manifest.name, "wall_s": time.monotonic() - began},
    )
    return 0
