"""Answers of a policy from a file: samples, AlpacaEval's `model_outputs.json`, or any rows with prompt and answer."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from exptilt.data.problems import RowError
from exptilt.data.read.files import read_file
from exptilt.data.records import Text
from exptilt.errors import DataError
from exptilt.preferences import Comparison
from exptilt.run_folder.file_names import SAMPLES

_PROMPTS = ("prompt", "instruction", "question", "query", "input")
_ANSWERS = ("completion", "output", "response", "answer", "policy", "text")


@dataclass(frozen=True)
class PolicyAnswers:
    """What one policy said to each prompt."""

    name: str
    prompts: dict[str, Text] = field(default_factory=dict)
    """By key, see `prompt_key`."""
    answers: dict[str, list[str]] = field(default_factory=dict)
    """One or several answers by key."""

    def add(self, prompt: Text, answer: str) -> None:
        """One more answer."""
        key = prompt_key(prompt)
        self.prompts[key] = prompt
        self.answers.setdefault(key, []).append(answer)


def prompt_key(prompt: Text) -> str:
    """A prompt as a key; text and turns of the same content differ."""
    return prompt if isinstance(prompt, str) else json.dumps([dict(turn) for turn in prompt], sort_keys=True)


def read_answers(where: str, column: str | None = None, name: str | None = None) -> PolicyAnswers:
    """Answers of a file, or of a run folder's samples.

    Args:
        where: a file of rows, or a folder with `samples.jsonl`.
        column: holds the answers; by default the first of completion, output, response, answer, policy, text.
        name: of the policy; by default the rows' `generator`, or the file's name.

    Raises:
        DataError: no such file, a row without a prompt or an answer.
    """
    path = Path(where)
    path = path / SAMPLES if path.is_dir() else path
    if not path.exists():
        raise DataError(f"{path}: there is no such file of answers; `exptilt sample` writes one")
    found = PolicyAnswers(name or (Path(where).name if Path(where).is_dir() else path.name.split(".")[0]))
    generators = set()
    for place, row in read_file(path):
        if isinstance(row, RowError):
            raise DataError(f"{place}: {row}")
        found.add(_prompt(row, place), _answer(row, place, column))
        generators.add(row.get("generator"))
    if not found.answers:
        raise DataError(f"{path}: there are no answers in it")
    (generator, *others) = generators
    return replace(found, name=generator) if name is None and not others and isinstance(generator, str) else found


def paired_answers(
    one: PolicyAnswers, other: PolicyAnswers, *, common: bool = False
) -> tuple[list[str], list[Comparison]]:
    """Comparisons of two policies, the first policy's answer first, with the key of their prompt.

    The k-th answer meets the k-th; where one side has a single answer it meets all of the other's.

    Raises:
        DataError: prompts of one side that the other lacks (unless `common`), or no prompt in common.
    """
    shared = [key for key in one.answers if key in other.answers]
    missing = len(one.answers) + len(other.answers) - 2 * len(shared)
    if not shared:
        raise DataError(
            f"{one.name} and {other.name} answer different prompts: none in common; sample both on the same ones"
        )
    if missing and not common:
        raise DataError(
            f"{one.name} and {other.name} have {len(shared)} prompts in common, and {missing} that one of them lacks; "
            "sample the missing ones, or add --common to compare on those in common"
        )
    keys, pairs = [], []
    for key in shared:
        mine, theirs = one.answers[key], other.answers[key]
        if len(mine) != len(theirs) and 1 not in (len(mine), len(theirs)):
            raise DataError(
                f"{one.name} has {len(mine)} answers and {other.name} {len(theirs)} to a prompt; give one or as many"
            )
        for k in range(max(len(mine), len(theirs))):
            keys.append(key)
            pairs.append(Comparison(one.prompts[key], (mine[k % len(mine)], theirs[k % len(theirs)])))
    return keys, pairs


def _prompt(row: Mapping[str, Any], place: str) -> Text:
    for name in _PROMPTS:
        value = row.get(name)
        if isinstance(value, str):
            more = row.get("input") if name == "instruction" else None
            return f"{value}\n\n{more}" if isinstance(more, str) and more else value
        if isinstance(value, Sequence) and value and all(isinstance(turn, Mapping) for turn in value):
            return tuple(dict(turn) for turn in value)
    raise DataError(f"{place}: the row has no prompt; it needs one of the columns {', '.join(_PROMPTS)}")


def _answer(row: Mapping[str, Any], place: str, column: str | None) -> str:
    for name in (column,) if column else _ANSWERS:
        value = row.get(name)
        if isinstance(value, str):
            return value
        if isinstance(value, Sequence) and value and isinstance(value[-1], Mapping):
            content = value[-1].get("content")  # the last turn of a completion in turns
            if isinstance(content, str):
                return content
    raise DataError(f"{place}: the row has no answer; it needs the column {column or ' or '.join(_ANSWERS)}")
