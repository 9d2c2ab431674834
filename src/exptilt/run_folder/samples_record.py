"""Line records: samples.jsonl, the completions drawn while a run goes on, every held-out pair's margins."""

from __future__ import annotations

from exptilt.run_folder.record import FilePart


class SideBySide(FilePart):
    """One line of samples.jsonl: a prompt with what the policy and the reference say to it."""

    prompt: str
    policy: str
    reference: str | None = None
    policy_score: float | None = None
    reference_score: float | None = None


class StepSample(FilePart):
    """One line of samples/step-000020.jsonl: a completion of the policy as it was at that step."""

    prompt: str
    completion: str
    tokens: int
    """The end token included."""
    ended: bool
    """Whether it ended by itself."""
    kl: float | None = None
    """KL(policy || reference) summed over the completion's steps, nats; None without a reference."""


class PairMargin(FilePart):
    """One line of evaluation-margins.jsonl: a held-out pair by its content."""

    pair: str
    prompt: str
    log_ratio: float | None = None
    """Log-ratio of chosen minus that of rejected, nats; None without a reference."""
    likelihood: float | None = None
    """Log-probability of chosen minus that of rejected, nats; None of a reward model."""
    score: float | None = None
    """A reward model's score of chosen minus that of rejected; None of a policy."""
