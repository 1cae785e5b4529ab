import json

import pytest
import torch

from edp_robot.training.checkpoint import save_tree


class Ended:
    """A process that has ended with a status."""

    def __init__(self, status=0):
        self.status = status

    def poll(self):
        return self.status

    def send_signal(self, sig):
        pass

    def wait(self):
        return self.status


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    monkeypatch.setattr("edp_robot.studies.processes.POLL_S", 0.005)


@pytest.fixture
def ended():
    """Makes processes that have ended."""
    return Ended


@pytest.fixture
def make_run():
    """Writes what `edp pretrain` leaves; `coverage` has a row for every 100 env_steps of a seed."""

    def make(job, coverage, wall_s=60.0, presses=(), positions=None):
        job.folder.mkdir(parents=True)
        rows = ["env_step,name,value"]
        for k, curve in enumerate(coverage):
            rows += [f"{100 * (i + 1)},coverage/{k},{value}" for i, value in enumerate(curve)]
            rows.append(f"{100 * len(curve)},coverage/{k},{curve[-1]}")  # the end is logged twice
        rows += [f"100,n_success_episodes/{k},{n}" for k, n in enumerate(presses)]
        (job.folder / "metrics.csv").write_text("\n".join(rows) + "\n")
        (job.folder / "config.json").write_text(json.dumps({"commit": "abc123"}))
        if positions is not None:
            tree = {"replay": {"arrays": {"next_obs": torch.tensor(positions)}}}
            save_tree(job.folder / "checkpoint.safetensors", tree)
        counts = {"env_steps": 100 * len(coverage[0]), "n_seeds": len(coverage)}
        result = {**counts, "grad_steps": 7.0, "wall_s": wall_s}
        job.result_path.write_text(json.dumps(result))

    return make
