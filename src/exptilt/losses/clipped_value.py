"""The loss of a critic."""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from exptilt.kinds import ROLLOUT
from exptilt.losses.base import Loss, check_column
from exptilt.settings.declaration import config
from exptilt.settings.ranges import Positive
from exptilt.types import LogProbs, RolloutLoss, at_least_float32, group_sums

Floats = NDArray[np.floating]


@config
class ClippedValue(Loss):
    """The squared error of a critic's values of tokens, whose values move little in one rollout.

    With V the value of the prefix before a token, V_old the one with which the rollout's advantages were made, and R the return,

        loss = mean over tokens of max((V - R)^2, (V_old + clip(V - V_old, -clip, clip) - R)^2) / 2

    Values stand where log-probabilities stand in other losses: one for each counted token.

    Use when: a policy is trained with PPO.
    Known failure: a critic that is far from its returns is held back by the clip; null turns it off.
    Source: https://arxiv.org/abs/2403.17031 and the code it describes. Checked against descriptions of code.

    Example:
        >>> values = LogProbs(values=torch.tensor([1.0]), lengths=torch.tensor([1]))
        >>> out = ClippedValue()(values, None, torch.tensor([1]), returns=torch.tensor([2.0]), values=torch.tensor([0.5]))
        >>> round(out.loss.item(), 6)  # (0.7 - 2)^2 / 2
        0.845
    """

    name: Literal["clipped_value"] = "clipped_value"
    clip: Positive | None = 0.2
    """How far a value may move in one rollout before its gradient is cut, in units of the reward; null for no limit."""

    kind: ClassVar = ROLLOUT
    needs_reference: ClassVar[bool] = False
    needs_tokens: ClassVar[bool] = True
    needs_lengths: ClassVar[bool] = True
    inputs: ClassVar[tuple[str, ...]] = ("returns", "values")

    def __call__(
        self, policy: LogProbs, reference: LogProbs | None, sizes: Tensor, returns: Tensor, values: Tensor
    ) -> RolloutLoss:
        """Loss of each group, (G,), the mean over its tokens, with their number as its weight."""
        predicted = at_least_float32(policy.tokens())
        returns, values = (
            check_column(name, column, len(predicted)).to(predicted)
            for name, column in (("returns", returns), ("values", values))
        )
        error = (predicted - returns) ** 2
        if self.clip is not None:
            held = values + (predicted - values).clamp(-self.clip, self.clip)
            error = torch.maximum(error, (held - returns) ** 2)
        tokens = group_sums(policy.nonempty_lengths().to(error), sizes)
        loss = group_sums(policy.sum_of(error / 2), sizes) / tokens
        return RolloutLoss(loss, error.new_zeros(len(policy)), sizes, weight=tokens)


def explained_variance(values: Floats, returns: Floats) -> float:
    """1 - Var(R - V) / Var(R) over tokens: 1 for a critic that is right, 0 for one that knows no more than the mean.

    NaN where all returns are equal.

    Example:
        >>> returns = np.array([1.0, 2.0, 3.0])
        >>> explained_variance(returns, returns), explained_variance(np.zeros(3), returns)
        (1.0, 0.0)
    """
    spread = float(np.var(returns, dtype=np.float64))
    return 1 - float(np.var(returns - values, dtype=np.float64)) / spread if spread else float("nan")
