"""Figures of load measurements: latency over time, and the tail of its distribution."""

from pathlib import Path

import numpy as np

from policy_server.bench.load.load_report import answered, latency_us
from policy_server.bench.load.plan import LoadSamples

_MAX_POINTS = 50_000  # of a scatter; what is left out is not the slow part


class FigureError(RuntimeError):
    """The figure cannot be drawn; the message says what is missing."""


def check() -> None:
    """Raises FigureError where matplotlib is not installed: before a measurement, not after it."""
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise FigureError("--figure needs matplotlib: pip install matplotlib") from error


def draw(path: Path, measured: list[LoadSamples]) -> None:
    """Writes latency over time (left) and the share of requests slower than a latency (right, both axes log).

    Args:
        path: File to write; its ending is the format.
        measured: One or more measurements, a colour each.

    Raises:
        FigureError: matplotlib is not installed, or no request was answered.
    """
    check()
    measured = [one for one in measured if answered(one.columns).any()]
    if not measured:
        raise FigureError(f"no request was answered: there is nothing to draw to {path}")
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4), layout="constrained")
    FigureCanvasAgg(figure)
    over_time, tail = figure.subplots(1, 2)
    for samples in measured:
        _over_time(over_time, samples)
        _tail(tail, samples)
    for deadline_s in {s.plan.deadline_s for s in measured if s.plan.deadline_s}:
        over_time.axhline(deadline_s * 1e3, color="black", linestyle=":", linewidth=1)
        tail.axvline(deadline_s * 1e3, color="black", linestyle=":", linewidth=1)
    over_time.set(xlabel="scheduled send [s]", ylabel="latency [ms]", yscale="log")
    tail.set(
        xlabel="latency [ms]", ylabel="share of requests slower (1 - p)", xscale="log", yscale="log"
    )
    tail.legend()
    tail.grid(alpha=0.3)
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)


def tail_curve(latencies_us: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns latency (k,) [us] in rising order, and the share of all n requests that is at least as slow, (k,).

    Args:
        latencies_us: (n,); infinite ones never appear, but count among the n: the curve then ends above 1 / n.
    """
    ordered = np.sort(latencies_us)
    share = 1 - np.arange(len(ordered)) / len(ordered)
    finite = np.isfinite(ordered)
    return ordered[finite], share[finite]


def _over_time(axes, samples: LoadSamples) -> None:
    """Draws each answered request as a dot; where there are too many, the slowest and a sample of the others."""
    latencies = latency_us(samples.columns)
    shown = np.flatnonzero(np.isfinite(latencies))
    if len(shown) > _MAX_POINTS:
        by_latency = shown[np.argsort(latencies[shown])]
        n_slow = _MAX_POINTS // 10
        rest = by_latency[:-n_slow]
        shown = np.concatenate(
            [rest[:: -(-len(rest) // (_MAX_POINTS - n_slow))], by_latency[-n_slow:]]
        )
    scheduled_ns = samples.columns["scheduled_ns"]
    axes.plot(
        (scheduled_ns[shown] - scheduled_ns[0]) * 1e-9,
        latencies[shown] / 1000,
        ".",
        markersize=2,
        rasterized=True,
    )


def _tail(axes, samples: LoadSamples) -> None:
    latencies, share = tail_curve(latency_us(samples.columns))
    n, plan = samples.plan.n_clients, samples.plan
    rate = "closed loop" if plan.rate_hz is None else f"{plan.rate_hz:g} Hz each"
    axes.step(latencies / 1000, share, where="post", label=f"{n} client{'s' * (n > 1)}, {rate}")
