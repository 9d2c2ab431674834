"""A store's votes in the files of other tools. What has no place there is left out and counted."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from exptilt.disk import require_free, write_lines, write_whole
from exptilt.errors import ConfigError, DataError
from exptilt.votes.exchange.alpaca_eval_votes import alpaca_eval_row
from exptilt.votes.exchange.answer_folders import arena_score, most_common, played_in_pairs
from exptilt.votes.exchange.arena_votes import arena_row
from exptilt.votes.exchange.foreign_votes import UnfitError, single_source, turns_of_text
from exptilt.votes.exchange.game_texts import Game, GameTexts, StoredVote, file_name, file_names, question_number
from exptilt.votes.exchange.vote_files import ALPACA_EVAL, ARENA, ARENA_HARD, MT_BENCH, UNKNOWN
from exptilt.votes.vote_store import VoteStore

FORMS = (ALPACA_EVAL, ARENA, MT_BENCH, ARENA_HARD, "model_outputs")
_ROW_FORMS = {ALPACA_EVAL: alpaca_eval_row, ARENA: arena_row}


@dataclass
class WrittenVotes:
    """How many votes were written, and what was not."""

    count: int = 0
    left_out: Counter[str] = field(default_factory=Counter)


def write_votes(store: VoteStore, form: str, output: Path, baseline: str | None = None) -> WrittenVotes:
    """Write a store's votes in the form of another tool.

    Args:
        store: the store.
        form: alpaca_eval and chatbot_arena write a file, mt_bench and arena_hard a folder, model_outputs a folder with the
            answers of each policy as AlpacaEval reads them.
        output: the file or the folder; one that is there is not replaced.
        baseline: of arena_hard; by default the policy that is compared most often.

    Raises:
        ConfigError: no such form.
        DiskError: the output is there, or its folder is not.
        DataError: nothing fits the form.
    """
    if form not in FORMS:
        raise ConfigError(f"--as {form}: no such form; there are {', '.join(FORMS)}")
    require_free(output)
    done = WrittenVotes()
    if form == "model_outputs":
        _write_answers(store, output, done)
    elif form in _ROW_FORMS:
        _write_rows(store, form, output, done)
    else:
        _write_games(store, form, output, baseline, done)
    if not done.count:
        raise DataError(f"{store.name}: nothing fits {form} ({'; '.join(done.left_out) or 'it is empty'})"[:290])
    return done


def _stored(store: VoteStore, form: str) -> Iterator[StoredVote]:
    kept = {}
    replies = {}
    for call in store.calls():
        try:
            request, reply = json.loads(call.request), json.loads(call.reply) if call.reply else ""
        except ValueError:  # a fault in words
            continue
        if isinstance(request, dict) and form in request:
            kept[call.key] = request[form]
        replies[call.key] = reply if isinstance(reply, str) else _text_of(reply)
    comparisons, sources = store.comparisons(), store.sources()
    for vote in store.votes():
        rest, reply = kept.get(vote.nonce), replies.get(vote.nonce, "")
        yield StoredVote(comparisons[vote.comparison], vote, sources.get(vote.comparison, {}), rest, reply)


def _text_of(body: Any) -> str:
    """The text of a chat completion."""
    try:
        return str(body["choices"][0]["message"]["content"] or "")
    except (KeyError, IndexError, TypeError):
        return ""


def _write_rows(store: VoteStore, form: str, output: Path, done: WrittenVotes) -> None:
    rows = []
    write: Callable[..., dict[str, Any]] = _ROW_FORMS[form]
    for one in _stored(store, form):
        try:
            # A row that came in this form has its own names, and writes them over these.
            sources = one.sources if one.rest is None else {0: [UNKNOWN], 1: [UNKNOWN], **one.sources}
            rows.append({**write(one.comparison, one.vote, sources, one.reply), **(one.rest or {})})
        except UnfitError as error:
            done.left_out[str(error)] += 1
    done.count = len(rows)
    if rows and output.suffix == ".json":
        write_whole(output, json.dumps(rows, indent=2) + "\n")
    elif rows:
        write_lines(output, rows)


def _write_answers(store: VoteStore, output: Path, done: WrittenVotes) -> None:
    sources = store.sources()
    rows: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for name, comparison in store.comparisons().items():
        for position, answer in enumerate(comparison.answers):
            for source in sources.get(name, {}).get(position, []):
                if not isinstance(comparison.prompt, str):
                    done.left_out["a prompt of several turns"] += 1
                    continue
                row = {"instruction": comparison.prompt, "output": answer, "generator": source}
                if row not in rows[source]:
                    rows[source].append(row)
    files = file_names(rows)
    for source, answers in rows.items():
        done.count += len(answers)
        folder = output / files[source]
        folder.mkdir(parents=True, exist_ok=True)
        write_whole(folder / "model_outputs.json", json.dumps(answers, indent=2) + "\n")


def _write_games(store: VoteStore, form: str, output: Path, baseline: str | None, done: WrittenVotes) -> None:
    votes = list(_stored(store, form))
    if form == ARENA_HARD and baseline is None:
        named = [names for one in votes for names in _writers(one)]
        baseline = most_common(named) if named else ""
    texts = GameTexts()
    groups: dict[Any, list[tuple[Game, int]]] = defaultdict(list)
    for one in votes:
        try:
            game = _game(one, form, baseline)
            texts.add(one, game, single_turn=form == ARENA_HARD)
        except UnfitError as error:
            done.left_out[str(error)] += 1
            continue
        key = (one.comparison.id, one.vote.rater, game.models, json.dumps(_of_the_row(one.rest), sort_keys=True))
        groups[key].append((game, game.order))
    judgements: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for games in groups.values():
        done.count += len(games)
        for first, second in played_in_pairs(games):
            row, file = (_mt_bench_row if form == MT_BENCH else _arena_hard_row)(first, second, texts)
            judgements[file].append(row)
    if done.count:
        texts.write(output)
        for file, rows in judgements.items():
            path = output / "model_judgment" / file
            path.parent.mkdir(parents=True, exist_ok=True)
            write_lines(path, rows)


def _writers(one: StoredVote) -> list[str]:
    return [min(names) for names in one.sources.values() if names]


_OF_A_GAME = ("models", "game", "played", "is_text")


def _of_the_row(rest: Mapping[str, Any] | None) -> dict[str, Any]:
    return {
        name: value
        for name, value in (rest or {}).items()
        if name not in _OF_A_GAME and not name.startswith(("g1_", "g2_"))
    }


def _game(one: StoredVote, form: str, baseline: str | None) -> Game:
    vote = one.vote
    if vote.outcome is None or vote.outcome == "skip" or len(vote.order) != 2:
        raise UnfitError("a ranking" if vote.outcome is None else "a skipped comparison")
    if not isinstance(one.comparison.prompt, str):
        raise UnfitError("a prompt of several turns")
    if one.rest is not None:
        models = tuple(one.rest["models"])
        return Game(one, (models[0], models[1]), one.rest["game"] - 1)
    shown = [single_source(one.sources.get(position, [])) for position in vote.order]
    if shown[0] == shown[1]:
        raise UnfitError("two answers of one policy")
    if form == MT_BENCH:
        first, second = sorted(shown)
    elif baseline not in shown:
        raise UnfitError(f"no answer of the baseline {baseline}")
    else:
        first, second = str(baseline), shown[1 - shown.index(str(baseline))]
    return Game(one, (first, second), int(shown[0] != first))


def _mt_bench_row(first: Game | None, second: Game | None, texts: GameTexts) -> tuple[dict[str, Any], str]:
    either = first or second
    assert either is not None  # noqa: S101 - a row has a game
    one = either.one
    template = one.vote.rater.identity.removeprefix("MT-Bench").strip() if one.rest is not None else "exptilt"
    row: dict[str, Any] = {
        "question_id": question_number(texts.question(one)),
        "model_1": either.models[0],
        "model_2": either.models[1],
        "g1_winner": "error",
        "g2_winner": "error",
        "judge": [one.vote.rater.name, template],
        "g1_judgment": "",
        "g2_judgment": "",
        "turn": len([turn for turn in turns_of_text(one.comparison.answers[0]) if turn["role"] == "assistant"]),
    }
    for number, game in ((1, first), (2, second)):
        if game is not None:
            row[f"g{number}_winner"] = _winner(game)
            row[f"g{number}_judgment"] = game.one.reply
            row |= {k: v for k, v in (game.one.rest or {}).items() if k not in _OF_A_GAME}
    return row, f"{file_name(one.vote.rater.name)}_pair.jsonl"


def _winner(game: Game) -> str:
    outcome = game.one.vote.outcome
    if outcome in ("first", "second"):
        return "model_1" if (outcome == "first") == (game.order == 0) else "model_2"
    return "error" if outcome == "unscored" else "tie"


def _arena_hard_row(first: Game | None, second: Game | None, texts: GameTexts) -> tuple[dict[str, Any], str]:
    either = first or second
    assert either is not None  # noqa: S101 - a row has a game
    one = either.one
    question = texts.question(one)
    rest = (
        _of_the_row(one.rest) if one.rest is not None else {"question_id": question, "uid": question, "category": "all"}
    )
    row = {
        **rest,
        "judge": one.vote.rater.name,
        "model": either.models[1],
        "baseline": rest.get("baseline", either.models[0]),
        "games": [_played(game) for game in (first, second)],
    }
    return row, f"{file_name(one.vote.rater.name)}/{file_name(either.models[1])}.jsonl"


def _played(game: Game | None) -> dict[str, Any] | None:
    if game is None:
        return None
    vote, rest = game.one.vote, game.one.rest or {}
    reply = game.one.reply
    judgment: Any = reply if rest.get("is_text", True) else json.loads(reply) if reply else None
    return {"score": arena_score(str(vote.outcome), vote.strength), "judgment": judgment, **rest.get("played", {})}
