"""Matches of policies as a judge sees them: every comparison asked once, verdicts as columns, numbers of each match."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from exptilt.evaluation.intervals import DEFAULT, Floats, Resampling
from exptilt.evaluation.judged.judgements import Judgements
from exptilt.evaluation.judged.length_controlled import LengthControl, length_controlled_together
from exptilt.evaluation.judged.ratings import Ratings, rate
from exptilt.evaluation.judged.simultaneous import differences, simultaneous
from exptilt.evaluation.judged.win_rate import TOLERATED_UNSCORED, WinRates, by_length_gap, win_rates
from exptilt.evaluation.result import Panel
from exptilt.preferences import Comparison, Judge, Verdict
from exptilt.run_folder.estimate_record import Estimate


@dataclass(frozen=True)
class Match:
    """Two policies on the same prompts."""

    one: str
    other: str
    prompts: Sequence[str]
    """(N,) the prompt's key of each comparison."""
    pairs: Sequence[Comparison]

    @property
    def title(self) -> str:
        """Who meets whom."""
        return f"{self.one} against {self.other}"

    @property
    def equal_answers(self) -> int:
        """Comparisons of two equal answers: ties that nobody is asked about."""
        return sum(pair.answers[0] == pair.answers[1] for pair in self.pairs)


@dataclass(frozen=True, slots=True, kw_only=True)
class MatchNumbers(Panel):
    """What one judge says of one match."""

    rates: WinRates
    length_controlled: LengthControl | None
    """None where more than 5 % of the verdicts are missing, too."""
    by_length_gap: dict[str, Estimate | None]
    equal_answers: int
    doubts: tuple[str, ...]
    """Why these verdicts may say nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgedMatches(Panel):
    """What one judge says of all matches."""

    matches: dict[str, MatchNumbers]
    together: dict[str, Estimate] = field(default_factory=dict)
    """Intervals of the matches that hold at once."""
    pairs: dict[str, Estimate] = field(default_factory=dict)
    """Paired differences of matches, on the prompts that all have."""
    ratings: Ratings | None = None


def judged_matches(
    columns: Mapping[str, Judgements], matches: Sequence[Match], resampling: Resampling
) -> JudgedMatches:
    """All numbers of one judge.

    Args:
        columns: its verdicts by match, see `verdict_columns`.
        matches: the matches.
        resampling: bootstrap over prompts.
    """
    shown = {name: asked for name, asked in columns.items() if asked.share_unscored <= TOLERATED_UNSCORED}
    numbers = numbers_of(columns, matches, resampling)
    names, table = prompt_means(shown)
    if len(names) < 2 or len(table) < 2:
        return JudgedMatches(matches=numbers, ratings=_rated(matches, shown, resampling))
    pairs = differences(table, range(len(table)), resampling)
    return JudgedMatches(
        matches=numbers,
        together=dict(zip(names, simultaneous(table, resampling), strict=True)),
        pairs={f"{names[i]} minus {names[j]}": gap for (i, j), gap in pairs.items()},
        ratings=_rated(matches, shown, resampling),
    )


def numbers_of(
    columns: Mapping[str, Judgements], matches: Sequence[Match], resampling: Resampling = DEFAULT
) -> dict[str, MatchNumbers]:
    """The numbers of each match by itself."""
    equal = {match.title: match.equal_answers for match in matches}
    controlled = length_controlled_together({name: j for name, j in columns.items() if j.scored.any()}, resampling)
    found = {}
    for name, asked in columns.items():
        hidden = asked.share_unscored > TOLERATED_UNSCORED
        found[name] = MatchNumbers(
            rates=win_rates(asked, resampling),
            length_controlled=None if hidden else controlled.get(name),
            by_length_gap={} if hidden else dict(by_length_gap(asked, resampling=resampling)),
            equal_answers=equal[name],
            doubts=doubts(asked, equal[name]),
        )
    return found


_FEW = 10
_ALWAYS = 0.95


def doubts(asked: Judgements, equal_answers: int = 0) -> tuple[str, ...]:
    """Why verdicts may say nothing about the answers: a judge that always ties, or always takes one slot.

    Args:
        asked: the verdicts.
        equal_answers: comparisons of equal answers, whose ties (one in each order) are not the judge's.

    Example:
        >>> first = np.tile([True, False], 20)
        >>> doubts(Judgements(np.arange(40) // 2, first.astype(float), first))
        ('prefers the answer shown first in 100 % of its choices: its win rates say nothing',)
    """
    wins, first = np.asarray(asked.wins), np.asarray(asked.shown_first)
    choices = asked.scored & (wins != 0.5)
    asked_about = int(asked.scored.sum()) - 2 * equal_answers
    if asked_about < _FEW:
        return ()
    ties = 1 - choices.sum() / asked_about
    if ties >= _ALWAYS:
        return (f"calls {100 * ties:.0f} % of its comparisons a tie: its win rates say nothing",)
    if not (first[choices].any() and (~first[choices]).any()):
        return ()
    took_first = np.where(first, wins > 0.5, wins < 0.5)
    by_slot = [float(took_first[choices & slot].mean()) for slot in (first, ~first)]
    for slot, share in (("first", min(by_slot)), ("second", 1 - max(by_slot))):
        if share >= _ALWAYS:
            return (
                f"prefers the answer shown {slot} in {100 * share:.0f} % of its choices: its win rates say nothing",
            )
    return ()


def verdict_columns(judge: Judge, matches: Sequence[Match]) -> dict[str, Judgements]:
    """Ask a judge about all matches, each comparison once, and give its verdicts by match."""
    answers = ask_each_once(judge, [pair for match in matches for pair in match.pairs])
    index = {key: number for number, key in enumerate(dict.fromkeys(key for match in matches for key in match.prompts))}
    return {match.title: _judgements(match, answers, index) for match in matches}


def ask_each_once(judge: Judge, pairs: Iterable[Comparison]) -> dict[str, list[tuple[float, bool]]]:
    """Verdicts by comparison, as (share for the smaller of the two sorted answers, whether it was shown first).

    A comparison that occurs twice is asked once; two equal answers are a tie and are not asked about. A comparison that a
    judge says nothing of is unscored in both orders.
    """
    unique = {pair.id: pair for pair in pairs}
    found: dict[str, list[tuple[float, bool]]] = defaultdict(list)
    for pair in unique.values():
        if pair.answers[0] == pair.answers[1]:
            found[pair.id] += [(0.5, True), (0.5, False)]
    different = [pair for pair in unique.values() if pair.answers[0] != pair.answers[1]]
    for verdict in judge(different):
        pair = unique[verdict.comparison]
        smaller = 0 if pair.answers[0] < pair.answers[1] else 1
        found[pair.id].append((_share(verdict, smaller), verdict.order[0] == smaller))
    for pair in different:
        if pair.id not in found:
            found[pair.id] = [(float("nan"), True), (float("nan"), False)]
    return found


def prompt_means(columns: Mapping[str, Judgements]) -> tuple[list[str], Floats]:
    """Names of P matches, and (C, P) mean wins on the prompts that all of them have a verdict on."""
    if not columns:
        return [], np.zeros((0, 0))
    count = 1 + max(int(np.max(asked.prompts)) for asked in columns.values())
    table = np.stack([_means(asked, count) for asked in columns.values()], axis=1)
    return list(columns), table[~np.isnan(table).any(axis=1)]


def _means(asked: Judgements, count: int) -> Floats:
    rows, prompts = asked.scored, np.asarray(asked.prompts)
    number = np.bincount(prompts[rows], minlength=count).astype(np.float64)
    wins = np.bincount(prompts[rows], np.asarray(asked.wins)[rows], minlength=count).astype(np.float64)
    return np.divide(wins, number, out=np.full_like(wins, np.nan), where=number > 0)


def _share(verdict: Verdict, position: int) -> float:
    """How far a verdict is for the answer at a position; NaN where it says nothing."""
    if verdict.outcome in ("unscored", "skip"):
        return float("nan")
    if verdict.outcome in ("tie", "both_bad"):
        return 0.5
    if verdict.probability is not None:
        return verdict.probability if verdict.order[0] == position else 1 - verdict.probability
    return float(verdict.winner == position)


def _judgements(match: Match, answers: Mapping[str, list[tuple[float, bool]]], index: Mapping[str, int]) -> Judgements:
    rows: list[tuple[str, float, bool, float]] = []
    for key, pair in zip(match.prompts, match.pairs, strict=True):
        mine_is_smaller = pair.answers[0] <= pair.answers[1]
        gap = float(len(pair.answers[0]) - len(pair.answers[1]))
        for share, smaller_first in answers[pair.id]:
            rows.append((key, share if mine_is_smaller else 1 - share, smaller_first == mine_is_smaller, gap))
    prompts, wins, first, gaps = zip(*rows, strict=True)
    return Judgements([index[key] for key in prompts], np.array(wins), np.array(first), np.array(gaps))


def _rated(matches: Sequence[Match], columns: Mapping[str, Judgements], resampling: Resampling) -> Ratings | None:
    names = list(dict.fromkeys(name for match in matches for name in (match.one, match.other)))
    if len(names) < 3:
        return None
    first, second, wins, prompts = [], [], [], []
    for match in matches:
        asked = columns.get(match.title)
        if asked is None:
            continue
        one, other = names.index(match.one), names.index(match.other)
        shown = np.asarray(asked.shown_first)
        first += np.where(shown, one, other).tolist()
        second += np.where(shown, other, one).tolist()
        wins += np.where(shown, asked.wins, 1 - np.asarray(asked.wins)).tolist()
        prompts += np.asarray(asked.prompts).tolist()
    return rate(names, first, second, wins, prompts, resampling) if np.isfinite(wins).any() else None
