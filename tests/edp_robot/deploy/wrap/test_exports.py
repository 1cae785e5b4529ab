"""What other exporters write, emulated by torch modules of the same names, shapes, metadata."""

import logging
import warnings
from dataclasses import replace

import numpy as np
import onnx
import pytest
import torch
from support.foreign import known
from torch import nn

from edp_robot.deploy.wrap.foreign_file import WrapError
from edp_robot.deploy.wrap.foreign_policy import read_policy
from edp_robot.deploy.wrap.known_fields import Known
from edp_robot.deploy.wrap.make_bundle import gather, wrap
from policy_server.control.local import LocalPolicy
from policy_server.runtime.base import load_backend
from sim.core.registry import task_spec

OBS = torch.tensor([[0.5, -1.0, 0.25]])
NOTHING = np.zeros((1, 0), np.float32)


def exported(module, inputs, path, **options):
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(module.eval(), inputs, path, verbose=False, **options)
    return path


def assert_answers(bundle, expected):
    """Asserts what a bundle answers to OBS."""
    got = load_backend(bundle, "cpu").act(OBS.numpy(), NOTHING)[:, 0]
    np.testing.assert_allclose(got, expected.detach(), atol=1e-6)


class Sb3(nn.Module):
    """Like Stable-Baselines3's OnnxableSB3Policy: actions, values, log_prob; one named input."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(nn.Linear(3, 8), nn.Tanh())
        self.mean = nn.Linear(8, 1)
        self.value = nn.Linear(8, 1)
        self.log_std = nn.Parameter(torch.zeros(1))

    def forward(self, observation):
        latent = self.body(observation)
        mean = self.mean(latent)
        std = self.log_std.exp().expand_as(mean)
        dist = torch.distributions.Normal(mean, std, validate_args=False)
        return mean, self.value(latent), dist.log_prob(mean).sum(1)


def test_a_stable_baselines3_policy(tmp_path):
    module = Sb3()
    names = {"opset_version": 18, "input_names": ["input"]}
    path = exported(module, (torch.randn(1, 3),), tmp_path / "ppo.onnx", **names)
    assert (tmp_path / "ppo.onnx.data").is_file()  # torch keeps the weights beside the file
    first = onnx.load(path, load_external_data=False).graph.output[0].name
    with pytest.raises(WrapError, match="in Stable-Baselines3's exports the first"):
        read_policy(path)
    foreign = read_policy(path, output=first)
    spec = task_spec("gym:Pendulum-v1")
    told = Known(action_map="none")  # PPO answers in units, clipped; SAC and TD3 in [-1, 1]
    bundle = wrap(foreign, gather(foreign, spec, told=told), tmp_path / "b", spec.name).bundle
    assert foreign.obs == "input"
    assert (bundle.manifest.task, bundle.manifest.action[0].high) == (spec.name, (2.0,))
    assert_answers(bundle, module(OBS)[0])


class RslRl(nn.Module):
    """Like rsl_rl's exporters: the normaliser inside; recurrent policies take h_in and c_in.

    Args:
        rnn: nn.LSTM, nn.GRU, or None.
        n_layers: Its layers.
    """

    def __init__(self, rnn=None, n_layers=1):
        super().__init__()
        torch.manual_seed(1)
        self.register_buffer("mean", torch.tensor([0.1, 0.2, 0.3]))
        self.mlp = nn.Sequential(nn.Linear(3, 8), nn.ELU(), nn.Linear(8, 2))
        self.rnn = rnn(3, 3, n_layers) if rnn else None

    def states(self, n=1):
        """Returns an empty memory for `n` rows; the same tensor twice would be one input."""
        rnn = self.rnn
        return [torch.zeros(rnn.num_layers, n, 3) for _ in range(1 + isinstance(rnn, nn.LSTM))]

    def forward(self, obs, h_in=None, c_in=None):
        x = (obs - self.mean) / 0.5
        if self.rnn is None:
            return self.mlp(x)
        x, after = self.rnn(x.unsqueeze(0), h_in if c_in is None else (h_in, c_in))
        return self.mlp(x.squeeze(0)), *([after] if c_in is None else after)


def mjlab_metadata(path):
    """Adds what mjlab's exporter does: comma-separated texts, numbers with three decimals."""
    model = onnx.load(path)
    metadata = {
        "run_path": "team/project/run",
        "joint_names": "hip,knee",
        "joint_stiffness": "40.000,40.000",
        "joint_damping": "1.000,1.000",
        "default_joint_pos": "0.100,-0.200",
        "command_names": "twist",
        "observation_names": "joint_pos,command",
        "action_scale": "0.250,0.500",
    }
    onnx.helper.set_model_props(model, metadata)
    onnx.save(model, path)


