"""The trainers by TRL's names."""

from __future__ import annotations

from typing import Any

from exptilt.trl.preference_trainer import PreferenceTrainer
from exptilt.trl.trainer_configs import CPOConfig, DPOConfig, KTOConfig, ORPOConfig, RewardConfig, SFTConfig


class DPOTrainer(PreferenceTrainer):
    """Direct preference optimization and its family, by TRL's keywords; see `PreferenceTrainer`."""

    config_class = DPOConfig


class KTOTrainer(PreferenceTrainer):
    """Kahneman-Tversky optimization on good and bad completions, by TRL's keywords; see `PreferenceTrainer`."""

    kind = "KTO"
    config_class = KTOConfig


class _WithoutReference(PreferenceTrainer):
    """A trainer whose second positional argument is its configuration."""

    def __init__(
        self,
        model: Any = None,
        args: Any = None,
        data_collator: Any = None,
        train_dataset: Any = None,
        eval_dataset: Any = None,
        processing_class: Any = None,
        **keywords: Any,
    ) -> None:
        reference = keywords.pop("ref_model", None)  # refused with the other objects
        datasets = train_dataset, eval_dataset
        super().__init__(model, reference, args, data_collator, *datasets, processing_class, **keywords)


class ORPOTrainer(_WithoutReference):
    """Odds-ratio preference optimization, by TRL's keywords; see `PreferenceTrainer`."""

    kind = "ORPO"
    config_class = ORPOConfig


class CPOTrainer(_WithoutReference):
    """Contrastive preference optimization, SimPO and AlphaPO, by TRL's keywords; see `PreferenceTrainer`."""

    kind = "CPO"
    config_class = CPOConfig


class RewardTrainer(_WithoutReference):
    """A reward model from pairs, by TRL's keywords; see `PreferenceTrainer`."""

    kind = "Reward"
    config_class = RewardConfig


class SFTTrainer(_WithoutReference):
    """Supervised fine-tuning, by TRL's keywords; see `PreferenceTrainer`."""

    kind = "SFT"
    config_class = SFTConfig
