"""Checks across all records of a data set: rows that repeat or contradict each other, prompts on both sides."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from exptilt.data.checks.record_checks import prompt_key, stripped
from exptilt.data.memory.digests import Digest, Digests, digest
from exptilt.data.memory.spill import selected
from exptilt.data.problems import Ledger
from exptilt.data.records import Preference, Ranking, Rating, Record, words_of

_OF_PAIR = re.compile(r" \d+[=>]\d+$")
"""What the id of a pair has behind that of the row that gave several."""


@dataclass
class _Settled:
    """What becomes of rows that repeat or contradict each other; a byte a row."""

    records: Sequence[Record]
    reasons: NDArray[np.uint8]
    """Of each row why it is left out, a place in `_REASONS`; 0 if it stays."""
    changed: dict[int, Record]

    def leave_out(self, positions: Iterable[int], code: str) -> None:
        self.reasons[list(positions)] = _REASONS.index(code)

    def named(self, position: int, code: str, ledger: Ledger) -> str:
        """The row's id, where the ledger still remembers rows; else empty, as it may lie far away on disk."""
        return self.records[position].id if ledger.remembers(code) else ""


_REASONS = ("", "duplicate", "conflict")


def check_across(records: Sequence[Record], ledger: Ledger) -> tuple[Sequence[Record], dict[str, int]]:
    """Find rows that repeat or contradict each other.

    Returns:
        The records to go on with, in order, and how many rows each problem left out.
    """
    rows, prompts, labels = Digests(), Digests(), Digests()
    last = ""
    for position, record in enumerate(records):
        rows.add(unlabelled_key(record))
        labels.add(digest(repr(_label(record))))
        source_row = _OF_PAIR.sub("", record.id)
        asks = words_of(record.prompt) and source_row != last
        prompts.add(prompt_key(record) if asks else digest(f"none, or that of the row before: {position}"))
        last = source_row
    settled = _Settled(records, np.zeros(len(rows), dtype=np.uint8), {})
    for positions in rows.repeated():
        _settle(settled, positions, [labels[position] for position in positions], ledger)
    del rows, labels  # a million rows are 32 MB
    for positions in prompts.repeated():
        _note_prompts(settled, positions, ledger)
    kept = np.flatnonzero(settled.reasons == 0)
    changed = {int(np.searchsorted(kept, position)): record for position, record in settled.changed.items()}
    counts = np.bincount(settled.reasons, minlength=len(_REASONS)).tolist()
    return selected(records, kept, changed), {
        code: count for code, count in zip(_REASONS, counts, strict=True) if code and count
    }


def _settle(settled: _Settled, positions: list[int], labels: list[Digest], ledger: Ledger) -> None:
    """Decide about rows that have the same prompt and the same completions in some order."""
    if len(set(labels)) > 1:
        policy = _decide_conflict(settled, positions, labels, ledger)
        first = settled.records[positions[0]] if policy == "soft" else None
        if isinstance(first, Preference):
            settled.changed[positions[0]] = _softened(first, [settled.records[position] for position in positions])
            settled.leave_out(positions[1:], "conflict")
            return
        if policy in ("error", "drop"):
            settled.leave_out(positions, "conflict")
            return
    seen: dict[Digest, int] = {}
    for position, label in zip(positions, labels, strict=True):
        if label not in seen:
            seen[label] = position
            continue
        row_id = settled.named(position, "duplicate", ledger)
        detail = f"repeats {settled.named(seen[label], 'duplicate', ledger)}" if row_id else ""
        if ledger.leaves_out("duplicate", row_id, detail):
            settled.leave_out([position], "duplicate")


def _decide_conflict(settled: _Settled, positions: list[int], labels: list[Digest], ledger: Ledger) -> str:
    """Count every row of a contradiction, each with the first row that says otherwise."""
    policy = ""
    for position, label in zip(positions, labels, strict=True):
        row_id = settled.named(position, "conflict", ledger)
        other = next(at for at, said in zip(positions, labels, strict=True) if said != label)
        detail = f"has the opposite label of {settled.named(other, 'conflict', ledger)}" if row_id else ""
        policy = ledger.decide("conflict", row_id, detail)
    return policy


def _softened(first: Preference, votes: Iterable[Record]) -> Preference:
    """One pair for all votes on it, with the mean probability that the side chosen in the first is better."""
    chosen = stripped(first.chosen)
    shares = [
        vote.p_chosen if stripped(vote.chosen) == chosen else 1 - vote.p_chosen
        for vote in votes
        if isinstance(vote, Preference)
    ]
    return replace(first, p_chosen=sum(shares) / len(shares), margin=None)


def _label(record: Record) -> object:
    """What rows of the same prompt and completions can disagree about."""
    if isinstance(record, Preference):
        return stripped(record.rejected if record.p_chosen < 0.5 else record.chosen)
    if isinstance(record, Rating):
        return record.desirable
    if isinstance(record, Ranking):
        said = [stripped(completion) for completion in record.completions]
        return tuple(sorted(zip(said, record.ranks, strict=True)))
    return None


def unlabelled_key(record: Record) -> Digest:
    """Digest of a prompt and its completions in any order, with what the chat template is given besides."""
    context = repr(sorted(record.template_args.items())) if record.template_args else ""
    said = sorted(stripped(text) for text in record.completions)
    return digest("\x1d".join([context, stripped(record.prompt), *said]))


def _note_prompts(settled: _Settled, positions: Iterable[int], ledger: Ledger) -> None:
    first, *others = [position for position in positions if not settled.reasons[position]] or [-1]
    for position in others:
        row_id = settled.named(position, "duplicate_prompt", ledger)
        detail = f"asks the same as {settled.named(first, 'duplicate_prompt', ledger)}" if row_id else ""
        ledger.note("duplicate_prompt", row_id, detail)


def check_leak(train: Sequence[Record], test: Sequence[Record], ledger: Ledger) -> tuple[Sequence[Record], int]:
    """Find training rows whose prompt is in the test set; return the rows to go on with and how many are left out."""
    prompts = Digests()
    for record in chain(train, test):
        prompts.add(prompt_key(record))
    twin = np.full(len(train), -1, dtype=np.int64)
    for positions in prompts.repeated():
        held_out = next((position for position in positions if position >= len(train)), None)
        if held_out is not None:
            twin[[position for position in positions if position < len(train)]] = held_out - len(train)
    gone = np.zeros(len(train), dtype=np.bool_)
    for position in np.flatnonzero(twin >= 0).tolist():
        named = ledger.remembers("leak")
        detail = f"has the prompt of {test[int(twin[position])].id}, which is in the test set" if named else ""
        gone[position] = ledger.leaves_out("leak", train[position].id if named else "", detail)
    return selected(train, np.flatnonzero(~gone)), int(gone.sum())
