"""Benchmarks of judges: pairs whose better answer is known, by section.

RewardBench 1 and 2, JudgeBench, LLMBar, PandaLM, Auto-J, and rows with prompt, chosen and rejected.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from exptilt.data.problems import RowError
from exptilt.data.read.files import read_file
from exptilt.errors import DataError
from exptilt.preferences import Comparison

Row = Mapping[str, Any]


@dataclass(frozen=True)
class BenchmarkItem:
    """A comparison with its label."""

    comparison: Comparison
    better: str | None
    """The better answer; None is a tie."""
    section: str
    prompt: str
    """Items of one prompt are one unit of the interval."""


def read_benchmark(path: Path) -> tuple[str, list[BenchmarkItem]]:
    """The benchmark's name and items; two equal answers are no comparison and are left out by nobody but this count.

    Raises:
        DataError: a schema that is not known.
    """
    items: list[BenchmarkItem] = []
    names: Counter[str] = Counter()
    for place, row in read_file(path):
        if isinstance(row, RowError):
            raise DataError(f"{place}: {row}")
        name, read = _schema(row, place)
        names[name] += 1
        try:
            items += list(read(row))
        except (KeyError, TypeError, IndexError) as error:
            raise DataError(f"{place}: a row of {name} without {error}") from None
    if not items:
        raise DataError(f"{path}: there is no pair in it")
    return names.most_common(1)[0][0], items


def _schema(row: Row, place: str) -> tuple[str, Callable[[Row], Iterator[BenchmarkItem]]]:
    for name, columns, read in _SCHEMAS:
        if columns <= row.keys():
            return name, read
    raise DataError(
        f"{place}: no known benchmark has the columns {', '.join(sorted(row)[:8])}; known are "
        f"{', '.join(name for name, _, _ in _SCHEMAS)}"
    )


def _item(prompt: str, one: str, other: str, label: Any, section: str) -> Iterator[BenchmarkItem]:
    better = {"1": one, "2": other, "A>B": one, "B>A": other}.get(str(label))
    yield BenchmarkItem(Comparison(prompt, (one, other)), better, section, prompt)


def _rewardbench_2(row: Row) -> Iterator[BenchmarkItem]:
    for chosen in row["chosen"]:
        for rejected in row["rejected"]:
            yield from _item(row["prompt"], chosen, rejected, 1, str(row["subset"]))


def _chosen(row: Row) -> Iterator[BenchmarkItem]:
    if isinstance(row["chosen"], list):
        yield from _rewardbench_2({"subset": "all"} | dict(row))
    else:
        yield from _item(row["prompt"], row["chosen"], row["rejected"], 1, str(row.get("subset", "all")))


def _pandalm(row: Row) -> Iterator[BenchmarkItem]:
    (vote, count), *rest = Counter(map(str, row["annotators"])).most_common()
    label = "0" if rest and rest[0][1] == count else vote  # no majority is a tie
    prompt = row["instruction"] + (f"\n\n{row['input']}" if row.get("input") else "")
    yield from _item(prompt, row["response1"], row["response2"], label, "all")


def _autoj(row: Row) -> Iterator[BenchmarkItem]:
    yield from _item(row["prompt"], row["response_1"], row["response_2"], row["label"], str(row["scenario"]))


def _llmbar(row: Row) -> Iterator[BenchmarkItem]:
    yield from _item(row["input"], row["output_1"], row["output_2"], row["label"], str(row.get("subset", "all")))


def _judgebench(row: Row) -> Iterator[BenchmarkItem]:
    section = str(row.get("source", "all"))
    yield from _item(row["question"], row["response_A"], row["response_B"], row["label"], section)


_SCHEMAS: tuple[tuple[str, set[str], Callable[[Row], Iterator[BenchmarkItem]]], ...] = (
    ("JudgeBench", {"question", "response_A", "response_B", "label"}, _judgebench),
    ("LLMBar", {"input", "output_1", "output_2", "label"}, _llmbar),
    ("PandaLM", {"instruction", "response1", "response2", "annotators"}, _pandalm),
    ("Auto-J", {"prompt", "response_1", "response_2", "label", "scenario"}, _autoj),
    ("RewardBench", {"prompt", "chosen", "rejected"}, _chosen),
)
