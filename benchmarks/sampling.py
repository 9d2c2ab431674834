"""`exptilt sample` at full size: kills, and CPU seconds against transformers.generate.

python benchmarks/sampling.py kills FOLDER [--rows 100000] [--kills 50]    every row once, equal to an uninterrupted run
python benchmarks/sampling.py speed [--prompts 512] [--samples 4]         both in one run, as a ratio of CPU seconds
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
from pathlib import Path

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from exptilt.data.encode.tokens import encode_prompts
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


def speed(prompts: int, samples: int) -> None:
    """CPU seconds of both for as many completions, by turns."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    tokenizer = train_tokenizer([" ".join(WORDS)] * 4, 300)
    shape = {"hidden_size": 128, "intermediate_size": 344, "num_hidden_layers": 3, "num_attention_heads": 4}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=4096, max_position_embeddings=256, **shape)).eval()
    ids = encode_prompts(tokenizer, [" ".join(WORDS[: 3 + n % 9]) + f" {n}" for n in range(prompts)])
    law = SamplingLaw(max_new_tokens=24, eos_ids=(2,))
    ours = theirs = 0.0
    for repeat in range(3):
        begun = time.process_time()
        drawn = sample(model, [2], ids, num_samples=samples, law=law, seed=repeat, with_logps=True)
        ours += time.process_time() - begun
        begun = time.process_time()
        count = generated(model, ids, samples)
        theirs += time.process_time() - begun
        assert count == len(drawn)
    print(
        f"{prompts} prompts x {samples}: exptilt {ours:.1f} CPU s, transformers {theirs:.1f} CPU s, ratio {theirs / ours:.2f}"
    )


def generated(model: LlamaForCausalLM, ids: list, samples: int) -> int:
    """As many completions by `generate`, in batches of 256, sorted by length as ours are."""
    rows = sorted((list(map(int, prompt)) for prompt in ids), key=len)
    size, count = 256 // samples, 0
    for start in range(0, len(rows), size):
        part = rows[start : start + size]
        width = max(map(len, part))
        batch = torch.tensor([[0] * (width - len(row)) + row for row in part])
        mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in part])
        settings = {"do_sample": True, "top_k": 0, "max_new_tokens": 24, "num_return_sequences": samples}
        with torch.no_grad():
            out = model.generate(batch, attention_mask=mask, pad_token_id=0, eos_token_id=2, **settings)
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
    for_speed.add_argument("--prompts", type=int, default=512)
    for_speed.add_argument("--samples", type=int, default=4)
    given = parser.parse_args()
    if given.verb == "kills":
        kills(given.folder, given.rows, given.kills)
    else:
        speed(given.prompts, given.samples)


if __name__ == "__main__":
    main()
