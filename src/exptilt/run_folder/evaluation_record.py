"""evaluation.json: held-out preferences, and samples of the policy beside the reference's."""

from __future__ import annotations

from typing import Any

from pydantic import Field, field_validator, model_validator

from exptilt.run_folder.estimate_record import Estimate
from exptilt.run_folder.record import FilePart, FileRecord
from exptilt.run_folder.run_record import ReferenceIdentity


class Slice(FilePart):
    """Accuracy on some of the pairs."""

    name: str = ""
    accuracy: Estimate | None = None
    num_pairs: int | None = None


class Bin(FilePart):
    """Pairs whose confidence lies in [low, high)."""

    low: float | None = None
    high: float | None = None
    predicted: float | None = None
    """Mean of sigmoid(|margin|)."""
    observed: float | None = None
    """Share of the pairs on whose preferred side the margin is."""
    count: int = 0


class Calibration(FilePart):
    """Whether sigmoid(margin) is the probability that the preferred completion is the one with the higher reward."""

    ece: float | None = None
    """Expected calibration error: |observed - predicted| averaged over pairs by bin. Above 0 by chance alone:
    read it beside `null_band`, or read `error`."""
    error: Estimate | None = None
    """The true error, debiased, with its interval."""
    null_band: tuple[float, float] | None = None
    """Where the `ece` of a perfectly calibrated model lies on so many pairs, at the level of `error`."""
    bins: tuple[Bin, ...] = ()
    """Bins that hold a pair."""


class BestOf(FilePart):
    """Questions with several candidates, as RewardBench 2 scores them."""

    sections: dict[str, Estimate] = Field(default_factory=dict)
    """How often a right candidate has the highest score; of ties, their weighted score, which can reach 1.01."""
    overall: Estimate | None = None
    """Mean of the sections, all alike."""
    num_questions: int | None = None


class AnswerCalibration(FilePart):
    """Multiple choice by the likelihood of the options."""

    calibration: Calibration | None = None
    accuracy: Estimate | None = None


class Margins(FilePart):
    """Histogram of the margin of implicit rewards, or of a reward model's scores, over held-out pairs."""

    edges: tuple[float, ...]
    counts: tuple[int, ...]

    @model_validator(mode="after")
    def _fits(self) -> Margins:
        if len(self.edges) != len(self.counts) + 1:
            raise ValueError(f"{len(self.counts)} counts need {len(self.counts) + 1} edges, got {len(self.edges)}")
        return self


class Scores(FilePart):
    """Histogram of a reward model's scores over the better and the worse completions of held-out pairs."""

    edges: tuple[float, ...]
    chosen: tuple[int, ...]
    rejected: tuple[int, ...]
    spread: float | None = None
    """Highest less lowest score of all completions: 0 where the model says the same of everything."""

    @model_validator(mode="after")
    def _fits(self) -> Scores:
        if not len(self.chosen) == len(self.rejected) == len(self.edges) - 1:
            raise ValueError(f"{len(self.chosen)} and {len(self.rejected)} counts do not fit {len(self.edges)} edges")
        return self


class LengthSlope(FilePart):
    """Straight line of the implicit reward, or of a reward model's score, on length."""

    slope: Estimate
    """Reward for each token, nats."""
    r_squared: Estimate
    """Share of the reward's variance that length explains."""


class Sections(FilePart):
    """Accuracy by section of a benchmark."""

    subsets: dict[str, Estimate] = Field(default_factory=dict)
    sections: dict[str, Estimate] = Field(default_factory=dict)
    """Weighted means of their subsets."""
    overall: Estimate | None = None
    """Mean of the sections, all alike."""
    absent: tuple[str, ...] = ()
    """Subsets of the sections that have no pair here; their weight went to the others of their section."""
    weights: dict[str, dict[str, float]] = Field(default_factory=dict)
    """By section, of its subsets."""
    num_pairs: int | None = None
    num_without_label: int = 0
    not_measured: str = ""
    """Why there are none."""


class Gainer(FilePart):
    """One sample of the policy that probability went to."""

    prompt: str
    completion: str
    log_ratio: float
    """log pi - log pi_ref of the whole completion, nats."""


class ChesRow(FilePart):
    """A held-out pair whose two sides the reference's hidden states hardly tell apart."""

    id: str
    normalised: float


class ChesSummary(FilePart):
    """Centred hidden embedding similarity of held-out pairs, under the weights the run started from."""

    score: Estimate | None = None
    normalised: Estimate | None = None
    highest: tuple[ChesRow, ...] = ()
    """Pairs likeliest to displace."""


