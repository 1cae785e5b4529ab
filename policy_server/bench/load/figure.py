"""Draws load measurements: latency over time, and the tail of its distribution."""

from pathlib import Path

import numpy as np

from policy_server.bench.load.load_report import answered, latency_us
from policy_server.bench.load.plan import LoadSamples

_MAX_POINTS = 50_000  # dots of a scatter; the slowest requests are always among them


class FigureError(RuntimeError):
    """The figure cannot be drawn. The message says what is missing."""


def check() -> None:
    """Raises FigureError where matplotlib is not installed. Call it before a measurement."""
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise FigureError("--figure needs matplotlib: pip install matplotlib") from error


def draw(path: Path, measured: list[LoadSamples]) -> None:
    """Draws latency over time (left) and the share of slower requests (right, both axes log).

    Args:
        path: File to write. Its ending is the format.
        measured: Measurements; each has a colour.

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
    tail.set(xlabel="latency [ms]", ylabel="share of requests slower (1 - p)")
    tail.set(xscale="log", yscale="log")
    tail.legend()
    tail.grid(alpha=0.3)
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)


def tail_curve(latencies_us: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns latencies (k,) [us] in rising order, and the share of requests as slow or slower.

    Args:
        latencies_us: (n,) latencies [us]. Infinite ones are left out but counted, so the curve ends
            above 1 / n.
    """
    ordered = np.sort(latencies_us)
    share = 1 - np.arange(len(ordered)) / len(ordered)
    finite = np.isfinite(ordered)
    return ordered[finite], share[finite]


def _over_time(axes, samples: LoadSamples) -> None:
    """Draws each answered request as a dot. Of too many, it draws the slowest and a sample."""
    latencies = latency_us(samples.columns)
    shown = np.flatnonzero(np.isfinite(latencies))
    if len(shown) > _MAX_POINTS:
        by_latency = shown[np.argsort(latencies[shown])]
        n_slow = _MAX_POINTS // 10
        others = by_latency[:-n_slow]
        every = -(-len(others) // (_MAX_POINTS - n_slow))
        shown = np.concatenate([others[::every], by_latency[-n_slow:]])
    scheduled_ns = samples.columns["scheduled_ns"]
    time_s = (scheduled_ns[shown] - scheduled_ns[0]) * 1e-9
    axes.plot(time_s, latencies[shown] / 1000, ".", markersize=2, rasterized=True)


def _tail(axes, samples: LoadSamples) -> None:
    latencies, share = tail_curve(latency_us(samples.columns))
    plan = samples.plan
    clients = f"{plan.n_clients} client{'s' * (plan.n_clients > 1)}"
    rate = "closed loop" if plan.rate_hz is None else f"{plan.rate_hz:g} Hz each"
    axes.step(latencies / 1000, share, where="post", label=f"{clients}, {rate}")
