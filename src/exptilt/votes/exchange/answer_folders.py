"""MT-Bench and Arena-Hard: a folder with questions, answers of models, and games of two of them that a judge saw in both orders.

    question.jsonl  model_answer/MODEL.jsonl  model_judgment/...

A row of MT-Bench has `g1_winner` and `g2_winner` (in the second game model_2 is shown first), one of Arena-Hard has `games`
(in the first the baseline is A) with five levels of a verdict.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from exptilt.data.problems import RowError
from exptilt.data.read.files import read_file
from exptilt.errors import DataError
from exptilt.preferences import Outcome
from exptilt.votes.exchange.foreign_votes import ForeignVote, Row, UnfitError, text_of_turns
from exptilt.votes.vote_records import Rater

T = TypeVar("T")

BASELINE = "gpt-4-0314"
"""Of Arena-Hard 0.1, whose rows do not name it."""
_LEVELS: dict[str, tuple[Outcome, str]] = {
    "A>>B": ("first", "much"), "A>B": ("first", "slightly"), "A=B": ("tie", ""), "B>A": ("second", "slightly"),
    "B>>A": ("second", "much"), "B<<A": ("first", "much"), "B<A": ("first", "slightly"), "B=A": ("tie", ""),
    "A<B": ("second", "slightly"), "A<<B": ("second", "much"),
}  # fmt: skip
_PLAIN = {"first": "A>B", "second": "B>A", "tie": "A=B", "both_bad": "A=B"}
_GAMES = {"model_1": 0, "model_2": 1}


@dataclass(frozen=True)
class AnswerFolder:
    """Questions and answers, by the question's id."""

    path: Path
    questions: dict[str, list[str]]
    """The user's turns."""
    answers: dict[str, dict[str, list[str]]]
    """By model: the assistant's turns."""

    @staticmethod
    def is_one(path: Path) -> bool:
        """Whether a folder has the parts."""
        return (path / "question.jsonl").is_file() and (path / "model_judgment").is_dir()

    @classmethod
    def read(cls, path: Path) -> AnswerFolder:
        """Questions and answers of a folder.

        Raises:
            DataError: a row that is neither, or no answers.
        """
        questions = dict(_read_rows(path / "question.jsonl", lambda row: (_id(row), _asked(row))))
        answers: dict[str, dict[str, list[str]]] = defaultdict(dict)
        for file in sorted((path / "model_answer").glob("*.jsonl")):
            for model, question, turns in _read_rows(file, lambda row: (_model(row), _id(row), _said(row))):
                answers[model or file.stem][question] = turns
        if not answers:
            raise DataError(f"{path}: holds no answers; they are expected as model_answer/MODEL.jsonl")
        return cls(path, questions, dict(answers))

    def judgements(self) -> Iterator[Row]:
        """Rows of all judges."""
        for file in sorted((self.path / "model_judgment").rglob("*.jsonl")):
            yield from _read_rows(file, lambda row: row)

    def pair(self, question: str, models: Sequence[str], turn: int = 1) -> tuple[str, tuple[str, str]]:
        """The first prompt, and what two models said up to a turn.

        Raises:
            UnfitError: a question or an answer is missing.
        """
        if question not in self.questions:
            raise UnfitError("a question that is not in question.jsonl")
        asked = self.questions[question]
        texts = []
        for model in models:
            said = self.answers.get(model, {}).get(question)
            if said is None or len(said) < turn or len(asked) < turn:
                raise UnfitError(f"no answer of {model}")
            turns: list[Any] = [{"role": "assistant", "content": said[0]}]
            for number in range(1, turn):
                turns += [{"role": "user", "content": asked[number]}, {"role": "assistant", "content": said[number]}]
            texts.append(text_of_turns(turns))
        return asked[0], (texts[0], texts[1])


def mt_bench_votes(folder: AnswerFolder, row: Row) -> Iterator[ForeignVote]:
    """Both games of a row of `JUDGE_pair.jsonl`."""
    models = [str(row["model_1"]), str(row["model_2"])]
    turn = int(row.get("turn") or 1)
    prompt, answers = folder.pair(_id(row), models, turn)
    named = row.get("judge")
    judge = [str(part) for part in named] if isinstance(named, list) else [str(named or "MT-Bench"), ""]
    for game in (1, 2):
        if f"g{game}_winner" not in row:
            continue
        shown = (0, 1) if game == 1 else (1, 0)
        winner = str(row[f"g{game}_winner"])
        outcome: Outcome = "tie" if winner == "tie" else "unscored"
        if winner in _GAMES:
            outcome = "first" if shown[0] == _GAMES[winner] else "second"
        rest = {
            name: value
            for name, value in row.items()
            if name not in ("model_1", "model_2", "g1_winner", "g2_winner", "judge", "g1_judgment", "g2_judgment")
            and not name.startswith(f"g{3 - game}_")
        }
        yield ForeignVote(
            prompt=prompt,
            answers=(answers[shown[0]], answers[shown[1]]),
            sources=(models[shown[0]], models[shown[1]]),
            rater=Rater("judge", judge[0], f"MT-Bench {judge[1]}".strip()),
            outcome=outcome,
            reply=str(row.get(f"g{game}_judgment") or ""),
            rest={**rest, "models": models, "game": game},
        )


