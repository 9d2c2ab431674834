"""Benchmarks of judges: pairs whose better answer is known, by subset.

RewardBench 1 and 2, JudgeBench, LLMBar, PandaLM, Auto-J, and rows with prompt, chosen and rejected.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from exptilt.data.problems import RowError
from exptilt.data.read.files import read_file
from exptilt.data.records import Text
from exptilt.errors import DataError
from exptilt.judges.answer_files import prompt_key
from exptilt.preferences import Comparison

Row = Mapping[str, Any]

BEST_OF = "RewardBench 2"
"""The benchmark whose rows have several candidates."""
_BETTER = {"1": 0, "A>B": 0, "A": 0, "2": 1, "B>A": 1, "B": 1, "0": None, "tie": None, "A=B": None, "1.5": None}
"""Position of the better answer by the words in use for a label; None is a tie."""
_TIE_ID = re.compile(r"(ref|tied):.+")


@dataclass(frozen=True)
class BenchmarkItem:
    """A comparison with its label."""

    comparison: Comparison
    better: str | None
    """The better answer; None is a tie."""
    section: str
    """The subset."""
    prompt: str
    """Items of one prompt are one unit of the interval."""
    row: str = ""
    """Where the item is from; the pairs of a row with several candidates share it."""


@dataclass(frozen=True)
class JudgeBenchmark:
    """A benchmark's items, and how it adds them up."""

    name: str
    items: list[BenchmarkItem] = field(default_factory=list)

    @property
    def is_best_of(self) -> bool:
        """Whether rows have several candidates, of which a right one must be found."""
        return self.name == BEST_OF


def read_benchmark(path: Path) -> JudgeBenchmark:
    """A benchmark by the columns of its rows.

    Raises:
        DataError: a schema that is not known, rows of two schemas, a label or a column that makes no sense.
    """
    if not path.is_file():
        raise DataError(f"{path}: there is no such benchmark file")
    items: list[BenchmarkItem] = []
    names: Counter[str] = Counter()
    for place, row in read_file(path):
        if isinstance(row, RowError):
            raise DataError(f"{place}: {row}")
        name, read = _schema(row, place)
        names[name] += 1
        if len(names) > 1:
            raise DataError(
                f"{place}: a row of {name} among rows of {next(iter(names))}; put each benchmark in its own file"
            )
        try:
            items += read(row, place)
        except (KeyError, TypeError, IndexError, AttributeError) as error:
            raise DataError(f"{place}: is no row of {name} ({type(error).__name__}: {error})") from None
    if not items:
        raise DataError(f"{path}: there is no pair in it")
    return JudgeBenchmark(next(iter(names)), items)


Reader = Callable[[Row, str], Iterator[BenchmarkItem]]


def _schema(row: Row, place: str) -> tuple[str, Reader]:
    if {"prompt", "chosen", "rejected"} <= row.keys() and _is_list_of(row["chosen"], str):
        return BEST_OF, _candidates
    for name, columns, read in _SCHEMAS:
        if columns <= row.keys():
            return name, read
    raise DataError(
        f"{place}: no known benchmark has the columns {', '.join(sorted(row)[:8])}; known are {BEST_OF}, "
        f"{', '.join(name for name, _, _ in _SCHEMAS)}"
    )


def _item(prompt: Any, one: Any, other: Any, label: Any, section: Any, place: str) -> Iterator[BenchmarkItem]:
    if str(label) not in _BETTER:
        raise DataError(f"{place}: the label {label!r} is none; known are {', '.join(_BETTER)}")
    for answer in (one, other):
        if not isinstance(answer, str):
            raise DataError(f"{place}: an answer must be text, got {type(answer).__name__}")
    position = _BETTER[str(label)]
    asked = _prompt(prompt, place)
    better = None if position is None else (one, other)[position]
    yield BenchmarkItem(Comparison(asked, (one, other)), better, str(section), prompt_key(asked), place)


def _prompt(prompt: Any, place: str) -> Text:
    if isinstance(prompt, str):
        return prompt
    if _is_list_of(prompt, Mapping):
        return tuple({"role": str(turn["role"]), "content": str(turn["content"])} for turn in prompt)
    raise DataError(f"{place}: a prompt must be text or turns, got {type(prompt).__name__}")


def _is_list_of(value: Any, kind: type) -> bool:
    return (
        isinstance(value, Sequence)
        and not isinstance(value, str)
        and bool(value)
        and all(isinstance(v, kind) for v in value)
    )


def _candidates(row: Row, place: str) -> Iterator[BenchmarkItem]:
    """RewardBench 2: every right candidate with every wrong one; ties are named by their id (`ref:7`, `tied:7`)."""
    if not _is_list_of(row["rejected"], str):
        raise DataError(f"{place}: `rejected` must be a list of texts, as `chosen` is")
    name = str(row.get("id", ""))
    section = str(row.get("subset", "all")) + (f"/{name}" if _TIE_ID.fullmatch(name) else "")
    for chosen in dict.fromkeys(row["chosen"]):
        for rejected in dict.fromkeys(row["rejected"]):
            yield from _item(row["prompt"], chosen, rejected, 1, section, place)


def _chosen(row: Row, place: str) -> Iterator[BenchmarkItem]:
    prompt, sides = row.get("prompt"), [row["chosen"], row["rejected"]]
    if all(_is_list_of(side, Mapping) for side in sides):  # whole conversations
        prompt = prompt or sides[0][:-1]
        sides = [side[-1]["content"] for side in sides]
    yield from _item(prompt, sides[0], sides[1], 1, row.get("subset", "all"), place)


def _pandalm(row: Row, place: str) -> Iterator[BenchmarkItem]:
    (vote, count), *rest = Counter(map(str, row["annotators"])).most_common()
    label = "0" if rest and rest[0][1] == count else vote  # no majority is a tie
    prompt = row["instruction"] + (f"\n\n{row['input']}" if row.get("input") else "")
    yield from _item(prompt, row["response1"], row["response2"], label, "all", place)


def _autoj(row: Row, place: str) -> Iterator[BenchmarkItem]:
    yield from _item(row["prompt"], row["response_1"], row["response_2"], row["label"], row["scenario"], place)


def _llmbar(row: Row, place: str) -> Iterator[BenchmarkItem]:
    yield from _item(row["input"], row["output_1"], row["output_2"], row["label"], row.get("subset", "all"), place)


_JUDGEBENCH = {
    "mmlu-pro": "Knowledge",
    "livebench-reasoning": "Reasoning",
    "livebench-math": "Math",
    "livecodebench": "Coding",
}
"""Sections of JudgeBench by how the name of a row's source begins; Tan et al. (2024), https://arxiv.org/abs/2410.12784."""


def _judgebench(row: Row, place: str) -> Iterator[BenchmarkItem]:
    source = str(row.get("source", "all"))
    section = next((name for start, name in _JUDGEBENCH.items() if source.startswith(start)), source)
    yield from _item(row["question"], row["response_A"], row["response_B"], row["label"], section, place)


_SCHEMAS: tuple[tuple[str, set[str], Reader], ...] = (
    ("JudgeBench", {"question", "response_A", "response_B", "label"}, _judgebench),
    ("LLMBar", {"input", "output_1", "output_2", "label"}, _llmbar),
    ("PandaLM", {"instruction", "response1", "response2", "annotators"}, _pandalm),
    ("Auto-J", {"prompt", "response_1", "response_2", "label", "scenario"}, _autoj),
    ("RewardBench", {"chosen", "rejected"}, _chosen),
)
