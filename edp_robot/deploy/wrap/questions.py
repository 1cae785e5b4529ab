"""The questions about what is missing: one for each, with a default, and what an answer does."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

from edp_robot.deploy.wrap.command_map import MAP_HELP, MapName
from edp_robot.deploy.wrap.foreign_file import WrapError
from edp_robot.deploy.wrap.history import ORDER_HELP
from edp_robot.deploy.wrap.known_fields import CHOICES, LIMITS, NO_LIMIT, Draft, Known

ASKED = "asked"
FOR_ALL = "*"  # an answer that ends in it also goes to all later fields of the vector
DEFAULT_HZ = 50.0


@dataclass(frozen=True)
class Question:
    """One question.

    Attributes:
        vector: "obs" or "action"; "" for what belongs to no field.
        index: Index of the field.
        key: What is asked for.
        text: The question.
        default: The answer that an empty line stands for.
    """

    vector: str
    index: int
    key: str
    text: str
    default: str


def next_question(known: Known, maps: tuple[MapName, ...]) -> Question | None:
    """Returns the question about the first thing that is missing, or None where nothing is.

    Args:
        known: What is known.
        maps: The action maps that are possible, the likeliest first.
    """
    missing = known.missing()
    if not missing:
        return None
    vector, index, key = missing[0]
    if key == "action_map":
        choices = "; ".join(f"{name}: {MAP_HELP[name]}" for name in maps)
        return Question("", 0, key, f"what do the answers mean? {choices}", maps[0])
    if key == "history_order":
        choices = "; ".join(f"{name}: {text}" for name, text in ORDER_HELP.items())
        return Question("", 0, key, f"how does the history lie in the input? {choices}", "term")
    if key == "control_hz":
        return Question("", 0, key, "how many times a second does it act [Hz]", f"{DEFAULT_HZ:g}")
    drafts = known.drafts(vector)
    draft = drafts[index]
    if key == "name" and len(drafts) == 1:
        text = (
            f"names and sizes of the {vector} fields, as NAME:SIZE,NAME:SIZE "
            f"({draft.size} entries in all)"
        )
        return Question(vector, index, "fields", text, f"{vector}:{draft.size}")
    text = f"{vector} {draft.name or f'{vector}[{index}]'}: {_what(draft, key)}"
    return Question(vector, index, key, text, _default(draft, vector, index, key))


def answered(known: Known, question: Question, text: str) -> Known:
    """Returns what is known after an answer; an empty one takes the default.

    Args:
        known: What is known before.
        question: The question.
        text: The answer.

    Raises:
        WrapError: The answer does not fit the question; ask again.
    """
    for_all = text.strip().endswith(FOR_ALL)
    text = text.strip().removesuffix(FOR_ALL).strip() or question.default
    vector = question.vector
    key = question.key
    if not vector:
        value = _choice(key, text) if key in CHOICES else _positive(text)
        return replace(known, **{key: value}, sources={**known.sources, key: ASKED})
    drafts = known.drafts(vector)
    if key == "fields":
        parts = _split(text, drafts[0].size or 0)
        return replace(known, **{vector: parts}, sources={**known.sources, vector: ASKED})
    value = _value(key, text)
    first = question.index
    end = len(drafts) if for_all else first + 1
    told = tuple(_told(draft, key, value) for draft in drafts[first:end])
    return replace(known, **{vector: (*drafts[:first], *told, *drafts[end:])})


def ask_all(
    known: Known, maps: tuple[MapName, ...], ask: Callable[[str], str], say: Callable[[str], object]
) -> Known:
    """Returns `known` after asking until nothing is missing.

    Args:
        known: What is known.
        maps: The action maps that are possible, the likeliest first.
        ask: Shows a text and returns the line that is typed.
        say: Shows a complaint; then the question is asked again.
    """
    while (question := next_question(known, maps)) is not None:
        try:
            known = answered(known, question, ask(f"{question.text} [{question.default}]: "))
        except WrapError as error:
            say(f"  {error}")
    return known


def _what(draft: Draft, key: str) -> str:
    """Returns what is asked about a field."""
    several = f", one for all or {draft.size} separated by commas" if (draft.size or 1) > 1 else ""
    unit = draft.unit or "1"
    end = f"{several}; {NO_LIMIT!r} for no limit"
    return {
        "name": "name",
        "size": "how many entries",
        "unit": "unit ('1' for none)",
        "low": f"smallest value [{unit}]{end}",
        "high": f"largest value [{unit}]{end}",
        "max_rate": f"fastest change [{unit}/s]{end}",
    }[key]


def _default(draft: Draft, vector: str, index: int, key: str) -> str:
    """Returns the default of a question.

    Joints are in rad and reach half a turn, other actions reach [-1, 1], obs have no limits.
    """
    if key in ("name", "size"):
        return f"{vector}_{index}" if key == "name" else "1"
    is_action = vector == "action"
    if key == "unit":
        return "rad" if is_action and (draft.name or "").endswith(".target") else "1"
    if key == "max_rate" or not is_action:
        return NO_LIMIT
    limit = f"{math.pi:.4f}" if draft.unit == "rad" else "1"
    return f"-{limit}" if key == "low" else limit


def _told(draft: Draft, key: str, value: object) -> Draft:
    """Returns the draft with an answer in it, unless the key was known already."""
    if getattr(draft, key) is not None:
        return draft
    if isinstance(value, tuple) and len(value) not in (1, draft.size):
        raise WrapError(
            f"{len(value)} numbers for {draft.name}, which has {draft.size} entries; "
            f"give 1 or {draft.size}"
        )
    sources = tuple(dict.fromkeys((*draft.sources, ASKED)))
    return replace(draft, **{key: value}, sources=sources)


def _value(key: str, text: str) -> object:
    """Returns an answer about a field: text, whole number, or limits as a tuple."""
    if key in ("name", "unit"):
        return text
    if key == "size":
        if not text.isdecimal() or int(text) < 1:
            raise WrapError(f"{text!r}: expected a whole number >= 1")
        return int(text)
    parts = [part.strip() for part in text.split(",")]
    try:
        values = tuple(LIMITS[key] if part == NO_LIMIT else float(part) for part in parts)
    except ValueError as error:
        raise WrapError(
            f"{text!r}: expected numbers separated by commas, or {NO_LIMIT!r}"
        ) from error
    if any(map(math.isnan, values)):
        raise WrapError(f"{text!r}: expected numbers, got NaN")
    return values


def _split(text: str, size: int) -> tuple[Draft, ...]:
    """Returns the fields of "NAME:SIZE,..."; a size that is not said is 1."""
    drafts = []
    for part in text.split(","):
        name, colon, count = part.strip().rpartition(":")
        name, count = (name, count.strip()) if colon else (count, "1")
        if not name or not count.isdecimal() or int(count) < 1:
            raise WrapError(f"{text!r}: expected NAME:SIZE,NAME:SIZE like joint_pos:6,joint_vel:6")
        drafts.append(Draft(name, int(count), sources=(ASKED,)))
    total = sum(draft.size or 0 for draft in drafts)
    if total != size:
        raise WrapError(f"{text!r} has {total} entries, the graph {size}")
    return tuple(drafts)


def _choice(key: str, text: str) -> str:
    if text not in CHOICES[key]:
        raise WrapError(f"{text!r}: expected one of {', '.join(CHOICES[key])}")
    return text


def _positive(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise WrapError(f"{text!r}: expected a number of Hz above 0")
    return value
