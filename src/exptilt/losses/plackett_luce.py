"""Plackett-Luce: the probability of a ranking, as a loss on policies and on rewards."""

from __future__ import annotations

import itertools
from typing import ClassVar, Literal

import torch
from torch import Tensor

from exptilt.kinds import LIST, REWARD_LIST
from exptilt.losses.base import Loss, check_column, log_ratio
from exptilt.losses.lists import RaggedRows, rows_of
from exptilt.settings.declaration import config
from exptilt.settings.ranges import Positive
from exptilt.types import ListLoss, LogProbs, at_least_float32

Ties = Literal["average", "breslow"]
LARGEST_TIE = 10


@config
class PlackettLuce(Loss):
    """DPO for rankings (Rafailov et al., 2023, appendix): negative log-likelihood of the ranking under Plackett-Luce.

    With r = beta * log pi/pi_ref of the completions of a group, best first,

        loss = sum_k (logsumexp_{j >= k} r_j - r_k)

    For two completions it is DPO. exp(-loss) over all orders sums to 1. Equals log K! where policy and reference agree.

    Tied completions: `average` takes the mean loss over all orders of the tied ones (for two tied completions DPO with
    p_chosen = 1/2); `breslow` lets each tied completion compete with all of its tie and everything below, which is
    cheaper and pulls ties together harder.

    Use when: more than two completions per prompt are ranked.
    Known failure: as DPO's, for every pair of the ranking. `average` costs 2^t for t tied completions.
    Source: https://arxiv.org/abs/2305.18290, appendix A.3, from its description, as the authors published no code
    for it. The treatment of ties is ours. Unchecked: the formula is from a description.

    Example:
        >>> logps = LogProbs.from_sums(torch.tensor([-3.0, -3.0, -4.0]), torch.tensor([2, 2, 2]))
        >>> ranks, sizes = torch.tensor([2, 1, 3]), torch.tensor([3])
        >>> round(PlackettLuce()(logps, logps, sizes, ranks).loss.item(), 6)  # log 3!
        1.791759
    """

    name: Literal["plackett_luce"] = "plackett_luce"
    beta: Positive = 0.1
    """Strength of the pull toward the reference, > 0."""
    ties: Ties = "average"
    """What equal ranks mean: the average over their orders, or Breslow's approximation."""

    kind: ClassVar = LIST
    inputs: ClassVar[tuple[str, ...]] = ("ranks",)

    def __call__(self, policy: LogProbs, reference: LogProbs | None, sizes: Tensor, ranks: Tensor) -> ListLoss:
        """Loss of each group, (G,) nats, and rewards of all completions."""
        rewards = self.beta * log_ratio(policy, reference)
        return ListLoss(ranking_loss(rewards, sizes, ranks, self.ties), rewards.detach())


@config
class PlackettLuceReward(Loss):
    """Reward model from rankings: negative Plackett-Luce log-likelihood of each, by the model's rewards.

    With r the rewards of the completions of a group, best first,

        loss = sum_k (logsumexp_{j >= k} r_j - r_k)

    Use when: a reward model is trained on rankings rather than pairs.
    Known failure: only differences inside a group are determined.
    Source: Plackett (1975) and Luce (1959); for two completions it is Bradley-Terry. Ties as in `plackett_luce`.
    Unchecked: the formula is from a description.

    Example:
        >>> out = PlackettLuceReward()(torch.tensor([1.0, 0.0]), torch.tensor([2]), torch.tensor([1, 2]))
        >>> round(out.loss.item(), 6)  # log(1 + e^-1)
        0.313262
    """

    name: Literal["plackett_luce_reward"] = "plackett_luce_reward"
    ties: Ties = "average"
    """What equal ranks mean: the average over their orders, or Breslow's approximation."""

    kind: ClassVar = REWARD_LIST
    needs_reference: ClassVar[bool] = False
    inputs: ClassVar[tuple[str, ...]] = ("ranks",)

    def __call__(self, rewards: Tensor, sizes: Tensor, ranks: Tensor) -> ListLoss:
        """Loss of each group, (G,) nats."""
        return ListLoss(ranking_loss(rewards, sizes, ranks, self.ties), rewards.detach())


def ranking_loss(rewards: Tensor, sizes: Tensor, ranks: Tensor, ties: Ties) -> Tensor:
    """(G,) negative Plackett-Luce log-likelihoods of (B,) rewards under (B,) ranks, 1 best."""
    rewards = at_least_float32(rewards)
    rows = rows_of(sizes, rewards)
    position = rows.spread(check_column("ranks", ranks, len(rewards)).to(rewards.device))
    mask = rows.mask
    reward = rows.spread(rewards)
    # rivals[g, k, j]: j is still in the race when k is picked. A place without completion races against itself only.
    rivals = (position.unsqueeze(1) >= position.unsqueeze(2)) & mask.unsqueeze(1) & mask.unsqueeze(2)
    rivals = rivals | torch.eye(mask.shape[1], dtype=torch.bool, device=mask.device)
    race = torch.where(rivals, reward.unsqueeze(1), -torch.inf).logsumexp(dim=2)
    loss = RaggedRows.sum((race - reward).masked_fill(~mask, 0.0))
    if ties == "breslow":
        return loss
    corrections: dict[int, Tensor] = {}
    for group, tied in _tied(position, mask):
        below = reward[group][mask[group] & (position[group] > position[group][tied[0]])]
        gain = _average_race(reward[group][tied], below) - race[group][tied].sum()
        corrections[group] = corrections.get(group, 0.0) + gain
    if not corrections:
        return loss
    index = torch.tensor(list(corrections), device=loss.device)
    return loss.index_add(0, index, torch.stack(list(corrections.values())))


def _tied(position: Tensor, mask: Tensor) -> list[tuple[int, Tensor]]:
    """(group, places) of every set of two or more completions with one rank."""
    same = (position.unsqueeze(1) == position.unsqueeze(2)) & mask.unsqueeze(1) & mask.unsqueeze(2)
    first = same.long().argmax(dim=2) == torch.arange(mask.shape[1], device=mask.device)
    counts = same.sum(dim=2)
    if int(counts.max()) > LARGEST_TIE:
        rank = position.flatten()[counts.argmax()].item()
        raise ValueError(
            f"ranks: {int(counts.max())} completions share rank {rank:g}; more than {LARGEST_TIE} need ties: breslow"
        )
    found = (first & (counts > 1)).nonzero().tolist()
    return [(group, same[group, place].nonzero().squeeze(1)) for group, place in found]


def _average_race(tied: Tensor, below: Tensor) -> Tensor:
    """Sum over the picks among `tied` of the mean, over all orders, of logsumexp of what is still in the race."""
    total = tied.new_zeros(())
    for size in range(1, len(tied) + 1):
        subsets = [list(subset) for subset in itertools.combinations(range(len(tied)), size)]
        left = tied[torch.tensor(subsets, device=tied.device)]
        race = torch.cat([left, below.expand(len(subsets), -1)], dim=1)
        total = total + race.logsumexp(dim=1).mean()
    return total
