"""Fine-tuners, one per file. `FINE_TUNERS` finds them by name."""

from edp_robot.methods.finetune.diffusion_tuner import DiffusionTuner, DiffusionTunerConfig
from edp_robot.methods.finetune.fine_tuner import FINE_TUNERS, FineTuner, tuner_class
from edp_robot.methods.finetune.proposals import ProposalConfig, ProposalTuner

__all__ = [
    "FINE_TUNERS",
    "DiffusionTuner",
    "DiffusionTunerConfig",
    "FineTuner",
    "ProposalConfig",
    "ProposalTuner",
    "tuner_class",
]
