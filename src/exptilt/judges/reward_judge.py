"""Any reward as a judge: the higher one is better."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from exptilt.errors import DataError
from exptilt.judges.yardsticks import by_scores
from exptilt.preferences import Answer, Comparison, Reward, Verdict

_AT_ONCE = 256


@dataclass(frozen=True)
class RewardJudge:
    """Compares answers by a reward; equal rewards are a tie, and an unscored answer is an unscored verdict.

    Example:
        >>> class Brevity:
        ...     name, identity, scale = "brevity", "brevity", "minus characters"
        ...
        ...     def __call__(self, answers):
        ...         return -np.array([len(answer.text) for answer in answers], dtype=float)
        >>> import numpy as np
        >>> [verdict.winner for verdict in RewardJudge(Brevity())([Comparison("p", ("long", "x"))])]
        [1, 1]
    """

    reward: Reward

    @property
    def name(self) -> str:
        """The reward's."""
        return self.reward.name

    @property
    def identity(self) -> str:
        """The reward's."""
        return f"reward: {self.reward.identity}"

    def __call__(self, comparisons: Iterable[Comparison]) -> Iterator[Verdict]:
        """Verdicts in both orders."""
        waiting = list(comparisons)
        for start in range(0, len(waiting), _AT_ONCE):
            block = waiting[start : start + _AT_ONCE]
            answers = [Answer(prompt=one.prompt, text=text) for one in block for text in one.answers]
            scores = [float(score) for score in self.reward(answers)]
            if len(scores) != len(answers):
                raise DataError(f"reward {self.name}: gave {len(scores)} numbers for {len(answers)} answers")
            for index, comparison in enumerate(block):
                yield from by_scores(comparison, (scores[2 * index], scores[2 * index + 1]))
