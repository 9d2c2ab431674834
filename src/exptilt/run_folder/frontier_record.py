"""frontier.json: policies on the reward-KL plane, beside the optimum and best-of-n."""

from __future__ import annotations

import math
from typing import Any

from pydantic import Field, model_validator

from exptilt.run_folder.estimate_record import Estimate
from exptilt.run_folder.evaluation_record import Diversity
from exptilt.run_folder.record import FilePart, FileRecord


class Optimum(FilePart):
    """The best reachable reward at each KL, estimated from reference samples unless `exact_for` says otherwise."""

    exact_for: str | None = None
    """Policies over which the optimum was computed exactly, on the prompts that were measured."""
    kl: tuple[float, ...]
    reward: tuple[float, ...]
    low: tuple[float, ...] | None = None
    high: tuple[float, ...] | None = None
    trusted: tuple[bool, ...] | None = None

    @model_validator(mode="after")
    def _aligned(self) -> Optimum:
        for name in ("reward", "low", "high", "trusted"):
            column = getattr(self, name)
            if column is not None and len(column) != len(self.kl):
                raise ValueError(f"kl has {len(self.kl)} entries and {name} has {len(column)}")
        if any(not math.isfinite(value) for value in self.kl) or list(self.kl) != sorted(self.kl):
            raise ValueError("kl must be finite and increasing")
        return self


class Point(FilePart):
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
    notes: tuple[str, ...] = ()
    length: Estimate | None = None
    beta: float | None = None
    steps: int | None = None
    final: bool = True
    """False for a checkpoint on the way of its run."""
    run: str | None = None
    """Folder name of the run this point comes from, where it is not the point's name."""
    seed: int | None = None
    """Of the run."""
    objective: str | None = None
    """What runs that differ only in their seed have in common."""
    kl_check: Estimate | None = None
    """Mean log-ratio of the same samples: the same KL with more noise."""
    ended: Estimate | None = None
    """Share of samples that ended by themselves."""
    diversity: Diversity | None = None


class Components(FilePart):
    """A number of several runs that differ in their seed, with both kinds of spread."""

    mean: Estimate
    """Its interval covers other seeds and other prompts."""
    num_seeds: int
    sd_of_seeds: float
    """Standard deviation of one run about the mean of all, prompts aside."""
    error_of_prompts: float
    """Standard error of the mean from the prompts, seeds aside."""


class SeedSpread(FilePart):
    """One objective trained with several seeds."""

    objective: str
    seeds: tuple[int, ...]
    reward: Components
    kl: Components
    """Nats."""


class BestOfNPoint(FilePart):
    """Best of n reference samples: a yardstick that needs no training."""

    n: int
    kl: float
    kl_is: str = ""
    """`upper bound`, `plug-in estimate`, or empty where the KL is exact."""
    kl_bound: float | None = None
    """log n - (n - 1) / n, which the KL never exceeds."""
    reward: Estimate


class BestOfNByReward(FilePart):
    """Best of n reference samples for n = 1, ..., N, chosen by one reward and judged by the true one."""

    name: str
    """The reward that chooses."""
    is_true: bool = False
    """Whether that is the true reward itself."""
    kl: tuple[float, ...]
    """(N,) KL(best-of-n || reference), nats."""
    kl_is: str = ""
    """`upper bound`, `plug-in estimate`, or empty where the KL is exact."""
    kl_bound: tuple[float, ...]
    """(N,) log n - (n - 1) / n."""
    chosen_by: tuple[float, ...]
    """(N,) mean of the reward that chooses."""
    chosen_by_sd: float
    """Standard deviation of that reward over the pool, within prompts: the unit the figure draws it in."""
    gold: tuple[float, ...]
    """(N,) mean true reward."""
    low: tuple[float, ...] | None = None
    high: tuple[float, ...] | None = None
    best_n: int
    """The n with the highest true reward."""
    best: Estimate
    end: Estimate
    """True reward at N."""
    fall: Estimate | None = None
    """True reward at N less that at the best n of other prompts; an interval below 0 says that it fell."""

    @model_validator(mode="after")
    def _aligned(self) -> BestOfNByReward:
        columns = [self.kl_bound, self.chosen_by, self.gold, self.low, self.high]
        if not self.kl or any(column is not None and len(column) != len(self.kl) for column in columns):
            raise ValueError("kl, kl_bound, chosen_by, gold, low and high must have one length, at least 1")
        return self


