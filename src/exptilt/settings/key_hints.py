"""What was meant by a key that a recipe does not know."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from exptilt.settings.known_keys import all_keys, keys_at
from exptilt.settings.objectives import entries
from exptilt.settings.other_tools import word_for
from exptilt.wording import SURE, did_you_mean, nearest

_MOST = 3
"""So many places of one name are listed."""


def hint_for(cls: type[Any], values: Any, path: Sequence[str], value: Any = None) -> str:
    """The end of a message about an unknown key: the key that was meant, where one can be told.

    In this order: the same name in other letters or in another section; another tool's word for a key; a misspelling of a key
    of this section, then of any section; else the keys of this section.

    Args:
        cls: the recipe's class.
        values: the recipe as it is written.
        path: the unknown key.
        value: what was written there.

    Example:
        >>> from exptilt.settings.recipe import Recipe
        >>> hint_for(Recipe, {}, ["beta"]), hint_for(Recipe, {}, ["lr"]), hint_for(Recipe, {}, ["optim", "learnin_rate"])
        ("; did you mean 'loss.beta'?", "; it is 'optim.learning_rate' here", "; did you mean 'learning_rate'?")
    """
    path = [*path, *_only_key_below(value)]
    section, name = path[:-1], path[-1]
    known = all_keys(cls, values)
    same = [key for key in known if _plain(key) == _plain(".".join(path))]
    same = same or [key for key in known if _plain(key).rpartition(".")[2] == _plain(name)]
    if same:
        shown = [key for key in same if not key.startswith(("sft.", "critic."))] or same
        return f"; did you mean {' or '.join(map(repr, shown[:_MOST]))}?"
    word = word_for(name, value)
    if word is not None:
        place = f"it is {word.ours!r} here" if word.ours else "it has no counterpart here"
        return f"; {place}{word.note and f' ({word.note})'}"
    here = keys_at(cls, values, section)
    owners = _losses_with(name) if section == ["loss"] else []
    if owners:
        return f"; it is a key of {' and '.join(owners[:_MOST])}"
    near = nearest(name, here)
    if near is not None:
        return f"; did you mean {near!r}?"
    far = nearest(name, [key.rpartition(".")[2] for key in known], SURE)
    if far is not None:
        return hint_for(cls, values, [far])
    return did_you_mean(name, here or keys_at(cls, values, []))


def _losses_with(name: str) -> list[str]:
    return [entry.name for entry in entries() if name in {setting.name for setting in entry.settings}]


def _only_key_below(value: Any) -> list[str]:
    """The keys down to the one that is written in an unknown section, such as `Beta` in `Loss: {Beta: 0.2}`."""
    if not isinstance(value, Mapping) or len(value) != 1:
        return []
    ((key, inner),) = value.items()
    return [str(key), *_only_key_below(inner)]


def _plain(key: str) -> str:
    return key.lower().replace("-", "_")
