"""A recipe: everything one run needs, in one YAML file."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from exptilt.config import config
from exptilt.data.batching import BatchConfig
from exptilt.data.sources import DataConfig
from exptilt.losses import DPO, SFT, AnyLoss
from exptilt.policies.models import ModelConfig
from exptilt.train.loop import TrainConfig
from exptilt.train.optim import OptimConfig


@config
class ReferenceConfig:
    """What the policy is measured against."""

    model: str | None = None
    """Folder or hub id of another reference; by default the weights the run starts from."""
    cache: bool = True
    """Keep the reference's log-probabilities on disk (EXPTILT_CACHE), by content, for later runs."""
    move_every: int = 0
    """TR-DPO: move the reference toward the policy every so many steps (512 in the paper); 0 keeps it where it is."""
    mix: float = 0.6
    """TR-DPO: how far a move goes, in (0, 1]; 1 copies the policy."""

    def __post_init__(self) -> None:
        if self.move_every < 0:
            raise ValueError(f"move_every must be >= 0, got {self.move_every}")
        if not 0 < self.mix <= 1:
            raise ValueError(f"mix must be in (0, 1], got {self.mix}")


@config
class EvaluateConfig:
    """What is measured on held-out rows when training has ended."""

    num_prompts: int = 64
    """Held-out prompts to sample from, for sequence-level KL, length and side-by-sides; 0 skips sampling."""
    num_samples: int = 2
    """Completions per prompt."""
    max_new_tokens: int = 128
    """A sampled completion is cut here, and counted as cut."""
    level: float = 0.95
    """Coverage of every interval."""

    def __post_init__(self) -> None:
        for name in ("num_prompts", "num_samples", "max_new_tokens"):
            if getattr(self, name) < (0 if name == "num_prompts" else 1):
                raise ValueError(f"{name} is too small, got {getattr(self, name)}")
        if not 0 < self.level < 1:
            raise ValueError(f"level must be in (0, 1), got {self.level}")


@config
class SFTPhase:
    """A first phase of supervised fine-tuning on the chosen completions; its result is the reference."""

    batch: BatchConfig = BatchConfig()
    """Batches of this phase."""
    optim: OptimConfig = OptimConfig(learning_rate=1e-5)
    """Optimizer of this phase."""
    train: TrainConfig = TrainConfig()
    """Length of this phase."""


@config
class Recipe:
    """One run: a model, preferences, an objective, and how to train and measure."""

    output: str
    """The run folder; made if absent, resumed if it holds an unfinished run of an equal recipe."""
    seed: int = 0
    """Seeds initial weights, batches and samples."""
    model: ModelConfig
    """Where the weights start."""
    data: DataConfig
    """Where the rows come from, and what to do with rows that cannot be used."""
    sft: SFTPhase | None = None
    """Fine-tune on the chosen completions first (for models that never saw such text); none skips it."""
    loss: AnyLoss = DPO()
    """The objective; `exptilt config` lists them all."""
    batch: BatchConfig = BatchConfig()
    """How rows are put together."""
    optim: OptimConfig = OptimConfig()
    """How weights move."""
    train: TrainConfig = TrainConfig()
    """How long to train."""
    reference: ReferenceConfig = ReferenceConfig()
    """What the policy is measured against."""
    evaluate: EvaluateConfig = EvaluateConfig()
    """What is measured at the end."""

    def __post_init__(self) -> None:
        if not 0 <= self.seed < 2**32:
            raise ValueError(f"seed must be in [0, 2**32), got {self.seed}")

    @property
    def folder(self) -> Path:
        """The run folder."""
        return Path(self.output)

    def sft_recipe(self) -> Recipe:
        """The supervised phase as a run of its own, in the folder `sft` of this one."""
        if self.sft is None:
            raise ValueError("this recipe has no supervised phase")
        return replace(
            self,
            output=str(self.folder / "sft"),
            sft=None,
            loss=SFT(),
            batch=self.sft.batch,
            optim=self.sft.optim,
            train=self.sft.train,
        )