class Proxy(FilePart):
    """What optimising another reward would do to the true one, predicted from samples of the reference."""

    name: str
    kl: tuple[float, ...]
    proxy: tuple[float, ...] | None = None
    """Reward by the proxy itself at each KL."""
    gold: tuple[float, ...]
    """True reward of the proxy's optimum at each KL."""
    low: tuple[float, ...] | None = None
    high: tuple[float, ...] | None = None
    solid_kl: float
    best_kl: float
    """Where the true reward is highest."""
    best: Estimate
    end: Estimate
    """True reward at the last KL that the samples show."""

    @model_validator(mode="after")
    def _aligned(self) -> Proxy:
        columns = [column for column in (self.gold, self.low, self.high) if column is not None]
        if not self.kl or any(len(column) != len(self.kl) for column in columns):
            raise ValueError("kl, gold, low and high must have one length, at least 1")
        return self


class Pooled(FilePart):
    """Trained policies whose samples join the reference's, reweighted."""

    policies: tuple[str, ...]
    samples_each: int


class Frontier(FileRecord):
    """frontier.json."""

    reward_name: str = "reward"
    each: str = "reply"
    """What a KL belongs to: a reply, a mask."""
    prompts: str = "prompts"
    """What intervals resample: prompts, images."""
    optimum: Optimum | None = None
    log_m: float | None = None
    limit_kl: float | None = None
    """Nothing is known beyond this KL; None where the optimum is exact."""
    reference_reward: Estimate | None = None
    num_prompts: int | None = None
    num_samples: int | None = None
    pooled: Pooled | None = None
    proxies: tuple[Proxy, ...] = ()
    points: tuple[Point, ...] = ()
    spreads: tuple[SeedSpread, ...] = ()
    """Of objectives trained with several seeds."""
    reference_diversity: Diversity | None = None
    best_of_n: tuple[BestOfNPoint, ...] = ()
    best_of_n_by: tuple[BestOfNByReward, ...] = ()
    """Chosen by the true reward and by every proxy, for all n; the true one first."""
    command: str | None = None
    facts: dict[str, Any] = Field(default_factory=dict)
    """Numbers about the study itself, such as the accuracy of the classifier that gives the reward."""

    @property
    def ends(self) -> list[Point]:
        """The points at which runs ended."""
        return [point for point in self.points if point.final]


def is_reference(point: Point) -> bool:
    """Is this point the reference itself?"""
    return point.method == "reference" or point.name == "reference"


def with_reference_point(frontier: Frontier) -> Frontier:
    """The frontier with its reference drawn: a point at no KL, where the optimum's curve starts too."""
    start = frontier.reference_reward
    if start is None or start.value is None or any(is_reference(point) for point in frontier.points):
        return frontier
    best = frontier.optimum
    if best is not None and best.kl and best.kl[0] > 0:
        low, high = start.interval or (start.value, start.value)
        best = Optimum(
            kl=(0.0, *best.kl),
            reward=(start.value, *best.reward),
            low=None if best.low is None else (low, *best.low),
            high=None if best.high is None else (high, *best.high),
            trusted=None if best.trusted is None else (best.trusted[0], *best.trusted),
        )
    own = Point(name="reference", method="reference", kl=Estimate(value=0.0), reward=start)
    return frontier.model_copy(update={"optimum": best, "points": (own, *frontier.points)})
