"""Turns the raw samples of a load measurement into numbers, and the numbers into a table."""

from typing import Any

import numpy as np

from policy_server.bench.load.generator import BAD_REPLY, LOST, UNSENT
from policy_server.bench.load.plan import LoadSamples
from policy_server.bench.statistics import summary
from policy_server.contract.interval import wilson
from policy_server.contract.wire import Status

BUSY_SHARE = 0.8  # share of a core above which the generator itself may be the bottleneck
_OWN_NAMES = {LOST: "LOST", UNSENT: "UNSENT", BAD_REPLY: "BAD_REPLY"}
_STATUS_NAMES = {int(status): status.name for status in Status} | _OWN_NAMES
_SERVER_TIMES = ("queue_us", "inference_us", "server_us")
_ASKED = (
    *("endpoint", "bundle", "n_clients", "rate_hz", "duration_s", "warmup_s"),
    *("deadline_s", "timeout_s"),
)


def answered(columns: dict[str, np.ndarray]) -> np.ndarray:
    """Returns which requests got an action, (n,) bool."""
    return columns["status"] == Status.OK


def latency_us(columns: dict[str, np.ndarray]) -> np.ndarray:
    """Returns the time from scheduled send to receipt (n,) [us]; infinite without an action."""
    elapsed_us = (columns["received_ns"] - columns["scheduled_ns"]) / 1000
    return np.where(answered(columns), elapsed_us, np.inf)


def result(samples: LoadSamples) -> dict[str, Any]:
    """Returns the numbers of a measurement as JSON values.

    roundtrip_us counts from the scheduled send, and a request without an action counts as slower
    than all others. queue_us, inference_us and server_us are the server's own times, network_us is
    the rest of the time from the real send; these four are of the answered requests. send_late_us,
    at a fixed rate, is how late the generator sent.
    """
    plan = samples.plan
    columns = samples.columns
    ok = answered(columns)
    latencies = latency_us(columns)
    trip_us = (columns["received_ns"] - columns["sent_ns"])[ok] / 1000
    late_us = (columns["sent_ns"] - columns["scheduled_ns"]) / 1000
    span_s = _span_s(columns)
    return {
        "mode": "closed loop" if plan.rate_hz is None else "fixed rate",
        **{name: getattr(plan, name) for name in _ASKED},
        "n": len(ok),
        "interrupted": samples.interrupted,
        "roundtrip_us": summary(latencies[ok], int((~ok).sum())),
        **{name: summary(columns[name][ok]) for name in _SERVER_TIMES},
        **({} if plan.bundle else {"network_us": summary(trip_us - columns["server_us"][ok])}),
        **({"send_late_us": summary(late_us)} if plan.rate_hz else {}),
        "counts": counts(columns),
        "n_duplicate": samples.n_duplicate,
        "n_stray": samples.n_stray,
        "answered_hz": float(ok.sum() / span_s) if span_s else None,
        "span_s": span_s,
        "deadline": missed(latencies, plan.deadline_s),
        "generator": {
            "n_processes": len(samples.cpu_share),
            "cpu_share": samples.cpu_share.round(3).tolist(),
        },
    }


def counts(columns: dict[str, np.ndarray]) -> dict[str, int]:
    """Returns the number of requests by the name of their status. OK and LOST are always there."""
    codes, numbers = np.unique(columns["status"], return_counts=True)
    names = [_STATUS_NAMES.get(code, f"STATUS_{code}") for code in codes.tolist()]
    return {"OK": 0, "LOST": 0, **dict(zip(names, numbers.tolist(), strict=True))}


def missed(latencies_us: np.ndarray, deadline_s: float | None) -> dict[str, Any] | None:
    """Returns how many requests missed a deadline. None: there is no deadline, or no request.

    The keys are deadline_s, n, n_missed, rate and ci, the rate's 95 % Wilson interval.

    Args:
        latencies_us: (n,) from the scheduled send [us]; infinite where no action came.
        deadline_s: Allowed latency [s].
    """
    if deadline_s is None or not len(latencies_us):
        return None
    n = len(latencies_us)
    n_missed = int((latencies_us > deadline_s * 1e6).sum())
    ci = list(wilson(n_missed, n))
    return {"deadline_s": deadline_s, "n": n, "n_missed": n_missed, "rate": n_missed / n, "ci": ci}


def table(results: list[dict[str, Any]]) -> str:
    """Returns a table with one row for each measurement: load, rate, percentiles, failures."""
    percentiles = "".join(f"{name:>10}" for name in ("p50", "p90", "p99", "p99.9", "max"))
    head = f"{'clients':>7}{'n':>9}{'answers/s':>11}{percentiles}   [us] from the scheduled send"
    return "\n".join([head, *map(_row, results)])


def warnings(one: dict[str, Any]) -> list[str]:
    """Returns what a reader must know before trusting the numbers of a measurement."""
    said = []
    share = max(one["generator"]["cpu_share"], default=0.0)
    if not one["bundle"] and share > BUSY_SHARE:
        said.append(
            f"a generator process used {share:.2f} of a core and may be the bottleneck; "
            "use more --processes"
        )
    late_us = one.get("send_late_us", {}).get("p99")
    trip_us = one["roundtrip_us"].get("p99")
    if late_us and trip_us and late_us > trip_us / 2:
        said.append(
            f"the generator sent late (p99 {late_us:.0f} us, included in the latencies): it had "
            "too little of the CPU"
        )
    n_duplicate = one["n_duplicate"]
    n_stray = one["n_stray"]
    if n_duplicate or n_stray:
        said.append(f"{n_duplicate} duplicate answers, {n_stray} to requests never made")
    return said


def number(value: float | None) -> str:
    """Returns a number for a table; `-` for None."""
    return "-" if value is None else f"{value:.1f}"


def _span_s(columns: dict[str, np.ndarray]) -> float:
    """Returns the time from the first scheduled send to the last answer [s]; 0 without answers."""
    last_ns = columns["received_ns"].max(initial=-1)
    return float(last_ns - columns["scheduled_ns"][0]) * 1e-9 if last_ns >= 0 else 0.0


def _row(one: dict[str, Any]) -> str:
    """Returns the table's row of one measurement."""
    trip = one["roundtrip_us"]
    values = "".join(f"{number(trip.get(key)):>10}" for key in ("p50", "p90", "p99", "p999", "max"))
    wrong = [f"{k} {name}" for name, k in one["counts"].items() if k and name != "OK"]
    if miss := one["deadline"]:
        low, high = miss["ci"]
        late = f"{miss['n_missed']} of {miss['n']} later than {miss['deadline_s'] * 1e3:g} ms"
        wrong.insert(0, f"{late} ({miss['rate']:.2%}, 95 % [{low:.2%}, {high:.2%}])")
    load = f"{one['n_clients']:>7}{one['n']:>9}{number(one['answered_hz']):>11}"
    return f"{load}{values}   {', '.join(wrong)}".rstrip()
