"""TR-DPO's reference: a second model that follows the policy in jumps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from exptilt.data.groups import Group
from exptilt.policies.reference.references import score_without_graph
from exptilt.policies.sharding import reshard
from exptilt.training.callbacks.callback import Callback, Progress
from exptilt.training.sums import Sums
from exptilt.types import LogProbs


@dataclass
class MovingReference(Callback):
    """Scores with a reference that is moved toward the policy every `every` steps; saved in checkpoints.

        reference <- mix * policy + (1 - mix) * reference

    A mix of 1 copies the policy (a hard update), 0 leaves the reference unchanged. Nothing can be cached, and a second model is in memory.
    Only weights that are trained move; with an adapter these are its factors, so that with a mix below 1 the reference's
    update is a product of means, not the mean of products. Both models are cut into shards alike, or neither is: each
    process then moves its own.

    Source: Gorbatovski et al., "Learn Your Reference Model for Real Good Alignment", https://arxiv.org/abs/2404.09656.
    """

    policy: Any
    model: Any
    """The reference, in evaluation mode and without gradients; another object than the policy."""
    mix: float
    every: int
    identity: str = ""
    """Fingerprint of the weights it started from."""
    source: ClassVar[str] = "a copy of the starting weights that follows the policy"
    collective: ClassVar[bool] = True

    def __call__(self, groups: Sequence[Group]) -> LogProbs:
        """Log-probabilities of all completions of these groups under the current reference."""
        return score_without_graph(self.model, groups)

    def after_step(self, progress: Progress, sums: Sums) -> None:
        """Move the reference if it is due."""
        if progress.step % self.every:
            return
        with torch.no_grad():
            for mine, its in self._pairs().values():
                mine.lerp_(its.to(mine.dtype), self.mix)

    def state(self) -> dict[str, Any]:
        """The weights that moved; without them a resumed run would compare with another model."""
        return {"model": {name: mine.detach() for name, (mine, _) in self._pairs().items()}}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Restore saved weights."""
        pairs = self._pairs()
        with torch.no_grad():
            for name, weights in state["model"].items():
                pairs[name][0].copy_(weights)

    def _pairs(self) -> dict[str, tuple[Tensor, Tensor]]:
        """The reference's and the policy's tensor of every trained weight, by name."""
        reshard(self.model)
        reshard(self.policy)
        mine = dict(self.model.named_parameters())
        return {name: (mine[name], its) for name, its in self.policy.named_parameters() if its.requires_grad}
