"""The reference's log-probabilities of the completions of one rollout, as a scorer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray

from exptilt.data.groups import Completion, Group
from exptilt.online.rollout import Rollout
from exptilt.types import LogProbs


class RolloutReference:
    """Looks up what the reference said when the rollout was scored, so that the reference runs once for all updates on it."""

    collective: ClassVar[bool] = False

    def __init__(self, identity: str, source: str, device: torch.device) -> None:
        self.identity, self.source = identity, source
        self.model = None
        self._device = device
        self._known: dict[tuple[bytes, bytes], NDArray[np.float32]] = {}

    def take(self, rollout: Rollout) -> None:
        """Answer for this rollout from now on, and for no earlier one."""
        parts = iter(np.split(rollout.reference, np.cumsum(rollout.lengths)[:-1]))
        self._known = {
            _key(group, completion): next(parts) for group in rollout.groups for completion in group.completions
        }

    def __call__(self, groups: Sequence[Group]) -> LogProbs:
        """Log-probabilities of all completions of these groups, in order."""
        parts = [self._known[_key(group, completion)] for group in groups for completion in group.completions]
        values = torch.from_numpy(np.concatenate([np.zeros(0, np.float32), *parts]))
        return LogProbs(values=values, lengths=torch.tensor([len(part) for part in parts])).sent_to(self._device)


def _key(group: Group, completion: Completion) -> tuple[bytes, bytes]:
    return group.prompt.tobytes(), completion.ids.tobytes()
