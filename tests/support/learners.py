"""Every learner, tiny, on random data: pre-training, fine-tuners, cloning, distillers."""

from dataclasses import replace
from types import SimpleNamespace

import torch
from train_speeding.trainings import replay_of

from edp_robot.config import presets
from edp_robot.deploy.policies import DiffusionPolicy
from edp_robot.methods.ddpg import DDPGConfig
from edp_robot.methods.explore.intrinsic_reward import INTRINSIC_REWARDS
from edp_robot.methods.finetune.fine_tuner import FINE_TUNERS
from edp_robot.methods.models import NoiseModelConfig, noise_model, normaliser
from edp_robot.training.clone import Cloner
from edp_robot.training.distillers import DISTILLERS, DistillConfig, make_student
from edp_robot.training.pretrain import Pretrainer
from sim.core.registry import task_spec

# As in the paper's networks, with dropout and Mish, but small.
MODEL = NoiseModelConfig(width=16, inner=24, n_blocks=1, dropout=0.1, time_dim=8)
SIZES = {
    "batch": 24,
    "n_states": 32,
    "n_proposals": 6,
    "n_uniform": 2,
    "policy_batch": 16,
    "guidance_batch": 8,
    "proposal_denoise_steps": 2,
    "acting_denoise_steps": 2,
    "action_model": MODEL,
}


def random_replay(spec, n_seeds=0):
    return replay_of(spec, n_seeds, n_rows=60, n_envs=4)


class Training:
    """A learner, and what it learns from.

    Attributes:
        learner: What is trained.
        metrics: Those of all rounds so far.
    """

    def __init__(self, learner, replay=None):
        self.learner = learner
        self.replay = replay
        self.metrics = []

    def round(self, i):
        """Takes a few grad_steps, at a learning rate that depends on the round."""
        done = min(0.3 * i, 1.0)
        if self.replay is None:
            self.metrics.append(self.learner.chunk())
            return
        self.metrics.append(self.learner.update(self.replay, 10, done))
        if isinstance(self.learner, Pretrainer):
            self.metrics.append(self.learner.finish(self.replay, 3, done))

    def state(self):
        """Returns all that a resumed training needs, and buffers that no checkpoint holds."""
        state = {"learner": self.learner.state(), "torch": torch.get_rng_state()}
        if self.replay is not None:
            state["rng"] = self.replay.rng.bit_generator.state
        return state

    def load(self, state):
        """Restores what `state` returned."""
        self.learner.load(state["learner"])
        torch.set_rng_state(state["torch"])
        if self.replay is not None:
            self.replay.rng.bit_generator.state = state["rng"]


def pretraining(config):
    spec = task_spec(config.task)
    config = replace(config, batch=24, final_batch=32, action_model_every=2)
    return Training(Pretrainer(spec, config), random_replay(spec, config.n_seeds))


def small_demo(method, n_seeds, task="arm", **reward):
    config = presets.pretrain("demo", task, method=method, n_seeds=n_seeds)
    return pretraining(replace(config, reward=replace(config.reward, **reward)))


def small_paper(n_seeds):
    """Returns a training as in the paper, with small networks: three steps, iid draws, dropout."""
    config = presets.pretrain("paper", "arm", n_seeds=n_seeds)
    reward = replace(config.reward, model=MODEL)
    ddpg = DDPGConfig(width=16, layer_norm=False, n_step=3, n_features=4)
    return pretraining(replace(config, reward=reward, ddpg=ddpg, action_model=MODEL))


def fine_tuning(method):
    spec = task_spec("arm-press")
    tuner = FINE_TUNERS.get(method)
    config = tuner.preset("smoke", spec)
    config = replace(config, **{k: v for k, v in SIZES.items() if k in vars(config)})
    return Training(tuner(spec, config), random_replay(spec))


def cloning():
    config = presets.clone("smoke", "modes", n_chunks=4, batch=24, action_model=MODEL)
    spec = task_spec(config.task)
    action = 2 * torch.rand(200, spec.act_dim) - 1
    return Training(Cloner(spec, replace(config, grad_steps_per_chunk=10), _obs(spec), action))


def distilling(method):
    """Returns the training of a student; the last batch of a pass is shorter."""
    spec = task_spec("arm-press")
    model = noise_model(spec.act_dim, spec.obs_dim, MODEL)
    torch.nn.init.normal_(model.head.weight)
    teacher = DiffusionPolicy(normaliser(spec), model, spec.act_dim, 2)
    source = SimpleNamespace(spec=spec, teacher=teacher.requires_grad_(False).eval())
    sizes = {"width": 16, "n_layers": 2, "batch": 16, "pairs_per_chunk": 70, "n_chunks": 4}
    config = DistillConfig(method=method, **sizes)
    student = make_student(source, config)
    return Training(DISTILLERS[method](source, student, _obs(spec), config))


def _obs(spec):
    return torch.randn(200, spec.obs_dim)


def _rewards():
    """Returns every registered intrinsic reward that learns, for one learner and for three."""
    names = [name for name in INTRINSIC_REWARDS.names() if INTRINSIC_REWARDS.get(name).learns]
    return {f"{m}-{n}": lambda m=m, n=n: small_demo(m, n) for m in names for n in (1, 3)}


MAZE = {"task": "maze-square-a", "estimator": "shared"}  # spacing log_snr, Fourier features
TRAININGS = {
    **_rewards(),
    **{f"paper-{n}": lambda n=n: small_paper(n) for n in (1, 3)},
    **{f"maze-{n}": lambda n=n: small_demo("edp", n, **MAZE) for n in (1, 3)},
    **{f"network-{n}": lambda n=n: small_demo("edp", n, estimator="shared") for n in (1, 3)},
    **{f"network-fixed-{n}": lambda n=n: small_demo("edp", n, estimator="fixed") for n in (1, 3)},
    **{f"exact-{n}": lambda n=n: small_demo("edp", n, task="maze-square-a") for n in (1, 3)},
    **{f"finetune-{name}": lambda name=name: fine_tuning(name) for name in FINE_TUNERS.names()},
    "clone": cloning,
    **{f"distill-{name}": lambda name=name: distilling(name) for name in DISTILLERS},
}
"""Makes each training by name. A new method is among them as soon as it is registered."""
