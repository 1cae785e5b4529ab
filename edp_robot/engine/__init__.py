"""Makes grad_steps of small networks fast: `Adam` and `Recorded`."""

from edp_robot.engine.adam import Adam
from edp_robot.engine.recorded import Recorded

__all__ = ["Adam", "Recorded"]
