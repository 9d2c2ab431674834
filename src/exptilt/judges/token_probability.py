"""The probability of a verdict, from the log-probabilities of its token."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any


def first_probability(tokens: Sequence[Mapping[str, Any]] | None, start: int, labels: tuple[str, str]) -> float | None:
    """P(the answer shown first) among the two labels, at the token that holds the verdict.

    Args:
        tokens: `choices[0].logprobs.content` of a chat completion: token, logprob, top_logprobs.
        start: position of the verdict's label in the reply's text.
        labels: of the answer shown first, and of the other.

    Returns:
        None where the server gave no log-probabilities, or not of both labels.

    Example:
        >>> top = [{"token": "K", "logprob": math.log(0.6)}, {"token": "M", "logprob": math.log(0.2)}]
        >>> first_probability([{"token": "K", "logprob": math.log(0.6), "top_logprobs": top}], 0, ("K", "M"))
        0.75
    """
    at = 0
    for token in tokens or ():
        at += len(token["token"])
        if at > start:
            mass = [_mass(token.get("top_logprobs") or (), label) for label in labels]
            return round(mass[0] / sum(mass), 12) if all(mass) else None
    return None


def _mass(top: Sequence[Mapping[str, Any]], label: str) -> float:
    return sum(math.exp(one["logprob"]) for one in top if one["token"].strip(" \"'\n").lower() == label.lower())
