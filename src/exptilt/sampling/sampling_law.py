"""The distribution completions are drawn from: the model together with every setting that changes it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import fields, replace
from typing import Protocol

from exptilt.settings.declaration import config


class HasEos(Protocol):
    """The part of a tokenizer that the law needs."""

    eos_token_id: int | None


@config
class SamplingLaw:
    """A sampling law: the model's own distribution, or one changed by settings such as temperature or top-k.

    Only samples of the plain law (temperature 1, nothing truncated) may be scored with the model's full
    log-probabilities: with top-k or another temperature the KL of what was really sampled is another number, often
    twice as large.

    Example:
        >>> SamplingLaw(max_new_tokens=24).is_plain, SamplingLaw(temperature=0.7).is_plain
        (True, False)
    """

    temperature: float = 1.0
    """Divides the logits, >= 0; 1 is the model's own law, 0 takes the most likely token."""
    top_k: int = 0
    """Draw among the k most likely tokens only, >= 0; 0 keeps all."""
    top_p: float = 1.0
    """Draw among the likeliest tokens that hold this share of probability, in (0, 1]; 1 keeps all."""
    repetition_penalty: float = 1.0
    """Divides positive and multiplies negative logits of tokens already seen, > 0; 1 changes nothing."""
    min_new_tokens: int = 0
    """The end token cannot be drawn before this many tokens, >= 0."""
    max_new_tokens: int = 128
    """A completion not ended after this many tokens is cut there (`ended` is False), >= 1."""
    eos_ids: tuple[int, ...] | None = None
    """Token ids that end a completion and belong to it; null takes the tokenizer's end token, [] ends by length."""

    def __post_init__(self) -> None:
        self._require(0 <= self.temperature < float("inf"), "temperature", ">= 0 and finite")
        self._require(self.top_k >= 0, "top_k", ">= 0")
        self._require(0 < self.top_p <= 1, "top_p", "in (0, 1]")
        self._require(0 < self.repetition_penalty < float("inf"), "repetition_penalty", "> 0 and finite")
        self._require(self.max_new_tokens >= 1, "max_new_tokens", ">= 1")
        self._require(0 <= self.min_new_tokens <= self.max_new_tokens, "min_new_tokens", "in [0, max_new_tokens]")

    def _require(self, holds: bool, name: str, allowed: str) -> None:
        if not holds:
            raise ValueError(f"{name} must be {allowed}, got {getattr(self, name)}")

    @property
    def bends(self) -> dict[str, float]:
        """Names of the settings that take the law away from the model's own distribution."""
        plain = {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "repetition_penalty": 1.0, "min_new_tokens": 0}
        return {name: getattr(self, name) for name, value in plain.items() if getattr(self, name) != value}

    @property
    def is_plain(self) -> bool:
        """Tell whether every token is drawn from the model's own distribution."""
        return not self.bends

    def ending_at(self, end: HasEos | Iterable[int]) -> SamplingLaw:
        """Fill in `eos_ids` from a tokenizer or from ids, if they are not set already.

        Raises:
            ValueError: if the tokenizer has no end token.

        Example:
            >>> SamplingLaw().ending_at([2]).eos_ids
            (2,)
        """
        if self.eos_ids is not None:
            return self
        if isinstance(end, Iterable) and not hasattr(end, "eos_token_id"):
            return replace(self, eos_ids=tuple(int(token) for token in end))
        token = end.eos_token_id
        if token is None:
            raise ValueError("the tokenizer has no end token: set eos_ids of the sampling law ([] ends by length only)")
        return replace(self, eos_ids=(int(token),))


def require_plain(law: SamplingLaw, what: str) -> None:
    """Refuse a bent law if `what` scores samples with the model's own log-probabilities.

    Raises:
        ValueError: the law is bent; the message names the settings.
    """
    if law.bends:
        bent = ", ".join(f"{name}={value:g}" for name, value in law.bends.items())
        raise ValueError(
            f"{what} needs samples of the model's own distribution, but these were drawn with {bent}: full "
            "log-probabilities do not describe them. Sample again with temperature=1, top_k=0, top_p=1, "
            "repetition_penalty=1, min_new_tokens=0"
        )


def require_same(first: SamplingLaw, second: SamplingLaw, what: str) -> None:
    """Refuse to combine samples of two laws in `what`.

    Raises:
        ValueError: the laws differ; the message names the settings.
    """
    values = [(field.name, getattr(first, field.name), getattr(second, field.name)) for field in fields(first)]
    differing = [f"{name} {left} and {right}" for name, left, right in values if left != right]
    if differing:
        raise ValueError(f"{what} needs samples of one sampling law, but these differ: {'; '.join(differing)}")
