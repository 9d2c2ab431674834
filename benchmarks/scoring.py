"""Cost of scoring pairs packed, against the same pairs padded through the model's own forward pass, interleaved in one run.

python benchmarks/scoring.py [--threads 1] [--repeats 9]
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch.nn.functional import log_softmax
from transformers import LlamaConfig, LlamaForCausalLM

from exptilt.data.groups import Completion, Group
from exptilt.policies.scoring import score

SHAPES = {
    "demo (prompt 6, completions 20)": (64, (4, 9), (10, 25), 400, (96, 3)),
    "HH (prompt 120, completions 50)": (8, (40, 200), (20, 80), 8000, (192, 4)),
    "TL;DR (prompt 380, completions 40)": (8, (300, 450), (25, 55), 8000, (192, 4)),
    "UltraFeedback (prompt 130, completions 300)": (4, (80, 180), (200, 400), 8000, (192, 4)),
}
"""pairs, range of prompt lengths, range of completion lengths, vocabulary, (width, layers)"""


def pairs(count: int, prompt: tuple[int, int], completion: tuple[int, int], vocabulary: int) -> list[Group]:
    """Random pairs of a shape."""
    rng = np.random.default_rng(0)

    def ids(span: tuple[int, int]) -> np.ndarray:
        return rng.integers(3, vocabulary, size=rng.integers(*span)).astype(np.int32)

    def side() -> Completion:
        drawn = ids(completion)
        return Completion(drawn, np.ones(len(drawn), dtype=bool))

    return [Group(id=str(n), prompt=ids(prompt), completions=(side(), side())) for n in range(count)]


def padded_sums(model: LlamaForCausalLM, groups: Sequence[Group]) -> torch.Tensor:
    """What a plain implementation does: both sides as right-padded rows, every position through the head."""
    rows = [(group.prompt, side.ids) for group in groups for side in group.completions]
    longest = max(len(prompt) + len(ids) for prompt, ids in rows)
    tokens = torch.zeros(len(rows), longest, dtype=torch.int64)
    counted = torch.zeros(len(rows), longest, dtype=torch.bool)
    attended = torch.zeros(len(rows), longest, dtype=torch.int64)
    for number, (prompt, ids) in enumerate(rows):
        end = len(prompt) + len(ids)
        tokens[number, :end] = torch.from_numpy(np.concatenate([prompt, ids]).astype(np.int64))
        counted[number, len(prompt) : end] = True
        attended[number, :end] = 1
    logps = log_softmax(model(input_ids=tokens, attention_mask=attended).logits[:, :-1].float(), -1)
    picked = logps.gather(-1, tokens[:, 1:, None]).squeeze(-1)
    return (picked * counted[:, 1:]).sum(1)


def seconds(work: Callable[[], torch.Tensor], model: LlamaForCausalLM) -> float:
    """Forward and backward, wall clock."""
    model.zero_grad(set_to_none=True)
    began = time.perf_counter()
    work().sum().backward()
    return time.perf_counter() - began


def main() -> None:
    """Print a table of ratios with their spread."""
    options = argparse.ArgumentParser()
    options.add_argument("--threads", type=int, default=1)
    options.add_argument("--repeats", type=int, default=9)
    chosen = options.parse_args()
    torch.set_num_threads(chosen.threads)
    print(f"torch {torch.__version__}, {chosen.threads} thread(s), {chosen.repeats} interleaved repeats, fp32")
    print(f"{'shape':46} {'padded ms':>10} {'packed ms':>10} {'ratio':>6}  spread")
    for name, (count, prompt, completion, vocabulary, (width, layers)) in SHAPES.items():
        torch.manual_seed(0)
        shape = {
            "hidden_size": width,
            "num_hidden_layers": layers,
            "num_attention_heads": 4,
            "intermediate_size": 3 * width,
        }
        model = LlamaForCausalLM(LlamaConfig(vocab_size=vocabulary, max_position_embeddings=1024, **shape))
        groups = pairs(count, prompt, completion, vocabulary)
        packed, padded = (lambda g=groups, m=model: score(m, g).sum()), (lambda g=groups, m=model: padded_sums(m, g))
        torch.testing.assert_close(packed(), padded(), rtol=1e-4, atol=1e-3)
        times = [(seconds(padded, model), seconds(packed, model)) for _ in range(chosen.repeats)]
        ratios = sorted(slow / fast for slow, fast in times)
        slow, fast = (statistics.median(column) for column in zip(*times, strict=True))
        print(
            f"{name:46} {1000 * slow:10.0f} {1000 * fast:10.0f} {statistics.median(ratios):6.2f}  "
            f"{ratios[0]:.2f}-{ratios[-1]:.2f}"
        )


if __name__ == "__main__":
    main()
