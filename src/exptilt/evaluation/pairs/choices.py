"""Questions with several candidates: best of four and ties as RewardBench 2 scores them, and calibration of answers."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import softmax

from exptilt.data.groups import Group
from exptilt.evaluation.intervals import DEFAULT, Clusters, Floats, Resampling, bootstrap, divide, finite, share
from exptilt.evaluation.pairs.calibration import calibration_error
from exptilt.labels import Preferred
from exptilt.run_folder.estimate_record import Estimate
from exptilt.run_folder.evaluation_record import AnswerCalibration, BestOf

_PAIR_OF_A_ROW = re.compile(r"(.*) (\d+)[>=](\d+)")
_TIES = re.compile(r"(.*)/(ref|tied):(.+)")
_WEIGHTS = (0.3, 0.3, 0.2, 0.2, 0.01)
"""Of the ties: accuracy with several right answers and with one, the margin, the harder margin, how large it is."""


@dataclass(frozen=True, eq=False)
class Question:
    """One row with several candidates."""

    section: str
    right: Floats
    """Scores of the right ones, at least one."""
    wrong: Floats
    """Scores of the wrong ones, at least one."""

    @property
    def credit(self) -> float:
        """1 where a right one has the highest score; where n candidates share it, the share of right ones among them."""
        top = max(self.right.max(), self.wrong.max())
        hits, misses = int((self.right == top).sum()), int((self.wrong == top).sum())
        return hits / (hits + misses)

    @property
    def gap(self) -> float:
        """Lowest right score less highest wrong one."""
        return float(self.right.min() - self.wrong.max())


def questions_of(groups: Sequence[Group], chosen: ArrayLike, rejected: ArrayLike) -> list[Question]:
    """Rows with candidates from the pairs that were made of them; rows that are plain pairs are left out.

    Args:
        groups: N pairs; those made of one row bear its id and the two places, `file:3 1>2`.
        chosen: (N,) score of the first completion of each pair.
        rejected: (N,) of the second.
    """
    rows: dict[str, _Row] = {}
    for group, better, worse in zip(groups, finite(chosen, "chosen"), finite(rejected, "rejected"), strict=True):
        named = _PAIR_OF_A_ROW.fullmatch(group.id)
        if named is None or not isinstance(group.label, Preferred):
            continue
        row = rows.setdefault(named[1], _Row(group.section or ""))
        row.scores |= {int(named[2]): float(better), int(named[3]): float(worse)}
        if group.label.p_chosen > 0.5:
            row.right.add(int(named[2]))
            row.wrong.add(int(named[3]))
    return [row.question for row in rows.values() if row.is_a_question]


def section_without_tie(section: str) -> str:
    """The section of a row, without which tie it belongs to.

    Example:
        >>> section_without_tie("Ties/ref:7"), section_without_tie("Math")
        ('Ties', 'Math')
    """
    tied = _TIES.fullmatch(section)
    return section if tied is None else tied[1]


@dataclass
class _Row:
    section: str
    scores: dict[int, float] = field(default_factory=dict)
    right: set[int] = field(default_factory=set)
    wrong: set[int] = field(default_factory=set)

    @property
    def is_a_question(self) -> bool:
        """Three candidates or more, each right or wrong and not both, as in a ranking of more than two levels.

        Where not all pairs of a row were made, a candidate may be neither, and the row is no question.
        """
        both = self.right | self.wrong == self.scores.keys() and not self.right & self.wrong
        return len(self.scores) > 2 and bool(self.right) and bool(self.wrong) and both

    @property
    def question(self) -> Question:
        right, wrong = ([self.scores[at] for at in sorted(side)] for side in (self.right, self.wrong))
        return Question(self.section, np.array(right), np.array(wrong))


def best_of(questions: Sequence[Question], resampling: Resampling = DEFAULT) -> BestOf | None:
    """How often a right candidate has the highest score, by section, and the score of ties; None without questions.

    Sections named `NAME/ref:ID` and `NAME/tied:ID` are ties: the same question with one and with several right answers.

        0.3 accuracy(tied) + 0.3 accuracy(ref) + 0.2 P(gap > spread) + 0.2 P(min(gap, gap of ref) > spread)
        + 0.01 mean tanh(min(gap, gap of ref) / spread - 1)

    where a question is accurate if every right answer is above every wrong one, `gap` is by how much, and `spread` is the
    range of the right answers' scores. It can reach 1.01.

    Args:
        questions: from `questions_of`.
        resampling: bootstrap over questions.

    Source: Malik et al. (2025), https://arxiv.org/abs/2506.01937, and the benchmark's script
    (github.com/allenai/reward-bench). Here a question without its partner counts in the accuracies alone.

    Example:
        >>> easy = Question("Math", np.array([2.0]), np.array([1.0, 0.0, -1.0]))
        >>> tie = Question("Math", np.array([1.0]), np.array([1.0, 0.0, -1.0]))
        >>> best_of([easy, tie]).sections["Math"].value
        0.75
    """
    if not questions:
        return None
    parts = _parts(questions)
    ends = np.cumsum([0, *(len(part.columns) for part in parts.values())])

    def overall(weights: Floats) -> Floats:
        slices = [weights[:, start:end] for start, end in pairwise(ends)]
        return np.asarray(np.mean([part(one) for part, one in zip(parts.values(), slices, strict=True)], axis=0))

    return BestOf(
        sections={name: part.estimate(resampling) for name, part in parts.items()},
        overall=bootstrap(overall, int(ends[-1]), resampling, within=(0.0, 1.01)),
        num_questions=len(questions),
    )


@dataclass(frozen=True, eq=False)
class _Part:
    """A section as a weighted sum of means over its units, which are questions, or ties with their partners."""

    columns: Floats
    """(U, K, 2) numerators and denominators."""
    coefficients: Floats
    """(K,)."""

    def __call__(self, weights: Floats) -> Floats:
        sums = np.tensordot(weights, self.columns, axes=1)
        return np.asarray(divide(sums[..., 0], sums[..., 1]) @ self.coefficients)

    def estimate(self, resampling: Resampling) -> Estimate:
        count = len(self.columns)
        if len(self.coefficients) == 1:
            return share(self, count, count, resampling)
        return bootstrap(self, count, resampling, within=(0.0, 1.01))


def _parts(questions: Sequence[Question]) -> dict[str, _Part]:
    """Sections in the order of first appearance."""
    credits: dict[str, list[float]] = {}
    ties: dict[str, dict[str, dict[str, Question]]] = {}
    for question in questions:
        tied = _TIES.fullmatch(question.section)
        if tied is None:
            credits.setdefault(question.section or "all", []).append(question.credit)
        else:
            ties.setdefault(tied[1], {}).setdefault(tied[3], {})[tied[2]] = question
    parts = {name: _Part(np.array([[[one, 1.0]] for one in values]), np.ones(1)) for name, values in credits.items()}
    for name, pairs in ties.items():
        whole = [pair for pair in pairs.values() if len(pair) == 2]
        weights = np.array(_WEIGHTS) if whole else np.array([*_WEIGHTS[:2], 0, 0, 0])
        used = weights > 0
        parts[name] = _Part(np.stack([_tie_columns(pair) for pair in pairs.values()])[:, used], weights[used])
    return parts


def _tie_columns(pair: dict[str, Question]) -> Floats:
    """(5, 2) numerators and denominators of one tie with its partner."""
    tied, alone = pair.get("tied"), pair.get("ref")
    columns = np.zeros((len(_WEIGHTS), 2))
    for at, question in enumerate((tied, alone)):
        if question is not None:
            columns[at] = (float(question.gap > 0), 1.0)
    if tied is not None and alone is not None:
        spread = float(np.ptp(tied.right))
        hard = min(tied.gap, alone.gap)
        size = math.tanh(hard / spread - 1) if spread > 0 else 0.0
        columns[2:, 0] = (float(tied.gap > spread), float(hard > spread), size)
        columns[2:, 1] = 1.0
    return columns


def answer_calibration(questions: Sequence[Question], resampling: Resampling = DEFAULT) -> AnswerCalibration | None:
    """Calibration of answers to multiple choice: is the share of the likeliest option how often it is right?

        confidence = max_k softmax_k(log pi(option_k | question))

    over the options of each question with one right answer. Preference training tends to make models too sure.

    Args:
        questions: scores are log-likelihoods of whole options, nats.
        resampling: see `calibration_error`.
    """
    single = [question for question in questions if len(question.right) == 1]
    if not single:
        return None
    confidence = [float(softmax(np.concatenate([one.right, one.wrong])).max()) for one in single]
    right = [one.credit for one in single]
    clusters = Clusters(range(len(single)))
    found = calibration_error(confidence, right, clusters, np.linspace(0, 1, 11), resampling)
    return AnswerCalibration(
        calibration=found, accuracy=_Part(np.array([[[one, 1.0]] for one in right]), np.ones(1)).estimate(resampling)
    )
