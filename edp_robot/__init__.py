"""Exploratory Diffusion Policy: pre-train without reward, fine-tune, distil, export.

Each name loads when it is first used, so `import edp_robot` loads no torch.

Stages (each writes a run folder):
    pretrain: Explores a task's world without reward. `pretrain(PretrainConfig(...), out)`.
    finetune: Improves a policy on a task's reward. `finetune(FinetuneConfig(...), out)`.
    clone: Fits a diffusion policy to demonstrations. `clone(CloneConfig(...), out)`.
    distill: Makes a student of 1, 2 or 4 network calls. `distill(DistillConfig(...), out)`.
    export: Writes a run's policy as a bundle. `export(run, out)`.
    RunRecord: What a run folder holds. `RunRecord.load(folder)`.

Methods (docs/your_method.md):
    IntrinsicReward: The base class of intrinsic rewards.
    FineTuner: The base class of fine-tuners.
    DiffusionTuner: The base class of fine-tuners of the diffusion policy.
    ProposalTuner, ProposalConfig: The same, with actions for each state that the critic values.
    INTRINSIC_REWARDS, FINE_TUNERS: The registries.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from policy_server.contract.doors.lazy import lazy_names

if TYPE_CHECKING:
    from edp_robot.deploy.export import export
    from edp_robot.methods.explore import INTRINSIC_REWARDS, IntrinsicReward
    from edp_robot.methods.finetune import (
        FINE_TUNERS,
        DiffusionTuner,
        FineTuner,
        ProposalConfig,
        ProposalTuner,
    )
    from edp_robot.training.clone import CloneConfig, clone
    from edp_robot.training.distill import distill
    from edp_robot.training.distillers import DistillConfig
    from edp_robot.training.finetune import FinetuneConfig, finetune
    from edp_robot.training.pretrain import PretrainConfig, pretrain
    from edp_robot.training.runs import RunRecord

__version__ = "0.1.0"
__all__ = [
    "FINE_TUNERS",
    "INTRINSIC_REWARDS",
    "CloneConfig",
    "DiffusionTuner",
    "DistillConfig",
    "FineTuner",
    "FinetuneConfig",
    "IntrinsicReward",
    "PretrainConfig",
    "ProposalConfig",
    "ProposalTuner",
    "RunRecord",
    "clone",
    "distill",
    "export",
    "finetune",
    "pretrain",
]

__getattr__, __dir__ = lazy_names(__name__)
