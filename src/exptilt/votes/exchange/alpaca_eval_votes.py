"""AlpacaEval's `annotations.json`: a preference from 1 (output_1) to 2 (output_2); 1.5 or 0 is a tie, null a failed call.

AlpacaEval draws the order in which a judge sees the outputs and does not keep it, so output_1 counts as shown first.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from exptilt.preferences import Comparison, Outcome
from exptilt.votes.exchange.foreign_votes import ForeignVote, Row, UnfitError, single_source, text_in
from exptilt.votes.vote_records import Rater, Vote

COLUMNS = {"instruction", "output_1", "output_2"}


def alpaca_eval_vote(row: Row) -> ForeignVote:
    """A row of `annotations.json` as a vote."""
    given = text_in(row, "instruction")
    more = row.get("input")
    outcome, probability = _verdict(row.get("preference"))
    raw = row.get("raw_completion")
    return ForeignVote(
        prompt=f"{given}\n\n{more}" if isinstance(more, str) and more else given,
        answers=(text_in(row, "output_1"), text_in(row, "output_2")),
        sources=(str(row.get("generator_1") or "output_1"), str(row.get("generator_2") or "output_2")),
        rater=Rater("judge", str(row.get("annotator") or "AlpacaEval"), "AlpacaEval"),
        outcome=outcome,
        probability=probability,
        reply=raw if isinstance(raw, str) else "",
    )


def alpaca_eval_row(
    comparison: Comparison, vote: Vote, sources: Mapping[int, Sequence[str]], reply: str = ""
) -> dict[str, Any]:
    """A vote as a row of `annotations.json`.

    Raises:
        UnfitError: it has no place there.
    """
    if not isinstance(comparison.prompt, str):
        raise UnfitError("a prompt of several turns")
    if vote.outcome is None or vote.outcome == "skip" or len(vote.order) != 2:
        raise UnfitError("a ranking" if vote.outcome is None else "a skipped comparison")
    first, second = vote.order
    row = {
        "instruction": comparison.prompt,
        "output_1": comparison.answers[first],
        "generator_1": single_source(sources.get(first, [])),
        "output_2": comparison.answers[second],
        "generator_2": single_source(sources.get(second, [])),
        "annotator": vote.rater.name,
        "preference": _preference(vote.outcome, vote.probability),
    }
    return row | ({"raw_completion": reply} if reply else {})


def _verdict(preference: Any) -> tuple[Outcome, float | None]:
    if preference is None or preference != preference:
        return "unscored", None
    if isinstance(preference, bool) or not isinstance(preference, int | float):
        raise UnfitError("a preference that is no number")
    if preference in (0, 1.5):
        return "tie", None
    if not 1 <= preference <= 2:
        raise UnfitError("a preference that is not from 1 to 2")
    outcome: Outcome = "first" if preference < 1.5 else "second"
    return outcome, None if preference in (1, 2) else 2.0 - preference


def _preference(outcome: Outcome, probability: float | None) -> float | None:
    if outcome == "unscored":
        return None
    if probability is not None:
        return 2.0 - probability
    return {"first": 1.0, "second": 2.0}.get(outcome, 1.5)