class Displacement(FilePart):
    """Changes of log-probability from the reference to the policy, nats per completion."""

    chosen: Estimate | None = None
    """Mean of log pi - log pi_ref on chosen completions."""
    rejected: Estimate | None = None
    mean: Estimate | None = None
    """Of both sides together; moved by no preference, only by probability that left or joined the data."""
    forced: Estimate | None = None
    """-KL(reference || policy): what `mean` must be where pairs are samples of the reference."""
    remainder: Estimate | None = None
    """mean - forced: what the pairs not being samples of the reference adds. About 0 where they are."""
    gainers: tuple[Gainer, ...] | None = None
    """Samples of the policy whose probability rose most over the reference's."""
    ches: ChesSummary | None = None


class KlCheck(FilePart):
    """The two estimates of one KL, which must agree; nats."""

    kl: Estimate | None = None
    k1: Estimate | None = None
    k1_minus_kl: Estimate | None = None
    """Paired; an interval without 0 says that the samples are not of this policy, or were not scored as drawn."""
    by_prompt: tuple[float, ...] = ()
    num_samples: int | None = None


class Diversity(FilePart):
    """How many things a policy says; of its own samples at temperature 1."""

    entropy_per_token: Estimate | None = None
    """Nats."""
    distinct_per_prompt: Estimate | None = None
    """Different samples among the `num_samples` of one prompt."""
    num_samples: int | None = None


class LawRecord(FilePart):
    """The sampling law in a few numbers."""

    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    max_new_tokens: int | None = None
    eos_ids: tuple[int, ...] | None = None
    """Tokens that ended a completion."""


class Evaluation(FileRecord):
    """evaluation.json; what was not measured is None or empty."""

    accuracy: dict[str, dict[str, Estimate]] = Field(default_factory=dict)
    """By family of scores (`with_reference`, `without_reference`, `reward_model`), then by form (`sum`, `mean`, `score`)."""
    auc: Estimate | None = None
    auc_by_score: dict[str, Estimate] | None = None
    longest_wins: Estimate | None = None
    """Accuracy of preferring the longer completion: what a score must beat."""
    by_longer: tuple[Slice, ...] = ()
    by_length_gap: tuple[Slice, ...] = ()
    by_familiarity: tuple[Slice, ...] = ()
    """By quarter of how likely the reference finds the chosen completion, nats per token."""
    calibration: Calibration | None = None
    num_pairs: int | None = None
    num_prompts: int | None = None
    lengths: dict[str, Estimate] = Field(default_factory=dict)
    """Mean tokens of `chosen`, `rejected`, `policy_samples`, `reference_samples`."""
    length_difference: Estimate | None = None
    """Chosen less rejected, pair by pair."""
    length_change: Estimate | None = None
    """Samples of the policy less those of the reference, prompt by prompt."""
    detectable_difference: float | None = None
    margins: Margins | None = None
    scores: Scores | None = None
    """Of a reward model."""
    log_loss: Estimate | None = None
    """Of a reward model, mean of -log sigmoid(margin) over pairs, nats; log 2 where it knows nothing."""
    num_ties: int | None = None
    """Held-out pairs that people found equally good (p_chosen 0.5): they have no right side, and are in no accuracy."""
    reward_on_length: dict[str, LengthSlope | None] = Field(default_factory=dict)
    """On `data` and on the policy's own `samples`; None where all have one length."""
    sections: Sections | None = None
    best_of: BestOf | None = None
    """By log-ratios, or by log-likelihoods without a reference."""
    answers: dict[str, AnswerCalibration] = Field(default_factory=dict)
    """`before` (the reference) and `after` (the policy)."""
    displacement: Displacement = Displacement()
    sampling_law: LawRecord | None = None
    ended: dict[str, Estimate] = Field(default_factory=dict)
    """Share of samples that ended by themselves, before the length limit."""
    diversity: dict[str, Diversity] = Field(default_factory=dict)
    """Of `policy_samples` and `reference_samples`."""
    kl: Estimate | None = None
    kl_check: KlCheck | None = None
    reward: dict[str, Estimate] | None = None
    """By name; `gain` is the reward over the reference's."""
    reference: ReferenceIdentity | None = None

    @field_validator("reward", mode="before")
    @classmethod
    def _one_reward(cls, given: Any) -> Any:
        return {"value": given} if isinstance(given, int | float) else given

    @property
    def is_of_reward_model(self) -> bool:
        """Whether a reward model was measured, and not a policy."""
        return self.scores is not None

    @property
    def gainers(self) -> tuple[Gainer, ...]:
        """Samples of the policy whose probability rose most over the reference's."""
        return self.displacement.gainers or ()
