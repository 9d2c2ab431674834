"""Settings of sources: where rows are read from, alone or several together."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import GetCoreSchemaHandler
from pydantic_core import core_schema

from exptilt.settings.declaration import config

Format = Literal[
    "auto",
    "preference",
    "hh",
    "best_of",
    "triple",
    "sharegpt",
    "on_policy",
    "orca",
    "alpaca_pair",
    "argilla",
    "stackexchange",
    "openai",
    "rejected_response",
    "shp",
    "pku_helpful",
    "pku_harmless",
    "pku_safe",
    "helpsteer2",
    "helpsteer3",
    "arena_texts",
    "arena",
    "votes",
    "prometheus",
    "prometheus_ratings",
    "judgement",
    "webgpt",
    "tldr_comparison",
    "tldr_axis",
    "helpsteer_ratings",
    "oasst",
    "ultrafeedback",
    "comparisons",
    "copeland",
    "answers",
    "generations",
    "ranking",
    "multiple_choice",
    "stepwise",
    "rating",
    "rated_messages",
    "demonstration",
    "messages",
    "rated_text",
    "text",
    "alpaca",
    "question",
    "prompt_only",
]


@config
class SourceConfig:
    """One source of rows, for mixtures of several.

    Example:
        >>> SourceConfig(path="helpful.jsonl", weight=0.5).weight
        0.5
    """

    path: str
    """A .jsonl, .json, .csv, .tsv, .parquet or .arrow file (.gz, .zst allowed), a folder or pattern of them, `-`, or a hub id."""
    weight: float = 1.0
    """How often each row is used: 0.5 takes a fixed half of them, 2 each twice; at least 0."""
    split: str = "train"
    """Which split, where the source has splits."""
    subset: str | None = None
    """Configuration of a hub data set, where it has several."""
    revision: str | None = None
    """Commit or tag of a hub data set."""
    limit: int | None = None
    """Read only so many rows, from the start."""
    format: Format = "auto"
    """What a row looks like; auto finds it from the columns."""
    columns: dict[str, str] = dataclasses.field(default_factory=dict)
    """Names of the source's columns where they differ from ours: `{prompt: question}`."""
    ignore_columns: tuple[str, ...] = ()
    """Columns to read the rows without, though their names say a prompt, a label, a reason or the like."""
    labels: Literal["auto", "0/1", "1/0", "1/2"] = "auto"
    """Verdicts in numbers on two completions: 0/1: 0 is the first; 1/0: 1 is the first; 1/2: 1 is, 2 the second, 0 a tie."""
    steps: Literal["prefix", "min", "product", "mean", "last"] = "prefix"
    """Score of rows in steps (format stepwise). prefix: the share of steps before the first wrong one, desirable where all are right;
    min, product, mean, last: of the steps' labels, desirable above 1/2."""
    where: dict[str, str | int | float | bool] = dataclasses.field(default_factory=dict)
    """Use only rows with these values: `{split: validation}`; the others are counted."""
    licence: str | None = None
    """What the report says of the source's licence; none: what the source says of itself."""

    def __post_init__(self) -> None:
        if not 0 <= self.weight < math.inf:
            raise ValueError(f"weight must be at least 0, got {self.weight}")
        if self.limit is not None and self.limit < 1:
            raise ValueError(f"limit must be at least 1, got {self.limit}")


_PATH, _SECTION, _LIST = "[path]", "[section]", "[list]"
"""Forms in which sources are written; pydantic puts these into the place of a mistake, where `real_path` takes them out."""


@dataclasses.dataclass(frozen=True)
class OneOrMoreSources:
    """Marks a settings field that holds a path, or a list of paths and sources; pydantic asks it what is allowed."""

    def settings_class(self, written: Any) -> type[Any] | None:
        """The class of one source of the list; None for a path."""
        return SourceConfig if isinstance(written, Mapping) else None

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> core_schema.CoreSchema:
        of_path = core_schema.no_info_after_validator_function(_source_of_path, core_schema.str_schema())
        item = core_schema.tagged_union_schema(
            {_PATH: of_path, _SECTION: handler.generate_schema(SourceConfig)}, lambda given: _form(given, _SECTION)
        )
        listed = core_schema.no_info_before_validator_function(_as_list, core_schema.tuple_variable_schema(item))
        return core_schema.tagged_union_schema(
            {_PATH: core_schema.str_schema(), _LIST: listed}, lambda given: _form(given, _LIST)
        )


AnySources = Annotated[str | Sequence[str | SourceConfig], OneOrMoreSources()]
"""Type of a settings field that names where rows are read: one path, or several with or without keys of their own."""


def sources_in(given: str | Sequence[str | SourceConfig], shared: SourceConfig) -> tuple[SourceConfig, ...]:
    """The sources that a field names, each with the shared keys that it leaves at their defaults.

    Args:
        given: the field.
        shared: keys for all of them; its path is not used.

    Example:
        >>> wanted = SourceConfig(path="", format="hh", weight=2.0)
        >>> [(one.path, one.format, one.weight) for one in sources_in(["a.jsonl", SourceConfig(path="b", weight=0.5)], wanted)]
        [('a.jsonl', 'hh', 2.0), ('b', 'hh', 0.5)]
    """
    if isinstance(given, str):
        return (dataclasses.replace(shared, path=given),)
    return tuple(_with_shared(_source_of_path(one) if isinstance(one, str) else one, shared) for one in given)


def _with_shared(source: SourceConfig, shared: SourceConfig) -> SourceConfig:
    plain = SourceConfig(path=source.path)
    own = {
        field.name: value
        for field in dataclasses.fields(source)
        if (value := getattr(source, field.name)) != getattr(plain, field.name)
    }
    return dataclasses.replace(shared, path=source.path, **own)


def _source_of_path(path: str) -> SourceConfig:
    return SourceConfig(path=path)


def _form(given: Any, several: str) -> str:
    """The branch that checks a value: whatever is no list and no mapping is judged as a path."""
    return several if isinstance(given, list | tuple | Mapping | SourceConfig) else _PATH


def _as_list(given: Any) -> Any:
    """A list of sources; of a mapping the source it is, or the sources whose weights it gives: `{a.jsonl: 0.5, b.jsonl: 1}`."""
    if isinstance(given, Mapping) and not given.keys() & {field.name for field in dataclasses.fields(SourceConfig)}:
        return [{"path": path, "weight": weight} for path, weight in given.items()]
    return [given] if isinstance(given, Mapping | SourceConfig) else given
