"""How fast our vector environments step, beside Gymnasium's AsyncVectorEnv of the same model.

    python benchmarks/vector_env.py [--only walker-walk ..] [--json results/vector_env/table.json]

Rivals are AsyncVectorEnv with one and with two workers a core. `theirs` are the environments as
they come: dm_control's, gymnasium-robotics' AntMaze. `bare` ones do nothing but `mj_step` on the
same model, without sensors and reward, and give the state as obs. Ours are 256 copies with obs and
reward, on all cores and on one. `floor` is mujoco.rollout alone on the bare model.

All get random actions, and have stepped 100 times before they are measured. They take turns. A busy
machine slows all of them, but favours rivals, which have more processes. So the time that the
processors worked is measured too: 1e6 divided by it is what one quiet core makes at most. Medians
over the rounds are shown. It reads /proc, so it wants Linux.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import mujoco
import numpy as np
from gymnasium.vector import AsyncVectorEnv, VectorEnv
from mujoco import rollout
from vector_env_rivals.rivals import THEIRS, bare_model, makers

from policy_server.bench.host import host, n_cores
from policy_server.contract.disk.files import write_atomic, write_json
from sim.core.registry import make_task, make_vec
from sim.tasks.mujoco_task import MujocoTask

N_COPIES = 256
N_WARM = 100  # env_steps before the first measurement: bodies have fallen to the floor
N_ACTIONS = 16  # batches of random actions, drawn before
TITLE = """# How fast our vector environments step

Made by `python benchmarks/vector_env.py --json results/vector_env/table.json`, whose file says on
which machine and under which load. env_steps/s, medians of {rounds} rounds. Ours are {copies}
copies with obs and reward. Rivals are Gymnasium's AsyncVectorEnv with one or two workers a core,
whichever is faster: `theirs` is dm_control's or gymnasium-robotics' own environment, `bare` only
steps the same model, without sensors and reward. The floor is mujoco.rollout of the bare model.
In brackets is the time that processors worked [us of a core for each env_step], and the ratio of
these times. It says more where others use the machine too: rivals, having more processes, then get
a larger share.

