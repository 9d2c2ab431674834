"""Kinds of objectives: what a row holds, which label it needs, and how a loss is called. Never imports torch.

A kind is the contract between rows and losses. Data are converted to the label it names, batches are cut into the sides
it names, a loss is called with the columns it names (`exptilt.losses.calls`), and reports call completions by its
sides. Nobody else compares names of kinds, so a new kind is one more `Kind` in `KINDS`, and a loss of that kind.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from exptilt.errors import ConfigError
from exptilt.labels import Desirable, Label, Preferred, Ranked


@dataclass(frozen=True, eq=False, kw_only=True)
class Kind:
    """One kind of objective. It is printed and compared by its name.

    Example:
        >>> f"{PAIR}: {PAIR.sides}", PAIR == "pair", PAIR == LIST, LIST.num_completions
        ("pair: ('chosen', 'rejected')", True, False, None)
    """

    name: str
    """As it is written in files: data.json and the key of the data cache."""
    title: str
    """Heading of its losses in the catalogue."""
    rows: str
    """What it is trained on and which columns say it, for messages to people."""
    label: type[Label] | None
    """What every row is labelled with; None where rows have no label."""
    sides: tuple[str, ...] = ()
    """What the completions of a row are called; empty where a row has any number of them."""
    columns: tuple[str, ...] = ()
    """Columns that every loss of the kind is called with by position, after the log-probabilities or rewards."""
    reads: Literal["logps", "rewards"] = "logps"
    """What a loss is formed from: log-probabilities under policy and reference, or the rewards of a reward model."""
    is_trained: bool = True
    """Whether objectives of it exist; prompts alone are only sampled from."""

    def __str__(self) -> str:
        return self.name

    def __eq__(self, other: object) -> bool:
        return self.name == other if isinstance(other, str) else isinstance(other, Kind) and self.name == other.name

    def __hash__(self) -> int:
        return hash(self.name)

    @property
    def num_completions(self) -> int | None:
        """How many completions a row has; None where it has any number."""
        return len(self.sides) or None

    @property
    def is_paired(self) -> bool:
        """Whether a row is one chosen and one rejected completion."""
        return self.label is Preferred

    @property
    def imitates(self) -> bool:
        """Whether completions are imitated as they are; such training makes a reference and is measured against none."""
        return self.label is None and self.sides == ("completion",)

    @property
    def scores(self) -> bool:
        """Whether a reward model is trained, which gives scores and has no likelihoods, no reference and no samples."""
        return self.reads == "rewards"

    @property
    def has_reference(self) -> bool:
        """Whether what is trained is measured against a reference."""
        return not (self.imitates or self.scores)


PAIR = Kind(
    name="pair",
    title="Pairs",
    rows="pairs: columns chosen and rejected",
    label=Preferred,
    sides=("chosen", "rejected"),
)
COMPLETION = Kind(name="completion", title="Single completions", rows="completions", label=None, sides=("completion",))
UNPAIRED = Kind(
    name="unpaired",
    title="Labelled completions",
    rows="rated completions: columns completion and label, or chosen and rejected",
    label=Desirable,
    sides=("completion",),
    columns=("desirable",),
)
LIST = Kind(
    name="list",
    title="Lists",
    rows="rankings: columns completions and ranks (or scores), or chosen and rejected",
    label=Ranked,
    columns=("sizes",),
)
ROLLOUT = Kind(
    name="rollout",
    title="Samples of the policy, with rewards",
    rows="prompts: column prompt",
    label=None,
    columns=("sizes",),
)
REWARD = Kind(
    name="reward",
    title="Reward models, from pairs",
    rows=PAIR.rows,
    label=Preferred,
    sides=PAIR.sides,
    reads="rewards",
)
REWARD_LIST = Kind(
    name="reward_list",
    title="Reward models, from lists",
    rows=LIST.rows,
    label=Ranked,
    columns=("sizes",),
    reads="rewards",
)
PROMPT = Kind(name="prompt", title="Prompts", rows="prompts: column prompt", label=None, is_trained=False)

KINDS = (PAIR, COMPLETION, UNPAIRED, LIST, ROLLOUT, REWARD, REWARD_LIST)
"""Every kind of objective, in the order of the catalogue."""


def kind_of(kind: Kind | str) -> Kind:
    """A kind by its name; a kind is given back as it is.

    Raises:
        ConfigError: no kind has this name.
    """
    if isinstance(kind, Kind):
        return kind
    by_name = {one.name: one for one in (*KINDS, PROMPT)}
    if kind not in by_name:
        raise ConfigError(f"kind: {kind!r} is not known; there are {', '.join(by_name)}")
    return by_name[kind]


def kind_for(label: type[Label] | None) -> Kind:
    """The kind of policy objective that rows with this label are trained with.

    Example:
        >>> [kind_for(label).name for label in (Preferred, Ranked, Desirable, None)]
        ['pair', 'list', 'unpaired', 'completion']
    """
    return next(kind for kind in KINDS if kind.label is label and kind.reads == "logps")
