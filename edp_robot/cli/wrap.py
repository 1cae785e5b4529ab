"""`edp wrap`: makes a bundle of any ONNX policy, and asks for what the policy does not say."""

from __future__ import annotations

import math
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from policy_server.contract.disk.files import write_json
from policy_server.contract.disk.outputs import OutFolder
from policy_server.contract.errors import printable

if TYPE_CHECKING:
    from edp_robot.deploy.wrap.command_map import MapName
    from edp_robot.deploy.wrap.known_fields import Known
    from edp_robot.deploy.wrap.make_bundle import Wrapped

HEADER = ("vector", "field", "size", "unit", "low", "high", "max rate", "from")


def wrap(
    onnx: Path,
    out: OutFolder,
    task: str | None = None,
    fields: Path | None = None,
    control_hz: float | None = None,
    output: str | None = None,
    noise: str | None = None,
    action_map: Literal["task", "metadata", "limits", "none"] | None = None,
    name: str | None = None,
    state: tuple[str, ...] = (),
    history: int | None = None,
    history_order: Literal["term", "step"] | None = None,
) -> int:
    """Make a bundle of any ONNX policy.

    Names and limits come from a task, a file, the policy's metadata or your answers.
    Example: edp wrap --onnx policy.onnx --task arm-reach-left --action-map task --out runs/bundle

    Args:
        onnx: Policy: one obs vector in, (batch, act_dim) or (batch, horizon, act_dim) out.
        out: Bundle folder. A bundle that is there, with nothing beside it, is replaced.
        task: Task that the policy was trained for; `edp tasks` lists them.
        fields: File of names, units and limits; docs/your_policy.md has its schema.
        control_hz: Control rate [Hz].
        output: Name of the output that is the action, where there are several.
        noise: Name of the second input, where it is standard normal noise.
        action_map: What the policy's answers mean. task: [-1, 1], for the task's own action map.
            metadata: default_joint_pos + action_scale * answer. limits: [-1, 1], spread over low to
            high. none: commands.
        name: Name of the policy. Default: the file's.
        state: IN:OUT of each recurrent state, where names like h_in and h_out do not tell.
        history: How many observations the policy sees, the newest included.
        history_order: How these lie in its input. term: all steps of a field, then the next field.
    """
    from edp_robot.deploy.wrap import command_map, foreign_policy, make_bundle
    from policy_server.contract.bundle_folder import check_replaceable

    check_replaceable(out)
    steps = {"history": history, "history_order": history_order}
    told = {"control_hz": control_hz, "action_map": action_map, "name": name, **steps}
    given = {"onnx": onnx, "out": out, "task": task, "output": output, "noise": noise, **told}
    spec = _spec(task)
    foreign = foreign_policy.read_policy(onnx, output, noise, state)
    known = make_bundle.gather(foreign, spec, fields, _told(told), onnx.stem)
    maps = command_map.possible_maps(spec, foreign.metadata)
    if known.missing() and not sys.stdin.isatty():
        return _hand_back(known, maps, fields, out, given, state)
    known = _asked(known, maps)
    return _report(known, make_bundle.wrap(foreign, known, out, task), out, task)


def _spec(task: str | None) -> Any:
    """Returns the spec of a task, or None where none is given."""
    from sim.core.registry import task_spec

    return task_spec(task) if task else None


def _told(given: dict[str, Any]) -> Known:
    """Returns what the options say. Raises ValueError for a rate that is not above 0."""
    from edp_robot.deploy.wrap.known_fields import Known

    hz = given["control_hz"]
    if hz is not None and not 0 < hz < math.inf:
        raise ValueError(f"--control-hz {hz}: expected a number above 0")
    steps = given["history"]
    if steps is not None and steps < 1:
        raise ValueError(f"--history {steps}: expected a whole number >= 1")
    return Known(**given, sources={key: _option(key) for key, value in given.items() if value})


def _option(key: str) -> str:
    return f"--{key.replace('_', '-')}"


def _asked(known: Known, maps: tuple[MapName, ...]) -> Known:
    """Returns what is known after asking for what is missing."""
    from edp_robot.deploy.wrap.questions import ask_all

    if known.missing():
        print("Enter takes the default in [brackets]; an answer that ends in * fills later fields")
    return ask_all(known, maps, _ask, print)


def _ask(text: str) -> str:
    """Returns the line typed. Raises ValueError where the input ends."""
    try:
        return input(text)
    except EOFError as error:
        raise ValueError(
            "the input ended before every question was answered; nothing was written"
        ) from error


