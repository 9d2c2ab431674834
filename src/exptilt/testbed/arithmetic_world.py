"""A procedural world of sums whose answers a program checks: for rewards that are right or wrong.

A prompt is a sum such as `7 + 5 =`, its answer `1 2`, every digit a word. Demonstrations are wrong on purpose in a known share, so
that a model that imitates them is right about as often as they are, and the rest is there to be learned from a verifier.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from exptilt.data.records import Demonstration, Prompt


@dataclass(frozen=True, kw_only=True)
class ArithmeticWorld:
    """All sums of two numbers up to `largest`, some of them held out.

    Example:
        >>> world = ArithmeticWorld(largest=9)
        >>> train, held_out = world.prompts()
        >>> len(train), len(held_out), train[0].prompt, train[0].answer
        (80, 20, '0 + 0 =', '0')
        >>> world.answer(7, 5)
        '1 2'
    """

    largest: int = 19
    """Largest of the two numbers, >= 1."""
    held_out: float = 0.2
    """Share of the sums that are asked at the end alone, in [0, 1)."""
    seed: int = 0
    """Decides which are held out."""

    @property
    def words(self) -> str:
        """Every word of the world, for a tokenizer."""
        return "0 1 2 3 4 5 6 7 8 9 + ="

    def answer(self, first: int, second: int) -> str:
        """The right answer, a word for each digit."""
        return _spelled(first + second)

    def prompts(self) -> tuple[list[Prompt], list[Prompt]]:
        """Sums to train on, and sums that are held out; each with its answer."""
        every = [
            Prompt(id=f"{a} + {b}", prompt=f"{_spelled(a)} + {_spelled(b)} =", answer=self.answer(a, b))
            for a in range(self.largest + 1)
            for b in range(self.largest + 1)
        ]
        order = np.random.default_rng(self.seed).permutation(len(every))
        asked_later = set(order[: round(self.held_out * len(every))].tolist())
        return (
            [one for at, one in enumerate(every) if at not in asked_later],
            [one for at, one in enumerate(every) if at in asked_later],
        )

    def demonstrations(self, num: int, wrong: float, rng: np.random.Generator) -> list[Demonstration]:
        """Answers to sums of the training part, of which a share `wrong` has one digit replaced by another.

        Args:
            num: how many.
            wrong: share of wrong answers, in [0, 1].
            rng: where the randomness comes from.
        """
        prompts, _ = self.prompts()
        rows = []
        for number in range(num):
            asked = prompts[int(rng.integers(len(prompts)))]
            digits = str(asked.answer).split()
            if rng.random() < wrong:
                place = int(rng.integers(len(digits)))
                digits[place] = str((int(digits[place]) + int(rng.integers(1, 10))) % 10)
            rows.append(Demonstration(id=f"sum {number}", prompt=str(asked.prompt), completion=" " + " ".join(digits)))
        return rows


def _spelled(number: int) -> str:
    return " ".join(str(number))
