import pytest
import torch

from edp_robot.deploy.export import compared, to_onnx
from edp_robot.deploy.policies import Deployed
from edp_robot.deploy.students import PairedStudent
from edp_robot.methods.models import normaliser
from policy_server.contract.bundle import save
from policy_server.contract.manifest import Manifest
from sim.core.registry import task_spec


@pytest.fixture(scope="session")
def bundle(tmp_path_factory):
    """An untrained student as a bundle: the arm wanders, within its limits."""
    torch.manual_seed(0)
    spec = task_spec("arm-press")
    policy = PairedStudent(normaliser(spec), spec.obs_dim, spec.act_dim, 32, 2).eval()
    deployed = Deployed(policy, spec.action_map, horizon=10)
    path = tmp_path_factory.mktemp("served") / "bundle"
    save(
        path,
        Manifest(
            name="untrained",
            task=spec.name,
            source_commit="none",
            config_hash="0" * 64,
            obs=spec.obs,
            action=spec.action,
            horizon=10,
            n_action_steps=10,
            control_period_s=spec.control_period_s,
            latent_dim=spec.act_dim,
            sampler={"method": "student", "n_denoise_steps": 1},
        ),
        onnx_bytes=to_onnx(policy, spec, 10),
        golden=compared(deployed, torch.zeros(1, spec.obs_dim), n=16, seed=1),
    )
    return path
