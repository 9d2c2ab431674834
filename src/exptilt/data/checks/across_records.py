"""Checks across all records of a data set: rows that repeat or contradict each other, prompts on both sides."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from exptilt.data.checks.record_checks import prompt_key, stripped
from exptilt.data.memory.digests import Digest, Digests, digest
from exptilt.data.memory.spill import selected
from exptilt.data.records import Preference, Ranking, Rating, Record, words_of
from exptilt.data.stage_account import NOTHING, Account, Decisions

_OF_PAIR = re.compile(r" \d+[=>]\d+$")
"""What the id of a pair has behind that of the row that gave several."""


@dataclass
class _Settling:
    """What becomes of rows that repeat or contradict each other; a byte a row."""

    records: Sequence[Record]
    decisions: Decisions
    reasons: NDArray[np.uint8]
    """Of each row why it is left out, a place in `_REASONS`; 0 if it stays."""
    changed: dict[int, Record] = field(default_factory=dict)
    account: Account = NOTHING

    def leave_out(self, positions: Iterable[int], code: str) -> None:
        self.reasons[list(positions)] = _REASONS.index(code)

    def note(self, code: str, position: int, other: int, relation: str) -> None:
        """Count a row with the row it repeats or contradicts; only the first ones are looked up, as rows lie on disk."""
        if self.account.names_next(code):
            detail = f"{relation} {self.records[other].id}"
            self.account += Account.of(code, self.records[position].id, detail)
        else:
            self.account += Account.of(code)

    def result(self) -> tuple[Sequence[Record], Account]:
        kept = np.flatnonzero(self.reasons == 0)
        changed = {int(np.searchsorted(kept, position)): record for position, record in self.changed.items()}
        counts = np.bincount(self.reasons, minlength=len(_REASONS)).tolist()
        left_out = {code: count for code, count in zip(_REASONS, counts, strict=True) if code and count}
        return selected(self.records, kept, changed), self.account + Account(left_out=left_out)


_REASONS = ("", "duplicate", "conflict")


def check_across(records: Sequence[Record], decisions: Decisions) -> tuple[Sequence[Record], Account]:
    """Find rows that repeat or contradict each other.

    Returns:
        The records to go on with, in order, and the account of the others.
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
    settling = _Settling(records, decisions, np.zeros(len(rows), dtype=np.uint8))
    for positions in rows.repeated():
        _settle(settling, positions, [labels[position] for position in positions])
    del rows, labels  # a million rows are 32 MB
    for positions in prompts.repeated():
        _note_prompts(settling, positions)
    return settling.result()


def _settle(settling: _Settling, positions: list[int], labels: list[Digest]) -> None:
    """Decide about rows that have the same prompt and the same completions in some order."""
    if len(set(labels)) > 1:
        _note_conflict(settling, positions, labels)
        first = settling.records[positions[0]] if settling.decisions.on("conflict") == "soft" else None
        if isinstance(first, Preference):
            settling.changed[positions[0]] = _softened(first, [settling.records[position] for position in positions])
            settling.leave_out(positions[1:], "conflict")
            return
        if settling.decisions.leave_out("conflict"):
            settling.leave_out(positions, "conflict")
            return
    seen: dict[Digest, int] = {}
    for position, label in zip(positions, labels, strict=True):
        if label not in seen:
            seen[label] = position
            continue
        settling.note("duplicate", position, seen[label], "repeats")
        if settling.decisions.leave_out("duplicate"):
            settling.leave_out([position], "duplicate")


def _note_conflict(settling: _Settling, positions: list[int], labels: list[Digest]) -> None:
    """Count every row of a contradiction, each with the first row that says otherwise."""
    for position, label in zip(positions, labels, strict=True):
        other = next(at for at, said in zip(positions, labels, strict=True) if said != label)
        settling.note("conflict", position, other, "has the opposite label of")


def _softened(first: Preference, votes: Iterable[Record]) -> Preference:
    """One pair for all votes on it, with the mean probability that the side chosen in the first is better."""
    chosen = stripped(first.chosen)
    shares = [
        vote.p_chosen if stripped(vote.chosen) == chosen else 1 - vote.p_chosen
        for vote in votes
        if isinstance(vote, Preference)
    ]
    return replace(first, p_chosen=sum(shares) / len(shares), margin=None, scores=None)


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


def _note_prompts(settling: _Settling, positions: Iterable[int]) -> None:
    first, *others = [position for position in positions if not settling.reasons[position]] or [-1]
    for position in others:
        settling.note("duplicate_prompt", position, first, "asks the same as")


def check_leak(
    train: Sequence[Record], test: Sequence[Record], decisions: Decisions
) -> tuple[Sequence[Record], Account]:
    """Find training rows whose prompt is in the test set; return the rows to go on with and the account of the others."""
    prompts = Digests()
    for record in chain(train, test):
        prompts.add(prompt_key(record))
    twin = np.full(len(train), -1, dtype=np.int64)
    for positions in prompts.repeated():
        held_out = next((position for position in positions if position >= len(train)), None)
        if held_out is not None:
            twin[[position for position in positions if position < len(train)]] = held_out - len(train)
    leaked = np.flatnonzero(twin >= 0).tolist()
    left_out = bool(leaked) and decisions.leave_out("leak")
    account = Account(left_out={"leak": len(leaked)}) if left_out else NOTHING
    for position in leaked:
        if account.names_next("leak"):
            detail = f"has the prompt of {test[int(twin[position])].id}, which is in the test set"
            account += Account.of("leak", train[position].id, detail)
        else:
            account += Account.of("leak")
    return selected(train, np.flatnonzero(twin < 0) if left_out else np.arange(len(train))), account
