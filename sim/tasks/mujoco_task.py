"""The base class of MuJoCo tasks: a task is its MJCF and one subclass.

A minimal task, in a file of its own (docs/your_task.md):

    @TASKS.register("cart")
    class Cart(MujocoTask):
        name = "cart"
        mjcf = "cart.xml"

        def obs_parts(self):
            return (Part("position", "m", -1.0, 1.0, entries=("cart.pos",)),)

        def reward(self, obs):
            return np.exp(-np.abs(obs[:, 0]))
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Literal

import mujoco
import numpy as np

from policy_server.contract.field import Field
from sim.core import readings
from sim.core.action_map import ActionMap
from sim.core.batch import MujocoBatch
from sim.core.coverage import Coverage
from sim.core.spec import ObsFn, Part, TaskSpec, tile

N_STARTS = 1024
MAX_DRAWS = 100  # per start; a place that is refused more often is an error
START_SEED = 7
FULL_STATE = mujoco.mjtState.mjSTATE_FULLPHYSICS
Starts = tuple[np.ndarray, np.ndarray]


class MujocoTask:
    """A task in a MuJoCo world.

    A subclass sets the attributes and overrides the methods that it needs. A reading is what the
    MJCF's sensors measure, in their order, followed by the activations of actuators that have one.
    The obs is made of it, followed by the last command where the action map is `increment`. Actions
    drive the MJCF's actuators.

    Attributes:
        name: Name of the task. By default the subclass's `module:Class`.
        mjcf: The world: MJCF text, or the path of an .xml file, relative to the subclass's own
            file.
        control_period_s: Time between two commands [s]: a whole number of the MJCF's timesteps.
        episode_steps: Control steps in an episode.
        hold: Control steps that presets hold an action for.
        domain: Family of the task; presets are chosen by it.
        success_when: Whether success counts at any step, or at the last.
        action_kind: `absolute`: an action is spread over the actuator's range. `increment`: it is a
            rate of the command; every actuator needs a `max_rate`.
        action_unit: Unit of the commands.
        max_rate: Fastest change of a command [unit/s], one for all actuators. None: no limit.
        camera: Name of the MJCF's camera for pictures. None: MuJoCo's free camera.
        novelty_fields: Names of the few obs fields, or of single numbers by their entries, on which
            exploration looks for new states, such as the place of a hand and of what it handles.
            Empty: on all.
        sensors_at_end: Whether sensors of position and velocity are read at the end of the control
            step, as dm_control does, at the cost of one more physics step. "all": those of forces
            too. Otherwise all are those of the last physics step, one timestep before the end.
        reward: Reward (n,) of obs (n, obs_dim), where the task has one: override it as a method.
        measured_reward: Reward (n,) of readings (n, n_readings) and commands (n, nu): override it
            as a method where the obs does not tell the reward, or only after a computation.
            Training relabels old data only where there is a `reward`.
        success: Success (n,) bool of obs (n, obs_dim), where the task has one: override it as a
            method.
        terminated: (n,) bool of obs (n, obs_dim), where something besides time ends an episode:
            override it as a method.
        new_coverage: Returns a counter of what one learner visits: override it as a method. It
            counts what `explored` returns, where there is that, else the obs.
        explored: Numbers (n, k) of readings (n, n_readings) and commands (n, nu) that exploration
            is measured by and no policy sees, such as a torso's place: override it as a method, and
            `explored_parts`.
    """

    name: str = ""
    mjcf: str = ""
    control_period_s: float = 0.02
    episode_steps: int = 200
    hold: int = 1
    domain: str = ""
    success_when: Literal["any", "end"] = "any"
    action_kind: Literal["absolute", "increment"] = "absolute"
    action_unit: str = "rad"
    max_rate: float | None = None
    camera: str | None = None
    novelty_fields: tuple[str, ...] = ()
    sensors_at_end: bool | Literal["all"] = False
    reward: ObsFn | None = None
    measured_reward: Callable[[np.ndarray, np.ndarray], np.ndarray] | None = None
    success: ObsFn | None = None
    terminated: ObsFn | None = None
    new_coverage: Callable[[], Coverage] | None = None
    explored: Callable[[np.ndarray, np.ndarray], np.ndarray] | None = None

    def __init_subclass__(cls) -> None:
        """Gives a class without a `name` of its own the path that it is found by."""
        super().__init_subclass__()
        if "name" not in vars(cls):
            cls.name = f"{cls.__module__}:{cls.__qualname__}"

    def obs_parts(self) -> tuple[Part, ...]:
        """Returns one `Part` for each field of the obs, in the order of `observe`.

        Limits matter: observations are scaled by them before a network sees them, where the data
        fill them.
        """
        raise NotImplementedError(f"{type(self).__name__} lacks obs_parts(): name the obs fields")

    def observe(self, sensor: np.ndarray, command: np.ndarray) -> np.ndarray:
        """Returns obs (n, obs_dim) float32 of readings (n, n_readings) and commands (n, nu)."""
        parts = [sensor, command] if self.action_kind == "increment" else [sensor]
        return np.concatenate(parts, axis=1).astype(np.float32)

    def explored_parts(self) -> tuple[Part, ...]:
        """Returns one `Part` for each field of what `explored` returns, in its order.

        Limits matter: grids of bins lie between them (`sim.core.subspaces`).
        """
        return ()

    def place(self, data: mujoco.MjData, rng: np.random.Generator) -> bool:
        """Puts a reset `data` into a random start state, and returns whether that state is usable.

        By default the MJCF's own state, the first keyframe where there is one.
        """
        if self.model.nkey:
            mujoco.mj_resetDataKeyframe(self.model, data, 0)
        mujoco.mj_forward(self.model, data)
        return True

    def start_command(self, sensor: np.ndarray) -> np.ndarray:
        """Returns the commands (n, nu) that stand at the start, for readings (n, n_readings).

        By default what the first sensors measure for `increment`, else the middle of the range.
        """
        if self.action_kind == "increment":
            return sensor[:, : self.model.nu]
        low, high = self.command_range()
        return np.tile((low + high) / 2, (len(sensor), 1))

    def qpos(self, obs: np.ndarray) -> np.ndarray:
        """Returns joint positions (n, nq) for pictures of obs (n, obs_dim).

        Override it where the obs does not begin with all joint positions.
        """
        return obs[:, : self.model.nq].astype(np.float64)

    @cached_property
    def model(self) -> mujoco.MjModel:
        """The compiled world."""
        if self.mjcf.lstrip().startswith("<"):
            return mujoco.MjModel.from_xml_string(self.mjcf)
        return mujoco.MjModel.from_xml_path(
            str(Path(inspect.getfile(type(self))).parent / self.mjcf)
        )

    @property
    def worlds(self) -> tuple[mujoco.MjModel, ...]:
        """Worlds that episodes draw from, such as bodies of several masses; by default `model`.

        They differ from `model` in numbers only: they have its bodies, joints and sensors.
        """
        return (self.model,)

    @cached_property
    def n_substeps(self) -> int:
        """Physics steps in one control step."""
        n = self.control_period_s / self.model.opt.timestep
        if round(n) < 1 or abs(n - round(n)) > 1e-6:
            raise ValueError(
                f"control_period_s {self.control_period_s} of task {self.name!r} is no whole "
                f"number of timesteps of {self.model.opt.timestep} s; change one of them"
            )
        return round(n)

    @cached_property
    def starts(self) -> Starts:
        """Start states (m, state) and their readings (m, n_readings), drawn by `place`."""
        return draw_starts(self.model, self.place)

    @property
    def restarts(self) -> Starts:
        """Start states of a real-time robot's later episodes; by default `starts`."""
        return self.starts

    def command_range(self) -> tuple[np.ndarray, np.ndarray]:
        """Returns the lowest and the highest command, each (nu,): the actuators' ctrlrange.

        Raises:
            ValueError: An actuator has none.
        """
        model = self.model
        if not model.actuator_ctrllimited.all():
            raise ValueError(f"task {self.name!r}: give every actuator of the MJCF a ctrlrange")
        return model.actuator_ctrlrange[:, 0].copy(), model.actuator_ctrlrange[:, 1].copy()

    @cached_property
    def action_fields(self) -> tuple[Field, ...]:
        """One field for each actuator, `<actuator>.target`, with its command range."""
        model = self.model
        names = [f"{model.actuator(i).name or f'actuator_{i}'}.target" for i in range(model.nu)]
        rows = zip(names, *self.command_range(), strict=True)
        return tile(*(Part(n, self.action_unit, low, high, self.max_rate) for n, low, high in rows))

    @cached_property
    def spec(self) -> TaskSpec:
        """The task's contract.

        Raises:
            ValueError: The obs fields do not fit `observe`, or an actuator lacks what the action
                map needs.
        """
        obs = tile(*self.obs_parts())
        self._check_obs(obs)
        return TaskSpec(
            name=self.name,
            obs=obs,
            action=self.action_fields,
            action_map=self._action_map(obs),
            control_period_s=self.control_period_s,
            episode_steps=self.episode_steps,
            reward=self.reward,
            success=self.success,
            success_when=self.success_when,
            terminated=self.terminated,
            hold=self.hold,
            domain=self.domain,
            new_coverage=self.new_coverage,
            novelty_fields=self.novelty_fields,
            explored=self.explored_fields,
        )

    def make_vec(self, n_envs: int, seed: int) -> MujocoBatch:
        """Returns `n_envs` simulations as one vector environment."""
        return MujocoBatch(
            self.spec,
            self.model,
            n_envs,
            seed,
            starts=self.starts,
            start_command=self.start_command,
            observe=self.observe,
            n_substeps=self.n_substeps,
            sensors_at_end=self.sensors_at_end,
            measured_reward=self.measured_reward,
            explored=self.explored,
            worlds=self.worlds,
        )

    @cached_property
    def explored_fields(self) -> tuple[Field, ...]:
        """Fields of the numbers that exploration is measured by; empty where it is the obs.

        Raises:
            ValueError: They do not fit `explored`.
        """
        fields = tile(*self.explored_parts())
        n_numbers = fields[-1].stop if fields else 0
        made = self.explored(*self._no_readings()).shape[1] if self.explored else 0
        if made != n_numbers:
            raise ValueError(
                f"task {self.name!r}: explored_parts() has {n_numbers} numbers, explored() returns "
                f"{made}; make them equal"
            )
        return fields

    def _no_readings(self) -> tuple[np.ndarray, np.ndarray]:
        """Returns readings (1, n_readings) and commands (1, nu) of zeros."""
        return np.zeros((1, readings.n_readings(self.model))), np.zeros((1, self.model.nu))

    def _check_obs(self, obs: tuple[Field, ...]) -> None:
        """Raises ValueError where the fields have another length than what `observe` returns."""
        model = self.model
        made = self.observe(*self._no_readings())
        if made.shape != (1, obs[-1].stop):
            raise ValueError(
                f"task {self.name!r}: obs_parts() has {obs[-1].stop} numbers, observe() "
                f"returns {made.shape[1]} ({model.nsensordata} of sensors, {model.na} activations, "
                f"{model.nu} commands); "
                "make them equal"
            )

    def _action_map(self, obs: tuple[Field, ...]) -> ActionMap:
        """Returns the map from actions to commands."""
        low, high = self.command_range()
        if self.action_kind == "absolute":
            return ActionMap.spread(low, high)
        starts = [field.start for field in obs if field.name == "command"]
        if self.max_rate is None or not starts:
            raise ValueError(
                f"task {self.name!r}: action_kind increment needs a max_rate, and an obs field "
                f"called 'command'; there are {[field.name for field in obs]}"
            )
        return ActionMap(
            kind="increment",
            scale=(self.max_rate * self.control_period_s,) * len(low),
            offset=(0.0,) * len(low),
            low=tuple(low.tolist()),
            high=tuple(high.tolist()),
            command_start=starts[0],
        )


def draw_starts(
    model: mujoco.MjModel,
    place: Callable[[mujoco.MjData, np.random.Generator], bool],
    n: int = N_STARTS,
) -> Starts:
    """Returns `n` start states (n, state) and their readings (n, n_readings).

    They are the same on every machine.

    Args:
        model: The compiled world.
        place: Puts a reset MjData into a random state, runs `mj_forward`, and says whether it is
            usable.
        n: Number of states.

    Raises:
        RuntimeError: `place` refuses too many states.
    """
    rng = np.random.default_rng(START_SEED)
    data = mujoco.MjData(model)
    states: list[np.ndarray] = []
    read: list[np.ndarray] = []
    for _ in range(MAX_DRAWS * n):
        if len(states) == n:
            return np.array(states), np.array(read)
        mujoco.mj_resetData(model, data)
        if place(data, rng):
            state = np.empty(mujoco.mj_stateSize(model, FULL_STATE))
            mujoco.mj_getState(model, data, state, FULL_STATE)
            states.append(state)
            read.append(readings.reading(data))
    raise RuntimeError(
        f"only {len(states)} of {MAX_DRAWS * n} start states are usable; check the MJCF and place()"
    )
