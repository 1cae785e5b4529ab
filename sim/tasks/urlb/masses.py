"""Bodies of many masses, for learning across embodiments (PEAC, arXiv 2405.14073).

`walker-mass` and `quadruped-mass` are the walker and the quadruped, whose episodes differ in one
factor on the mass of every link. One learner sees all factors of the paper: each episode draws one,
and copies that begin at once share them evenly. `walker-mass?scale=1.4` has that factor alone: one
of the paper for fine-tuning, or another one to see what carries over (the paper leaves .4, .8, 1.2
and 1.6 of the walker and .6 and 1.2 of the quadruped out of its training).

As in the authors' code the moments of inertia stay. Unlike there, MuJoCo's constants that follow
from the mass follow it, so that measured speeds are true ones: without that, a walker of 1.4 times
the mass reads 1.4 times its speed. The obs and all else are those of the body itself.
"""

from __future__ import annotations

import copy
from functools import cache, cached_property

import mujoco
import numpy as np

from sim.tasks.urlb.body import Body, Paid, register
from sim.tasks.urlb.quadruped import QUADRUPED_TASKS, Quadruped
from sim.tasks.urlb.walker import WALKER_TASKS, Walker


class ManyMasses(Body):
    """A body that has another mass in each episode, or one that is not its own.

    Args:
        name: Name of the task.
        paid: Its reward. None: there is none.
        scale: Factor on all masses. None: each episode draws one of `scales`.

    Attributes:
        scales: The factors.

    Raises:
        ValueError: `scale` is no positive number.
    """

    scales: tuple[float, ...] = ()

    def __init__(self, name: str, paid: Paid | None = None, scale: float | None = None) -> None:
        if scale is not None:
            if not 0 < scale < np.inf:
                raise ValueError(f"task {name!r}: scale must be a positive number, got {scale}")
            self.scales = (scale,)
        else:
            self.tells = tuple(told for told in self.tells if told != "mass")
        super().__init__(name, paid)

    @cached_property
    def model(self) -> mujoco.MjModel:
        """The body of the given scale, or of its own mass where there are several."""
        return self.worlds[0] if len(self.scales) == 1 else super().model

    @cached_property
    def worlds(self) -> tuple[mujoco.MjModel, ...]:
        """The body in each of its masses."""
        return tuple(_weighing(type(self), scale) for scale in self.scales)


class WalkerMass(ManyMasses, Walker):
    """The walker of .2 to 1.8 times its mass."""

    scales = (0.2, 0.6, 1.0, 1.4, 1.8)


class QuadrupedMass(ManyMasses, Quadruped):
    """The quadruped of .4 to 1.4 times its mass."""

    scales = (0.4, 0.8, 1.0, 1.4)


@cache
def _weighing(form: type[ManyMasses], scale: float) -> mujoco.MjModel:
    """Returns the body with all masses multiplied by `scale`."""
    model = copy.deepcopy(form.compiled())
    model.body_mass[:] *= scale
    mujoco.mj_setConst(model, mujoco.MjData(model))
    return model


for _form, _tasks in ((WalkerMass, WALKER_TASKS), (QuadrupedMass, QUADRUPED_TASKS)):
    _named = {name.replace(_form.domain, f"{_form.domain}-mass"): it for name, it in _tasks.items()}
    register(_form, _named)
