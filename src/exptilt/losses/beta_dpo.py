"""DPO with a beta that follows the data."""

from __future__ import annotations

import math
from typing import Annotated, ClassVar, Literal

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from exptilt.kinds import PAIR
from exptilt.losses.base import Loss, State, check_column, log_ratios, row_weights, weighted_mean
from exptilt.losses.hashed_draws import hashed, uniform
from exptilt.losses.rounding import rounding_of
from exptilt.settings.declaration import config
from exptilt.settings.ranges import NonNegative, Positive, Range
from exptilt.types import Pair, PairLoss

SMALLEST_BETA = 1e-3


@config
class BetaDPO(Loss):
    """beta-DPO (Wu et al., 2024): beta follows the batch's log-ratio gap, and outlying pairs are left out.

    With g = log-ratio of chosen minus rejected, M and S running averages (decay `momentum`) of its batch mean and
    standard deviation, this batch included, and K a random subset of int(B * (1 - filter)) pairs drawn without
    replacement with weights exp(-((g - M) / S)^2 / 2),

        beta_batch = max(beta * (1 + alpha * (mean_K(g) - M)), 0.001),   loss = -log sigmoid(beta_batch * g) on K

    and beta_batch is not differentiated. alpha = 0 and filter = 0 are DPO. Left-out pairs have loss 0 and the others
    count B / |K|, so the batch mean is the mean over K. Equals log 2 where policy and reference agree.

    With row weights B is their sum and every mean counts a pair by its weight; of the last pair in K only that part may
    count which fills K. The draw is a hash of the seed, the step and the content of the pair, so it is the same in
    whichever order, on how many processes and under which name the pair comes.

    Use when: the quality of pairs varies widely from batch to batch.
    Known failure: needs batches large enough for a mean and a spread; beta then no longer means a fixed pull.
    Source: https://arxiv.org/abs/2407.08639 and the authors' code (decay 0.9, averages starting at 0, beta_batch >=
    0.001). Deviations: the draw is seeded and belongs to pairs, not to places in the batch; a gap within the
    rounding of the log-probabilities counts as 0 in M, S and the draw; where S is 0 (the first step) all weights
    are 1, which the authors' code leaves undefined. The formula was checked against the authors' code, the equation
    number is unchecked.

    Example:
        >>> from exptilt.types import LogProbs, Pair
        >>> def side(*totals): return LogProbs.from_sums(torch.tensor(totals), torch.tensor([5] * len(totals)))
        >>> loss = BetaDPO(beta=0.1, alpha=0.6, filter=0.0)
        >>> out = loss(Pair(side(-8.0, -8.0), side(-14.0, -14.0)), Pair(side(-10.0, -10.0), side(-12.0, -12.0)))
        >>> [round(value, 6) for value in out.loss.tolist()]  # M 0.4, beta 0.1 * (1 + 0.6 * 3.6) = 0.316, g 4
        [0.248828, 0.248828]
    """

    name: Literal["beta_dpo"] = "beta_dpo"
    beta: Positive = 0.1
    """Base strength of the pull toward the reference, > 0."""
    alpha: NonNegative = 0.6
    """How strongly beta follows the gap, >= 0."""
    filter: Annotated[float, Range(ge=0, lt=1)] = 0.2
    """Share of each batch left out, in [0, 1)."""
    momentum: Annotated[float, Range(ge=0, lt=1)] = 0.9
    """Decay of the running mean and spread, in [0, 1)."""
    seed: int = 0
    """Seed of the draw."""

    kind: ClassVar = PAIR
    couples_batch: ClassVar[bool] = True
    takes_keys: ClassVar[bool] = True
    is_stateful: ClassVar[bool] = True

    def initial_state(self) -> State:
        """Before the first step."""
        return {"mean_gap": 0.0, "std_gap": 0.0, "num_steps": 0.0}

    def next_state(self, state: State, policy: Pair, reference: Pair | None, weights: Tensor | None = None) -> State:
        """With this batch counted in."""
        gap = _measured_gap(policy, reference)
        return self._advance(state, gap, row_weights(weights, gap))

    def _advance(self, state: State, gap: Tensor, weights: Tensor) -> State:
        keep = self.momentum
        return {
            "mean_gap": keep * state["mean_gap"] + (1 - keep) * float(weighted_mean(gap, weights)),
            "std_gap": keep * state["std_gap"] + (1 - keep) * _spread(gap, weights),
            "num_steps": state["num_steps"] + 1,
        }

    def _kept(self, gap: Tensor, weights: Tensor, keys: Tensor, now: State) -> Tensor:
        """(B,) share of each pair that is kept, 0 or 1 but for the last: a weighted draw without replacement.

        Kept are the pairs with the largest log-weight plus Gumbel noise, until their weights fill K.
        """
        distance = (gap.double() - now["mean_gap"]) / now["std_gap"] if now["std_gap"] > 0 else torch.zeros_like(gap)
        drawn = uniform(hashed((self.seed, int(now["num_steps"]), keys), keys))
        noise = -drawn.log().neg().log()
        score = noise.to(gap.device) - distance.double().square() / 2
        counted = weights.nonzero().flatten()
        distinct, index = torch.unique(-score[counted], return_inverse=True)
        masses = torch.zeros_like(distinct).index_add(0, index, weights[counted].to(distinct))
        room = self._num_kept(float(masses.sum())) - (masses.cumsum(0) - masses)
        share = (room / masses).clamp(min=0, max=1)
        return torch.zeros_like(gap).index_copy(0, counted, share[index].to(gap))

    def _num_kept(self, total: float) -> float:
        """int(B * (1 - filter)), at least one pair; a part of B where it is less than one pair."""
        num_kept = total - math.ceil(total * self.filter - 1e-9)
        return num_kept if num_kept > 0 else total * (1 - self.filter)

    def __call__(
        self,
        policy: Pair,
        reference: Pair | None,
        state: State | None = None,
        weights: Tensor | None = None,
        keys: Tensor | None = None,
    ) -> PairLoss:
        """Loss of each pair, (B,) nats, and rewards at the base beta.

        Without `keys` draws belong to the order of the pairs by the reference's log-probabilities.
        """
        chosen, rejected = log_ratios(policy, reference)
        gap, seen = chosen - rejected, _measured_gap(policy, reference)
        counts = row_weights(weights, seen)
        now = self._advance(state or self.initial_state(), seen, counts)
        keys = _order(policy, reference, counts) if keys is None else check_column("keys", keys, len(gap))
        kept = self._kept(seen, counts, keys, now)
        beta = self.beta * (1 + self.alpha * (float(weighted_mean(seen, counts * kept)) - now["mean_gap"]))
        share = counts.sum() / (counts * kept).sum()
        loss = -logsigmoid(max(beta, SMALLEST_BETA) * gap) * kept * share
        return PairLoss(loss, self.beta * chosen.detach(), self.beta * rejected.detach())


