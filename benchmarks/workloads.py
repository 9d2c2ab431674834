"""What the benchmarks train on: rows of the shapes people have, and models of the sizes people have, all random.

Rows are words `w17`, one token each, so that every program that is compared sees the same token ids.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from transformers.utils.logging import disable_progress_bar

from exptilt.data.groups import Completion, Group
from exptilt.labels import Preferred, Ranked

PAD, EOS, WORDS = 0, 1, 2


@dataclass(frozen=True)
class Lengths:
    """Log-normal lengths, tokens."""

    median: float
    spread: float
    """Standard deviation of the logarithm."""
    shortest: int = 4
    longest: int = 8192

    def draw(self, rng: np.random.Generator) -> int:
        return int(np.clip(rng.lognormal(np.log(self.median), self.spread), self.shortest, self.longest))


@dataclass(frozen=True)
class Measured:
    """Lengths of real rows, tokens, by the share of rows that are shorter."""

    quantiles: tuple[int, ...]
    """At `SHARES`; between them a straight line."""

    def draw(self, rng: np.random.Generator) -> int:
        return int(np.interp(rng.random(), SHARES, self.quantiles))


SHARES = (0, 0.1, 0.25, 0.5, 0.75, 0.9, 0.99, 1)


@dataclass(frozen=True)
class Workload:
    """Groups of one shape; `completions` per prompt, `groups` per optimizer step."""

    prompt: Lengths | Measured
    completion: Lengths | Measured
    completions: int = 2
    groups: int = 8


WORKLOADS = {
    "hh": Workload(Measured((4, 11, 25, 81, 152, 253, 508, 810)), Measured((4, 10, 17, 32, 60, 100, 220, 577))),
    "tldr": Workload(Lengths(370, 0.25, 150, 600), Lengths(42, 0.35, 12, 120)),
    "ultrafeedback": Workload(Lengths(105, 0.8, 12, 700), Lengths(290, 0.65, 20, 1100)),
    "k4": Workload(Lengths(105, 0.8, 12, 700), Lengths(150, 0.6, 10, 600), completions=4),
    "k7": Workload(Lengths(50, 0.7, 8, 300), Lengths(180, 0.6, 10, 700), completions=7),
    "8k": Workload(Lengths(2000, 0.1, 1500, 2400), Lengths(5600, 0.05, 5000, 5700), groups=1),
}
"""HH: as HH-RLHF's harmless-base has them, at 4.3 characters a token; TL;DR: a long post and
two summaries; UltraFeedback: two long answers."""


@dataclass(frozen=True)
class Shape:
    """A Llama-type model: width, blocks, feed-forward width, heads, heads of keys and values, vocabulary."""

    width: int
    layers: int
    inner: int
    heads: int
    kv_heads: int
    vocabulary: int
    tied: bool = False

    @property
    def head_size(self) -> int:
        return self.width // self.heads

    @property
    def matrices(self) -> list[tuple[int, int]]:
        """(inputs, outputs) of one block's linear layers."""
        kv = self.kv_heads * self.head_size
        attention = [(self.width, self.width), (self.width, kv), (self.width, kv), (self.width, self.width)]
        return [*attention, (self.width, self.inner), (self.width, self.inner), (self.inner, self.width)]

    @property
    def body(self) -> int:
        """Weights in the blocks' matrices."""
        return self.layers * sum(rows * columns for rows, columns in self.matrices)

    @property
    def head(self) -> int:
        """Weights in the output layer."""
        return self.width * self.vocabulary


SHAPES = {
    "tiny": Shape(64, 2, 176, 2, 2, 2_000),
    "7m-32k": Shape(320, 6, 864, 5, 5, 32_000),
    "5m-152k": Shape(256, 6, 688, 4, 4, 152_000),
    "0.5b": Shape(896, 24, 4864, 14, 2, 151_936, tied=True),
    "1.5b": Shape(1536, 28, 8960, 12, 2, 151_936, tied=True),
    "8b": Shape(4096, 32, 14_336, 32, 8, 128_256),
}
"""The small ones for CPUs: 7.4 M weights in the blocks and 10 M in the head, 4.7 M and 39 M; the others as on the hub."""


