"""Labels: what people, or a source, say about the completions of one row. Never imports torch.

A label belongs to the row as a whole. A number that belongs to one completion, such as a score or a reward, is not a
label: it is stored with that completion (`exptilt.data.groups.Completion.score`).
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Preferred:
    """Of two completions, chosen and rejected in this order, the first is better with probability `p_chosen`.

    Example:
        >>> Preferred(p_chosen=0.3).best, Preferred().best
        (1, 0)
    """

    p_chosen: float = 1.0
    """In [0, 1]; 0.5 is a tie."""
    margin: float | None = None
    """By how much `chosen` is better on the source's own scale, if the source says so."""

    @property
    def best(self) -> int:
        """Position of the completion that is likelier to be better; `chosen` in a tie."""
        return 0 if self.p_chosen >= 0.5 else 1


@dataclass(frozen=True, slots=True)
class Ranked:
    """Of K completions each has a rank.

    Example:
        >>> Ranked((3, 1, 1)).best
        1
    """

    ranks: tuple[int, ...]
    """(K,) 1 is best, equal ranks are ties."""

    @property
    def best(self) -> int:
        """Position of the completion with the lowest rank, the first of them in a tie."""
        return min(range(len(self.ranks)), key=self.ranks.__getitem__)


@dataclass(frozen=True, slots=True)
class Desirable:
    """The only completion is wanted or unwanted.

    Example:
        >>> Desirable(True).best, Desirable(False).best
        (0, None)
    """

    desirable: bool

    @property
    def best(self) -> int | None:
        """0 where the completion is desirable; None where no completion is worth imitating."""
        return 0 if self.desirable else None


Label = Preferred | Ranked | Desirable
"""What a row can be labelled with. A row without a label holds completions to imitate, or samples."""
