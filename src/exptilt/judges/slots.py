"""Which answer is shown first and what the two are called: drawn by a hash, so that a resumed run asks the same requests.

Labels are drawn for each request from letters that mean nothing, since "A" and "B" invite a habit, and a fixed label can be
written into an answer by whoever wants to be chosen.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from exptilt.preferences import Comparison
from exptilt.votes.vote_records import canonical_order

_LETTERS = "BCDFGHJKLMNPQRSTVWXZ"


@dataclass(frozen=True, slots=True)
class AskedPair:
    """One request: a comparison in one order, for the n-th time."""

    comparison: Comparison
    """With its answers sorted, so that A against B and B against A are one request."""
    order: tuple[int, int]
    replicate: int
    labels: tuple[str, str]
    """Of the answer shown first, and of the other."""

    @property
    def first(self) -> str:
        """The answer shown first."""
        return self.comparison.answers[self.order[0]]

    @property
    def second(self) -> str:
        """The answer shown second."""
        return self.comparison.answers[self.order[1]]


def asked(comparison: Comparison, order: tuple[int, int], replicate: int, seed: int) -> AskedPair:
    """The request of a comparison, in an order of its *sorted* answers.

    Example:
        >>> question = Comparison("2 + 2?", ("5", "4"))
        >>> once = asked(question, (0, 1), 0, seed=0)
        >>> once.first, once == asked(Comparison("2 + 2?", ("4", "5")), (0, 1), 0, seed=0), len(set(once.labels))
        ('4', True, 2)
    """
    if len(comparison.answers) != 2:
        raise ValueError(f"a pairwise judge compares two answers, got {len(comparison.answers)}")
    ordered = Comparison(comparison.prompt, tuple(sorted(comparison.answers)))
    digest = hashlib.sha256(f"{ordered.id} {order} {replicate} {seed}".encode()).digest()
    one = digest[0] % len(_LETTERS)
    other = (one + 1 + digest[1] % (len(_LETTERS) - 1)) % len(_LETTERS)
    return AskedPair(ordered, order, replicate, (_LETTERS[one], _LETTERS[other]))


def in_callers_order(comparison: Comparison, order: tuple[int, int]) -> tuple[int, ...]:
    """An order of sorted answers, in the positions the caller's comparison has them in.

    Example:
        >>> in_callers_order(Comparison("2 + 2?", ("5", "4")), (0, 1))
        (1, 0)
    """
    position = {rank: index for index, rank in enumerate(canonical_order(comparison))}
    return tuple(position[rank] for rank in order)


BOTH_ORDERS: tuple[tuple[int, int], tuple[int, int]] = ((0, 1), (1, 0))
