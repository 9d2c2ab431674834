"""Samples or votes to rows of preferences, rankings or ratings, with an account of everything left out."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from exptilt.data.masks.written_masks import mask_row
from exptilt.data.records import words_of
from exptilt.data.written_rows import Candidate, preference_row, ranking_row, rating_row
from exptilt.errors import ConfigError, DataError
from exptilt.people.image_items import shows_masks
from exptilt.preferences import Answer
from exptilt.rewards.preferred_pairs import PairRule, PreferredPair, compared_positions, ranks_of
from exptilt.rewards.reward_from_choice import build_reward
from exptilt.rewards.scored_answers import require_spread, rewards_of
from exptilt.sampling.sample_rows import SampleRow, model_of_samples, read_samples
from exptilt.settings.pair_settings import PairRequest, VotesConfig
from exptilt.votes.settled_votes import SettledComparison, VoteRule
from exptilt.votes.vote_store import VoteStore
from exptilt.wording import counted

Row = dict[str, Any]


@dataclass(frozen=True)
class PairedRows:
    """Rows for a file, and what became of everything else."""

    rows: list[Row]
    source: str
    """The first samples, or the store of votes without a password."""
    num_asked: int
    """Prompts of samples, or comparisons with votes."""
    left_out: Counter[str] = field(default_factory=Counter)
    """What is in no row, by reason."""
    notes: tuple[str, ...] = ()
    """Worth knowing about the rows."""
    rewards: tuple[NDArray[np.float64], ...] = ()
    """Of every prompt, rewards of its completions (K,), NaN where one is unscored; empty where no reward was asked."""


def paired_rows(request: PairRequest) -> PairedRows:
    """The rows that a request asks for.

    Raises:
        ExptiltError: samples, reward or votes cannot be used.
    """
    if request.votes is not None:
        return _by_votes(request, request.votes)
    pools = _pools(request.samples)
    left_out: Counter[str] = Counter()
    if request.label == "source":
        by_source = [row for pool in pools for row in _by_source(pool, left_out)]
        return PairedRows(by_source, request.samples[0], len(pools), left_out, tuple(_note_of_ties(by_source)))
    rewards = _rewards(request, pools, left_out)
    rows = list(_by_reward(request, pools, rewards, left_out))
    notes = tuple(_note_of_ties(rows))
    return PairedRows(rows, request.samples[0], len(pools), left_out, notes, rewards=tuple(rewards))


@dataclass(frozen=True)
class _Pool:
    """All completions of one prompt, with the position of the samples that each is from."""

    rows: tuple[SampleRow, ...]
    candidates: tuple[Candidate, ...]
    sides: tuple[int, ...]

    @property
    def num_alone(self) -> int:
        """Completions of one of two sides that the other side has no completion for."""
        return abs(len(self.sides) - 2 * sum(self.sides))


def _pools(names: Sequence[str]) -> list[_Pool]:
    by_prompt: dict[str, list[tuple[SampleRow, int]]] = {}
    models = [model_of_samples(Path(name).expanduser()) for name in names]
    for side, name in enumerate(names):
        for row in sorted(read_samples(Path(name).expanduser()), key=lambda row: row.sample_index):
            by_prompt.setdefault(row.prompt_id, []).append((row, side))
    if not by_prompt:
        raise DataError(f"{names[0]}: holds no samples")
    return [
        _Pool(
            tuple(row for row, _ in pool),
            tuple(_candidate(row, models[side]) for row, side in pool),
            tuple(side for _, side in pool),
        )
        for pool in by_prompt.values()
    ]


def _candidate(row: SampleRow, model: str | None) -> Candidate:
    return Candidate(
        prompt=row.prompt,
        text=row.completion,
        prompt_ids=row.prompt_ids,
        ids=row.completion_ids,
        model=model,
        template_args=row.template_args or {},
    )


def _by_source(pool: _Pool, left_out: Counter[str]) -> Iterator[Row]:
    _count_alone(pool, left_out)
    sides = [[at for at in range(len(pool.rows)) if pool.sides[at] == side] for side in (0, 1)]
    for chosen, rejected in zip(*sides, strict=False):
        yield from _different(pool, PreferredPair(chosen, rejected, None), left_out)


def _by_reward(
    request: PairRequest, pools: Sequence[_Pool], each: Sequence[NDArray[np.float64]], left_out: Counter[str]
) -> Iterator[Row]:
    if request.rows in (None, "preference"):
        yield from _preferences(request, pools, each, left_out)
        return
    for pool, rewards in zip(pools, each, strict=True):
        scored = np.flatnonzero(~np.isnan(rewards)).tolist()
        if request.rows == "rating":
            for at in scored:
                desirable = float(rewards[at]) > float(request.threshold or 0)
                yield rating_row(pool.candidates[at], desirable=desirable, score=float(rewards[at]))
        elif len({pool.rows[at].completion for at in scored}) < 2:
            left_out["fewer than two different completions (prompts)"] += 1
        else:
            yield ranking_row(
                [pool.candidates[at] for at in scored], ranks_of(rewards[scored]), rewards[scored].tolist()
            )


def _rewards(request: PairRequest, pools: Sequence[_Pool], left_out: Counter[str]) -> list[NDArray[np.float64]]:
    """Rewards of each pool's completions."""
    if request.reward is None:
        raise ConfigError("reward is missing")
    reward = build_reward(request.reward)
    try:
        rewards = rewards_of(reward, [_answer(row) for pool in pools for row in pool.rows])
    finally:
        if hasattr(reward, "close"):
            reward.close()
    if request.rows != "rating":
        require_spread(reward, rewards)
    late = int(getattr(reward, "num_timeouts", 0))
    if late:
        left_out["a check that took too long (completions)"] = late
    if np.isnan(rewards).sum() > late:
        left_out["no score (completions)"] = int(np.isnan(rewards).sum()) - late
    return np.split(rewards, np.cumsum([len(pool.rows) for pool in pools])[:-1])


