"""The check that the reference knows the kind of text in the data: chosen completions against its own samples.

Preference objectives move a policy relative to its reference. A reference that never saw such text gives it next to no
probability. The policy then learns mostly the kind of text, not the preference; the papers fine-tune on it first.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from exptilt.data.groups import Completion, Group
from exptilt.data.prepared import Prepared
from exptilt.data.problems import finding_of
from exptilt.evaluation.intervals import DEFAULT, Clusters, Resampling, bootstrap, divide, ratio
from exptilt.policies.engine.forward import context_length
from exptilt.policies.scoring import score_all
from exptilt.policies.turn_ends import turn_ends
from exptilt.run_folder.data_record import Finding
from exptilt.run_folder.estimate_record import Estimate
from exptilt.sampling.generate import sample, samples_as_groups
from exptilt.sampling.sampling_law import SamplingLaw
from exptilt.types import LogProbs

NUM_PROMPTS = 32
"""Prompts looked at, at most."""
_LEAST_PROMPTS = 8
"""Fewer give no interval worth the name."""
_MAX_NEW_TOKENS = 64
"""Length of own samples, and of the part of chosen text that is compared; cheap enough for the start of every run."""
_FAR = 1.0
"""Nats per token by which chosen text may be less likely than the model's own."""
_UNTRAINED = 0.9
"""Share of log(vocabulary) in nats per token from which on a model knows nothing: an even guess costs all of it."""


@dataclass(frozen=True, kw_only=True)
class Familiarity:
    """Log-probabilities in nats per token, tokens of all prompts together; intervals are over prompts."""

    chosen: Estimate
    own: Estimate
    """Log-probability of the model's own samples at temperature 1."""
    gap: Estimate
    """Own less chosen."""
    vocabulary: int
    """Number of tokens that the model chooses among."""

    @property
    def is_far(self) -> bool:
        """Tell whether chosen text is over 1 nat per token less likely than own samples, with an interval that excludes 0."""
        return (self.gap.value or 0.0) > _FAR and (self.gap.low or 0.0) > 0

    @property
    def is_untrained(self) -> bool:
        """Tell whether chosen text is about as likely as under uniform tokens: then own samples are noise too."""
        return -(self.chosen.value or 0.0) >= _UNTRAINED * math.log(self.vocabulary)

    def finding(self, sft_first: bool = False) -> Finding:
        """The finding for the report; None if there is nothing to say.

        Args:
            sft_first: whether a supervised phase on this text comes before the reference is used.
        """
        numbers = (
            f"the model gives the chosen text {self.chosen} nats per token and its own samples {self.own}, "
            f"{self.gap} apart, over {self.gap.n} prompts"
        )
        if self.is_far:
            why = f"; more than {_FAR:g} nat per token apart: it never saw such text"
        elif self.is_untrained:
            guess = -math.log(self.vocabulary)
            why = f"; a guess among all {self.vocabulary} tokens gives {guess:.3f}: it never saw such text"
        else:
            return finding_of("familiarity", f"{numbers}: no sign that such text is new to it", self.gap.n or 0)
        if sft_first:
            return finding_of(
                "familiarity", f"{numbers}{why}; the supervised phase of this run is the cure", self.gap.n or 0
            )
        return finding_of("unfamiliar", numbers + why, self.gap.n or 0)


def check_reference(model: Any, tokenizer: Any, rows: Prepared, *, sft_first: bool = False, seed: int = 0) -> Finding:
    """Run `check_familiarity` on the rows of a run: the held-out rows, or the training rows if those are few."""
    held_out = len(rows.test) >= NUM_PROMPTS
    return check_familiarity(model, tokenizer, rows.test if held_out else rows.train, sft_first=sft_first, seed=seed)


