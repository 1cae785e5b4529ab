"""What the study of bodies compares: recipes of exploring, and the tasks that come after."""

from __future__ import annotations

from typing import NamedTuple


class Recipe(NamedTuple):
    """A way to explore.

    Attributes:
        method: Name of the intrinsic reward.
        settings: NAME=VALUE for `edp pretrain --set`, on top of the preset.
        preset: Sizes and rates.
    """

    method: str
    settings: tuple[str, ...] = ()
    preset: str = "demo"


RECIPES: dict[str, Recipe] = {
    "edp, network": Recipe("edp", ("reward.fields=[]", "reward.estimator=shared")),
    "edp, closed form": Recipe(
        "edp",
        (
            "reward.fields=[]",
            "reward.estimator=exact",
            "reward.t_low=0.1",
            "reward.pseudo_count=1e-9",
        ),
    ),
    "rnd": Recipe("rnd"),
    "particle": Recipe("particle"),
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
}
SCRATCH = "from scratch"
