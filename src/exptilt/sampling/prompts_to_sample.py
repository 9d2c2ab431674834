"""The prompts of a data source, each once, with the right answer where the source says one. Never imports torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from exptilt.data.records import Demonstration, Record, TemplateArgs, Text, words_of
from exptilt.data.splits import read_splits
from exptilt.data.stage_account import Decisions
from exptilt.errors import DataError
from exptilt.sampling.sample_rows import prompt_id
from exptilt.settings.data_settings import DataConfig
from exptilt.wording import counted


@dataclass(frozen=True, kw_only=True)
class AskedPrompt:
    """One prompt to draw completions of."""

    id: str
    """Digest of the prompt."""
    prompt: Text
    answer: str | None = None
    """The right answer: the completion of a row to imitate."""
    template_args: TemplateArgs = field(default_factory=dict)


def prompts_of(data: DataConfig) -> list[AskedPrompt]:
    """The distinct prompts of the rows of `data.train`, in order; of equal prompts the first stands for all.

    Raises:
        DataError: rows cannot be read and `data.on_invalid` does not say to drop them, or no row has a prompt.
    """
    decisions = Decisions(data.decisions)
    train, _ = read_splits(data, decisions)
    refusing = [finding for finding in train.account.findings(decisions) if finding.severity == "error"]
    if refusing:
        worst = refusing[0]
        raise DataError(
            f"{data.train}: {counted(worst.count or 0, 'row')} cannot be read: {worst.message}; {worst.fix}"
        )
    found = _distinct(train.records)
    if not found:
        raise DataError(f"{data.train}: no row has a prompt to sample from")
    return found


def _distinct(records: Sequence[Record]) -> list[AskedPrompt]:
    found: dict[str, AskedPrompt] = {}
    for record in records:
        name = prompt_id(record.prompt)
        if name in found or not words_of(record.prompt).strip():
            continue
        said = words_of(record.completion) if isinstance(record, Demonstration) else ""
        found[name] = AskedPrompt(
            id=name, prompt=record.prompt, answer=said or None, template_args=record.template_args
        )
    return list(found.values())
