"""Settings of data: where rows are, how they are rendered and batched, and what happens to rows that are wrong."""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Sequence
from typing import Literal

from exptilt.settings.declaration import config
from exptilt.settings.source_settings import AnySources, Format, SourceConfig, sources_in

DECISION_CHOICES: dict[str, tuple[str, ...]] = {
    "on_invalid": ("drop",),
    "on_lost": ("drop", "keep"),
    "on_empty": ("drop", "keep"),
    "on_identical": ("drop", "keep"),
    "on_tie": ("keep", "drop"),
    "on_duplicate": ("drop", "keep"),
    "on_conflict": ("soft", "drop", "keep"),
    "on_leak": ("drop", "keep"),
    "on_too_long": ("drop", "trim_prompt_start", "trim_completion_end"),
    "on_missing_end": ("append", "keep"),
}
"""What each of these settings can be besides `error`."""


@config
class DataConfig:
    """The data of a run: where it is, how it is rendered, and what happens to rows that are wrong.

    Every `on_...` is `error` by default: the run does not start, and the message names the rows and the setting.

    Example:
        >>> DataConfig(train="pairs.jsonl", test_fraction=0.1, on_empty="drop").decisions["on_empty"]
        'drop'
    """

    train: AnySources
    """A .jsonl, .json, .csv, .tsv, .parquet or .arrow file (.gz, .zst allowed), a folder or pattern of them, `-`, or a hub id; or
    a list of these: [a.jsonl, {path: b.jsonl, weight: 0.5}]; the keys below hold for every source that has none of its own."""
    test: AnySources | None = None
    """Held-out data in the same forms; none: see test_split and test_fraction."""
    split: str = "train"
    """Split to train on, where the source has splits (a hub id, or a folder whose files name theirs)."""
    test_split: str | None = None
    """Split of the held-out data; without `test` it is taken from the source of `train`."""
    subset: str | None = None
    """Configuration of a hub data set, where it has several."""
    revision: str | None = None
    """Commit or tag of a hub data set."""
    test_fraction: float = 0.0
    """Share of prompts held out of `train`, in [0, 1); taken by a hash of the prompt, so no prompt is on both sides."""
    limit: int | None = None
    """Read only so many rows of each training source, from its start."""
    test_limit: int | None = None
    """Read of each source, or with test_fraction keep, only so many held-out rows."""
    format: Format = "auto"
    """What a row looks like; auto finds it from the columns."""
    columns: dict[str, str] = dataclasses.field(default_factory=dict)
    """Names of the source's columns where they differ from ours: `{prompt: question}`."""
    ignore_columns: tuple[str, ...] = ()
    """Columns to read the rows without, though their names say a prompt, a label, a reason or the like."""
    labels: Literal["auto", "0/1", "1/0", "1/2"] = "auto"
    """Verdicts in numbers on two completions: 0/1: 0 is the first; 1/0: 1 is the first; 1/2: 1 is, 2 the second, 0 a tie."""
    steps: Literal["prefix", "min", "product", "mean", "last"] = "prefix"
    """Score of rows in steps (format stepwise). prefix: the share of steps before the first wrong one, desirable where all are right;
    min, product, mean, last: of the steps' labels, desirable above 1/2."""
    where: dict[str, str | int | float | bool] = dataclasses.field(default_factory=dict)
    """Use only training rows with these values: `{split: validation}`; the others are counted."""
    test_where: dict[str, str | int | float | bool] = dataclasses.field(default_factory=dict)
    """Hold out the rows of `test`, or else of `train`, with these values: `{split: validation}`."""
    licence: str | None = None
    """What the report says of the licence of `train`; none: what the source says of itself."""
    weight: float = 1.0
    """How often each row of `train` is used where there are other sources: 0.5 a fixed half of them, 2 each twice."""
    mixture: tuple[SourceConfig, ...] = ()
    """More sources to train on besides `train`, each with its weight, format and columns."""
    template: Literal["auto", "chat", "messages", "plain"] = "auto"
    """auto: messages by the chat template, or Human/Assistant where there is none; chat: text too; messages: as auto, and
    text is meant as it stands; plain: no template."""
    chat_template: str | None = None
    """Chat template to use: a name in the tokenizer's folder, a .jinja file, or ours (gemma, mistral, phi3, qwen3)."""
    template_args: dict[str, str | int | float | bool] = dataclasses.field(default_factory=dict)
    """What the chat template is given for every row: `{enable_thinking: false}`; a row's own go before it."""
    fold_system: bool = False
    """Put a system turn's text before the first user's, for chat templates without a system turn."""
    boundary: Literal["split", "merge"] = "split"
    """Where prompt and completion share a token: split keeps the prompt's own tokens, merge those of the whole; reward
    models always read the whole."""
    max_tokens: int | None = None
    """Longest prompt and completion together, in tokens; none: what the model can hold."""
    pairs: Literal["all", "best_worst", "adjacent"] = "all"
    """Which pairs a ranking gives where pairs are needed."""
    min_margin: float | None = None
    """Leave out pairs whose margin, on the source's own scale, is smaller in size; SHP is used with 2."""
    max_per_prompt: int | None = None
    """Use at most so many examples of one prompt, the first of the source; SHP is used with 5."""
    workers: int | None = None
    """Processes that tokenise many rows, which changes nothing else; none: one for every core; 1: only this one."""
    drop_highest_ches: float = 0.0
    """Leave out this share of the training pairs, in [0, 1): those with the highest CHES per token under the weights
    training starts from, which are the likeliest to push probability away from both sides; 0 keeps all."""
    on_invalid: Literal["error", "drop"] = "error"
    """A row that cannot be read: broken JSON, a missing column, a wrong type, an impossible order of turns."""
    on_lost: Literal["error", "drop", "keep"] = "error"
    """Text, reasoning, a tool or a tool call that the chat template leaves out; keep trains on what is left."""
    on_empty: Literal["error", "drop", "keep"] = "error"
    """A completion that is empty or only white space; keep trains its end token."""
    on_identical: Literal["error", "drop", "keep"] = "error"
    """Two completions that are the same but for white space around them."""
    on_tie: Literal["error", "drop", "keep"] = "error"
    """A pair with p_chosen 0.5; keep trains on it as a tie."""
    on_duplicate: Literal["error", "drop", "keep"] = "error"
    """A row that repeats an earlier one; drop keeps the first."""
    on_conflict: Literal["error", "drop", "keep", "soft"] = "error"
    """The same prompt and completions with opposite labels; soft: one pair with the mean p_chosen; drop: none."""
    on_leak: Literal["error", "drop", "keep"] = "error"
    """A training row whose prompt is in the test set; drop removes it from training."""
    on_too_long: Literal["error", "drop", "trim_prompt_start", "trim_completion_end"] = "error"
    """A row longer than max_tokens; a row that a trim cannot make fit is left out and counted."""
    on_missing_end: Literal["error", "append", "keep"] = "error"
    """A chat template that puts no end token after a completion; append adds EOS."""

    def __post_init__(self) -> None:
        for name in ("train", "test"):  # a list is a tuple of sources, whoever gave it
            given = getattr(self, name)
            if given is not None and not isinstance(given, str):
                object.__setattr__(self, name, sources_in(given, SourceConfig(path="")))
        self._refuse_repeated()
        if not 0 <= self.test_fraction < 1:
            raise ValueError(f"test_fraction must be in [0, 1), got {self.test_fraction}")
        if self.test_fraction and (self.test or self.test_split or self.test_where):
            raise ValueError(
                "test_fraction holds out a part of train; leave it 0 where test, test_split or test_where is given"
            )
        if not 0 <= self.drop_highest_ches < 1:
            raise ValueError(f"drop_highest_ches must be in [0, 1), got {self.drop_highest_ches}")
        if not 0 <= self.weight < math.inf:
            raise ValueError(f"weight must be at least 0, got {self.weight}")
        for name in ("limit", "test_limit", "max_tokens", "max_per_prompt", "workers"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")

    @property
    def decisions(self) -> dict[str, str]:
        """What every `on_...` field says."""
        return {name: getattr(self, name) for name in DECISION_CHOICES}

    @property
    def sources(self) -> tuple[SourceConfig, ...]:
        """All sources to train on: those of `train`, then those of `mixture`."""
        return (*sources_in(self.train, self._shared), *self.mixture)

    @property
    def held_out_sources(self) -> tuple[SourceConfig, ...]:
        """Where held-out rows are read, if not from a part of the training rows; without `test` from every source of `train`."""
        if self.test is None and self.test_split is None and not self.test_where:
            return ()
        shared = dataclasses.replace(self._shared, limit=self.test_limit, where=self.test_where, weight=1.0)
        if self.test is not None:
            return sources_in(self.test, dataclasses.replace(shared, split=self.test_split or self.split))
        return tuple(
            dataclasses.replace(
                source, split=self.test_split or source.split, limit=self.test_limit, where=self.test_where, weight=1.0
            )
            for source in sources_in(self.train, self._shared)
        )

    @property
    def named(self) -> str:
        """The sources of `train` in words, for messages."""
        return " + ".join(_paths(self.train))

    @property
    def paths(self) -> dict[str, str]:
        """Every path that is read, by its key: train, test[1], mixture[0].path."""
        listed = {"train": self.train, "test": self.test or ()}
        paths = {}
        for key, given in listed.items():
            if isinstance(given, str):
                paths[key] = given
            else:
                paths |= {f"{key}[{number}]": path for number, path in enumerate(_paths(given))}
        return paths | {f"mixture[{number}].path": source.path for number, source in enumerate(self.mixture)}

    @property
    def _shared(self) -> SourceConfig:
        """The keys of a source that stand here, for every source of `train` and `test` without its own."""
        return SourceConfig(path="", **{name: getattr(self, name) for name in _OF_A_SOURCE})

    def _refuse_repeated(self) -> None:
        """Refuse a source that a list names twice: all its rows would be duplicates."""
        for key, given in (("train", self.train), ("test", self.test)):
            if given is None or isinstance(given, str):
                continue
            if not given:
                raise ValueError(f"{key} must name at least one source, got an empty list")
            same = Counter((one.path, one.split, one.subset, str(one.where)) for one in sources_in(given, self._shared))
            (path, *_), count = same.most_common(1)[0]
            if count > 1:
                raise ValueError(
                    f"{key} names {path} {count} times; to use its rows more often, write {{path: {path}, weight: {count}}}"
                )


def _paths(given: str | Sequence[str | SourceConfig]) -> list[str]:
    return [given] if isinstance(given, str) else [one if isinstance(one, str) else one.path for one in given]


DEFAULT_TOKENS = 4096
"""Enough to keep a processor busy, and little enough for memory; also how many are scored at once outside of training."""


@config
class BatchConfig:
    """How many groups make a step, and how many tokens are held in memory at once.

    Example:
        >>> BatchConfig(size=32, tokens=None).at_once
        4096
    """

    size: int = 64
    """Groups (prompts with their completions) per optimizer step, over all processes."""
    tokens: int | Literal["auto"] | None = DEFAULT_TOKENS
    """Most tokens per forward pass, a prompt counted once; auto: what a probe step finds to fit in memory; none: one pass
    for the step. No result depends on it."""
    shuffle: bool = True
    """A new seeded order each epoch; false keeps the order of the file."""
    order: Literal["own", "torch"] = "own"
    """Which seeded order: our own, or that of transformers' Trainer and TRL (torch.randperm by seed + epoch)."""

    def __post_init__(self) -> None:
        if self.size < 1:
            raise ValueError(f"size must be at least 1, got {self.size}")
        if isinstance(self.tokens, int) and self.tokens < 1:
            raise ValueError(f"tokens must be at least 1, got {self.tokens}")

    @property
    def limit(self) -> int | None:
        """`tokens` as a number; the default's where a probe has not found it yet."""
        return DEFAULT_TOKENS if self.tokens == "auto" else self.tokens

    @property
    def at_once(self) -> int:
        """Tokens scored at once where nothing is trained."""
        return self.limit or DEFAULT_TOKENS


_OF_A_SOURCE = (
    "weight", "split", "subset", "revision", "limit", "format", "columns", "ignore_columns", "labels", "steps", "where", "licence",
)  # fmt: skip
