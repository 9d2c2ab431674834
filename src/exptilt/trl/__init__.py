"""TRL's trainers on exptilt's engine: code that was written for TRL runs with the import changed.

    from exptilt.trl import DPOConfig, DPOTrainer

TRL itself is not needed and not imported. docs/trl.md says what differs, docs/trl_keywords.md answers every keyword.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from exptilt.trl.trainer_configs import CPOConfig as CPOConfig
    from exptilt.trl.trainer_configs import DPOConfig as DPOConfig
    from exptilt.trl.trainer_configs import KTOConfig as KTOConfig
    from exptilt.trl.trainer_configs import ORPOConfig as ORPOConfig
    from exptilt.trl.trainer_configs import RewardConfig as RewardConfig
    from exptilt.trl.trainer_configs import SFTConfig as SFTConfig
    from exptilt.trl.trainers import CPOTrainer as CPOTrainer
    from exptilt.trl.trainers import DPOTrainer as DPOTrainer
    from exptilt.trl.trainers import KTOTrainer as KTOTrainer
    from exptilt.trl.trainers import ORPOTrainer as ORPOTrainer
    from exptilt.trl.trainers import RewardTrainer as RewardTrainer
    from exptilt.trl.trainers import SFTTrainer as SFTTrainer

_KINDS = ("CPO", "DPO", "KTO", "ORPO", "Reward", "SFT")
__all__ = [f"{kind}{end}" for kind in _KINDS for end in ("Config", "Trainer")]


def __getattr__(name: str) -> Any:
    """Import a trainer or a configuration when it is asked for: torch takes seconds."""
    if name not in __all__:
        raise AttributeError(
            f"exptilt.trl has no {name}; it has the trainers and configurations of {', '.join(_KINDS)}"
        )
    module = "trainer_configs" if name.endswith("Config") else "trainers"
    return getattr(import_module(f"exptilt.trl.{module}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