@pytest.fixture(scope="module")
def rsl_rl_path(tmp_path_factory):
    path = tmp_path_factory.mktemp("rsl") / "policy.onnx"
    names = {"input_names": ["obs"], "output_names": ["actions"]}
    return exported(RslRl(), (torch.zeros(1, 3),), path, **names)


def test_an_rsl_rl_policy(rsl_rl_path, tmp_path):
    foreign = read_policy(rsl_rl_path)
    assert (foreign.batch, foreign.obs, foreign.output) == (1, "obs", "actions")
    bundle = wrap(foreign, known(limit=9.0), tmp_path / "b").bundle
    assert_answers(bundle, RslRl()(OBS))


def recurrent_path(module, path, batch, **options):
    """Exports a recurrent policy as rsl_rl does, with a fixed batch of 1 or an open one."""
    states = module.states(batch)
    names = ["obs", "h_in", "c_in"][: 1 + len(states)]
    outputs = ["actions", "h_out", "c_out"][: 1 + len(states)]
    if batch > 1:
        axes = {name: {1: "batch"} for name in (*names[1:], *outputs[1:])}
        options["dynamic_axes"] = {"obs": {0: "batch"}, "actions": {0: "batch"}, **axes}
    inputs = (torch.zeros(batch, 3), *states)
    return exported(module, inputs, path, input_names=names, output_names=outputs, **options)


@pytest.mark.parametrize(
    ("rnn", "n_layers", "batch", "dynamo", "state_dim"),
    [
        (nn.LSTM, 1, 1, True, 6),
        (nn.LSTM, 2, 1, False, 12),
        (nn.LSTM, 2, 2, False, 12),
        (nn.GRU, 2, 1, False, 6),
        (nn.GRU, 2, 2, False, 6),
    ],
)
def test_a_recurrent_rsl_rl_policy_answers_as_torch_does(
    tmp_path, rnn, n_layers, batch, dynamo, state_dim
):
    module = RslRl(rnn, n_layers)
    foreign = read_policy(recurrent_path(module, tmp_path / "p.onnx", batch, dynamo=dynamo))
    bundle = wrap(foreign, known(limit=9.0), tmp_path / "b").bundle
    assert (bundle.manifest.state_dim, bundle.manifest.schema_version) == (state_dim, 2)
    rng = np.random.default_rng(0)
    with LocalPolicy(bundle.path, "cpu") as policy, torch.no_grad():
        for _ in range(2):
            policy.reset()
            states = module.states()
            for obs in rng.uniform(-2, 2, (50, 3)).astype(np.float32):
                expected, *states = module(torch.from_numpy(obs)[None], *states)
                np.testing.assert_allclose(policy.act(obs), expected, atol=1e-6)


def test_rows_of_a_recurrent_policy_do_not_mix(tmp_path):
    """The layers come first in a state of torch, the batch second."""
    module = RslRl(nn.LSTM, 2)
    for batch in (1, 2):
        path = recurrent_path(module, tmp_path / f"{batch}.onnx", batch, dynamo=False)
        bundle = wrap(read_policy(path), known(limit=9.0), tmp_path / f"b{batch}").bundle
        backend = load_backend(bundle, "cpu")
        rng = np.random.default_rng(0)
        state = np.zeros((3, 12), np.float32)
        states = module.states(3)
        for obs in rng.uniform(-2, 2, (5, 3, 3)).astype(np.float32):
            got, state = backend.step(obs, np.zeros((3, 0), np.float32), state)
            expected, *states = module(torch.from_numpy(obs), *states)
            np.testing.assert_allclose(got[:, 0], expected.detach(), atol=1e-6)


def test_an_mjlab_policy_names_its_joints_and_scales_to_targets(rsl_rl_path, tmp_path):
    path = tmp_path / "policy.onnx"
    onnx.save(onnx.load(rsl_rl_path), path)
    mjlab_metadata(path)
    foreign = read_policy(path)
    start = gather(foreign, told=Known(action_map="metadata", control_hz=50.0))
    assert [d.name for d in start.action] == ["hip.target", "knee.target"]
    assert [(d.name, d.size) for d in start.obs] == [("joint_pos", None), ("command", None)]
    limits = {"unit": "rad", "low": (-1.0,), "high": (1.0,), "max_rate": (5.0,)}
    told = tuple(replace(draft, **limits) for draft in start.action)
    bundle = wrap(foreign, Known(known().obs, told).over(start), tmp_path / "b").bundle
    manifest = bundle.manifest
    assert manifest.source_commit == "team/project/run"
    assert manifest.sampler["action_map"] == "metadata"
    names = [name for field in manifest.action for name in field.entry_names()]
    assert names == ["hip.target", "knee.target"]
    target = torch.tensor([0.1, -0.2]) + torch.tensor([0.25, 0.5]) * RslRl()(OBS)
    assert_answers(bundle, target.clamp(-1, 1))
