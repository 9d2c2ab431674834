"""Weighted sums of pairwise losses: `0.8 DPO + 0.2 BCO + 1.0 NLL`, anchors included."""

from __future__ import annotations

import warnings
from typing import Annotated, Any, ClassVar, Literal

from torch import Tensor

from exptilt.kinds import PAIR
from exptilt.losses.anchors import NLL, LinearAnchor
from exptilt.losses.base import Loss, State, batch_arguments, seen_by
from exptilt.losses.bco import BCO
from exptilt.losses.dpo import DPO
from exptilt.settings.declaration import config
from exptilt.settings.ranges import Finite, NonNegative, NotEmpty, Positive
from exptilt.types import Pair, PairLoss


@config
class Term:
    """One term of a sum.

    Example:
        >>> from exptilt.losses import DPO
        >>> Term(loss=DPO(beta=0.2), weight=0.5).loss.beta
        0.2
    """

    loss: Loss
    """A loss on pairs, or an anchor."""
    weight: Finite = 1.0
    """Its weight, finite; negative only if you mean to push the other way."""

    def __post_init__(self) -> None:
        if self.loss.kind != PAIR or isinstance(self.loss, WeightedSum):
            raise ValueError(f"loss must be a loss on pairs or an anchor, and no sum itself, got {self.loss.name}")


class WeightedSum(Loss):
    """What a sum of losses needs is what its terms need."""

    kind: ClassVar = PAIR

    def parts(self) -> tuple[Term, ...]:
        """The terms of the sum."""
        raise TypeError(f"{type(self).__name__} must say what its terms are")

    def _any(self, attribute: str) -> bool:
        return any(getattr(term.loss, attribute) for term in self.parts())

    def _union(self, attribute: str) -> tuple[str, ...]:
        return tuple(dict.fromkeys(name for term in self.parts() for name in getattr(term.loss, attribute)))

    @property
    def needs_reference(self) -> bool:  # type: ignore[override]
        """Where a term does."""
        return self._any("needs_reference")

    @property
    def needs_lengths(self) -> bool:  # type: ignore[override]
        """Where a term does."""
        return self._any("needs_lengths")

    @property
    def needs_tokens(self) -> bool:  # type: ignore[override]
        """Where a term does."""
        return self._any("needs_tokens")

    @property
    def couples_batch(self) -> bool:  # type: ignore[override]
        """Where a term does."""
        return self._any("couples_batch")

    @property
    def takes_keys(self) -> bool:  # type: ignore[override]
        """Where a term does."""
        return self._any("takes_keys")

    @property
    def is_stateful(self) -> bool:  # type: ignore[override]
        """Where a term is."""
        return self._any("is_stateful")

    @property
    def byproducts(self) -> tuple[str, ...]:  # type: ignore[override]
        """Those of all terms."""
        return self._union("byproducts")

    @property
    def inputs(self) -> tuple[str, ...]:  # type: ignore[override]
        """Those of all terms."""
        return self._union("inputs")

    def initial_state(self) -> State:
        """The states of all stateful terms, keys prefixed by the term's place."""
        return {
            f"{place}.{key}": value for place, loss in self._stateful() for key, value in loss.initial_state().items()
        }

    def next_state(self, state: State, policy: Pair, reference: Pair | None, weights: Tensor | None = None) -> State:
        """The states of all stateful terms with this batch counted in."""
        advanced = {
            place: loss.next_state(_state_of(place, state), policy, reference, **batch_arguments(loss, weights))
            for place, loss in self._stateful()
        }
        return {f"{place}.{key}": value for place, part in advanced.items() for key, value in part.items()}

    def _stateful(self) -> list[tuple[int, Any]]:
        return [(place, term.loss) for place, term in enumerate(self.parts()) if term.loss.is_stateful]

    def __call__(
        self,
        policy: Pair,
        reference: Pair | None = None,
        state: State | None = None,
        weights: Tensor | None = None,
        keys: Tensor | None = None,
        **inputs: Tensor,
    ) -> PairLoss:
        """The weighted sum of each pair's losses, (B,), and the rewards of the first term."""
        total: Tensor | None = None
        first: PairLoss | None = None
        for place, term in enumerate(self.parts()):
            wanted: dict[str, Any] = {name: inputs.get(name) for name in term.loss.inputs}
            wanted |= batch_arguments(term.loss, weights, keys)
            if term.loss.is_stateful and state is not None:
                wanted["state"] = _state_of(place, state)
            loss: Any = term.loss
            out: PairLoss = loss(*seen_by(term.loss, policy, reference), **wanted)
            total = term.weight * out.loss if total is None else total + term.weight * out.loss
            first = first or out
        if total is None or first is None:
            raise ValueError("terms must hold at least one loss")
        return PairLoss(total, first.chosen_reward, first.rejected_reward)