def _spread(values: Tensor, weights: Tensor) -> float:
    """The standard deviation of rows that occur as often as their weights say, with Bessel's correction.

    Weights that add up to less than two would make the correction arbitrarily large; it is then twofold.
    """
    total = float(weights.sum())
    squares = float((weights * (values - weighted_mean(values, weights)).square()).sum())
    return math.sqrt(squares / max(total - 1, total / 2))


def _measured_gap(policy: Pair, reference: Pair | None) -> Tensor:
    """(B,) difference of the log-ratios, nats, without gradient; 0 where it lies within rounding.

    Where policy and reference agree, statistics of the gaps would otherwise be statistics of rounding.
    """
    chosen, rejected = (side.detach() for side in log_ratios(policy, reference))
    gap = chosen - rejected
    return torch.where(gap.abs() <= rounding_of(*policy, *(reference or ())).to(gap), 0.0, gap)


def _order(policy: Pair, reference: Pair | None, weights: Tensor) -> Tensor:
    """(B,) int64, the place of each pair in an order by log-probabilities, those of the reference first.

    Equal pairs have one place, and pairs of weight 0 take none.
    """
    sums = [side.sum().detach().to(weights) for pair in (reference, policy) if pair is not None for side in pair]
    counted = weights.nonzero().flatten()
    _, places = torch.unique(torch.stack(sums, 1)[counted], dim=0, return_inverse=True)
    return torch.zeros(len(weights), dtype=torch.int64, device=places.device).index_copy(0, counted, places)
