"""Settings of a study: one reference, one reward, objectives times seeds, and how their policies are measured."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Discriminator

from exptilt.errors import ConfigError
from exptilt.kinds import ROLLOUT
from exptilt.settings.critic_settings import CriticConfig
from exptilt.settings.data_settings import BatchConfig, DataConfig
from exptilt.settings.declaration import config
from exptilt.settings.evaluation_settings import EvaluateConfig
from exptilt.settings.loss_choice import AnyLossChoice, OwnLoss, choice_of
from exptilt.settings.model_settings import ModelConfig, SmallModel
from exptilt.settings.ranges import Positive
from exptilt.settings.recipe import Recipe
from exptilt.settings.reward_settings import AnyReward
from exptilt.settings.rollout_settings import RolloutConfig
from exptilt.settings.training_settings import OptimConfig, TrainConfig


@config
class LabelConfig:
    """How the known reward decides which of two completions is preferred."""

    by: Literal["bradley_terry", "deterministic"] = "bradley_terry"
    """bradley_terry: a coin with P = sigmoid(scale * difference of rewards); deterministic: the higher reward, as in the
    DPO paper, where the loss has no minimum and the run ends where it is stopped."""
    scale: Positive = 2.0
    """Sharpness of the coin, > 0; DPO's optimum is then that of beta / scale."""
    pairs: Literal["neighbours", "all"] = "neighbours"
    """Which pairs the samples of a prompt make: each sample in one pair, or every two (6 from 4, as in the paper)."""


@config
class WorldTask:
    """Film reviews from a grammar; the reward is their exact sentiment, in [-3, 3]."""

    name: Literal["world"] = "world"
    num_reviews: int = 8000
    """Reviews the reference learns from."""
    sft_epochs: float = 3.0
    """Passes of the reference over them."""
    width: int = 96
    """Width of the model."""
    num_layers: int = 3
    """Layers of the model."""
    samples_per_prompt: int = 24
    """Reference samples per training prompt, made into pairs."""
    labels: LabelConfig = LabelConfig()
    """How pairs are labelled."""


