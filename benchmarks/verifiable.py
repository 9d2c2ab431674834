"""Right or wrong as the reward: RLOO, GRPO and PPO with a verifier beside DPO on pairs that the verifier labelled.

    python benchmarks/verifiable.py runs/verifiable --steps 150 --methods rloo ppo dpo

A small model from scratch imitates sums of which a known share is wrong (the reference). Then each method goes on from it: online
ones draw from the policy, DPO trains on pairs of the reference's own completions. Printed is the share of right answers at temperature
1, with a 95 % interval over sums, before and after, on training sums and on held-out ones, and the KL per answer. Every part is a
run folder; what is done is not done again. The small twin is tests/online/test_verifiable.py.
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from rich.console import Console

from exptilt.data.encode.tokens import encode_prompts
from exptilt.losses import DPO, GRPO, PPO, RLOO, SFT
from exptilt.policies.divergence import sequence_kl
from exptilt.policies.models import load_model, load_tokenizer
from exptilt.policies.tokenizers import train_word_tokenizer
from exptilt.rewards.answer_checks import exact
from exptilt.runs.run_recipe import run_recipe
from exptilt.sampling.generate import sample, samples_as_groups
from exptilt.sampling.sampling_law import SamplingLaw
from exptilt.settings.critic_settings import CriticConfig
from exptilt.settings.data_settings import BatchConfig, DataConfig
from exptilt.settings.evaluation_settings import EvaluateConfig
from exptilt.settings.model_settings import ModelConfig, SmallModel
from exptilt.settings.recipe import Recipe
from exptilt.settings.reward_settings import VerifierConfig
from exptilt.settings.rollout_settings import RolloutConfig
from exptilt.settings.rounds_settings import RoundLaw
from exptilt.settings.training_settings import OptimConfig, TrainConfig
from exptilt.testbed.arithmetic_world import ArithmeticWorld

QUIET = Console(quiet=True)
DIGITS = 4
"""Most tokens of an answer, the end included."""
WRONG = 0.5
ONLINE: dict[str, dict[str, Any]] = {
    "rloo": {"loss": RLOO(beta=0.01)},
    "grpo": {"loss": GRPO(beta=0.0)},
    "ppo": {"loss": PPO(beta=0.01), "epochs": 2},
}


class Success(NamedTuple):
    """How often a policy is right."""

    share: float
    half_width: float
    """Of the 95 % interval over sums."""
    kl: float
    """Nats per answer, from the reference."""


class Bench:
    """The world, its reference, and what is trained from it."""

    def __init__(
        self, folder: Path, world: ArithmeticWorld, *, steps: int, hidden: int = 64, demonstrations: int = 12_000
    ):
        self.folder, self.world, self.steps, self.hidden = folder, world, steps, hidden
        self.train, self.held_out = world.prompts()
        folder.mkdir(parents=True, exist_ok=True)
        train_word_tokenizer([world.words]).save_pretrained(folder / "tokenizer")
        rows = world.demonstrations(demonstrations, WRONG, np.random.default_rng(0))
        shown = self._write("demonstrations", [{"prompt": r.prompt, "completion": r.completion} for r in rows])
        small = SmallModel(hidden_size=hidden, num_layers=2, num_heads=4, max_positions=24)
        start = ModelConfig(config=small, tokenizer=str(folder / "tokenizer"))
        self.reference = self._run("reference", start, shown, SFT(), 3e-3, train=TrainConfig(epochs=4.0))
        self.asked = self._write("prompts", [{"prompt": p.prompt, "answer": p.answer} for p in self.train])

    def online(self, name: str) -> ModelConfig:
        """Train on the policy's own answers, each paid 1 where it is right."""
        settings = ONLINE[name]
        rollout = RolloutConfig(
            reward=VerifierConfig(check="exact"), num_samples=8, law=RoundLaw(max_new_tokens=DIGITS),
            epochs=settings.get("epochs", 1),
        )  # fmt: skip
        steps = self.steps * settings.get("epochs", 1)
        critic = CriticConfig(optim=OptimConfig(learning_rate=1e-3)) if name == "ppo" else None
        limit = TrainConfig(epochs=10_000, max_steps=steps, save_every=10_000)
        further = {"rollout": rollout, "critic": critic, "train": limit}
        return self._run(name, self.reference, self.asked, settings["loss"], 1e-3, **further)

    def dpo(self, beta: float = 0.1) -> ModelConfig:
        """DPO on a right and a wrong answer of the reference to each sum, as many samples as the online methods draw."""
        each = max(8, self.steps * 16 * 8 // len(self.train))
        samples, texts, _ = self._drawn(self.reference, self.train, each)
        pairs = []
        for at, asked in enumerate(self.train):
            own = [texts[place] for place, one in enumerate(samples) if one.prompt_index == at]
            right = [text for text in own if exact(text, str(asked.answer))]
            wrong = [text for text in own if text.strip() and not exact(text, str(asked.answer))]
            pairs += [
                {"prompt": asked.prompt, "chosen": f" {r}", "rejected": f" {w}"}
                for r, w in zip(right, wrong, strict=False)
            ]
        data = self._write("pairs", pairs)
        return self._run("dpo", self.reference, data, DPO(beta=beta), 1e-3, train=TrainConfig(epochs=2.0))

    def success(self, where: ModelConfig, prompts: Any, num_samples: int = 32) -> Success:
        """Of answers drawn at temperature 1."""
        samples, texts, tokenizer = self._drawn(where, prompts, num_samples)
        right = np.array(
            [exact(text, str(prompts[one.prompt_index].answer)) for one, text in zip(samples, texts, strict=True)]
        )
        of_sums = right.reshape(len(prompts), num_samples).mean(axis=1)
        models = [load_model(one, tokenizer) for one in (where, self.reference)]
        kl = sequence_kl(*models, samples_as_groups(samples)).kl.mean()
        return Success(float(of_sums.mean()), 1.96 * float(of_sums.std(ddof=1)) / len(of_sums) ** 0.5, float(kl))

    def _drawn(self, where: ModelConfig, prompts: Any, num_samples: int) -> Any:
        tokenizer = load_tokenizer(where)
        ids = encode_prompts(tokenizer, [one.prompt for one in prompts])
        law = SamplingLaw(max_new_tokens=DIGITS)
        samples = sample(load_model(where, tokenizer), tokenizer, ids, num_samples=num_samples, law=law, seed=7)
        return samples, [one.text(tokenizer) for one in samples], tokenizer

    def _write(self, name: str, rows: list[dict[str, Any]]) -> Path:
        path = self.folder / f"{name}.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        return path

    def _run(self, name: str, model: ModelConfig, data: Path, loss: Any, rate: float, **settings: Any) -> ModelConfig:
        recipe = Recipe(
            output=str(self.folder / name), model=model, loss=loss,
            data=DataConfig(train=str(data), on_duplicate="keep", on_conflict="keep"),
            batch=BatchConfig(size=16 if "rollout" in settings else 64),
            optim=OptimConfig(learning_rate=rate), evaluate=EvaluateConfig(num_prompts=0), **settings,
        )  # fmt: skip
        run_recipe(recipe, QUIET, page=False)
        return ModelConfig(path=str(self.folder / name / "model"))


def main() -> None:
    """Print a line for each policy."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--steps", type=int, default=150, help="rollouts of 16 sums with 8 answers each")
    parser.add_argument("--largest", type=int, default=19)
    parser.add_argument("--methods", nargs="+", choices=[*ONLINE, "dpo"], default=[*ONLINE, "dpo"])
    given = parser.parse_args()
    torch.set_num_threads(1)
    bench = Bench(given.folder, ArithmeticWorld(largest=given.largest), steps=given.steps)
    for name in ("reference", *given.methods):
        began = time.process_time()
        where = bench.reference if name == "reference" else bench.dpo() if name == "dpo" else bench.online(name)
        spent = time.process_time() - began
        on, off = (bench.success(where, prompts) for prompts in (bench.train, bench.held_out))
        print(
            f"{name:10s} right {on.share:.3f} +- {on.half_width:.3f} at {on.kl:.2f} nats; "
            f"held out {off.share:.3f} +- {off.half_width:.3f}; {spent:.0f} CPU s", flush=True
        )  # fmt: skip


if __name__ == "__main__":
    main()
