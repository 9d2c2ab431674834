"""Samples of the policy beside the reference's: sequence-level KL, lengths, where probability went."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from exptilt.data.groups import Group, TokenIds
from exptilt.evaluation.intervals import Prompts, Resampling
from exptilt.evaluation.kl import estimate_kl
from exptilt.evaluation.length import length_change, reward_on_length, sample_lengths
from exptilt.evaluation.pairs.displacement import top_gainers
from exptilt.policies.divergence import sequence_kl
from exptilt.policies.engine.forward import context_length
from exptilt.sampling.generate import Sample, sample, samples_as_groups
from exptilt.sampling.sampling_law import SamplingLaw
from exptilt.settings.evaluation_settings import EvaluateConfig

_GAINERS = 5
"""Samples shown as those where probability went."""


@dataclass(frozen=True)
class Drawn:
    """What samples tell."""

    content: dict[str, Any] = field(default_factory=dict)
    """Entries of evaluation.json."""
    samples: list[dict[str, Any]] = field(default_factory=list)
    """Lines of samples.jsonl."""
    gainers: list[dict[str, Any]] = field(default_factory=list)
    """The policy's samples whose probability rose most."""
    forward_kl: list[float] = field(default_factory=list)
    """KL(reference || policy) over the reference's samples, nats, for the forced part of the displacement."""
    forward_prompts: list[bytes] = field(default_factory=list)
    """The prompt of each."""


def measure_samples(
    model: Any,
    reference: Any | None,
    tokenizer: Any,
    groups: Sequence[Group],
    settings: EvaluateConfig,
    *,
    seed: int = 0,
    beta: float | None = None,
) -> Drawn:
    """Sample the policy and the reference on held-out prompts.

    Both are sampled at temperature 1 without truncation, the law under which the KL is what it says.

    Args:
        model: the policy.
        reference: what it is measured against; None gives lengths and texts of the policy alone.
        tokenizer: of both.
        groups: rows whose prompts are asked, each prompt once.
        settings: how many prompts and samples.
        seed: of the samples.
        beta: of the implicit reward; None takes 1.
    """
    prompts = distinct_prompts(groups)[: settings.num_prompts]
    law = SamplingLaw(max_new_tokens=room_for(model, prompts, settings.max_new_tokens))
    how = Resampling(level=settings.level)
    models = {"policy_samples": model} | ({} if reference is None else {"reference_samples": reference})
    drawn = {
        name: sample(one, tokenizer, prompts, num_samples=settings.num_samples, law=law, seed=seed)
        for name, one in models.items()
    }
    content: dict[str, Any] = {"sampling_law": law_of(law)} | _lengths(drawn, how)
    own, others = drawn["policy_samples"], drawn.get("reference_samples")
    if others is None:
        return Drawn(content, side_by_side(tokenizer, own, None))
    sums = sequence_kl(model, reference, samples_as_groups(own), progress="KL")
    log_ratio, owners = sums.k1.numpy(), [one.prompt_index for one in own]
    kl = estimate_kl(sums.kl.numpy(), owners, law, k1=log_ratio, how=how)
    content |= {"kl": kl.kl.as_dict(), "kl_check": kl.as_dict()}
    content["reward_on_length"] = {
        "samples": slope((beta or 1.0) * log_ratio, [len(one.ids) for one in own], owners, how)
    }
    forward = sequence_kl(reference, model, samples_as_groups(others), progress="forward KL").kl.tolist()
    return Drawn(
        content,
        side_by_side(tokenizer, own, others),
        gainers=gainers(tokenizer, own, log_ratio),
        forward_kl=forward,
        forward_prompts=[one.prompt.tobytes() for one in others],
    )


def _lengths(drawn: dict[str, list[Sample]], how: Resampling) -> dict[str, Any]:
    lengths, ended = {}, {}
    for name, samples in drawn.items():
        owners = [one.prompt_index for one in samples]
        found = sample_lengths([len(one.ids) for one in samples], [one.ended for one in samples], owners, how)
        lengths[name], ended[name] = found.mean.as_dict(), found.ended.as_dict()
    content: dict[str, Any] = {"lengths": lengths, "ended": ended}
    if len(drawn) == 2:
        after, before = ([len(one.ids) for one in samples] for samples in drawn.values())
        mine, theirs = ([one.prompt_index for one in samples] for samples in drawn.values())
        content["length_change"] = length_change(before, after, theirs, mine, how).as_dict()
    return content


def slope(rewards: ArrayLike, lengths: Sequence[int], prompts: Prompts, how: Resampling) -> dict[str, Any] | None:
    """The implicit reward's slope on length; None where all completions have one length."""
    if np.ptp(lengths) == 0:
        return None
    return reward_on_length(rewards, lengths, prompts, how).as_dict()


def gainers(tokenizer: Any, samples: Sequence[Sample], log_ratio: ArrayLike) -> list[dict[str, Any]]:
    """Fresh samples of the policy whose log-probability rose most over the reference's, each text once."""
    found: dict[tuple[str, str], dict[str, Any]] = {}
    values = np.asarray(log_ratio)
    for at in top_gainers(values, len(values)):
        prompt = tokenizer.decode(samples[at].prompt.tolist(), skip_special_tokens=True)
        completion = samples[at].text(tokenizer)
        row = {"prompt": prompt, "completion": completion, "log_ratio": float(values[at])}
        found.setdefault((prompt, completion), row)
        if len(found) == _GAINERS:
            break
    return list(found.values())


def side_by_side(tokenizer: Any, policy: Sequence[Sample], reference: Sequence[Sample] | None) -> list[dict[str, Any]]:
    """The first sample of each prompt under both models, as text."""
    others: Sequence[Sample | None] = [None] * len(policy) if reference is None else reference
    return [
        {
            "prompt": tokenizer.decode(one.prompt.tolist(), skip_special_tokens=True),
            "policy": one.text(tokenizer),
            "reference": None if other is None else other.text(tokenizer),
        }
        for one, other in zip(policy, others, strict=True)
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


def distinct_prompts(groups: Sequence[Group]) -> list[TokenIds]:
    """Each prompt once, in order; empty ones cannot be sampled from."""
    return list({group.prompt.tobytes(): group.prompt for group in groups if len(group.prompt)}.values())


def room_for(model: Any, prompts: Sequence[TokenIds], wanted: int) -> int:
    """No sample may run past the model's context."""
    context = context_length(model)
    if context is None or not prompts:
        return wanted
    return max(1, min(wanted, context - max(len(prompt) for prompt in prompts)))
