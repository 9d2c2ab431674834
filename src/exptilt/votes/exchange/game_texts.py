"""Games of MT-Bench and Arena-Hard on their way out: who played whom, and every question and answer once."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from exptilt.disk import write_lines
from exptilt.preferences import Comparison
from exptilt.votes.exchange.foreign_votes import UnfitError, turns_of_text
from exptilt.votes.vote_records import Vote


@dataclass(frozen=True)
class StoredVote:
    """A vote with all the store knows of it."""

    comparison: Comparison
    vote: Vote
    sources: Mapping[int, Sequence[str]]
    rest: Mapping[str, Any] | None
    """Of the row it came from, where that was of the form that is written."""
    reply: str


@dataclass(frozen=True)
class Game:
    """A vote as one of two games of a pair of policies."""

    one: StoredVote
    models: tuple[str, str]
    """model_1 and model_2, or the baseline and the model."""
    order: int
    """0 where the first of them was shown first."""


class GameTexts:
    """Questions and answers of all games, each once."""

    def __init__(self) -> None:
        self._ids: dict[str, str] = {}
        self._questions: dict[str, list[str]] = {}
        self._answers: dict[str, dict[str, list[str]]] = defaultdict(dict)

    def add(self, one: StoredVote, game: Game, *, single_turn: bool) -> None:
        """Note what a game was about.

        Raises:
            UnfitError: the form cannot say it.
        """
        prompt = str(one.comparison.prompt)
        shown = game.models if game.order == 0 else game.models[::-1]
        turns = [turns_of_text(one.comparison.answers[position]) for position in one.vote.order]
        asked = [[prompt, *(str(turn["content"]) for turn in each if turn["role"] == "user")] for each in turns]
        said = [[str(turn["content"]) for turn in each if turn["role"] == "assistant"] for each in turns]
        if asked[0] != asked[1] or (single_turn and len(asked[0]) > 1):
            raise UnfitError("answers of several turns")
        question = self.question(one)
        for model, words in zip(shown, said, strict=True):
            known = self._answers[model].get(question, words)
            if known[: len(words)] != words[: len(known)]:
                raise UnfitError("a second answer of a policy to one question")
        for model, words in zip(shown, said, strict=True):
            self._answers[model][question] = max(self._answers[model].get(question, []), words, key=len)
        self._questions[question] = max(self._questions.get(question, []), asked[0], key=len)

    def question(self, one: StoredVote) -> str:
        """The question's id: the one it came with, or a number."""
        prompt = str(one.comparison.prompt)
        given = (one.rest or {}).get("question_id", (one.rest or {}).get("uid"))
        if prompt not in self._ids:
            self._ids[prompt] = str(len(self._ids) + 1) if given is None else str(given)
        return self._ids[prompt]

    def write(self, output: Path) -> None:
        """question.jsonl and model_answer/, in a form that both versions of Arena-Hard read."""
        (output / "model_answer").mkdir(parents=True)
        write_lines(
            output / "question.jsonl",
            (
                {"question_id": question_number(q), "uid": q, "category": "all", "turns": t, "prompt": t[0]}
                for q, t in self._questions.items()
            ),
        )
        files = file_names(self._answers)
        for model, answers in self._answers.items():
            rows = (self._answer(model, question, turns) for question, turns in answers.items())
            write_lines(output / "model_answer" / f"{files[model]}.jsonl", rows)

    def _answer(self, model: str, question: str, turns: Sequence[str]) -> dict[str, Any]:
        choices = [{"index": 0, "turns": list(turns)}]
        return {
            "question_id": question_number(question),
            "uid": question,
            "model_id": model,
            "model": model,
            "choices": choices,
        }


def question_number(question: str) -> int | str:
    """MT-Bench counts questions."""
    return int(question) if question.isascii() and question.isdigit() else question


def file_name(name: str) -> str:
    """A policy's or judge's name as a file's.

    Example:
        >>> file_name("meta/llama: 8b")
        'meta_llama__8b'
    """
    return "".join(c if c.isalnum() or c in "-_.+" else "_" for c in name).lstrip(".") or "unnamed"


def file_names(names: Iterable[str]) -> dict[str, str]:
    """A file's name for each, no two alike.

    Example:
        >>> file_names(["a/b", "a_b"])
        {'a/b': 'a_b', 'a_b': 'a_b-2'}
    """
    given: dict[str, str] = {}
    for name in names:
        plain = file = file_name(name)
        number = 1
        while file.lower() in {other.lower() for other in given.values()}:
            number += 1
            file = f"{plain}-{number}"
        given[name] = file
    return given
