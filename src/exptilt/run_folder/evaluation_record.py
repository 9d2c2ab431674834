"""What the files of a run folder hold, as checked, frozen records; a key that is not there is None, never invented."""

from __future__ import annotations

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

    @model_validator(mode="before")
    @classmethod
    def _of_a_guard(cls, given: Any) -> Any:
        """A guard's `{step, name, message, advice, value, limit}` in these words."""
        if not isinstance(given, dict) or "advice" not in given:
            return given
        value, limit = given.get("value"), given.get("limit")
        measured = "" if value is None else f" ({value:.3g}{'' if limit is None else f', limit {limit:.3g}'})"
        place = "" if given.get("step") is None else f"step {given['step']}"
        return {
            "number": ", ".join(part for part in (place, given.get("name", "")) if part) + measured,
            "message": given.get("message", ""),
            "fix": given.get("advice") or "",
        }


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


class DataSource(Part):
    """One of the sources a split was mixed from."""

    path: str = ""
    format: str = ""
    rows: int | None = None
    records: int | None = None
    weight: float = 1.0
    licence: str | None = None


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
    more_markup_chosen: float | None = None
    """Share of pairs whose preferred reply has more markup, among those that differ in it."""
    p_chosen: tuple[float, float, float] | None = None
    """Least, mean and most p_chosen."""
    examples: int | None = None
    """What the rows that were not left out became."""
    num_desirable: int = 0
    num_undesirable: int = 0
    repeated: int = 0
    """Copies made by weights above 1."""
    sources: list[DataSource] = Field(default_factory=list)
    columns_not_read: list[str] = Field(default_factory=list)

    @model_validator(mode="before")
    @classmethod
    def _one_count(cls, given: Any) -> Any:
        return (
            given | {"rows_left_out": given["left_out"]} if isinstance(given, dict) and "left_out" in given else given
        )


class Finding(Part):
    """One thing the data checks found."""

    code: str = ""
    severity: str = ""
    count: int | None = None
    examples: list[Any] = Field(default_factory=list)
    message: str = ""
    fix: str = ""


class RenderedExample(Part):
    """One training row as the model reads it."""

    id: str = ""
    prompt: str = ""
    completions: list[list[tuple[str, bool]]] = Field(default_factory=list)
    """Of each its text in pieces, and whether the tokens of the piece count."""


class DataReport(Part):
    """data.json."""

    source: Any = None
    kind: str = ""
    """What the rows were read as: pair, completion, unpaired, list."""
    examples: list[RenderedExample] = Field(default_factory=list)
    """The first training rows as the model reads them."""
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


class LengthSlope(Part):
    """Straight line of the implicit reward on length."""

    slope: Estimate
    r_squared: Estimate


class Sections(Part):
    """Accuracy by section of a benchmark."""

    subsets: dict[str, Estimate] = Field(default_factory=dict)
    sections: dict[str, Estimate] = Field(default_factory=dict)
    overall: Estimate | None = None
    weights: dict[str, dict[str, float]] = Field(default_factory=dict)
    absent: list[str] = Field(default_factory=list)
    num_without_label: int = 0
    not_measured: str = ""
    """Why there are none."""


class Gainer(Part):
    """One sample of the policy that probability went to."""

    prompt: str
    completion: str
    log_ratio: float
    """log pi - log pi_ref of the whole completion, nats."""


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
    length_difference: Estimate | None = None
    """Chosen less rejected, pair by pair."""
    length_change: Estimate | None = None
    """Samples of the policy less those of the reference, prompt by prompt."""
    reward_on_length: dict[str, LengthSlope | None] = Field(default_factory=dict)
    """On `data` and on the policy's own `samples`; None where all have one length."""
    ended: dict[str, Any] = Field(default_factory=dict)
    """Share of samples that ended by themselves, before the length limit."""
    displacement: dict[str, Any] = Field(default_factory=dict)
    """With the policy's samples that gained most, and CHES, under `gainers` and `ches`."""
    margins: Margins | None = None
    sections: Sections | None = None
    detectable_difference: float | None = None

    @property
    def gainers(self) -> list[Gainer]:
        """Samples of the policy whose probability rose most over the reference's."""
        return [Gainer.model_validate(row) for row in self.displacement.get("gainers", [])]


class PairMargin(Part):
    """One line of evaluation-margins.jsonl: a held-out pair by its content."""

    pair: str
    prompt: str
    log_ratio: float | None = None
    """Log-ratio of chosen minus that of rejected, nats; None without a reference."""
    likelihood: float
    """Log-probability of chosen minus that of rejected, nats."""


class Sample(Part):
    """One prompt with what the reference and the policy say to it."""

    prompt: str
    reference: str | None = None
    policy: str
    reference_score: float | None = None
    policy_score: float | None = None


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
