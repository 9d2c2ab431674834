"""The measurement of a model: held-out preferences, and samples of the policy beside the reference's."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from exptilt.data.groups import Group, digest_of
from exptilt.evaluation.held_out_samples import RewardOf, SampleMeasures, measure_samples, slope
from exptilt.evaluation.intervals import Resampling, mean
from exptilt.evaluation.length import pair_lengths
from exptilt.evaluation.pairs.accuracy import PreferenceAccuracy, preference_accuracy
from exptilt.evaluation.pairs.benchmark import section_accuracy, sections_of
from exptilt.evaluation.pairs.ches import ches_of, highest
from exptilt.evaluation.pairs.choices import answer_calibration, best_of, questions_of, section_without_tie
from exptilt.evaluation.pairs.displacement import displacement
from exptilt.evaluation.pairs.preferred_side import DecidedPairs, decided_pairs
from exptilt.evaluation.power import minimum_detectable_difference
from exptilt.losses import Loss
from exptilt.policies.scorer import Scorer
from exptilt.policies.scoring import score_all
from exptilt.run_folder.estimate_record import Estimate
from exptilt.run_folder.evaluation_record import ChesRow, ChesSummary, Displacement, Evaluation, Margins, Sections
from exptilt.run_folder.samples_record import PairMargin, SideBySide
from exptilt.settings.evaluation_settings import EvaluateConfig
from exptilt.types import LogProbs
from exptilt.wording import counted

_MARGIN_BINS = 40
_HIGHEST = 5
"""Rows with the highest CHES that are named."""
_CHES_PAIRS = 512
"""Held-out pairs whose CHES is taken, spread evenly: it needs a pass of its own, the rest needs one for each model."""
_MOST_SECTIONS = 100
"""A column with more different labels than this names no sections."""


@dataclass(frozen=True)
class HeldOutMeasures:
    """Everything that is measured on held-out rows, as records of the run folder."""

    evaluation: Evaluation
    samples: tuple[SideBySide, ...] = ()
    margins: tuple[PairMargin, ...] = ()
    """Of every held-out pair, so that runs can be compared pair by pair."""


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What is to be measured, and at which size."""

    settings: EvaluateConfig
    beta: float | None
    """Of the objective the policy was trained with; None takes log-ratios for implicit rewards."""
    pairs: bool
    """Whether the rows are pairs."""
    samples: bool
    """Whether policy and reference are sampled."""
    max_tokens: int
    """Unique tokens scored at once."""
    seed: int = 0
    reward: RewardOf | None = None
    """Says how good samples are; None where nobody does."""

    @classmethod
    def of(cls, loss: Loss, settings: EvaluateConfig, max_tokens: int, seed: int, *, has_beta: bool = True) -> Wanted:
        """What an objective can be measured by; SFT makes the reference and a reward model needs none, so neither is sampled."""
        return cls(
            settings=settings,
            beta=getattr(loss, "beta", None) if has_beta else None,
            pairs=loss.kind.is_paired,
            samples=bool(settings.num_prompts) and loss.kind.has_reference,
            max_tokens=max_tokens,
            seed=seed,
        )


def measure_policy(
    policy: Any,
    reference_model: Callable[[], Any] | None,
    tokenizer: Any,
    held_out: Sequence[Group],
    reference: Scorer | None,
    wanted: Wanted,
) -> HeldOutMeasures:
    """Measure a policy on held-out rows.

    Args:
        policy: the trained model.
        reference_model: gives the reference as a model, for its samples; None where there is no reference.
        tokenizer: of both.
        held_out: rows of the objective's kind.
        reference: the reference's log-probabilities of these rows, if it was scored.
        wanted: what is measured.
    """
    settings, resampling = wanted.settings, Resampling(level=wanted.settings.level)
    other = reference_model() if reference_model is not None and (wanted.pairs or wanted.samples) else None
    sampled = SampleMeasures()
    if wanted.samples:
        sampled = measure_samples(
            policy, other, tokenizer, held_out, settings, seed=wanted.seed, beta=wanted.beta, reward=wanted.reward
        )
    if not wanted.pairs:
        return HeldOutMeasures(sampled.evaluation, sampled.samples)
    logps = score_groups(policy, held_out, wanted.max_tokens)
    anchor = None if reference is None else reference(held_out).to("cpu")
    pairs = decided_pairs(held_out, logps, anchor)
    evaluation = Evaluation(num_ties=pairs.num_ties) if pairs.num_ties else Evaluation()
    if pairs.groups:
        evaluation = evaluation.updated(**_of_pairs(pairs, other, sampled, wanted).given())
    evaluation = evaluation.updated(**measure_questions(logps, anchor, held_out, resampling))
    together = _together(evaluation, sampled.evaluation)
    return HeldOutMeasures(together, sampled.samples, margin_rows(pairs.policy, pairs.reference, pairs.groups))