@config
class Mixture(WeightedSum):
    """A weighted sum of pairwise losses and anchors.

    With a weight w_i for every term,

        loss = sum_i w_i * loss_i

    The rewards reported are those of the first term. The default, DPO plus the NLL of the chosen completion, is that of
    Iterative RPO (https://arxiv.org/abs/2404.19733).

    Use when: a contrast needs an anchor on absolute likelihoods, or several signals are combined.
    Known failure: terms live on different scales (nats per token, per completion, squares); look at each in the
    metrics.
    Source: the weights multiply the terms as in TRL from 0.12; TRL 0.9 weighted DPO instead of the NLL. Checked
    against TRL's code; there is no equation to cite.

    Example:
        >>> import torch
        >>> from exptilt.types import LogProbs
        >>> def side(total): return LogProbs.from_sums(torch.tensor([total]), torch.tensor([4]))
        >>> mixture = Mixture(terms=(Term(loss=DPO(beta=0.1)), Term(loss=NLL(), weight=0.5)))
        >>> policy, reference = Pair(side(-8.0), side(-14.0)), Pair(side(-10.0), side(-12.0))
        >>> round(mixture(policy, reference).loss.item(), 6)  # 0.513015 + 0.5 * 2
        1.513015
    """

    name: Literal["mixture"] = "mixture"
    terms: Annotated[tuple[Term, ...], NotEmpty("loss")] = (Term(loss=DPO()), Term(loss=NLL()))
    """Terms of the sum, each {weight, loss}; the first gives the reported rewards."""

    def __post_init__(self) -> None:
        if any(isinstance(term.loss, LinearAnchor) and not term.loss.allow_unbounded for term in self.terms):
            warnings.warn(
                "anchor_linear is not an anchor: it has no finite optimum and only rewards the margin without end; "
                "use nll or anchor_reference_hinge, or set allow_unbounded: true",
                stacklevel=2,
            )

    def parts(self) -> tuple[Term, ...]:
        """The terms of the sum."""
        return self.terms


@config
class MPO(WeightedSum):
    """Mixed Preference Optimization (Wang et al., 2024): preference, quality and generation at once.

    With DPO and BCO at one beta and NLL of the chosen completion,

        loss = preference_weight * DPO + quality_weight * BCO + generation_weight * NLL

    Use when: reproducing InternVL's recipe; for other terms use `mixture`.
    Known failure: as its terms'; the NLL usually dominates.
    Source: https://arxiv.org/abs/2411.10442, weights 0.8, 0.2, 1.0. BCO has its running mean; NLL is per
    completion. The formula was checked against TRL's code, the equation number is unchecked.

    Example:
        >>> import torch
        >>> from exptilt.types import LogProbs
        >>> def side(total): return LogProbs.from_sums(torch.tensor([total]), torch.tensor([4]))
        >>> pair = Pair(side(-8.0), side(-14.0))
        >>> round(MPO()(pair, pair).loss.item(), 6)  # 0.8 log 2 + 0.2 * 2 log 2 + 2
        2.831777
    """

    name: Literal["mpo"] = "mpo"
    beta: Positive = 0.1
    """Strength of the pull toward the reference, > 0."""
    preference_weight: NonNegative = 0.8
    """Weight of DPO, >= 0."""
    quality_weight: NonNegative = 0.2
    """Weight of BCO, >= 0."""
    generation_weight: NonNegative = 1.0
    """Weight of the NLL of the chosen completion, >= 0."""

    def parts(self) -> tuple[Term, ...]:
        """The terms of the sum."""
        return (
            Term(loss=DPO(beta=self.beta), weight=self.preference_weight),
            Term(loss=BCO(beta=self.beta), weight=self.quality_weight),
            Term(loss=NLL(), weight=self.generation_weight),
        )


def _state_of(place: int, state: State) -> State:
    prefix = f"{place}."
    return {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
