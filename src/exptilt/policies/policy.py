"""The trained model for the loop: it scores groups, and it takes gradients of a loss on them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from exptilt.data.groups import Group
from exptilt.policies.engine.balance import Balance
from exptilt.policies.engine.inside import beside
from exptilt.policies.scorer import LossOf
from exptilt.policies.scoring import head_gradients, score
from exptilt.types import LogProbs


@dataclass(eq=False)
class Policy:
    """A trained model, with the by-products and the balance loss that its objective needs."""

    collective: ClassVar[bool] = True
    model: Any
    byproducts: tuple[str, ...] = ()
    reference: Any = None
    """The model that "divergence" and "kl" compare with."""
    balance: Balance | None = field(init=False)
    """The router's balance loss, added to every gradient of a mixture of experts whose config switches it on."""

    def __post_init__(self) -> None:
        self.balance = Balance.of(self.model)

    @property
    def _options(self) -> dict[str, Any]:
        return {"byproducts": self.byproducts, "reference": self.reference, "balance": self.balance}

    def __call__(self, groups: Sequence[Group]) -> LogProbs:
        """Log-probabilities of all completions, with a graph."""
        return beside(self.reference, lambda: score(self.model, groups, **self._options))

    def backward(self, groups: Sequence[Group], loss_of: LossOf) -> None:
        """Add the gradient of a loss that is a sum over groups; `loss_of` receives some of the groups at a time.

        Without groups it runs forward and backward all the same, and adds zeros: sharded weights are gathered by all
        processes together or not at all.
        """
        hidden, gradient = beside(self.reference, lambda: head_gradients(self.model, groups, loss_of, **self._options))
        hidden.backward(gradient)  # type: ignore[no-untyped-call]
