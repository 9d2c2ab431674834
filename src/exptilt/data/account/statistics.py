"""Statistics of a split's kept examples (lengths, markup, labels), and settings that they suggest."""

from __future__ import annotations

import re
from dataclasses import dataclass

from exptilt.data.checks.record_checks import longer_side
from exptilt.data.records import Preference, Rating, Record, Text, words_of
from exptilt.data.stage_account import NOTHING, Account
from exptilt.kinds import Kind
from exptilt.labels import Desirable
from exptilt.wording import counted

_FEW = 100
"""Fewer examples than this are worth a word."""
_BIAS = 0.1
"""Distance of a share from one half that is reported."""
_MARKUP = re.compile(r"\*\*|^#{1,6} |^[^\S\n]*[-*] |^[^\S\n]*\d+\. |```|^\|.*\||</?[a-z]+ ?/?>", re.MULTILINE)
"""Bold, headings, list items, code fences, table rows and tags."""
_STEP = 64
"""Pairs in a step, where the number of steps is spoken of."""


@dataclass(kw_only=True)
class Tally:
    """Counts over the kept examples of one split."""

    examples: int = 0
    pairs: int = 0
    longer_preferred: int = 0
    markup_differs: int = 0
    markup_preferred: int = 0
    """Pairs whose preferred side has the more markup."""
    p_least: float = 1.0
    p_most: float = 0.0
    p_total: float = 0.0
    soft: int = 0
    """Pairs whose p_chosen is not 0, 0.5 or 1."""
    desirable: int = 0
    undesirable: int = 0
    label_changes: int = 0
    first_label: bool | None = None
    last_label: bool | None = None

    def __iadd__(self, later: Tally) -> Tally:
        """Count the examples that `later` counted, which come behind these."""
        for name in _SUMS:
            setattr(self, name, getattr(self, name) + getattr(later, name))
        self.p_least = min(self.p_least, later.p_least)
        self.p_most = max(self.p_most, later.p_most)
        if later.first_label is not None:
            self.label_changes += self.last_label not in (None, later.first_label)
            self.first_label = later.first_label if self.first_label is None else self.first_label
            self.last_label = later.last_label
        return self

    def add(self, record: Record) -> None:
        """Count an example."""
        self.examples += 1
        if isinstance(record, Preference):
            self._add_pair(record)
        elif isinstance(record, Rating):
            self._add_rating(record.desirable)

    def _add_pair(self, record: Preference) -> None:
        self.pairs += 1
        self.longer_preferred += longer_side(record) > 0
        marks = num_marks(record.chosen) - num_marks(record.rejected)
        self.markup_differs += marks != 0
        self.markup_preferred += (marks if record.p_chosen >= 0.5 else -marks) > 0
        self.p_least = min(self.p_least, record.p_chosen)
        self.p_most = max(self.p_most, record.p_chosen)
        self.p_total += record.p_chosen
        self.soft += record.p_chosen not in (0.0, 0.5, 1.0)

    def _add_rating(self, desirable: bool) -> None:
        if self.first_label is None:
            self.first_label = desirable
        self.label_changes += self.last_label not in (None, desirable)
        self.last_label = desirable
        self.desirable += desirable
        self.undesirable += not desirable

    @property
    def longer_chosen(self) -> float | None:
        """Share of pairs whose preferred side has more characters: the accuracy of 'the longer one wins'."""
        return self.longer_preferred / self.pairs if self.pairs else None

    @property
    def markup_chosen(self) -> float | None:
        """Share of preferred sides with the more markup, among pairs that differ in it."""
        return self.markup_preferred / self.markup_differs if self.markup_differs else None

    @property
    def p_chosen(self) -> tuple[float, float, float] | None:
        """Least, mean and most p_chosen."""
        return (self.p_least, self.p_total / self.pairs, self.p_most) if self.pairs else None

    def account(self, kind: Kind) -> Account:
        """The remarks about training examples like these."""
        account = NOTHING
        if not kind.is_trained:
            return account
        if 0 < self.examples < _FEW:
            detail = f"only {counted(self.examples, 'example')} to train on"
            account += Account.of("few", detail=detail, count=self.examples)
        if self.pairs >= _FEW:
            account += self._bias()
        if self.soft:
            detail = f"p_chosen is between {self.p_least:.3g} and {self.p_most:.3g}, {self.p_total / self.pairs:.3g} on average"
            account += Account.of("soft_labels", detail=detail, count=self.soft)
        if kind.label is Desirable and self.examples:
            account += self._labels()
        if self.examples >= _FEW:
            account += Account.of("suggestion", detail=suggestion(kind, self.examples), count=self.examples)
        return account

    def _bias(self) -> Account:
        account = NOTHING
        longer, markup = self.longer_chosen, self.markup_chosen
        if longer is not None and abs(longer - 0.5) > _BIAS:
            detail = f"the longer completion is chosen in {100 * longer:.1f} % of pairs; compare with it what the policy learns"
            account += Account.of("length_bias", detail=detail, count=self.longer_preferred)
        if markup is not None and self.markup_differs >= _FEW and abs(markup - 0.5) > _BIAS:
            detail = (
                f"the completion with more markup is chosen in {100 * markup:.1f} % of the {self.markup_differs} pairs "
                "that differ in it; a policy can learn the markup instead of the content"
            )
            account += Account.of("markup_bias", detail=detail, count=self.markup_preferred)
        return account

    def _labels(self) -> Account:
        if not self.desirable or not self.undesirable:
            word = "desirable" if self.desirable else "undesirable"
            return Account.of("one_label", detail=f"all {self.examples} completions are {word}", count=self.examples)
        balance = label_weights(self.desirable, self.undesirable)
        account = Account.of("label_balance", detail=balance, count=self.examples)
        if self.label_changes == 1 and self.examples >= _FEW:
            account += Account.of("sorted_labels", count=self.examples)
        return account


