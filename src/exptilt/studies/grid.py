"""What `exptilt frontier` runs: objectives x seeds from one reference, measured at several steps."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

from pydantic import Discriminator

from exptilt.errors import ConfigError
from exptilt.losses import AnyLoss
from exptilt.sampling.sampling_law import SamplingLaw
from exptilt.settings.data_settings import BatchConfig
from exptilt.settings.evaluation_settings import EvaluateConfig
from exptilt.settings.load import config
from exptilt.settings.recipe import Recipe
from exptilt.settings.training_settings import OptimConfig, TrainConfig
from exptilt.studies.labels_by_reward import Bench
from exptilt.studies.tasks.imdb_task import ImdbTask
from exptilt.studies.tasks.own_task import OwnTask
from exptilt.studies.tasks.reviews_task import WorldTask

AnyTask = Annotated[WorldTask | ImdbTask | OwnTask, Discriminator("name")]
_ALL = 100_000
"""Checkpoints kept: every one is to be measured."""


@config
class Method:
    """One objective of the grid."""

    loss: AnyLoss
    """The objective with its hyper-parameters."""
    learning_rate: float | None = None
    """Peak learning rate of this objective, > 0; null takes optim.learning_rate."""
    label: str | None = None
    """What it is called; by default the objective and its settings."""

    def __post_init__(self) -> None:
        if self.learning_rate is not None and not self.learning_rate > 0:
            raise ValueError(f"learning_rate must be > 0, got {self.learning_rate}")

    @property
    def title(self) -> str:
        """The label, or the objective with beta or alpha and whatever is not its default."""
        if self.label is not None:
            return self.label
        if self.loss.kind.imitates:
            return "Preferred-FT"
        told = [f"{name}={value:g}" if isinstance(value, float) else f"{name}={value}" for name, value in self._told()]
        return " ".join([type(self.loss).__name__, *told])

    def _told(self) -> Iterator[tuple[str, Any]]:
        for one in dataclasses.fields(self.loss):
            value = getattr(self.loss, one.name)
            if one.name != "name" and (one.name in ("beta", "alpha") or value != one.default):
                yield one.name, value


@config
class MeasureConfig:
    """How policies are measured."""

    every: int = 0
    """Steps between measured checkpoints of a run; 0 measures its end only."""
    num_prompts: int = 101
    """Held-out prompts."""
    num_samples: int = 16
    """Samples per prompt of every policy."""
    pool: int = 256
    """Samples per prompt of the reference, for the optimum and best-of-n; they show a KL of log(pool) nats at most."""
    max_new_tokens: int = 48
    """A sample is cut here, in preferences and in measurements; the prompt and this must fit the model."""
    proposals: int = 4
    """Trained policies, those that end with the highest rewards, whose samples join the reference's so that the optimum
    is known at larger KLs; together they give half as many as the reference. 0 uses the reference's alone."""
    proxy: str | None = None
    """Another reward, `module:function` called as function(prompt, completion): what would optimising it do to the true
    one? The implicit rewards of the proposals are always asked so."""

    def __post_init__(self) -> None:
        least = {"every": 0, "num_prompts": 2, "num_samples": 1, "pool": 4, "max_new_tokens": 1, "proposals": 0}
        for name, smallest in least.items():
            if getattr(self, name) < smallest:
                raise ValueError(f"{name} must be >= {smallest}, got {getattr(self, name)}")


@config
class GridRecipe:
    """A study: one reference, one reward, many runs, one figure."""

    output: str
    """The study's folder; run the command again to go on after a stop."""
    seed: int = 0
    """Of the reference, the preferences and all samples."""
    task: AnyTask
    """Where reference, preferences, prompts and reward come from: world, imdb or own."""
    methods: list[Method]
    """The objectives; every one starts from the reference."""
    seeds: list[int] = dataclasses.field(default_factory=lambda: [0])
    """Every objective is trained once with each."""
    batch: BatchConfig = BatchConfig()
    """Of every run."""
    optim: OptimConfig = OptimConfig(learning_rate=5e-4)
    """Of every run."""
    train: TrainConfig = TrainConfig()
    """Of every run; which checkpoints are kept follows from measure.every."""
    measure: MeasureConfig = MeasureConfig()
    """How policies are measured."""
    jobs: int = 1
    """Runs at a time, each in a process of its own, >= 1; the cores are shared out among them."""

    def __post_init__(self) -> None:
        if self.jobs < 1:
            raise ValueError(f"jobs must be >= 1, got {self.jobs}")
        if not self.methods or not self.seeds:
            raise ValueError("methods and seeds must name at least one each")
        titles = [method.title for method in self.methods]
        twice = sorted({title for title in titles if titles.count(title) > 1})
        if twice or len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"two runs would have one name: give each a label ({', '.join(twice) or 'seeds repeat'})")

    @property
    def folder(self) -> Path:
        """The study's folder."""
        return Path(self.output)

    @property
    def law(self) -> SamplingLaw:
        """Temperature 1 and no truncation: the law under which a KL of full distributions is that of the samples."""
        return SamplingLaw(max_new_tokens=self.measure.max_new_tokens)

    @property
    def entries(self) -> list[Entry]:
        """All runs, in order."""
        return [Entry(method, seed, len(self.seeds) > 1) for method in self.methods for seed in self.seeds]

    def recipe(self, entry: Entry, bench: Bench) -> Recipe:
        """One run of the grid as an ordinary recipe."""
        every = self.measure.every or _ALL
        rate = entry.method.learning_rate or self.optim.learning_rate
        return Recipe(
            output=str(self.folder / "runs" / entry.slug),
            seed=entry.seed,
            model=bench.reference,
            data=bench.data,
            loss=entry.method.loss,
            batch=self.batch,
            optim=replace(self.optim, learning_rate=rate),
            train=replace(self.train, save_every=every, keep_checkpoints=_ALL),
            evaluate=EvaluateConfig(num_prompts=0),
        )


@dataclass(frozen=True)
class Entry:
    """One run of the grid."""

    method: Method
    seed: int
    one_of_several: bool
    """Whether the method has runs with other seeds."""

    @property
    def title(self) -> str:
        """What the run is called."""
        return f"{self.method.title} seed={self.seed}" if self.one_of_several else self.method.title

    @property
    def slug(self) -> str:
        """Its folder; the seed is always in it, so that seeds can be added later."""
        bare = re.sub(r"[^a-z0-9.]+", "-", self.method.title.lower()).strip("-")
        if not bare:
            raise ConfigError(f"methods: label {self.method.title!r} has no letter or digit to name a folder by")
        return f"{bare}-seed-{self.seed}"
