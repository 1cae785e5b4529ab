"""`edp pretrain | finetune | clone | distill | export`."""

from __future__ import annotations

import json as json_module
import time
from pathlib import Path
from typing import Annotated, Any, Literal

from edp_robot.cli.arguments import FROM, SET, Preset
from policy_server.contract.disk.files import write_json
from policy_server.contract.disk.outputs import OutFile, OutFolder

COUNTED = ("cpu_s", "coverage", "n_episodes", "n_success_episodes", "episode_return", "grad_steps")


def pretrain(
    out: OutFolder,
    task: str = "arm",
    method: str = "edp",
    env_steps: int | None = None,
    seed: int = 0,
    n_seeds: int = 1,
    preset: Preset = "demo",
    settings: Annotated[tuple[str, ...], SET] = (),
    device: Literal["auto", "cpu", "cuda"] = "auto",
    resume: bool = False,
    json: OutFile | None = None,
) -> int:
    """Explore a task's world without reward, and fit a diffusion policy to what was done.

    Example: edp pretrain --task arm --env-steps 50000 --out runs/arm

    Args:
        out: Run folder.
        task: Name of a task (`edp tasks` lists them), or your own as package.module:Class.
        method: Intrinsic reward. edp rewards states that a diffusion model does not know, rnd
            states whose random features are hard to predict, particle states far from others.
            random acts uniformly. `edp plugins` lists all of them with their settings. Your own:
            package.module:Class.
        env_steps: Control steps of all environments of one seed. Default: the preset's; with
            --resume the run's own. A finished run goes on if they are more.
        seed: Seeds all random generators.
        n_seeds: Independent learners trained at once, as stacked networks.
        preset: Sizes and rates.
        settings: Other fields of the run's config.json, as NAME=VALUE: ddpg.discount=0.95
            loop.max_cpu_s=240 (a budget of processor time [s]). `edp plugins` lists the methods'.
        device: Where the networks are trained. auto: on a GPU where torch finds one.
        resume: Continue from the checkpoint in --out.
        json: File to write the result to.
    """
    from edp_robot.config import presets
    from edp_robot.training.devices import pick
    from edp_robot.training.pretrain import pretrain as run

    config = presets.pretrain(
        preset, task, method=method, env_steps=env_steps, seed=seed, n_seeds=n_seeds
    )
    config = _resumed(config, settings, out, resume and env_steps is None)
    progress = run(config, str(out), resume, pick(device))
    result = {"env_steps": progress.env_step, "wall_s": progress.wall_s, "n_seeds": n_seeds}
    for name in COUNTED:
        result |= _last(out, name)
    print(", ".join(f"{key} {value:.4g}" for key, value in result.items()))
    write_json(json, result)
    return 0


def _resumed(config: Any, settings: tuple[str, ...], out: Path, keeps_length: bool) -> Any:
    """Returns the config with the settings, and with the length of the run in `out` if asked to.

    A resumed run keeps its length where no option and no setting gives another one.
    """
    from edp_robot.config.settings import changed
    from edp_robot.training.runs import with_held_length

    return changed(with_held_length(config, out) if keeps_length else config, settings)


def _last(run: Path, metric: str) -> dict[str, float]:
    """Returns the last value of a run's metric by its name, {} where the run has none."""
    from edp_robot.training.runs import read_metrics

    _, values = read_metrics(run, metric)
    return {metric: float(values[-1])} if len(values) else {}


def finetune(
    out: OutFolder,
    task: str = "arm-press",
    start: Annotated[Path | None, FROM] = None,
    from_seed: int = 0,
    method: str = "resampling",
    env_steps: int | None = None,
    seed: int = 0,
    preset: Preset = "demo",
    reuse_replay: bool | None = None,
    settings: Annotated[tuple[str, ...], SET] = (),
    eval_every: int = 10_000,
    eval_episodes: int = 200,
    resume: bool = False,
    json: OutFile | None = None,
) -> int:
    """Fine-tune a pre-trained policy to a task's reward. Without --from, start from scratch.

    Example: edp finetune --task arm-press --from runs/arm --out runs/press

    Args:
        out: Run folder.
        task: Name of a task (`edp tasks` lists them), or your own as package.module:Class.
        start: Run folder of the pre-training.
        from_seed: Which of its seeds, where it trained several at once.
        method: Fine-tuner: resampling, edp and others (diffusion policies), onestep (one network
            call), ddpg (Gaussian policy), or your own as package.module:Class; `edp plugins` lists
            all with their settings.
        env_steps: Control steps of all environments together. Default: the preset's; with
            --resume the run's own. A finished run goes on if they are more.
        seed: Seeds all random generators.
        preset: Sizes and rates. Give the one that the pre-training had.
        reuse_replay: Learn from the pre-training's data too. Default: the preset's choice.
        settings: Other fields of the run's config.json, such as tuner.iql.expectile=0.8.
        eval_every: Control steps between evaluations of 100 episodes, the first of them before
            the first control step; 0 for none.
        eval_episodes: Episodes of the evaluation at the end; 0 for none.
        resume: Continue from the checkpoint in --out.
        json: File to write the result to.
    """
    from edp_robot.config import presets
    from edp_robot.training.finetune import finetune as run

    changes = {"method": method, "env_steps": env_steps, "seed": seed, "reuse_replay": reuse_replay}
    made = presets.finetune(preset, task, start=str(start or ""), start_seed=from_seed, **changes)
    config = _resumed(made, settings, out, resume and env_steps is None)
    progress = run(config, str(out), resume, eval_every)
    done = {"env_steps": progress.env_step, "wall_s": progress.wall_s}
    write_json(json, done | (_evaluated(config, out, eval_episodes) if eval_episodes else {}))
    return 0


