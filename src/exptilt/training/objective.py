"""Joins a loss to groups: which completions it sees, with which weights, and what is measured beside it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from exptilt.data.groups import Completion, Group
from exptilt.errors import DataError
from exptilt.losses import with_soft_labels
from exptilt.training.output import Output, not_finite
from exptilt.training.sums import Sums
from exptilt.types import LogProbs, Pair, on_device


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
        if self.loss.is_stateful:
            self.state = {**self.loss.initial_state(), **self.state}
        self.upcoming = dict(self.state)

    def __call__(self, groups: Sequence[Group], policy: LogProbs, reference: LogProbs | None) -> Output:
        """Form the loss of these groups, and wait for what it is.

        Args:
            groups: the rows.
            policy: log-probabilities of all completions of all groups, in order.
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
        if self.loss.couples_batch:  # which carries one row's fault to all of them, and then nobody can be named
            _require_finite(policy, groups)
        if self.loss.sums_suffice:
            policy, reference = _summed(policy), None if reference is None else _summed(reference)
        forms = {"pair": self._pair, "completion": self._completion, "unpaired": self._unpaired, "list": self._list}
        return forms[self.loss.kind](groups, policy, reference)

    def advance(self) -> None:
        """Count the latest batch in, once its step is taken; every micro-batch of a step sees the state before it."""
        self.state = dict(self.upcoming)

    def weight_of(self, groups: Sequence[Group]) -> float:
        """What the sum of the loss of these groups will be divided by, before any of them is scored."""
        weights = torch.tensor([group.weight for group in groups], dtype=torch.float64)
        if self.loss.kind == "completion":
            lengths = torch.tensor([one.length for group in groups for one in group.completions], dtype=torch.int64)
            blank = LogProbs(values=torch.zeros(int(lengths.sum())), lengths=lengths)
            own = self.loss(blank, blank).weight
            weights = weights if own is None else weights * own
        return float(weights.sum())

    def prepare(self, groups: Sequence[Group]) -> list[Group]:
        """The groups of one global batch as they must be scored.

        KTO's reference point needs completions under prompts of other rows: each row gets the completion of the next row
        with another prompt, in an order fixed by the row ids, so that neither shuffling nor splitting changes the pairing.
        Where it would be longer than the longest row of the batch its end is cut, so that it fits where the rows fit.
        """
        if "mismatched" not in self.loss.inputs:
            return list(groups)
        order = sorted(range(len(groups)), key=lambda place: groups[place].id)
        longest = max((len(group.prompt) + len(group.completions[0].ids) for group in groups), default=0)
        prepared = list(groups)
        for rank, place in enumerate(order):
            group = groups[place]
            other = _other_prompt(group, [groups[next_] for next_ in (*order[rank + 1 :], *order[:rank])])
            room = longest - len(group.prompt)
            cut = Completion(ids=other.ids[:room], counted=other.counted[:room])
            prepared[place] = replace(group, completions=(group.completions[0], cut))
        return prepared

    def _pair(self, groups: Sequence[Group], policy: LogProbs, reference: LogProbs | None) -> Output:
        sides, scores = _sides(policy), _Scores.of(policy, reference, 2)
        anchor = _sides(reference) if reference is not None else None
        inputs = self._inputs(groups, policy)
        if all(group.p_chosen == 1 for group in groups):
            out = self.loss(sides, anchor, **inputs)
        else:
            p_chosen = on_device([group.p_chosen for group in groups], policy.lengths.device)
            out = with_soft_labels(self.loss, sides, anchor, p_chosen, **inputs)
        self._remember(sides, anchor)
        margin = out.chosen_reward - out.rejected_reward
        measured: _Measured = {
            "rewards/chosen": out.chosen_reward,
            "rewards/rejected": out.rejected_reward,
            "rewards/margins": margin,
            # A tie is half right: it carries no information either way.
            "rewards/accuracies": torch.where(_tied(margin, scores), 0.5, (margin > 0).float()),
        }
        measured |= scores.levels("/chosen", 0) | scores.levels("/rejected", 1)
        return _output(groups, scores, out.loss, None, measured)

    def _completion(self, groups: Sequence[Group], policy: LogProbs, reference: LogProbs | None) -> Output:
        out, scores = self.loss(policy, reference), _Scores.of(policy, reference, 1)
        return _output(groups, scores, out.loss, out.weight, scores.levels("", 0))

    def _unpaired(self, groups: Sequence[Group], policy: LogProbs, reference: LogProbs | None) -> Output:
        desirable = on_device([group.desirable for group in groups], policy.lengths.device)
        own, extra = policy, dict[str, Any]()
        own_reference = reference
        if "mismatched" in self.loss.inputs:
            own, extra["mismatched"] = _sides(policy)
            own_reference, extra["mismatched_reference"] = _sides(reference) if reference is not None else (None, None)
        if self.loss.is_stateful:
            extra["state"] = self.state
        out = self.loss(own, own_reference, desirable, **extra)
        self._remember(own, own_reference)
        scores = _Scores.of(policy, reference, 2 if "mismatched" in self.loss.inputs else 1)
        measured = scores.levels("", 0)
        for name, side in (("chosen", desirable), ("rejected", ~desirable)):
            measured[f"rewards/{name}"] = (torch.where(side, out.reward, 0.0), side.to(out.reward.dtype))
        return _output(groups, scores, out.loss, out.weight, measured)

    def _list(self, groups: Sequence[Group], policy: LogProbs, reference: LogProbs | None) -> Output:
        sizes = torch.tensor([len(group.completions) for group in groups])
        out = self.loss(policy, reference, sizes, **self._inputs(groups, policy))
        best = torch.tensor([min(range(len(group.ranks)), key=group.ranks.__getitem__) for group in groups])
        first = sizes.cumsum(0) - sizes
        chosen = out.reward[first + best]
        rewards = out.reward.split(sizes.tolist())
        # A tie at the top is right in one of so many cases as it has members.
        share = torch.stack([1 / (one == one.max()).sum() for one in rewards])
        highest = torch.stack([one.max() for one in rewards])
        measured: _Measured = {"rewards/chosen": chosen, "rewards/accuracies": (chosen >= highest) * share}
        return _output(groups, _Scores.of(policy, reference, 1), out.loss, None, measured)

    def _inputs(self, groups: Sequence[Group], like: LogProbs) -> dict[str, Any]:
        """The further arguments the loss names, from the groups' own columns."""
        extra: dict[str, Any] = {}
        for name in self.loss.inputs:
            column = [_INPUTS.get(name, _absent)(group) for group in groups]
            missing = [group.id for group, value in zip(groups, column, strict=True) if value is None or value == ()]
            if missing:
                raise DataError(
                    f"{missing[0]}: loss {self.loss.name!r} needs {name.replace('_', ' ')} in every row; "
                    f"{len(missing)} of these rows have none"
                )
            flat = [item for value in column for item in (value if isinstance(value, tuple) else (value,))]
            extra[name] = on_device(flat, like.lengths.device, torch.float32)
        if self.loss.is_stateful:
            extra["state"] = self.state
        return extra

    def _remember(self, *batch: Any) -> None:
        if self.loss.is_stateful:
            self.upcoming = self.loss.next_state(self.state, *batch)


