"""Labels that are probabilities: any pairwise loss under a belief about which completion is better."""

from __future__ import annotations

from typing import Any, TypeVar

import torch
from torch import Tensor

from exptilt.losses.base import State, batch_arguments, check_column
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
    """Expected loss when the chosen completion is the better one with probability p_chosen.

    With L(w, l) the loss of a pair as given and L(l, w) of the same pair with its sides exchanged,

        p_chosen * L(w, l) + (1 - p_chosen) * L(l, w)

    p_chosen = 1 is the loss itself, 0 that of the pair with its sides exchanged, a tie is 1/2, and for DPO p_chosen = 1 -
    eps is label smoothing. Per-pair inputs follow their side: scores are exchanged, `chosen_is_policy` is negated,
    `margin` (how much better the better one is) stays. Rewards are those of the pair as given.

    Where the loss of one pair depends on the others, L(w, l) and L(l, w) are taken beside the others in their likelier
    order and beside the others exchanged, so far as these are uncertain: a pair whose order is certain never stands in
    the wrong one. A tie counts as given. A `state` is used for both orders, and advanced on pairs in their likelier order.

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
    p = _checked(p_chosen, policy)
    told = batch_arguments(loss, weights, keys) | ({} if state is None else {"state": state})

    def form(exchanged: Tensor) -> PairLoss:
        columns = _exchanged_inputs(inputs, exchanged)
        found: PairLoss = loss(exchange(policy, exchanged), exchange(reference, exchanged), **columns, **told)
        return found

    turned = p < 0.5
    likelier = form(turned)
    loss_of_rows, share = likelier.loss, torch.where(turned, 1 - p, p).to(likelier.loss)
    certain = share == 1
    if not bool(certain.all()):
        other = form(turned ^ ~certain).loss
        loss_of_rows = torch.where(certain, likelier.loss, share * likelier.loss + (1 - share) * other)
    as_given = form(torch.zeros_like(turned)) if bool(turned.any()) else likelier
    return PairLoss(loss_of_rows, as_given.chosen_reward, as_given.rejected_reward)


def in_likelier_order(policy: Pair, reference: Pair | None, p_chosen: Tensor) -> tuple[Pair, Pair | None]:
    """Pairs with the completion first that is likelier the better one; a tie as it is given."""
    turned = _checked(p_chosen, policy) < 0.5
    return exchange(policy, turned), exchange(reference, turned)


PairT = TypeVar("PairT", Pair, Pair | None)


def exchange(pair: PairT, exchanged: Tensor) -> PairT:
    """Pairs with their sides exchanged where `exchanged`, (B,) bool, is true."""
    if pair is None or not bool(exchanged.any()):
        return pair
    chosen, rejected = pair
    both = LogProbs.cat([chosen, rejected])
    places, moved = torch.arange(len(chosen)), len(chosen) * exchanged.cpu()
    return Pair(both.select(places + moved), both.select(places + len(chosen) - moved))


def _checked(p_chosen: Tensor, policy: Pair) -> Tensor:
    p = check_column("p_chosen", p_chosen, len(policy.chosen))
    if not bool(((p >= 0) & (p <= 1)).all()):
        row = int((~((p >= 0) & (p <= 1))).nonzero()[0])
        raise ValueError(f"p_chosen must be in [0, 1], got {float(p[row])} in row {row}")
    return p


def _exchanged_inputs(inputs: dict[str, Tensor], exchanged: Tensor) -> dict[str, Tensor]:
    columns = {
        name: torch.where(exchanged, inputs[_SWAPS[name]], column) if name in _SWAPS else column
        for name, column in inputs.items()
    }
    if "chosen_is_policy" in columns:
        columns["chosen_is_policy"] = columns["chosen_is_policy"].bool() ^ exchanged
    return columns
