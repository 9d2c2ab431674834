"""Samples of the policy beside the reference's: sequence-level KL, lengths, where probability went."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from exptilt.data.groups import Group
from exptilt.evaluation.diversity import diversity
from exptilt.evaluation.intervals import Prompts, Resampling, mean, paired_difference
from exptilt.evaluation.kl import SequenceKL, estimate_kl
from exptilt.evaluation.length import length_change, reward_on_length, sample_lengths
from exptilt.evaluation.pairs.displacement import top_gainers
from exptilt.policies.turn_ends import turn_ends
from exptilt.run_folder.estimate_record import Estimate
from exptilt.run_folder.evaluation_record import Evaluation, Gainer, KlCheck, LawRecord, LengthSlope
from exptilt.run_folder.samples_record import SideBySide
from exptilt.sampling.draws import Draws, distinct_prompts, draw, prompt_text, room_for
from exptilt.sampling.sampling_law import SamplingLaw
from exptilt.settings.evaluation_settings import EvaluateConfig

RewardOf = Callable[[Draws], NDArray[np.float64]]
"""Says how good each of N completions is; NaN where one is unscored."""
_GAINERS = 5
"""Samples shown as those where probability went."""


@dataclass(frozen=True)
class SampleMeasures:
    """What samples show."""

    evaluation: Evaluation = field(default_factory=Evaluation)
    """The part of evaluation.json that samples give."""
    samples: tuple[SideBySide, ...] = ()
    """Lines of samples.jsonl."""
    gainers: tuple[Gainer, ...] = ()
    """The policy's samples whose probability rose most."""
    reference: Draws | None = None
    """Samples of the reference, compared with the policy: their KL is the forced part of the displacement."""


def measure_samples(
    model: Any,
    reference: Any | None,
    tokenizer: Any,
    groups: Sequence[Group],
    settings: EvaluateConfig,
    *,
    seed: int = 0,
    beta: float | None = None,
    reward: RewardOf | None = None,
) -> SampleMeasures:
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
        reward: says how good samples are, if somebody does.
    """
    prompts = distinct_prompts(groups)[: settings.num_prompts]
    law = SamplingLaw(
        max_new_tokens=room_for(model, prompts, settings.max_new_tokens), eos_ids=turn_ends(tokenizer, model, groups)
    )
    resampling = Resampling(level=settings.level)
    own = draw(model, tokenizer, prompts, num_samples=settings.num_samples, law=law, seed=seed)
    if reference is None:
        alone = _lengths(own, None, law, resampling).updated(reward=_rewards(reward, own, None, resampling))
        return SampleMeasures(alone, side_by_side(tokenizer, own, None))
    others = draw(reference, tokenizer, prompts, num_samples=settings.num_samples, law=law, seed=seed)
    evaluation = _lengths(own, others, law, resampling)
    own = own.compared(model, reference, progress="KL")
    others = others.compared(reference, model, progress="forward KL")
    log_ratio = own.column("log_ratio")
    kl = estimate_kl(own.column("kl"), own.prompt_index, law, k1=log_ratio, resampling=resampling)
    rewards = (beta or 1.0) * log_ratio
    return SampleMeasures(
        evaluation.updated(
            kl=kl.kl,
            kl_check=_check_of(kl),
            reward=_rewards(reward, own, others, resampling),
            diversity={
                name: diversity(draws.ids, draws.column("policy_logps"), draws.length, draws.prompt_index, resampling)
                for name, draws in (("policy_samples", own), ("reference_samples", others))
            },
            reward_on_length={"samples": slope(rewards, own.length, own.prompt_index, resampling)},
        ),
        side_by_side(tokenizer, own, others),
        gainers(tokenizer, own),
        others,
    )


def _rewards(
    reward: RewardOf | None, own: Draws, others: Draws | None, resampling: Resampling
) -> dict[str, Estimate] | None:
    """Mean rewards of samples that were scored, and the gain on prompts and places that were scored for both."""
    if reward is None:
        return None
    named = {"policy_samples": own} | ({} if others is None else {"reference_samples": others})
    values = {name: reward(draws) for name, draws in named.items()}
    scored = {name: ~np.isnan(column) for name, column in values.items()}
    found = {
        name: mean(column[scored[name]], named[name].prompt_index[scored[name]], resampling)
        for name, column in values.items()
        if scored[name].any()
    }
    if others is not None and (both := scored["policy_samples"] & scored["reference_samples"]).any():
        first, second = (values[name][both] for name in ("policy_samples", "reference_samples"))
        found["gain"] = paired_difference(first, second, own.prompt_index[both], resampling)
    return found


def _lengths(own: Draws, others: Draws | None, law: SamplingLaw, resampling: Resampling) -> Evaluation:
    named = {"policy_samples": own} | ({} if others is None else {"reference_samples": others})
    lengths = {
        name: sample_lengths(draws.length, draws.ended, draws.prompt_index, resampling) for name, draws in named.items()
    }
    evaluation = Evaluation(
        sampling_law=law_record(law),
        lengths={name: found.mean for name, found in lengths.items()},
        ended={name: found.ended for name, found in lengths.items()},
    )
    if others is None:
        return evaluation
    change = length_change(others.length, own.length, others.prompt_index, own.prompt_index, resampling)
    return evaluation.updated(length_change=change)


def _check_of(kl: SequenceKL) -> KlCheck:
    return KlCheck(
        kl=kl.kl,
        k1=kl.k1,
        k1_minus_kl=kl.k1_minus_kl,
        by_prompt=tuple(kl.by_prompt.tolist()),
        num_samples=kl.num_samples,
    )


def slope(rewards: ArrayLike, lengths: ArrayLike, prompts: Prompts, resampling: Resampling) -> LengthSlope | None:
    """The implicit reward's slope on length; None where all completions have one length."""
    return None if np.ptp(lengths) == 0 else reward_on_length(rewards, lengths, prompts, resampling)


def gainers(tokenizer: Any, draws: Draws) -> tuple[Gainer, ...]:
    """Samples of the policy whose log-probability rose most over the reference's, each text once."""
    log_ratio = draws.column("log_ratio")
    texts: dict[tuple[str, str], Gainer] = {}
    for at in top_gainers(log_ratio, len(draws)):
        prompt, completion = prompt_text(tokenizer, draws.prompts[draws.prompt_index[at]]), draws.texts[at]
        gainer = Gainer(prompt=prompt, completion=completion, log_ratio=float(log_ratio[at]))
        texts.setdefault((prompt, completion), gainer)
        if len(texts) == _GAINERS:
            break
    return tuple(texts.values())


def side_by_side(tokenizer: Any, policy: Draws, reference: Draws | None) -> tuple[SideBySide, ...]:
    """The first sample of each prompt under both models, as text."""
    return tuple(
        SideBySide(
            prompt=prompt_text(tokenizer, policy.prompts[policy.prompt_index[at]]),
            policy=policy.texts[at],
            reference=None if reference is None else reference.texts[at],
        )
        for at in policy.first
    )


def law_record(law: SamplingLaw) -> LawRecord:
    """The sampling law in a few numbers."""
    return LawRecord(
        temperature=law.temperature,
        top_k=law.top_k,
        top_p=law.top_p,
        max_new_tokens=law.max_new_tokens,
        eos_ids=law.eos_ids,
    )
