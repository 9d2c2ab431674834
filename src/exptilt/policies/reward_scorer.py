"""A reward model for the loop: it gives each completion one score, and takes gradients of a loss on scores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor

from exptilt.data.batching import by_size
from exptilt.data.groups import Group
from exptilt.policies.engine.balance import Balance
from exptilt.policies.engine.forward import evaluating
from exptilt.policies.engine.inside import inside
from exptilt.policies.engine.pooled import has_score, pooled_scores
from exptilt.policies.engine.self_check import packable
from exptilt.policies.scorer import LossOf
from exptilt.progress import progress_bar
from exptilt.settings.data_settings import DEFAULT_TOKENS
from exptilt.types import LogProbs


@dataclass(eq=False)
class RewardScorer:
    """A reward model that is trained. Its `LogProbs` hold one number per completion: the score."""

    collective: ClassVar[bool] = True
    model: Any
    balance: Balance | None = field(init=False)
    """The router's balance loss, added to every gradient of a mixture of experts whose config switches it on."""

    def __post_init__(self) -> None:
        self.balance = Balance.of(self.model)

    def __call__(self, groups: Sequence[Group]) -> LogProbs:
        """Scores of all completions, with a graph."""
        scores = inside(self.model, self._scores, groups)
        return LogProbs(values=scores, lengths=torch.ones(len(scores), dtype=torch.int64, device=scores.device))

    def backward(self, groups: Sequence[Group], loss_of: LossOf) -> None:
        """Add the gradient of a loss that is a sum over groups; without groups it adds zeros, in step with other processes."""
        loss_of(groups, self(groups)).backward()  # type: ignore[no-untyped-call]

    def _scores(self, groups: Sequence[Group]) -> Tensor:
        return pooled_scores(
            self.model, groups, packed=has_score(self.model) and packable(self.model), balance=self.balance
        )


def scores_of_groups(
    model: Any, groups: Sequence[Group], *, max_tokens: int = DEFAULT_TOKENS, progress: str = ""
) -> list[Tensor]:
    """Scores of each group's completions, in order, without gradients and with dropout off.

    Args:
        model: a reward model of any build, an encoder too.
        groups: any number.
        max_tokens: unique tokens scored at once; a larger group goes alone.
        progress: name of the progress bar; empty for none.

    Returns:
        (K,) float64 for each group, on the CPU.
    """
    scorer, found = RewardScorer(model), dict[int, Tensor]()
    bar = progress_bar(len(groups), doing=progress, unit="row", shown=bool(progress))
    with evaluating(model), torch.no_grad(), bar:
        for batch in by_size([group.num_tokens for group in groups], max_tokens):
            scores = scorer([groups[index] for index in batch]).sum().double().cpu()
            found |= zip(batch, torch.split(scores, [len(groups[index].completions) for index in batch]), strict=True)
            bar.update(len(batch))
    return [found[index] for index in range(len(groups))]
