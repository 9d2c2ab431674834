"""A recipe: everything one run needs, in one YAML file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

from exptilt.kinds import PAIR, ROLLOUT
from exptilt.settings.critic_settings import CriticConfig
from exptilt.settings.data_settings import BatchConfig, DataConfig
from exptilt.settings.declaration import config
from exptilt.settings.evaluation_settings import EvaluateConfig
from exptilt.settings.loss_choice import AnyLossChoice, LossChoice, choice_of, needs_of
from exptilt.settings.model_settings import AdapterConfig, ModelConfig, ReferenceConfig
from exptilt.settings.rollout_settings import RolloutConfig
from exptilt.settings.rounds_settings import RoundsConfig
from exptilt.settings.training_settings import OptimConfig, ParallelConfig, TrainConfig


@config
class SFTPhase:
    """A first phase of supervised fine-tuning on the chosen completions; its result is the reference.

    Example:
        >>> SFTPhase(train=TrainConfig(epochs=2)).optim.learning_rate
        1e-05
    """

    batch: BatchConfig = BatchConfig()
    """Batches of this phase."""
    optim: OptimConfig = OptimConfig(learning_rate=1e-5)
    """Optimizer of this phase."""
    train: TrainConfig = TrainConfig()
    """Length of this phase."""


@config
class Recipe:
    """One run: a model, preferences, an objective, and how to train and measure.

    Example:
        >>> run = Recipe(output="runs/a", model=ModelConfig(path="gpt2"), data=DataConfig(train="pairs.jsonl"))
        >>> run.loss.name, run.loss.beta
        ('dpo', 0.1)
    """

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
    loss: AnyLossChoice = LossChoice.of("dpo")
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
    rounds: RoundsConfig | None = None
    """Sample, label and train several times, each time from the model just trained; none: train once on data.train."""
    rollout: RolloutConfig | None = None
    """Train on completions that the policy draws (rloo, ppo, grpo, distill, or any loss on pairs); none: on the rows of data.train."""
    critic: CriticConfig | None = None
    """The critic of ppo, which predicts rewards to come; none: its defaults, from the reward model where there is one."""
    bare_keys: ClassVar[Mapping[str, str]] = {"rounds": "num_rounds"}
    """Sections that may be one bare value, and the key it is short for."""

    def __post_init__(self) -> None:
        if not 0 <= self.seed < 2**32:
            raise ValueError(f"seed must be in [0, 2**32), got {self.seed}")
        object.__setattr__(self, "loss", choice_of(self.loss))  # Python code may give the loss itself
        self._check_weights()
        if self.loss.kind.scores:
            self._check_reward_model()
        if self.rounds is not None:
            self._check_rounds(self.rounds)
        if self.rollout is not None:
            self._check_rollout(self.rollout)
        elif self.loss.kind == ROLLOUT:
            raise ValueError(
                f"rollout is missing: loss {self.loss.name} learns from completions drawn while training; add e.g. "
                "rollout: {reward: {kind: model, path: my-reward-model}}"
            )

        if self.critic is not None and "advantages" not in needs_of(self.loss):
            raise ValueError(
                f"critic belongs to losses with advantages, such as ppo, and {self.loss.name} has none; leave it out"
            )

    def _check_weights(self) -> None:
        if self.adapter is not None and self.model.path is None and self.sft is None:
            raise ValueError("adapter needs model.path: beside random weights it could not be used again")
        if self.adapter is not None and self.adapter.path is not None and self.sft is not None:
            raise ValueError("adapter.path and sft exclude each other: the supervised phase makes the first adapter")
        if self.model.resize_embeddings and self.adapter is not None:
            raise ValueError(
                "model.resize_embeddings needs all weights trained: an adapter saved beside a base with other rows would load "
                "nowhere; leave out adapter, or resize the base and save it first"
            )
        if self.model.quantize != "none" and self.adapter is None:
            raise ValueError("model.quantize needs adapter: weights in 4 bits cannot be trained themselves")
        if self.model.quantize != "none" and self.parallel.kind == "fsdp":
            raise ValueError("weights in 4 bits cannot be sharded; set parallel.kind=ddp or model.quantize=none")
        if self.model.dtype == "bfloat16" and self.train.precision == "float32":
            raise ValueError("train.precision=float32 needs weights to match; set model.dtype=auto or float32")

    def _check_reward_model(self) -> None:
        """Refuse keys that mean something for a policy alone."""
        meaningless = {
            "sft": self.sft is not None,
            "rounds": self.rounds is not None,
            "reference": self.reference != ReferenceConfig(),
            "train.eval_samples": self.train.eval_samples > 0,
            "data.drop_highest_ches": self.data.drop_highest_ches > 0,
        }
        for key, is_set in meaningless.items():
            if is_set:
                raise ValueError(
                    f"{key} belongs to policies, and loss {self.loss.name} trains a reward model, which has no reference "
                    "and writes no text; leave it out"
                )

    def _check_rounds(self, rounds: RoundsConfig) -> None:
        if self.model.path is None and self.sft is None:
            raise ValueError("rounds needs model.path or sft: completions of random weights are not worth comparing")
        if self.reference.model is not None and rounds.fresh_reference:
            raise ValueError(
                "rounds takes the model each round begins with as its reference; leave out reference.model, or set "
                "rounds.fresh_reference=false to keep one reference for all rounds"
            )

    def _check_rollout(self, rollout: RolloutConfig) -> None:
        """Refuse what cannot be trained online, or means nothing there."""
        if self.loss.kind not in (ROLLOUT, PAIR):
            raise ValueError(
                f"rollout needs a loss on rollouts or on pairs, and {self.loss.name} is on {self.loss.kind.rows}"
            )
        meaningless = {
            "rounds": self.rounds is not None,
            "data.drop_highest_ches": self.data.drop_highest_ches > 0,
            "reference.move_every": self.reference.move_every > 0,
            "train.eval_samples": self.train.eval_samples > 0,
        }
        for key, is_set in meaningless.items():
            if is_set:
                raise ValueError(f"{key} and rollout exclude each other; leave one of them out")
        needs_rewards = self.loss.kind == PAIR or not {"scores", "advantages"}.isdisjoint(needs_of(self.loss))
        if needs_rewards and rollout.reward is None:
            raise ValueError(f"rollout.reward is missing: loss {self.loss.name} learns from it, e.g. {{kind: length}}")
        if needs_rewards and rollout.num_samples < 2 and "advantages" not in needs_of(self.loss):
            raise ValueError(
                f"rollout.num_samples must be at least 2 for {self.loss.name}, which compares completions of one prompt, got 1"
            )
        if rollout.prompts_per_rollout(self.batch.size) % self.batch.size:
            raise ValueError(
                f"rollout.num_prompts must be a multiple of batch.size = {self.batch.size}, the prompts of one update, got "
                f"{rollout.num_prompts}"
            )
        if rollout.bent and self.loss.kind == ROLLOUT:
            raise ValueError(
                f"rollout.law.{rollout.bent[0]} bends the law that {self.loss.name} must sample from, the model's own; leave it out"
            )

    @property
    def folder(self) -> Path:
        """The run folder."""
        return Path(self.output).expanduser()

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
            rounds=None,
            rollout=None,
            critic=None,
            adapter=None if self.model.path is None else self.adapter,  # a model from scratch is trained whole first
            data=replace(self.data, drop_highest_ches=0.0),  # of preferences, not of completions to imitate
            loss=LossChoice.of("sft"),
            batch=self.sft.batch,
            optim=self.sft.optim,
            train=self.sft.train,
        )
