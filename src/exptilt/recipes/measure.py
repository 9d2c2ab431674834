"""What a finished run is measured by: held-out preferences, and samples of the policy beside the reference's."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from exptilt.data.groups import Group, TokenIds
from exptilt.evaluate.accuracy import PreferenceAccuracy, preference_accuracy
from exptilt.evaluate.intervals import Resampling, mean
from exptilt.evaluate.kl import estimate_kl
from exptilt.policies.divergence import sequence_kl
from exptilt.policies.scoring import score_all
from exptilt.recipes.recipe import EvaluateConfig, Recipe
from exptilt.recipes.references import ReferenceTable, reference_model
from exptilt.sampling.generate import Sample, sample, samples_as_groups
from exptilt.sampling.law import SamplingLaw
from exptilt.types import LogProbs, Pair

_MARGIN_BINS = 40


@dataclass(frozen=True)
class Measured:
    """Contents of evaluation.json and samples.jsonl."""

    evaluation: dict[str, Any]
    samples: list[dict[str, Any]]


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
    content: dict[str, Any] = {}
    if recipe.loss.kind == "pair" and reference is not None:
        logps = score_groups(policy, held_out, recipe.batch.tokens or 8192)
        beta = getattr(recipe.loss, "beta", None)
        content = measure_preferences(logps, reference(held_out).to("cpu"), held_out, beta, how)
    if not settings.num_prompts or recipe.loss.name == "sft":  # SFT makes the reference; it has none to be far from
        return Measured(content, [])
    other = reference_model(recipe, start())
    drawn = measure_samples(policy, other, tokenizer, held_out, settings, recipe.seed)
    lengths = content.get("lengths", {}) | drawn.evaluation["lengths"]
    return Measured(content | drawn.evaluation | {"lengths": lengths}, drawn.samples)


def measure_preferences(
    policy: LogProbs, reference: LogProbs | None, groups: Sequence[Group], beta: float | None, how: Resampling
) -> dict[str, Any]:
    """Accuracy with and without the reference, margins, lengths and displacement on held-out pairs.

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
    if anchor is None:
        return content
    moved = [(side.sum() - base.sum()).numpy() for side, base in zip(pair, anchor, strict=True)]
    content["displacement"] = {
        name: mean(values, prompts, how).as_dict() for name, values in zip(("chosen", "rejected"), moved, strict=True)
    }
    counts, edges = np.histogram((beta or 1.0) * (moved[0] - moved[1]), bins=_MARGIN_BINS)
    content["margins"] = {"edges": edges.tolist(), "counts": counts.tolist()}
    return content


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
    return Measured(evaluation, side_by_side(tokenizer, drawn[0], drawn[1]))


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
    context = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    if not isinstance(context, int) or not prompts:
        return wanted
    return max(1, min(wanted, context - max(len(prompt) for prompt in prompts)))
