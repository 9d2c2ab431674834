"""What token ids gain: DPO on the IMDb study's samples, as they were drawn and on the way through text, from one reference.

python benchmarks/drawn_ids.py FOLDER [--prompts 400] [--seeds 3]    needs EXPTILT_DATA and scikit-learn; one core, minutes

Both files hold the same completions and labels. Where a completion's text becomes other tokens than were drawn, the policy is taught to
write those, which no reward asks for and KL is paid for. "own tokens" is the share of samples whose text becomes the tokens that
were drawn; a policy that learned from drawn tokens has no reason to change it.
"""

from __future__ import annotations

import argparse
import json
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from exptilt.data.encode.tokens import encode_prompts
from exptilt.data.written_rows import Candidate, preference_row
from exptilt.disk import write_lines
from exptilt.policies.models import load_model, load_tokenizer
from exptilt.sampling.draws import Draws, draw
from exptilt.sampling.generate import sample
from exptilt.sampling.sampling_law import SamplingLaw
from exptilt.settings.data_settings import BatchConfig, DataConfig
from exptilt.settings.evaluation_settings import EvaluateConfig
from exptilt.settings.grid_settings import ImdbTask
from exptilt.settings.loss_choice import LossChoice
from exptilt.settings.model_settings import ModelConfig, SmallModel
from exptilt.settings.recipe import Recipe
from exptilt.settings.training_settings import OptimConfig, TrainConfig
from exptilt.studies.labels_by_reward import Bench, finish
from exptilt.studies.tasks.imdb_task import prepare_imdb

LAW = SamplingLaw(max_new_tokens=48)
LOSSES = {"dpo": LossChoice.of("dpo", beta=0.05), "sft": LossChoice.of("sft")}
"""Both sides of a pair pass through text alike, so DPO compares like with like; SFT imitates what text made of the chosen side."""
NUM_HELD_OUT, NUM_SAMPLES, NUM_DRAWN = 64, 8, 4


def main() -> None:
    """Read the command line, train and measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--prompts", type=int, default=400)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--reviews", type=int, default=5000)
    parser.add_argument("--losses", nargs="+", default=list(LOSSES), choices=list(LOSSES))
    given = parser.parse_args()
    size = SmallModel(hidden_size=128, num_layers=2, num_heads=4, max_positions=128, vocab_size=2000)
    task = ImdbTask(
        name="imdb",
        excerpts=2,
        words=24,
        sft_epochs=1.5,
        model=size,
        num_prompts=given.prompts,
        num_reviews=given.reviews,
    )
    bench = prepare_imdb(task, given.folder, 0, LAW, NUM_HELD_OUT)
    changed = write_files(bench, given.folder)
    print(f"{changed:.1%} of the drawn completions become other tokens on the way through text")
    tokenizer, reference = load_tokenizer(bench.reference), load_model(bench.reference, load_tokenizer(bench.reference))
    print("| loss | rows | seed | reward | KL, nats | own tokens |\n|---|---|---|---|---|---|")
    before = draw(reference, tokenizer, bench.prompts, law=LAW, num_samples=NUM_SAMPLES, seed=11)
    print(
        f"| - | reference | - | {reward_of(bench, before, tokenizer):.3f} | 0 | {own_tokens(before, tokenizer):.3f} |"
    )
    for loss in given.losses:
        for seed in range(given.seeds):
            for rows in ("text", "ids"):
                model = trained(bench, given.folder, rows, loss, seed)
                draws = draw(model, tokenizer, bench.prompts, law=LAW, num_samples=NUM_SAMPLES, seed=11)
                kl = draws.compared(model, reference).column("kl").mean()
                reward, share = reward_of(bench, draws, tokenizer), own_tokens(draws, tokenizer)
                print(f"| {loss} | {rows} | {seed} | {reward:.3f} | {kl:.3f} | {share:.3f} |", flush=True)


def write_files(bench: Bench, folder: Path) -> float:
    """The same preferences with ids and without; the share of completions that text changes."""
    tokenizer = load_tokenizer(bench.reference)
    asked = [json.loads(line)["prompt"] for line in (folder / "preferences-train.jsonl").read_text().splitlines()]
    prompts = list(dict.fromkeys(asked))
    ids = encode_prompts(tokenizer, prompts)
    drawn = sample(load_model(bench.reference, tokenizer), tokenizer, ids, num_samples=NUM_DRAWN, law=LAW, seed=7)
    texts = [one.text(tokenizer) for one in drawn]
    rewards = np.asarray(bench.reward([prompts[one.prompt_index] for one in drawn], texts))
    rows: list[dict[str, Any]] = []
    for at in range(0, len(drawn), NUM_DRAWN):
        for one, other in combinations(range(at, at + NUM_DRAWN), 2):
            if texts[one] == texts[other] or rewards[one] == rewards[other]:
                continue
            sides = (one, other) if rewards[one] > rewards[other] else (other, one)
            chosen, rejected = (
                Candidate(
                    prompt=prompts[drawn[side].prompt_index],
                    text=texts[side],
                    prompt_ids=drawn[side].prompt.tolist(),
                    ids=drawn[side].ids.tolist(),
                )
                for side in sides
            )
            rows.append(preference_row(chosen, rejected, p_chosen=1.0))
    write_lines(folder / "ids.jsonl", rows)
    write_lines(
        folder / "text.jsonl",
        ({name: value for name, value in row.items() if not name.endswith("_ids")} for row in rows),
    )
    return 1 - float(
        np.mean([is_own(one.ids.tolist(), text, tokenizer) for one, text in zip(drawn, texts, strict=True)])
    )


def trained(bench: Bench, folder: Path, rows: str, loss: str, seed: int) -> Any:
    """The policy of one run."""
    kept = {"on_empty": "keep", "on_identical": "drop", "on_duplicate": "keep", "on_conflict": "keep"}
    recipe = Recipe(
        output=str(folder / "runs" / f"{rows}-{loss}-{seed}"),
        seed=seed,
        model=bench.reference,
        data=DataConfig(train=str(folder / f"{rows}.jsonl"), **kept),
        loss=LOSSES[loss],
        batch=BatchConfig(size=64),
        optim=OptimConfig(learning_rate=3e-4),
        train=TrainConfig(epochs=1.0, save_every=100_000),
        evaluate=EvaluateConfig(num_prompts=0),
    )
    return load_model(ModelConfig(path=str(finish(recipe).model)), load_tokenizer(bench.reference))


def reward_of(bench: Bench, draws: Draws, tokenizer: Any) -> float:
    """The mean reward of completions."""
    asked = [tokenizer.decode(bench.prompts[at].tolist(), skip_special_tokens=True) for at in draws.prompt_index]
    return float(np.mean(bench.reward(asked, draws.texts)))


def own_tokens(draws: Draws, tokenizer: Any) -> float:
    """The share of completions whose text becomes the tokens that were drawn."""
    return float(
        np.mean([is_own(ids.tolist(), text, tokenizer) for ids, text in zip(draws.ids, draws.texts, strict=True)])
    )


def is_own(ids: list[int], text: str, tokenizer: Any) -> bool:
    """Whether a text becomes these tokens, with or without an end."""
    own = tokenizer(text, add_special_tokens=False)["input_ids"]
    return own in (ids, ids[:-1])


if __name__ == "__main__":
    main()
