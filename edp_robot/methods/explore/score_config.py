"""The config of EDP's intrinsic reward, for both of its forms."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from edp_robot.methods.models import NoiseModelConfig
from edp_robot.methods.ranges import NotNegative, Ranged, Share

ESTIMATORS = ("iid", "stratified", "antithetic", "shared", "centred", "fixed", "exact")
SPACINGS = ("time", "log_snr")
SHARED = ("shared", "centred")
PAIRED = ("antithetic", *SHARED, "fixed")


@dataclass(frozen=True)
class ScoreRewardConfig(Ranged):
    """Settings of EDP's intrinsic reward (method sections 2 and 7).

    The estimator `exact` trains no state model and draws no noise. It uses the best noise model of
    the last `n_states` states drawn from the replay, at `t_low`, in closed form. It suits
    observations (or `fields`) of few dimensions. The other estimators train `model`.

    With `n_neighbours` above 0, the resolution at `t_low` follows the data, of which the last
    `n_states` are held: a state is compared with about that many others.

    `n_draws` counts network calls per state (K). Noise levels lie in [t_low, t_high], spread by
    `spacing`. `pseudo_count` is the count of a state that is near no other. Novelty is measured on
    the observation fields named in `fields`, or on all of them if it is empty.
    """

    n_draws: int = 4
    t_low: Share = 0.05
    t_high: Share = 0.6
    spacing: Literal["time", "log_snr"] = "time"
    estimator: Literal["iid", "stratified", "antithetic", "shared", "centred", "fixed", "exact"] = (
        "shared"
    )
    n_states: int = 1024
    n_neighbours: NotNegative = 0.0
    pseudo_count: float = 0.1
    fields: tuple[str, ...] = ()
    model: NoiseModelConfig = field(default_factory=NoiseModelConfig)

    def __post_init__(self) -> None:
        if self.estimator not in ESTIMATORS:
            raise ValueError(f"no estimator {self.estimator!r}; there are: {', '.join(ESTIMATORS)}")
        if self.spacing not in SPACINGS:
            raise ValueError(f"no spacing {self.spacing!r}; there are: {', '.join(SPACINGS)}")
        if self.estimator == "exact":
            self._check_exact()
        elif self.n_draws < 1 or (self.estimator in PAIRED and self.n_draws % 2):
            raise ValueError(
                f"n_draws={self.n_draws}: antithetic noise comes in pairs; "
                "give an even number, 2 or more"
            )
        if self.n_neighbours and not self.t_low > 0:
            raise ValueError(
                f"t_low={self.t_low}, n_neighbours={self.n_neighbours}: the resolution is the "
                "noise at t_low; give a t_low above 0"
            )
        if not self.t_low <= self.t_high:
            raise ValueError(f"t_low={self.t_low}: must be at most t_high={self.t_high}")
        super().__post_init__()

    def _check_exact(self) -> None:
        if not 0 < self.t_low < 1 or self.n_states < 1:
            raise ValueError(
                f"t_low={self.t_low}, n_states={self.n_states}: "
                "give a noise level in (0, 1), and 1 state or more"
            )
        if not self.pseudo_count > 0:
            raise ValueError(
                f"pseudo_count={self.pseudo_count}: give a number above 0; "
                "at 0 a new state's reward is unbounded"
            )
