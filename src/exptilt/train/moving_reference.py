"""TR-DPO's reference: a second model that follows the policy in jumps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from exptilt.data.groups import Group
from exptilt.policies.scoring import score
from exptilt.train.callbacks import Callback, Progress
from exptilt.train.sums import Sums
from exptilt.types import LogProbs


@dataclass
class MovingReference(Callback):
    """Scores with a reference that is moved toward the policy every `every` steps; saved in checkpoints.

        reference <- mix * policy + (1 - mix) * reference

    mix 1 is a copy (a hard update), 0 leaves it where it is. Nothing can be cached, and a second model is in memory.

    Source: Gorbatovski et al., "Learn Your Reference Model for Real Good Alignment", https://arxiv.org/abs/2404.09656.
    """

    policy: Any
    model: Any
    """The reference, in evaluation mode and without gradients; another object than the policy."""
    mix: float
    every: int

    def __call__(self, groups: Sequence[Group]) -> LogProbs:
        """Log-probabilities of all completions of these groups under the reference as it is now."""
        with torch.no_grad():
            return score(self.model, groups)

    def after_step(self, progress: Progress, sums: Sums) -> None:
        """Move when due."""
        if progress.step % self.every:
            return
        with torch.no_grad():
            for mine, its in zip(self.model.parameters(), self.policy.parameters(), strict=True):
                mine.lerp_(its, self.mix)

    def state(self) -> dict[str, Any]:
        """The reference's weights: without them a resumed run would compare with another model."""
        return {"model": self.model.state_dict()}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take the weights back."""
        self.model.load_state_dict(state["model"])
