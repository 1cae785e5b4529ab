"""`edp wrap`: any ONNX policy to a bundle; what is not known is asked for, or handed back as a file to fill in."""

from __future__ import annotations

import json as json_module
import math
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from collections.abc import Callable

    from edp_robot.deploy.wrap.command_map import MapName
    from edp_robot.deploy.wrap.known_fields import Known
    from edp_robot.deploy.wrap.make_bundle import Wrapped

HEADER = ("vector", "field", "size", "unit", "low", "high", "max rate", "from")


def wrap(
    onnx: Path,
    out: Path,
    task: str | None = None,
    fields: Path | None = None,
    control_hz: float | None = None,
    output: str | None = None,
    noise: str | None = None,
    action_map: Literal["task", "metadata", "limits", "none"] | None = None,
    name: str | None = None,
) -> int:
    """Make a bundle of any ONNX policy; names and limits come from a task, a file, the policy's metadata, or you.

    Example: edp wrap --onnx policy.onnx --task arm-reach-left --action-map task --out runs/bundle

    Args:
        onnx: The policy: one observation vector in, (batch, act_dim) or (batch, horizon, act_dim) out.
        out: The bundle's folder; a bundle that is there is replaced.
        task: Task that it was trained for; `edp tasks` lists them.
        fields: File of names, units and limits; docs/wrap.md has its schema, and a template is written where something
            is missing.
        control_hz: How many times a second it acts.
        output: Name of the output that is the action, where there are several.
        noise: Name of the second input, where it has one and that is standard normal noise.
        action_map: What its answers mean. task: [-1, 1], for the task's own action map. metadata: default_joint_pos
            + action_scale * answer. limits: [-1, 1], spread over low to high. none: commands already.
        name: Name of the policy; the file's where not given.
    """
    from edp_robot.deploy.wrap.command_map import possible_maps
    from edp_robot.deploy.wrap.foreign_policy import read_policy
    from edp_robot.deploy.wrap.make_bundle import gather
    from edp_robot.deploy.wrap.make_bundle import wrap as run
    from edp_robot.deploy.wrap.questions import ask_all
    from sim.core.registry import task_spec

    given = {"control_hz": control_hz, "action_map": action_map, "name": name}
    spec = task_spec(task) if task else None
    foreign = read_policy(onnx, output, noise)
    known = gather(foreign, spec, fields, _told(given), onnx.stem)
    maps = possible_maps(spec, foreign.metadata)
    if known.missing() and not sys.stdin.isatty():
        options = {
            "onnx": onnx,
            "out": out,
            "task": task,
            "output": output,
            "noise": noise,
            **given,
        }
        return _hand_back(known, maps, fields, out, options)
    if known.missing():
        print(
            "enter alone takes the default in [brackets]; an answer that ends in * goes to all later fields too"
        )
    known = ask_all(known, maps, _ask, print)
    wrapped = run(foreign, known, out, task)
    _report(known, wrapped, out, task)
    return 0


def _told(given: dict[str, Any]) -> Known:
    """Returns what the options say. Raises ValueError for a rate that is none."""
    from edp_robot.deploy.wrap.known_fields import Known

    hz = given["control_hz"]
    if hz is not None and not 0 < hz < math.inf:
        raise ValueError(f"--control-hz {hz}: expected a number above 0")
    return Known(
        **given,
        sources={key: f"--{key.replace('_', '-')}" for key, value in given.items() if value},
    )


def _ask(text: str) -> str:
    """Returns the line typed. Raises ValueError where the input ends."""
    try:
        return input(text)
    except EOFError as error:
        raise ValueError(
            "the input ended before everything was answered; nothing was written"
        ) from error


def _hand_back(
    known: Known, maps: tuple[MapName, ...], fields: Path | None, out: Path, options: dict
) -> int:
    """Says what is missing, writes a fields file to fill in (never over one that is there), returns 1."""
    from edp_robot.deploy.wrap.command_map import MAP_HELP

    print(f"not known yet, so {out} was not written:")
    for vector, index, key in known.missing():
        field = getattr(known, vector)[index].name if vector else None
        print(f"  {f'{vector}[{index}].{key}' if vector else key}{f' ({field})' if field else ''}")
        if key == "action_map":
            print("\n".join(f"    {name}: {MAP_HELP[name]}" for name in maps))
    template = fields or Path(f"{out}.fields.json")
    if fields is None and template.exists():
        print(
            f"{template} is there already and was not replaced; remove it for a new template, or fill in its nulls:"
        )
    elif fields is None:
        template.parent.mkdir(parents=True, exist_ok=True)
        template.write_text(json_module.dumps(known.to_json(), indent=1, allow_nan=False) + "\n")
        print(f'wrote {template}; replace its nulls ("none" is no limit), then:')
    else:
        print(f'replace the nulls in {template} ("none" is no limit) and add what it lacks, then:')
    words = [
        (f"--{key.replace('_', '-')}", str(value))
        for key, value in options.items()
        if value is not None
    ]
    print(
        "  edp wrap "
        + shlex.join([word for pair in words for word in pair] + ["--fields", str(template)])
    )
    return 1


def _report(known: Known, wrapped: Wrapped, out: Path, task: str | None) -> None:
    """Prints the fields and where each came from, the parity and the next commands."""
    from edp_robot.deploy.wrap.make_bundle import MUCH_CLIPPED

    manifest = wrapped.bundle.manifest
    rows: list[tuple[str, ...]] = [HEADER]
    for vector in ("obs", "action"):
        for field, draft in zip(getattr(manifest, vector), getattr(known, vector), strict=True):
            limits = (
                _span(field.low, min),
                _span(field.high),
                _span(field.max_rate or (math.inf,)),
            )
            rows.append(
                (
                    vector,
                    field.name,
                    str(field.stop - field.start),
                    field.unit,
                    *limits,
                    ", ".join(draft.sources),
                )
            )
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    print(
        "\n".join(
            "  ".join(cell.ljust(n) for cell, n in zip(row, widths, strict=True)).rstrip()
            for row in rows
        )
    )
    source = known.sources
    print(
        f"\n{known.control_hz:g} Hz ({source.get('control_hz')}), action map {known.action_map} "
        f"({source.get('action_map')}), horizon {manifest.horizon}, of which {manifest.n_action_steps} executed, "
        f"noise {manifest.latent_dim or 'none'}"
    )
    parity = manifest.parity
    print(
        f"parity with the original over {parity['n']} drawn obs: max abs error {parity['max_abs_error']:.2g}, "
        f"{parity['max_relative_error']:.2g} of the range; the limits clipped {wrapped.clipped:.1%} of the commands"
    )
    if wrapped.clipped > MUCH_CLIPPED:
        print(
            "  more than half was clipped: check --action-map, the units and the limits before a robot moves"
        )
    episodes = f"  edp evaluate --bundle {out}" if task else f"  edp bench latency {out}"
    print(f"wrote {out}; next:\n{episodes}\n  edp serve {out}")


def _span(values: tuple[float, ...], widest: Callable[[tuple[float, ...]], float] = max) -> str:
    """Returns a limit in a few letters: its widest entry, and whether the others differ."""
    value = widest(values)
    text = "none" if math.isinf(value) else f"{value:.4g}"
    return text if len(set(values)) == 1 else f"{text} (varies)"
