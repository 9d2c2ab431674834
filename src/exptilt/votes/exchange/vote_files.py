"""Files and folders of votes of other tools: which format one is in, and its rows for the store."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain, islice
from pathlib import Path
from typing import Any

from typing_extensions import TypeIs

from exptilt.data.problems import RowError
from exptilt.data.read.files import read_file
from exptilt.errors import DataError
from exptilt.preferences import Comparison
from exptilt.votes.exchange import alpaca_eval_votes, arena_votes
from exptilt.votes.exchange.alpaca_eval_votes import alpaca_eval_row, alpaca_eval_vote
from exptilt.votes.exchange.answer_folders import AnswerFolder, arena_hard_votes, mt_bench_votes
from exptilt.votes.exchange.arena_votes import arena_row, arena_text_vote, arena_vote
from exptilt.votes.exchange.foreign_votes import ForeignVote, Row, StoredRow, UnfitError, stored_rows
from exptilt.votes.vote_records import Vote, canonical_order
from exptilt.votes.vote_store import VoteStore

ALPACA_EVAL, ARENA, MT_BENCH, ARENA_HARD = "alpaca_eval", "chatbot_arena", "mt_bench", "arena_hard"
UNKNOWN = "?"
_AT_ONCE = 500
"""Rows of one transaction."""


@dataclass
class VoteFile:
    """Votes of one file or folder."""

    path: Path
    left_out: Counter[str] = field(default_factory=Counter)
    """Rows, or games, that are no vote, by reason."""

    def import_into(self, store: VoteStore) -> tuple[int, int]:
        """Add what is not there yet, block by block, so that an interrupted import goes on.

        Returns:
            How many votes the file has, and how many of them are new.

        Raises:
            DataError: no format that is known.
        """
        total = added = 0
        rows = self.rows()
        while block := list(islice(rows, _AT_ONCE)):
            total += len(block)
            added += store.add_with_calls(block)
        if not total:
            reason = f" ({'; '.join(self.left_out)})" if self.left_out else ""
            raise DataError(f"{self.path}: there is no vote in it{reason}"[:290])
        return total, added

    def rows(self) -> Iterator[StoredRow]:
        """Rows for the store; what does not fit is counted."""
        self.left_out.clear()
        if self.path.is_dir():
            yield from self._of_folder()
            return
        if not self.path.exists():
            raise DataError(f"{self.path}: there is no such file of votes")
        yield from self._of_rows()

    def _of_folder(self) -> Iterator[StoredRow]:
        if not AnswerFolder.is_one(self.path):
            raise DataError(
                f"{self.path}: is no folder of MT-Bench or Arena-Hard, which hold question.jsonl, model_answer and model_judgment"
            )
        folder = AnswerFolder.read(self.path)
        judgements = list(folder.judgements())
        form = ARENA_HARD if any("games" in row for row in judgements) else MT_BENCH
        read = arena_hard_votes if form == ARENA_HARD else mt_bench_votes
        wanted = {"games"} if form == ARENA_HARD else {"model_1", "model_2", "g1_winner"}

        def votes() -> Iterator[ForeignVote]:
            for row in judgements:
                if wanted <= row.keys():
                    yield from self._fitting(lambda row=row: list(read(folder, row)))  # type: ignore[misc]
                else:
                    self.left_out["a row that rates one answer, or is of another tool"] += 1

        yield from stored_rows(votes(), form)

    def _of_rows(self) -> Iterator[StoredRow]:
        rows = read_file(self.path)
        first = next(((place, row) for place, row in rows if not self._is_unreadable(row)), None)
        if first is None:
            return
        form, read, write = _form_of(first[1], first[0])

        def votes() -> Iterator[ForeignVote]:
            for _, row in chain([first], rows):
                if not self._is_unreadable(row):
                    yield from self._fitting(lambda row=row: [_with_rest(read(row), row, write)])  # type: ignore[misc]

        yield from stored_rows(votes(), form)

    def _is_unreadable(self, row: Any) -> TypeIs[RowError]:
        if isinstance(row, RowError):
            self.left_out[f"a line that cannot be read ({row})"[:100]] += 1
        return isinstance(row, RowError)

    def _fitting(self, read: Callable[[], list[ForeignVote]]) -> list[ForeignVote]:
        try:
            return read()
        except UnfitError as error:
            self.left_out[str(error)] += 1
        except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
            self.left_out[f"a row of another shape ({type(error).__name__}: {error})"[:100]] += 1
        return []


Reader = Callable[[Row], ForeignVote]
Writer = Callable[[Comparison, Vote, Mapping[int, Sequence[str]], str], dict[str, Any]]


def _form_of(row: Row, place: str) -> tuple[str, Reader, Writer]:
    if row.keys() >= alpaca_eval_votes.COLUMNS:
        return ALPACA_EVAL, alpaca_eval_vote, alpaca_eval_row
    if row.keys() >= arena_votes.COLUMNS:
        return ARENA, arena_vote, arena_row
    if row.keys() >= arena_votes.TEXT_COLUMNS:
        return ARENA, arena_text_vote, arena_row
    if {"instruction", "output"} <= row.keys():
        raise DataError(f"{place}: these are answers, not votes; `exptilt judge` reads such a file as it is")
    raise DataError(
        f"{place}: no known form of votes has the columns {', '.join(sorted(row)[:8])}; known are AlpacaEval's annotations.json, "
        "Chatbot Arena's rows, and folders of MT-Bench and Arena-Hard"
    )


def _with_rest(foreign: ForeignVote, row: Row, write: Writer) -> ForeignVote:
    """The vote with everything of its row that its own form would not write again by itself."""
    comparison = Comparison(foreign.prompt, foreign.answers)
    place = canonical_order(comparison)
    vote = Vote(
        comparison=comparison.id,
        rater=foreign.rater,
        order=place,
        outcome=foreign.outcome,
        probability=foreign.probability,
        nonce="-",
    )
    ordered = Comparison(foreign.prompt, tuple(sorted(foreign.answers)))
    unknown = {0: [UNKNOWN], 1: [UNKNOWN]}  # names are always kept: several policies may have given one answer
    written = (
        write(ordered, vote, unknown, foreign.reply)
        if foreign.outcome != "unscored" or write is alpaca_eval_row
        else {}
    )
    texts = arena_votes.TEXT_COLUMNS if row.keys() >= arena_votes.TEXT_COLUMNS else set()
    rest = {
        name: value
        for name, value in row.items()
        if name not in texts and (name not in written or written[name] != value)
    }
    return replace(foreign, rest=rest)
