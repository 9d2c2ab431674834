"""Which pairs are likely to displace: completions whose hidden states point the same way."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from exptilt.data.groups import Group
from exptilt.evaluation.intervals import Floats, finite
from exptilt.evaluation.result import Panel
from exptilt.labels import Preferred
from exptilt.policies.hidden_states import state_sums
from exptilt.settings.data_settings import DEFAULT_TOKENS


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Ches(Panel):
    """Centred hidden embedding similarity of N pairs; the pairs with the highest scores displace most."""

    score: Floats
    """(N,) <sum h_w, sum h_l> - |sum h_w|^2."""
    normalised: Floats
    """(N,) the same with each sum divided by its number of tokens, so that long completions do not dominate."""


def ches(chosen: ArrayLike, chosen_mask: ArrayLike, rejected: ArrayLike, rejected_mask: ArrayLike) -> Ches:
    """CHES of N pairs from the last layer's hidden states.

        CHES(x, w, l) = <sum_t h_w,t , sum_t h_l,t> - || sum_t h_w,t ||^2

    A state counts if the next token it predicts belongs to the completion: from the prompt's last token to the token
    before the completion's last. Padding may hold anything, NaN included, and a pair's score does not depend on the
    batch it is in.

    Args:
        chosen: (N, T, D) hidden states of the chosen side, prompt and padding included.
        chosen_mask: (N, T) True at the states that count.
        rejected: (N, T', D).
        rejected_mask: (N, T').

    Source: Razin et al. (2024), https://arxiv.org/abs/2410.08847, definition 2 and its length-normalised form. The
    released helper drops the last column and keeps padding, which is right only for a batch of one; this is not so.

    Example:
        >>> found = ches([[[1.0, 0.0], [1.0, 0.0]]], [[True, True]], [[[0.0, 3.0], [1.0, 0.0]]], [[True, True]])
        >>> found.score.tolist(), found.normalised.tolist()
        ([-2.0], [-0.5])
    """
    return ches_of_sums(*_state_sums(chosen, chosen_mask, "chosen"), *_state_sums(rejected, rejected_mask, "rejected"))


def ches_of_sums(chosen: ArrayLike, num_chosen: ArrayLike, rejected: ArrayLike, num_rejected: ArrayLike) -> Ches:
    """CHES of N pairs from sums of hidden states, as `policies.hidden_states.state_sums` gives them.

    Args:
        chosen: (N, D) sum of the states that predict the chosen completion's tokens.
        num_chosen: (N,) how many they are, >= 1.
        rejected: (N, D).
        num_rejected: (N,).

    Example:
        >>> ches_of_sums([[2.0, 0.0]], [2], [[1.0, 3.0]], [2]).score.tolist()
        [-2.0]
    """
    won, lost = finite(chosen, "the chosen states"), finite(rejected, "the rejected states")
    num_won, num_lost = np.asarray(num_chosen), np.asarray(num_rejected)
    if (num_won < 1).any() or (num_lost < 1).any():
        raise ValueError("a completion has no state that counts")
    if won.shape != lost.shape:
        raise ValueError(f"chosen and rejected must have one N and one D, got {won.shape} and {lost.shape}")
    product, square = (won * lost).sum(axis=1), (won * won).sum(axis=1)
    return Ches(score=product - square, normalised=product / (num_won * num_lost) - square / num_won**2)


def _state_sums(states: ArrayLike, mask: ArrayLike, what: str) -> tuple[Floats, NDArray[np.int64]]:
    """(N, D) sums of the counted states and (N,) how many they are."""
    array, counted = np.asarray(states, dtype=np.float64), np.asarray(mask, dtype=np.bool_)
    if array.ndim != 3 or counted.shape != array.shape[:2]:
        raise ValueError(f"{what} must be (N, T, D) with a mask (N, T), got {array.shape} and {counted.shape}")
    number = counted.sum(axis=1)
    if (number == 0).any():
        raise ValueError(f"the {what} side of pair {int(np.argmin(number))} has no state that counts")
    # Not a product with the mask: padding may be NaN.
    return finite(np.where(counted[:, :, None], array, 0.0).sum(axis=1), f"the {what} states"), number


def ches_of(model: Any, groups: Sequence[Group], max_tokens: int = DEFAULT_TOKENS) -> Ches:
    """CHES of pairs under a model; the likelier side of a soft label is the chosen one.

    A pair's score does not depend on the other pairs.

    Args:
        model: the weights training starts from.
        groups: N pairs.
        max_tokens: unique tokens at once.
    """
    states = state_sums(model, groups, max_tokens=max_tokens, progress="CHES")
    best = [group.label.best if isinstance(group.label, Preferred) else 0 for group in groups]
    preferred = 2 * np.arange(len(groups)) + np.array(best, dtype=np.int64)
    sums, lengths, other = states.sums.numpy(), states.lengths.numpy(), preferred ^ 1
    return ches_of_sums(sums[preferred], lengths[preferred], sums[other], lengths[other])


def highest(found: Ches, num: int) -> NDArray[np.int64]:
    """(num,) positions of the pairs with the highest length-normalised score, the highest first."""
    return np.argsort(-found.normalised, kind="stable")[:num].astype(np.int64)
