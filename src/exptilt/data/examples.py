"""Records as examples of one kind of objective: converted and checked, chunk by chunk, each chunk with its accounts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import NamedTuple

from exptilt.data.checks.record_checks import check_record, prompt_key
from exptilt.data.conversions import convert
from exptilt.data.memory.digests import Counts
from exptilt.data.records import Preference, Record, words_of
from exptilt.data.stage_account import NOTHING, Account, Decisions
from exptilt.kinds import Kind
from exptilt.settings.data_settings import DataConfig

CHUNK = 512
"""Records converted, checked and tokenised at a time."""


class Examples(NamedTuple):
    """The examples made of some records, with their accounts."""

    num_records: int
    kept: list[Record]
    """The examples that stay."""
    rows: Account
    """Account of records that became no example."""
    account: Account
    """Account of the examples."""
    num_made: int
    """Number of examples, those that were left out included."""


def examples_of(
    records: Sequence[Record], kind: Kind | str | None, config: DataConfig, decisions: Decisions
) -> Iterator[Examples]:
    """Convert records to examples and check each.

    Args:
        records: records of one split.
        kind: kind of the objective, or its name; None leaves records as they are.
        config: says which examples are not wanted.
        decisions: decisions about examples with problems.
    """
    of_prompt: Counts | None = None
    if config.max_per_prompt is not None:
        of_prompt = Counts(prompt_key(record) for record in records if words_of(record.prompt))
    remaining = iter(records)
    while chunk := list(islice(remaining, CHUNK)):
        examples, rows = _converted(chunk, kind, config)
        accepted, account = _checked(examples, of_prompt, config, decisions)
        yield Examples(len(chunk), accepted, rows, account, len(examples))


def _converted(
    records: Sequence[Record], kind: Kind | str | None, config: DataConfig
) -> tuple[Sequence[Record], Account]:
    if kind is None:
        return records, NOTHING
    converted: list[Record] = []
    account = NOTHING
    for record in records:
        examples = convert(record, kind, config.pairs)
        if isinstance(examples, str):
            account += Account.of(examples, record.id, left_out=True)
        else:
            converted += examples
    return converted, account


def _checked(
    examples: Sequence[Record], of_prompt: Counts | None, config: DataConfig, decisions: Decisions
) -> tuple[list[Record], Account]:
    """The examples that stay; `of_prompt` counts them."""
    accepted: list[Record] = []
    account = NOTHING
    for record in examples:
        code = _unwanted(record, of_prompt, config)
        noted = Account.of(code, record.id, left_out=True) if code else check_record(record, decisions)
        account += noted
        if not noted.left_out:
            accepted.append(record)
            if of_prompt is not None and words_of(record.prompt):
                of_prompt.add(prompt_key(record))
    return accepted, account


def _unwanted(record: Record, of_prompt: Counts | None, config: DataConfig) -> str | None:
    """The code of the reason why the row or the settings leave an example out; None if it stays."""
    if record.weight == 0:
        return "zero_weight"
    margin = record.margin if isinstance(record, Preference) else None
    if config.min_margin is not None and margin is not None and abs(margin) < config.min_margin:
        return "small_margin"
    if of_prompt is not None and words_of(record.prompt):
        return "over_prompt_limit" if of_prompt[prompt_key(record)] >= (config.max_per_prompt or 0) else None
    return None
