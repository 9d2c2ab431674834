"""The prompts of a data source, each once, with the right answer where the source says one. Never imports torch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from exptilt.data.conversions import record_to_prompt
from exptilt.data.records import Prompt, Record, TemplateArgs, Text, words_of
from exptilt.data.splits import Split, read_splits
from exptilt.data.stage_account import Decisions
from exptilt.errors import DataError
from exptilt.sampling.sample_rows import prompt_id
from exptilt.settings.data_settings import DataConfig
from exptilt.wording import counted


@dataclass(frozen=True, kw_only=True)
class AskedPrompt:
    """One prompt to draw completions of."""

    id: str
    """Digest of the prompt and of what its row gives the chat template."""
    prompt: Text
    answer: str | None = None
    """The right answer: the row's own, or its completion to imitate."""
    template_args: TemplateArgs = field(default_factory=dict)


class AskedPrompts(NamedTuple):
    """The prompts of a source, and the rows that are none of their own."""

    prompts: list[AskedPrompt]
    left_out: Counter[str]
    """Rows by reason."""


def prompts_of(data: DataConfig) -> AskedPrompts:
    """The distinct prompts of the rows of `data.train`, in order; of equal prompts the first stands for all.

    Raises:
        DataError: rows cannot be read and `data.on_invalid` does not say to drop them, or no row has a prompt.
    """
    return distinct_prompts(readable_rows(data), data.named)


def readable_rows(data: DataConfig) -> Split:
    """The rows of `data.train`.

    Raises:
        DataError: rows cannot be read and `data.on_invalid` does not say to drop them.
    """
    decisions = Decisions(data.decisions)
    train, _ = read_splits(data, decisions)
    refusing = [finding for finding in train.account.findings(decisions) if finding.severity == "error"]
    if refusing:
        worst = refusing[0]
        raise DataError(
            f"{data.named}: {counted(worst.count or 0, 'row')} cannot be read: {worst.message}; {worst.fix}"
        )
    return train


def distinct_prompts(rows: Split, source: str) -> AskedPrompts:
    """As `prompts_of`, of rows that are read already.

    Args:
        rows: the rows.
        source: their name, for the message.

    Raises:
        DataError: no row has a prompt.
    """
    left_out = Counter(dict(rows.account.left_out))
    distinct = _distinct(rows.records, left_out)
    if not distinct:
        raise DataError(f"{source}: no row has a prompt to sample from")
    return AskedPrompts(distinct, left_out)


def _distinct(records: Sequence[Record], left_out: Counter[str]) -> list[AskedPrompt]:
    distinct: dict[str, AskedPrompt] = {}
    for record in records:
        name = prompt_id(record.prompt, record.template_args)
        if not words_of(record.prompt).strip():
            left_out["a blank prompt"] += 1
        elif name in distinct:
            left_out["a prompt that an earlier row asks"] += 1
        else:
            asked = record if isinstance(record, Prompt) else record_to_prompt(record)
            distinct[name] = AskedPrompt(
                id=name, prompt=asked.prompt, answer=asked.answer, template_args=asked.template_args
            )
    return list(distinct.values())
