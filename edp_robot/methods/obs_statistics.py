"""How observations are scaled: by the task's limits where they are real, else by what was seen.

Each entry is judged alone. Its limits map to [-1, 1] unless

- one of them is infinite, or so large that it means the same (`NO_LIMIT`);
- the data leave them by more than half their width (`BEYOND`);
- the data span less than a hundredth of their width (`NARROW`). This needs an entry that moves: one
  that is nearly always the same, like a button before it is ever pressed, keeps its finite limits.

Otherwise mean and standard deviation of the data map to 0 and 1. A constant has its own value
subtracted and is not scaled. An entry that once went over to statistics stays with them.

Cloning fits them to its demonstrations, once. On-line training fits them to its replay, again
whenever the replay has grown by a quarter (`GROWTH`), each learner to its own rows. So statistics
follow a policy that moves to new places, and change less and less. Fine-tuning, distillation and
export take over those of the run that they start from, and never change them: the pre-trained
policy would no longer see what it was trained on. Fine-tuning that takes over a run's data alone
fits them to these data, once.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

import numpy as np
import torch

from edp_robot.diffusion.networks import Normaliser
from edp_robot.methods.models import has_limits, normaliser
from edp_robot.methods.replay import Replay
from sim.core.spec import TaskSpec

NARROW = 0.01  # data that span less than this share of the limits' width say nothing in them
BEYOND = 2.0  # half-widths from the middle of the limits: data further out have left them
ENOUGH = 50  # vector steps of on-line training before finite limits are given up
TRIMMED = 0.005  # share of the rows at either end that is moved inwards: an outlier has no weight
TINY = 1e-12  # a smaller standard deviation is rounding of a constant
N_ROWS = 10_000  # rows that statistics are made of, drawn from all
GROWTH = 1.25  # of the replay from one fit to the next
GOALS = ("desired_goal", "achieved_goal")  # one quantity, which the network compares


@dataclass(frozen=True)
class Seen:
    """Statistics of rows of observations, each (obs_dim,) float64.

    Attributes:
        low: Smallest value, outliers left out.
        high: Largest value, outliers left out.
        still: Whether the middle three fifths are the same, within a thousandth of the whole span.
        mean: Mean.
        std: Standard deviation; 0 for a constant.
    """

    low: np.ndarray
    high: np.ndarray
    still: np.ndarray
    mean: np.ndarray
    std: np.ndarray

    @classmethod
    def of(cls, rows: np.ndarray) -> Seen:
        """Returns the statistics of rows (n, obs_dim).

        Of each entry, the `TRIMMED` lowest and highest values (one at least, of three or more)
        count as the next one inwards, unless all others are the same.
        """
        n = len(rows)
        last = n - 1
        trim = min(math.ceil(TRIMMED * n), last // 2)
        fifth = n // 5
        kth = sorted({trim, fifth, last - fifth, last - trim})
        ordered = np.partition(rows, kth, axis=0)
        low = ordered[trim]
        high = ordered[last - trim]
        resolution = np.maximum(TINY, 2 * np.finfo(np.float32).eps * np.maximum(-low, high))
        bulk = ordered[last - fifth] - ordered[fifth]
        kept = np.clip(rows, low, high)
        std = kept.std(0)
        rare = std <= resolution
        std = np.where(rare, rows.std(0), std)
        return cls(
            low=low,
            high=high,
            still=bulk <= np.maximum(resolution, 1e-3 * (high - low)),
            mean=np.where(rare, rows.mean(0), kept.mean(0)),
            std=np.where(std <= resolution, 0.0, std),
        )


def fit(norm: Normaliser, spec: TaskSpec, rows: np.ndarray, doubt_limits: bool = True) -> None:
    """Sets the entries of `norm` whose limits are not real to the statistics of `rows`.

    Rows that are not finite do not count. It does nothing to a normaliser that is frozen, or where
    all limits are real.

    Args:
        norm: What changes.
        spec: The task.
        rows: Raw observations (*stack, n, obs_dim). Each learner of a stack has its own.
        doubt_limits: Whether finite limits may be given up.
    """
    if norm.frozen:
        return
    n = rows.shape[-2]
    if n > N_ROWS:
        rows = rows[..., np.random.default_rng(0).integers(n, size=N_ROWS), :]
    each = rows.reshape(-1, *rows.shape[-2:]).astype(np.float64)
    each = each[:, np.isfinite(each).all((0, 2))]
    if not each.size:
        return
    before = np.broadcast_to(norm.by_data.cpu().numpy(), (len(each), spec.obs_dim))
    fitted = [_scaling(spec, r, old, doubt_limits) for r, old in zip(each, before, strict=True)]
    arrays = [np.stack(parts).reshape(*rows.shape[:-2], -1) for parts in zip(*fitted, strict=True)]
    if arrays[-1].any():
        norm.set_statistics(*(torch.from_numpy(array) for array in arrays))


def follow(norm: Normaliser, spec: TaskSpec, replay: Replay) -> None:
    """Fits `norm` to the replay if it has grown by a quarter since the last time.

    To be called after each vector step. When that is depends on the replay alone, so a resumed run
    fits at the same steps.

    Args:
        norm: What changes.
        spec: The task.
        replay: What was collected.
    """
    exponent = math.log(replay.n_added, GROWTH)
    if replay.n_added == math.ceil(GROWTH ** math.floor(exponent + 1e-9)):
        fit(norm, spec, replay.observations(N_ROWS), replay.n_added >= ENOUGH)


def _scaling(spec: TaskSpec, rows: np.ndarray, before: np.ndarray, doubt_limits: bool) -> tuple:
    """Returns (centre, scale, by_data), each (obs_dim,), of one learner.

    Args:
        spec: The task.
        rows: Its raw observations (n, obs_dim).
        before: Entries that had statistics before.
        doubt_limits: Whether finite limits may be given up.
    """
    limits = normaliser(spec)
    centre = limits.centre.double().numpy()
    scale = limits.scale.double().numpy()
    seen = _with_goals(Seen.of(rows), spec, rows)
    furthest = np.maximum(np.abs(seen.low - centre), np.abs(seen.high - centre))
    narrow = (seen.high - seen.low < NARROW * 2 * scale) & ~seen.still
    unreal = ((furthest > BEYOND * scale) | narrow) & doubt_limits
    by_data = before | unreal | ~has_limits(spec)
    std = np.where(seen.std > 0, seen.std, 1.0)
    return np.where(by_data, seen.mean, centre), np.where(by_data, std, scale), by_data


def _with_goals(seen: Seen, spec: TaskSpec, rows: np.ndarray) -> Seen:
    """Returns `seen` with the statistics of both in a desired goal and what is achieved of it.

    A goal that was the same in all data, or nearly, may be another one in the next task.
    """
    slices = {field.name: slice(field.start, field.stop) for field in spec.obs}
    for name, wanted in slices.items():
        reached = slices.get(name.replace(*GOALS))
        if not name.endswith(GOALS[0]) or reached is None:
            continue
        if wanted.stop - wanted.start != reached.stop - reached.start:
            continue
        both = Seen.of(np.concatenate([rows[:, wanted], rows[:, reached]]))
        for field in fields(Seen):
            for place in (wanted, reached):
                getattr(seen, field.name)[place] = getattr(both, field.name)
    return seen
