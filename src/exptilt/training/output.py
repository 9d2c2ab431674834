"""The contribution of a batch of groups to a step, and the error that names rows that are not finite."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from exptilt.data.groups import Group
from exptilt.errors import NonFiniteError, TrainingError
from exptilt.training.sums import Sums
from exptilt.wording import counted


@dataclass(frozen=True, eq=False)
class Output:
    """The contribution of one batch of groups to a step; its tensors may still be in computation on a device."""

    loss: Tensor
    """() sum over rows of weight * loss, nats; still attached to the graph."""
    sums: Sums
    """Sums of all metrics; "loss" has the weight that its sum is divided by once the whole global batch is in: rows,
    or tokens for a token mean. Its sum is not finite where the loss or a log-probability of any row is not."""
    groups: Sequence[Group]
    scores: Tensor
    """(C,) log-probabilities of all completions of these groups, nats, or scores of a reward model."""
    losses: Tensor
    """(B,) of the rows, nats."""
    scored: str = "log-probability"
    """What `scores` are; of a reward model "score"."""

    @property
    def weight(self) -> float:
        """The weight of the loss's sum."""
        return self.sums.totals["loss"][1]

    def faults(self) -> list[tuple[str, str]]:
        """Every row with a value that is not finite: `scored` or "loss", and the row's id."""
        owners = [group.id for group in self.groups for _ in group.completions]
        rows = [group.id for group in self.groups]
        return [
            (what, names[index])
            for what, names, values in ((self.scored, owners, self.scores), ("loss", rows, self.losses))
            for index in (~values.isfinite()).nonzero().flatten().tolist()
        ]


def no_weight(groups: Sequence[Group]) -> TrainingError:
    """The error that a mean over rows of weight 0 is undefined."""
    ids = ", ".join([group.id for group in groups][:5])
    return TrainingError(
        f"every row of a batch has weight 0 ({ids}), so its mean is undefined; leave such rows out, "
        "or use a larger batch.size"
    )


def not_finite(faults: Sequence[tuple[str, str]]) -> NonFiniteError:
    """The error that names rows; losses are named only if all that they are formed from is finite."""
    what = min((what for what, _ in faults), key=lambda what: what == "loss", default="loss")
    named = list(dict.fromkeys(row for kind, row in faults if kind == what))
    rows = f"{what} of {counted(len(named), 'row')}" if named else "sum of the loss over rows"
    return NonFiniteError(
        f"the {rows} is not finite, no weight was moved{': ' if named else ''}{', '.join(named[:5])}. "
        "Look at these rows with `exptilt doctor`, lower optim.learning_rate, or use model.dtype=float32"
    )
