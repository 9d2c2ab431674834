"""Input of the guard rails: facts of the run and lines of metrics."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from statistics import mean

FEW = 3
"""Lines that are averaged where one alone says little."""
KL_LIMIT = 30.0
"""Nats a completion. Best of a million samples is 13 nats away from its reference, and the DPO paper's controlled runs
stay below 20: what is beyond 30 is no longer a tilt of the reference."""
_FIRST = FEW
_LATEST = 20
"""Lines of each kind that are kept."""


@dataclass(frozen=True)
class Facts:
    """Facts of a run that its metrics do not show."""

    loss: str
    """Name of the objective."""
    beta: float | None = None
    usual_beta: float | None = None
    """The default of the objective."""
    learning_rate: float | None = None
    usual_rate: float | None = None
    """The largest usual rate, for all weights or for an adapter."""
    max_grad_norm: float = 1.0
    start_loss: float | None = None
    """The loss before the first step (`zero.loss_at_zero`), if the reference is the model the run starts from."""
    own_reference: bool = True
    """Whether the reference is the model the run starts from; displacement then starts at 0."""
    vocabulary: int | None = None
    """Tokens the model chooses from."""
    rows: int | None = None
    """Number of training rows."""
    contradicting: int = 0
    """Number of training rows whose label is the opposite of another row's."""
    has_level: bool = True
    """Whether losses of two steps can be compared; those of the policy's own samples only have a meaningful gradient."""
    of_masks: bool = False
    """Whether completions are masks."""


@dataclass(frozen=True)
class Line:
    """A line of metrics."""

    step: int
    share: float
    """Share of the run's steps that are done."""
    values: Mapping[str, float]
    epoch: float = 0.0
    """Passes over the rows done."""
    train_loss: float | None = None
    """The training loss at the time of a held-out line; None in training lines."""


@dataclass
class History:
    """The first lines of a run and its latest."""

    training: list[Line] = field(default_factory=list)
    held_out: list[Line] = field(default_factory=list)
    start: Line | None = None
    """Metrics of the first step's rows, scored by the weights the run starts from."""
    still_steps: int = 0
    """Steps in a row, up to the latest, whose gradient was exactly zero."""

    def add(self, line: Line, held_out: bool) -> None:
        """Take in a line; one between the first few and the latest is forgotten, the best held-out one never."""
        lines = self.held_out if held_out else self.training
        lines.append(line)
        if len(lines) > _FIRST + _LATEST:
            best = min(lines, key=lambda one: one.values.get("eval/loss", 0.0)) if held_out else None
            lines.remove(next(one for one in lines[_FIRST:] if one is not best))

    def measures_kl(self) -> bool:
        """Whether held-out lines have a KL."""
        return any("eval/kl" in line.values for line in self.held_out)

    def start_of(self, prefix: str) -> Line | None:
        """The line that the starting weights gave, on training rows (`train`) or held-out rows (`eval`)."""
        if prefix == "train":
            return self.start
        return self.held_out[0] if self.held_out and self.held_out[0].step == 0 else None

    def train_loss(self) -> float | None:
        """Mean training loss of the latest lines."""
        losses = [line.values["train/loss"] for line in self.training[-FEW:] if "train/loss" in line.values]
        return mean(losses) if losses else None
