"""Settings of measurements: what is measured on held-out rows."""

from __future__ import annotations

from dataclasses import field

from exptilt.settings.declaration import config


@config
class EvaluateConfig:
    """What is measured on held-out rows when training has ended.

    Example:
        >>> EvaluateConfig(num_prompts=128).level
        0.95
    """

    num_prompts: int = 64
    """Held-out prompts to sample from, for sequence-level KL, length and side-by-sides; 0 skips sampling."""
    num_samples: int = 2
    """Completions per prompt."""
    max_new_tokens: int = 128
    """A sampled completion is cut here, and counted as cut."""
    level: float = 0.95
    """Coverage of every interval."""
    sections: dict[str, dict[str, float]] = field(default_factory=dict)
    """Sections of a benchmark and the weight of each of their subsets, by the data's column `section`; none: those of
    RewardBench where the labels are its subsets, else every label is a section by itself."""

    def __post_init__(self) -> None:
        for name in ("num_prompts", "num_samples", "max_new_tokens"):
            if getattr(self, name) < (0 if name == "num_prompts" else 1):
                raise ValueError(f"{name} is too small, got {getattr(self, name)}")
        if any(not weight > 0 for parts in self.sections.values() for weight in parts.values()):
            raise ValueError("sections: every subset's weight must be > 0")
        if not 0 < self.level < 1:
            raise ValueError(f"level must be in (0, 1), got {self.level}")
