"""Settings of `exptilt pair`: which samples or votes become which rows, and who says what is better. Never imports torch."""

from __future__ import annotations

from typing import Literal

from exptilt.settings.declaration import config
from exptilt.settings.ranges import Finite, NonNegative, Positive
from exptilt.settings.reward_settings import AnyReward


@config
class VotesConfig:
    """Votes of people and judges as what says which completion is better."""

    store: str
    """A file of votes, such as votes.db, or a postgresql:// URL."""
    on_dispute: Literal["soft", "majority", "drop"] = "soft"
    """Where raters disagree. soft: p_chosen is the mean of their shares, a tie half; majority: what more of them prefer, a
    rater's tie aside; drop: the two answers are not compared."""
    raters: tuple[str, ...] = ()
    """people, judges, or names; all by default."""
    question: str | None = None
    """What was asked; needed where the store holds votes on several questions."""
    wanted: int = 1
    """Raters that a comparison needs; one with fewer is left out."""

    def __post_init__(self) -> None:
        if self.wanted < 1:
            raise ValueError(f"wanted must be at least 1, got {self.wanted}")


@config
class PairRequest:
    """Samples or votes, and a label source, to an ordinary file of preferences, rankings or ratings."""

    samples: tuple[str, ...] = ()
    """Folders or files of samples; of one prompt, completions of all of them are compared. Beside votes they say in which tokens
    the answers were drawn."""
    output: str
    """The .jsonl file to write; one that is there is not replaced."""
    votes: VotesConfig | None = None
    """Votes that say which completion is better."""
    reward: AnyReward | None = None
    """What says how good a completion is; none with votes, and with label=source."""
    label: Literal["reward", "coin", "soft", "source"] = "reward"
    """reward: the greater reward is preferred; coin: with probability sigmoid(scale * difference); soft: that probability is
    written as p_chosen; source: what the first of the samples said is preferred to what the second said."""
    scale: Positive = 1.0
    """Multiplies differences of rewards for coin and soft (Bradley-Terry)."""
    pairs: Literal["best_worst", "all", "adjacent", "first_rest", "neighbours", "across"] = "best_worst"
    """Which two completions of a prompt are compared; first_rest: the first with every other; neighbours: the first with the second,
    the third with the fourth; across: the k-th of the first samples with the k-th of the second."""
    rows: Literal["preference", "ranking", "rating"] | None = None
    """What is written; rating is for KTO. By default preferences, and rankings where people ranked more than two answers."""
    threshold: Finite | None = None
    """Of rows=rating: completions with a reward above it are desirable."""
    min_margin: NonNegative = 0.0
    """Pairs whose rewards differ less are left out."""
    on_tie: Literal["drop", "keep"] | None = None
    """A pair of equal rewards or votes; keep writes it with p_chosen 0.5. By default ties of votes are kept."""
    seed: int = 0
    """Of the coin."""

    def __post_init__(self) -> None:
        if not self.samples and self.votes is None:
            raise ValueError("samples must name at least one folder or file, or votes.store a store of votes")
        if self.votes is not None:
            self._require_votes_alone()
        elif self.reward is None and self.label != "source":
            raise ValueError(f"reward is missing: label={self.label} needs one, such as reward.kind=length")
        two_sides = "label=source" if self.label == "source" else "pairs=across" if self.pairs == "across" else None
        if two_sides is not None and len(self.samples) != 2:
            raise ValueError(f"samples must name two folders or files for {two_sides}, got {len(self.samples)}")
        if self.label == "source" and self.rows not in (None, "preference"):
            raise ValueError(f"rows must be preference for label=source, got {self.rows}")
        if self.label == "source" and self.reward is not None:
            raise ValueError(
                "reward is not asked with label=source; leave it out, or set pairs=across to let it decide"
            )
        if self.votes is None and self.rows == "rating" and self.threshold is None:
            raise ValueError("threshold is missing: rows=rating needs to know which rewards are good ones")
        if self.seed < 0:
            raise ValueError(f"seed must be at least 0, got {self.seed}")

    def _require_votes_alone(self) -> None:
        """Refuse settings that mean nothing beside votes."""
        idle = {
            "reward": self.reward is not None,
            f"label={self.label}": self.label != "reward",
            "threshold": self.threshold is not None,
            "min_margin": self.min_margin != 0,
            "pairs=across": self.pairs == "across",
        }
        for name, is_stated in idle.items():
            if is_stated:
                raise ValueError(f"{name} belongs to samples with a reward; votes say themselves what is better")
