"""Labels that are probabilities: any pairwise loss under a belief about which completion is better."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from exptilt.losses.base import State, batch_arguments, check_column, require_rows
from exptilt.types import LogProbs, Pair, PairLoss

_SWAPS = {"chosen_score": "rejected_score", "rejected_score": "chosen_score"}


def with_soft_labels(
    loss: Any,
    policy: Pair,
    reference: Pair | None,
    p_chosen: Tensor,
    state: State | None = None,
    weights: Tensor | None = None,
    keys: Tensor | None = None,
    **inputs: Tensor,
) -> PairLoss:
    """Loss of pairs of which the chosen completion is the better one with probability p_chosen.

    A pair of weight w is two pairs: (chosen, rejected) of weight w p_chosen and (rejected, chosen) of weight w (1 -
    p_chosen). With L(w, l) the loss of a pair as given and L(l, w) of the same pair with its sides exchanged, its loss is

        p_chosen * L(w, l) + (1 - p_chosen) * L(l, w)

    p_chosen = 1 is the loss itself, 0 that of the pair with its sides exchanged, a tie is 1/2 and does not depend on
    which side is written first, and for DPO p_chosen = 1 - eps is label smoothing. Per-pair inputs follow their side:
    scores are exchanged, `chosen_is_policy` is negated, `margin` (how much better the better one is) stays. Rewards are
    those of the pair as given. Where the loss of one pair depends on the others, all pairs stand in one batch in both
    orders, each with its weight; `next_state` of a stateful loss sees the same batch.

    Args:
        loss: any loss of kind pair.
        policy: log-probabilities of B pairs.
        reference: the same under the reference, or None where the loss needs none.
        p_chosen: (B,) in [0, 1].
        state: of a stateful loss.
        weights: (B,) what each pair counts for; default, 1 each.
        keys: (B,) numbers that belong to the pairs, for a loss with `takes_keys`.
        inputs: what else the loss takes, by name.

    Returns:
        As the loss.

    Raises:
        ValueError: for a loss that is not on pairs, or labels outside [0, 1].

    Example:
        >>> import torch
        >>> from exptilt.losses import DPO
        >>> from exptilt.types import LogProbs
        >>> def side(total): return LogProbs.from_sums(torch.tensor([total]), torch.tensor([5]))
        >>> policy, reference = Pair(side(-8.0), side(-14.0)), Pair(side(-10.0), side(-12.0))
        >>> soft = with_soft_labels(DPO(beta=0.1), policy, reference, torch.tensor([0.9])).loss
        >>> torch.allclose(soft, DPO(beta=0.1, label_smoothing=0.1)(policy, reference).loss)
        True
    """
    if not loss.kind.is_paired or loss.kind.scores:
        raise ValueError(f"soft labels need a loss on pairs, but {loss.name} is of kind {loss.kind}")
    state_of = {} if state is None else {"state": state}
    orders = BothOrders.of(_checked(p_chosen, policy))
    named = batch_arguments(loss, orders.weights(weights), None if keys is None else keys[orders.rows])
    result: PairLoss = loss(
        orders.pairs(policy), orders.pairs(reference), **named, **orders.columns(inputs), **state_of
    )
    require_rows(loss, result, len(orders.rows))
    share = orders.share.to(result.loss)
    total = torch.zeros(len(p_chosen)).to(result.loss).index_add(0, orders.rows, share * result.loss)
    as_given, given = result, ~orders.exchanged
    if not bool((p_chosen > 0).all()):  # rewards of a pair that stands only exchanged must be asked for
        with torch.no_grad():
            as_given = loss(policy, reference, **batch_arguments(loss, weights, keys), **inputs, **state_of)
        given = torch.ones_like(p_chosen, dtype=torch.bool)
    return PairLoss(total, as_given.chosen_reward[given], as_given.rejected_reward[given])


class BothOrders(NamedTuple):
    """B pairs as N pairs: each as it is given, with weight p_chosen, and exchanged, with the rest; none of weight 0."""

    rows: Tensor
    """(N,) int64, which of the B pairs it is."""
    exchanged: Tensor
    """(N,) bool, whether its sides are exchanged."""
    share: Tensor
    """(N,) its part of the pair's weight, in (0, 1]."""

    @classmethod
    def of(cls, p_chosen: Tensor) -> BothOrders:
        """Take apart what is believed of B pairs.

        Example:
            >>> BothOrders.of(torch.tensor([1.0, 0.25, 0.0])).rows.tolist()
            [0, 1, 1, 2]
        """
        beliefs = torch.stack([p_chosen, 1 - p_chosen], dim=1)
        rows, side = (beliefs > 0).nonzero(as_tuple=True)
        return cls(rows, side == 1, beliefs[rows, side])

    def pairs(self, pair: Pair | None) -> Pair | None:
        """The N pairs of B log-probabilities."""
        if pair is None:
            return None
        both = LogProbs.cat(list(pair))
        turned = len(pair.chosen) * self.exchanged
        return Pair(both.select(self.rows + turned), both.select(self.rows + len(pair.chosen) - turned))

    def weights(self, weights: Tensor | None) -> Tensor:
        """(N,) weights, of (B,) of the pairs."""
        return self.share if weights is None else weights[self.rows] * self.share.to(weights)

    def columns(self, inputs: Mapping[str, Tensor | LogProbs]) -> dict[str, Any]:
        """What a loss takes beside log-probabilities, of the N pairs."""
        columns: dict[str, Any] = {
            name: column.select(self.rows) if isinstance(column, LogProbs) else column[self.rows]
            for name, column in inputs.items()
        }
        for name, other in _SWAPS.items():
            if name in inputs:
                columns[name] = torch.where(self.exchanged, inputs[other][self.rows], inputs[name][self.rows])  # type: ignore[index]
        if "chosen_is_policy" in columns:
            columns["chosen_is_policy"] = columns["chosen_is_policy"].bool() ^ self.exchanged
        return columns


def _checked(p_chosen: Tensor, policy: Pair) -> Tensor:
    p = check_column("p_chosen", p_chosen, len(policy.chosen))
    if not bool(((p >= 0) & (p <= 1)).all()):
        row = int((~((p >= 0) & (p <= 1))).nonzero()[0])
        raise ValueError(f"p_chosen must be in [0, 1], got {float(p[row])} in row {row}")
    return p
