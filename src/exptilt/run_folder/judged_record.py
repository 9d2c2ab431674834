"""judged.json: win rates of policies by judges, over temperatures, checkpoints and data sets."""

from __future__ import annotations

from exptilt.run_folder.estimate_record import Estimate
from exptilt.run_folder.record import FilePart, FileRecord


class JudgedCell(FilePart):
    """One judge on one policy at one temperature and step."""

    title: str
    policy: str
    against: str
    data: str = ""
    """The data set."""
    temperature: float | None = None
    step: int | None = None
    """Of training, where it is known."""
    final: bool = True
    """False for a checkpoint on the way."""
    kl: Estimate | None = None
    """Sequence-level KL from the reference, nats; at temperature 1 of the plain law only."""
    win_rate: Estimate | None = None
    """Swap-average; None where more than 5 % of the verdicts are missing."""
    together: Estimate | None = None
    """The mean over prompts, with an interval that holds together with those of all cells of the data set."""
    slot_corrected: Estimate | None = None
    length_controlled: Estimate | None = None
    consistent: Estimate | None = None
    ties: Estimate | None = None
    lower_bound: Estimate
    upper_bound: Estimate
    unscored: int = 0
    verdicts: int = 0
    equal_answers: int = 0
    doubts: tuple[str, ...] = ()


class BestTemperature(FilePart):
    """The best of a policy's temperatures, without the luck of having been chosen."""

    policy: str
    data: str = ""
    step: int | None = None
    final: bool = True
    temperature: float
    """Best on half of the prompts."""
    win_rate: Estimate
    """On the other half."""
    on_choosing_half: float
    """Too good on average."""
    optimism: float
    """How much too good the best of these temperatures looks on all prompts, by the bootstrap of the maximum."""


class JudgedGap(FilePart):
    """A paired difference of two policies on the same prompts."""

    first: str
    second: str
    data: str = ""
    where: str = ""
    """At which temperatures, on which prompts."""
    value: Estimate


class KinNote(FilePart):
    """A policy of the judge's own kin."""

    title: str
    base: str
    more_than_others: Estimate | None = None
    """The judge's win rate minus the mean of the other judges', paired."""


class JudgeColumn(FilePart):
    """Everything one judge says."""

    name: str
    identity: str = ""
    is_yardstick: bool = False
    cells: tuple[JudgedCell, ...] = ()
    best: tuple[BestTemperature, ...] = ()
    gaps: tuple[JudgedGap, ...] = ()
    kin: tuple[KinNote, ...] = ()


class Judged(FileRecord):
    """judged.json."""

    title: str = ""
    judges: tuple[JudgeColumn, ...] = ()
    command: str | None = None

    @property
    def real_judges(self) -> list[JudgeColumn]:
        """Judges that are no yardstick; all where there is no other."""
        return [one for one in self.judges if not one.is_yardstick] or list(self.judges)
