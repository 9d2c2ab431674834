"""Examples that are equal once they are rendered, although their rows differ."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from exptilt.data.checks.across_records import unlabelled_key
from exptilt.data.checks.record_checks import stripped
from exptilt.data.encode.tokens import Encoded
from exptilt.data.groups import Completion, Group
from exptilt.data.memory.digests import Digest, Digests, digest_bytes
from exptilt.data.records import Record
from exptilt.data.stage_account import NOTHING, Account, Decisions
from exptilt.labels import Preferred, Ranked


def is_identical_only_rendered(record: Record, encoded: Encoded) -> bool:
    """Tell whether two completions of a row differ in words but have equal tokens."""
    texts = {stripped(completion) for completion in record.completions}
    token_bytes = {_bytes_of(completion) for completion in encoded.completions}
    return len(token_bytes) < len(texts)


@dataclass
class RenderedRows:
    """Digests of examples in the order they came, 32 bytes each."""

    made: Digests = field(default_factory=Digests)
    """Digests of prompt and completions as tokens."""
    said: Digests = field(default_factory=Digests)
    """Digests of prompt and completions in the record's words; rows with equal words were compared before."""

    def add(self, record: Record, group: Group) -> None:
        """Append an example."""
        self.made.add(digest_bytes([group.prompt.tobytes(), *sorted(map(_bytes_of, group.completions))]))
        self.said.add(unlabelled_key(record))

    def __iadd__(self, later: RenderedRows) -> RenderedRows:
        self.made += later.made
        self.said += later.said
        return self

    def settle(self, groups: Sequence[Group], decisions: Decisions) -> Settlement:
        """Decide about examples that are equal as tokens and not as records."""
        left_out: dict[int, str] = {}
        p_chosen: dict[int, float] = {}
        account = NOTHING
        for positions in self.made.repeated():
            by_words: dict[Digest, list[int]] = {}
            for position in positions:
                by_words.setdefault(self.said[position], []).append(position)
            if len(by_words) > 1:
                part = _settle(list(by_words.values()), groups, decisions)
                left_out |= part.left_out
                p_chosen |= part.p_chosen
                account += part.account
        return Settlement(left_out, p_chosen, account)


@dataclass(frozen=True)
class Settlement:
    """The decision about examples that are equal once rendered."""

    left_out: Mapping[int, str]
    """Positions, and the code of the reason."""
    p_chosen: Mapping[int, float]
    """Positions of pairs that stand for several with opposite labels, and the mean of these."""
    account: Account
    """Account of these examples; its `left_out` counts every position."""


def _settle(classes: list[list[int]], groups: Sequence[Group], decisions: Decisions) -> Settlement:
    """Settle examples that are one as tokens; those of a class are one as records too."""
    firsts = [groups[positions[0]] for positions in classes]
    if len({_label(group) for group in firsts}) > 1:
        return _settle_conflict(classes, firsts, decisions)
    account, left_out = NOTHING, dict[int, str]()
    if decisions.leave_out("duplicate"):
        left_out = {at: "duplicate" for positions in classes[1:] for at in positions}
    for group in firsts[1:]:
        account += Account.of("duplicate", group.id, f"repeats {firsts[0].id} once it is rendered")
    return Settlement(left_out, {}, account + Account(left_out=Counter(left_out.values())))


def _settle_conflict(classes: list[list[int]], firsts: Sequence[Group], decisions: Decisions) -> Settlement:
    account = NOTHING
    for group in firsts:
        other = next(candidate for candidate in firsts if _label(candidate) != _label(group))
        account += Account.of("conflict", group.id, f"has the opposite label of {other.id} once it is rendered")
    gone: list[list[int]] = []
    p_chosen: dict[int, float] = {}
    if decisions.on("conflict") == "soft" and isinstance(firsts[0].label, Preferred):
        p_chosen = dict.fromkeys(classes[0], _mean_p_chosen(firsts))
        gone = classes[1:]
    elif decisions.leave_out("conflict"):
        gone = classes
    left_out = {at: "conflict" for positions in gone for at in positions}
    return Settlement(left_out, p_chosen, account + Account(left_out=Counter(left_out.values())))


def _label(group: Group) -> object:
    """The part of a label in which rows of equal tokens can disagree."""
    token_bytes = [_bytes_of(completion) for completion in group.completions]
    if isinstance(group.label, Preferred):
        return None if token_bytes[0] == token_bytes[1] else token_bytes[group.label.best]
    if isinstance(group.label, Ranked):
        return tuple(sorted(zip(token_bytes, group.label.ranks, strict=True)))
    return group.label


def _mean_p_chosen(votes: Sequence[Group]) -> float:
    """The mean probability that the completion chosen in the first row is better."""
    chosen = _bytes_of(votes[0].completions[0])
    shares = [
        vote.label.p_chosen if _bytes_of(vote.completions[0]) == chosen else 1 - vote.label.p_chosen
        for vote in votes
        if isinstance(vote.label, Preferred)
    ]
    return sum(shares) / len(shares)


def _bytes_of(completion: Completion) -> bytes:
    return completion.ids.tobytes() + completion.counted.tobytes()


def settled(groups: Sequence[Group], settlement: Settlement) -> list[Group]:
    """The groups that stay, with their new labels; scores of one vote of several say nothing of them all."""
    return [
        _relabelled(group, settlement.p_chosen[at]) if at in settlement.p_chosen else group
        for at, group in enumerate(groups)
        if at not in settlement.left_out
    ]


def _relabelled(group: Group, p_chosen: float) -> Group:
    completions = tuple(replace(completion, score=None) for completion in group.completions)
    return replace(group, label=Preferred(p_chosen), completions=completions)