def _absent(_group: Group) -> None:
    """What rows on disk cannot hold, such as who sampled a completion."""


_INPUTS: dict[str, Callable[[Group], Any]] = {
    "margin": lambda group: group.margin,
    "chosen_score": lambda group: group.scores[0] if group.scores else None,
    "rejected_score": lambda group: group.scores[1] if group.scores else None,
    "ranks": lambda group: group.ranks,
    "scores": lambda group: group.scores,
}


def _other_prompt(group: Group, others: Sequence[Group]) -> Completion:
    for other in others:
        if not np.array_equal(other.prompt, group.prompt):
            return other.completions[0]
    raise DataError(
        f"{group.id}: every row of this batch has the same prompt, so there is no mismatched completion for the "
        "reference point; use a larger batch.size"
    )


def _summed(logps: LogProbs) -> LogProbs:
    """All that most losses read; in float64, in which the difference of two long sums keeps its digits."""
    if logps.values is None:
        return logps
    return LogProbs.from_sums(logps.sum_of(logps.values.to(_widest(logps.values))), logps.lengths)


def _sides(logps: LogProbs) -> Pair:
    """Chosen and rejected of groups that hold exactly these two, in this order."""
    if logps.totals is not None:
        return Pair(logps.part(slice(0, None, 2)), logps.part(slice(1, None, 2)))
    index = torch.arange(0, len(logps), 2)
    return Pair(logps.select(index), logps.select(index + 1))


_Measured = dict[str, Tensor | tuple[Tensor, Tensor]]
"""(B,) a value per row, or its numerator and its weight; means are taken over rows, each by its own weight."""


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

    def levels(self, suffix: str, side: int) -> _Measured:
        """Where the log-probabilities of one column stand, and how far they moved from the reference."""
        total, lengths = self.totals[:, side], self.lengths[:, side]
        levels: _Measured = {
            f"logps{suffix}": total,
            f"logps_per_token{suffix}": (total, lengths),
            f"lengths{suffix}": lengths,
        }
        if self.references is not None:
            levels[f"displacement{suffix}"] = total - self.references[:, side]
        return levels


_ROUNDING = 2 * torch.finfo(torch.float32).eps
"""Of log-probabilities, relative to their size."""


def _tied(margin: Tensor, scores: _Scores) -> Tensor:
    """Whether a margin is zero but for rounding: at the start the sign of 1e-8 would be counted as right or wrong."""
    if scores.references is None:
        return margin == 0
    moved = scores.totals - scores.references
    size = (scores.totals.abs() + scores.references.abs()).sum(1)
    return (margin == 0) | ((moved[:, 0] - moved[:, 1]).abs() <= _ROUNDING * size)


def _output(
    groups: Sequence[Group], scores: _Scores, losses: Tensor, loss_weight: Tensor | None, measured: _Measured
) -> Output:
    rows = on_device([group.weight for group in groups], losses.device, losses.dtype)
    every = torch.ones_like(rows)
    own = every if loss_weight is None else loss_weight
    # Zero times what is not finite is NaN: one number tells of every fault.
    held = losses.detach() + (0 * scores.totals).sum()
    parts = [(held * own, own), *(value if isinstance(value, tuple) else (value, every) for value in measured.values())]
    values = torch.stack([part.to(rows.dtype) for pair in parts for part in pair]).to(_widest(losses))
    sums = Sums()
    sums.add_block(("loss", *measured), (values * rows).sum(1).view(-1, 2))
    unique = sum(group.num_tokens for group in groups)
    # With the prompt before every completion, as tokens are counted where prompts are not shared.
    sums.count("tokens", unique + sum((len(group.completions) - 1) * len(group.prompt) for group in groups))
    sums.count("unique_tokens", unique)
    return Output((rows * own * losses).sum(), sums, groups, scores.totals.flatten(), losses.detach())


def _widest(like: Tensor) -> torch.dtype:
    """Metal has no float64."""
    return torch.float32 if like.device.type == "mps" else torch.float64


def _require_finite(policy: LogProbs, groups: Sequence[Group]) -> None:
    scores = policy.detach().sum()
    if not bool(scores.isfinite().all()):
        raise not_finite(Output(scores, Sums(), groups, scores, scores[:0]).faults())
