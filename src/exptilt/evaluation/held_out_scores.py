"""The measurement of a reward model on held-out rows: whether its scores rank as people do, and are calibrated."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import permutations
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from exptilt.data.groups import Group, digest_of
from exptilt.evaluation.held_out import HeldOutMeasures, Wanted, accuracies_of, margins_histogram, measure_sections
from exptilt.evaluation.held_out_samples import slope
from exptilt.evaluation.intervals import Floats, Resampling, mean
from exptilt.evaluation.length import pair_lengths
from exptilt.evaluation.pairs.accuracy import score_accuracy
from exptilt.evaluation.pairs.choices import best_of, questions_of
from exptilt.evaluation.power import minimum_detectable_difference
from exptilt.labels import Preferred, Ranked
from exptilt.policies.reward_scorer import scores_of_groups
from exptilt.run_folder.evaluation_record import Evaluation, Scores
from exptilt.run_folder.samples_record import PairMargin
from exptilt.types import LogProbs

_BINS = 40


@dataclass(frozen=True, eq=False, kw_only=True)
class ScoredPairs:
    """Held-out preferences as N pairs, the better completion first, with a reward model's scores."""

    groups: tuple[Group, ...]
    """Each with two completions."""
    chosen: Floats
    """(N,) scores of the better completions."""
    rejected: Floats
    num_ties: int
    """Pairs that people found equally good, which are not among the N."""

    @classmethod
    def of(cls, groups: Sequence[Group], scores: Sequence[Floats]) -> ScoredPairs:
        """Take rows of pairs as they are, turned where the second is likelier the better, and all pairs of a ranking.

        Args:
            groups: rows of pairs or of rankings.
            scores: (K,) of each row's completions.
        """
        pairs, chosen, rejected, ties = list[Group](), list[float](), list[float](), 0
        for group, own in zip(groups, scores, strict=True):
            strict, tied = _preferences(group)
            ties += tied
            for better, worse in strict:
                pairs.append(_pair(group, better, worse))
                chosen.append(float(own[better]))
                rejected.append(float(own[worse]))
        return cls(groups=tuple(pairs), chosen=np.array(chosen), rejected=np.array(rejected), num_ties=ties)

    @property
    def lengths(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """(N,) counted tokens of the better and of the worse completions."""
        sides = ([group.completions[at].length for group in self.groups] for at in (0, 1))
        chosen, rejected = (np.array(side, dtype=np.int64) for side in sides)
        return chosen, rejected


def _preferences(group: Group) -> tuple[list[tuple[int, int]], int]:
    """The pairs (better, worse) of places that a label states, and the number of ties."""
    if isinstance(group.label, Preferred):
        p = group.label.p_chosen
        return ([] if p == 0.5 else [(0, 1) if p > 0.5 else (1, 0)]), int(p == 0.5)
    ranks = group.label.ranks if isinstance(group.label, Ranked) else ()
    strict = [(a, b) for a, b in permutations(range(len(ranks)), 2) if ranks[a] < ranks[b]]
    return strict, len(ranks) * (len(ranks) - 1) // 2 - len(strict)


def _pair(group: Group, better: int, worse: int) -> Group:
    """A pair as it would be made of a ranking's row, or the row itself where it is one."""
    if isinstance(group.label, Preferred) and better == 0:
        return group
    completions = (group.completions[better], group.completions[worse])
    name = group.id if isinstance(group.label, Preferred) else f"{group.id} {better + 1}>{worse + 1}"
    return replace(group, id=name, completions=completions, label=Preferred())


def measure_reward_model(model: Any, held_out: Sequence[Group], wanted: Wanted) -> HeldOutMeasures:
    """Measure a reward model on held-out rows.

    Args:
        model: a reward model.
        held_out: rows of pairs or of rankings; of a ranking every pair with different ranks counts, clustered by prompt.
        wanted: level, sections and tokens at once.
    """
    found = scores_of_groups(model, held_out, max_tokens=wanted.max_tokens, progress="evaluate")
    scores = [each.numpy() for each in found]
    pairs, resampling = ScoredPairs.of(held_out, scores), Resampling(level=wanted.settings.level)
    everything = np.concatenate([np.zeros(0), *scores])
    if not pairs.groups:
        return HeldOutMeasures(Evaluation(num_pairs=0, num_ties=pairs.num_ties))
    evaluation = _measured(pairs, resampling).updated(scores=_histogram(pairs, everything))
    sections = measure_sections(_as_logps(pairs), None, pairs.groups, wanted.settings.sections, resampling)
    if sections is not None:
        evaluation = evaluation.updated(sections=sections)
    best = best_of(questions_of(pairs.groups, pairs.chosen, pairs.rejected), resampling)
    if best is not None:
        evaluation = evaluation.updated(best_of=best)
    return HeldOutMeasures(evaluation, margins=_margin_rows(pairs))


def _measured(pairs: ScoredPairs, resampling: Resampling) -> Evaluation:
    prompts = [group.prompt.tobytes() for group in pairs.groups]
    chosen, rejected = pairs.lengths
    accuracy = score_accuracy(pairs.chosen, pairs.rejected, chosen - rejected, prompts, resampling)
    lengths, margin = pair_lengths(chosen, rejected, prompts, resampling), pairs.chosen - pairs.rejected
    both = np.concatenate([pairs.chosen, pairs.rejected]), np.concatenate([chosen, rejected])
    return accuracies_of(accuracy).updated(
        lengths={"chosen": lengths.chosen, "rejected": lengths.rejected},
        length_difference=lengths.difference,
        detectable_difference=minimum_detectable_difference(accuracy.num_prompts, level=resampling.level),
        margins=margins_histogram(margin),
        log_loss=mean(np.logaddexp(0, -margin), prompts, resampling),
        num_ties=pairs.num_ties,
        reward_on_length={"data": slope(*both, prompts + prompts, resampling)},
    )


def _histogram(pairs: ScoredPairs, everything: Floats) -> Scores:
    edges = np.histogram_bin_edges(np.concatenate([pairs.chosen, pairs.rejected]), bins=_BINS)
    counts = [np.histogram(side, bins=edges)[0].tolist() for side in (pairs.chosen, pairs.rejected)]
    return Scores(
        edges=tuple(edges.tolist()),
        chosen=tuple(counts[0]),
        rejected=tuple(counts[1]),
        spread=float(np.ptp(everything)),
    )


def _as_logps(pairs: ScoredPairs) -> LogProbs:
    """Scores in the form in which sections are measured."""
    sums = torch.from_numpy(np.stack([pairs.chosen, pairs.rejected], axis=1).reshape(-1))
    return LogProbs.from_sums(sums, torch.from_numpy(np.stack(pairs.lengths, axis=1).reshape(-1)))


def _margin_rows(pairs: ScoredPairs) -> tuple[PairMargin, ...]:
    return tuple(
        PairMargin(
            pair=digest_of([replace(group, weight=1.0)]),
            prompt=hashlib.blake2b(group.prompt.tobytes(), digest_size=8).hexdigest(),
            score=margin,
        )
        for group, margin in zip(pairs.groups, (pairs.chosen - pairs.rejected).tolist(), strict=True)
    )
