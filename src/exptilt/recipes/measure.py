"""What a finished run is measured by: held-out preferences, and samples of the policy beside the reference's."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch

from exptilt.data.groups import Group, TokenIds
from exptilt.evaluate.accuracy import PreferenceAccuracy, preference_accuracy
from exptilt.evaluate.ches import ches_of_sums
from exptilt.evaluate.displacement import displacement
from exptilt.evaluate.intervals import Resampling, mean, minimum_detectable_difference
from exptilt.evaluate.kl import estimate_kl
from exptilt.policies.divergence import sequence_kl
from exptilt.policies.forward import context_length
from exptilt.policies.hidden_states import state_sums
from exptilt.policies.scoring import score_all
from exptilt.recipes.recipe import EvaluateConfig, Recipe
from exptilt.recipes.references import ReferenceTable, reference_model
from exptilt.recipes.run_folder import digest_of
from exptilt.sampling.generate import Sample, sample, samples_as_groups
from exptilt.sampling.law import SamplingLaw
from exptilt.types import LogProbs, Pair

_MARGIN_BINS = 40
_HIGHEST = 5
"""Rows with the highest CHES that are named."""


@dataclass(frozen=True)
class Measured:
    """Contents of a run folder's files."""

    evaluation: dict[str, Any]
    samples: list[dict[str, Any]]
    margins: list[dict[str, Any]] = field(default_factory=list)
    """Of evaluation-margins.jsonl: every held-out pair, so that runs can be compared pair by pair."""
    forward_kl: list[float] = field(default_factory=list)
    """KL(reference || policy) over the reference's samples, nats, for the forced part of the displacement."""
    forward_prompts: list[bytes] = field(default_factory=list)
    """The prompt of each."""


def measure_policy(
    recipe: Recipe,
    policy: Any,
    start: Callable[[], Any],
    tokenizer: Any,
    held_out: Sequence[Group],
    reference: ReferenceTable | None,
) -> Measured:
    """Everything a recipe asks to be measured on held-out rows.

    Args:
        recipe: objective and settings.
        policy: the trained model.
        start: gives the model as it was before step 1, for samples of the reference.
        tokenizer: of both.
        held_out: rows of the objective's kind.
        reference: the reference's log-probabilities of these rows, if it was scored.
    """
    settings, how = recipe.evaluate, Resampling(level=recipe.evaluate.level)
    pairs = recipe.loss.kind == "pair" and reference is not None
    draws = bool(settings.num_prompts) and recipe.loss.name != "sft"  # SFT makes the reference: it has none
    other = reference_model(recipe, start()) if pairs or draws else None
    drawn = Measured({}, [])
    if draws:
        drawn = measure_samples(policy, other, tokenizer, held_out, settings, recipe.seed)
    if not pairs or reference is None:
        return drawn
    logps = score_groups(policy, held_out, recipe.batch.tokens or 8192)
    anchor, beta = reference(held_out).to("cpu"), getattr(recipe.loss, "beta", None)
    content = measure_preferences(logps, anchor, held_out, beta, how)
    content["displacement"] = measure_displacement(logps, anchor, held_out, drawn, how) | {
        "ches": measure_ches(other, held_out, recipe.batch.tokens or 8192, how)
    }
    lengths = content["lengths"] | drawn.evaluation.get("lengths", {})
    evaluation = content | drawn.evaluation | {"lengths": lengths}
    return Measured(evaluation, drawn.samples, margin_rows(logps, anchor, held_out))


def measure_preferences(
    policy: LogProbs, reference: LogProbs | None, groups: Sequence[Group], beta: float | None, how: Resampling
) -> dict[str, Any]:
    """Accuracy with and without the reference, margins and lengths on held-out pairs.

    Args:
        policy: of both completions of every pair, in order.
        reference: the same under the reference, if there is one.
        groups: the pairs.
        beta: of the training, for calibration; None where the objective has none.
        how: the bootstrap over prompts.
    """
    pair, anchor = _pair(policy), None if reference is None else _pair(reference)
    prompts = [group.prompt.tobytes() for group in groups]
    found = preference_accuracy(pair, anchor, prompts, beta=beta if anchor else None, how=how)
    lengths = {
        name: mean(side.lengths.numpy(), prompts, how).as_dict()
        for name, side in zip(("chosen", "rejected"), pair, strict=True)
    }
    content = _as_report(found) | {"lengths": lengths}
    content["detectable_difference"] = minimum_detectable_difference(found.num_prompts, level=how.level)
    if anchor is None:
        return content
    moved = [(side.sum() - base.sum()).numpy() for side, base in zip(pair, anchor, strict=True)]
    counts, edges = np.histogram((beta or 1.0) * (moved[0] - moved[1]), bins=_MARGIN_BINS)
    content["margins"] = {"edges": edges.tolist(), "counts": counts.tolist()}
    return content


def measure_displacement(
    policy: LogProbs, reference: LogProbs, groups: Sequence[Group], drawn: Measured, how: Resampling
) -> dict[str, Any]:
    """Where log-probabilities of both sides went, with the forced part where the reference was sampled."""
    prompts = [group.prompt.tobytes() for group in groups]
    forced: dict[str, Any] = {}
    if drawn.forward_kl:
        forced = {"forward_kl": drawn.forward_kl, "forward_prompts": drawn.forward_prompts}
    found = displacement(_pair(policy), _pair(reference), prompts, how=how, **forced).as_dict()
    return {name: value for name, value in found.items() if value is not None}


