"""DPO with a beta that follows the data."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from exptilt.kinds import PAIR
from exptilt.losses.base import Loss, State, log_ratios
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

    Use when: the quality of pairs varies widely from batch to batch.
    Known failure: needs batches large enough for a mean and a spread; beta then no longer means a fixed pull.
    Source: https://arxiv.org/abs/2407.08639 and the authors' code (decay 0.9, averages starting at 0, beta_batch >=
    0.001). Deviation: the draw is seeded and attached to the order of the gaps, not to places in the batch; where S is
    0 (the first step) all weights are 1, which the authors' code leaves undefined.

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
    is_stateful: ClassVar[bool] = True

    def initial_state(self) -> State:
        """Before the first step."""
        return {"mean_gap": 0.0, "std_gap": 0.0, "num_steps": 0.0}

    def next_state(self, state: State, policy: Pair, reference: Pair | None) -> State:
        """With this batch counted in."""
        chosen, rejected = log_ratios(policy, reference)
        return self._advance(state, (chosen - rejected).detach())

    def _advance(self, state: State, gap: Tensor) -> State:
        spread = float(gap.std()) if len(gap) > 1 else 0.0
        keep = self.momentum
        return {
            "mean_gap": keep * state["mean_gap"] + (1 - keep) * float(gap.mean()),
            "std_gap": keep * state["std_gap"] + (1 - keep) * spread,
            "num_steps": state["num_steps"] + 1,
        }

    def _kept(self, gap: Tensor, now: State) -> Tensor:
        """(B,) bool: a weighted draw without replacement (the pairs with the largest log-weight plus Gumbel noise)."""
        num_kept = max(1, int(len(gap) * (1 - self.filter) + 1e-9))
        distance = (gap.double() - now["mean_gap"]) / now["std_gap"] if now["std_gap"] > 0 else torch.zeros_like(gap)
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + int(now["num_steps"]))
        noise = -torch.rand(len(gap), generator=generator, dtype=torch.float64).clamp(min=1e-300).log().neg().log()
        by_gap = torch.argsort(gap, stable=True)
        score = torch.empty(len(gap), dtype=torch.float64, device=gap.device)
        score[by_gap] = noise.to(gap.device) - distance.double()[by_gap].square() / 2
        kept = torch.zeros_like(gap, dtype=torch.bool)
        kept[torch.topk(score, num_kept).indices] = True
        return kept

    def __call__(self, policy: Pair, reference: Pair | None, state: State | None = None) -> PairLoss:
        """Loss of each pair, (B,) nats, and rewards at the base beta."""
        chosen, rejected = log_ratios(policy, reference)
        gap = chosen - rejected
        now = self._advance(state or self.initial_state(), gap.detach())
        kept = self._kept(gap.detach(), now)
        beta = self.beta * (1 + self.alpha * (float(gap.detach()[kept].mean()) - now["mean_gap"]))
        share = len(gap) / int(kept.sum())
        loss = -logsigmoid(max(beta, SMALLEST_BETA) * gap) * kept * share
        return PairLoss(loss, self.beta * chosen.detach(), self.beta * rejected.detach())
