"""The facts and the lines of metrics that guard rails judge by."""

from __future__ import annotations

from dataclasses import dataclass, field

_FIRST = 3
_LATEST = 20
"""Lines of each kind that are kept."""


@dataclass(frozen=True)
class Facts:
    """What must be known of a run beside its metrics."""

    loss: str
    """Name of the objective."""
    beta: float | None = None
    start_loss: float | None = None
    """The loss before the first step (`zero.loss_at_zero`), if the reference is the model the run starts from."""
    max_grad_norm: float = 1.0


@dataclass(frozen=True)
class Line:
    """A line of metrics."""

    step: int
    share: float
    """Of the run that was done."""
    values: dict[str, float]


@dataclass
class History:
    """The first lines of a run and its latest."""

    training: list[Line] = field(default_factory=list)
    held_out: list[Line] = field(default_factory=list)

    def add(self, line: Line, held_out: bool) -> None:
        """Take in a line; one between the first few and the latest is forgotten, the best held-out one never."""
        lines = self.held_out if held_out else self.training
        lines.append(line)
        if len(lines) > _FIRST + _LATEST:
            best = min(lines, key=lambda one: one.values.get("eval/loss", 0.0)) if held_out else None
            lines.remove(next(one for one in lines[_FIRST:] if one is not best))

    def measures_kl(self) -> bool:
        """Whether held-out lines tell how far the policy is from its reference."""
        return any("eval/kl" in line.values for line in self.held_out)
