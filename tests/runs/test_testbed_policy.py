"""A transformer trained by exptilt's own loop in a world where its optimum is exact."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console
from scipy.special import logsumexp

from exptilt.data.encode.tokens import encode_prompts
from exptilt.data.groups import Completion, Group
from exptilt.evaluation.frontier.optimum import OptimalFrontier
from exptilt.losses import DPO, RLOO, SFT
from exptilt.policies.models import load_model, load_tokenizer
from exptilt.policies.scoring import score_all
from exptilt.policies.tokenizers import train_word_tokenizer
from exptilt.runs.run_recipe import run_recipe
from exptilt.sampling.sampling_law import SamplingLaw
from exptilt.settings.data_settings import BatchConfig, DataConfig
from exptilt.settings.evaluation_settings import EvaluateConfig
from exptilt.settings.model_settings import ModelConfig, SmallModel
from exptilt.settings.recipe import Recipe
from exptilt.settings.reward_settings import OwnReward
from exptilt.settings.rollout_settings import RolloutConfig
from exptilt.settings.rounds_settings import RoundLaw
from exptilt.settings.training_settings import OptimConfig, TrainConfig
from exptilt.studies.bench import Yardstick
from exptilt.studies.study import FrontierStudy, PolicyPoint, ReferencePool
from exptilt.testbed import MarkovWorld, SequenceLaw, as_demonstrations, as_preferences, completions

WORLD = MarkovWorld(
    length=5,
    transition=((0.5, 0.3, 0.2), (0.4, 0.4, 0.2), (0.3, 0.4, 0.3)),
    sentiment=(-1, 0, 1),
    reward_of_total=lambda total: 0.5 * total,
)
BETA, BATCH, STEPS = 1.0, 64, 200
SIZES = (250, 1000, 4000)
LETTERS = "abc"
RATE = 2e-3


TRUE_REWARD = """
MOODS = {"a": -1, "b": 0, "c": 1}

def of_letters(answers):
    letters = [answer.text.split() for answer in answers]
    return [0.5 * sum(MOODS[one] for one in each) if len(each) == 5 else -4.0 for each in letters]
"""
"""The world's reward of five letters; other lengths are no completions of this world."""