def rows_of(workload: Workload, vocabulary: int, count: int, seed: int = 0) -> list[Group]:
    """Groups of random tokens; each completion ends with the end token, the earlier completion is the better."""
    rng = np.random.default_rng(seed)

    def words(length: int) -> np.ndarray:
        return rng.integers(WORDS, vocabulary, length, dtype=np.int32)

    def completion() -> Completion:
        ids = np.append(words(workload.completion.draw(rng) - 1), np.int32(EOS))
        return Completion(ids, np.ones(len(ids), dtype=np.bool_))

    return [
        Group(
            id=f"row {number}",
            prompt=words(workload.prompt.draw(rng)),
            completions=tuple(completion() for _ in range(workload.completions)),
            label=Preferred() if workload.completions == 2 else Ranked(tuple(range(1, workload.completions + 1))),
        )
        for number in range(count)
    ]


def text_of(ids: np.ndarray) -> str:
    """Words of token ids, without the end token."""
    return " ".join(f"w{number}" for number in ids if number != EOS)


def preference_of(group: Group) -> dict[str, str]:
    """A pair as text; a completion begins with the space that parts it from the prompt."""
    chosen, rejected = (" " + text_of(side.ids) for side in group.completions)
    return {"prompt": text_of(group.prompt), "chosen": chosen, "rejected": rejected}


def build_model(shape: Shape, dtype: torch.dtype = torch.float32) -> LlamaForCausalLM:
    """Random weights."""
    torch.manual_seed(0)
    settings = LlamaConfig(
        vocab_size=shape.vocabulary,
        hidden_size=shape.width,
        num_hidden_layers=shape.layers,
        intermediate_size=shape.inner,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        max_position_embeddings=8192,
        tie_word_embeddings=shape.tied,
        pad_token_id=PAD,
        eos_token_id=EOS,
        bos_token_id=None,
        dtype=dtype,
    )
    return LlamaForCausalLM._from_config(settings, dtype=dtype)


def build_tokenizer(vocabulary: int) -> PreTrainedTokenizerFast:
    """One token a word."""
    names = ["<pad>", "<eos>", *(f"w{number}" for number in range(WORDS, vocabulary))]
    core = Tokenizer(models.WordLevel({name: number for number, name in enumerate(names)}, unk_token="<pad>"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    core.add_special_tokens(["<pad>", "<eos>"])
    return PreTrainedTokenizerFast(tokenizer_object=core, pad_token="<pad>", eos_token="<eos>")


def write_setting(folder: Path, shape: Shape, groups: Sequence[Group], dtype: torch.dtype) -> None:
    """Model, tokenizer and rows as files that any program reads."""
    disable_progress_bar()
    build_model(shape, dtype).save_pretrained(folder / "model")
    build_tokenizer(shape.vocabulary).save_pretrained(folder / "model")
    if len(groups[0].completions) == 2:
        lines = [json.dumps(preference_of(group)) for group in groups]
        (folder / "rows.jsonl").write_text("\n".join(lines) + "\n")


@dataclass(frozen=True)
class Work:
    """What one optimizer step must compute at least, counting every token once."""

    tokens: int
    """Fed to the blocks: each prompt once, each completion without its last token."""
    counted: int
    """Tokens whose probability is needed."""
    pairs: int
    """(query, key) pairs of attention: causal, a prompt's once."""
    padded: int
    """Tokens of the same step as padded rows of prompt + completion."""

    @classmethod
    def of(cls, groups: Sequence[Group]) -> Work:
        tokens = counted = pairs = longest = 0
        for group in groups:
            prompt = len(group.prompt)
            fed = [len(side.ids) - 1 for side in group.completions]
            tokens += prompt + sum(fed)
            counted += sum(side.length for side in group.completions)
            pairs += prompt * (prompt + 1) // 2 + sum(n * prompt + n * (n + 1) // 2 for n in fed)
            longest = max(longest, prompt + max(fed) + 1)
        return cls(tokens, counted, pairs, longest * sum(len(group.completions) for group in groups))

    def flops(self, shape: Shape, *, frozen: bool) -> float:
        """Multiplications and additions of forward and backward; a frozen weight has no gradient of its own.

        Attention's backward is counted with the usual factor 2 of its forward, recomputation not at all.
        """
        passes = 4 if frozen else 6
        matrices = passes * (shape.body * self.tokens + shape.head * self.counted)
        return float(matrices + 12 * shape.layers * shape.width * self.pairs)
