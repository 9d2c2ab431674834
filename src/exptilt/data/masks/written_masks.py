"""What people say of masks as rows of a manifest."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_ABOUT = (
    "num_raters",
    "num_orders",
    "margin",
    "both_desirable",
    "chosen_model",
    "rejected_model",
    "models",
    "model",
    "score",
)
"""Columns of a row of preferences that a manifest keeps in `meta`."""


def mask_row(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row of preferences, a ranking or a rating whose prompt shows an image and whose completions are masks, for a manifest.

    Example:
        >>> shown = [{"role": "user", "content": [{"type": "image", "image": "a.png"}]}]
        >>> sides = [[{"role": "assistant", "content": name}] for name in ("m/1.png", "m/2.png")]
        >>> mask_row({"prompt": shown, "chosen": sides[0], "rejected": sides[1], "p_chosen": 0.75, "num_raters": 4})
        {'image': 'a.png', 'chosen': 'm/1.png', 'rejected': 'm/2.png', 'p_chosen': 0.75, 'meta': {'num_raters': 4}}
    """
    made: dict[str, Any] = {"image": _image_in(row["prompt"])}
    if "chosen" in row:
        made |= {"chosen": _path(row["chosen"]), "rejected": _path(row["rejected"]), "p_chosen": row["p_chosen"]}
    elif "completions" in row:
        made |= {"masks": [_path(one) for one in row["completions"]], "ranks": row["ranks"]}
    else:
        made |= {"mask": _path(row["completion"]), "label": row["label"]}
    about = {name: row[name] for name in _ABOUT if name in row}
    return made | ({"meta": about} if about else {})


def _image_in(prompt: Any) -> str:
    parts = (part for turn in prompt for part in turn["content"] if isinstance(turn["content"], list))
    return next(str(part["image"]) for part in parts if part.get("type") == "image")


def _path(completion: Any) -> str:
    return completion if isinstance(completion, str) else str(completion[-1]["content"])
