"""The length of a completion as a reward: a probe for what other rewards may really measure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from exptilt.preferences import Answer


@dataclass(frozen=True)
class Length:
    """How long a completion is.

    Example:
        >>> Length("characters")([Answer(prompt="", text="two words")]).tolist()
        [9.0]
    """

    unit: Literal["characters", "words"] = "characters"

    @property
    def name(self) -> str:
        """What tables call it."""
        return "length"

    @property
    def identity(self) -> str:
        """The unit."""
        return f"length in {self.unit}"

    @property
    def scale(self) -> str:
        """The unit."""
        return self.unit

    def __call__(self, answers: Sequence[Answer]) -> NDArray[np.float64]:
        """(N,) lengths."""
        lengths = [len(answer.text if self.unit == "characters" else answer.text.split()) for answer in answers]
        return np.array(lengths, dtype=np.float64)