def _hand_back(
    known: Known,
    maps: tuple[MapName, ...],
    fields: Path | None,
    out: Path,
    options: dict[str, Any],
    states: tuple[str, ...],
) -> int:
    """Prints what is missing, writes a fields file to fill in, and returns the exit status 1."""
    print(f"not known yet, so {out} was not written:")
    for vector, index, key in known.missing():
        print(f"  {_missing(known, vector, index, key, maps)}")
    template = fields or Path(f"{out}.fields.json")
    if fields is not None:
        print(f'replace the nulls in {template} ("none" is no limit), add what it lacks, then:')
    elif template.exists():
        print(f"{template} is there already and was not replaced;")
        print("remove it for a new template, or fill in its nulls:")
    else:
        write_json(template, known.to_json())
        print(f'wrote {template}; replace its nulls ("none" is no limit), then:')
    pairs = [(_option(key), str(value)) for key, value in options.items() if value is not None]
    words = [word for pair in pairs for word in pair]
    words += ["--state", *states] if states else []
    print("  edp wrap " + shlex.join([*words, "--fields", str(template)]))
    return 1


def _missing(known: Known, vector: str, index: int, key: str, maps: tuple[MapName, ...]) -> str:
    """Returns in words what is missing; for the action map, also the choices."""
    from edp_robot.deploy.wrap.command_map import MAP_HELP
    from edp_robot.deploy.wrap.history import ORDER_HELP

    if vector:
        field = getattr(known, vector)[index].name
        return f"{vector}[{index}].{key}" + (f" ({field})" if field else "")
    if key == "history_order":
        return "\n".join([key, *(f"    {name}: {text}" for name, text in ORDER_HELP.items())])
    if key != "action_map":
        return key
    return "\n".join([key, *(f"    {name}: {MAP_HELP[name]}" for name in maps)])


def _report(known: Known, wrapped: Wrapped, out: Path, task: str | None) -> int:
    """Prints fields and their sources, parity and next commands; returns the exit status 0."""
    from edp_robot.deploy.wrap.make_bundle import MUCH_CLIPPED

    manifest = wrapped.bundle.manifest
    print(_field_table(known, manifest))
    source = known.sources
    rate = f"{known.control_hz:g} Hz ({source.get('control_hz')})"
    steps = f"horizon {manifest.horizon}, of which {manifest.n_action_steps} executed"
    print(f"\n{rate}, action map {known.action_map} ({source.get('action_map')}), {steps},")
    print(f"noise {manifest.latent_dim or 'none'}{_memory(manifest)}")
    parity = manifest.parity
    errors = f"{parity['max_abs_error']:.2g}, {parity['max_relative_error']:.2g} of the range"
    print(f"parity with the original over {parity['n']} drawn obs: max abs error {errors};")
    print(f"the limits clipped {wrapped.clipped:.1%} of the commands")
    if wrapped.clipped > MUCH_CLIPPED:
        print("  more than half was clipped: check --action-map, the units and the limits")
        print("  before a robot moves")
    check = f"edp evaluate --bundle {out}" if task else f"edp bench latency {out}"
    print(f"wrote {out}; next:\n  {check}\n  edp serve {out}")
    return 0


def _memory(manifest: Any) -> str:
    """Returns what the policy remembers, in words; "" for nothing."""
    if not manifest.state_dim:
        return ""
    ports = ", ".join(f"{a} from {b}" for a, b, _ in manifest.sampler.get("states", []))
    said = [f"state {ports}"] if ports else []
    if manifest.history > 1:
        order = manifest.sampler["history_order"]
        said.append(f"the last {manifest.history} observations (order {order})")
    text = f"\nmemory of {manifest.state_dim} numbers: {' and '.join(said)}"
    if manifest.n_action_steps > 1:
        text += f"\n  it advances once a query, so once every {manifest.n_action_steps} actions"
    return text


def _field_table(known: Known, manifest: Any) -> str:
    """Returns a table of all fields, with the source of each."""
    rows: list[tuple[str, ...]] = [HEADER]
    for vector in ("obs", "action"):
        for field, draft in zip(getattr(manifest, vector), getattr(known, vector), strict=True):
            max_rate = field.max_rate or (math.inf,)
            limits = (_span(field.low, min), _span(field.high), _span(max_rate))
            size = str(field.stop - field.start)
            sources = ", ".join(draft.sources)
            name = printable(field.name)
            rows.append((vector, name, size, printable(field.unit), *limits, sources))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=True)]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def _span(values: tuple[float, ...], widest: Callable[[tuple[float, ...]], float] = max) -> str:
    """Returns a limit's widest entry, and whether the others differ."""
    value = widest(values)
    text = "none" if math.isinf(value) else f"{value:.4g}"
    return text if len(set(values)) == 1 else f"{text} (varies)"