@config
class ImdbTask:
    """Real film reviews; the reward is a classifier's probability that prefix and continuation are positive."""

    name: Literal["imdb"]
    data: str | None = None
    """Folder with sentiment/imdb.train.jsonl.gz and imdb.test.jsonl.gz; null takes EXPTILT_DATA."""
    num_reviews: int | None = None
    """Reviews of each split to use, from its start; null is all."""
    excerpts: int = 2
    """Excerpts of each review the reference learns from, >= 1."""
    words: int = 36
    """Longest excerpt, words; it ends with a sentence."""
    sft_epochs: float = 2.0
    """Passes of the reference over the excerpts."""
    model: SmallModel = SmallModel(hidden_size=128, num_layers=3, num_heads=4, max_positions=128, vocab_size=3000)
    """The reference's architecture, and the size of its vocabulary."""
    num_prompts: int = 2000
    """Training prefixes the reference answers."""
    samples_per_prompt: int = 4
    """Answers to each, made into pairs."""
    labels: LabelConfig = LabelConfig(by="deterministic", pairs="all", scale=8.0)
    """How pairs are labelled; deterministic and all pairs as in the paper."""

    def __post_init__(self) -> None:
        for name, least in (("excerpts", 1), ("words", 8), ("num_prompts", 1), ("samples_per_prompt", 2)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be >= {least}, got {getattr(self, name)}")


@config
class OwnTask:
    """A reference model, preferences with a held-out part, and a reward written in Python."""

    name: Literal["own"]
    model: ModelConfig
    """The reference; every run starts from it."""
    data: DataConfig
    """Preferences to train on; the prompts of the held-out part are the ones measured on."""
    reward: AnyReward | str
    """Any reward (`{kind: model, path: my-rm}`), or `module:function`, called as function(prompt, completion) -> float; the
    module may lie in the current folder."""


@config
class Method:
    """One objective of the grid."""

    loss: AnyLossChoice
    """The objective with its hyper-parameters."""
    learning_rate: float | None = None
    """Peak learning rate of this objective, > 0; null takes optim.learning_rate."""
    label: str | None = None
    """What it is called; by default the objective and its settings."""
    rollout: RolloutConfig | None = None
    """Train on completions that the policy draws itself, from the prompts of the preferences; see `rollout:` of a recipe."""
    reward: Literal["true", "learned"] = "true"
    """What rewards them where rollout.reward is none: the study's reward, or a model trained on the study's preferences."""
    critic: CriticConfig | None = None
    """The critic of an objective that has one (ppo); see `critic:` of a recipe."""
    batch_size: int | None = None
    """Rows of one step of this objective; null takes batch.size."""
    max_steps: int | None = None
    """Steps of this objective, >= 1; null takes train.max_steps."""

    def __post_init__(self) -> None:
        for name in ("batch_size", "max_steps"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise ValueError(f"{name} must be >= 1, got {getattr(self, name)}")
        if self.learning_rate is not None and not self.learning_rate > 0:
            raise ValueError(f"learning_rate must be > 0, got {self.learning_rate}")
        object.__setattr__(self, "loss", choice_of(self.loss))  # Python code may give the loss itself
        if self.loss.kind == ROLLOUT and self.rollout is None:
            raise ValueError(f"rollout is missing: {self.loss.name} learns from completions drawn while training")
        if self.loss.kind.scores:
            raise ValueError(
                f"a study compares policies, and {self.loss.name} trains a reward model; use `exptilt train` for it"
            )

    @property
    def title(self) -> str:
        """The label, or the objective with beta or alpha and whatever is not its default."""
        if self.label is not None:
            return self.label
        if self.loss.kind.imitates:
            return "Preferred-FT"
        told = [f"{name}={value:g}" if isinstance(value, float) else f"{name}={value}" for name, value in self._told()]
        name = self.loss.title if isinstance(self.loss, OwnLoss) else type(self.loss).__name__
        online = [] if self.rollout is None or self.loss.kind == ROLLOUT else ["online"]
        return " ".join([*online, name, *told]) + (", learned reward" if self.asks_learned_reward else "")

    @property
    def asks_learned_reward(self) -> bool:
        """Whether rollouts are rewarded by a model trained on the study's preferences."""
        return self.rollout is not None and self.rollout.reward is None and self.reward == "learned"

    def _told(self) -> Iterator[tuple[str, Any]]:
        loss: Any = self.loss.loss if isinstance(self.loss, OwnLoss) else self.loss
        if not dataclasses.is_dataclass(loss):
            return
        for field in dataclasses.fields(loss):
            value = getattr(loss, field.name)
            if field.name != "name" and (field.name in ("beta", "alpha") or value != field.default):
                yield field.name, value


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
    proxy: AnyReward | str | None = None
    """Another reward, such as `{kind: model, path: my-rm}`, the folder of a reward model or of its run, or `module:function` called
    as function(prompt, completion): what would optimising it, or choosing the best of n by it, do to the true one? Implicit
    rewards of the proposals are asked too."""

    def __post_init__(self) -> None:
        least = {"every": 0, "num_prompts": 2, "num_samples": 1, "pool": 4, "max_new_tokens": 1, "proposals": 0}
        for name, smallest in least.items():
            if getattr(self, name) < smallest:
                raise ValueError(f"{name} must be >= {smallest}, got {getattr(self, name)}")


_ALL = 100_000
"""Checkpoints kept: every one is to be measured."""

AnyTask = Annotated[WorldTask | ImdbTask | OwnTask, Discriminator("name")]
"""What can be studied."""


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
    """The objectives; every one starts from the reference. Empty: what the reference's samples alone show, the optimum and
    best-of-n, without any training."""
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
        if not self.seeds:
            raise ValueError("seeds must name at least one")
        titles = [method.title for method in self.methods]
        twice = sorted({title for title in titles if titles.count(title) > 1})
        if twice or len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"two runs would have one name: give each a label ({', '.join(twice) or 'seeds repeat'})")

    @property
    def folder(self) -> Path:
        """The study's folder."""
        return Path(self.output).expanduser()

    @property
    def runs(self) -> list[GridRun]:
        """All runs, in order."""
        return [GridRun(method, seed, len(self.seeds) > 1) for method in self.methods for seed in self.seeds]

    def recipe(self, run: GridRun, model: ModelConfig, data: DataConfig, reward: AnyReward | None = None) -> Recipe:
        """One run of the grid as an ordinary recipe.

        Args:
            run: which run.
            model: the reference, where the run starts.
            data: preferences to train on.
            reward: what rewards rollouts where the method names none.
        """
        every, method = self.measure.every or _ALL, run.method
        rate = method.learning_rate or self.optim.learning_rate
        rollout = method.rollout
        if rollout is not None:
            law = replace(rollout.law, max_new_tokens=self.measure.max_new_tokens)
            rollout = replace(rollout, reward=rollout.reward or reward, take_prompts=True, law=law)
        return Recipe(
            output=str(self.folder / "runs" / run.slug),
            seed=run.seed,
            model=model,
            data=data,
            loss=run.method.loss,
            rollout=rollout,
            critic=method.critic,
            batch=replace(self.batch, size=method.batch_size or self.batch.size),
            optim=replace(self.optim, learning_rate=rate),
            train=replace(
                self.train,
                save_every=every,
                keep_checkpoints=_ALL,
                max_steps=method.max_steps or self.train.max_steps,
                epochs=1000.0 if method.max_steps and rollout is not None else self.train.epochs,
            ),
            evaluate=EvaluateConfig(num_prompts=0),
        )


@dataclass(frozen=True)
class GridRun:
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
