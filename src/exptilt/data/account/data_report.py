"""What was read, what was kept, what was left out and why; for a file and for a person."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from exptilt.data.groups import Completion, Group, TokenIds
from exptilt.data.problems import Finding
from exptilt.wording import counted

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True, slots=True, kw_only=True)
class Lengths:
    """How long something is, over all kept examples, in tokens."""

    least: int
    median: float
    p95: float
    most: int
    total: int

    @classmethod
    def of(cls, values: Sequence[int] | NDArray[Any]) -> Lengths:
        """Of a list of lengths that is not empty."""
        array = np.asarray(values)
        return cls(
            least=int(array.min()),
            median=float(np.median(array)),
            p95=float(np.percentile(array, 95)),
            most=int(array.max()),
            total=int(array.sum()),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceReport:
    """One source of a split."""

    path: str
    format: str
    rows: int
    records: int
    """What its rows became, before rows of all sources were compared."""
    weight: float
    licence: str | None
    """As stated in the recipe or by the source; None: nothing is known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitReport:
    """The account of one split: rows less rows_left_out became examples; examples less examples_left_out were kept."""

    source: str
    format: str
    rows: int
    """Rows read."""
    rows_left_out: Mapping[str, int]
    """Why and how many, before conversion."""
    examples: int
    """What the remaining rows became; more than the rows where one row gives several pairs."""
    examples_left_out: Mapping[str, int]
    """Why and how many, after conversion."""
    kept: int
    """Examples to train or test on."""
    lengths: Mapping[str, Lengths] = field(default_factory=dict)
    """Of prompts and of the counted tokens of each kind of completion."""
    longer_chosen: float | None = None
    """Share of kept pairs whose preferred completion has more characters; what 'the longer one wins' would score."""
    more_markup_chosen: float | None = None
    """Share of pairs whose preferred completion has more markup, among those that differ in it."""
    p_chosen: tuple[float, float, float] | None = None
    """Least, mean and most p_chosen of kept pairs."""
    num_desirable: int = 0
    num_undesirable: int = 0
    """Labels of kept ratings."""
    repeated: int = 0
    """Copies made by weights above 1; the examples include them."""
    sources: tuple[SourceReport, ...] = ()
    columns_not_read: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """One example as the model reads it."""

    id: str
    prompt: str
    completions: tuple[tuple[tuple[str, bool], ...], ...]
    """Of each completion its text in pieces, and whether the tokens of the piece count."""

    @classmethod
    def of(cls, group: Group, tokenizer: PreTrainedTokenizerBase) -> Example:
        """A group decoded."""
        completions = tuple(tuple(_pieces(part, tokenizer)) for part in group.completions)
        return cls(id=group.id, prompt=decoded(tokenizer, group.prompt), completions=completions)


@dataclass(frozen=True, slots=True, kw_only=True)
class DataReport:
    """The account of a data set."""

    kind: str
    train: SplitReport
    test: SplitReport | None
    findings: tuple[Finding, ...]
    examples: tuple[Example, ...] = ()
    """The first training examples, where there is a tokenizer to make them."""

    @property
    def errors(self) -> tuple[Finding, ...]:
        """Findings that keep a run from starting."""
        return tuple(finding for finding in self.findings if finding.severity == "error")

    @property
    def refusal(self) -> str:
        """Why a run would refuse these data; empty if it would take them."""
        count = len(self.errors)
        if count:
            return counted(count, "kind of error", "kinds of error")
        nothing_left = any(split.kept == 0 for split in (self.train, self.test) if split is not None)
        return "nothing is left to use" if nothing_left else ""

    def adding(self, *findings: Finding) -> DataReport:
        """The report with findings that were made later, such as those that need a model."""
        return dataclasses.replace(self, findings=(*self.findings, *findings))

    def as_dict(self) -> dict[str, Any]:
        """Plain mappings, lists and scalars, for data.json and for pages."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, said: Mapping[str, Any]) -> DataReport:
        """The report that `as_dict` was made from."""
        findings = tuple(Finding(**{**each, "examples": tuple(each["examples"])}) for each in said["findings"])
        train = _split_from(said["train"])
        test = None if said["test"] is None else _split_from(said["test"])
        examples = tuple(
            Example(
                id=each["id"],
                prompt=each["prompt"],
                completions=tuple(tuple((text, counted) for text, counted in part) for part in each["completions"]),
            )
            for each in said["examples"]
        )
        return cls(kind=said["kind"], train=train, test=test, findings=findings, examples=examples)


def _split_from(said: Mapping[str, Any]) -> SplitReport:
    changed = {
        "lengths": {name: Lengths(**each) for name, each in said["lengths"].items()},
        "sources": tuple(SourceReport(**each) for each in said["sources"]),
        "columns_not_read": tuple(said["columns_not_read"]),
        "p_chosen": None if said["p_chosen"] is None else tuple(said["p_chosen"]),
    }
    return SplitReport(**{**said, **changed})


def _pieces(completion: Completion, tokenizer: PreTrainedTokenizerBase) -> Iterator[tuple[str, bool]]:
    """Stretches of tokens that all count, or all do not."""
    edges = np.flatnonzero(np.diff(completion.counted.astype(np.int8))) + 1
    for ids, counts in zip(np.split(completion.ids, edges), np.split(completion.counted, edges), strict=True):
        if len(ids):
            yield decoded(tokenizer, ids), bool(counts[0])


def decoded(tokenizer: PreTrainedTokenizerBase, ids: TokenIds) -> str:
    """Token ids as the model reads them, special tokens included."""
    return str(tokenizer.decode(ids.tolist()))
