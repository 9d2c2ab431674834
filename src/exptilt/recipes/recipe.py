"""A recipe: everything one run needs, in one YAML file."""

from __future__ import annotations

from dataclasses import field, replace
from pathlib import Path

from exptilt.config import config
from exptilt.data.batching import BatchConfig
from exptilt.data.sources import DataConfig
from exptilt.losses import DPO, SFT, AnyLoss
from exptilt.policies.adapters import AdapterConfig
from exptilt.policies.models import ModelConfig
from exptilt.train.optim import OptimConfig
from exptilt.train.settings import ParallelConfig, TrainConfig


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
    sections: dict[str, dict[str, float]] = field(default_factory=dict)
    """Sections of a benchmark and the weight of each of their subsets, by the data's column `section`; none: those of
    RewardBench where the labels are its subsets, else every label is a section by itself."""

    def __post_init__(self) -> None:
        for name in ("num_prompts", "num_samples", "max_new_tokens"):
            if getattr(self, name) < (0 if name == "num_prompts" else 1):
                raise ValueError(f"{name} is too small, got {getattr(self, name)}")
        if any(not weight > 0 for parts in self.sections.values() for weight in parts.values()):
            raise ValueError("sections: every subset's weight must be > 0")
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
    adapter: AdapterConfig | None = None
    """Train a low-rank adapter (LoRA) and leave the model's weights alone; none trains all weights."""
    loss: AnyLoss = DPO()
    """The objective; `exptilt config` lists them all."""
    batch: BatchConfig = BatchConfig()
    """How rows are put together."""
    optim: OptimConfig = OptimConfig()
    """How weights move."""
    train: TrainConfig = TrainConfig()
    """How long to train."""
    parallel: ParallelConfig = ParallelConfig()
    """How several processes share the work."""
    reference: ReferenceConfig = ReferenceConfig()
    """What the policy is measured against."""
    evaluate: EvaluateConfig = EvaluateConfig()
    """What is measured at the end."""

    def __post_init__(self) -> None:
        if not 0 <= self.seed < 2**32:
            raise ValueError(f"seed must be in [0, 2**32), got {self.seed}")
        self._check_weights()

    def _check_weights(self) -> None:
        if self.adapter is not None and self.model.path is None and self.sft is None:
            raise ValueError("adapter needs model.path: beside random weights it could not be used again")
        if self.adapter is not None and self.adapter.path is not None and self.sft is not None:
            raise ValueError("adapter.path and sft exclude each other: the supervised phase makes the first adapter")
        if self.model.quantize != "none" and self.adapter is None:
            raise ValueError("model.quantize needs adapter: weights in 4 bits cannot be trained themselves")
        if self.model.quantize != "none" and self.parallel.kind == "fsdp":
            raise ValueError("weights in 4 bits cannot be sharded; set parallel.kind=ddp or model.quantize=none")
        if self.model.dtype == "bfloat16" and self.train.precision == "float32":
            raise ValueError("train.precision=float32 needs weights to match; set model.dtype=auto or float32")

    @property
    def folder(self) -> Path:
        """The run folder."""
        return Path(self.output)

    def after_sft(self, model: Path) -> Recipe:
        """What follows the supervised phase: from its model, or with its adapter."""
        if self.adapter is not None and self.model.path is not None:
            return replace(self, sft=None, adapter=replace(self.adapter, path=str(model)))
        start = replace(self.model, path=str(model), config=None, tokenizer=None, revision=None)
        return replace(self, sft=None, model=start)

    def sft_recipe(self) -> Recipe:
        """The supervised phase as a run of its own, in the folder `sft` of this one."""
        if self.sft is None:
            raise ValueError("this recipe has no supervised phase")
        return replace(
            self,
            output=str(self.folder / "sft"),
            sft=None,
            adapter=None if self.model.path is None else self.adapter,  # a model from scratch is trained whole first
            data=replace(self.data, drop_highest_ches=0.0),  # of preferences, not of completions to imitate
            loss=SFT(),
            batch=self.sft.batch,
            optim=self.sft.optim,
            train=self.sft.train,
        )
