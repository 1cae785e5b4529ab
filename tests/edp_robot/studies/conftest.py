import json

import pytest
import torch

from edp_robot.training.checkpoint import save_tree


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    monkeypatch.setattr("edp_robot.studies.processes.POLL_S", 0.005)


@pytest.fixture
def make_run():
    """Writes what `edp pretrain` leaves: `coverage` has each seed's curve, logged every 100 env_steps."""

    def make(job, coverage, wall_s=60.0, presses=(), positions=None):
        job.folder.mkdir(parents=True)
        rows = ["env_step,name,value"]
        for k, curve in enumerate(coverage):
            rows += [f"{100 * (i + 1)},coverage/{k},{value}" for i, value in enumerate(curve)]
            rows.append(
                f"{100 * len(curve)},coverage/{k},{curve[-1]}"
            )  # the end of a run is logged twice
        rows += [f"100,n_success_episodes/{k},{n}" for k, n in enumerate(presses)]
        (job.folder / "metrics.csv").write_text("\n".join(rows) + "\n")
        (job.folder / "config.json").write_text(json.dumps({"commit": "abc123"}))
        if positions is not None:
            tree = {"replay": {"arrays": {"next_obs": torch.tensor(positions)}}}
            save_tree(job.folder / "checkpoint.safetensors", tree)
        said = {
            "env_steps": 100 * len(coverage[0]),
            "grad_steps": 7.0,
            "wall_s": wall_s,
            "n_seeds": len(coverage),
        }
        job.result_path.write_text(json.dumps(said))

    return make
