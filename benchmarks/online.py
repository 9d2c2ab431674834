"""Updates and samples per CPU-second of RLOO: exptilt's run and TRL's RLOOTrainer on the same prompts, weights and reward, by turns.

pip install 'exptilt[peers]'
python benchmarks/online.py [--prompt-tokens 64] [--new-tokens 64] [--updates 8] [--rounds 3] [--tuned]

One update is `num_prompts` prompts with `num_samples` completions each: drawn, rewarded, scored by policy and reference, one optimizer
step. The reward counts one word, so that neither side waits for it. Both sides are whole runs in processes of their own, and the
seconds are those between the second update and the last one, all threads: start-up, saving and evaluation are in neither. Completions end
at the same lengths only on average: the share that TRL and exptilt draw is printed as tokens per CPU-second.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

WORDS = ["the", "film", "was", "good", "and", "plot", "bad", "but", "I", "liked", "it", "very", "much", "dull", "fine"]


def prepare(folder: Path, given: argparse.Namespace) -> None:
    """A model, its tokenizer and prompts."""
    import numpy as np

    from exptilt.policies.models import load_model
    from exptilt.policies.saving import save_model
    from exptilt.policies.tokenizers import train_word_tokenizer
    from exptilt.settings.model_settings import ModelConfig, SmallModel

    draw = np.random.default_rng(0)
    tokenizer = train_word_tokenizer([*(f"w{n}" for n in range(given.vocabulary)), *WORDS])
    size = SmallModel(
        hidden_size=given.width,
        num_layers=given.layers,
        num_heads=given.width // 32,
        max_positions=2 * (given.prompt_tokens + given.new_tokens),
    )
    save_model(load_model(ModelConfig(config=size), tokenizer), tokenizer, folder / "model")
    lengths = draw.integers(
        max(1, given.prompt_tokens * 3 // 4), given.prompt_tokens + 1, given.prompts * given.updates
    )
    rows = [{"prompt": " ".join(f"w{n}" for n in draw.integers(0, given.vocabulary, length))} for length in lengths]
    (folder / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "online_reward.py").write_text(
        "def counts(answers):\n    return [one.text.count('1') / 20 for one in answers]\n"
    )


def ours(folder: Path, given: argparse.Namespace) -> dict[str, Any]:
    """A run of exptilt in this process."""
    import time

    from rich.console import Console

    import exptilt.training.loop as loop
    from exptilt.runs.run_recipe import run_recipe
    from exptilt.settings.load import load
    from exptilt.settings.recipe import Recipe

    os.chdir(folder)  # where the reward is found
    stamps: list[float] = []
    step = loop._one_step

    def timed(*inputs: Any) -> Any:
        sums = step(*inputs)
        stamps.append(time.process_time())
        return sums

    loop._one_step = timed
    keys = [f"output={folder / 'ours'}", f"model.path={folder / 'model'}", f"data.train={folder / 'prompts.jsonl'}"]
    keys += ["loss=rloo", "loss.beta=0.05", f"batch.size={given.prompts}", f"train.max_steps={given.updates}"]
    keys += [
        f"rollout.num_samples={given.samples}",
        f"rollout.law.max_new_tokens={given.new_tokens}",
        "data.template=plain",
    ]
    keys += [
        "rollout.reward.import=online_reward:counts",
        "evaluate.num_prompts=0",
        "train.log_every=1",
        "train.eval_every=1000",
    ]
    keys += ["train.save_every=1000", "train.resume=never", "optim.learning_rate=1e-4"]
    run_recipe(load(Recipe, None, keys), Console(quiet=True), page=False)
    lines = [json.loads(line) for line in (folder / "ours" / "metrics.jsonl").read_text().splitlines()]
    lengths = [line["train/rollout/length"] for line in lines if "train/rollout/length" in line]
    return {"seconds": stamps[-1] - stamps[0], "length": statistics.mean(lengths[1:])}


def theirs(folder: Path, given: argparse.Namespace) -> dict[str, Any]:
    """TRL's trainer in this process."""
    import time

    os.environ["CI"] = "1"  # else it sends telemetry
    from datasets import load_dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
    from trl import RLOOConfig, RLOOTrainer

    stamps: list[float] = []
    lengths: list[float] = []

    class Stamps(TrainerCallback):
        def on_step_end(self, *_inputs: Any, **_settings: Any) -> None:
            stamps.append(time.process_time())

        def on_log(self, _args: Any, _state: Any, _control: Any, logs: dict[str, float], **_settings: Any) -> None:
            if "completions/mean_length" in logs:
                lengths.append(logs["completions/mean_length"])

    def reward(completions: list[str], **_settings: Any) -> list[float]:
        return [one.count("1") / 20 for one in completions]

    tuned = {"gradient_checkpointing": False} if given.tuned else {}
    size = given.prompts * given.samples
    micro = size if given.tuned else 8
    settings = RLOOConfig(
        output_dir=str(folder / "theirs"),
        per_device_train_batch_size=min(micro, size),
        gradient_accumulation_steps=size // min(micro, size),
        num_generations=given.samples,
        max_completion_length=given.new_tokens,
        max_steps=given.updates,
        learning_rate=1e-4,
        beta=0.05,
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        use_cpu=True,
        bf16=False,
        disable_dropout=True,
        disable_tqdm=True,
        **tuned,
    )
    trainer = RLOOTrainer(
        model=AutoModelForCausalLM.from_pretrained(folder / "model"),
        reward_funcs=reward,
        args=settings,
        train_dataset=load_dataset("json", data_files=str(folder / "prompts.jsonl"), split="train"),
        processing_class=AutoTokenizer.from_pretrained(folder / "model", padding_side="left"),
        callbacks=[Stamps()],
    )
    trainer.train()
    return {"seconds": stamps[-1] - stamps[0], "length": statistics.mean(lengths[1:])}


