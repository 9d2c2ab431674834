"""Settings of `exptilt pair`: which samples become which rows, and who says what is better. Never imports torch."""

from __future__ import annotations

from typing import Literal

from exptilt.settings.declaration import config
from exptilt.settings.ranges import Finite, NonNegative, Positive
from exptilt.settings.reward_settings import AnyReward


@config
class PairRequest:
    """Samples and a label source to an ordinary file of preferences, rankings or ratings."""

    samples: tuple[str, ...]
    """Folders or files of samples; of one prompt, completions of all of them are compared."""
    output: str
    """The .jsonl file to write; one that is there is not replaced."""
    reward: AnyReward | None = None
    """What says how good a completion is; none only with label=source."""
    label: Literal["reward", "coin", "soft", "source"] = "reward"
    """reward: the greater reward is preferred; coin: with probability sigmoid(scale * difference); soft: that probability is
    written as p_chosen; source: what the first of the samples said is preferred to what the second said."""
    scale: Positive = 1.0
    """Multiplies differences of rewards for coin and soft (Bradley-Terry)."""
    pairs: Literal["best_worst", "all", "adjacent", "first_rest", "across"] = "best_worst"
    """Which two completions of a prompt are compared; first_rest: the first with every other; across: the k-th of the
    first samples with the k-th of the second."""
    rows: Literal["preference", "ranking", "rating"] = "preference"
    """What is written; rating is for KTO."""
    threshold: Finite | None = None
    """Of rows=rating: completions with a reward above it are desirable."""
    min_margin: NonNegative = 0.0
    """Pairs whose rewards differ less are left out."""
    on_tie: Literal["drop", "keep"] = "drop"
    """A pair of equal rewards; keep writes it with p_chosen 0.5."""
    seed: int = 0
    """Of the coin."""

    def __post_init__(self) -> None:
        if not self.samples:
            raise ValueError("samples must name at least one folder or file, got none")
        if self.reward is None and self.label != "source":
            raise ValueError(f"reward is missing: label={self.label} needs one, such as reward.kind=length")
        two_sides = "label=source" if self.label == "source" else "pairs=across" if self.pairs == "across" else None
        if two_sides is not None and len(self.samples) != 2:
            raise ValueError(f"samples must name two folders or files for {two_sides}, got {len(self.samples)}")
        if self.label == "source" and self.rows != "preference":
            raise ValueError(f"rows must be preference for label=source, got {self.rows}")
        if self.rows == "rating" and self.threshold is None:
            raise ValueError("threshold is missing: rows=rating needs to know which rewards are good ones")
        if self.seed < 0:
            raise ValueError(f"seed must be at least 0, got {self.seed}")
