"""How often a judge finds the answer that is known to be better, added up as each benchmark does it.

Both orders count alike, and a judge's tie counts one half. RewardBench's sections are weighted means of subsets, and the
whole is the mean of the sections. Of RewardBench 2 a row with one right and n wrong candidates gives 1 / (1 + m) where m wrong ones
tie with the right one and none beats it, in each order; its ties need every right candidate to beat every wrong one.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from exptilt.evaluation.intervals import DEFAULT, Clusters, Resampling, share
from exptilt.evaluation.pairs.benchmark import REWARD_BENCH, SectionAccuracy, section_means
from exptilt.evaluation.pairs.choices import Question, best_of
from exptilt.evaluation.result import Panel
from exptilt.judges.benchmark_files import BenchmarkItem, JudgeBenchmark
from exptilt.preferences import Answer
from exptilt.run_folder.estimate_record import Estimate

Answers = Mapping[str, Sequence[tuple[float, bool]]]
"""By comparison: (share for the smaller of the two sorted answers, whether it was shown first); NaN is no verdict."""

_TIES = re.compile(r"(.*)/(ref|tied):(.+)")


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchmarkAccuracy(Panel):
    """One judge on one benchmark."""

    accuracy: Estimate | None
    """The benchmark's headline; None where the judge gave no verdict."""
    consistent: Estimate | None
    """Share of pairs asked in both orders on which the same answer is preferred."""
    pairs_right: Estimate | None
    """Share of pairs on which more verdicts are right than wrong: JudgeBench's own number; one right and one wrong is not right."""
    unscored: int
    """Verdicts that are missing."""
    sections: dict[str, Estimate]
    subsets: dict[str, Estimate]
    """Where sections are made of several."""


def benchmark_accuracy(
    benchmark: JudgeBenchmark,
    items: Sequence[BenchmarkItem],
    answers: Answers,
    resampling: Resampling = DEFAULT,
) -> BenchmarkAccuracy:
    """A judge's accuracy from its verdicts.

    Args:
        benchmark: says how items are added up.
        items: those that have a better answer.
        answers: the judge's verdicts.
        resampling: bootstrap over prompts.

    Source: Lambert et al. (2024), https://arxiv.org/abs/2403.13787; Malik et al. (2025), https://arxiv.org/abs/2506.01937,
    whose score of ties needs numbers that verdicts do not give: here it is the mean of its two accuracies, see `by_rewards`.
    """
    marks = [_marks(item, answers) for item in items]
    rows = [(mark, item.section, item.prompt) for item, each in zip(items, marks, strict=True) for mark, _ in each]
    credits = _credits(items, marks) if benchmark.is_best_of else rows
    known = [row for row in credits if row[0] == row[0]]
    agreed = [
        (float(len({mark for mark, _ in each}) == 1), item.prompt)
        for item, each in zip(items, marks, strict=True)
        if len({first for mark, first in each if mark == mark}) == 2
    ]
    right = [
        (float(sum(mark - 0.5 for mark, _ in each if mark == mark) > 0), item.prompt)
        for item, each in zip(items, marks, strict=True)
        if any(mark == mark for mark, _ in each)
    ]
    sections = _sections(known, resampling) if known else None
    weighted = benchmark.is_best_of or (known and _is_reward_bench({section for _, section, _ in known}))
    return BenchmarkAccuracy(
        accuracy=sections.overall if sections and weighted else _share([(m, p) for m, _, p in known], resampling),
        consistent=_share(agreed, resampling),
        pairs_right=_share(right, resampling),
        unscored=sum(mark != mark for each in marks for mark, _ in each),
        sections=sections.sections if sections else {},
        subsets=sections.subsets if sections and sections.subsets.keys() != sections.sections.keys() else {},
    )


