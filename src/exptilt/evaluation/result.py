"""What every result of an evaluation can do: become plain values."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np

from exptilt.run_folder.record import FilePart


class Panel:
    """Base of result dataclasses."""

    __slots__ = ()

    def as_dict(self) -> dict[str, Any]:
        """The fields as plain values for JSON; what is not a finite number, an unknown interval's end say, is None."""
        return {field.name: plain(getattr(self, field.name)) for field in dataclasses.fields(self)}  # type: ignore[arg-type]


def plain(value: Any) -> Any:
    """Numbers, text, lists and mappings of an arbitrary result.

    Example:
        >>> plain({"kl": (np.float64(0.5), math.inf), "n": np.arange(2)})
        {'kl': [0.5, None], 'n': [0, 1]}
    """
    if isinstance(value, Panel | FilePart):
        return value.as_dict()
    if isinstance(value, dict):
        return {str(key): plain(part) for key, part in value.items()}
    if isinstance(value, np.ndarray):
        return plain(value.tolist())
    if isinstance(value, (list, tuple)):
        return [plain(part) for part in value]
    if isinstance(value, np.generic):
        return plain(value.item())
    return None if isinstance(value, float) and not math.isfinite(value) else value
