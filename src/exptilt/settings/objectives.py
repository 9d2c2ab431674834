"""The catalogue of objectives, read from `objectives.json` and not from the losses, which need torch.

The file is a JSON Schema of what `loss:` in a recipe may hold, with the facts that people ask for beside it. It is generated from the
loss classes (`make docs`), and a test generates it again.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from exptilt.kinds import KINDS

PATH = Path(__file__).with_name("objectives.json")

SECTIONS = {kind.name: kind.title for kind in KINDS}
"""Headings of the catalogue by kind of loss."""
LABELS = ("Use when", "Known failure", "Source", "Example")
"""Labels of the paragraphs that end a loss's docstring."""


@dataclass(frozen=True, kw_only=True)
class Setting:
    """One hyper-parameter."""

    name: str
    default: Any
    help: str


@dataclass(frozen=True, kw_only=True)
class CatalogueEntry:
    """One loss as the catalogue shows it."""

    name: str
    class_name: str
    kind: str
    summary: str
    formula: str
    definition: str
    """Markdown: what the symbols mean, the formula, and what follows from it."""
    use_when: str
    known_failure: str
    source: str
    needs: tuple[str, ...]
    settings: tuple[Setting, ...]


@cache
def document() -> dict[str, Any]:
    """The content of `objectives.json`."""
    content: dict[str, Any] = json.loads(PATH.read_text(encoding="utf-8"))
    return content


def entries() -> tuple[CatalogueEntry, ...]:
    """Every loss of the catalogue, in its order.

    Example:
        >>> entry = next(entry for entry in entries() if entry.name == "simpo")
        >>> entry.needs, [(setting.name, setting.default) for setting in entry.settings]
        (('lengths',), [('beta', 2.0), ('gamma', 1.0)])
    """
    content = document()
    return tuple(_entry(definition(node, content)) for node in (*content["oneOf"], *content["x-reward-models"]))


def class_names() -> list[str]:
    """Names of the classes of all losses and their parts, such as `DPO` and `Term`."""
    return sorted(document()["$defs"])


def definition(node: Mapping[str, Any], content: Mapping[str, Any]) -> Mapping[str, Any]:
    """The part of a JSON Schema that a `$ref` points to; the node itself where it is no reference."""
    reference = node.get("$ref")
    found: Mapping[str, Any] = node if reference is None else content["$defs"][reference.rsplit("/", 1)[-1]]
    return found


def _entry(described: Mapping[str, Any]) -> CatalogueEntry:
    properties = dict(described["properties"])
    name = properties.pop("name")["const"]
    settings = (
        Setting(name=key, default=one.get("default"), help=one.get("description", ""))
        for key, one in properties.items()
    )
    facts = {**described["x-objective"], "needs": tuple(described["x-objective"]["needs"])}
    return CatalogueEntry(name=name, class_name=described["title"], settings=tuple(settings), **facts)
