"""What a load measurement says: the numbers of its raw samples, and their table."""

from typing import Any

import numpy as np

from policy_server.bench.load.generator import BAD_REPLY, LOST, UNSENT
from policy_server.bench.load.plan import LoadPlan, LoadSamples
from policy_server.bench.statistics import summary, wilson
from policy_server.contract.wire import Status

BUSY_SHARE = 0.8  # of a core, from which on the generator may be what is measured
STATUS_NAMES = {int(s): s.name for s in Status} | {
    LOST: "LOST",
    UNSENT: "UNSENT",
    BAD_REPLY: "BAD_REPLY",
}
_SERVER_TIMES = ("queue_us", "inference_us", "server_us")


def answered(columns: dict[str, np.ndarray]) -> np.ndarray:
    """Returns which requests got their action, (n,) bool."""
    return columns["status"] == Status.OK


def latency_us(columns: dict[str, np.ndarray]) -> np.ndarray:
    """Returns scheduled send to receipt, (n,) [us]; infinite where no action came."""
    elapsed_us = (columns["received_ns"] - columns["scheduled_ns"]) / 1000
    return np.where(answered(columns), elapsed_us, np.inf)


def result(samples: LoadSamples) -> dict[str, Any]:
    """Returns the numbers of a measurement as JSON values.

    roundtrip_us counts from the scheduled send, and a request without an action as slower than all others;
    queue_us, inference_us, server_us (the server's) and network_us (the rest, from the real send) are of the
    answered ones; send_late_us, at a fixed rate, is how late the generator itself sent.

    Args:
        samples: Of `load.run`.
    """
    plan, columns = samples.plan, samples.columns
    ok, latencies = answered(columns), latency_us(columns)
    trip_us = (columns["received_ns"] - columns["sent_ns"])[ok] / 1000
    late_us = (columns["sent_ns"] - columns["scheduled_ns"]) / 1000
    times = {name: summary(columns[name][ok]) for name in _SERVER_TIMES}
    span_s = _span_s(columns)
    return {
        **_about(plan),
        "n": len(ok),
        "interrupted": samples.interrupted,
        "roundtrip_us": summary(latencies[ok], int((~ok).sum())),
        **times,
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
    """Returns how many requests ended how, by the status' name; OK and LOST always."""
    codes, numbers = np.unique(columns["status"], return_counts=True)
    found = {
        STATUS_NAMES.get(int(c), f"STATUS_{c}"): int(k) for c, k in zip(codes, numbers, strict=True)
    }
    return {"OK": 0, "LOST": 0, **found}


def missed(latencies_us: np.ndarray, deadline_s: float | None) -> dict[str, Any] | None:
    """Returns deadline_s, n, n_missed, rate and its 95 % Wilson interval ci; None without deadline or samples.

    Args:
        latencies_us: (n,) from the scheduled send [us]; infinite where no action came.
        deadline_s: Allowed [s].
    """
    if deadline_s is None or not len(latencies_us):
        return None
    n, n_missed = len(latencies_us), int((latencies_us > deadline_s * 1e6).sum())
    ci = list(wilson(n_missed, n))
    return {"deadline_s": deadline_s, "n": n, "n_missed": n_missed, "rate": n_missed / n, "ci": ci}


def table(results: list[dict[str, Any]]) -> str:
    """Returns one row for each measurement: load, rate, percentiles [us], and what went wrong."""
    head = f"{'clients':>7}{'n':>9}{'answers/s':>11}{'p50':>10}{'p90':>10}{'p99':>10}{'p99.9':>10}{'max':>10}"
    return "\n".join([head + "   [us] from the scheduled send", *map(_row, results)])


def warnings(one: dict[str, Any]) -> list[str]:
    """Returns what a reader must know before believing the numbers."""
    said, share = [], max(one["generator"]["cpu_share"], default=0.0)
    if not one["bundle"] and share > BUSY_SHARE:
        said.append(
            f"a generator process used {share:.2f} of a core: it may be the bottleneck; more --processes"
        )
    late, trip = one.get("send_late_us", {}).get("p99"), one["roundtrip_us"].get("p99")
    if late and trip and late > trip / 2:
        said.append(
            f"the generator sent late (p99 {late:.0f} us, included in the latencies): it had too little of the CPU"
        )
    if one["n_duplicate"] or one["n_stray"]:
        said.append(
            f"{one['n_duplicate']} duplicate answers, {one['n_stray']} to requests never made"
        )
    return said


def _about(plan: LoadPlan) -> dict[str, Any]:
    """Returns what was asked for, without the obs."""
    names = (
        "endpoint",
        "bundle",
        "n_clients",
        "rate_hz",
        "duration_s",
        "warmup_s",
        "deadline_s",
        "timeout_s",
    )
    mode = "closed loop" if plan.rate_hz is None else "fixed rate"
    return {"mode": mode, **{name: getattr(plan, name) for name in names}}


def _span_s(columns: dict[str, np.ndarray]) -> float:
    """Returns the time from the first scheduled send to the last answer [s]; 0 where nothing was answered."""
    last_ns = columns["received_ns"].max(initial=-1)
    return float(last_ns - columns["scheduled_ns"][0]) * 1e-9 if last_ns >= 0 else 0.0


def _row(one: dict[str, Any]) -> str:
    trip = one["roundtrip_us"]
    values = "".join(f"{number(trip.get(key)):>10}" for key in ("p50", "p90", "p99", "p999", "max"))
    wrong = [f"{k} {name}" for name, k in one["counts"].items() if k and name != "OK"]
    if miss := one["deadline"]:
        low, high = miss["ci"]
        late = f"{miss['n_missed']} of {miss['n']} later than {miss['deadline_s'] * 1e3:g} ms"
        wrong.insert(0, f"{late} ({miss['rate']:.2%}, 95 % [{low:.2%}, {high:.2%}])")
    return f"{one['n_clients']:>7}{one['n']:>9}{number(one['answered_hz']):>11}{values}   {', '.join(wrong)}".rstrip()


def number(value: float | None) -> str:
    """Returns a number for a table, `-` for None."""
    return "-" if value is None else f"{value:.1f}"
