"""Protocols of scorers, which give log-probabilities of groups; the loop knows models and references only by them.

A reward model is a scorer as well: its score of a completion takes the place of a log-probability, as if the completion
were one token. So everything between a scorer and a loss (micro-batches, replay, processes, dropped rows) is one code.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Protocol

from torch import Tensor

from exptilt.data.groups import Group
from exptilt.policies.engine.balance import Balance
from exptilt.types import LogProbs

MicroBatches = Sequence[Sequence[Group]]
"""The share of one process. All have equally many; an empty one keeps step with the others' forward passes."""

LossOf = Callable[[Sequence[Group], LogProbs], Tensor]
"""The sum of the losses of some groups, given their log-probabilities."""


class Scorer(Protocol):
    """Gives log-probabilities of all completions of some groups, in order."""

    @property
    def collective(self) -> bool:
        """Tell whether all processes must call it together, even without groups, because sharded weights are gathered by all."""

    def __call__(self, groups: Sequence[Group]) -> LogProbs:
        """Log-probabilities of all completions of these groups, nats."""


class TrainableScorer(Scorer, Protocol):
    """A scorer whose weights can take the gradient of a loss: the policy or the reward model that is trained."""

    @property
    def balance(self) -> Balance | None:
        """The router's balance loss of a mixture of experts, which every gradient includes; None for other models."""

    def backward(self, groups: Sequence[Group], loss_of: LossOf) -> None:
        """Add to `.grad` the gradient of a loss that is a sum over groups; `loss_of` gets some of the groups at a time."""


class ModelScorer(TrainableScorer, Protocol):
    """A trainable scorer around a model of transformers."""

    model: Any


class Reference(Scorer, Protocol):
    """A scorer that the policy is compared with, known by name."""

    @property
    def identity(self) -> str:
        """Fingerprint of the weights."""

    @property
    def source(self) -> str:
        """The origin of the weights, in words."""

    @property
    def model(self) -> Any:
        """The weights as a model, for samples and full distributions; None if only log-probabilities are stored."""


class ScorerFunction:
    """A plain function as a scorer that can be trained: torch's own backward goes through it.

    Example:
        >>> import torch
        >>> scorer = ScorerFunction(lambda groups: LogProbs(values=torch.zeros(2), lengths=torch.tensor([2])))
        >>> scorer([]).sum(), scorer.collective
        (tensor([0.]), False)
    """

    collective: ClassVar[bool] = False
    balance: ClassVar[None] = None

    def __init__(self, function: Callable[[Sequence[Group]], LogProbs]) -> None:
        self.function = function

    def __call__(self, groups: Sequence[Group]) -> LogProbs:
        """Call the function."""
        return self.function(groups)

    def backward(self, groups: Sequence[Group], loss_of: LossOf) -> None:
        """Add the gradient of the loss of all groups at once."""
        if groups:
            loss_of(groups, self.function(groups)).backward()  # type: ignore[no-untyped-call]
