"""What the policy is measured against, decided in one place and known by name.

By default the reference is the weights the run starts from: their log-probabilities of everything the run will see are
computed once, before step 1, so no second model is held while training.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from exptilt.data.groups import Group
from exptilt.policies.fingerprint import fingerprint
from exptilt.policies.forward import causal_lm
from exptilt.policies.reference import ReferenceCache, reference_logps
from exptilt.policies.world import World
from exptilt.recipes.assembly import other_model
from exptilt.recipes.recipe import Recipe
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
    rows: dict[bytes, LogProbs]
    live: Any = None
    """The reference model itself, where the objective needs its full distributions; else None."""

    def __call__(self, groups: Sequence[Group]) -> LogProbs:
        """Log-probabilities of all completions of these groups, in order."""
        return LogProbs.cat([self.rows[_key(group)] for group in groups]).to(self.device)


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
        groups: everything that will be scored, training and held-out rows alike.
        held: the reference as a model, where there is one already.
        weights: fingerprint of the reference; default, it is taken here.
        world: the processes that share the work.
    """
    other, live = recipe.reference.model, "divergence" in recipe.loss.byproducts
    if held is None and (other is not None or live):
        held = reference_model(recipe, start)
    model = held if other is not None else start
    identity = weights or fingerprint(model)
    unique = {_key(group): group for group in groups}
    scored = reference_logps(
        ReferenceCache() if recipe.reference.cache else None,
        model,
        list(unique.values()),
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
        rows=dict(zip(unique, scored, strict=True)),
        live=held if live else None,
    )


def _key(group: Group) -> bytes:
    digest = hashlib.blake2b(group.prompt.tobytes(), digest_size=16)
    for completion in group.completions:
        digest.update(b"|" + completion.ids.tobytes() + b"|" + completion.counted.tobytes())
    return digest.digest()