def _of_pairs(pairs: DecidedPairs, other: Any, sampled: SampleMeasures, wanted: Wanted) -> Evaluation:
    """What is measured of pairs that have a preferred side; `other` is the reference as a model, if there is one."""
    settings, resampling = wanted.settings, Resampling(level=wanted.settings.level)
    groups, logps, anchor, _ = pairs
    evaluation = measure_preferences(logps, anchor, groups, wanted.beta, resampling)
    sections = measure_sections(logps, anchor, groups, settings.sections, resampling)
    if sections is not None:
        evaluation = evaluation.updated(sections=sections)
    moved = Displacement() if anchor is None else measure_displacement(logps, anchor, groups, sampled, resampling)
    if other is not None:
        moved = moved.updated(ches=measure_ches(other, groups, wanted.max_tokens, resampling))
    return evaluation.updated(displacement=moved) if moved.model_fields_set else evaluation


def _together(pairs: Evaluation, samples: Evaluation) -> Evaluation:
    """Both halves of an evaluation; the tables both have a part of are joined."""
    entries = samples.given()
    for name in ("lengths", "reward_on_length"):
        if name in entries:
            entries[name] = getattr(pairs, name) | entries[name]
    return pairs.updated(**entries)


def detectable_line(groups: Sequence[Group], level: float = 0.95) -> str:
    """What so many prompts can show, to be said before anything is measured.

    Example:
        >>> detectable_line([Group(id=str(n), prompt=np.array([n]), completions=()) for n in range(231)])
        '231 prompts: to be told apart (4 times in 5), an accuracy must be 0.092 from chance, two models 0.130 apart'
        >>> detectable_line([Group(id="a", prompt=np.array([1]), completions=())])
        '1 prompt: too few to tell any accuracy from chance'
    """
    count = len({group.prompt.tobytes() for group in groups})
    alone = minimum_detectable_difference(count, correlation=0.5, level=level)  # one model against a number
    two = minimum_detectable_difference(count, level=level)
    if alone >= 0.5:
        return f"{counted(count, 'prompt')}: too few to tell any accuracy from chance"
    return (
        f"{counted(count, 'prompt')}: to be told apart (4 times in 5), "
        f"an accuracy must be {alone:.3f} from chance, two models {two:.3f} apart"
    )


def measure_preferences(
    policy: LogProbs, reference: LogProbs | None, groups: Sequence[Group], beta: float | None, resampling: Resampling
) -> Evaluation:
    """Accuracy with and without the reference, margins and lengths on held-out pairs.

    Args:
        policy: of both completions of every pair, in order.
        reference: the same under the reference, if there is one.
        groups: the pairs.
        beta: of the training, for calibration; None where the objective has none.
        resampling: the bootstrap over prompts.
    """
    pair, anchor = policy.sides(), None if reference is None else reference.sides()
    prompts = [group.prompt.tobytes() for group in groups]
    accuracy = preference_accuracy(pair, anchor, prompts, beta=beta if anchor else None, resampling=resampling)
    sides = [side.lengths.numpy() for side in pair]
    lengths = pair_lengths(sides[0], sides[1], prompts, resampling)
    evaluation = accuracies_of(accuracy).updated(
        lengths={"chosen": lengths.chosen, "rejected": lengths.rejected},
        length_difference=lengths.difference,
        detectable_difference=minimum_detectable_difference(accuracy.num_prompts, level=resampling.level),
    )
    if anchor is None:
        return evaluation
    rewards = [(beta or 1.0) * (side.sum() - base.sum()).numpy() for side, base in zip(pair, anchor, strict=True)]
    on_length = slope(np.concatenate(rewards), np.concatenate(sides), prompts + prompts, resampling)
    return evaluation.updated(
        margins=margins_histogram(rewards[0] - rewards[1]),
        reward_on_length={"data": on_length},
    )


def margins_histogram(margin: NDArray[Any]) -> Margins:
    """The histogram of (N,) margins."""
    counts, edges = np.histogram(margin, bins=_MARGIN_BINS)
    return Margins(edges=tuple(edges.tolist()), counts=tuple(counts.tolist()))


def accuracies_of(measured: PreferenceAccuracy) -> Evaluation:
    """Accuracy by family and form, the AUC of the first score as the AUC."""
    accuracy: dict[str, dict[str, Estimate]] = {}
    for name, estimate in measured.accuracy.items():
        family, form = name.split("/")
        accuracy.setdefault(family, {})[form] = estimate
    evaluation = Evaluation(
        accuracy=accuracy,
        auc=next(iter(measured.auc.values())),
        auc_by_score=measured.auc,
        longest_wins=measured.longest_wins,
        by_longer=measured.by_longer,
        by_length_gap=measured.by_length_gap,
        by_familiarity=measured.by_familiarity,
        num_pairs=measured.num_pairs,
        num_prompts=measured.num_prompts,
    )
    return evaluation if measured.calibration is None else evaluation.updated(calibration=measured.calibration)


