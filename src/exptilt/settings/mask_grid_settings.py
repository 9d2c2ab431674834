"""Settings of a study of masks: one segmenter as the reference, one reward, objectives times seeds."""

from __future__ import annotations

import dataclasses
from dataclasses import replace
from pathlib import Path
from typing import Literal

from exptilt.settings.declaration import config
from exptilt.settings.grid_settings import GridRun, Method
from exptilt.settings.mask_settings import MaskBatchConfig, MaskData, MaskEvaluateConfig, MaskRecipe, SegmenterConfig
from exptilt.settings.training_settings import OptimConfig, TrainConfig


@config
class MaskMeasure:
    """How segmenters are measured: exactly, with no mask drawn."""

    reward: Literal["dice", "iou", "accuracy"] = "dice"
    """The expected overlap with the true mask, or the share of right pixels, when every pixel is drawn by its own distribution."""
    weights: tuple[float, ...] = ()
    """Of classes; of dice and iou without the background, of accuracy with it. All alike by default."""
    images: int | None = 40
    """Held-out images with a true mask, at most; null is all. The optimum of one image of 128 x 128 takes 8 CPU seconds."""
    betas: int = 24
    """Points of the optimum's curve."""

    def __post_init__(self) -> None:
        if self.images is not None and self.images < 2:
            raise ValueError(f"images must be >= 2, got {self.images}")
        if self.betas < 4:
            raise ValueError(f"betas must be >= 4, got {self.betas}")
        if any(not weight >= 0 for weight in self.weights) or (self.weights and not sum(self.weights) > 0):
            raise ValueError(f"weights must be >= 0, and not all of them 0, got {list(self.weights)}")


@config
class MaskGridRecipe:
    """A study of masks: one reference, one reward, many runs, one figure."""

    output: str
    """The study's folder; run the command again to go on after a stop."""
    segmenter: SegmenterConfig
    """The reference; every run starts from it."""
    data: MaskData
    """Pairs to train on; held-out rows with a `target` are what is measured on."""
    methods: list[Method]
    """The objectives. Empty: the reference and the optimum alone."""
    seeds: list[int] = dataclasses.field(default_factory=lambda: [0])
    """Every objective is trained once with each."""
    batch: MaskBatchConfig = MaskBatchConfig()
    """Of every run."""
    optim: OptimConfig = OptimConfig(learning_rate=5e-4, warmup_ratio=0.05)
    """Of every run."""
    train: TrainConfig = TrainConfig(epochs=4.0)
    """Of every run."""
    measure: MaskMeasure = MaskMeasure()
    """How segmenters are measured."""
    level: float = 0.95
    """Of intervals, which resample images."""
    allow_unbounded: bool = False
    """Take a linear anchor whose objective has no optimum."""

    def __post_init__(self) -> None:
        if not self.seeds:
            raise ValueError("seeds must name at least one")
        titles = [method.title for method in self.methods]
        twice = sorted({title for title in titles if titles.count(title) > 1})
        if twice or len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"two runs would have one name: give each a label ({', '.join(twice) or 'seeds repeat'})")
        if self.segmenter.config is not None:
            raise ValueError("segmenter.config: a study starts from trained weights; give segmenter.path")
        if self.data.test is None and not self.data.test_fraction:
            raise ValueError("data.test or data.test_fraction must be set: images with a target that are held out")
        for run in self.runs:
            self.recipe(run)

    @property
    def folder(self) -> Path:
        """The study's folder."""
        return Path(self.output).expanduser()

    @property
    def runs(self) -> list[GridRun]:
        """All runs, in order."""
        return [GridRun(method, seed, len(self.seeds) > 1) for method in self.methods for seed in self.seeds]

    def recipe(self, run: GridRun) -> MaskRecipe:
        """One run of the grid as an ordinary recipe."""
        rate = run.method.learning_rate or self.optim.learning_rate
        return MaskRecipe(
            segmenter=self.segmenter,
            data=self.data,
            output=str(self.folder / "runs" / run.slug),
            seed=run.seed,
            loss=run.method.loss,
            batch=self.batch,
            optim=replace(self.optim, learning_rate=rate),
            train=self.train,
            evaluate=MaskEvaluateConfig(level=self.level),
            allow_unbounded=self.allow_unbounded,
        )
