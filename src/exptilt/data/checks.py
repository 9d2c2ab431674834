"""Checks on records: within one, and across all of a data set. What is done about each is up to the policies."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from hashlib import blake2b
from itertools import pairwise

import numpy as np

from exptilt.data.problems import Ledger
from exptilt.data.records import Message, Preference, Ranking, Rating, Record, Text, words_of
from exptilt.data.shelf import selected

Digest = bytes
_MARKER = re.compile(r"\n\n(Human|Assistant):")
_NEAR = 0.97
"""Two sides that agree in this share of their characters, at their two ends, are nearly identical."""
_MANY_CHARACTERS = 20
"""A prompt shorter than this may well begin its own answer."""


def prompt_key(record: Record) -> Digest:
    """Digest of the prompt for telling whether two rows ask the same: case, white space and Unicode form set aside.

    Where there is no prompt, the completions stand for it.
    """
    said = words_of(record.prompt) or "\n".join(words_of(completion) for completion in record.completions)
    return _digest(" ".join(unicodedata.normalize("NFKC", said).casefold().split()))


def is_held_out(record: Record, fraction: float) -> bool:
    """Whether a record falls into the held-out part: a hash of its prompt below `fraction`, the same in every run."""
    return int.from_bytes(prompt_key(record)[:8], "big") < fraction * 2**64


def share_of(name: str) -> float:
    """A number in [0, 1) that depends on the name alone, the same in every run."""
    return int.from_bytes(_digest(name)[:6], "big") / 2**48


def check_record(record: Record, ledger: Ledger) -> str | None:
    """Count what is wrong within one record; return the code of the problem that leaves it out, if one does."""
    for code, detail in _decided(record):
        if ledger.leaves_out(code, record.id, detail):
            return code
    for code, detail in _noted(record):
        ledger.note(code, record.id, detail)
    return None


def _decided(record: Record) -> Iterator[tuple[str, str]]:
    for name, completion in _named(record):
        if _is_empty(completion):
            yield "empty", f"{name} is empty or only white space"
            return
    said = [_stripped(completion) for completion in record.completions]
    if len(set(said)) < len(said):
        pair = isinstance(record, Preference)
        yield "identical", "chosen and rejected are identical" if pair else "two completions are identical"
    if isinstance(record, Preference) and record.p_chosen == 0.5:
        why = "the scores are equal" if record.margin == 0 else "p_chosen is 0.5"
        yield "tie", f"neither side is preferred ({why})"


def _noted(record: Record) -> Iterator[tuple[str, str]]:
    if isinstance(record, Preference):
        yield from _noted_of_pair(record)
    prompt = _last_words(record.prompt)
    repeats = [name for name, completion in _named(record) if words_of(completion).lstrip().startswith(prompt)]
    all_do = len(repeats) == len(record.completions) > 1
    if repeats and prompt and (all_do or len(prompt) >= _MANY_CHARACTERS):
        yield "prompt_repeated", f"{repeats[0]} begins with its own prompt"
    if any(_has_marker(completion) for completion in record.completions):
        yield "marker_in_text", ""
    if any(_same_role_twice(text) for text in (record.prompt, *record.completions)):
        yield "same_role_twice", ""


def _noted_of_pair(record: Preference) -> Iterator[tuple[str, str]]:
    chosen, rejected = words_of(record.chosen).rstrip(), words_of(record.rejected).rstrip()
    if chosen != rejected and chosen.startswith(rejected):
        yield "prefix", "rejected is the beginning of chosen"
    elif chosen != rejected and rejected.startswith(chosen):
        yield "prefix", "chosen is the beginning of rejected"
    elif chosen.strip() != rejected.strip() and _nearly_identical(chosen, rejected):
        yield "nearly_identical", ""
    if record.p_chosen < 0.5:
        yield "unlikely_chosen", f"p_chosen is {record.p_chosen:g}, so the rejected side is the likelier one"
    if record.margin is not None and record.margin < 0:
        yield "negative_margin", f"the margin is {record.margin:g}, so the source scores the rejected side higher"


def _nearly_identical(one: str, other: str) -> bool:
    """Whether two texts differ only in case, spaces and punctuation, or in a few characters in one place."""
    shorter, longer = sorted((len(one), len(other)))
    if shorter < _NEAR * longer - 8:
        return False
    if _letters(one) == _letters(other):
        return True
    start = _num_shared(one, other)
    end = _num_shared(one[start:][::-1], other[start:][::-1])
    return start + end >= _NEAR * longer


def _num_shared(one: str, other: str) -> int:
    """How many first characters two texts share."""
    low, high = 0, min(len(one), len(other))
    while low < high:
        middle = (low + high + 1) // 2
        if one[:middle] == other[:middle]:
            low = middle
        else:
            high = middle - 1
    return low


def _letters(text: str) -> str:
    return "".join(filter(str.isalnum, text)).casefold()


def _has_marker(completion: Text) -> bool:
    if isinstance(completion, str):
        return bool(_MARKER.search(completion))
    return any(_MARKER.search(turn["content"]) for turn in completion if turn["role"] == "assistant")


def check_across(records: Sequence[Record], ledger: Ledger) -> tuple[Sequence[Record], dict[str, int]]:
    """Find rows that repeat or contradict each other.

    Returns:
        The records to go on with, in order, and how many rows each problem left out.
    """
    keys, prompts = bytearray(), bytearray()
    for position, record in enumerate(records):
        keys += _unlabelled_key(record)
        prompts += prompt_key(record) if words_of(record.prompt) else _digest(f"no prompt {position}")
    changed: dict[int, Record] = {}
    left_out: dict[int, str] = {}
    for positions in _alike(keys):
        _settle(records, positions, ledger, changed, left_out)
    for positions in _alike(prompts):
        _note_prompts(records, [at for at in positions if at not in left_out], ledger)
    kept = [position for position in range(len(records)) if position not in left_out]
    replaced = {at: changed[position] for at, position in enumerate(kept) if position in changed} if changed else {}
    return selected(records, kept, replaced), dict(Counter(left_out.values()))


def _alike(digests: bytearray) -> list[list[int]]:
    """Positions of digests that occur more than once, each group in order, groups by their first."""
    keys = np.frombuffer(digests, dtype=np.uint64).reshape(-1, 2)
    order = np.lexsort((keys[:, 1], keys[:, 0]))
    edges = np.flatnonzero((keys[order][1:] != keys[order][:-1]).any(axis=1)) + 1
    starts = np.concatenate([[0], edges, [len(order)]])
    repeated = np.flatnonzero(np.diff(starts) > 1)
    return sorted(order[starts[at] : starts[at + 1]].tolist() for at in repeated)


def _settle(
    records: Sequence[Record],
    positions: list[int],
    ledger: Ledger,
    changed: dict[int, Record],
    left_out: dict[int, str],
) -> None:
    """Decide about rows that have the same prompt and the same completions in some order."""
    labels = [_label(records[position]) for position in positions]
    if len(set(labels)) > 1:
        policy = _decide_conflict(records, positions, labels, ledger)
        first = records[positions[0]]
        if policy == "soft" and isinstance(first, Preference):
            changed[positions[0]] = _softened(first, [records[position] for position in positions])
            left_out.update(dict.fromkeys(positions[1:], "conflict"))
            return
        if policy in ("error", "drop"):
            left_out.update(dict.fromkeys(positions, "conflict"))
            return
    seen: dict[object, str] = {}
    for position, label in zip(positions, labels, strict=True):
        row_id = records[position].id
        if label not in seen:
            seen[label] = row_id
        elif ledger.leaves_out("duplicate", row_id, f"repeats {seen[label]}"):
            left_out[position] = "duplicate"


def _decide_conflict(records: Sequence[Record], positions: list[int], labels: list[object], ledger: Ledger) -> str:
    """Count every row of a contradiction, each with the first row that says otherwise."""
    policy = ""
    for position, label in zip(positions, labels, strict=True):
        other = next(at for at, said in zip(positions, labels, strict=True) if said != label)
        policy = ledger.decide("conflict", records[position].id, f"has the opposite label of {records[other].id}")
    return policy


def _softened(first: Preference, votes: Iterable[Record]) -> Preference:
    """One pair for all votes on it, with the mean probability that the side chosen in the first is better."""
    chosen = _stripped(first.chosen)
    shares = [
        vote.p_chosen if _stripped(vote.chosen) == chosen else 1 - vote.p_chosen
        for vote in votes
        if isinstance(vote, Preference)
    ]
    return replace(first, p_chosen=sum(shares) / len(shares), margin=None)


def _label(record: Record) -> object:
    """What rows of the same prompt and completions can disagree about."""
    if isinstance(record, Preference):
        return _stripped(record.rejected if record.p_chosen < 0.5 else record.chosen)
    if isinstance(record, Rating):
        return record.desirable
    if isinstance(record, Ranking):
        said = [_stripped(completion) for completion in record.completions]
        return tuple(sorted(zip(said, record.ranks, strict=True)))
    return None


def _unlabelled_key(record: Record) -> Digest:
    context = repr(sorted(record.template_args.items())) if record.template_args else ""
    said = sorted(_stripped(text) for text in record.completions)
    return _digest("\x1d".join([context, _stripped(record.prompt), *said]))


def _note_prompts(records: Sequence[Record], positions: Sequence[int], ledger: Ledger) -> None:
    first = records[positions[0]].id if positions else ""
    for position in positions[1:]:
        ledger.note("duplicate_prompt", records[position].id, f"asks the same as {first}")


def check_leak(train: Sequence[Record], test: Iterable[Record], ledger: Ledger) -> tuple[Sequence[Record], int]:
    """Find training rows whose prompt is in the test set; return the rows to go on with and how many are left out."""
    held_out: dict[Digest, str] = {}
    for record in test:
        held_out.setdefault(prompt_key(record), record.id)
    kept = []
    for position, record in enumerate(train):
        other = held_out.get(prompt_key(record)) if held_out else None
        if other is None or not ledger.leaves_out(
            "leak", record.id, f"has the prompt of {other}, which is in the test set"
        ):
            kept.append(position)
    return selected(train, kept), len(train) - len(kept)


def longer_side(record: Preference) -> int:
    """1 if the preferred completion has more characters, -1 if fewer, 0 if as many."""
    chosen, rejected = len(words_of(record.chosen)), len(words_of(record.rejected))
    return (chosen > rejected) - (chosen < rejected)


def _named(record: Record) -> Iterator[tuple[str, Text]]:
    if isinstance(record, Preference):
        yield "chosen", record.chosen
        yield "rejected", record.rejected
    elif isinstance(record, Ranking):
        yield from ((f"completions[{at}]", completion) for at, completion in enumerate(record.completions))
    else:
        yield "completion", record.completion


def _is_empty(completion: Text) -> bool:
    if isinstance(completion, str):
        return not completion.strip()
    return any(_says_nothing(turn) for turn in completion if turn["role"] == "assistant")


def _says_nothing(turn: Message) -> bool:
    return not turn["content"].strip() and not turn.get("tool_calls")


def _stripped(text: Text) -> str:
    if isinstance(text, str):
        return text.strip()
    return "\x1e".join(
        f"{turn['role']}\x1f{turn['content'].strip()}\x1f{turn.get('tool_calls') or ''}" for turn in text
    )


def _last_words(prompt: Text) -> str:
    return prompt.strip() if isinstance(prompt, str) else (prompt[-1]["content"].strip() if prompt else "")


def _same_role_twice(text: Text) -> bool:
    if isinstance(text, str):
        return False
    pairs = pairwise(text)
    return any(one["role"] == other["role"] != "tool" for one, other in pairs)


def _digest(said: str) -> Digest:
    return blake2b(said.encode(), digest_size=16).digest()
