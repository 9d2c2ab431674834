"""Iterated DPO against one-shot DPO with as many labels, and best-of-n by learned rewards, on the demo's film reviews.

python benchmarks/rounds.py --output /tmp/rounds [--seeds 3] [--rounds 3] [--samples 8] [--betas 0.1 0.5 2]

One reference. One-shot: `rounds * samples` completions of each prompt, labelled, one DPO run. Iterated: `samples` in each
of `rounds` rounds, each from the model just trained, against it (fresh) or against the very first model (fixed). Labels come from
a Bradley-Terry coin on the exact sentiment, neighbours compared, so all have equally many labels and steps. Reward and KL from the
reference are measured on held-out prompts, beside the optimum at that KL. The command goes on where it was stopped.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from exptilt.policies.models import load_model, load_tokenizer
from exptilt.rewards.text_classifier import TextClassifier
from exptilt.run_folder.frontier_record import Frontier
from exptilt.run_folder.round_files import RoundFiles
from exptilt.runs.rounds.run_rounds import run_rounds
from exptilt.sampling.sampling_law import SamplingLaw
from exptilt.settings.data_settings import BatchConfig, DataConfig
from exptilt.settings.evaluation_settings import EvaluateConfig
from exptilt.settings.grid_settings import WorldTask
from exptilt.settings.loss_choice import LossChoice
from exptilt.settings.model_settings import ModelConfig
from exptilt.settings.own_parts import source_digest
from exptilt.settings.recipe import Recipe
from exptilt.settings.reward_settings import OwnReward
from exptilt.settings.rounds_settings import RoundLaw, RoundsConfig
from exptilt.settings.training_settings import OptimConfig, TrainConfig
from exptilt.studies.bench import Yardstick
from exptilt.studies.study import FrontierStudy, PolicyPoint, ReferencePool
from exptilt.studies.tasks.reviews_task import prepare_world
from exptilt.testbed.reviews import FilmReviews

LENGTH = 48
WORLD = FilmReviews(0)


def sentiment(answers: Any) -> list[float]:
    """The exact reward of the world; recipes name it as rounds:sentiment."""
    return [WORLD.reward(f"{answer.prompt} {answer.text.strip()}") for answer in answers]


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--output", type=Path, required=True)
    options.add_argument("--seeds", type=int, default=1)
    options.add_argument("--rounds", type=int, default=3)
    options.add_argument("--samples", type=int, default=8)
    options.add_argument("--betas", type=float, nargs="+", default=[0.1, 0.5, 2.0])
    options.add_argument("--reviews", type=int, default=8000)
    options.add_argument("--pool", type=int, default=128)
    options.add_argument("--width", type=int, default=64)
    arguments = options.parse_args()
    for seed in range(arguments.seeds):
        study = one_seed(arguments, seed)
        print_table(study, seed)


def one_seed(arguments: argparse.Namespace, seed: int) -> Frontier:
    folder = arguments.output / f"seed-{seed}"
    folder.mkdir(parents=True, exist_ok=True)
    law = SamplingLaw(max_new_tokens=LENGTH)
    task = WorldTask(
        num_reviews=arguments.reviews, width=arguments.width, num_layers=2, sft_epochs=2.0, samples_per_prompt=2
    )
    # World and reference are the same for all seeds; samples, labels and runs have the seed.
    world = arguments.output / "world"
    world.mkdir(exist_ok=True)
    bench = prepare_world(task, world, 0, law, 101)
    prompts = folder / "prompts.jsonl"
    asked = dict.fromkeys(WORLD.prompts(len(WORLD.openings), 0, held_out=False))
    prompts.write_text("".join(json.dumps({"prompt": prompt}) + "\n" for prompt in asked))
    runs = methods(arguments, bench.reference, prompts, folder, seed)
    for recipe in runs.values():
        run_rounds(recipe, Console(quiet=True), page=False)
    tokenizer = load_tokenizer(bench.reference)
    yardstick = Yardstick(
        reference=load_model(bench.reference, tokenizer), tokenizer=tokenizer, prompts=bench.prompts, reward=bench.reward,
        law=law.ending_at(tokenizer), seed=seed + 10,
    )  # fmt: skip
    pool = ReferencePool.draw(yardstick, arguments.pool)
    study = FrontierStudy(pool, "sentiment", proxies=learned_rewards(pool, yardstick, runs))
    for stream, (name, recipe) in enumerate(runs.items(), start=1):
        model = load_model(ModelConfig(path=str(recipe.folder / "model")), tokenizer)
        point = PolicyPoint(name=name, method=name, beta=None, steps=0, run=recipe.folder.name)
        study.add(point, yardstick.measure(model, 16, stream), yardstick.provenance)
    content = study.content()
    (folder / "frontier.json").write_text(json.dumps(content.as_dict()))
    return content


def methods(
    arguments: argparse.Namespace, reference: ModelConfig, prompts: Path, folder: Path, seed: int
) -> dict[str, Recipe]:
    """Recipes by name."""
    made = {}
    for beta in arguments.betas:
        one = RoundsConfig(
            num_rounds=1, num_samples=arguments.samples * arguments.rounds, law=RoundLaw(max_new_tokens=LENGTH),
            reward=OwnReward(path="rounds:sentiment", source=source_digest(sentiment)), pairs="neighbours", decide="coin", scale=2.0,
        )  # fmt: skip
        several = replace(one, num_rounds=arguments.rounds, num_samples=arguments.samples)
        for name, rounds in (
            ("one-shot", one),
            (f"{arguments.rounds} rounds, fresh reference", several),
            (f"{arguments.rounds} rounds, first reference", replace(several, fresh_reference=False)),
        ):
            made[f"{name}, beta={beta:g}"] = Recipe(
                output=str(folder / f"{name.replace(' ', '-').replace(',', '')}-{beta:g}"),
                seed=seed,
                model=reference,
                data=DataConfig(train=str(prompts)),
                loss=LossChoice.of("dpo", beta=beta),
                batch=BatchConfig(size=64),
                optim=OptimConfig(learning_rate=5e-4),
                train=TrainConfig(save_every=100_000),
                evaluate=EvaluateConfig(num_prompts=0),
                rounds=rounds,
            )
    return made


def learned_rewards(pool: ReferencePool, yardstick: Yardstick, runs: dict[str, Recipe]) -> dict[str, Any]:
    """A text classifier of chosen against rejected, on all labels of the first one-shot run and on a twentieth of them."""
    recipe = next(iter(runs.values()))
    rows = [json.loads(line) for line in RoundFiles(recipe.folder, 1).rows.read_text().splitlines()]
    texts, found = list(pool.draws(yardstick).texts), {}
    for name, kept in (("all labels", rows), (f"{len(rows) // 20} labels", rows[::20])):
        sides = [row[side] for row in kept for side in ("chosen", "rejected")]
        classifier = TextClassifier.fit(sides, [1, 0] * len(kept))
        found[f"classifier of {name}"] = classifier.probabilities(texts).reshape(pool.rewards.shape)
    return found


def print_table(study: Frontier, seed: int) -> None:
    print(f"seed {seed}: reference {study.reference_reward}")
    for point in study.points:
        best = np.interp(point.kl.value or 0, study.optimum.kl, study.optimum.reward) if study.optimum else np.nan
        print(f"| {point.name} | {point.reward} | {point.kl} | {best:.3f} | {point.fraction} |")
    for one in study.best_of_n_by:
        ns = [n for n in (1, 2, 4, 8, 16, 32, 64, 128) if n <= len(one.gold)]
        golds = " ".join(f"{one.gold[n - 1]:.3f}" for n in ns)
        print(f"| best of n by {one.name} | n = {ns} | {golds} | best n {one.best_n} | fall {one.fall} |", flush=True)


if __name__ == "__main__":
    main()
