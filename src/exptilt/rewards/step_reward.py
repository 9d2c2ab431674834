"""Process rewards: a completion in steps, each with a number, aggregated by a stated rule."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from exptilt.data.step_scores import aggregated
from exptilt.errors import DataError
from exptilt.preferences import Answer, Reward
from exptilt.rewards.scored_answers import rewards_of
from exptilt.settings.reward_settings import StepsConfig
from exptilt.wording import did_you_mean

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class StepReward:
    """One number for each step of a completion, aggregated.

        r(x, y) = rule_k r_k,   r_k = the column's k-th number, or r(x, y_1 ... y_k) by a reward

    A completion is unscored where one of its steps is, where it has no step, and where its row has no such column.

    Example:
        >>> reward = StepReward(StepsConfig(rule="product", column="labels"), None)
        >>> reward([Answer(prompt="", text="a b", columns={"labels": [1, 0.5]})]).tolist()
        [0.5]
    """

    settings: StepsConfig
    reward: Reward | None
    """Scores beginnings of the completion; None where a column says how good steps are."""

    @property
    def name(self) -> str:
        """The rule and what it aggregates."""
        return f"{self.settings.rule} over steps of {self._source}"

    @property
    def identity(self) -> str:
        """The rule, and the column or the reward with the separator."""
        inner = self._source if self.reward is None else f"({self.reward.identity}) by {self.settings.separator!r}"
        return f"{self.settings.rule} over steps of {inner}"

    @property
    def scale(self) -> str:
        """The rule, and the scale of a step."""
        return f"{self.settings.rule} of {'step scores' if self.reward is None else self.reward.scale}"

    @property
    def _source(self) -> str:
        return f"column {self.settings.column}" if self.reward is None else self.reward.name

    def __call__(self, answers: Sequence[Answer]) -> Floats:
        """(N,) aggregated numbers.

        Raises:
            DataError: no row has the column, what it holds are no numbers, or a product is asked of numbers outside [0, 1].
        """
        steps = self._by_column(answers) if self.reward is None else self._by_reward(self.reward, answers)
        return np.array([self._aggregated(each) for each in steps], dtype=np.float64)

    def close(self) -> None:
        """End what the reward keeps running."""
        if self.reward is not None and hasattr(self.reward, "close"):
            self.reward.close()

    def _by_column(self, answers: Sequence[Answer]) -> list[Floats]:
        column = str(self.settings.column)
        if answers and all(answer.columns.get(column) is None for answer in answers):
            known = did_you_mean(column, sorted(answers[0].columns))
            raise DataError(f"reward {self.name}: no row has the column {column!r}{known}")
        each = []
        for number, answer in enumerate(answers, start=1):
            try:
                each.append(np.atleast_1d(np.asarray(answer.columns.get(column, []), dtype=np.float64)))
            except (TypeError, ValueError):
                raise DataError(f"reward {self.name}: answer {number}: {column!r} must be a list of numbers") from None
        return each

    def _by_reward(self, reward: Reward, answers: Sequence[Answer]) -> list[Floats]:
        beginnings = [list(_beginnings(answer, self.settings.separator)) for answer in answers]
        values = rewards_of(reward, [one for each in beginnings for one in each])
        return np.split(values, np.cumsum([len(each) for each in beginnings])[:-1]) if answers else []

    def _aggregated(self, steps: Floats) -> float:
        try:
            return aggregated(steps.tolist(), self.settings.rule)
        except ValueError as error:
            raise DataError(f"reward {self.name}: {error}") from None


def _beginnings(answer: Answer, separator: str) -> list[Answer]:
    """The completion up to the end of each step; token ids belong to the whole alone."""
    ends, begin = [], 0
    while begin <= len(answer.text):
        at = answer.text.find(separator, begin)
        end = len(answer.text) if at < 0 else at
        if answer.text[begin:end].strip():
            ends.append(end)
        begin = end + len(separator)
    return [replace(answer, text=answer.text[:end], messages=None, ids=None) for end in ends]
