"""A converted recipe as YAML with comments: the settings, what belongs to whom, and what has no counterpart."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Any

from exptilt.converters.conversion import Conversion
from exptilt.converters.draft import Fate
from exptilt.settings.yaml_source import to_yaml

_WIDTH = 116
_PLACEHOLDERS = {"model.path": "SET-ME", "data.train": "SET-ME", "output": "runs/converted"}
_SECTIONS = (
    "output",
    "seed",
    "model",
    "data",
    "adapter",
    "loss",
    "reference",
    "batch",
    "optim",
    "train",
    "parallel",
    "evaluate",
)


def recipe_text(conversion: Conversion) -> str:
    """The recipe with comments; every key of the source stands in it once."""
    lines = [
        f"# Converted from {', '.join(Path(file).name for file in conversion.files)} ({conversion.tool}) by `exptilt convert`.",
        "#",
    ]
    for outcome, title in (
        ("refused", "No counterpart; a run differs for these:"),
        ("used", "Used:"),
        ("no effect", "No effect here:"),
        ("default", "As by default:"),
    ):
        fates = [fate for fate in conversion.fates if fate.outcome == outcome]
        lines += [f"# {title}", *(_line(fate) for fate in fates)] if fates else []
    if conversion.remarks:
        lines += [
            "# What differs in meaning:",
            *(line for remark in conversion.remarks for line in _wrapped(f"- {remark}")),
        ]
    settings = nested(conversion)
    ordered = {name: settings[name] for name in (*_SECTIONS, *settings) if name in settings}
    return "\n".join(lines) + "\n" + to_yaml(ordered)


def nested(conversion: Conversion) -> dict[str, Any]:
    """The settings section by section, with `SET-ME` for what is still needed."""
    flat: dict[str, Any] = {key: _PLACEHOLDERS[key] for key in conversion.missing}
    flat.update(conversion.settings)
    settings: dict[str, Any] = {}
    for key, value in flat.items():
        node = settings
        *sections, name = key.split(".")
        for section in sections:
            node = node.setdefault(section, {})
        node[name] = value
    return settings


def _line(fate: Fate) -> str:
    value = to_yaml(fate.value, flow=True)
    value = value if len(value) <= 40 else f"{value[:37]}..."
    unsaid = "" if fate.stated else " (its default)"
    return "\n".join(_wrapped(f"- {fate.key}: {value}{unsaid} -> {fate.says}"))


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(" ".join(text.split()), _WIDTH, initial_indent="#   ", subsequent_indent="#     ")
