"""`exptilt sample` at full size: kills, and CPU seconds against transformers.generate.

python benchmarks/sampling.py kills FOLDER [--rows 100000] [--kills 50]    every row once, equal to an uninterrupted run
python benchmarks/sampling.py speed [--prompts 64] [--samples 8] [--prompt-tokens 300]     a ratio of CPU seconds in one run
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from exptilt.policies.models import load_model
from exptilt.policies.saving import save_model
from exptilt.policies.tokenizers import train_tokenizer
from exptilt.sampling.generate import sample
from exptilt.sampling.sample_rows import read_samples
from exptilt.sampling.sampling_law import SamplingLaw
from exptilt.settings.model_settings import ModelConfig, SmallModel

WORDS = ["the", "film", "was", "good", "and", "the", "plot", "was", "bad", "but", "I", "liked", "it", "very", "much"]
SAMPLES = 4


def kills(folder: Path, rows: int, count: int) -> None:
    """Draw twice, once with `count` SIGKILLs at random moments, and compare."""
    folder.mkdir(parents=True)
    tokenizer = train_tokenizer([" ".join(WORDS)] * 4, 300)
    size = SmallModel(hidden_size=16, num_layers=1, num_heads=2, max_positions=64)
    save_model(load_model(ModelConfig(config=size), tokenizer), tokenizer, folder / "model")
    data = folder / "prompts.jsonl"
    asked = [{"prompt": f"{WORDS[n % len(WORDS)]} {n}"} for n in range(rows // SAMPLES)]
    data.write_text("".join(json.dumps(row) + "\n" for row in asked))
    command = [sys.executable, "-m", "exptilt", "sample", str(folder / "model"), f"data.train={data}"]
    command += ["law.max_new_tokens=6", f"num_samples={SAMPLES}", "--output"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TQDM_DISABLE": "1"}
    subprocess.run([*command, str(folder / "whole")], check=True, env=environment)
    killed, file = folder / "killed", folder / "killed" / "samples.jsonl"
    size_of_all = (folder / "whole" / "samples.jsonl").stat().st_size
    rng = random.Random(0)
    for number in range(count):
        process = subprocess.Popen([*command, str(killed)], env=environment, stderr=subprocess.DEVNULL)
        wanted = size_of_all * (number + rng.random()) / count
        while process.poll() is None and (file.stat().st_size if file.exists() else 0) < wanted:
            time.sleep(0.002)
        time.sleep(rng.random() * 0.05)
        process.send_signal(signal.SIGKILL)
        process.wait()
    subprocess.run([*command, str(killed)], check=True, env=environment)
    whole, again = (list(read_samples(folder / name)) for name in ("whole", "killed"))
    assert len(again) == rows
    assert len({(row.prompt_id, row.sample_index) for row in again}) == rows
    key = lambda row: (row.prompt_id, row.sample_index)  # noqa: E731
    assert sorted(whole, key=key) == sorted(again, key=key)
    same_file = (folder / "whole" / "samples.jsonl").read_bytes() == file.read_bytes()
    print(f"{rows:,} rows, {count} kills: every row once and equal; files equal byte by byte: {same_file}")


@dataclass(frozen=True)
class Asked:
    """What is drawn from which model."""

    prompts: int
    samples: int
    prompt_tokens: int
    new_tokens: int
    width: int
    layers: int
    kv_heads: int

    def model(self) -> LlamaForCausalLM:
        """Random weights; heads of 32 or 64."""
        torch.manual_seed(0)
        heads = self.width // (64 if self.width >= 256 else 32)
        shape = {"hidden_size": self.width, "intermediate_size": -(-self.width // 3) * 8}
        shape |= {"num_hidden_layers": self.layers, "num_attention_heads": heads}
        positions = 2 * (self.prompt_tokens + self.new_tokens)
        shape |= {"num_key_value_heads": self.kv_heads or heads, "max_position_embeddings": positions}
        return LlamaForCausalLM(LlamaConfig(vocab_size=4096, **shape)).eval()

    def ids(self) -> list:
        """Prompts within an eighth of the length asked for."""
        draw = np.random.default_rng(0)
        least, most = max(1, self.prompt_tokens * 7 // 8), self.prompt_tokens * 9 // 8
        return [draw.integers(3, 4096, draw.integers(least, most + 1), dtype=np.int32) for _ in range(self.prompts)]


def speed(asked: Asked, repeats: int) -> None:
    """CPU seconds of both for as many completions, by turns, and the share of the products in ours."""
    torch.set_num_threads(1)
    model, ids = asked.model(), asked.ids()
    law = SamplingLaw(max_new_tokens=asked.new_tokens, eos_ids=(2,))
    ours = theirs = floor = 0.0
    for repeat in range(repeats):
        begun = time.process_time()
        drawn = sample(model, [2], ids, num_samples=asked.samples, law=law, seed=repeat, with_logps=True)
        ours += time.process_time() - begun
        begun = time.process_time()
        count = generated(model, ids, asked)
        theirs += time.process_time() - begun
        assert count == len(drawn)
        floor += products(model, asked, sum(map(len, ids)))
    tokens = sum(len(one.ids) for one in drawn)
    print(
        f"{asked.prompts} prompts of {asked.prompt_tokens} x {asked.samples}, {asked.new_tokens} new, {asked.layers} x {asked.width}: "
        f"exptilt {ours / repeats:.1f} CPU s ({repeats * tokens / ours:.0f} tokens/s), transformers {theirs / repeats:.1f}, "
        f"ratio {theirs / ours:.2f}; products {floor / ours:.0%} of ours"
    )


@torch.no_grad()
def products(model: LlamaForCausalLM, asked: Asked, prompt_tokens: int) -> float:
    """CPU seconds of the products with weights alone: every prompt once, every token of completions that all go to their end."""
    rows = min(256, asked.prompts * asked.samples)
    trunk = [
        module for name, module in model.named_modules() if isinstance(module, torch.nn.Linear) and name != "lm_head"
    ]
    with_head = [*trunk, model.lm_head]
    steps = asked.new_tokens * asked.prompts * asked.samples / rows

    def seconds(layers: list, count: int, least: int) -> float:
        inputs = {layer.in_features: torch.randn(count, layer.in_features) for layer in layers}
        begun = time.process_time()
        for _ in range(least):
            for layer in layers:
                layer(inputs[layer.in_features])
        return (time.process_time() - begun) / least

    return seconds(with_head, rows, 10) * steps + seconds(trunk, 1024, 3) * prompt_tokens / 1024


def generated(model: LlamaForCausalLM, ids: list, asked: Asked) -> int:
    """As many completions by `generate`, in batches of 256, sorted by length as ours are."""
    rows = sorted((list(map(int, prompt)) for prompt in ids), key=len)
    size, count = max(1, 256 // asked.samples), 0
    for start in range(0, len(rows), size):
        part = rows[start : start + size]
        width = max(map(len, part))
        batch = torch.tensor([[0] * (width - len(row)) + row for row in part])
        mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in part])
        settings = {"do_sample": True, "top_k": 0, "max_new_tokens": asked.new_tokens}
        settings |= {"num_return_sequences": asked.samples, "pad_token_id": 0, "eos_token_id": 2}
        with torch.no_grad():
            out = model.generate(batch, attention_mask=mask, **settings)
        count += len(out)
    return count


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    verbs = parser.add_subparsers(dest="verb", required=True)
    for_kills = verbs.add_parser("kills")
    for_kills.add_argument("folder", type=Path)
    for_kills.add_argument("--rows", type=int, default=100_000)
    for_kills.add_argument("--kills", type=int, default=50)
    for_speed = verbs.add_parser("speed")
    usual = {
        "prompts": 64,
        "samples": 8,
        "prompt_tokens": 300,
        "new_tokens": 64,
        "width": 256,
        "layers": 6,
        "kv_heads": 0,
    }
    for name, number in {**usual, "repeats": 3}.items():
        for_speed.add_argument(f"--{name.replace('_', '-')}", type=int, default=number)
    given = parser.parse_args()
    if given.verb == "kills":
        kills(given.folder, given.rows, given.kills)
    else:
        speed(Asked(**{field.name: getattr(given, field.name) for field in fields(Asked)}), given.repeats)


if __name__ == "__main__":
    main()
