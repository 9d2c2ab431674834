"""What calls cost, before they are made and after; a budget stops before it is exceeded."""

from __future__ import annotations

from dataclasses import dataclass, field

_CHARACTERS_PER_TOKEN = 3.0
"""Few enough that an estimate is rather too high."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Prices:
    """Per million tokens, in the user's currency; a local server costs nothing."""

    prompt: float = 0.0
    completion: float = 0.0

    def cost(self, prompt_tokens: float, completion_tokens: float) -> float:
        """Of one call or of many.

        Example:
            >>> Prices(prompt=2.0, completion=10.0).cost(500_000, 100_000)
            2.0
        """
        return (prompt_tokens * self.prompt + completion_tokens * self.completion) / 1e6


def estimated_tokens(text: str) -> int:
    """Tokens of a text by its bytes, rather too many than too few.

    Example:
        >>> estimated_tokens("a" * 300)
        116
    """
    return int(len(text.encode("utf-8", "replace")) / _CHARACTERS_PER_TOKEN) + 16


@dataclass
class SpendingLimit:
    """Money that may be spent; what is in flight counts as if it cost the most it can."""

    limit: float | None = None
    spent: float = 0.0
    reserved: float = field(default=0.0, init=False)

    def reserve(self, cost: float) -> bool:
        """Set money aside for a call; False where the limit could be exceeded.

        Example:
            >>> budget = SpendingLimit(limit=1.0)
            >>> budget.reserve(0.6), budget.reserve(0.6)
            (True, False)
        """
        if self.limit is not None and self.spent + self.reserved + cost > self.limit:
            return False
        self.reserved += cost
        return True

    def settle(self, reserved: float, cost: float) -> None:
        """Book what a call really cost."""
        self.reserved -= reserved
        self.spent += cost
