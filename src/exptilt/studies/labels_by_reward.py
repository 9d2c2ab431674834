"""A controlled experiment's first half: a reference from scratch, and its own samples labelled by a known reward."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from exptilt.data.encode.tokens import encode_prompts
from exptilt.data.groups import TokenIds
from exptilt.disk import write_lines
from exptilt.errors import Stopped
from exptilt.policies.models import load_model, load_tokenizer
from exptilt.run_folder.folder import RunFolder
from exptilt.runs.run_recipe import run_recipe
from exptilt.sampling.generate import sample
from exptilt.sampling.sampling_law import SamplingLaw
from exptilt.settings.data_settings import DataConfig
from exptilt.settings.grid_settings import LabelConfig
from exptilt.settings.loss_choice import LossChoice
from exptilt.settings.model_settings import ModelConfig, SmallModel
from exptilt.settings.recipe import Recipe
from exptilt.settings.training_settings import OptimConfig, TrainConfig
from exptilt.studies.bench import Reward
from exptilt.testbed.reviews import label_pairs


@dataclass(frozen=True)
class Bench:
    """The basis of a study: the reference, preferences to train on, prompts to measure on, and the reward."""

    reference: ModelConfig
    data: DataConfig
    prompts: list[TokenIds]
    reward: Reward
    reward_name: str
    facts: dict[str, Any]
    """Numbers about the bench itself, for the record."""
    true_reward: Any = None
    """Settings of the same reward, for runs that ask it while they train; None where it has none."""


@dataclass(frozen=True)
class Labeller:
    """Draws from the reference and writes preferences."""

    reference: ModelConfig
    reward: Reward
    labels: LabelConfig
    law: SamplingLaw
    lead: str = ""
    """Text between prompt and completion, if the completion's text does not begin with it."""

    def write(self, path: Path, prompts: Sequence[str], num_samples: int, seed: int, coin: NDArray[np.int64]) -> None:
        """Write one file of `prompt, chosen, rejected`, unless the file exists.

        Args:
            path: file to write.
            prompts: to draw for.
            num_samples: completions of each prompt, >= 2.
            seed: seed of the samples.
            coin: seeds of the labels.
        """
        if path.exists():
            return
        tokenizer = load_tokenizer(self.reference)
        model = load_model(self.reference, tokenizer)
        ids = encode_prompts(tokenizer, list(prompts))
        drawn = sample(model, tokenizer, ids, num_samples=num_samples, law=self.law, seed=seed)
        texts = [completion.text(tokenizer) for completion in drawn]
        rewards = np.asarray(
            self.reward([prompts[completion.prompt_index] for completion in drawn], texts), dtype=np.float64
        )
        write_lines(path, self._rows(prompts, texts, rewards, np.random.default_rng(coin)))

    def _rows(
        self, prompts: Sequence[str], texts: list[str], rewards: NDArray[np.float64], rng: np.random.Generator
    ) -> Iterator[dict[str, str]]:
        count = len(texts) // len(prompts)
        neighbours = [(at, at + 1) for at in range(0, count - 1, 2)]
        pairs = list(combinations(range(count), 2)) if self.labels.pairs == "all" else neighbours
        first, second = np.array(pairs).T
        for index, prompt in enumerate(prompts):
            completions = texts[index * count : (index + 1) * count]
            scores = rewards[index * count : (index + 1) * count]
            wins = self._preferred(scores[first], scores[second], rng)
            for (left, right), first_wins in zip(pairs, wins, strict=True):
                chosen, rejected = (left, right) if first_wins else (right, left)
                yield {
                    "prompt": prompt,
                    "chosen": self.lead + completions[chosen],
                    "rejected": self.lead + completions[rejected],
                }

    def _preferred(
        self, first: NDArray[np.float64], second: NDArray[np.float64], rng: np.random.Generator
    ) -> NDArray[np.bool_]:
        """Draw which completion is preferred; equal rewards are decided by a fair coin either way."""
        if self.labels.by == "bradley_terry":
            return label_pairs(first, second, self.labels.scale, rng)
        return np.where(first == second, rng.random(len(first)) < 0.5, first > second)


def train_reference(
    folder: Path,
    seed: int,
    rows: Iterable[dict[str, str]],
    tokenizer: Path | None,
    size: SmallModel,
    train: TrainConfig,
) -> ModelConfig:
    """Train a reference from random weights by SFT on rows of `prompt, completion`; a finished one is left unchanged.

    Args:
        folder: folder of the study; data go to `demonstrations.jsonl`, the run to `reference`.
        seed: seed of the run.
        rows: demonstrations.
        tokenizer: folder of the tokenizer; None trains a byte-level one on the rows.
        size: the architecture.
        train: length of training.
    """
    data = folder / "demonstrations.jsonl"
    if not data.exists():
        write_lines(data, rows)
    recipe = Recipe(
        output=str(folder / "reference"),
        seed=seed,
        model=ModelConfig(config=size, tokenizer=None if tokenizer is None else str(tokenizer)),
        data=DataConfig(train=str(data), on_duplicate="keep", on_too_long="drop"),
        loss=LossChoice.of("sft"),
        optim=OptimConfig(learning_rate=2e-3),
        train=train,
    )
    return ModelConfig(path=str(finish(recipe).model))


def finish(recipe: Recipe) -> RunFolder:
    """Train one run of a study to its end, quietly.

    Raises:
        Stopped: it was asked to stop before.
    """
    outcome = run_recipe(recipe, Console(quiet=True), page=False)
    if not outcome.finished:
        raise Stopped(f"stopped; run the same command again to go on from step {outcome.step} of {recipe.output}")
    return outcome.folder


def pair_files(folder: Path) -> DataConfig:
    """Settings of a run's data for preferences that a `Labeller` wrote: equal pairs are dropped, repeated rows stay."""
    return DataConfig(
        train=str(folder / "preferences-train.jsonl"),
        test=str(folder / "preferences-test.jsonl"),
        on_empty="keep",
        on_identical="drop",
        on_duplicate="keep",
        on_conflict="keep",
    )
