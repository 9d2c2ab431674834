"""Rankings by Plackett-Luce against all their pairs by Bradley-Terry: which reward model finds held-out rankings likelier?

EXPTILT_DATA=... python benchmarks/reward_models_kwise.py [--folds 5] [--epochs 2] [--rate 1e-3] [--width 48] [--seeds 1]

Data: kwise/qa_feedback_dev.jsonl.gz, 500 questions with four answers each, ranked by how many of the others each beats; ties stay
ties in a ranking, and are no pair. Every question is held out once (folds). Both objectives start from one small language model with
random weights and one score, see the same questions in a step, and take as many steps. Printed are the held-out negative
log-likelihoods of a ranking and of its pairs, in nats, accuracy, and the paired differences, clustered by question.
"""

from __future__ import annotations

import argparse
import gzip
import json
import math
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console

from exptilt.data.groups import Group
from exptilt.data.prepared import prepare
from exptilt.evaluation.held_out_scores import ScoredPairs
from exptilt.evaluation.intervals import mean, paired_difference
from exptilt.losses import PlackettLuceReward
from exptilt.policies.model_heads import TRAINED_SCORE
from exptilt.policies.models import load_model, load_tokenizer
from exptilt.policies.reward_scorer import scores_of_groups
from exptilt.runs.run_recipe import run_recipe
from exptilt.settings.load import load
from exptilt.settings.model_settings import ModelConfig
from exptilt.settings.recipe import Recipe

QUESTIONS = 8
"""Questions of a step."""
LOSSES = ("plackett_luce_reward", "bradley_terry")


@dataclass(frozen=True)
class Measured:
    """Of one held-out question."""

    ranking: float
    """Negative log-likelihood of its ranking, nats; ties by the mean over their orders."""
    pairs: float
    """Mean negative log-likelihood of its pairs, nats."""
    right: float
    """Share of its pairs ranked right."""


def recipe_of(
    folder: Path, loss: str, train: Path, settings: argparse.Namespace, seed: int, pairs_each: float
) -> Recipe:
    size = QUESTIONS if loss == "plackett_luce_reward" else round(QUESTIONS * pairs_each)
    shape = f"{{hidden_size: {settings.width}, num_layers: 1, num_heads: 4, max_positions: 1200, vocab_size: 2048}}"
    keep = [f"data.on_{what}=keep" for what in ("identical", "empty", "duplicate", "conflict")]
    return load(Recipe, None, [
        f"output={folder}", f"seed={seed}", f"model.config={shape}", f"model.tokenizer={settings.tokenizer}",
        f"data.train={train}", "data.format=copeland", "data.on_tie=drop", *keep, f"loss={loss}", f"batch.size={size}",
        f"optim.learning_rate={settings.rate}", f"train.epochs={settings.epochs}", "train.save_every=100000",
    ])  # fmt: skip


def rankings(path: Path, recipe: Recipe, tokenizer: Any) -> list[Group]:
    data = recipe.data.__class__(**{**vars(recipe.data), "train": str(path)})
    return list(prepare(data, tokenizer, PlackettLuceReward().kind, 1200).train)


def measured(folder: Path, groups: list[Group]) -> list[Measured]:
    """By the saved model; a question without a strict pair has no pairs to rank."""
    settings = ModelConfig(path=str(folder / "model"))
    model = load_model(settings, load_tokenizer(settings), head=TRAINED_SCORE)
    scores = scores_of_groups(model, groups)
    found = []
    for group, own in zip(groups, scores, strict=True):
        ranks = torch.tensor(group.label.ranks)
        ranking = float(PlackettLuceReward()(own, torch.tensor([len(own)]), ranks).loss)
        pairs = ScoredPairs.of([group], [own.numpy()])
        margin = pairs.chosen - pairs.rejected
        nll, right = (np.logaddexp(0, -margin).mean(), (margin > 0).mean()) if len(margin) else (math.nan, math.nan)
        found.append(Measured(ranking, float(nll), float(right)))
    return found


def pairs_per_question(path: Path, recipe: Recipe, tokenizer: Any) -> float:
    groups = rankings(path, recipe, tokenizer)
    return len(ScoredPairs.of(groups, [np.zeros(len(group.completions)) for group in groups]).groups) / len(groups)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--epochs", type=float, default=2)
    parser.add_argument("--rate", type=float, default=1e-3)
    parser.add_argument("--width", type=int, default=48)
    parser.add_argument("--seeds", type=int, default=1)
    settings = parser.parse_args()
    source = Path(os.environ["EXPTILT_DATA"]) / "kwise" / "qa_feedback_dev.jsonl.gz"
    rows = gzip.decompress(source.read_bytes()).decode().splitlines()
    np.random.default_rng(0).shuffle(rows)
    results: dict[str, list[Measured]] = {loss: [] for loss in LOSSES}
    prompts: list[str] = []
    with tempfile.TemporaryDirectory() as name:
        home = Path(name)
        settings.tokenizer = home / "tokenizer"
        _tokenizer(rows).save_pretrained(settings.tokenizer)
        tokenizer = load_tokenizer(ModelConfig(tokenizer=str(settings.tokenizer)))
        for seed in range(settings.seeds):
            for fold in range(settings.folds):
                train, test = home / f"train-{fold}.jsonl", home / f"test-{fold}.jsonl"
                train.write_text("\n".join(row for at, row in enumerate(rows) if at % settings.folds != fold) + "\n")
                test.write_text("\n".join(row for at, row in enumerate(rows) if at % settings.folds == fold) + "\n")
                probe = recipe_of(home / "probe", LOSSES[0], train, settings, seed, 1)
                each, held_out = pairs_per_question(train, probe, tokenizer), rankings(test, probe, tokenizer)
                prompts += [group.prompt.tobytes().hex() for group in held_out]
                for loss in LOSSES:
                    recipe = recipe_of(home / f"{loss}-{seed}-{fold}", loss, train, settings, seed, each)
                    run_recipe(recipe, Console(quiet=True), page=False)
                    results[loss] += measured(recipe.folder, held_out)
                print(f"seed {seed}, fold {fold}: done", flush=True)
    _print(results, prompts)


def _tokenizer(rows: list[str]) -> Any:
    from exptilt.policies.tokenizers import train_tokenizer

    texts = [text for row in map(json.loads, rows) for text in (row["question"], *row["answers"])]
    return train_tokenizer(texts, 2048)


def _print(results: dict[str, list[Measured]], prompts: list[str]) -> None:
    labels = np.array(prompts)
    for name in ("ranking", "pairs", "right"):
        columns = [np.array([getattr(one, name) for one in results[loss]]) for loss in LOSSES]
        known = ~np.isnan(columns[0])
        first, second = (column[known] for column in columns)
        print(
            f"{name}: Plackett-Luce {mean(first, labels[known])}, Bradley-Terry on all pairs {mean(second, labels[known])}"
        )
        print(
            f"    difference, paired by question: {paired_difference(first, second, labels[known])} ({known.sum()} held out)"
        )
    ranks = math.log(math.factorial(4))
    print(f"a model that knows nothing: ranking {ranks:.3f}, pairs {math.log(2):.3f}, right 0.5")


if __name__ == "__main__":
    main()
