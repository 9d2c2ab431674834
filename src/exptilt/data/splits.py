"""Rows of both splits as checked records, with an account of every row."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from exptilt.data.checks.across_records import check_across, check_leak
from exptilt.data.checks.record_checks import check_record, is_held_out, prompt_key, share_of
from exptilt.data.conversions import convert
from exptilt.data.memory.digests import Counts
from exptilt.data.memory.spill import Selection, Shelf, selected
from exptilt.data.problems import Ledger
from exptilt.data.read.source_records import SourcePart, read_part
from exptilt.data.records import Preference, Record, words_of
from exptilt.errors import DataError
from exptilt.kinds import Kind
from exptilt.settings.data_settings import DataConfig, SourceConfig


@dataclass(kw_only=True)
class Split:
    """The records of one split and the account of where they came from."""

    source: str
    format: str
    rows: int
    records: Sequence[Record]
    rows_left_out: Counter[str] = field(default_factory=Counter)
    columns_not_read: tuple[str, ...] = ()
    parts: list[SourcePart] = field(default_factory=list)
    """The sources it was mixed from."""
    weights: list[tuple[int, float]] = field(default_factory=list)
    """How many records each source gave, one source after the other, and how often they are used."""
    repeated: int = 0
    """Copies that weights above 1 added."""
    first_of_row: NDArray[np.bool_] = field(default_factory=lambda: np.zeros(0, dtype=np.bool_))
    """Of each record whether it is the first that its row became."""


def read_splits(config: DataConfig, ledger: Ledger) -> tuple[Split, Split | None]:
    """Read training and held-out rows; no prompt is in both, or the ledger says so."""
    names = Counter(Path(source.path).name for source in config.sources)
    prefixes = [
        f"{position}/" if names[Path(source.path).name] > 1 else ""
        for position, source in enumerate(config.sources, start=1)
    ]
    train = _mixed(config.sources, prefixes, ledger)
    test: Split | None = None
    held_out = config.held_out_source
    if held_out is not None:
        if (held_out.path, held_out.split, held_out.where) == (config.train, config.split, config.where):
            raise DataError(
                f"{held_out.path}: train and test are the same rows; set data.test_fraction to hold some out"
            )
        test = _mixed([held_out], [""], ledger)
    elif config.test_fraction:
        test = _hold_out(train, config, ledger)
    return train, test


def _mixed(sources: Sequence[SourceConfig], prefixes: Sequence[str], ledger: Ledger) -> Split:
    """Several sources as one split, one after the other."""
    shelf = Shelf[Record]()
    split = Split(source=" + ".join(source.path for source in sources), format="", rows=0, records=shelf)
    for source, prefix in zip(sources, prefixes, strict=True):
        before = len(shelf)
        part = read_part(source, shelf, ledger, prefix)
        split.rows += part.rows
        split.rows_left_out.update(part.rows_left_out)
        split.columns_not_read += tuple(name for name in part.columns_not_read if name not in split.columns_not_read)
        split.parts.append(part)
        split.weights.append((len(shelf) - before, source.weight))
    split.first_of_row = np.concatenate([np.frombuffer(part.first_of_row, dtype=np.bool_) for part in split.parts])
    split.format = " + ".join(dict.fromkeys(part.format for part in split.parts))
    return split


def _hold_out(train: Split, config: DataConfig, ledger: Ledger) -> Split:
    held = np.fromiter((is_held_out(record, config.test_fraction) for record in train.records), dtype=np.bool_)
    kept, held_out = (selected(train.records, np.flatnonzero(which)) for which in (~held, held))
    if (held_out or kept) and not (held_out and kept):
        raise DataError(
            f"{config.train}: data.test_fraction={config.test_fraction:g} leaves {len(kept)} rows to train on "
            f"and {len(held_out)} to test on; change it, or name a test file in data.test"
        )
    train.records = kept
    num_rows = int(train.first_of_row[held].sum())  # a row may have become several records
    train.rows -= num_rows
    test = Split(source=train.source, format=train.format, rows=num_rows, records=held_out)
    test.columns_not_read = train.columns_not_read
    test.parts = train.parts
    for at in range(config.test_limit or len(held_out), len(held_out)):
        ledger.note("over_limit", held_out[at].id)
        test.rows_left_out["over_limit"] += 1
    test.records = selected(held_out, np.arange(len(held_out))[: config.test_limit])
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
    if any(weight != 1 for _, weight in train.weights):
        _weigh(train, ledger)


def _weigh(split: Split, ledger: Ledger) -> None:
    """Use every record as often as its source's weight says; a fraction takes the same records in every run."""
    kept = selected(split.records, np.arange(len(split.records)))
    weights = np.repeat([weight for _, weight in split.weights], [count for count, _ in split.weights])[kept.positions]
    counts = np.floor(weights).astype(np.int64)
    for at in np.flatnonzero(weights != counts).tolist():
        counts[at] += share_of(kept[at].id) < weights[at] % 1
    for at in np.flatnonzero(counts == 0).tolist():
        ledger.note("not_sampled", kept[at].id if ledger.remembers("not_sampled") else "")
        split.rows_left_out["not_sampled"] += 1
    used = np.repeat(np.arange(len(kept)), counts)
    copies = np.arange(len(used)) - np.repeat(np.cumsum(counts) - counts, counts)
    split.repeated += int((copies > 0).sum())
    again = selected(kept, used)
    split.records = Selection(again.records, again.positions, again.changed, copies.astype(np.uint32))


