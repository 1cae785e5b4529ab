"""What the study of bodies compares: recipes of exploring, and the tasks that come after.

The preset of `edp` is one of its recipes: named numbers where a task names some, else the closed
form.
"""

from __future__ import annotations

from typing import NamedTuple


class Recipe(NamedTuple):
    """A way to explore.

    Attributes:
        method: Name of the intrinsic reward.
        settings: NAME=VALUE for `edp pretrain --set`, on top of the preset.
        preset: Sizes and rates.
        on_named: Whether novelty is looked for on the task's `novelty_fields` alone. A task that
            names none has no such run.
    """

    method: str
    settings: tuple[str, ...] = ()
    preset: str = "demo"
    on_named: bool = False


CLOSED = (
    "reward.estimator=exact",
    "reward.t_low=0.1",
    "reward.n_neighbours=8",
    "reward.pseudo_count=1e-9",
)
NETWORK = (
    "reward.estimator=fixed",
    "reward.spacing=log_snr",
    "reward.n_draws=2",
    "reward.t_low=0.2",
    "reward.t_high=0.6",
    "reward.n_neighbours=0",
    "reward.model.learning_rate=1e-4",
)
ALL = "reward.fields=[]"
RECIPES: dict[str, Recipe] = {
    "edp, closed form": Recipe("edp", (*CLOSED, ALL)),
    "edp, network": Recipe("edp", (*NETWORK, ALL)),
    "edp, named numbers": Recipe("edp", on_named=True),
    "particle": Recipe("particle"),
    "particle, named numbers": Recipe("particle", on_named=True),
    "rnd": Recipe("rnd"),
    "rnd, named numbers": Recipe("rnd", on_named=True),
    "random": Recipe("random"),
    "edp, authors' settings": Recipe("edp", (), "paper"),
}
# Tasks of each domain that a fine-tuner learns after exploring. Others are explored only.
DOWNSTREAM: dict[str, tuple[str, ...]] = {
    "walker": ("walker-walk", "walker-flip"),
    "hopper": ("hopper-hop", "hopper-flip"),
    "cheetah": ("cheetah-run", "cheetah-flip"),
    "quadruped": ("quadruped-walk", "quadruped-jump"),
    "jaco": ("jaco-reach-top-left", "jaco-reach-bottom-right"),
    "walker-mass": ("walker-mass-walk", "walker-mass-flip"),
    "quadruped-mass": ("quadruped-mass-walk", "quadruped-mass-jump"),
    "arm": ("arm-press", "arm-reach-left"),
    "arm-puck": ("arm-push",),
}
SCRATCH = "from scratch"