class Bench:
    """The reference, and policies trained on pairs of its world."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        words = folder / "tokenizer"
        train_word_tokenizer([" ".join(LETTERS)]).save_pretrained(words)
        small = SmallModel(hidden_size=32, num_layers=1, num_heads=2, max_positions=16)
        rows = as_demonstrations(WORLD, 6000, np.random.default_rng(0))
        data = self._write("demonstrations", [{"prompt": row.prompt, "completion": row.completion} for row in rows])
        start = ModelConfig(config=small, tokenizer=str(words))
        self.reference = self._train("reference", start, data, SFT(), 5e-3, 1.0)
        self.law = self.law_of(self.reference)
        self.optimum = self.law.tilt(BETA)

    def policy(self, num: int, seed: int) -> ModelConfig:
        """DPO on `num` pairs, as many steps whatever their number."""
        rows = as_preferences(WORLD, num, 1.0, np.random.default_rng((num, seed)))
        pairs = [{"prompt": row.prompt, "chosen": row.chosen, "rejected": row.rejected} for row in rows]
        name = f"{num}-{seed}"
        return self._train(name, self.reference, self._write(name, pairs), DPO(beta=BETA), RATE, STEPS * BATCH / num)

    def online(self, name: str, loss: Any, **rollout: Any) -> SequenceLaw:
        """The law of a policy that is trained on its own completions of the three prompts, by their true reward."""
        data = self._write("prompts", [{"prompt": letter} for letter in LETTERS])
        (self.folder / "world_reward.py").write_text(TRUE_REWARD)
        reward = OwnReward.read({"import": "world_reward:of_letters"})
        settings = {"reward": reward, "num_samples": 8, "law": RoundLaw(max_new_tokens=8), **rollout}
        recipe = Recipe(
            output=str(self.folder / name),
            model=self.reference,
            data=DataConfig(train=str(data)),
            loss=loss,
            rollout=RolloutConfig(**settings),
            batch=BatchConfig(size=24),
            optim=OptimConfig(learning_rate=4e-3),
            train=TrainConfig(epochs=1000, max_steps=60, log_every=1000, save_every=10_000),
            evaluate=EvaluateConfig(num_prompts=0),
        )
        run_recipe(recipe, Console(quiet=True), page=False)
        return self.law_of(ModelConfig(path=str(self.folder / name / "model")))

    def missed(self, law: SequenceLaw) -> float:
        """Share of the attainable objective, E r - BETA * KL, that a policy misses."""
        start, best, own = (one.expected_reward() - BETA * one.kl(self.law) for one in (self.law, self.optimum, law))
        return (best - own) / (best - start)

    def law_of(self, where: ModelConfig) -> SequenceLaw:
        """The exact law of a model over the world's completions, by scoring every one of them.

        What the model puts on other texts (an early end, say) is left out: preferences say nothing about it.
        """
        tokenizer = load_tokenizer(where)
        letters = np.array(tokenizer.convert_tokens_to_ids(list(LETTERS)), dtype=np.int32)
        rows = np.column_stack([letters[completions(WORLD)], np.full(len(completions(WORLD)), tokenizer.eos_token_id)])
        parts = tuple(Completion(ids=row.astype(np.int32), counted=np.ones(len(row), dtype=np.bool_)) for row in rows)
        prompts = encode_prompts(tokenizer, list(LETTERS))
        groups = [Group(id=str(at), prompt=prompt, completions=parts) for at, prompt in enumerate(prompts)]
        scored = score_all(load_model(where, tokenizer), groups)
        logps = np.stack([one.sum().double().numpy() for one in scored])
        return SequenceLaw(WORLD, logps - logsumexp(logps, axis=1, keepdims=True))

    def exact(self, where: ModelConfig) -> tuple[float, float]:
        """KL from the reference and E[r] of a model, by a walk over everything it can say, early ends included."""
        tokenizer = load_tokenizer(where)
        models = [load_model(one, tokenizer) for one in (where, self.reference)]
        going_on = torch.tensor([token for token in range(len(tokenizer)) if token != tokenizer.eos_token_id])
        moods = dict(zip(tokenizer.convert_tokens_to_ids(list(LETTERS)), WORLD.sentiment, strict=True))
        mood = torch.tensor([0.5 * moods.get(int(token), 0) for token in going_on])
        prefixes = torch.stack([torch.from_numpy(prompt) for prompt in encode_prompts(tokenizer, list(LETTERS))]).long()
        weight, total, kl, gained = torch.full((3,), 1 / 3).double(), torch.zeros(3), 0.0, 0.0
        for _ in range(WORLD.length + 1):
            with torch.no_grad():
                p, q = (model(input_ids=prefixes).logits[:, -1].double().log_softmax(-1) for model in models)
            kl += float((weight * (p.exp() * (p - q)).sum(dim=-1)).sum())
            gained += float((weight * p[:, tokenizer.eos_token_id].exp() * total).sum())
            prefixes = torch.cat(
                [prefixes.repeat_interleave(len(going_on), 0), going_on.repeat(len(prefixes))[:, None]], dim=1
            )
            weight, total = (weight[:, None] * p.exp()[:, going_on]).flatten(), (total[:, None] + mood).flatten()
        return kl, gained + float((weight * total).sum())

    def _train(self, name: str, model: ModelConfig, data: Path, loss, rate: float, epochs: float) -> ModelConfig:
        recipe = Recipe(
            output=str(self.folder / name),
            model=model,
            data=DataConfig(train=str(data), on_duplicate="keep", on_conflict="keep", on_identical="drop"),
            loss=loss,
            batch=BatchConfig(size=BATCH),
            optim=OptimConfig(learning_rate=rate),
            train=TrainConfig(epochs=epochs, log_every=1000, save_every=10_000),
            evaluate=EvaluateConfig(num_prompts=0),
        )
        return ModelConfig(path=str(run_recipe(recipe, Console(quiet=True), page=False).folder.model))

    def _write(self, name: str, rows: list[dict[str, str]]) -> Path:
        path = self.folder / f"{name}.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return path


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    patch = pytest.MonkeyPatch()
    patch.setenv("EXPTILT_CACHE", str(tmp_path_factory.mktemp("cache")))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    made = Bench(tmp_path_factory.mktemp("testbed"))
    made.policies = {num: made.policy(num, seed=1) for num in SIZES}
    yield made
    torch.set_num_threads(threads)
    patch.undo()


def test_the_distance_to_the_exact_optimum_falls_like_one_over_the_number_of_pairs(bench):
    missed = np.array([bench.law_of(bench.policies[num]).kl(bench.optimum) for num in SIZES])
    start = bench.law.kl(bench.optimum)
    assert start > 0.4
    assert missed[-1] < 0.03 * start
    slope = np.polyfit(np.log(SIZES), np.log(missed), 1)[0]
    assert -1.7 < slope < -0.7, (missed, slope)
    # 30 free probabilities: a constant of some tens, as for any model of that many parameters.
    assert (SIZES * missed > 3).all(), missed
    assert (SIZES * missed < 150).all(), missed


def test_what_a_trained_transformer_misses_is_beta_times_its_kl_to_the_optimum(bench):
    law = bench.law_of(bench.policies[1000])
    objective = law.expected_reward() - BETA * law.kl(bench.law)
    assert BETA * bench.law.log_z(BETA) - objective == pytest.approx(BETA * law.kl(bench.optimum), abs=1e-9)


def test_estimates_from_samples_agree_with_the_exact_values_of_the_same_models(bench):
    where = bench.policies[1000]
    tokenizer = load_tokenizer(where)
    sentiment = dict(zip(LETTERS, WORLD.sentiment, strict=True))

    def reward(prompts, said):
        return [0.5 * sum(sentiment.get(letter, 0) for letter in text.split()) for text in said]

    yardstick = Yardstick(
        reference=load_model(bench.reference, tokenizer),
        tokenizer=tokenizer,
        prompts=encode_prompts(tokenizer, list(LETTERS)),
        reward=reward,
        law=SamplingLaw(max_new_tokens=WORLD.length + 1),
        seed=3,
    )
    study = FrontierStudy(ReferencePool.draw(yardstick, 2000), "reward")
    found = yardstick.measure(load_model(where, tokenizer), 2000, stream=1)
    study.add(PolicyPoint("dpo", "DPO", BETA, STEPS, run="x"), found, yardstick.provenance)
    (kl, gained), point = bench.exact(where), study.points[0]
    noise = {name: found.by_prompt(name).std(axis=1).mean() / np.sqrt(len(found.kl)) for name in ("kl", "reward")}
    assert point.kl.value == pytest.approx(kl, abs=4 * noise["kl"])
    assert point.reward.value == pytest.approx(gained, abs=4 * noise["reward"])
    assert found.by_prompt("kl").std() < 0.5 * found.by_prompt("k1").std()

    rewards = np.tile(WORLD.rewards(completions(WORLD)), (len(LETTERS), 1))
    exact = OptimalFrontier.from_law(rewards, np.exp(bench.law.logps))
    for at in (0.1, 0.4, 1.0):
        assert study.optimum.reward_at(at).value == pytest.approx(exact.reward_at(at).value, abs=0.06)
    true = exact.fraction(kl, gained)
    assert 0.6 < true.reward_fraction.value < 1
    assert point.fraction.value == pytest.approx(true.reward_fraction.value, abs=0.05)
    assert point.gap.value == pytest.approx(exact.gap(exact.beta_at(kl), kl, gained).value, abs=0.05)


def test_rloo_reaches_the_optimum_of_reward_and_kl(bench, monkeypatch):
    """60 updates of 24 x 8 own samples; what pairs of the reference's samples need thousands of labels for."""
    monkeypatch.chdir(bench.folder)
    monkeypatch.syspath_prepend(str(bench.folder))
    assert bench.missed(bench.law) == 1
    assert bench.missed(bench.online("rloo", RLOO(beta=BETA))) < 0.03
