"""What the policy is measured against, decided in one place and known by name.

By default the reference is the weights the run starts from: their log-probabilities of everything the run will see are
computed once, before step 1, so no second model is held while training.
"""

from __future__ import annotations

import copy
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, chain
from typing import Any, overload

import torch

from exptilt.data.groups import Group
from exptilt.policies.engine.forward import causal_lm
from exptilt.policies.fingerprint import fingerprint
from exptilt.policies.reference.kept_logps import KeptLogProbs
from exptilt.policies.reference.reference_cache import ReferenceCache
from exptilt.policies.reference.scores import key_of, score_reference
from exptilt.processes.world import World
from exptilt.runs.run_models import other_model
from exptilt.settings.recipe import Recipe
from exptilt.types import LogProbs


@dataclass
class ReferenceTable:
    """Reference log-probabilities of every completion a run will see; call it with groups."""

    identity: str
    """Fingerprint of the weights."""
    source: str
    """In words, where they came from."""
    is_start: bool
    """Whether they are the weights the run starts from."""
    device: torch.device
    """Where log-probabilities are wanted; the table itself stays in main memory."""
    rows: KeptLogProbs
    live: Any = None
    """The reference model itself, where the objective needs its full distributions; else None."""

    def __call__(self, groups: Sequence[Group]) -> LogProbs:
        """Log-probabilities of all completions of these groups, in order."""
        return self.rows.of(key_of(group) for group in groups).sent_to(self.device)

    def sums(self, groups: Sequence[Group]) -> LogProbs:
        """The same, for objectives that read nothing but sums."""
        found = self.rows.sums_of(key_of(group) for group in groups)
        return (found.to(torch.float32) if self.device.type == "mps" else found).sent_to(self.device)


class Together(Sequence[Group]):
    """Several sequences of groups as one, without a copy: what is mapped from a file stays there.

    Example:
        >>> both = Together(["a", "b"], [], ["c"])
        >>> len(both), both[2], both[-2], both[1:], list(both)
        (3, 'c', 'b', ['b', 'c'], ['a', 'b', 'c'])
    """

    def __init__(self, *parts: Sequence[Group]) -> None:
        self._parts = parts
        self._ends = list(accumulate(len(part) for part in parts))

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    @overload
    def __getitem__(self, index: int) -> Group: ...
    @overload
    def __getitem__(self, index: slice) -> list[Group]: ...
    def __getitem__(self, index: int | slice) -> Group | list[Group]:
        if isinstance(index, slice):
            return [self[at] for at in range(*index.indices(len(self)))]
        at = index + len(self) if index < 0 else index
        if not 0 <= at < len(self):
            raise IndexError(f"there are {len(self)} groups, and none at {index}")
        place = bisect_right(self._ends, at)
        return self._parts[place][at - (self._ends[place - 1] if place else 0)]

    def __iter__(self) -> Iterator[Group]:
        return chain.from_iterable(self._parts)


def reference_model(recipe: Recipe, start: Any) -> Any:
    """The reference as a model: another one if the recipe names it, else a frozen copy of the starting weights."""
    if recipe.reference.model is not None:
        return other_model(recipe, start.device)
    return copy.deepcopy(start).eval().requires_grad_(False)


def reference_table(
    recipe: Recipe,
    start: Any,
    groups: Sequence[Group],
    *,
    held: Any = None,
    weights: str = "",
    world: World | None = None,
) -> ReferenceTable:
    """Score groups with the reference a recipe names, or take them from the cache.

    Args:
        recipe: names the reference and whether to cache.
        start: the model as it is before step 1.
        groups: everything that will be scored, training and held-out rows alike; taken batch by batch, see `Together`.
        held: the reference as a model, where there is one already.
        weights: fingerprint of the reference; default, it is taken here.
        world: the processes that share the work.
    """
    other, live = recipe.reference.model, "divergence" in recipe.loss.byproducts
    if held is None and (other is not None or live):
        held = reference_model(recipe, start)
    model = held if other is not None else start
    identity = weights or fingerprint(model)
    rows = score_reference(
        ReferenceCache() if recipe.reference.cache else None,
        model,
        groups,
        max_tokens=recipe.batch.at_once,
        progress="reference",
        weights=identity,
        world=world,
    )
    return ReferenceTable(
        identity=identity,
        source=other or "the weights this run starts from",
        is_start=other is None,
        device=causal_lm(model).device,
        rows=rows,
        live=held if live else None,
    )
