"""SamPO: down-sampled log-probabilities."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from exptilt.kinds import PAIR
from exptilt.losses.base import Loss, State, check_pair
from exptilt.losses.hashed_draws import hashed
from exptilt.settings.declaration import config
from exptilt.settings.ranges import Positive
from exptilt.types import LogProbs, Pair, PairLoss, at_least_float32


@config
class SamPO(Loss):
    """SamPO (Lu et al., 2024): DPO on equally many tokens of both sides, drawn at random from the longer one.

    With m = min(|y_chosen|, |y_rejected|) and T a random m-subset, without replacement, of a completion's token
    positions, every log-probability log p(y|x) in the DPO loss is replaced by

        sum_{t in T} log p(y_t)

    Equal lengths give DPO. Equals log 2 where policy and reference agree.

    The draw is a hash of the seed, the number of steps so far, both lengths and the position, so it is new at every
    step and the same wherever in the batch, and on whichever machine, the pair stands.

    Use when: DPO's reward is dominated by length.
    Known failure: the loss is noisy for pairs of very different lengths.
    Source: https://arxiv.org/abs/2406.10957. Deviation: the authors' code draws apart for policy and reference, as
    each forward draws anew; here they share positions unless `share_draw` is false, so that step 0 is zero. The
    formula was checked against the authors' code, the equation number is unchecked.

    Example:
        >>> long = LogProbs(values=torch.tensor([-1.0, -1.0, -1.0]), lengths=torch.tensor([3]))
        >>> short = LogProbs(values=torch.tensor([-1.0]), lengths=torch.tensor([1]))
        >>> reference = Pair(LogProbs(values=torch.tensor([-3.0] * 3), lengths=torch.tensor([3])), short)
        >>> round(SamPO(beta=0.1)(Pair(long, short), reference).chosen_reward.item(), 6)  # one of three equal tokens
        0.2
    """

    name: Literal["sampo"] = "sampo"
    beta: Positive = 0.1
    """Strength of the pull toward the reference, > 0."""
    seed: int = 0
    """Seed of the draws."""
    share_draw: bool = True
    """Take the same token positions from policy and reference."""

    kind: ClassVar = PAIR
    needs_lengths: ClassVar[bool] = True
    needs_tokens: ClassVar[bool] = True
    is_stateful: ClassVar[bool] = True

    def initial_state(self) -> State:
        """Before the first step."""
        return {"num_steps": 0.0}

    def next_state(self, state: State, policy: Pair, reference: Pair | None) -> State:
        """With this step counted."""
        return {"num_steps": state["num_steps"] + 1}

    def _log_ratio(self, policy: LogProbs, reference: LogProbs, shorter: Tensor, step: int) -> Tensor:
        ours, theirs = at_least_float32(policy.tokens()), at_least_float32(reference.tokens())
        keep = _drawn(policy, shorter, (self.seed, step, 0)).to(ours)
        keep_reference = keep if self.share_draw else _drawn(policy, shorter, (self.seed, step, 1)).to(ours)
        return policy.sum_of(keep * ours - keep_reference * theirs)

    def __call__(self, policy: Pair, reference: Pair | None, state: State | None = None) -> PairLoss:
        """Loss and implicit rewards of the drawn tokens of each pair, (B,) nats."""
        if reference is None:
            raise ValueError("reference log-probabilities are missing; sampo compares the policy with them")
        check_pair(policy, reference)
        step = int((state or self.initial_state())["num_steps"])
        shorter = torch.minimum(policy.chosen.lengths, policy.rejected.lengths)
        chosen = self.beta * self._log_ratio(policy.chosen, reference.chosen, shorter, step)
        rejected = self.beta * self._log_ratio(policy.rejected, reference.rejected, shorter, step)
        return PairLoss(-logsigmoid(chosen - rejected), chosen.detach(), rejected.detach())


def _drawn(logps: LogProbs, num_kept: Tensor, salts: tuple[int, ...]) -> Tensor:
    """(N,) bool, True on `num_kept` positions of each completion, chosen by hash."""
    lengths = logps.lengths
    owner = torch.repeat_interleave(torch.arange(len(lengths), device=lengths.device), lengths)
    positions = logps.positions()
    key = hashed((*salts, lengths[owner], num_kept[owner], positions), positions)
    # Completions first, then hashes: a stable sort by the minor key followed by one by the major key.
    by_key = torch.argsort(key, stable=True)
    order = by_key[torch.argsort(owner[by_key], stable=True)]
    kept = torch.empty_like(positions, dtype=torch.bool)
    kept[order] = positions < num_kept[owner]
    return kept
