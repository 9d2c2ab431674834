"""Unlikelihood training on pairs."""

from __future__ import annotations

from typing import ClassVar, Literal

from exptilt.kinds import PAIR
from exptilt.losses.base import Loss, check_pair
from exptilt.losses.stable import log_one_minus_exp
from exptilt.settings.declaration import config
from exptilt.settings.ranges import NonNegative
from exptilt.types import Pair, PairLoss, at_least_float32


@config
class Unlikelihood(Loss):
    """Unlikelihood: raise the chosen completion, lower the rejected one.

    With log pi summed over tokens,

        sequence:  loss = -log pi(y_chosen) + alpha * log pi(y_rejected)
        token:     loss = -log pi(y_chosen) - alpha * sum_t log(1 - pi(y_rejected,t))

    `sequence` is the baseline of the DPO paper, `token` that of Welleck et al.

    Use when: a baseline is needed.
    Known failure: `sequence` has no lower bound: the rejected likelihood falls forever and text degenerates, as the DPO
    paper reports. `token` is bounded below by the NLL.
    Source: https://arxiv.org/abs/2305.18290, section 6 (alpha in [0, 1]); https://arxiv.org/abs/1908.04319 for
    tokens. Both from their descriptions; token probabilities above exp(-1e-7) count as that. Unchecked: the formula
    is from a description.

    Example:
        >>> from exptilt.types import LogProbs, Pair
        >>> import torch
        >>> def side(*logps): return LogProbs(values=torch.tensor(logps), lengths=torch.tensor([len(logps)]))
        >>> pair = Pair(side(-1.0, -2.0), side(-0.693147, -0.693147))
        >>> round(Unlikelihood(alpha=0.5)(pair).loss.item(), 5)  # 3 - 0.5 * 2 log 2
        2.30685
        >>> round(Unlikelihood(alpha=0.5, level="token")(pair).loss.item(), 5)  # 3 + 0.5 * 2 log 2
        3.69315
    """

    name: Literal["unlikelihood"] = "unlikelihood"
    alpha: NonNegative = 0.5
    """Weight of the rejected completion, >= 0; the DPO paper sweeps 0.05 to 1."""
    level: Literal["sequence", "token"] = "sequence"
    """Lower the rejected log-likelihood, or raise log(1 - p) of each of its tokens."""

    kind: ClassVar = PAIR
    needs_reference: ClassVar[bool] = False

    @property
    def needs_tokens(self) -> bool:  # type: ignore[override]
        """Only the token form."""
        return self.level == "token"

    def __call__(self, policy: Pair, reference: Pair | None = None) -> PairLoss:
        """Loss and log-probabilities as rewards of each pair, (B,) nats."""
        check_pair(policy)
        chosen, rejected = policy.chosen.sum(), policy.rejected.sum()
        push = rejected
        if self.level == "token":
            push = -policy.rejected.sum_of(log_one_minus_exp(at_least_float32(policy.rejected.tokens())))
        return PairLoss(self.alpha * push - chosen, chosen.detach(), rejected.detach())