@dataclass(kw_only=True)
class Examples:
    """What the records of a split become for one kind of objective; going through it checks each."""

    split: Split
    kind: Kind | str | None
    """None leaves records as they are."""
    config: DataConfig
    ledger: Ledger
    num_converted: int = 0
    """How many examples there were so far, those that were left out included."""
    left_out: Counter[str] = field(default_factory=Counter)

    def __iter__(self) -> Iterator[Record]:
        asked = (prompt_key(record) for record in self.split.records if words_of(record.prompt))
        of_prompt = None if self.config.max_per_prompt is None else Counts(asked)
        for record in self._converted():
            self.num_converted += 1
            code = self._unwanted(record, of_prompt)
            if code is not None:
                self.ledger.note(code, record.id)
            else:
                code = check_record(record, self.ledger)
            if code is None:
                yield record
                if of_prompt is not None and words_of(record.prompt):
                    of_prompt.add(prompt_key(record))
            else:
                self.left_out[code] += 1

    def _converted(self) -> Iterator[Record]:
        for record in self.split.records:
            made = (record,) if self.kind is None else convert(record, self.kind, self.config.pairs)
            if isinstance(made, str):
                self.ledger.note(made, record.id)
                self.split.rows_left_out[made] += 1
            else:
                yield from made

    def _unwanted(self, record: Record, of_prompt: Counts | None) -> str | None:
        """Why the row or the settings leave an example out, if they do."""
        if record.weight == 0:
            return "zero_weight"
        margin = record.margin if isinstance(record, Preference) else None
        if self.config.min_margin is not None and margin is not None and abs(margin) < self.config.min_margin:
            return "small_margin"
        if of_prompt is not None and words_of(record.prompt):
            return "over_prompt_limit" if of_prompt[prompt_key(record)] >= (self.config.max_per_prompt or 0) else None
        return None


class Records(NamedTuple):
    """Checked records of both splits."""

    train: Sequence[Record]
    test: Sequence[Record]


def read_records(config: DataConfig, kind: Kind | str | None = None) -> Records:
    """Read records without a tokenizer, with every check on text made; for sampling prompts, judges and reports.

    Args:
        config: where the data is and what happens to wrong rows.
        kind: convert to what an objective of this kind (or name of a kind) is trained on; None leaves records as they were read.

    Raises:
        DataError: if a file cannot be read, or rows are wrong and no policy says what to do.
    """
    ledger = Ledger(config.policies)
    train, test = read_splits(config, ledger)
    check_splits(train, test, ledger)
    kept, kept_test = (
        Shelf[Record](Examples(split=split, kind=kind, config=config, ledger=ledger) if split is not None else ())
        for split in (train, test)
    )
    refuse_errors(ledger.findings())
    return Records(kept, kept_test)


def refuse_errors(findings: Iterable[Any]) -> None:
    """Raise one `DataError` with a line for each finding that is an error."""
    lines: Iterator[str] = (str(finding) for finding in findings if finding.severity == "error")
    message = "\n".join(lines)
    if message:
        raise DataError(message)
