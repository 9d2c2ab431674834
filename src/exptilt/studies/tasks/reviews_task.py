"""The task of the demo's world: film reviews from a grammar, whose reward is a known function of the text."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from exptilt.data.encode.tokens import encode_prompts
from exptilt.disk import write_folder
from exptilt.policies.models import load_tokenizer
from exptilt.policies.tokenizers import train_word_tokenizer
from exptilt.sampling.sampling_law import SamplingLaw
from exptilt.settings.grid_settings import WorldTask
from exptilt.settings.model_settings import SmallModel
from exptilt.settings.reward_settings import OwnReward
from exptilt.settings.training_settings import TrainConfig
from exptilt.studies.labels_by_reward import Bench, Labeller, pair_files, train_reference
from exptilt.testbed.reviews import FilmReviews


def prepare_world(task: WorldTask, folder: Path, seed: int, law: SamplingLaw, num_prompts: int) -> Bench:
    """Train the reference and label its samples; existing files are kept."""
    world = FilmReviews(seed)
    size = SmallModel(hidden_size=task.width, num_layers=task.num_layers, num_heads=4, max_positions=64)
    words = folder / "tokenizer"
    if not words.exists():
        write_folder(words, train_word_tokenizer([" ".join(world.vocabulary)]).save_pretrained)
    rows = (
        {"prompt": opening, "completion": " " + text} for opening, text in world.corpus(task.num_reviews, seed=seed + 1)
    )
    length = TrainConfig(epochs=task.sft_epochs, save_every=100_000)
    reference = train_reference(folder, seed, rows, words, size, length)

    def reward(prompts: Sequence[str], completions: Sequence[str]) -> list[float]:
        return [world.reward(f"{prompt} {completion}") for prompt, completion in zip(prompts, completions, strict=True)]

    labeller = Labeller(reference, reward, task.labels, law, lead=" ")
    for split, num_samples, held_out in (("train", task.samples_per_prompt, False), ("test", 4, True)):
        prompts = list(dict.fromkeys(world.prompts(len(world.openings), seed, held_out=held_out)))
        path = folder / f"preferences-{split}.jsonl"
        labeller.write(path, prompts, num_samples, seed + 2 + held_out, np.array([seed, held_out]))
    asked = encode_prompts(load_tokenizer(reference), world.prompts(num_prompts, seed, held_out=True))
    true_reward = OwnReward.read({"import": "exptilt.testbed.reviews.review_reward:review_rewards"})
    return Bench(reference, pair_files(folder), asked, reward, "sentiment", {}, true_reward)