def _evaluated(config: Any, out: Path, n_episodes: int) -> dict[str, Any]:
    """Prints and returns how well the final policy of a fine-tuning does."""
    from edp_robot.training.finetune import final_policy

    found = final_policy(config, out, n_episodes)
    print(found.said())
    return found.to_json()


def clone(
    out: OutFolder,
    task: str = "modes",
    data: Path | None = None,
    seed: int = 0,
    preset: Preset = "demo",
    settings: Annotated[tuple[str, ...], SET] = (),
    resume: bool = False,
    json: OutFile | None = None,
) -> int:
    """Fit a diffusion policy to demonstrations.

    Example: edp clone --task modes --out runs/modes

    Args:
        out: Run folder.
        task: Name of a task (`edp tasks` lists them), or your own as package.module:Class.
        data: File (.npz) with obs (n, obs_dim), raw, and action (n, act_dim) in [-1, 1]. Default:
            the task's own expert acts (modes and gym:FetchReach-v4 have one).
        seed: Seeds all random generators.
        preset: Sizes and rates.
        settings: Other fields of the run's config.json, as NAME=VALUE: n_chunks=100.
        resume: Continue from the checkpoint in --out.
        json: File to write the result to.
    """
    from edp_robot.config import presets
    from edp_robot.training.clone import clone as run

    began = time.monotonic()
    config = presets.clone(preset, task, data=str(data or ""), seed=seed)
    run(_resumed(config, settings, out, resume), str(out), resume)
    result = _last(out, "denoising_loss")
    print(f"denoising loss {result['denoising_loss']:.3g}")
    write_json(json, {**result, "wall_s": time.monotonic() - began})
    return 0


def distill(
    start: Annotated[Path, FROM],
    out: OutFolder,
    steps: Literal[1, 2, 4] = 1,
    method: Literal["paired", "consistency"] = "paired",
    width: int | None = None,
    n_layers: int | None = None,
    seed: int = 0,
    preset: Preset = "demo",
    settings: Annotated[tuple[str, ...], SET] = (),
    resume: bool = False,
    json: OutFile | None = None,
) -> int:
    """Distil a run's diffusion policy from 15 denoising steps to 1, 2 or 4 network calls.

    Example: edp distill --from runs/press --steps 1 --out runs/student

    Args:
        start: Run folder with the teacher.
        out: Run folder.
        steps: Network calls of the student.
        method: paired: regression on the teacher's own map from noise to action. With 2 or 4 calls,
            the last ones are steps of the teacher's solver. consistency: consistency distillation
            along the teacher's ODE.
        width: Width of the student's layers. Default: the preset's.
        n_layers: Hidden layers of the student. Default: the preset's.
        seed: Seeds all random generators.
        preset: Sizes and rates.
        settings: Other fields of the run's config.json, as NAME=VALUE: activation=relu
            n_chunks=100.
        resume: Continue from the checkpoint in --out.
        json: File to write the result to.
    """
    from edp_robot.config import presets
    from edp_robot.training.distill import distill as run

    began = time.monotonic()
    sizes = {"width": width, "n_layers": n_layers}
    config = presets.distill(preset, str(start), steps=steps, method=method, seed=seed, **sizes)
    run(_resumed(config, settings, out, resume), str(out), resume)
    result = _last(out, "loss")
    what = "distance of actions" if method == "paired" else "mean square along the teacher's steps"
    print(f"{method} loss {result['loss']:.2g} ({what} in [-1, 1])")
    write_json(json, {**result, "wall_s": time.monotonic() - began})
    return 0


def export(
    start: Annotated[Path, FROM],
    out: OutFolder,
    denoise_steps: int = 15,
    best_of: int | None = None,
    metrics: Path | None = None,
    json: OutFile | None = None,
) -> int:
    """Export a run's policy as a bundle: one ONNX graph, checked against torch.

    Example: edp export --from runs/student --out runs/bundle

    Args:
        start: Run folder of a distillation, or of a training to export the teacher itself.
        out: Bundle folder.
        denoise_steps: Denoising steps of the solver, where the run holds a teacher.
        best_of: Draws K actions inside the graph and answers the one that the fine-tuning's critic
            values most.
        metrics: JSON file with what is known of the policy, for the manifest.
        json: File to write the result to.
    """
    from edp_robot.deploy.export import export as run

    began = time.monotonic()
    known: dict[str, Any] | None = json_module.loads(metrics.read_text()) if metrics else None
    bundle = run(start, out, known, denoise_steps, best_of)
    name = bundle.manifest.name
    parity = bundle.manifest.parity
    error = parity["max_abs_error"]
    relative = parity["max_relative_error"]
    print(
        f"{name}: {bundle.path}, largest difference from torch {error:.2g}, "
        f"{relative:.2g} of the range"
    )
    errors = {"max_abs_error": error, "max_relative_error": relative}
    result = {**errors, "name": name, "wall_s": time.monotonic() - began}
    write_json(json, result)
    return 0