def _preferences(
    request: PairRequest, pools: Sequence[_Pool], rewards: Sequence[NDArray[np.float64]], left_out: Counter[str]
) -> Iterator[Row]:
    if request.label == "source":
        raise ConfigError("label=source needs no reward")
    rule = PairRule(
        which=request.pairs,
        label=request.label,
        scale=request.scale,
        min_margin=request.min_margin,
        keep_ties=request.on_tie == "keep",
    )
    rng = np.random.default_rng(request.seed)
    for pool, own in zip(pools, rewards, strict=True):
        if request.pairs == "across":
            _count_alone(pool, left_out)
        for preferred in rule.pairs(own, rng, left_out, pool.sides):
            yield from _different(pool, preferred, left_out)


def _count_alone(pool: _Pool, left_out: Counter[str]) -> None:
    if pool.num_alone:
        left_out["no completion of the other samples beside them (completions)"] += pool.num_alone


def _different(pool: _Pool, preferred: PreferredPair, left_out: Counter[str]) -> Iterator[Row]:
    """The row of a preference, unless both sides say the same."""
    chosen, rejected = pool.candidates[preferred.chosen], pool.candidates[preferred.rejected]
    if chosen.text == rejected.text:
        left_out["the same text on both sides"] += 1
    else:
        yield preference_row(chosen, rejected, p_chosen=preferred.p_chosen, margin=preferred.margin)


def _answer(row: SampleRow) -> Answer:
    columns = json.loads(row.line())
    ids = None if row.completion_ids is None else np.array(row.completion_ids, dtype=np.int32)
    return Answer(prompt=row.prompt, text=row.completion, ids=ids, columns=columns)


def _by_votes(request: PairRequest, votes: VotesConfig) -> PairedRows:
    left_out: Counter[str] = Counter()
    with VoteStore(votes.store, create=False) as store:
        given, comparisons, sources = store.votes(superseded=True), store.comparisons(), store.sources()
        name = store.name
    if not given:
        raise DataError(f"{name}: holds no votes")
    rule = VoteRule(on_dispute=votes.on_dispute, raters=votes.raters, question=votes.question, wanted=votes.wanted)
    settled = rule.settle(given, comparisons, left_out)
    drawn = _drawn(request.samples)
    kind = request.rows or ("ranking" if any(len(one.wins) > 2 for one in settled) else "preference")
    rows: list[Row] = []
    for one in settled:
        candidates = _candidates(one, sources.get(one.comparison.id, {}), drawn)
        made = _rows_of_votes(request, kind, one, candidates, left_out)
        rows += map(mask_row, made) if shows_masks(one.comparison) else made
    return PairedRows(rows, name, len(settled), left_out, _notes(settled, rows, bool(request.samples)))


def _drawn(names: Sequence[str]) -> dict[tuple[str, str], SampleRow]:
    """Samples by their words; of equal ones the first."""
    drawn: dict[tuple[str, str], SampleRow] = {}
    for name in names:
        for row in read_samples(Path(name).expanduser()):
            drawn.setdefault((words_of(row.prompt), row.completion), row)
    return drawn


