"""Joins a loss to groups: which completions it sees, with which weights, and what is measured beside it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from exptilt.data.groups import Completion, Group, key_of, prompt_of
from exptilt.data.mixing import TwoOf
from exptilt.errors import DataError
from exptilt.losses.calls import arguments_of, call, completions_per_row, next_state, require_callable
from exptilt.losses.rounding import RELATIVE
from exptilt.training.columns import columns_of
from exptilt.training.output import Output, no_weight, not_finite
from exptilt.training.score_measures import score_measures
from exptilt.training.sums import Sums
from exptilt.types import LogProbs, LossResult, Measured, RolloutLoss, by_belief, on_device, widest


@dataclass
class Objective:
    """A loss, applied to groups, with the running statistics the loss may keep."""

    loss: Any
    """One of the catalogue (`exptilt.losses`)."""
    state: dict[str, float] = field(default_factory=dict)
    """The running statistics as they were before the present batch."""
    upcoming: dict[str, float] = field(default_factory=dict, init=False)
    """The same with the latest batch counted in; `advance` makes them the state."""

    def __post_init__(self) -> None:
        require_callable(self.loss)
        if self.loss.is_stateful:
            self.state = {**self.loss.initial_state(), **self.state}
        self.upcoming = dict(self.state)

    def __call__(self, groups: Sequence[Group], policy: LogProbs, reference: LogProbs | None) -> Output:
        """Form the loss of these groups, and wait for what it is.

        Args:
            groups: the rows.
            policy: log-probabilities of all completions of all groups, in order; of a reward model their scores.
            reference: the same of the reference, or None where the loss needs none.

        Raises:
            NonFiniteError: if the loss of a row is not finite.
        """
        output = self.form(groups, policy, reference)
        if not math.isfinite(output.sums.totals["loss"][0]):
            raise not_finite(output.faults())
        return output

    def form(self, groups: Sequence[Group], policy: LogProbs, reference: LogProbs | None) -> Output:
        """The same without waiting: whoever reads the sums must look whether that of the loss is finite."""
        if self.loss.couples_batch:
            self._require_whole_batch(groups)
            _require_finite(policy, groups)
            groups, policy, reference = _in_order(groups, policy, reference)
        if self.loss.sums_suffice:
            policy, reference = _summed(policy), None if reference is None else _summed(reference)
        columns: dict[str, Tensor] = columns_of(groups, self.loss, policy.lengths.device)
        arguments = arguments_of(self.loss, policy, reference)
        result = call(self.loss, arguments, columns, self.state)
        if self.loss.is_stateful and not self.loss.follows_means:
            self.upcoming = next_state(self.loss, arguments, columns, self.state)
        scores = _Scores.of(policy, reference, completions_per_row(self.loss) or 1)
        if self.loss.kind.scores:
            sizes = torch.tensor([len(group.completions) for group in groups])
            measured = score_measures(result, columns, policy.detach().sum(), sizes)
            return replace(_output(groups, scores, result, measured), scored="score")
        if self.loss.kind.is_paired and scores.references is not None:
            columns["indistinct"] = _indistinct(scores)
        ordered = scores.by_belief(columns.get("p_chosen"))
        measured = {f"rewards/{name}": value for name, value in result.rewards(columns).items()}
        measured |= result.measured if isinstance(result, RolloutLoss) else {}
        sides = self.loss.kind.sides
        for position, side in enumerate(sides):
            measured |= ordered.levels(f"/{side}" if len(sides) > 1 else "", position)
        return _output(groups, scores, result, measured)

    def _require_whole_batch(self, groups: Sequence[Group]) -> None:
        """Refuse a batch over which the loss has no value."""
        if not any(group.weight for group in groups):
            raise no_weight(groups)
        if self.loss.needs_two == "labels" and not TwoOf.of("labels", groups).num_rare:
            raise DataError(
                f"{groups[0].id}: loss {self.loss.name!r} has a mean for each label, and all {len(groups)} rows of this "
                "batch have one label; use a larger batch.size"
            )

    def advance(self, sums: Sums | None = None) -> None:
        """Count the latest batch in, once its step is taken; every micro-batch of a step sees the state before it.

        Args:
            sums: of all processes' metrics of the step, for a loss whose state follows their means.
        """
        if self.loss.is_stateful and self.loss.follows_means and sums is not None:
            self.upcoming = self.loss.state_after(self.state, sums.means())
        self.state = dict(self.upcoming)

    def weight_of(self, groups: Sequence[Group]) -> float:
        """What the sum of the loss of these groups will be divided by, before any of them is scored."""
        weights = torch.tensor([group.weight for group in groups], dtype=torch.float64)
        if self.loss.kind.imitates:  # such a loss may weigh completions, by their lengths alone
            lengths = torch.tensor([one.length for group in groups for one in group.completions], dtype=torch.int64)
            blank = LogProbs(values=torch.zeros(int(lengths.sum())), lengths=lengths)
            columns = columns_of(groups, self.loss, lengths.device)
            own = call(self.loss, arguments_of(self.loss, blank, blank), columns, self.state).weight
            weights = weights if own is None else weights * own
        return float(weights.sum())

    def prepare(self, groups: Sequence[Group]) -> list[Group]:
        """The groups of one global batch as they must be scored.

        KTO's reference point needs completions under prompts of other rows: each row gets the completion of the next row
        with another prompt, in an order fixed by the row ids, so that neither shuffling nor splitting changes the pairing.
        A row that is there twice stands in that order once, and one of weight 0 not at all. Where the completion would be
        longer than the longest row of the batch its end is cut, so that it fits where the rows fit. A loss that reads the
        prompt has it as a last completion.
        """
        prepared = self._with_mismatched(groups) if self.loss.mixes_rows else list(groups)
        if not self.loss.reads_prompt:
            return prepared
        return [replace(group, completions=(*group.completions, prompt_of(group))) for group in prepared]

    def _with_mismatched(self, groups: Sequence[Group]) -> list[Group]:
        order = _distinct(groups)
        places = {key_of(group): place for place, group in enumerate(order)}
        longest = max((len(group.prompt) + len(group.completions[0].ids) for group in groups), default=0)
        prepared = []
        for group in groups:
            place = places.get(key_of(group), -1)
            other = _other_prompt(group, (*order[place + 1 :], *order[: place + 1]))
            cut = other.cut(longest - len(group.prompt))
            prepared.append(replace(group, completions=(group.completions[0], cut)))
        return prepared


def _distinct(groups: Sequence[Group]) -> list[Group]:
    """Rows that count, by their ids, each content once."""
    counted = sorted((group for group in groups if group.weight > 0), key=lambda group: group.id)
    first = dict[int, Group]()
    for group in counted:
        first.setdefault(key_of(group), group)
    return list(first.values())


def _other_prompt(group: Group, others: Sequence[Group]) -> Completion:
    for other in others:
        if not np.array_equal(other.prompt, group.prompt):
            return other.completions[0]
    if group.weight == 0:
        return group.completions[0]  # which counts as little as the row
    raise DataError(
        f"{group.id}: every row of this batch has the same prompt, so there is no mismatched completion for the "
        "reference point; use a larger batch.size"
    )


def _in_order(
    groups: Sequence[Group], policy: LogProbs, reference: LogProbs | None
) -> tuple[Sequence[Group], LogProbs, LogProbs | None]:
    """Rows by their ids: then the sums of a coupled loss are taken in one order, however the batch was dealt out."""
    order = sorted(range(len(groups)), key=lambda at: groups[at].id)
    if order == list(range(len(groups))):
        return groups, policy, reference
    starts = [0, *accumulate(len(group.completions) for group in groups)]
    completions = [completion for at in order for completion in range(starts[at], starts[at + 1])]
    sorted_reference = None if reference is None else reference.select(completions)
    return [groups[at] for at in order], policy.select(completions), sorted_reference


def _summed(logps: LogProbs) -> LogProbs:
    """All that most losses read; in float64, in which the difference of two long sums keeps its digits."""
    if logps.values is None or logps.whole is not None:
        return logps
    return LogProbs.from_sums(logps.sum_of(logps.values.to(widest(logps.values.device))), logps.lengths)


class _Scores(NamedTuple):
    """What every completion has, as (B, K): rows with equally many completions each, or (C, 1)."""

    totals: Tensor
    """Log-probabilities, nats."""
    lengths: Tensor
    references: Tensor | None
    """The reference's log-probabilities."""

    @classmethod
    def of(cls, policy: LogProbs, reference: LogProbs | None, per_group: int) -> _Scores:
        """Add up once what several metrics need."""
        totals = policy.detach().sum().view(-1, per_group)
        references = reference.sum().view(-1, per_group) if reference is not None else None
        return cls(totals, policy.lengths.view(-1, per_group).to(totals.dtype), references)

    def by_belief(self, p_chosen: Tensor | None) -> _Scores:
        """Of pairs, with the side first that is likelier the better one; see `types.by_belief`."""
        if p_chosen is None:
            return self

        def ordered(values: Tensor) -> Tensor:
            return torch.stack(by_belief(p_chosen, values[:, 0], values[:, 1]), dim=1)

        references = None if self.references is None else ordered(self.references)
        return _Scores(ordered(self.totals), ordered(self.lengths), references)

    def levels(self, suffix: str, side: int) -> Measured:
        """Where the log-probabilities of one column stand, and how far they moved from the reference."""
        total, lengths = self.totals[:, side], self.lengths[:, side]
        levels: Measured = {
            f"logps{suffix}": total,
            f"logps_per_token{suffix}": (total, lengths),
            f"lengths{suffix}": lengths,
        }
        if self.references is not None:
            levels[f"displacement{suffix}"] = total - self.references[:, side]
        return levels


