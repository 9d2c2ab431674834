"""References that the policy is compared with: a table of log-probabilities or a model. One class each.

    TableReference       log-probabilities of everything a run will see, scored once; no second model is held
    LiveReference        another model, or a frozen copy of the starting weights
    AdapterOffReference  the policy's own model with its adapter switched off
    MovingReference      follows the policy in jumps (training/callbacks/moving_reference.py: it is a callback, too)

By default the reference is the weights the run starts from, and a table is enough.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch

from exptilt.data.groups import Group
from exptilt.policies.adapters import AdapterOff
from exptilt.policies.engine.forward import causal_lm
from exptilt.policies.fingerprint import fingerprint
from exptilt.policies.reference.kept_logps import KeptLogProbs
from exptilt.policies.reference.reference_cache import ReferenceCache
from exptilt.policies.reference.scores import key_of, score_reference
from exptilt.policies.scoring import score
from exptilt.processes.world import World
from exptilt.settings.data_settings import DEFAULT_TOKENS
from exptilt.types import LogProbs

START = "the weights this run starts from"
"""The source of the default reference, in words."""


@dataclass(frozen=True)
class TableReference:
    """A table of the log-probabilities of every completion that a run will score, in main memory."""

    collective: ClassVar[bool] = False
    model: ClassVar[None] = None

    identity: str
    source: str
    device: torch.device
    """Device of the returned log-probabilities."""
    rows: KeptLogProbs
    only_sums: bool = False
    """Whether completions are told by their sums alone, which most objectives read."""

    def __call__(self, groups: Sequence[Group]) -> LogProbs:
        """Log-probabilities of all completions of these groups, in order."""
        keys = (key_of(group) for group in groups)
        if not self.only_sums:
            return self.rows.of(keys).sent_to(self.device)
        sums = self.rows.sums_of(keys)
        return (sums.to(torch.float32) if self.device.type == "mps" else sums).sent_to(self.device)

    def as_sums(self) -> TableReference:
        """Reduce the table to sums, for objectives that read nothing else."""
        return replace(self, only_sums=True)


@dataclass(frozen=True, eq=False)
class LiveReference:
    """A frozen model that scores any groups."""

    collective: ClassVar[bool] = True

    model: Any
    identity: str
    source: str

    def __call__(self, groups: Sequence[Group]) -> LogProbs:
        """Log-probabilities of all completions of these groups, without a graph."""
        return score_without_graph(self.model, groups)


@dataclass(frozen=True, eq=False)
class AdapterOffReference:
    """The policy's model with its adapter switched off: the starting weights, without a second copy of them."""

    collective: ClassVar[bool] = True

    policy: Any
    """The PEFT model that is trained."""
    identity: str
    source: str = START

    @property
    def model(self) -> AdapterOff:
        """The base model, for samples and divergences."""
        return AdapterOff(self.policy)

    def __call__(self, groups: Sequence[Group]) -> LogProbs:
        """Log-probabilities of all completions of these groups, without a graph."""
        return score_without_graph(self.model, groups)


def score_without_graph(model: Any, groups: Sequence[Group]) -> LogProbs:
    """Log-probabilities under a model, without a graph."""
    with torch.no_grad():
        return score(model, groups)


def table_reference(
    model: Any,
    groups: Sequence[Group],
    *,
    source: str = START,
    identity: str = "",
    cache: bool = True,
    max_tokens: int = DEFAULT_TOKENS,
    world: World | None = None,
) -> TableReference:
    """Score groups with a model, or take their log-probabilities from the cache.

    Args:
        model: the reference, in evaluation or training mode; its weights stay as they are.
        groups: everything that will be asked for, training and held-out rows alike; taken batch by batch, see `Chained`.
        source: the origin of the weights, in words.
        identity: fingerprint of the weights; default, it is taken here (sharded weights cannot be).
        cache: whether to look into the cache on disk, and to keep what is new there.
        max_tokens: unique tokens scored at once.
        world: the processes that share the work.
    """
    identity = identity or fingerprint(model)
    rows = score_reference(
        ReferenceCache() if cache else None,
        model,
        groups,
        max_tokens=max_tokens,
        progress="reference",
        weights=identity,
        world=world,
    )
    return TableReference(identity, source, causal_lm(model).device, rows)