"""
HEAD = """| task | AsyncVectorEnv, theirs | AsyncVectorEnv, bare | ours, one core | ours | floor \
| times theirs | times bare |
|---|---|---|---|---|---|---|---|"""
TICKS_PER_S = os.sysconf("SC_CLK_TCK")


class Runner(NamedTuple):
    """What is measured.

    Attributes:
        steps: Steps everything so many times.
        n_copies: Number of copies.
        workers: Ids of the processes that work for it.
    """

    steps: Callable[[int], None]
    n_copies: int
    workers: tuple[int, ...] = ()

    def core_s(self) -> float:
        """Returns the time that processors worked for it so far [s]."""
        stats = [Path(f"/proc/{worker}/stat").read_text() for worker in self.workers]
        ticks = [sum(map(int, stat.rpartition(")")[2].split()[11:13])) for stat in stats]
        return time.process_time() + sum(ticks) / TICKS_PER_S


def of_env(env: VectorEnv) -> Runner:
    """Returns what steps a vector environment with random actions."""
    env.reset(seed=0)
    env.action_space.seed(0)
    actions = [env.action_space.sample() for _ in range(N_ACTIONS)]

    def steps(n: int) -> None:
        for k in range(n):
            env.step(actions[k % N_ACTIONS])

    workers = [process.pid for process in env.processes] if isinstance(env, AsyncVectorEnv) else []
    return Runner(steps, env.num_envs, tuple(workers))


def of_floor(task: MujocoTask) -> Runner:
    """Returns what steps the bare model by mujoco.rollout on all cores."""
    model = bare_model(task)
    low, high = task.command_range()
    rng = np.random.default_rng(0)
    shape = (N_ACTIONS, N_COPIES, 1, len(low))
    control = np.repeat(rng.uniform(low, high, shape), task.n_substeps, axis=2)
    pool = rollout.Rollout(nthread=n_cores())
    datas = [mujoco.MjData(model) for _ in range(n_cores())]
    state = task.starts[0][rng.integers(len(task.starts[0]), size=N_COPIES)]

    def steps(n: int) -> None:
        nonlocal state
        for k in range(n):
            states, _ = pool.rollout(model, datas, state, control[k % N_ACTIONS])
            state = np.asarray(states)[:, -1].copy()

    return Runner(steps, N_COPIES)


def ours(task: str, n_threads: int) -> Runner:
    """Returns what steps our environment on so many threads."""
    os.environ["OMP_NUM_THREADS"] = str(n_threads)
    return of_env(make_vec(task, N_COPIES, 0))


def runners(task: str) -> tuple[dict[str, Runner], list[VectorEnv]]:
    """Returns what is measured, by name, and the environments to close afterwards."""
    rivals = {
        f"{kind}, {n} workers": AsyncVectorEnv([make] * n)
        for kind, make in makers(task).items()
        for n in (n_cores(), 2 * n_cores())
    }
    made = {name: of_env(env) for name, env in rivals.items()}
    made |= {"ours, one core": ours(task, 1), "ours": ours(task, n_cores())}
    parts = make_task(task)
    assert isinstance(parts, MujocoTask)
    return made | {"floor": of_floor(parts)}, list(rivals.values())


def rate(runner: Runner, seconds: float) -> tuple[float, float]:
    """Returns env_steps/s over about `seconds`, and the time of a core for each [us]."""
    done = 0
    worked = runner.core_s()
    began = time.perf_counter()
    while time.perf_counter() - began < seconds:
        runner.steps(5)
        done += 5 * runner.n_copies
    took = time.perf_counter() - began
    return done / took, (runner.core_s() - worked) / done * 1e6


def measured(task: str, rounds: int, seconds: float) -> dict[str, dict[str, float]]:
    """Returns percentiles of env_steps/s, and the median time of a core [us], by name."""
    made, rivals = runners(task)
    for runner in made.values():
        runner.steps(N_WARM)
    rates: dict[str, list[tuple[float, float]]] = {name: [] for name in made}
    for _ in range(rounds):
        for name, runner in made.items():
            rates[name].append(rate(runner, seconds))
    for env in rivals:
        env.close()
    return {name: summary(*zip(*values, strict=True)) for name, values in rates.items()}


def summary(rates: Sequence[float], core_us: Sequence[float]) -> dict[str, float]:
    """Returns percentiles of rates [env_steps/s], and the median of core times [us]."""
    shown = {f"p{p}": round(float(np.percentile(rates, p)), 1) for p in (10, 50, 90)}
    return {**shown, "core_us": round(float(np.median(core_us)), 2)}


def row(task: str, result: dict[str, Any]) -> str:
    """Returns a task's line of the table."""

    def best(kind: str) -> dict[str, float]:
        rivals = [each for name, each in result.items() if name.startswith(f"{kind}, ")]
        return {
            "p50": max(each["p50"] for each in rivals),
            "core_us": min(each["core_us"] for each in rivals),
        }

    def times(rival: dict[str, float]) -> str:
        by_work = rival["core_us"] / result["ours"]["core_us"]
        return f"{result['ours']['p50'] / rival['p50']:.1f} ({by_work:.1f})"

    rivals = [best("theirs"), best("bare")]
    shown = [*rivals, *(result[name] for name in ("ours, one core", "ours", "floor"))]
    cells = [f"{each['p50']:,.0f} ({each['core_us']:.0f})" for each in shown]
    return f"| {' | '.join([task, *cells, *map(times, rivals)])} |"


def main(arguments: list[str] | None = None) -> None:
    """Measures and prints."""
    made = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("--only", nargs="+", choices=THEIRS, default=list(THEIRS))
    made.add_argument("--rounds", type=int, default=7)
    made.add_argument("--seconds", type=float, default=1.0, help="of each in each round")
    made.add_argument("--json", type=Path, help="also writes the table beside it, as .md")
    given = made.parse_args(arguments)
    before = host()
    print(HEAD)
    results = {}
    for task in given.only:
        results[task] = measured(task, given.rounds, given.seconds)
        print(row(task, results[task]), flush=True)
    about = {"host": before, "rounds": given.rounds, "copies": N_COPIES}
    write_json(given.json, {**about, "env_steps_per_s": results})
    if given.json is not None:
        title = TITLE.format(rounds=given.rounds, copies=N_COPIES)
        lines = "\n".join([HEAD, *(row(task, result) for task, result in results.items())])
        write_atomic(given.json.with_suffix(".md"), title + lines + "\n")


if __name__ == "__main__":
    main()