def _indistinct(scores: _Scores) -> Tensor:
    """(B,) whether both sides of a pair moved alike but for rounding.

    At the start the sign of 1e-8 would be counted as right or wrong.
    """
    assert scores.references is not None  # noqa: S101  (the caller looked; tells the type checker)
    moved = scores.totals - scores.references
    size = (scores.totals.abs() + scores.references.abs())[:, :2].sum(1)
    return (moved[:, 0] - moved[:, 1]).abs() <= RELATIVE * size


def _output(groups: Sequence[Group], scores: _Scores, result: LossResult, measured: Measured) -> Output:
    losses = result.loss
    rows = on_device([group.weight for group in groups], losses.device, losses.dtype)
    every = torch.ones_like(rows)
    own = every if result.weight is None else result.weight
    # Zero times what is not finite is NaN: one number tells of every fault.
    held = losses.detach() + (0 * scores.totals).sum()
    parts = [(held * own, own), *(value if isinstance(value, tuple) else (value, every) for value in measured.values())]
    values = torch.stack([part.to(rows.dtype) for pair in parts for part in pair]).to(widest(losses.device))
    sums = Sums()
    sums.add_block(("loss", *measured), (values * rows).sum(1).view(-1, 2))
    unique = sum(group.num_tokens for group in groups)
    # With the prompt before every completion, as tokens are counted where prompts are not shared.
    sums.count("tokens", unique + sum((len(group.following) - 1) * len(group.prompt) for group in groups))
    sums.count("unique_tokens", unique)
    return Output((rows * own * losses).sum(), sums, groups, scores.totals.flatten(), losses.detach())


def _require_finite(policy: LogProbs, groups: Sequence[Group]) -> None:
    """A coupled loss carries one row's fault to all of them, and then nobody could be named."""
    scores = policy.detach().sum()
    if not bool(scores.isfinite().all()):
        raise not_finite(Output(scores, Sums(), groups, scores, scores[:0]).faults())
