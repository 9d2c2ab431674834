"""Objects of a Python program under names that stand where a path stands: `memory:model-1f0c2ab49d03e517`.

A recipe holds plain values, so a model, a tokenizer or rows in memory enter it by a name. The name is a digest of the content:
two recipes are equal exactly when their objects are, and a run goes on only with what it started with. Whoever takes
a path asks `is_in_memory` first. Names mean something inside `holding` alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Lock
from typing import Any, TypeGuard

from exptilt.errors import ConfigError

PREFIX = "memory:"
_DIGITS = 16
"""Hexadecimal digits of a digest in a name."""
_held: dict[str, list[InMemory]] = {}
"""By name; a list, as calls may hold one object at the same time."""
_lock = Lock()


@dataclass(frozen=True)
class InMemory:
    """An object and its name.

    Example:
        >>> rows = InMemory.named("rows", "1f0c2ab49d03e5170000", [{"prompt": "2 + 2 ="}])
        >>> rows.name, rows.what
        ('memory:rows-1f0c2ab49d03e517', 'rows')
        >>> with holding(rows):
        ...     from_memory("memory:rows-1f0c2ab49d03e517").content
        [{'prompt': '2 + 2 ='}]
    """

    name: str
    content: Any
    in_place: bool = False
    """Whether a run trains this very model, and not a copy of it."""

    @classmethod
    def named(cls, what: str, digest: str, content: Any, *, in_place: bool = False) -> InMemory:
        """An object under the name that its kind and the digest of its content give."""
        return cls(f"{PREFIX}{what}-{digest[:_DIGITS]}", content, in_place)

    @property
    def what(self) -> str:
        """What it is, as its name says: `model`, `tokenizer`, `rows`."""
        return kind_in(self.name)


@contextmanager
def holding(*objects: InMemory) -> Iterator[None]:
    """Give names their meaning while a block runs."""
    with _lock:
        for each in objects:
            _held.setdefault(each.name, []).append(each)
    try:
        yield
    finally:
        with _lock:
            for each in objects:
                _held[each.name].remove(each)
                if not _held[each.name]:
                    del _held[each.name]


def is_in_memory(path: str | None) -> TypeGuard[str]:
    """Tell whether a path is the name of an object, held or not."""
    return path is not None and path.startswith(PREFIX)


def kind_in(name: str) -> str:
    """What an object is, by its name."""
    return name.removeprefix(PREFIX).rpartition("-")[0] or "object"


def shown_name(path: str) -> str:
    """A path for a person: of an object, what it is.

    Example:
        >>> shown_name("memory:rows-1f0c2ab49d03e517"), shown_name("pairs.jsonl")
        ('rows', 'pairs.jsonl')
    """
    return kind_in(path) if is_in_memory(path) else path


def from_memory(name: str) -> InMemory:
    """The object of a name.

    Raises:
        ConfigError: no object of this name is held.
    """
    held = _held.get(name)
    if held is None:
        raise ConfigError(
            f"{name}: stands for an object ({kind_in(name)}) that a Python program gave to exptilt; only the same call in such "
            "a program can use it again"
        )
    return held[-1]
