"""How fast the learners learn, and how far that is from the bare matrix products.

    python benchmarks/train_speed.py [--json FILE] [--threads 1] [--rounds 15] [--paper]

Each row is a training on random data. `plain` is a grad_step as torch runs it, `engine` one that is
recorded and replayed (edp_robot/engine), `floor` the time of its matrix products alone: every mm,
addmm, bmm, baddbmm, mv, addmv and dot that it calls, in order, on tensors of the same shapes and
strides that stay in the cache. The three take turns in every round. A row shows medians over the
rounds, the JSON file percentiles 10 and 90 too.

Drawing batches from the replay is part of a grad_step, and the teacher's answers part of
distillation's. `--paper` adds the paper's recipe (its batch, widths and draws).
"""

from __future__ import annotations

import argparse
import gc
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from train_speeding.products import Products
from train_speeding.trainings import PAPER, TRAININGS, Training

from edp_robot.engine import Recorded
from policy_server.bench.host import host
from policy_server.contract.disk.files import write_atomic, write_json

TITLE = """# How fast the learners learn

Made by `python benchmarks/train_speed.py --threads 1 --json results/train_speed/table.json`, whose
file says on which machine. Medians of a grad_step; the floor is its matrix products alone.
"""
HEAD = """| training | floor [ms] | plain [ms] | engine [ms] | engine / floor | plain / engine | \
grad_steps/s |
|---|---|---|---|---|---|---|"""


@contextmanager
def plainly() -> Iterator[None]:
    """Lets every recorded step run plainly."""
    replayed = Recorded.__call__
    Recorded.__call__ = lambda self, *inputs: self.step(*inputs)
    try:
        yield
    finally:
        Recorded.__call__ = replayed


def took_s(step: Callable[[], Any]) -> float:
    """Returns how long one call takes [s]."""
    began = time.perf_counter()
    step()
    return time.perf_counter() - began


def measured(training: Training, rounds: int) -> dict[str, Any]:
    """Returns the times of a grad_step [ms] as percentiles, and the number of its products.

    The floor, the plain path and the engine take turns. The first round warms up.
    """
    torch.manual_seed(0)
    step = training.make()
    with plainly():
        step()
        products = Products(step)
    step()  # the first call of a recorded step records nothing, the second records
    step()
    times: dict[str, list[float]] = {"floor": [], "plain": [], "engine": []}
    gc.collect()
    gc.disable()
    for _ in range(rounds + 1):
        times["floor"].append(took_s(products))
        with plainly():
            times["plain"].append(took_s(step))
        times["engine"].append(took_s(step))
    gc.enable()
    each = {name: np.array(values[1:]) / training.n * 1e3 for name, values in times.items()}
    shown = {name: percentiles(values) for name, values in each.items()}
    return {**shown, "products": len(products) / training.n, "kinds": dict(products.kinds)}


def percentiles(values: np.ndarray) -> dict[str, float]:
    """Returns the median and percentiles 10 and 90 by name."""
    return {f"p{p}": round(float(np.percentile(values, p)), 4) for p in (10, 50, 90)}


def row(name: str, result: dict[str, Any]) -> str:
    """Returns a training's line of the table."""
    floor, plain, engine = (result[part]["p50"] for part in ("floor", "plain", "engine"))
    return (
        f"| {name} | {floor:.3f} | {plain:.2f} | {engine:.2f} | {engine / floor:.2f} "
        f"| {plain / engine:.2f} | {1e3 / engine:.3g} |"
    )


def parser() -> argparse.ArgumentParser:
    """Returns the command line's parser."""
    made = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("--only", nargs="+", choices=TRAININGS, default=list(TRAININGS))
    made.add_argument("--rounds", type=int, default=15)
    made.add_argument("--threads", type=int, default=1)
    made.add_argument("--paper", action="store_true")
    made.add_argument("--json", type=Path, help="also writes the table beside it, as .md")
    return made


def main(arguments: list[str] | None = None) -> None:
    """Measures and prints."""
    given = parser().parse_args(arguments)
    torch.set_num_threads(given.threads)
    chosen = {name: TRAININGS[name] for name in given.only} | (PAPER if given.paper else {})
    before = host()
    print(HEAD)
    results = {}
    lines = [HEAD]
    for name, training in chosen.items():
        results[name] = measured(training, given.rounds)
        lines.append(row(name, results[name]))
        print(lines[-1], flush=True)
    about = {"host": before, "torch": torch.__version__, "threads": given.threads}
    write_json(given.json, {**about, "rounds": given.rounds, "grad_step_ms": results})
    if given.json is not None:
        write_atomic(given.json.with_suffix(".md"), "\n".join([TITLE, *lines]) + "\n")


if __name__ == "__main__":
    main()
