"""Two results side by side, and whether their percentiles differ by more than their intervals."""

from typing import Any

from policy_server.bench.statistics import PERCENTILES


def compare(before: dict[str, Any], after: dict[str, Any]) -> str:
    """Returns one line for each number that both results have: before, after, ratio and verdict.

    A percentile that has its interval in both results gets a verdict: "same within the interval"
    where the two intervals overlap, else "faster" or "slower". This is cautious, since percentiles
    may differ although their intervals overlap a little.

    Args:
        before: JSON of an earlier measurement.
        after: JSON of a later one.
    """
    old = _numbers(before)
    new = _numbers(after)
    common = [name for name in old if name in new]
    if not common:
        return "nothing to compare: the two files have no number in common"
    verdicts = _verdicts(before, after)
    width = max(map(len, common))
    lines = [f"{'':{width}}  {'before':>12}  {'after':>12}  after/before"]
    for name in common:
        ratio = f"{new[name] / old[name]:.3f}" if old[name] else "-"
        numbers = f"{old[name]:12.6g}  {new[name]:12.6g}  {ratio:>12}"
        lines.append(f"{name:{width}}  {numbers}  {verdicts.get(name, '')}".rstrip())
    return "\n".join(lines)


def verdict(before_ci: list[float | None], after_ci: list[float | None]) -> str:
    """Returns what two intervals of a latency say: same, faster, slower or unknown.

    Args:
        before_ci: [low, high] of the earlier latency. None is no bound: too few samples, or
            requests without an answer.
        after_ci: [low, high] of the later one.
    """
    old_low, old_high = before_ci
    new_low, new_high = after_ci
    if new_high is not None and old_low is not None and new_high < old_low:
        return "faster"
    if new_low is not None and old_high is not None and new_low > old_high:
        return "slower"
    if None in (*before_ci, *after_ci):
        return "unknown: too few samples, or answers missing"
    return "same within the interval"


def _verdicts(before: Any, after: Any, prefix: str = "") -> dict[str, str]:
    """Returns the verdicts on all percentiles of nested results, by dotted name."""
    if not isinstance(before, dict) or not isinstance(after, dict):
        return {}
    found = {}
    for key in before.keys() & after.keys():
        found.update(_verdicts(before[key], after[key], f"{prefix}{key}."))
    for name, _ in PERCENTILES:
        if f"{name}_ci" in before and f"{name}_ci" in after:
            found[prefix + name] = verdict(before[f"{name}_ci"], after[f"{name}_ci"])
    return found


def _numbers(value: Any, prefix: str = "") -> dict[str, float]:
    """Returns every number of nested dictionaries, by dotted name."""
    if isinstance(value, dict):
        found = {}
        for key, item in value.items():
            found.update(_numbers(item, f"{prefix}.{key}" if prefix else str(key)))
        return found
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return {prefix: float(value)} if is_number else {}