def measure_sections(
    policy: LogProbs,
    reference: LogProbs | None,
    groups: Sequence[Group],
    sections: dict[str, dict[str, float]],
    resampling: Resampling,
) -> Sections | None:
    """Accuracy by section of a benchmark, where the rows name theirs; None where none does.

    Args:
        policy: of both completions of every pair, in order.
        reference: the same under the reference, if there is one; then margins are of log-ratios.
        groups: the pairs.
        sections: weights of subsets by section; empty takes `sections_of` the labels.
        resampling: the bootstrap over prompts.
    """
    named = [at for at, group in enumerate(groups) if group.section is not None]
    labels = [section_without_tie(str(groups[at].section)) for at in named]
    if not named:
        return None
    if not sections and len(set(labels)) > _MOST_SECTIONS:
        return Sections(not_measured=f"{len(set(labels)):,} different labels are no sections of a benchmark")
    margins = _margins(policy) if reference is None else _margins(policy) - _margins(reference)
    weights = sections or sections_of(labels)
    prompts = [groups[at].prompt.tobytes() for at in named]
    accuracy = section_accuracy(margins[named], labels, prompts, weights, resampling)
    return Sections(
        subsets=accuracy.subsets,
        sections=accuracy.sections,
        overall=accuracy.overall,
        absent=accuracy.absent,
        weights={name: {part: float(weight) for part, weight in parts.items()} for name, parts in weights.items()},
        num_pairs=len(named),
        num_without_label=len(groups) - len(named),
    )


def measure_questions(
    policy: LogProbs, reference: LogProbs | None, groups: Sequence[Group], resampling: Resampling
) -> dict[str, Any]:
    """Fields of an evaluation for rows with several candidates: best of them, and calibration before and after.

    Args:
        policy: of both completions of every pair, in order.
        reference: the same under the reference, if there is one.
        groups: the pairs, those of one row with its id.
        resampling: the bootstrap over questions.
    """
    likelihood = [side.sum().numpy() for side in policy.sides()]
    base = None if reference is None else [side.sum().numpy() for side in reference.sides()]
    scores = likelihood if base is None else [mine - theirs for mine, theirs in zip(likelihood, base, strict=True)]
    found = best_of(questions_of(groups, *scores), resampling)
    if found is None:
        return {}
    sides = {"after": likelihood} if base is None else {"before": base, "after": likelihood}
    answers = {name: answer_calibration(questions_of(groups, *each), resampling) for name, each in sides.items()}
    return {"best_of": found, "answers": {name: one for name, one in answers.items() if one is not None}}


def measure_displacement(
    policy: LogProbs,
    reference: LogProbs,
    groups: Sequence[Group],
    sampled: SampleMeasures,
    resampling: Resampling,
) -> Displacement:
    """Where log-probabilities of both sides went, with the forced part where the reference was sampled."""
    prompts = [group.prompt.tobytes() for group in groups]
    forced: dict[str, Any] = {}
    if sampled.reference is not None:
        draws = sampled.reference
        asked = [draws.prompts[at].tobytes() for at in draws.prompt_index]
        forced = {"forward_kl": draws.column("kl"), "forward_prompts": asked}
    moved = displacement(policy.sides(), reference.sides(), prompts, resampling=resampling, **forced)
    parts = moved.given() | {"gainers": sampled.gainers or None}
    return Displacement(**{name: part for name, part in parts.items() if part is not None})


def measure_ches(reference: Any, groups: Sequence[Group], max_tokens: int, resampling: Resampling) -> ChesSummary:
    """CHES of held-out pairs under the weights the run started from, and the rows likeliest to displace."""
    count = min(len(groups), _CHES_PAIRS)
    some = [groups[at * len(groups) // count] for at in range(count)]
    scores = ches_of(reference, some, max_tokens)
    prompts = [group.prompt.tobytes() for group in some]
    return ChesSummary(
        score=mean(scores.score, prompts, resampling),
        normalised=mean(scores.normalised, prompts, resampling),
        highest=tuple(
            ChesRow(id=some[at].id, normalised=float(scores.normalised[at])) for at in highest(scores, _HIGHEST)
        ),
    )


def margin_rows(policy: LogProbs, reference: LogProbs | None, groups: Sequence[Group]) -> tuple[PairMargin, ...]:
    """Each pair by its content, with the margin of log-likelihoods and, against a reference, of log-ratios; nats."""
    likelihood = _margins(policy).tolist()
    base = None if reference is None else _margins(reference).tolist()
    return tuple(
        PairMargin(
            pair=digest_of([replace(group, weight=1.0)]),
            prompt=hashlib.blake2b(group.prompt.tobytes(), digest_size=8).hexdigest(),
            log_ratio=None if base is None else likelihood[at] - base[at],
            likelihood=likelihood[at],
        )
        for at, group in enumerate(groups)
    )


@torch.no_grad()
def score_groups(model: Any, groups: Sequence[Group], max_tokens: int) -> LogProbs:
    """Log-probabilities of all completions of held-out groups, on the CPU."""
    return LogProbs.cat(score_all(model, groups, max_tokens=max_tokens, progress="evaluate"))


def _margins(logps: LogProbs) -> NDArray[Any]:
    """(N,) log-likelihood of the chosen less that of the rejected completion, nats."""
    chosen, rejected = logps.sides()
    return (chosen.sum() - rejected.sum()).numpy()