_SUMS = (
    "examples",
    "pairs",
    "longer_preferred",
    "markup_differs",
    "markup_preferred",
    "p_total",
    "soft",
    "desirable",
    "undesirable",
    "label_changes",
)
"""Fields of a tally that add up as they are."""


def num_marks(text: Text) -> int:
    r"""Number of markup marks in a text.

    Example:
        >>> num_marks("# Title\n- **one**\n- two<br />")
        6
    """
    return sum(1 for _ in _MARKUP.finditer(words_of(text)))


def label_weights(desirable: int, undesirable: int) -> str:
    """KTO's rule for label weights: the ratio of weight times count, desirable over the others, is within [1, 4/3].

    Source: Ethayarajh et al., 2024, section 4.2.

    Example:
        >>> label_weights(100, 300)
        '100 completions are desirable and 300 not; KTO asks for a desirable_weight of 3 to 4'
    """
    ratio = desirable / undesirable
    counts = f"{desirable} completions are desirable and {undesirable} not; "
    if 1 <= ratio <= 4 / 3:
        return counts + "KTO's weights can stay 1"
    if ratio < 1:
        return f"{counts}KTO asks for a desirable_weight of {1 / ratio:.3g} to {4 / 3 / ratio:.3g}"
    return f"{counts}KTO asks for an undesirable_weight of {0.75 * ratio:.3g} to {ratio:.3g}"


def suggestion(kind: Kind, num_examples: int) -> str:
    """A beta and a learning rate to begin with, and the reason for them.

    A small set is seen by few steps, so it needs a larger learning rate to move at all, and is soon memorised, so it
    needs a larger beta to hold the policy near the reference. Published points: beta
    0.1, and 0.5 for summaries (DPO); beta 0.01 to 0.1 with 5e-7 on 61,000 pairs (Zephyr). Between and below them these
    are rules of thumb, to begin a search with.

    Example:
        >>> from exptilt.kinds import PAIR
        >>> suggestion(PAIR, 64_000)[:65]
        '64000 examples are about 1000 steps of 64 per epoch: begin with b'
    """
    steps = -(-num_examples // _STEP)
    start = f"{num_examples} examples are about {steps} steps of {_STEP} per epoch: begin with"
    if kind.imitates:
        rate = "2e-5" if steps >= 100 else "5e-5"
        return f"{start} learning_rate {rate} (ten times that for adapters), {'1 to 3' if steps >= 100 else '3'} epochs"
    if steps >= 500:
        beta, rate, why = "0.01 to 0.1", "5e-7", "there is enough data to leave the reference"
    elif steps >= 50:
        beta, rate, why = "0.05 to 0.2", "5e-7 to 1e-6", "held-out accuracy falls after one or two epochs"
    else:
        beta, rate, why = (
            "0.1 to 0.5",
            "1e-6 to 5e-6",
            "a few steps must move the policy, and it soon knows the rows by heart",
        )
    return (
        f"{start} beta {beta} and learning_rate {rate} for all weights of a large model (ten times that for adapters, "
        f"more for small models), because {why}"
    )