def one_round(given: argparse.Namespace, words: list[str]) -> dict[str, dict[str, Any]]:
    """Both sides once, in processes of their own."""
    found: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        prepare(folder, given)
        environment = {
            **os.environ,
            "EXPTILT_CACHE": str(folder / "cache"),
            "HF_HOME": str(folder / "hf"),
            "TQDM_DISABLE": "1",
        }
        for side in ("ours", "theirs"):
            command = [sys.executable, __file__, *words, "--side", side, "--folder", str(folder)]
            done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
            if done.returncode:
                raise SystemExit(f"{side} failed:\n{done.stderr[-3000:]}")
            found[side] = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    usual = {"prompts": 16, "samples": 4, "prompt_tokens": 64, "new_tokens": 64, "updates": 8, "rounds": 3}
    for key, number in {**usual, "width": 128, "layers": 4, "vocabulary": 4000}.items():
        parser.add_argument(f"--{key.replace('_', '-')}", type=int, default=number)
    parser.add_argument(
        "--tuned", action="store_true", help="TRL without gradient checkpointing, all completions in one batch"
    )
    parser.add_argument("--side", choices=("ours", "theirs"), help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.side:
        import torch

        torch.set_num_threads(1)
        print(json.dumps({"ours": ours, "theirs": theirs}[given.side](given.folder, given)), flush=True)
        return
    ratios, words = [], sys.argv[1:]
    for _ in range(given.rounds):
        both = one_round(given, words)
        per_second = {
            side: {
                "updates": (given.updates - 1) / found["seconds"],
                "tokens": (given.updates - 1) * given.prompts * given.samples * found["length"] / found["seconds"],
            }
            for side, found in both.items()
        }
        ratios.append([per_second["ours"][what] / per_second["theirs"][what] for what in ("updates", "tokens")])
        print(json.dumps({"seconds_and_length": both, "ratio": ratios[-1]}), flush=True)
    updates, tokens = (statistics.median(column) for column in zip(*ratios, strict=True))
    print(
        f"{given.prompts} prompts of up to {given.prompt_tokens} x {given.samples}, {given.new_tokens} new: updates {updates:.2f} times, "
        f"sampled tokens {tokens:.2f} times TRL's{' (tuned)' if given.tuned else ''} per CPU-second"
    )


if __name__ == "__main__":
    main()