def measure_ches(reference: Any, groups: Sequence[Group], max_tokens: int, how: Resampling) -> dict[str, Any]:
    """CHES of held-out pairs under the weights the run started from, and the rows likeliest to displace."""
    states = state_sums(reference, groups, max_tokens=max_tokens, progress="CHES")
    sums, lengths = states.sums.numpy(), states.lengths.numpy()
    found = ches_of_sums(sums[::2], lengths[::2], sums[1::2], lengths[1::2])
    prompts = [group.prompt.tobytes() for group in groups]
    highest = np.argsort(-found.normalised, kind="stable")[:_HIGHEST]
    return {
        "score": mean(found.score, prompts, how).as_dict(),
        "normalised": mean(found.normalised, prompts, how).as_dict(),
        "highest": [{"id": groups[at].id, "normalised": float(found.normalised[at])} for at in highest],
    }


def margin_rows(policy: LogProbs, reference: LogProbs, groups: Sequence[Group]) -> list[dict[str, Any]]:
    """Each pair by its content, with the margin of log-ratios and of log-likelihoods, nats."""
    likelihood = _pair(policy).chosen.sum() - _pair(policy).rejected.sum()
    base = _pair(reference).chosen.sum() - _pair(reference).rejected.sum()
    values = zip(likelihood.tolist(), (likelihood - base).tolist(), strict=True)
    return [
        {
            "pair": digest_of([replace(group, weight=1.0)]),
            "prompt": hashlib.blake2b(group.prompt.tobytes(), digest_size=8).hexdigest(),
            "log_ratio": ratio,
            "likelihood": gap,
        }
        for group, (gap, ratio) in zip(groups, values, strict=True)
    ]


def measure_samples(
    model: Any, reference: Any, tokenizer: Any, groups: Sequence[Group], settings: EvaluateConfig, seed: int
) -> Measured:
    """Sample the policy and the reference on held-out prompts: sequence-level KL, lengths, side by sides.

    Both are sampled at temperature 1 without truncation, the law under which the KL is what it says.
    """
    prompts = _distinct_prompts(groups)[: settings.num_prompts]
    law = SamplingLaw(max_new_tokens=_room(model, prompts, settings.max_new_tokens))
    drawn = [
        sample(one, tokenizer, prompts, num_samples=settings.num_samples, law=law, seed=seed)
        for one in (model, reference)
    ]
    how = Resampling(level=settings.level)
    owners = [item.prompt_index for item in drawn[0]]
    sums = sequence_kl(model, reference, samples_as_groups(drawn[0]), progress="KL")
    kl = estimate_kl(sums.kl.numpy(), owners, law, k1=sums.k1.numpy(), how=how)
    evaluation: dict[str, Any] = {"kl": kl.kl.as_dict(), "kl_check": kl.as_dict(), "sampling_law": law_of(law)}
    lengths, ended = {}, {}
    for name, samples in zip(("policy_samples", "reference_samples"), drawn, strict=True):
        lengths[name] = mean([len(item.ids) for item in samples], owners, how).as_dict()
        ended[name] = mean([float(item.ended) for item in samples], owners, how).as_dict()
    evaluation |= {"lengths": lengths, "ended": ended}
    forward = sequence_kl(reference, model, samples_as_groups(drawn[1]), progress="forward KL").kl.tolist()
    return Measured(
        evaluation,
        side_by_side(tokenizer, drawn[0], drawn[1]),
        forward_kl=forward,
        forward_prompts=[item.prompt.tobytes() for item in drawn[1]],
    )


def side_by_side(tokenizer: Any, policy: Sequence[Sample], reference: Sequence[Sample]) -> list[dict[str, Any]]:
    """The first sample of each prompt under both models, as text."""
    return [
        {
            "prompt": tokenizer.decode(one.prompt.tolist(), skip_special_tokens=True),
            "policy": one.text(tokenizer),
            "reference": other.text(tokenizer),
        }
        for one, other in zip(policy, reference, strict=True)
        if one.sample_index == 0
    ]


def law_of(law: SamplingLaw) -> dict[str, float | int]:
    """The sampling law in a few numbers."""
    return {
        "temperature": law.temperature,
        "top_k": law.top_k,
        "top_p": law.top_p,
        "max_new_tokens": law.max_new_tokens,
    }


@torch.no_grad()
def score_groups(model: Any, groups: Sequence[Group], max_tokens: int) -> LogProbs:
    """Log-probabilities of all completions of held-out groups, on the CPU."""
    return LogProbs.cat(score_all(model, groups, max_tokens=max_tokens, progress="evaluate"))


def _pair(logps: LogProbs) -> Pair:
    index = torch.arange(0, len(logps), 2)
    return Pair(logps.select(index), logps.select(index + 1))


def _as_report(found: PreferenceAccuracy) -> dict[str, Any]:
    """In the layout of evaluation.json."""
    plain = found.as_dict()
    accuracy: dict[str, dict[str, Any]] = {}
    for name, estimate in plain["accuracy"].items():
        family, form = name.split("/")
        accuracy.setdefault(family, {})[form] = estimate
    content = {**plain, "accuracy": accuracy, "auc": next(iter(plain["auc"].values())), "auc_by_score": plain["auc"]}
    if plain["calibration"]:
        bins = [
            {"predicted": one["confidence"], "observed": one["accuracy"], "count": one["num_pairs"]}
            for one in plain["calibration"]["bins"]
            if one["num_pairs"]
        ]
        content["calibration"] = {"ece": plain["calibration"]["error"]["value"], "bins": bins}
    else:
        del content["calibration"]
    return content


def _distinct_prompts(groups: Sequence[Group]) -> list[TokenIds]:
    return list({group.prompt.tobytes(): group.prompt for group in groups if len(group.prompt)}.values())


def _room(model: Any, prompts: Sequence[TokenIds], wanted: int) -> int:
    """No sample may run past the model's context."""
    context = context_length(model)
    if context is None or not prompts:
        return wanted
    return max(1, min(wanted, context - max(len(prompt) for prompt in prompts)))
