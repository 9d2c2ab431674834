"""What losses see: log-probabilities of completions, ragged, in nats.

Shape letters: N counted units (tokens of texts, pixels of masks) of all completions, one completion after the other; B completions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import NamedTuple, Protocol

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False, kw_only=True)
class LogProbs:
    """Log-probabilities of the counted units of B completions, one completion after the other.

    Build one with `LogProbs(values=..., lengths=...)`, `from_sums` (only totals are known) or `from_padded` (a rectangle and a mask).
    Sums and means are taken in float32 or better whatever the dtype of the values.

    Example:
        >>> logps = LogProbs(values=torch.tensor([-1.0, -2.0, -4.0]), lengths=torch.tensor([2, 1]))
        >>> logps.sum().tolist(), logps.mean().tolist()
        ([-3.0, -4.0], [-1.5, -4.0])
    """

    values: Tensor | None
    """(N,) nats; None where only the sums are known."""
    lengths: Tensor
    """(B,) int64, how many counted units belong to each completion."""
    totals: Tensor | None = None
    """(B,) nats; given only where `values` is None."""
    entropy: Tensor | None = None
    """(N,) nats, entropy of the distribution each unit was drawn from; only where a loss asks for it."""
    log_sum_squares: Tensor | None = None
    """(N,) log sum_v p_v^2 of that distribution; only where a loss asks for it."""
    divergence: Tensor | None = None
    """(N,) nats, KL(reference || policy) of that distribution; only where a loss asks for it."""
    kl: Tensor | None = None
    """(N,) nats, KL(policy || reference) of that distribution; only where a loss asks for it."""
    whole: Tensor | None = None
    """(N,) nats, of completions that have one unit each: the same completion over all its units, where `values` are of the units
    in which the completions of a row differ. Terms that hold likelihoods (`Loss.holds_likelihoods`) read it."""

    def __post_init__(self) -> None:
        if self.lengths.ndim != 1:
            raise ValueError(f"lengths must be one-dimensional (B,), got shape {tuple(self.lengths.shape)}")
        if (self.values is None) == (self.totals is None):
            raise ValueError("give either values (N,) or totals (B,), not both and not neither")
        if self.totals is not None and self.totals.shape != self.lengths.shape:
            raise ValueError(
                f"totals must have the shape of lengths {tuple(self.lengths.shape)}, got {tuple(self.totals.shape)}"
            )
        if self.values is not None:
            self._check_values(self.values)

    def _check_values(self, values: Tensor) -> None:
        count = self.lengths.sum()
        if count.device.type != "cpu":  # where asking for the number would wait for the device
            torch._assert_async(count == values.numel(), "values must be as many as the sum of lengths")
        elif values.shape != (int(count),):
            raise ValueError(f"values must have shape ({count},), the sum of lengths, got {tuple(values.shape)}")

    @classmethod
    def from_sums(cls, sums: Tensor, lengths: Tensor) -> LogProbs:
        """Build from (B,) summed log-probabilities and (B,) lengths; token-level losses will refuse it."""
        return cls(values=None, lengths=lengths, totals=sums)

    @classmethod
    def from_padded(cls, values: Tensor, mask: Tensor) -> LogProbs:
        """Build from a (B, T) rectangle and a (B, T) mask that is True where a unit counts."""
        if values.shape != mask.shape or values.ndim != 2:
            raise ValueError(
                f"values and mask must share one shape (B, T), got {tuple(values.shape)} and {tuple(mask.shape)}"
            )
        counted = mask.bool()
        return cls(values=values[counted], lengths=counted.sum(dim=1))

    def __len__(self) -> int:
        return len(self.lengths)

    def sum(self) -> Tensor:
        """(B,) log-probability of each completion, nats; 0 where it has no counted unit."""
        if self.totals is not None:
            return at_least_float32(self.totals)
        return self.sum_of(self.tokens())

    def mean(self) -> Tensor:
        """(B,) nats per counted unit.

        Raises:
            ValueError: if a completion has no counted unit, for which no mean exists.
        """
        total = self.sum()
        return total / self.nonempty_lengths().to(total.device)

    def nonempty_lengths(self) -> Tensor:
        """(B,) lengths, to divide by.

        Raises:
            ValueError: if one is zero.
        """
        if bool((self.lengths == 0).any()):
            empty = int((self.lengths == 0).nonzero()[0])
            raise ValueError(f"completion {empty} has no counted unit, so its mean log-probability is undefined")
        return self.lengths

    def everywhere(self) -> LogProbs:
        """The same completions over all their units, where `values` are of some.

        Example:
            >>> differing = LogProbs(values=torch.tensor([-3.0]), lengths=torch.tensor([1]), whole=torch.tensor([-0.5]))
            >>> differing.everywhere().sum().tolist(), differing.sum().tolist()
            ([-0.5], [-3.0])
        """
        return self if self.whole is None else LogProbs(values=self.whole, lengths=self.lengths)

    def positions(self) -> Tensor:
        """(N,) int64, the place of each unit inside its completion, from 0."""
        starts = self.lengths.cumsum(0) - self.lengths
        index = torch.arange(int(self.lengths.sum()), device=self.lengths.device)
        return index - torch.repeat_interleave(starts, self.lengths)

    def tokens(self) -> Tensor:
        """(N,) log-probabilities unit by unit.

        Raises:
            ValueError: if only sums are known.
        """
        if self.values is None:
            raise ValueError(
                "this needs log-probabilities token by token, but only sums were given (LogProbs.from_sums)"
            )
        return self.values

    def sum_of(self, units: Tensor) -> Tensor:
        """(B,) sums over each completion of any (N,) quantity."""
        units = at_least_float32(units)
        completions, lengths = torch.arange(len(self), device=units.device), self.lengths.to(units.device)
        owner = torch.repeat_interleave(completions, lengths, output_size=len(units))
        return torch.zeros(len(self), dtype=units.dtype, device=units.device).index_add(0, owner, units)

    def select(self, index: Sequence[int] | Tensor) -> LogProbs:
        """The completions at `index`, in that order."""
        order = torch.as_tensor(index, dtype=torch.int64, device=self.lengths.device)
        lengths = self.lengths[order]
        if self.totals is not None:
            return LogProbs(values=None, lengths=lengths, totals=self.totals[order])
        moved = (self.lengths.cumsum(0) - self.lengths)[order] - (lengths.cumsum(0) - lengths)
        shift = torch.repeat_interleave(moved, lengths)
        units = shift + torch.arange(len(shift), device=shift.device)
        return self._map(lambda tensor: tensor[units.to(tensor.device)], lengths=lengths)

    def part(self, completions: slice, units: slice | None = None) -> LogProbs:
        """Some completions, without a copy; where they lie among the counted units need not be said of sums.

        Example:
            >>> logps = LogProbs(values=torch.tensor([-1.0, -2.0, -4.0]), lengths=torch.tensor([2, 1]))
            >>> logps.part(slice(1, 2), units=slice(2, 3)).sum().tolist()
            [-4.0]
            >>> LogProbs.from_sums(logps.sum(), logps.lengths).part(slice(0, None, 2)).sum().tolist()
            [-3.0]
        """
        if self.totals is None and units is None:
            raise ValueError("where the completions lie among the counted units must be said where they are known")
        at = completions if self.totals is not None else units
        return self._map(lambda tensor: tensor[at], lengths=self.lengths[completions])

    def sides(self) -> Pair:
        """Chosen and rejected of rows that hold exactly these two, in this order.

        Example:
            >>> logps = LogProbs(values=torch.tensor([-1.0, -2.0, -4.0]), lengths=torch.tensor([2, 1]))
            >>> [side.sum().tolist() for side in logps.sides()]
            [[-3.0], [-4.0]]
        """
        return Pair(*self.columns(2))

    def columns(self, count: int) -> list[LogProbs]:
        """The completions of rows that hold `count` each: first those at the first place in their row, then the second.

        Example:
            >>> logps = LogProbs.from_sums(-torch.arange(6.0), torch.ones(6, dtype=torch.int64))
            >>> [column.sum().tolist() for column in logps.columns(3)]
            [[-0.0, -3.0], [-1.0, -4.0], [-2.0, -5.0]]
        """
        if self.totals is not None:
            return [self.part(slice(place, None, count)) for place in range(count)]
        index = torch.arange(0, len(self), count)
        return [self.select(index + place) for place in range(count)]

    def detach(self) -> LogProbs:
        """The same numbers without a gradient."""
        return self._map(Tensor.detach)

    def to(self, *args: torch.device | torch.dtype | str) -> LogProbs:
        """The same numbers on another device or in another dtype (`lengths` stay int64)."""
        lengths = self.lengths
        for place in args:
            lengths = lengths if isinstance(place, torch.dtype) else lengths.to(place)
        return self._map(lambda tensor: tensor.to(*args), lengths=lengths)

    def sent_to(self, device: torch.device) -> LogProbs:
        """The same numbers, from main memory to a device; see `on_device`."""
        return self._map(lambda tensor: on_device(tensor, device), lengths=on_device(self.lengths, device))

    @staticmethod
    def cat(parts: Sequence[LogProbs]) -> LogProbs:
        """Completions of several `LogProbs`, one after the other."""
        merged = {}
        for field in fields(LogProbs):
            tensors = [getattr(part, field.name) for part in parts]
            known = [tensor for tensor in tensors if tensor is not None]
            if known and len(known) != len(tensors):
                raise ValueError(f"some parts have {field.name} and some have not")
            merged[field.name] = torch.cat(known) if known else None
        return LogProbs(**merged)  # type: ignore[arg-type]

    def split(self, counts: Sequence[int]) -> list[LogProbs]:
        """The way back of `cat`: parts of so many completions each; only where units are known."""
        lengths = torch.split(self.lengths, list(counts))
        sizes = [int(part.sum()) for part in lengths]
        names = [one.name for one in fields(self) if one.name not in ("lengths", "totals")]
        units = {name: torch.split(column, sizes) for name in names if (column := getattr(self, name)) is not None}
        return [LogProbs(lengths=part, **{name: units[name][at] for name in units}) for at, part in enumerate(lengths)]

    def _map(self, function, lengths: Tensor | None = None) -> LogProbs:  # type: ignore[no-untyped-def]
        changed = {name: None if (value := getattr(self, name)) is None else function(value) for name in _NUMBERS}
        return LogProbs(lengths=self.lengths if lengths is None else lengths, **changed)


_NUMBERS = tuple(field.name for field in fields(LogProbs) if field.name != "lengths")


class Pair(NamedTuple):
    """Log-probabilities of the two sides of B pairs."""

    chosen: LogProbs
    rejected: LogProbs


Columns = Mapping[str, Tensor]
"""What is known of the rows of a batch beside log-probabilities, by name."""

Measured = dict[str, Tensor | tuple[Tensor, Tensor]]
"""By name a value per row, or its numerator and its weight; means are taken over rows, each by its own weight."""


class LossResult(Protocol):
    """What every loss returns: a loss per row, and what is measured of the rewards beside it.

    The objective of a batch is sum(weight * loss) / sum(weight), with weight 1 where it is None.
    """

    @property
    def loss(self) -> Tensor:
        """A loss per row, nats."""

    @property
    def weight(self) -> Tensor | None:
        """What each row counts for, beside the weight the row itself has."""

    def rewards(self, columns: Columns) -> Measured:
        """Metrics of the implicit rewards, each with one value per row."""


class PairLoss(NamedTuple):
    """What a pairwise loss returns; every field (B,), nats, rewards detached."""

    loss: Tensor
    chosen_reward: Tensor
    rejected_reward: Tensor

    @property
    def weight(self) -> None:
        """Rows count alike."""
        return

    def rewards(self, columns: Columns) -> Measured:
        """Rewards of both sides, the margin between them, and whether it is positive; a tie is half right.

        Args:
            columns: may hold `indistinct`, (B,) bool, True where the margin is zero but for rounding, and `p_chosen`.
                Where that is below 1/2 the other side is taken for the chosen one; a tie has both rewards' mean on each side.
        """
        chosen, rejected = by_belief(columns.get("p_chosen"), self.chosen_reward, self.rejected_reward)
        margin = chosen - rejected
        tied = margin == 0
        if "indistinct" in columns:
            tied = tied | columns["indistinct"]
        return {
            "chosen": chosen,
            "rejected": rejected,
            "margins": margin,
            "accuracies": torch.where(tied, 0.5, (margin > 0).float()),
        }


def by_belief(p_chosen: Tensor | None, chosen: Tensor, rejected: Tensor) -> tuple[Tensor, Tensor]:
    """Two columns, (B,), with that of the side that is likelier the better one first; of a tie both are the mean.

    Example:
        >>> first, second = by_belief(torch.tensor([0.9, 0.2, 0.5]), torch.tensor([1.0, 1.0, 1.0]), torch.zeros(3))
        >>> first.tolist(), second.tolist()
        ([1.0, 0.0, 0.5], [0.0, 1.0, 0.5])
    """
    if p_chosen is None:
        return chosen, rejected
    mean, given, tied = (chosen + rejected) / 2, p_chosen > 0.5, p_chosen == 0.5
    first, second = torch.where(given, chosen, rejected), torch.where(given, rejected, chosen)
    return torch.where(tied, mean, first), torch.where(tied, mean, second)


class CompletionLoss(NamedTuple):
    """What a loss on single completions returns (SFT, KTO); both (B,), nats, the reward detached."""

    loss: Tensor
    reward: Tensor
    weight: Tensor | None = None
    """(B,) what each completion counts for; token-mean SFT weighs by length, so splitting a batch changes nothing."""

    def rewards(self, columns: Columns) -> Measured:
        """Rewards of desirable and of undesirable completions; nothing where completions have no label.

        Args:
            columns: may hold `desirable`, (B,) bool.
        """
        if "desirable" not in columns:
            return {}
        desirable = columns["desirable"]
        return {
            name: (torch.where(side, self.reward, 0.0), side.to(self.reward.dtype))
            for name, side in (("chosen", desirable), ("rejected", ~desirable))
        }


class ListLoss(NamedTuple):
    """What a K-wise loss returns: (G,) per group, and (B,) detached rewards of all completions of all groups."""

    loss: Tensor
    reward: Tensor

    @property
    def weight(self) -> None:
        """Groups count alike."""
        return

    def rewards(self, columns: Columns) -> Measured:
        """The reward of the best completion of each group, and whether it is the highest of its group.

        A tie at the top is right in one of so many cases as it has members.

        Args:
            columns: `sizes`, (G,) completions of each group, and `best`, (G,) position of the best in its group.
        """
        sizes = columns["sizes"]
        chosen = self.reward[sizes.cumsum(0) - sizes + columns["best"]]
        groups = torch.split(self.reward, sizes.tolist())
        share = torch.stack([1 / (rewards == rewards.max()).sum() for rewards in groups])
        highest = torch.stack([rewards.max() for rewards in groups])
        return {"chosen": chosen, "accuracies": (chosen >= highest) * share}


class RolloutLoss(NamedTuple):
    """What a loss on samples of the policy returns: (G,) per group of samples, and (B,) detached rewards of all samples."""

    loss: Tensor
    reward: Tensor
    """(B,) given to the samples; zeros for a loss that reads none."""
    sizes: Tensor
    """(G,) samples of each group."""
    weight: Tensor | None = None
    """(G,) what each group counts for; a mean over tokens weighs by their number, so splitting a batch changes nothing."""
    measured: Measured = {}  # noqa: RUF012  (never changed)
    """By name what else is measured of each group, such as `kl`, nats."""

    def rewards(self, columns: Columns) -> Measured:
        """The mean reward over samples."""
        sizes = self.sizes.to(self.reward)
        return {"mean": (group_sums(self.reward, self.sizes), sizes)}


def group_sums(values: Tensor, sizes: Tensor) -> Tensor:
    """(G,) sums over each group of any (B,) quantity of samples.

    Example:
        >>> group_sums(torch.tensor([1.0, 2.0, 4.0]), torch.tensor([2, 1])).tolist()
        [3.0, 4.0]
    """
    return torch.zeros(len(sizes), dtype=values.dtype, device=values.device).index_add(0, owners(sizes, values), values)


def owners(sizes: Tensor, like: Tensor) -> Tensor:
    """(B,) the group that each sample belongs to, on the device of `like`."""
    groups = torch.arange(len(sizes), device=sizes.device)
    return on_device(torch.repeat_interleave(groups, sizes), like.device)


def on_device(
    numbers: Tensor | Sequence[float], device: torch.device | None, dtype: torch.dtype | None = None
) -> Tensor:
    """Numbers from main memory on a device, without waiting for what the device is doing.

    What lies in ordinary memory is copied aside first, so it may change or go at once.
    """
    return torch.as_tensor(numbers, dtype=dtype).to(device, non_blocking=True)


def widest(device: torch.device) -> torch.dtype:
    """The floats with the most digits that a device has; Metal has no float64."""
    return torch.float32 if device.type == "mps" else torch.float64


def at_least_float32(tensor: Tensor) -> Tensor:
    """The tensor itself if it is float64, else as float32."""
    return tensor if tensor.dtype == torch.float64 else tensor.float()