def arena_hard_votes(folder: AnswerFolder, row: Row) -> Iterator[ForeignVote]:
    """Both games of a row of `model_judgment/JUDGE/MODEL.jsonl`."""
    models = [str(row.get("baseline") or BASELINE), str(row["model"])]
    prompt, answers = folder.pair(_id(row), models)
    rest = {name: value for name, value in row.items() if name not in ("model", "judge", "games")}
    for game, played in enumerate(row["games"]):
        if not isinstance(played, Mapping):
            continue
        shown = (0, 1) if game == 0 else (1, 0)
        score = played.get("score")
        outcome, strength = _LEVELS.get(str(score), ("unscored", ""))
        reply = played.get("judgment")
        more = {name: value for name, value in played.items() if name not in ("score", "judgment")}
        more |= {} if outcome == "unscored" or score == arena_score(outcome, strength) else {"score": score}
        yield ForeignVote(
            prompt=prompt,
            answers=(answers[shown[0]], answers[shown[1]]),
            sources=(models[shown[0]], models[shown[1]]),
            rater=Rater("judge", str(row.get("judge") or "Arena-Hard"), "Arena-Hard"),
            outcome=outcome,
            strength=strength,
            reply=reply if isinstance(reply, str) else "" if reply is None else json.dumps(reply),
            rest={**rest, "models": models, "game": game + 1, "played": more, "is_text": isinstance(reply, str)},
        )


def arena_score(outcome: str, strength: str) -> str | None:
    """A vote as one of Arena-Hard's levels; None for what is unscored.

    Example:
        >>> arena_score("second", "much"), arena_score("first", ""), arena_score("unscored", "")
        ('B>>A', 'A>B', None)
    """
    score = _PLAIN.get(outcome)
    return score if score is None or strength != "much" else score.replace(">", ">>")


def _read_rows(path: Path, read: Callable[[Row], T]) -> Iterator[T]:
    for place, row in read_file(path):
        if isinstance(row, RowError):
            raise DataError(f"{path.parent / place}: {row}")
        try:
            yield read(row)
        except UnfitError as error:
            raise DataError(f"{path.parent / place}: {error}") from None
        except (KeyError, TypeError, IndexError, AttributeError) as error:
            raise DataError(
                f"{path.parent / place}: a row of another shape ({type(error).__name__}: {error})"
            ) from None


def _model(row: Row) -> str:
    return str(row.get("model_id") or row.get("model") or "")


def _id(row: Row) -> str:
    for name in ("question_id", "uid"):
        if row.get(name) is not None:
            return str(row[name])
    raise UnfitError("a row without question_id and uid")


def _asked(row: Row) -> list[str]:
    turns = row.get("turns")
    if isinstance(turns, list) and turns:
        return [str(turn["content"] if isinstance(turn, Mapping) else turn) for turn in turns]
    if isinstance(row.get("prompt"), str):
        return [str(row["prompt"])]
    raise UnfitError("a question with neither `turns` nor `prompt`")


def _said(row: Row) -> list[str]:
    choices, messages = row.get("choices"), row.get("messages")
    if isinstance(choices, list) and choices:
        return [_content(turn["content"] if isinstance(turn, Mapping) else turn) for turn in choices[0]["turns"]]
    if isinstance(messages, list):
        return [_content(turn["content"]) for turn in messages if turn.get("role") == "assistant"]
    raise UnfitError("an answer with neither `choices` nor `messages`")


def _content(value: Any) -> str:
    """Arena-Hard 2 puts an answer into `content.answer`."""
    return str(value["answer"] if isinstance(value, Mapping) else value)


def played_in_pairs(games: Iterable[tuple[Any, int]]) -> list[tuple[Any | None, Any | None]]:
    """Games as rows: the k-th of the first order with the k-th of the second."""
    sides: tuple[list[Any], list[Any]] = ([], [])
    for game, order in games:
        sides[order].append(game)
    count = max(map(len, sides))
    return [tuple(side[k] if k < len(side) else None for side in sides) for k in range(count)]  # type: ignore[misc]


def most_common(names: Iterable[str]) -> str:
    """The name that occurs most often, the first by alphabet where several do."""
    counts = Counter(names)
    return min(counts, key=lambda name: (-counts[name], name))