def _candidates(
    settled: SettledComparison, writers: dict[int, list[str]], drawn: dict[tuple[str, str], SampleRow]
) -> list[Candidate]:
    asked = settled.comparison
    samples = [drawn.get((words_of(asked.prompt), answer)) if drawn else None for answer in asked.answers]
    known = next((row for row in samples if row is not None), None)
    prompt = asked.prompt if known is None else known.prompt
    return [
        Candidate(
            prompt=prompt,
            text=answer,
            prompt_ids=None if row is None else row.prompt_ids,
            ids=None if row is None else row.completion_ids,
            model=", ".join(sorted(set(writers.get(at, [])))) or None,
            template_args=(known.template_args if known is not None else None) or {},
        )
        for at, (answer, row) in enumerate(zip(asked.answers, samples, strict=True))
    ]


def _rows_of_votes(
    request: PairRequest, kind: str, one: SettledComparison, candidates: Sequence[Candidate], left_out: Counter[str]
) -> Iterator[Row]:
    if kind == "rating":
        yield from _ratings_of_votes(one, candidates, left_out)
    elif kind == "ranking":
        yield from _ranking_of_votes(one, candidates, left_out)
    else:
        yield from _preferences_of_votes(request, one, candidates, left_out)


def _preferences_of_votes(
    request: PairRequest, one: SettledComparison, candidates: Sequence[Candidate], left_out: Counter[str]
) -> Iterator[Row]:
    if request.pairs == "across":
        raise ConfigError("pairs=across belongs to samples")
    for first, second in compared_positions(request.pairs, _mean_wins(one)):
        share = float(one.wins[first, second])
        if np.isnan(share):
            left_out["raters who disagree (pairs)"] += 1
        elif candidates[first].text == candidates[second].text:
            left_out["the same text on both sides"] += 1
        elif share == 0.5 and request.on_tie == "drop":
            left_out["ties"] += 1
        else:
            chosen, rejected = (first, second) if share >= 0.5 else (second, first)
            yield preference_row(
                candidates[chosen],
                candidates[rejected],
                p_chosen=max(share, 1 - share),
                both_desirable=False if share == 0.5 and one.both_bad else None,
                num_raters=one.num_raters,
                num_orders=one.num_orders,
            )


def _ranking_of_votes(one: SettledComparison, candidates: Sequence[Candidate], left_out: Counter[str]) -> Iterator[Row]:
    if np.isnan(one.wins).any():
        left_out["raters who disagree (comparisons)"] += 1
        return
    scores = _mean_wins(one)
    counts = {"num_raters": one.num_raters, "num_orders": one.num_orders}
    yield ranking_row(candidates, ranks_of(scores), scores.tolist(), **counts)


def _ratings_of_votes(one: SettledComparison, candidates: Sequence[Candidate], left_out: Counter[str]) -> Iterator[Row]:
    for candidate, approval in zip(candidates, one.approval, strict=True):
        if np.isnan(approval) or approval == 0.5:
            left_out["neither desirable nor undesirable by votes (completions)"] += 1
        else:
            desirable = bool(approval > 0.5)
            counts = {"num_raters": one.num_raters, "num_orders": one.num_orders}
            yield rating_row(candidate, desirable=desirable, score=float(approval), **counts)


def _mean_wins(one: SettledComparison) -> NDArray[np.float64]:
    """(K,) the share of other answers that each wins against: Borda's score of soft votes, Copeland's of majorities."""
    count = len(one.wins)
    others = np.where(np.eye(count, dtype=bool), np.nan, one.wins)
    known = ~np.isnan(others)
    total = np.where(known, others, 0.0).sum(axis=1)
    return np.asarray(
        np.round(np.divide(total, known.sum(axis=1), out=np.full(count, 0.5), where=known.any(axis=1)), 12)
    )


def _note_of_ties(rows: Sequence[Row]) -> Iterator[str]:
    num_ties = sum(row.get("p_chosen") == 0.5 for row in rows)
    if num_ties:
        yield f"{counted(num_ties, 'tie')} {'is' if num_ties == 1 else 'are'} kept; data.on_tie=keep trains on them"


def _notes(settled: Sequence[SettledComparison], rows: Sequence[Row], are_samples_given: bool) -> tuple[str, ...]:
    notes: list[str] = []
    num_slanted = sum(one.num_orders == 1 for one in settled)
    if num_slanted:
        notes.append(
            f"{num_slanted:,} of {counted(len(settled), 'comparison')} were shown in one order only, so a rater's leaning "
            "toward a slot is in their labels"
        )
    num_bad = sum(one.both_bad for one in settled)
    if num_bad:
        notes.append(
            f"both answers are bad in {counted(num_bad, 'comparison')}; rows=rating makes undesirable rows of them, and KTO "
            "takes ties of preferences so, too"
        )
    notes += _note_of_ties(rows)
    num_without = sum("prompt_ids" not in row for row in rows)
    if are_samples_given and num_without:
        notes.append(f"{counted(num_without, 'row')} have no token ids, since the samples do not hold these answers")
    return tuple(notes)
