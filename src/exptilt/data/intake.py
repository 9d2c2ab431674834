"""Rows of both splits as checked records, with an account of every row."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

from exptilt.data.checks import check_across, check_leak, check_record, is_held_out, prompt_key, share_of
from exptilt.data.conversions import Kind, convert
from exptilt.data.problems import Ledger
from exptilt.data.reading import Part, read_part
from exptilt.data.records import Preference, Record
from exptilt.data.sources import DataConfig
from exptilt.errors import DataError


@dataclass(kw_only=True)
class Split:
    """The records of one split and the account of where they came from."""

    source: str
    format: str
    rows: int
    records: list[Record]
    rows_left_out: Counter[str] = field(default_factory=Counter)
    columns_not_read: tuple[str, ...] = ()
    parts: list[Part] = field(default_factory=list)
    """The sources it was mixed from."""
    weights: dict[str, float] = field(default_factory=dict)
    """How often records are used, by id, where that is not once."""
    repeated: int = 0
    """Copies that weights above 1 added."""


class Examples(NamedTuple):
    """What the records of a split became for one kind of objective."""

    num_converted: int
    kept: list[Record]
    left_out: Counter[str]


def read_splits(config: DataConfig, ledger: Ledger) -> tuple[Split, Split | None]:
    """Read training and held-out rows; no prompt is in both, or the ledger says so."""
    names = Counter(Path(source.path).name for source in config.sources)
    parts = []
    for position, source in enumerate(config.sources):
        prefix = f"{position + 1}/" if names[Path(source.path).name] > 1 else ""
        parts.append(read_part(source, ledger, prefix))
    train = _mixed(parts)
    test: Split | None = None
    held_out = config.held_out_source
    if held_out is not None:
        if (held_out.path, held_out.split, held_out.where) == (config.train, config.split, config.where):
            raise DataError(
                f"{held_out.path}: train and test are the same rows; set data.test_fraction to hold some out"
            )
        test = _mixed([read_part(held_out, ledger)])
    elif config.test_fraction:
        test = _hold_out(train, config, ledger)
    return train, test


def _mixed(parts: Sequence[Part]) -> Split:
    """Several sources as one split, one after the other."""
    formats = dict.fromkeys(part.format for part in parts)
    split = Split(source=" + ".join(part.source.path for part in parts), format=" + ".join(formats), rows=0, records=[])
    for part in parts:
        split.rows += part.rows
        split.records += part.records
        split.rows_left_out.update(part.rows_left_out)
        split.columns_not_read += tuple(name for name in part.columns_not_read if name not in split.columns_not_read)
        split.parts.append(part)
        if part.source.weight != 1:
            split.weights |= {record.id: part.source.weight for record in part.records}
        part.records = []
    return split


def _hold_out(train: Split, config: DataConfig, ledger: Ledger) -> Split:
    held_out = [record for record in train.records if is_held_out(record, config.test_fraction)]
    train.records = [record for record in train.records if not is_held_out(record, config.test_fraction)]
    if (held_out or train.records) and not (held_out and train.records):
        raise DataError(
            f"{config.train}: data.test_fraction={config.test_fraction:g} leaves {len(train.records)} rows to train on "
            f"and {len(held_out)} to test on; change it, or name a test file in data.test"
        )
    train.rows -= len(held_out)
    test = Split(source=train.source, format=train.format, rows=len(held_out), records=held_out)
    test.columns_not_read = train.columns_not_read
    test.parts = train.parts
    for record in held_out[config.test_limit :] if config.test_limit is not None else ():
        ledger.note("over_limit", record.id)
        test.rows_left_out["over_limit"] += 1
    test.records = held_out[: config.test_limit]
    return test


def check_splits(train: Split, test: Split | None, ledger: Ledger) -> None:
    """Settle rows that repeat or contradict each other within a split, and prompts in both; then weigh the sources."""
    for split in (train, test):
        if split is not None:
            split.records, left_out = check_across(split.records, ledger)
            split.rows_left_out.update(left_out)
    if test is not None:
        train.records, count = check_leak(train.records, test.records, ledger)
        if count:
            train.rows_left_out["leak"] += count
    if train.weights:
        _weigh(train, ledger)


def _weigh(split: Split, ledger: Ledger) -> None:
    """Use every record as often as its source's weight says; a fraction takes the same records in every run."""
    used: list[Record] = []
    for record in split.records:
        weight = split.weights.get(record.id, 1.0)
        count = int(weight) + (share_of(record.id) < weight % 1)
        if count == 0:
            ledger.note("not_sampled", record.id)
            split.rows_left_out["not_sampled"] += 1
        used += [record if copy == 0 else replace(record, id=f"{record.id} copy {copy + 1}") for copy in range(count)]
        split.repeated += max(0, count - 1)
    split.records = used


def make_examples(split: Split, kind: Kind | None, config: DataConfig, ledger: Ledger) -> Examples:
    """Convert a split's records to what an objective needs (None: as they are) and check each."""
    converted: list[Record] = []
    for record in split.records:
        made = (record,) if kind is None else convert(record, kind, config.pairs)
        if isinstance(made, str):
            ledger.note(made, record.id)
            split.rows_left_out[made] += 1
        else:
            converted.extend(made)
    return _checked(converted, config, ledger)


def _checked(records: Sequence[Record], config: DataConfig, ledger: Ledger) -> Examples:
    kept, left_out = [], Counter[str]()
    of_prompt: Counter[bytes] = Counter()
    for record in records:
        code = _unwanted(record, config, of_prompt)
        if code is not None:
            ledger.note(code, record.id)
        else:
            code = check_record(record, ledger)
        if code is None:
            kept.append(record)
            if config.max_per_prompt is not None:
                of_prompt[prompt_key(record)] += 1
        else:
            left_out[code] += 1
    return Examples(len(records), kept, left_out)


def _unwanted(record: Record, config: DataConfig, of_prompt: Mapping[bytes, int]) -> str | None:
    """Why the settings leave an example out, if they do."""
    margin = record.margin if isinstance(record, Preference) else None
    if config.min_margin is not None and margin is not None and abs(margin) < config.min_margin:
        return "small_margin"
    if config.max_per_prompt is not None and of_prompt[prompt_key(record)] >= config.max_per_prompt:
        return "over_prompt_limit"
    return None


class Records(NamedTuple):
    """Checked records of both splits."""

    train: list[Record]
    test: list[Record]


def read_records(config: DataConfig, kind: Kind | None = None) -> Records:
    """Read records without a tokenizer, with every check on text made; for sampling prompts, judges and reports.

    Args:
        config: where the data is and what happens to wrong rows.
        kind: convert to what an objective of this kind is trained on; None leaves records as they were read.

    Raises:
        DataError: if a file cannot be read, or rows are wrong and no policy says what to do.
    """
    ledger = Ledger(config.policies)
    train, test = read_splits(config, ledger)
    check_splits(train, test, ledger)
    kept = make_examples(train, kind, config, ledger).kept
    kept_test = make_examples(test, kind, config, ledger).kept if test is not None else []
    refuse_errors(ledger.findings())
    return Records(kept, kept_test)


def refuse_errors(findings: Iterable[Any]) -> None:
    """Raise one `DataError` with a line for each finding that is an error."""
    lines: Iterator[str] = (str(finding) for finding in findings if finding.severity == "error")
    message = "\n".join(lines)
    if message:
        raise DataError(message)
