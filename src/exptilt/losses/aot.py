"""Alignment via optimal transport."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar, Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from exptilt.kinds import PAIR
from exptilt.losses.base import Loss, check_pair, log_ratios, row_weights
from exptilt.losses.rounding import levels, rounding_of
from exptilt.settings.declaration import config
from exptilt.settings.ranges import Positive
from exptilt.types import Pair, PairLoss


@config
class AOT(Loss):
    """Alignment via Optimal Transport (Melnyk et al., 2024): sorted values are compared, not values of the same pair.

    With sort over the whole batch,

        paired:    loss = -log sigmoid(beta * (sort(log pi_w - log pi_l) - sort(log ref_w - log ref_l)))
        unpaired:  loss = -log sigmoid(beta * (sort(l_w) - sort(l_l))),   l = log pi/pi_ref

    A sorted value's loss is reported at the pair its first term came from; equal values, to within rounding, share theirs. The mean and its
    gradient do not depend on the order of the batch. A batch of one pair is DPO. With row weights a pair stands in the
    sort with the mass of its weight, so that part of it may be compared with one value and part with the next.

    Use when: the whole distribution of chosen rewards should dominate that of rejected ones; unpaired needs no
    matching.
    Known failure: the comparison depends on the batch; small batches are noisy.
    Source: https://arxiv.org/abs/2406.05882, as in TRL (`aot`, `aot_unpaired`; TRL 0.24 called the latter
    `aot_pair`), where the sort sees one device's micro-batch. Deviations: here it sees the global batch, and equal
    values share their gradient, which elsewhere follows their place in the batch. The formula was checked against
    TRL's code, the equation number is unchecked.

    Example:
        >>> from exptilt.types import LogProbs, Pair
        >>> def side(*totals): return LogProbs.from_sums(torch.tensor(totals), torch.tensor([5] * len(totals)))
        >>> policy = Pair(side(-9.0, -10.0), side(-14.0, -11.0))
        >>> reference = Pair(side(-10.0, -10.0), side(-11.0, -12.0))
        >>> out = AOT(beta=0.1)(policy, reference)  # differences 5, 1 against 1, 2: sorted 1 - 1 and 5 - 2
        >>> [round(value, 6) for value in out.loss.tolist()]
        [0.554355, 0.693147]
    """

    name: Literal["aot"] = "aot"
    beta: Positive = 0.01
    """Scale of the log-ratios, > 0."""
    paired: bool = True
    """Compare differences inside pairs (True) or the two sides apart (False)."""

    kind: ClassVar = PAIR
    couples_batch: ClassVar[bool] = True

    def __call__(self, policy: Pair, reference: Pair | None, weights: Tensor | None = None) -> PairLoss:
        """Loss at the pair of the first sorted term, and implicit rewards of each pair, (B,) nats."""
        chosen, rejected = log_ratios(policy, reference)
        if self.paired:
            assert reference is not None  # noqa: S101  (log_ratios refused it)
            check_pair(policy, reference)
            first = policy.chosen.sum() - policy.rejected.sum()
            second = reference.chosen.sum() - reference.rejected.sum()
        else:
            first, second = chosen, rejected
        counts, rounding = row_weights(weights, first), rounding_of(*policy, *(reference or ())).to(first)
        counted = counts.nonzero().flatten()
        ours, theirs = (
            _Distribution.of(side[counted], counts[counted], rounding[counted].max()) for side in (first, second)
        )
        loss = torch.zeros_like(first).index_copy(0, counted, _transport_costs(ours, theirs, self._cost))
        return PairLoss(loss, self.beta * chosen.detach(), self.beta * rejected.detach())

    def _cost(self, difference: Tensor) -> Tensor:
        return -logsigmoid(self.beta * difference)


class _Distribution(NamedTuple):
    """A weighted sample as distinct values, the lowest first; values within rounding of each other are one."""

    values: Tensor
    masses: Tensor
    places: Tensor
    """(B,) which of the distinct values each row has."""

    @classmethod
    def of(cls, sample: Tensor, weights: Tensor, rounding: Tensor) -> _Distribution:
        """The gradient of a distinct value is shared by its rows, by their weights."""
        places = levels(sample, rounding)
        none = weights.new_zeros(int(places.max()) + 1)
        masses = none.index_add(0, places, weights)
        values = none.index_add(0, places, weights * sample) / masses
        return cls(values, masses, places)


def _transport_costs(ours: _Distribution, theirs: _Distribution, cost: Callable[[Tensor], Tensor]) -> Tensor:
    """(B,) for each row of ours the mean cost of its difference to the values of theirs at its quantiles.

    With equal weights and no ties that is the one value of the same rank.
    """
    our_ends, their_ends = ours.masses.cumsum(0), theirs.masses.cumsum(0)
    ends = torch.cat([our_ends, their_ends]).sort().values
    starts = torch.cat([ends.new_zeros(1), ends[:-1]])
    # Between two neighbouring ends lies a piece of mass that has one value on each side.
    own, other = (
        torch.searchsorted(side, starts, right=True).clamp(max=len(side) - 1) for side in (our_ends, their_ends)
    )
    costs = (ends - starts) * cost(ours.values[own] - theirs.values[other])
    means = torch.zeros_like(ours.masses).index_add(0, own, costs) / ours.masses
    return means[ours.places]
