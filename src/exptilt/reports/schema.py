"""What the files of a run folder hold, as checked, frozen records; a key that is not there is None, never invented."""

from __future__ import annotations

import math
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, model_validator


class Part(BaseModel):
    """Base of every record: frozen, and keys it does not know are kept."""

    model_config = ConfigDict(frozen=True, extra="allow")


class Estimate(Part):
    """A number with its interval; a bare number in the file is an estimate without one."""

    value: float | None = None
    low: float | None = None
    high: float | None = None
    n: int | None = None

    @model_validator(mode="before")
    @classmethod
    def _from_number(cls, given: Any) -> Any:
        return {"value": given} if given is None or isinstance(given, int | float) else given

    @model_validator(mode="after")
    def _ordered(self) -> Estimate:
        if self.low is not None and self.high is not None and self.low > self.high:
            raise ValueError(f"low {self.low:g} is above high {self.high:g}")
        return self

    @property
    def interval(self) -> tuple[float, float] | None:
        """(low, high), or None where the file gives no interval."""
        return None if self.low is None or self.high is None else (self.low, self.high)


class Caution(Part):
    """One message a run left behind, and what to do about it."""

    number: str = ""
    message: str = ""
    fix: str = ""


class RunInfo(Part):
    """run.json."""

    name: str | None = None
    exptilt: str | None = None
    started: str | None = None
    finished: str | None = None
    status: str | None = None
    steps: int | None = None
    seed: int | None = None
    command: str | None = None
    versions: dict[str, Any] = Field(default_factory=dict)
    model: dict[str, Any] = Field(default_factory=dict)
    reference: dict[str, Any] | None = None
    hardware: Any = None
    seconds: float | None = None
    warnings: list[Caution] = Field(default_factory=list)


class Split(Part):
    """One split: rows read, examples kept, and what was left out by reason, before and after conversion."""

    source: str | None = None
    format: str | None = None
    rows: int | None = None
    kept: int | None = None
    rows_left_out: dict[str, int] = Field(default_factory=dict)
    examples_left_out: dict[str, int] = Field(default_factory=dict)
    lengths: dict[str, Any] = Field(default_factory=dict)
    longer_chosen: float | None = None
    """Share of pairs whose preferred reply has more characters."""
    columns_not_read: list[str] = Field(default_factory=list)

    @model_validator(mode="before")
    @classmethod
    def _one_count(cls, given: Any) -> Any:
        return (
            given | {"rows_left_out": given["left_out"]} if isinstance(given, dict) and "left_out" in given else given
        )

    @property
    def left_out(self) -> dict[str, int]:
        """Rows and examples left out, by reason."""
        reasons = dict.fromkeys([*self.rows_left_out, *self.examples_left_out])
        return {reason: self.rows_left_out.get(reason, 0) + self.examples_left_out.get(reason, 0) for reason in reasons}


class Finding(Part):
    """One thing the data checks found."""

    code: str = ""
    severity: str = ""
    count: int | None = None
    examples: list[Any] = Field(default_factory=list)
    message: str = ""
    fix: str = ""


class DataReport(Part):
    """data.json."""

    source: Any = None
    splits: dict[str, Split] = Field(default_factory=dict)
    lengths: dict[str, Any] = Field(default_factory=dict)
    findings: list[Finding] = Field(default_factory=list)

    @model_validator(mode="before")
    @classmethod
    def _splits_by_name(cls, given: Any) -> Any:
        if not isinstance(given, dict) or "splits" in given:
            return given
        return given | {"splits": {name: given[name] for name in ("train", "test") if given.get(name)}}


class Bin(Part):
    """One bin of a reliability figure."""

    predicted: float | None = None
    observed: float | None = None
    count: int = 0


class Calibration(Part):
    """Is sigma(margin) the share of pairs the policy gets right?"""

    ece: float | None = None
    bins: list[Bin] = Field(default_factory=list)


class Margins(Part):
    """Histogram of the implicit-reward margin over held-out pairs."""

    edges: list[float]
    counts: list[int]

    @model_validator(mode="after")
    def _fits(self) -> Margins:
        if len(self.edges) != len(self.counts) + 1:
            raise ValueError(f"{len(self.counts)} counts need {len(self.counts) + 1} edges, got {len(self.edges)}")
        return self


class Evaluation(Part):
    """evaluation.json."""

    accuracy: dict[str, dict[str, Estimate]] = Field(default_factory=dict)
    longest_wins: Estimate | None = None
    auc: Estimate | None = None
    calibration: Calibration | None = None
    by_longer: list[dict[str, Any]] = Field(default_factory=list)
    by_length_gap: list[dict[str, Any]] = Field(default_factory=list)
    kl: Estimate | None = None
    reward: dict[str, Any] | float | None = None
    lengths: dict[str, Any] = Field(default_factory=dict)
    ended: dict[str, Any] = Field(default_factory=dict)
    """Share of samples that ended by themselves, before the length limit."""
    displacement: dict[str, Any] = Field(default_factory=dict)
    margins: Margins | None = None


class PairMargin(Part):
    """One line of evaluation-margins.jsonl: a held-out pair by its content."""

    pair: str
    prompt: str
    log_ratio: float
    """Log-ratio of chosen minus that of rejected, nats."""
    likelihood: float
    """Log-probability of chosen minus that of rejected, nats."""


class Sample(Part):
    """One prompt with what the reference and the policy say to it."""

    prompt: str
    reference: str
    policy: str
    reference_score: float | None = None
    policy_score: float | None = None


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


class Frontier(Part):
    """frontier.json."""

    reward_name: str = "reward"
    optimum: Optimum | None = None
    log_m: float | None = None
    reference_reward: Estimate | None = None
    num_prompts: int | None = None
    num_samples: int | None = None
    points: list[Point] = Field(default_factory=list)
    best_of_n: list[BestOfN] = Field(default_factory=list)
    command: str | None = None
    facts: dict[str, Any] = Field(default_factory=dict)
    """Numbers about the study itself, such as the accuracy of the classifier that gives the reward."""

    @property
    def ends(self) -> list[Point]:
        """The points at which runs ended."""
        return [point for point in self.points if point.final]


def estimates(node: Any, name: str = "") -> dict[str, Estimate]:
    """Every number in a tree of mappings, by its path; `{"value", "low", "high"}` counts as one.

    Example:
        >>> sorted(estimates({"chosen": {"value": 1.0, "low": 0.5, "high": 1.5}, "gap": {"mean": 2}}))
        ['chosen', 'gap mean']
    """
    if isinstance(node, bool) or node is None or isinstance(node, str | list):
        return {}
    if isinstance(node, int | float) or "value" in node:
        return {name or "value": Estimate.model_validate(node)}
    found: dict[str, Estimate] = {}
    for key, child in node.items():
        found |= estimates(child, f"{name} {key}".strip())
    return found