def check_familiarity(
    model: Any, tokenizer: Any, groups: Sequence[Group], *, sft_first: bool = False, seed: int = 0
) -> Finding:
    """Score chosen completions and one sample per prompt under the same model, and say whether they are far apart.

    The check reads at most 64 tokens of each. The model is left in evaluation mode; torch's generators do not move.

    Args:
        model: the reference.
        tokenizer: tokenizer of the model.
        groups: rows as prepared; up to 32 spread evenly over them are used, each prompt once.
        sft_first: as in `Familiarity.finding`.
        seed: seed of the samples.

    Returns:
        The finding `unfamiliar`, or `familiarity` where there is nothing to mend or too few prompts to tell.
    """
    context = context_length(model)
    room = _MAX_NEW_TOKENS if context is None else max(1, min(_MAX_NEW_TOKENS, context // 4))
    chosen = chosen_groups(groups, room, context)
    if len(chosen) < _LEAST_PROMPTS:
        detail = (
            f"whether the reference knows such text was not checked: {len(chosen)} prompts with a chosen completion "
            f"that fit the model, and at least {_LEAST_PROMPTS} are needed"
        )
        return finding_of("familiarity", detail, len(chosen))
    law = SamplingLaw(max_new_tokens=room, eos_ids=turn_ends(tokenizer, model, chosen))
    chosen = [_cut(group, room) for group in chosen]
    drawn = sample(model, tokenizer, [group.prompt for group in chosen], law=law, seed=seed)
    scored = [
        LogProbs.cat(score_all(model, some, progress=what))
        for some, what in ((chosen, "chosen text"), (samples_as_groups(drawn), "own samples"))
    ]
    (text, text_tokens), (own, own_tokens) = ((logps.sum().numpy(), logps.lengths.numpy()) for logps in scored)
    vocabulary = int(model.config.get_text_config().vocab_size)
    return compare(text, text_tokens, own, own_tokens, vocabulary=vocabulary).finding(sft_first)


def compare(
    chosen: ArrayLike,
    chosen_tokens: ArrayLike,
    own: ArrayLike,
    own_tokens: ArrayLike,
    *,
    vocabulary: int,
    resampling: Resampling = DEFAULT,
) -> Familiarity:
    """Compute both means per token, sums over sums, and their difference with an interval over prompts.

    Args:
        chosen: (P,) log-probabilities of whole chosen completions, nats, one for each prompt.
        chosen_tokens: (P,) how many tokens each has.
        own: (P,) of the model's own sample for the same prompt.
        own_tokens: (P,) likewise.
        vocabulary: number of tokens the model chooses among.
        resampling: the bootstrap.

    Example:
        >>> found = compare([-38.0, -42.0] * 4, [10] * 8, [-20.0] * 8, [10] * 8, vocabulary=50_000)
        >>> found.gap.value, found.is_far
        (2.0, True)
    """
    columns = [np.asarray(column, dtype=np.float64) for column in (chosen, chosen_tokens, own, own_tokens)]
    prompts = Clusters(range(len(columns[0])))
    above, below, own_above, own_below = (prompts.sums(column) for column in columns)
    return Familiarity(
        chosen=ratio(columns[0], columns[1], prompts.labels, resampling),
        own=ratio(columns[2], columns[3], prompts.labels, resampling),
        gap=bootstrap(
            lambda drawn: divide(drawn @ own_above, drawn @ own_below) - divide(drawn @ above, drawn @ below),
            prompts.count,
            resampling,
        ),
        vocabulary=vocabulary,
    )


def chosen_groups(groups: Sequence[Group], room: int, context: int | None) -> list[Group]:
    """Up to 32 rows, spread evenly, as groups of a prompt and its chosen completion; each prompt once.

    Rows without a completion to imitate are left out, and rows whose prompt leaves no `room` in the context.
    """
    by_prompt: dict[bytes, Group] = {}
    count = min(len(groups), NUM_PROMPTS)
    for group in (groups[at * len(groups) // count] for at in range(count)):
        completion = _chosen(group)
        if completion is None or not len(group.prompt):
            continue
        if context is not None and len(group.prompt) + room > context:
            continue
        by_prompt.setdefault(group.prompt.tobytes(), Group(id=group.id, prompt=group.prompt, completions=(completion,)))
    return list(by_prompt.values())


def _cut(group: Group, room: int) -> Group:
    (completion,) = group.completions
    return replace(group, completions=(completion.cut(room),))


def _chosen(group: Group) -> Completion | None:
    best = 0 if group.label is None else group.label.best
    return None if best is None else group.completions[best]