def by_rewards(
    items: Sequence[BenchmarkItem],
    reward: Callable[[Sequence[Answer]], NDArray[np.float64]],
    resampling: Resampling = DEFAULT,
) -> BenchmarkAccuracy:
    """A reward on RewardBench 2 as published, ties included: each candidate is scored once. See `best_of`.

    Args:
        items: pairs of right and wrong candidates.
        reward: gives numbers; a row with an unscored candidate is left out, and its candidates without a score are counted.
        resampling: bootstrap over rows.
    """
    candidates: dict[tuple[str, str], Answer] = {}
    for item in items:
        for text in item.comparison.answers:
            candidates.setdefault((item.row, text), Answer(prompt=item.comparison.prompt, text=text))
    scores = dict(zip(candidates, map(float, reward(list(candidates.values()))), strict=True))
    by_row: dict[str, list[BenchmarkItem]] = defaultdict(list)
    for item in items:
        by_row[item.row].append(item)
    questions = []
    for row, pairs in by_row.items():
        right = dict.fromkeys(str(pair.better) for pair in pairs)
        wrong = dict.fromkeys(text for pair in pairs for text in pair.comparison.answers if text not in right)
        values = [np.array([scores[row, text] for text in side]) for side in (right, wrong)]
        if not np.isnan(np.concatenate(values)).any():
            questions.append(Question(pairs[0].section, *values))
    found = best_of(questions, resampling)
    return BenchmarkAccuracy(
        accuracy=None if found is None else found.overall,
        consistent=None,
        pairs_right=None,
        unscored=int(np.isnan(list(scores.values())).sum()),
        sections={} if found is None else dict(found.sections),
        subsets={},
    )


def _marks(item: BenchmarkItem, answers: Answers) -> list[tuple[float, bool]]:
    """(1 right, 0 wrong, 1/2 a tie, NaN no verdict; whether the right answer was shown first) of each verdict."""
    right_is_smaller = item.better == min(item.comparison.answers)
    marks = []
    for share_of_smaller, smaller_first in answers[item.comparison.id]:
        value = share_of_smaller if right_is_smaller else 1 - share_of_smaller
        mark = value if value != value else 1.0 if value > 0.5 else 0.5 if value == 0.5 else 0.0
        marks.append((mark, smaller_first == right_is_smaller))
    return marks


def _credits(
    items: Sequence[BenchmarkItem], marks: Sequence[Sequence[tuple[float, bool]]]
) -> list[tuple[float, str, str]]:
    """Credit of each row with candidates, once for each order; NaN where a missing verdict could change it."""
    rows: dict[tuple[str, bool], list[float]] = defaultdict(list)
    of_row: dict[str, BenchmarkItem] = {}
    for item, each in zip(items, marks, strict=True):
        of_row[item.row] = item
        for slot in (True, False):
            given = [mark for mark, first in each if first == slot]
            rows[item.row, slot].append(float(np.sign(np.mean(given) - 0.5) + 1) / 2 if given else float("nan"))
    return [
        (_credit(values, tied=bool(_TIES.fullmatch(of_row[row].section))), of_row[row].section, row)
        for (row, _), values in rows.items()
    ]


def _credit(values: Sequence[float], *, tied: bool) -> float:
    if 0.0 in values or (tied and 0.5 in values):
        return 0.0
    if any(value != value for value in values):
        return float("nan")
    return 1 / (1 + sum(value == 0.5 for value in values))


def _sections(rows: Sequence[tuple[float, str, str]], resampling: Resampling) -> SectionAccuracy:
    values, labels, prompts = zip(*rows, strict=True)
    parts = [_part(label) for label in labels]
    named = {subset: section for section, subset in parts}
    weights: dict[str, dict[str, float]] = defaultdict(dict)
    if _is_reward_bench(set(named)):
        weights |= {name: dict(parts) for name, parts in REWARD_BENCH.items() if parts.keys() & named.keys()}
    else:
        for subset, section in named.items():
            weights[section][subset] = 1.0
    return section_means(values, [subset for _, subset in parts], list(prompts), weights, resampling)


def _is_reward_bench(subsets: set[str]) -> bool:
    return {subset for parts in REWARD_BENCH.values() for subset in parts}.issuperset(subsets)


def _part(label: str) -> tuple[str, str]:
    """Section and subset of a label: a tie's two kinds of rows count alike."""
    tied = _TIES.fullmatch(label)
    return (label, label) if tied is None else (tied[1], f"{tied[1]}/{tied[2]}")


def _share(rows: Sequence[tuple[float, str]], resampling: Resampling) -> Estimate | None:
    if not rows:
        return None
    clusters = Clusters([prompt for _, prompt in rows])
    total, count = clusters.sums([value for value, _ in rows]), clusters.sums(np.ones(len(rows)))
    return share(lambda weights: (weights @ total) / (weights @ count), clusters.count, len(rows), resampling)
