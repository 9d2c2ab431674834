"""Labels that are probabilities: any pairwise loss under a belief about which completion is better."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from exptilt.losses.base import State, check_column
from exptilt.types import Pair, PairLoss

_SWAPS = {"chosen_score": "rejected_score", "rejected_score": "chosen_score"}


def with_soft_labels(
    loss: Any, policy: Pair, reference: Pair | None, p_chosen: Tensor, state: State | None = None, **inputs: Tensor
) -> PairLoss:
    """Expected loss when the chosen completion is the better one with probability p_chosen.

    With L(w, l) the loss of a pair as given and L(l, w) of the same pair with its sides exchanged,

        p_chosen * L(w, l) + (1 - p_chosen) * L(l, w)

    p_chosen = 1 is the loss itself, a tie is 1/2, and for DPO p_chosen = 1 - eps is label smoothing. Per-pair inputs
    follow their side: scores are exchanged, `chosen_is_policy` is negated, `margin` (how much better the better one is)
    stays. Rewards are those of the pair as given. A `state` is used for both orders and advanced by the caller on the
    pair as given.

    Args:
        loss: any loss of kind pair.
        policy: log-probabilities of B pairs.
        reference: the same under the reference, or None where the loss needs none.
        p_chosen: (B,) in [0, 1].
        state: of a stateful loss.
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
    if not loss.kind.is_paired or loss.kind.reads != "logps":
        raise ValueError(f"soft labels need a loss on pairs, but {loss.name} is of kind {loss.kind}")
    p = check_column("p_chosen", p_chosen, len(policy.chosen))
    if not bool(((p >= 0) & (p <= 1)).all()):
        row = int((~((p >= 0) & (p <= 1))).nonzero()[0])
        raise ValueError(f"p_chosen must be in [0, 1], got {float(p[row])} in row {row}")
    extra: dict[str, Any] = {} if state is None else {"state": state}
    given: PairLoss = loss(policy, reference, **inputs, **extra)
    swapped_reference = None if reference is None else Pair(reference.rejected, reference.chosen)
    swapped = loss(Pair(policy.rejected, policy.chosen), swapped_reference, **_swapped(inputs), **extra)
    weight = p.to(given.loss)
    expected = weight * given.loss + (1 - weight) * swapped.loss
    return PairLoss(expected, given.chosen_reward, given.rejected_reward)


def _swapped(inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    changed = {name: inputs[_SWAPS.get(name, name)] for name in inputs}
    if "chosen_is_policy" in changed:
        changed["chosen_is_policy"] = ~changed["chosen_is_policy"].bool()
    return changed
