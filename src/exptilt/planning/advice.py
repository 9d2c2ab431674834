"""What could be changed about a run that does not fit, from the least to the most that is given up."""

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
"""Which of these at once, in the order in which they are offered."""


def changes_of(recipe: Recipe, devices: int) -> list[tuple[str, Recipe]]:
    """Changed recipes, each with the keys to write, the recipe as it is first; what is set already or cannot be is left out.

    Example:
        >>> from exptilt.settings.load import load
        >>> run = load(Recipe, None, ["output=runs/a", "model.path=m", "data.train=t.jsonl"])
        >>> [keys for keys, _ in changes_of(run, devices=1)][:3]
        ['', 'train.gradient_checkpointing=true', 'adapter.rank=16']
    """
    found = [("", recipe)]
    keys = list(_KEYS)
    for places in _TOGETHER:
        if 1 in places and devices == 1:
            continue
        changed = recipe
        try:
            for place in places:
                if _KEYS[keys[place]](changed) == changed:
                    break
                changed = _KEYS[keys[place]](changed)
            else:
                found.append((" ".join(keys[place] for place in places), changed))
        except ValueError:  # an adapter beside weights from scratch, shards of 4-bit weights
            continue
    return found
