"""What frontier.json holds, as checked, frozen records."""

from __future__ import annotations

import math
from typing import Any

from pydantic import Field, model_validator

from exptilt.run_folder.evaluation_record import Estimate, Part


class Optimum(Part):
    """The best reachable reward at each KL, estimated from reference samples."""

    kl: list[float]
    reward: list[float]
    low: list[float] | None = None
    high: list[float] | None = None
    trusted: list[bool] | None = None

    @model_validator(mode="after")
    def _aligned(self) -> Optimum:
        for name in ("reward", "low", "high", "trusted"):
            column = getattr(self, name)
            if column is not None and len(column) != len(self.kl):
                raise ValueError(f"kl has {len(self.kl)} entries and {name} has {len(column)}")
        if any(not math.isfinite(value) for value in self.kl) or self.kl != sorted(self.kl):
            raise ValueError("kl must be finite and increasing")
        return self


class Point(Part):
    """One policy on the reward-KL plane."""

    name: str
    method: str = ""
    kl: Estimate
    reward: Estimate
    gain: Estimate | None = None
    """Reward minus the reference's on the same prompts (paired)."""
    fraction: Estimate | None = None
    """Share of the optimum's gain reached at this KL."""
    kl_fraction: Estimate | None = None
    """Share of this KL the optimum needs for the same reward."""
    gap: Estimate | None = None
    """beta * KL(policy || optimum) at the beta whose optimum has this KL, in units of the reward."""
    above_optimum: Estimate | None = None
    """Reward minus the most the optimum can be at this KL; an interval above 0 is impossible."""
    solid: bool | None = None
    """Is the optimum carried by its samples at this KL?"""
    notes: list[str] = Field(default_factory=list)
    length: Estimate | None = None
    beta: float | None = None
    steps: int | None = None
    final: bool = True
    """False for a checkpoint on the way of its run."""
    run: str | None = None
    """Folder name of the run this point comes from, where it is not the point's name."""


class BestOfN(Part):
    """Best of n reference samples: a yardstick that needs no training."""

    n: int
    kl: float
    kl_is: str = ""
    """`upper bound`, or empty where the KL is exact."""
    reward: Estimate


class Proxy(Part):
    """What optimising another reward would do to the true one, predicted from samples of the reference."""

    name: str
    kl: list[float]
    gold: list[float]
    """True reward of the proxy's optimum at each KL."""
    low: list[float]
    high: list[float]
    solid_kl: float
    best_kl: float
    """Where the true reward is highest."""
    best: Estimate
    end: Estimate
    """True reward at the last KL that the samples show."""

    @model_validator(mode="after")
    def _aligned(self) -> Proxy:
        if not self.kl or any(len(column) != len(self.kl) for column in (self.gold, self.low, self.high)):
            raise ValueError("kl, gold, low and high must have one length, at least 1")
        return self


class Pooled(Part):
    """Trained policies whose samples join the reference's, reweighted."""

    policies: list[str]
    samples_each: int


class Frontier(Part):
    """frontier.json."""

    reward_name: str = "reward"
    optimum: Optimum | None = None
    log_m: float | None = None
    reference_reward: Estimate | None = None
    num_prompts: int | None = None
    num_samples: int | None = None
    pooled: Pooled | None = None
    proxies: list[Proxy] = Field(default_factory=list)
    points: list[Point] = Field(default_factory=list)
    best_of_n: list[BestOfN] = Field(default_factory=list)
    command: str | None = None
    facts: dict[str, Any] = Field(default_factory=dict)
    """Numbers about the study itself, such as the accuracy of the classifier that gives the reward."""

    @property
    def ends(self) -> list[Point]:
        """The points at which runs ended."""
        return [point for point in self.points if point.final]
