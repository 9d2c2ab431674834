"""Changes to a recipe that make a run smaller, the cheapest first."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from exptilt.settings.model_settings import AdapterConfig
from exptilt.settings.recipe import Recipe

Change = Callable[[Recipe], Recipe]


def _checkpointing(recipe: Recipe) -> Recipe:
    return replace(recipe, train=replace(recipe.train, gradient_checkpointing=True))


def _sharded(recipe: Recipe) -> Recipe:
    return replace(recipe, parallel=replace(recipe.parallel, kind="fsdp"))


def _adapted(recipe: Recipe) -> Recipe:
    return replace(recipe, adapter=recipe.adapter or AdapterConfig())


def _four_bits(recipe: Recipe) -> Recipe:
    return replace(_adapted(recipe), model=replace(recipe.model, quantize="nf4"))


_KEYS: dict[str, Change] = {
    "train.gradient_checkpointing=true": _checkpointing,
    "parallel.kind=fsdp": _sharded,
    "adapter.rank=16": _adapted,
    "model.quantize=nf4": _four_bits,
}
_TOGETHER = ((0,), (1,), (0, 1), (2,), (0, 2), (0, 1, 2), (2, 3), (0, 2, 3))
"""Combinations of the keys above, by index, in the order they are offered."""


def changes_of(recipe: Recipe, devices: int) -> list[tuple[str, Recipe]]:
    """Recipes with their changed keys, the unchanged recipe first; changes already made or impossible are left out.

    Example:
        >>> from exptilt.settings.load import load
        >>> run = load(Recipe, None, ["output=runs/a", "model.path=m", "data.train=t.jsonl"])
        >>> [keys for keys, _ in changes_of(run, devices=1)][:3]
        ['', 'train.gradient_checkpointing=true', 'adapter.rank=16']
    """
    changed_recipes = [("", recipe)]
    keys = list(_KEYS)
    for indices in _TOGETHER:
        if 1 in indices and devices == 1:
            continue
        changed = recipe
        try:
            for index in indices:
                if _KEYS[keys[index]](changed) == changed:
                    break
                changed = _KEYS[keys[index]](changed)
            else:
                changed_recipes.append((" ".join(keys[index] for index in indices), changed))
        except ValueError:  # an adapter beside weights from scratch, shards of 4-bit weights
            continue
    return changed_recipes
