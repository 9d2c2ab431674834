"""Rows of both splits as checked records, with an account of every row."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from exptilt.data.checks.across_records import check_across, check_leak
from exptilt.data.checks.record_checks import is_held_out, share_of
from exptilt.data.examples import examples_of
from exptilt.data.memory.spill import Selection, Shelf, selected
from exptilt.data.read.places import files_of
from exptilt.data.read.source_records import SourcePart, read_part
from exptilt.data.records import Record
from exptilt.data.stage_account import NOTHING, Account, Decisions
from exptilt.errors import DataError
from exptilt.in_memory import is_in_memory, kind_in
from exptilt.kinds import Kind
from exptilt.settings.data_settings import DataConfig
from exptilt.settings.source_settings import SourceConfig


@dataclass(frozen=True, kw_only=True)
class Split:
    """The records of one split and the account of where they came from."""

    source: str
    format: str
    rows: int
    records: Sequence[Record]
    account: Account = NOTHING
    """Of the rows, up to this stage."""
    columns_not_read: tuple[str, ...] = ()
    parts: tuple[SourcePart, ...] = ()
    """The sources it was mixed from, whose records come one source after the other."""
    repeated: int = 0
    """Copies that weights above 1 added."""
    first_of_row: NDArray[np.bool_] = field(default_factory=lambda: np.zeros(0, dtype=np.bool_))
    """Of each record that was read whether it is the first that its row became."""

    def went_on(self, records: Sequence[Record], account: Account) -> Split:
        """The split after a stage that returned these records and this account."""
        return replace(self, records=records, account=self.account + account)


def read_splits(config: DataConfig, decisions: Decisions) -> tuple[Split, Split | None]:
    """Read training and held-out rows."""
    held_out = config.held_out_sources
    for one in held_out:
        if any((one.path, one.split, one.where) == (each.path, each.split, each.where) for each in config.sources):
            raise DataError(f"{one.path}: train and test are the same rows; set data.test_fraction to hold some out")
    train = _mixed(config.sources, _prefixes(config.sources), decisions)
    if held_out:
        return train, _mixed(held_out, _prefixes(held_out), decisions)
    if not config.test_fraction:
        return train, None
    try:
        return _hold_out(train, config)
    except DataError:
        refuse_errors(train.account.findings(decisions))  # rows that cannot be read are the likelier fault
        raise


def _prefixes(sources: Sequence[SourceConfig]) -> list[str]:
    """The number of each source whose row ids would be those of another: a row id begins with the name of its file."""
    if len(sources) == 1:
        return [""]
    names = [_names_in_ids(source) for source in sources]
    counts = Counter(chain.from_iterable(names))
    return [
        f"{position}/" if any(counts[name] > 1 for name in own) else "" for position, own in enumerate(names, start=1)
    ]


def _names_in_ids(source: SourceConfig) -> set[str]:
    """The names that ids of a source's rows begin with."""
    if is_in_memory(source.path):
        return {kind_in(source.path)}
    return {Path(source.path).name, *(file.name for file in files_of(source.path, source.split))}


def _mixed(sources: Sequence[SourceConfig], prefixes: Sequence[str], decisions: Decisions) -> Split:
    """Several sources as one split, one after the other."""
    records = Shelf[Record]()
    parts = tuple(
        read_part(source, records, decisions, prefix) for source, prefix in zip(sources, prefixes, strict=True)
    )
    return Split(
        source=" + ".join(source.path for source in sources),
        format=" + ".join(dict.fromkeys(part.format for part in parts)),
        rows=sum(part.rows for part in parts),
        records=records,
        account=sum((part.account for part in parts), NOTHING),
        columns_not_read=tuple(dict.fromkeys(name for part in parts for name in part.columns_not_read)),
        parts=parts,
        first_of_row=np.concatenate([part.first_of_row for part in parts]),
    )


def _hold_out(train: Split, config: DataConfig) -> tuple[Split, Split]:
    held = np.fromiter((is_held_out(record, config.test_fraction) for record in train.records), dtype=np.bool_)
    kept, held_out = (selected(train.records, np.flatnonzero(which)) for which in (~held, held))
    if (held_out or kept) and not (held_out and kept):
        raise DataError(
            f"{config.named}: data.test_fraction={config.test_fraction:g} leaves {len(kept)} rows to train on "
            f"and {len(held_out)} to test on; change it, or name a test file in data.test"
        )
    num_rows = int(train.first_of_row[held].sum())  # a row may have become several records
    account = NOTHING
    for at in range(config.test_limit or len(held_out), len(held_out)):
        row_id = held_out[at].id if account.names_next("over_limit") else ""
        account += Account.of("over_limit", row_id, left_out=True)
    test = replace(
        train,
        rows=num_rows,
        records=selected(held_out, np.arange(len(held_out))[: config.test_limit]),
        account=account,
    )
    return replace(train, rows=train.rows - num_rows, records=kept), test


def check_splits(train: Split, test: Split | None, decisions: Decisions) -> tuple[Split, Split | None]:
    """Settle rows that repeat or contradict each other within a split, and prompts in both; then weigh the sources."""
    train = train.went_on(*check_across(train.records, decisions))
    if test is not None:
        test = test.went_on(*check_across(test.records, decisions))
        train = train.went_on(*check_leak(train.records, test.records, decisions))
    if any(part.source.weight != 1 for part in train.parts):
        train = _weighed(train)
    return train, test


def _weighed(split: Split) -> Split:
    """Use every record as often as its source's weight says; a fraction takes the same records in every run."""
    kept = selected(split.records, np.arange(len(split.records)))
    of_part = [part.source.weight for part in split.parts]
    weights = np.repeat(of_part, [part.num_records for part in split.parts])[kept.positions]
    counts = np.floor(weights).astype(np.int64)
    for at in np.flatnonzero(weights != counts).tolist():
        counts[at] += share_of(kept[at].id) < weights[at] % 1
    account = NOTHING
    for at in np.flatnonzero(counts == 0).tolist():
        row_id = kept[at].id if account.names_next("not_sampled") else ""
        account += Account.of("not_sampled", row_id, left_out=True)
    used = np.repeat(np.arange(len(kept)), counts)
    copies = np.arange(len(used)) - np.repeat(np.cumsum(counts) - counts, counts)
    again = selected(kept, used)
    records = Selection(again.records, again.positions, again.changed, copies.astype(np.uint32))
    return replace(split.went_on(records, account), repeated=split.repeated + int((copies > 0).sum()))


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
        DataError: if a file cannot be read, or rows are wrong and no setting says what to do.
    """
    decisions = Decisions(config.decisions)
    train, test = check_splits(*read_splits(config, decisions), decisions)
    account = NOTHING
    kept: list[Shelf[Record]] = []
    for split in (train, test):
        shelf = Shelf[Record]()
        if split is not None:
            account += split.account
            for part in examples_of(split.records, kind, config, decisions):
                for record in part.kept:
                    shelf.append(record)
                account += part.rows + part.account
        kept.append(shelf)
    refuse_errors(account.findings(decisions))
    return Records(*kept)


def refuse_errors(findings: Iterable[Any]) -> None:
    """Raise one `DataError` with a line for each finding that is an error."""
    lines: Iterator[str] = (str(finding) for finding in findings if finding.severity == "error")
    message = "\n".join(lines)
    if message:
        raise DataError(message)
