"""`exptilt demo`: the DPO paper's controlled-sentiment experiment in small, with the same parts as any run.

a world of film reviews with a known reward -> SFT: the reference -> its samples, labelled by Bradley-Terry on the reward
-> Preferred-FT, DPO at three betas, IPO -> reward against sequence-level KL on held-out prompts, beside the optimum
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from exptilt.data.batching import BatchConfig
from exptilt.data.encode import encode_prompts
from exptilt.data.sources import DataConfig
from exptilt.losses import DPO, IPO, SFT, AnyLoss
from exptilt.policies.models import ModelConfig, SmallModel, load_model, load_tokenizer
from exptilt.policies.tokenizers import train_word_tokenizer
from exptilt.recipes.frontier import FrontierStudy, PolicyPoint, Yardstick
from exptilt.recipes.recipe import EvaluateConfig, Recipe
from exptilt.recipes.run_folder import RunFolder
from exptilt.recipes.training import run_recipe
from exptilt.recipes.world import World, label_pairs
from exptilt.reports import write_report
from exptilt.reports.terminal import frontier_table
from exptilt.sampling.generate import sample
from exptilt.sampling.law import SamplingLaw
from exptilt.train.loop import TrainConfig
from exptilt.train.optim import OptimConfig


@dataclass(frozen=True)
class DemoSize:
    """How much of everything; the defaults fit in three minutes on two cores."""

    num_reviews: int = 8000
    """Reviews the reference learns from."""
    sft_epochs: float = 3.0
    samples_per_prompt: int = 24
    """Reference samples per training prompt; neighbours make the pairs."""
    epochs: float = 2.0
    """Passes over the preferences, for every method."""
    pool: int = 256
    """Reference samples per held-out prompt, for the optimum and best-of-n."""
    policy_samples: int = 16
    """Samples per held-out prompt of every trained policy."""
    num_prompts: int = 101
    """Held-out prompts."""
    width: int = 96
    num_layers: int = 3


LABEL_SCALE = 2.0
"""Sharpness of the Bradley-Terry labels: P(a preferred) = sigmoid(2 (r_a - r_b)), right four times in five."""

METHODS: dict[str, tuple[AnyLoss, float]] = {
    "preferred-ft": (SFT(), 5e-4),
    "dpo-beta-0.3": (DPO(beta=0.3), 5e-4),
    "dpo-beta-1": (DPO(beta=1.0), 5e-4),
    "dpo-beta-3": (DPO(beta=3.0), 5e-4),
    "ipo-beta-0.3": (IPO(beta=0.3), 5e-4),
}
"""Objective and peak learning rate of every run; the folder is the name."""

TITLES = {
    "preferred-ft": "Preferred-FT",
    "dpo-beta-0.3": "DPO beta=0.3",
    "dpo-beta-1": "DPO beta=1",
    "dpo-beta-3": "DPO beta=3",
    "ipo-beta-0.3": "IPO beta=0.3",
}


def run_demo(output: Path, seed: int, size: DemoSize | None = None) -> dict[str, Any]:
    """Run the experiment, print its table, write its report.

    Args:
        output: folder of runs and report; a second call on it goes on where the first was interrupted.
        seed: two runs with one seed give the same table.
        size: how much of everything.

    Returns:
        The content of frontier.json.
    """
    return _Demo(output, seed, size or DemoSize()).run()


class _Demo:
    """The steps, in order; each leaves files that the next one reads."""

    def __init__(self, output: Path, seed: int, size: DemoSize) -> None:
        self.output, self.seed, self.size = output, seed, size
        self.world = World(seed)
        self.console = Console()
        self.quiet = Console(quiet=True)
        self.began = time.monotonic()

    def run(self) -> dict[str, Any]:
        """Everything."""
        self.output.mkdir(parents=True, exist_ok=True)
        reference = self._reference()
        self._say("the reference speaks; its samples are paired and labelled by a noisy coin")
        self._preferences(reference)
        for name, (loss, learning_rate) in METHODS.items():
            self._say(f"train {TITLES[name]}")
            run_recipe(self._method(name, loss, learning_rate, reference), self.quiet, page=False)
        self._say("sample every policy on held-out prompts; reward against KL, and the optimum")
        study = self._study(reference)
        content = study.content()
        folder = RunFolder(self.output)
        folder.write("frontier.json", content)
        folder.write_lines("samples.jsonl", study.side_by_side(TITLES["dpo-beta-0.3"]))
        page = write_report([self.output])
        self.console.print(frontier_table(content))
        self.console.print(f"report: {page}   ({time.monotonic() - self.began:.0f} s)", highlight=False)
        return content

    def _say(self, what: str) -> None:
        self.console.print(f"[dim]{time.monotonic() - self.began:4.0f} s[/dim]  {what}", highlight=False)

    def _reference(self) -> Path:
        """SFT on the world's reviews from random weights."""
        self._say(f"write {self.size.num_reviews} film reviews; train a small model on them: the reference")
        reviews = self.world.corpus(self.size.num_reviews, seed=self.seed + 1)
        data = self.output / "reviews.jsonl"
        _write(data, ({"prompt": opening, "completion": " " + text} for opening, text in reviews))
        tokenizer = self.output / "tokenizer"
        train_word_tokenizer([" ".join(self.world.vocabulary)]).save_pretrained(tokenizer)
        small = SmallModel(hidden_size=self.size.width, num_layers=self.size.num_layers, num_heads=4, max_positions=64)
        recipe = Recipe(
            output=str(self.output / "reference"),
            seed=self.seed,
            model=ModelConfig(config=small, tokenizer=str(tokenizer)),
            data=DataConfig(train=str(data), on_duplicate="keep"),
            loss=SFT(),
            optim=OptimConfig(learning_rate=2e-3),
            train=TrainConfig(epochs=self.size.sft_epochs, save_every=100_000),
        )
        return run_recipe(recipe, self.quiet, page=False).folder.model

    def _preferences(self, reference: Path) -> None:
        """Pairs of reference samples as ordinary preference files, for training and for held-out prompts."""
        counts = {"train": (self.size.samples_per_prompt, False), "test": (4, True)}
        for name, (num_samples, held_out) in counts.items():
            path = self.output / f"preferences-{name}.jsonl"
            if path.exists():
                continue
            prompts = self.world.prompts(len(self.world.openings), self.seed, held_out=held_out)
            prompts = list(dict.fromkeys(prompts))
            texts = self._sampled(reference, prompts, num_samples, seed=self.seed + 2 + held_out)
            rng = np.random.default_rng((self.seed, held_out))
            _write(path, self._labelled(prompts, texts, rng))

    def _labelled(
        self, prompts: list[str], texts: list[list[str]], rng: np.random.Generator
    ) -> Iterator[dict[str, str]]:
        for prompt, answers in zip(prompts, texts, strict=True):
            rewards = [self.world.reward(f"{prompt} {answer}") for answer in answers]
            preferred = label_pairs(rewards[::2], rewards[1::2], LABEL_SCALE, rng)
            for first, second, first_wins in zip(answers[::2], answers[1::2], preferred, strict=True):
                chosen, rejected = (first, second) if first_wins else (second, first)
                yield {"prompt": prompt, "chosen": " " + chosen, "rejected": " " + rejected}

    def _sampled(self, model_folder: Path, prompts: list[str], num_samples: int, seed: int) -> list[list[str]]:
        tokenizer = load_tokenizer(ModelConfig(path=str(model_folder)))
        model = load_model(ModelConfig(path=str(model_folder)), tokenizer)
        samples = sample(
            model, tokenizer, encode_prompts(tokenizer, prompts), num_samples=num_samples, law=LAW, seed=seed
        )
        texts = [item.text(tokenizer) for item in samples]
        return [texts[start : start + num_samples] for start in range(0, len(texts), num_samples)]

    def _method(self, name: str, loss: AnyLoss, learning_rate: float, reference: Path) -> Recipe:
        data = DataConfig(
            train=str(self.output / "preferences-train.jsonl"),
            test=str(self.output / "preferences-test.jsonl"),
            on_identical="drop",
            on_duplicate="keep",
            on_conflict="keep",
        )
        return Recipe(
            output=str(self.output / "runs" / name),
            seed=self.seed,
            model=ModelConfig(path=str(reference)),
            data=data,
            loss=loss,
            batch=BatchConfig(size=64),
            optim=OptimConfig(learning_rate=learning_rate),
            train=TrainConfig(epochs=self.size.epochs, log_every=5, eval_every=20, save_every=100_000),
            evaluate=EvaluateConfig(num_prompts=0),
        )

    def _study(self, reference: Path) -> FrontierStudy:
        tokenizer = load_tokenizer(ModelConfig(path=str(reference)))
        prompts = self.world.prompts(self.size.num_prompts, self.seed, held_out=True)
        yardstick = Yardstick(
            reference=load_model(ModelConfig(path=str(reference)), tokenizer),
            tokenizer=tokenizer,
            prompts=encode_prompts(tokenizer, prompts),
            reward=self.world.reward,
            law=LAW,
            seed=self.seed + 10,
        )
        study = FrontierStudy(yardstick, "sentiment", self.size.pool)
        for name, (loss, _) in METHODS.items():
            folder = RunFolder(self.output / "runs" / name)
            model = load_model(ModelConfig(path=str(folder.model)), tokenizer)
            steps = folder.read("run.json")["steps"]
            point = PolicyPoint(TITLES[name], loss.name, getattr(loss, "beta", None), steps, run=name)
            study.measure(point, model, self.size.policy_samples)
        return study


LAW = SamplingLaw(max_new_tokens=48)
"""Temperature 1, no top-k, no top-p: the law under which the KL of full distributions is the KL of the samples."""


def _write(path: Path, rows: Iterator[dict[str, str]]) -> None:
    temporary = path.with_suffix(".tmp")
    temporary.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    temporary.replace(path)
