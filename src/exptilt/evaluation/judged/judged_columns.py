"""A judge's verdicts as the record of judged.json: cells, the best temperature of each policy, paired gaps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from exptilt.evaluation.intervals import DEFAULT, Resampling, paired_difference
from exptilt.evaluation.judged.judgements import Judgements
from exptilt.evaluation.judged.matches import Match, MatchNumbers, numbers_of, prompt_means
from exptilt.evaluation.judged.self_preference import Kinship
from exptilt.evaluation.judged.simultaneous import best_on_dev_half, optimism_of_the_maximum, simultaneous
from exptilt.evaluation.judged.win_rate import TOLERATED_UNSCORED
from exptilt.judges.yardsticks import YARDSTICKS
from exptilt.preferences import Judge
from exptilt.run_folder.estimate_record import Estimate
from exptilt.run_folder.judged_record import BestTemperature, JudgeColumn, Judged, JudgedCell, JudgedGap, KinNote

_FEWEST = 4
"""Prompts that two halves need."""


@dataclass(frozen=True)
class Place:
    """Where a match stands in a grid."""

    policy: str
    data: str = ""
    temperature: float | None = None
    step: int | None = None
    final: bool = True
    """False for a checkpoint on the way."""
    kl: Estimate | None = None


@dataclass(frozen=True)
class PlacedMatch:
    """A match of a grid."""

    place: Place
    match: Match


def by_policy_alone(
    columns: Mapping[str, Mapping[str, Judgements]], placed: Sequence[PlacedMatch]
) -> tuple[dict[str, dict[str, Judgements]], list[Match]]:
    """Verdicts and matches of policies, whatever the temperature, the step and the data set: all cells of one as one match."""
    cells: dict[tuple[str, str], list[Match]] = {}
    for one in placed:
        cells.setdefault((one.place.policy, one.match.other), []).append(one.match)
    matches = [
        Match(
            policy,
            other,
            [key for part in parts for key in part.prompts],
            [pair for part in parts for pair in part.pairs],
        )
        for (policy, other), parts in cells.items()
    ]
    together = {
        judge: {
            whole.title: Judgements.joined([of_judge[part.title] for part in parts])
            for whole, parts in zip(matches, cells.values(), strict=True)
        }
        for judge, of_judge in columns.items()
    }
    return together, matches


def judged_record(
    title: str,
    judges: Mapping[str, Judge],
    columns: Mapping[str, Mapping[str, Judgements]],
    placed: Sequence[PlacedMatch],
    kin: Sequence[Kinship],
    resampling: Resampling = DEFAULT,
    command: str | None = None,
) -> Judged:
    """judged.json of verdicts by judge and match."""
    notes = {label: [note for note in kin if note.judge == label] for label in judges}
    return Judged(
        title=title,
        judges=tuple(
            JudgeColumn(
                name=label,
                identity=one.identity,
                is_yardstick=one.name in YARDSTICKS,
                cells=judged_cells(columns[label], placed, resampling),
                best=best_temperatures(columns[label], placed, resampling),
                gaps=policy_gaps(columns[label], placed, resampling),
                kin=tuple(
                    KinNote(title=note.match, base=note.base, more_than_others=note.more_than_others)
                    for note in notes[label]
                ),
            )
            for label, one in judges.items()
        ),
        command=command,
    )


def judged_cells(
    columns: Mapping[str, Judgements], placed: Sequence[PlacedMatch], resampling: Resampling
) -> tuple[JudgedCell, ...]:
    """One cell for each match, with intervals that hold together over the cells of a data set."""
    numbers = numbers_of(columns, [one.match for one in placed], resampling)
    together: dict[str, Estimate] = {}
    for data in dict.fromkeys(one.place.data for one in placed):
        names, table = prompt_means(_shown(columns, [one.match.title for one in placed if one.place.data == data]))
        if len(names) > 1 and len(table) > 1:
            together |= dict(zip(names, simultaneous(table, resampling), strict=True))
    return tuple(_cell(one, numbers[one.match.title], together.get(one.match.title)) for one in placed)


def best_temperatures(
    columns: Mapping[str, Judgements], placed: Sequence[PlacedMatch], resampling: Resampling
) -> tuple[BestTemperature, ...]:
    """For each policy, step and data set with several temperatures: the best on one half, measured on the other."""
    found = []
    for sweep in _sweeps(placed):
        names, table = prompt_means(_shown(columns, [one.match.title for one in sweep]))
        warmth = {one.match.title: one.place.temperature for one in sweep if one.place.temperature is not None}
        if len(names) < 2 or len(table) < _FEWEST or len(warmth) < len(sweep):
            continue
        chosen, at = best_on_dev_half(table, list(range(len(table))), resampling), sweep[0].place
        found.append(
            BestTemperature(
                policy=at.policy, data=at.data, step=at.step, final=at.final, temperature=warmth[names[chosen.index]],
                win_rate=chosen.rate, on_choosing_half=chosen.on_choosing_half,
                optimism=optimism_of_the_maximum(table, resampling),
            )
        )  # fmt: skip
    return tuple(found)


def policy_gaps(
    columns: Mapping[str, Judgements], placed: Sequence[PlacedMatch], resampling: Resampling
) -> tuple[JudgedGap, ...]:
    """Paired differences of policies against one opponent at the end of training, on the prompts all have a verdict on.

    With several temperatures each policy stands at the one that is best on half of the prompts, and the gap is measured on
    the other half, the same for all.
    """
    ends = [sweep for sweep in _sweeps(placed) if sweep[0].place.final]
    fields: dict[tuple[str, str], list[list[PlacedMatch]]] = {}
    for sweep in ends:
        fields.setdefault((sweep[0].place.data, sweep[0].match.other), []).append(sweep)
    opponents = {other for _, other in fields}
    return tuple(
        gap.updated(
            where=", ".join(part for part in (f"against {other}" if len(opponents) > 1 else "", gap.where) if part)
        )
        for (data, other), sweeps in fields.items()
        for gap in _gaps_of(columns, sweeps, data, resampling)
    )


def _gaps_of(
    columns: Mapping[str, Judgements], sweeps: Sequence[Sequence[PlacedMatch]], data: str, resampling: Resampling
) -> list[JudgedGap]:
    """The gaps of policies that met one opponent on one data set."""
    shown = {sweep[0].place.policy: _shown(columns, [one.match.title for one in sweep]) for sweep in sweeps}
    shown = {policy: by_title for policy, by_title in shown.items() if by_title}
    names, table = prompt_means({title: asked for one in shown.values() for title, asked in one.items()})
    several = any(len(one) > 1 for one in shown.values())
    if len(table) < (_FEWEST if several else 2):
        return []
    order = np.random.default_rng(resampling.seed).permutation(len(table))  # as `best_on_dev_half` halves them
    dev, rows = (order[: len(order) // 2], order[len(order) // 2 :]) if several else (order, np.arange(len(table)))
    where = "each at its best temperature of one half, on the other half" if several else ""
    at = {
        policy: max((names.index(title) for title in by_title), key=lambda k: float(table[dev, k].mean()))
        for policy, by_title in shown.items()
    }
    return [
        JudgedGap(
            first=one, second=other, data=data, where=where,
            value=paired_difference(table[rows, at[one]], table[rows, at[other]], rows, resampling, most=1.0),
        )
        for one, other in combinations(at, 2)
    ]  # fmt: skip


def _shown(columns: Mapping[str, Judgements], titles: Sequence[str]) -> dict[str, Judgements]:
    """Verdicts of matches of which at most 5 % are missing."""
    return {title: columns[title] for title in titles if columns[title].share_unscored <= TOLERATED_UNSCORED}


def _sweeps(placed: Sequence[PlacedMatch]) -> list[list[PlacedMatch]]:
    """Matches that differ in their temperature alone."""
    sweeps: dict[tuple[str, str, str, int | None, bool], list[PlacedMatch]] = {}
    for one in placed:
        at = one.place
        sweeps.setdefault((at.policy, one.match.other, at.data, at.step, at.final), []).append(one)
    return list(sweeps.values())


def _cell(one: PlacedMatch, numbers: MatchNumbers, together: Estimate | None) -> JudgedCell:
    rates, controlled = numbers.rates, numbers.length_controlled
    return JudgedCell(
        title=one.match.title,
        policy=one.place.policy,
        against=one.match.other,
        data=one.place.data,
        temperature=one.place.temperature,
        step=one.place.step,
        final=one.place.final,
        kl=one.place.kl,
        win_rate=rates.swap_average,
        together=together,
        slot_corrected=rates.slot_corrected,
        length_controlled=None if controlled is None else controlled.win_rate,
        consistent=rates.consistent,
        ties=rates.ties,
        lower_bound=rates.lower_bound,
        upper_bound=rates.upper_bound,
        unscored=rates.unscored,
        verdicts=rates.verdicts,
        equal_answers=numbers.equal_answers,
        doubts=numbers.doubts,
    )
