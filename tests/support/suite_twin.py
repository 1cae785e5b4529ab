"""dm_control's own environment beside ours: the same states, actions and rewards."""

import warnings
from typing import NamedTuple

import mujoco
import numpy as np

from sim.core.registry import make_task

with warnings.catch_warnings():  # it looks for a screen, which nothing here needs
    warnings.simplefilter("ignore")
    from dm_control import suite
    from dm_control.utils.rewards import tolerance

FULL = mujoco.mjtState.mjSTATE_FULLPHYSICS
INF = float("inf")


class Walk(NamedTuple):
    """What both environments gave in n steps: obs (n, obs_dim) and rewards (n,)."""

    obs: np.ndarray
    wanted_obs: np.ndarray
    reward: np.ndarray
    wanted_reward: np.ndarray


class Twin:
    """One simulation of `task` of ours, and dm_control's environment `dm_task` of the same body.

    Args:
        task: Name of our task.
        dm_task: dm_control's domain and task, like "walker-walk".
        reward: The wanted reward of dm_control's physics. None: that of dm_task.
        mass_scale: Factor on all masses of dm_control's body.
    """

    def __init__(self, task, dm_task, reward=None, mass_scale=1.0):
        domain, _, name = dm_task.partition("-")
        self.task = make_task(task)
        self.theirs = suite.load(domain, name, task_kwargs={"random": 0})
        physics = self.theirs.physics
        physics.model.body_mass[:] *= mass_scale
        mujoco.mj_setConst(physics.model.ptr, physics.data.ptr)
        self.ours = self.task.make_vec(1, 0)
        self.ours.reset(seed=0)
        self._reward = reward

    def restart(self):
        """Begins an episode of dm_control's, puts ours into its state, and returns its obs."""
        first = self.theirs.reset()
        self.same_state()
        return flat(first)

    def toss(self, rng):
        """Puts both into the same state near the drawn pose, and turning and flying anyhow."""
        physics = self.theirs.physics
        with physics.reset_context():
            physics.data.qvel[:] = 3 * rng.standard_normal(physics.model.nv)
        self.same_state()

    def same_state(self):
        """Puts our simulation into the state of dm_control's."""
        physics = self.theirs.physics
        self.ours.set_state(self.ours.get_state() | {"state": full_state(physics)[None]})

    def walk(self, n_steps, each_step=False, seed=0):
        """Returns what both give under the same random actions.

        Args:
            n_steps: Number of env_steps.
            each_step: Whether ours goes on from dm_control's state in every step.
            seed: Seeds the actions.
        """
        rng = np.random.default_rng(seed)
        rows = []
        for _ in range(n_steps):
            if each_step:
                self.same_state()
            rows.append(self._step(rng.uniform(-1, 1, self.task.spec.act_dim)))
        return Walk(*(np.array(column) for column in zip(*rows, strict=True)))

    def _step(self, action):
        spec = self.theirs.action_spec()
        command = spec.minimum + (action + 1) / 2 * (spec.maximum - spec.minimum)
        theirs = self.theirs.step(command)
        obs, reward, *_ = self.ours.step(action[None])
        wanted = self._reward(self.theirs.physics) if self._reward else theirs.reward
        return obs[0], flat(theirs), reward[0], wanted


def flat(time_step):
    """Returns the observation of dm_control as one vector."""
    return np.concatenate([np.ravel(part) for part in time_step.observation.values()])


def full_state(physics):
    """Returns dm_control's full physics state."""
    state = np.empty(mujoco.mj_stateSize(physics.model.ptr, FULL))
    mujoco.mj_getState(physics.model.ptr, physics.data.ptr, state, FULL)
    return state


def spin(physics):
    """Returns the angular momentum about y, which dm_control's rewards do not use."""
    mujoco.mj_subtreeVel(physics.model.ptr, physics.data.ptr)
    return physics.named.data.subtree_angmom["torso"][1]


def linear(x, bound, margin, at_margin=0.0):
    """Returns dm_control's linear tolerance of x >= bound."""
    return tolerance(x, (bound, INF), margin, "linear", at_margin)


def walker_flip(physics):
    """URLB's: standing, and turning about y."""
    high = tolerance(physics.torso_height(), (1.2, INF), margin=0.6)
    standing = (3 * high + (1 + physics.torso_upright()) / 2) / 4
    return standing * (5 * linear(spin(physics), 5, 5) + 1) / 6


def hopper_hop_backward(physics):
    """URLB's: standing, and moving backward."""
    return tolerance(physics.height(), (0.6, 2)) * linear(-physics.speed(), 2, 1, 0.5)


def hopper_flip(physics, sign=1):
    """URLB's: standing, and turning about y."""
    return tolerance(physics.height(), (0.6, 2)) * linear(sign * spin(physics), 5, 5)


def cheetah_run_backward(physics):
    """URLB's: moving backward."""
    return linear(-physics.speed(), 10, 10)


def cheetah_flip(physics, sign=1):
    """URLB's: turning about y."""
    return linear(sign * spin(physics), 5, 5)


def quadruped_stand(physics):
    """URLB's: an upright torso."""
    return linear(physics.torso_upright(), 1, 2)


def quadruped_jump(physics):
    """URLB's: an upright torso and a high centre of mass."""
    height = physics.named.data.sensordata["center_of_mass"][2]
    return quadruped_stand(physics) * linear(height, 1, 1, 0.5)


PAIRS = {  # our task: dm_control's task on the same body, and URLB's reward where it is another one
    "walker-stand": ("walker-stand", None),
    "walker-walk": ("walker-walk", None),
    "walker-run": ("walker-run", None),
    "walker-flip": ("walker-walk", walker_flip),
    "hopper-stand": ("hopper-stand", None),
    "hopper-hop": ("hopper-hop", None),
    "hopper-hop-backward": ("hopper-hop", hopper_hop_backward),
    "hopper-flip": ("hopper-hop", hopper_flip),
    "hopper-flip-backward": ("hopper-hop", lambda physics: hopper_flip(physics, -1)),
    "cheetah-run": ("cheetah-run", None),
    "cheetah-run-backward": ("cheetah-run", cheetah_run_backward),
    "cheetah-flip": ("cheetah-run", cheetah_flip),
    "cheetah-flip-backward": ("cheetah-run", lambda physics: cheetah_flip(physics, -1)),
    "quadruped-stand": ("quadruped-walk", quadruped_stand),
    "quadruped-walk": ("quadruped-walk", None),
    "quadruped-run": ("quadruped-run", None),
    "quadruped-jump": ("quadruped-walk", quadruped_jump),
}
