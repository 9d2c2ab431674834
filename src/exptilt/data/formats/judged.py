"""Rows with two completions and a verdict on them, under the columns of one published data set each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from exptilt.data.formats.dialogues import divided, shared_turns
from exptilt.data.formats.fields import (
    as_number,
    content,
    items,
    need,
    number,
    prompt_of,
    text,
    turns,
    under,
    whole,
    yes_or_no,
)
from exptilt.data.problems import RowError
from exptilt.data.records import Message, Preference, Rating, Text

Row = Mapping[str, Any]
_WINNERS = {
    "tie": 0.5, "both": 0.5, "0": 0.5, "tie (bothbad)": 0.5, "both_bad": 0.5, "bothbad": 0.5, "equal": 0.5, "same": 0.5,
    "c": 0.5, "a=b": 0.5, "a>b": 0.0, "a>>b": 0.0, "a<b": 1.0, "a<<b": 1.0, "b>a": 1.0, "b>>a": 1.0, "b<a": 0.0, "b<<a": 0.0,
    "1": 0.0, "first": 0.0, "chosen": 0.0, "2": 1.0, "second": 1.0, "rejected": 1.0,
}  # fmt: skip
"""Probability that the second completion is the better one, by the words in use for a verdict."""
for _one, _other in ("ab", "12"):
    for _noun in ("model", "response", "output", "answer", "completion", "assistant"):
        _WINNERS |= {f"{_noun}_{_one}": 0.0, f"{_noun}{_one}": 0.0, f"{_noun} {_one}": 0.0}
        _WINNERS |= {f"{_noun}_{_other}": 1.0, f"{_noun}{_other}": 1.0, f"{_noun} {_other}": 1.0}
_WINNERS |= {"a": 0.0, "b": 1.0}
_BOTH_BAD = ("tie (bothbad)", "both_bad", "bothbad")
_NOUNS = ("output", "response", "answer", "completion")
_ENDS = (("_1", "_2"), ("1", "2"), ("_a", "_b"), ("_A", "_B"), ("_0", "_1"))
SIDES = tuple((f"{noun}{one}", f"{noun}{other}") for one, other in _ENDS for noun in _NOUNS)
"""Columns in use for two completions to be compared; the last are counted from 0."""
VERDICTS = ("preference", "label", "winner", "preferred", "choice", "better", "verdict", "chosen")
"""Columns in use for which of two is better."""


def shp(row: Row, row_id: str) -> Preference:
    """SHP: `history`, `human_ref_A`, `human_ref_B` and `labels`, 1 where A is preferred.

    The margin is `score_ratio`, the winner's votes over the loser's, never A's over B's. Pairs of one post share its
    prompt, so `test_fraction` splits by post and `max_per_prompt` caps them.
    """
    sides = [text(need(row, f"human_ref_{name}"), f"human_ref_{name}") for name in "AB"]
    prompt = text(need(row, "history"), "history")
    return _decided(row_id, prompt, sides, 0.0 if yes_or_no(row, "labels") else 1.0, number(row, "score_ratio", 0))


def pku_helpful(row: Row, row_id: str) -> Preference:
    """PKU-SafeRLHF by `better_response_id`: which answer helps more, however harmful."""
    return _pku(row, f"{row_id} helpful", "better_response_id")


def pku_harmless(row: Row, row_id: str) -> Preference:
    """PKU-SafeRLHF by `safer_response_id`; both answers may be safe, or neither."""
    return _pku(row, f"{row_id} harmless", "safer_response_id")


def pku_safe(row: Row, row_id: str) -> tuple[Rating, ...]:
    """PKU-SafeRLHF as two ratings, desirable where `is_response_n_safe`."""
    prompt, completions = divided(content(need(row, "prompt"), "prompt"), _responses(row, "response_0", "response_1"))
    return tuple(
        Rating(
            id=f"{row_id} response_{position}",
            prompt=prompt,
            completion=completion,
            desirable=yes_or_no(row, f"is_response_{position}_safe"),
        )
        for position, completion in enumerate(completions)
    )


def helpsteer2(row: Row, row_id: str) -> Preference:
    """HelpSteer2 preferences: `preference_strength` from -3 (response_1 is much better) to 3; 0 is a tie."""
    sides = _responses(row, "response_1", "response_2")
    return _by_strength(row, row_id, content(need(row, "prompt"), "prompt"), sides, "preference_strength")


def helpsteer3(row: Row, row_id: str) -> Preference:
    """HelpSteer3 preferences: `overall_preference` from -3 (response1 is much better) to 3; 0 is a tie."""
    sides = _responses(row, "response1", "response2")
    return _by_strength(row, row_id, turns(need(row, "context"), "context"), sides, "overall_preference")


def arena_texts(row: Row, row_id: str) -> Preference:
    """Chatbot Arena 55k: `prompt`, `response_a`, `response_b`, each a JSON list with a text per turn.

    After the first turn the two histories differ, so the prompt is the first user turn, and the rest of each
    conversation is its completion, of which only the model's turns count.
    """
    asked = items(need(row, "prompt"), "column 'prompt'")
    sides = [_interleaved(asked, items(need(row, name), name), name) for name in ("response_a", "response_b")]
    votes = [number(row, name, 0, 1) for name in ("winner_model_a", "winner_model_b", "winner_tie")]
    if sorted(vote or 0 for vote in votes) != [0, 0, 1]:
        raise RowError("bad_value", f"exactly one of winner_model_a, winner_model_b, winner_tie must be 1, got {votes}")
    return _battle(row_id, sides, 0.5 if votes[2] else float(votes[1] or 0), None)


def arena(row: Row, row_id: str) -> Preference:
    """Chatbot Arena 33k, 100k, 140k and MT-bench judgements: `conversation_a`, `conversation_b`, `winner`.

    Ties are ties; where both are bad, conversion to ratings gives two undesirable completions.
    """
    sides = [_said(turns(need(row, name), name)) for name in ("conversation_a", "conversation_b")]
    winner = text(need(row, "winner"), "winner").strip().lower()
    return _battle(row_id, sides, verdict(winner, "winner"), False if winner in _BOTH_BAD else None)


def judgement(row: Row, row_id: str) -> Preference:
    """AlpacaEval annotations, JudgeBench and their like: two outputs and `preference`, `label` or `winner`.

    1 or 2 names the better one, as do a letter or `A>B`; 1.5, 0 or `tie` is a tie, a number between 1 and 2 is a judge's
    probability that the second is better, plus one. No verdict is a failed judgement, not a preference. Of outputs that
    are counted from 0, such as `response_0` and `response_1`, so is the verdict.
    """
    column = next((name for name in VERDICTS if name in row), VERDICTS[0])
    if row.get(column) is None or row[column] != row[column]:
        raise RowError("unjudged", f"column {column!r} is null: the judgement failed")
    sides = sides_of(row)
    column_verdict = from_zero(row[column]) if sides[0].endswith("0") else row[column]
    p_second = verdict(column_verdict, column)
    return _decided(row_id, prompt_of(row), _responses(row, *sides), p_second, number(row, "margin"))


def sides_of(row: Row) -> tuple[str, str]:
    """The columns of the two completions."""
    return next((names for names in SIDES if all(row.get(name) is not None for name in names)), SIDES[0])


def doubtful_verdict(row: Row) -> str | None:
    """The column with a verdict that may be counted from 0 or from 1; None if the outputs' names decide."""
    if sides_of(row)[0].endswith("0"):
        return None
    return next((name for name in VERDICTS if row.get(name) is not None), None)


def from_zero(value: Any, one_is_first: bool = False) -> Any:
    """Convert a verdict counted from 0 (0 the first, 1 the second, or reversed) to one counted from 1; words stay."""
    try:
        counted_from_zero = as_number(value, "the verdict")
    except RowError:
        return value
    if not 0 <= counted_from_zero <= 1:
        raise RowError("bad_value", f"the verdict must be 0, 1 or a number between them, got {counted_from_zero:g}")
    return 2 - counted_from_zero if one_is_first else counted_from_zero + 1


def prometheus(row: Row, row_id: str) -> Preference:
    """Prometheus' preferences: `orig_instruction`, `orig_response_A`, `orig_response_B` and `orig_preference`."""
    sides = _responses(row, "orig_response_A", "orig_response_B")
    asked = text(need(row, "orig_instruction"), "orig_instruction")
    return _decided(row_id, asked, sides, verdict(need(row, "orig_preference"), "orig_preference"))


def votes(row: Row, row_id: str) -> Preference:
    """PandaLM: two responses and `annotators` (or `annotator1`, ...), each 1, 2 or 0 for a tie; p_chosen is the share."""
    annotators = row.get("annotators")
    if annotators is None:
        annotators = [row[name] for name in sorted(row) if name.startswith("annotator") and row[name] is not None]
    shares = [verdict(vote, f"annotators[{at}]") for at, vote in enumerate(items(annotators, "annotators"))]
    return _decided(row_id, prompt_of(row), _responses(row, *sides_of(row)), sum(shares) / len(shares))


def webgpt(row: Row, row_id: str) -> Preference:
    """WebGPT comparisons: `question`, `answer_0`, `answer_1` with `score_0`, `score_1`; equal scores are a tie."""
    question = need(row, "question")
    asked = under(question, "question").get("full_text") if not isinstance(question, str) else question
    scores = [as_number(need(row, name), name) for name in ("score_0", "score_1")]
    p_second = 0.5 if scores[0] == scores[1] else float(scores[1] > scores[0])
    sides = _responses(row, "answer_0", "answer_1")
    return _decided(row_id, text(asked, "question"), sides, p_second, abs(scores[0] - scores[1]))


def tldr_comparison(row: Row, row_id: str) -> Preference:
    """summarize_from_feedback comparisons: `info`, `summaries` and `choice`; the margin is the worker's confidence.

    Many workers label one pair, so contradictions are usual: `on_conflict=soft` makes their votes one p_chosen.
    """
    options = items(need(row, "summaries"), "summaries", 2)
    if len(options) != 2:
        raise RowError("wrong_type", f"summaries must be two, got {len(options)}")
    sides = [text(under(each, "a summary").get("text"), f"summaries[{at}].text") for at, each in enumerate(options)]
    choice = whole(need(row, "choice"), "choice", 0, 1)
    extra = row.get("extra") or {}
    return _decided(row_id, summary_prompt(row), sides, choice, number(under(extra, "extra"), "confidence"))


def summary_prompt(row: Row) -> str:
    """The query of summarize_from_feedback: a Reddit post with its title, or a news article."""
    info = under(need(row, "info"), "info")
    if info.get("post") is not None:
        subreddit, title = (text(info.get(name) or "", f"info.{name}") for name in ("subreddit", "title"))
        return f"SUBREDDIT: r/{subreddit}\n\nTITLE: {title}\n\nPOST: {text(info['post'], 'info.post')}\n\nTL;DR:"
    if info.get("article") is None:
        raise RowError("missing_column", "info has neither a post nor an article")
    return f"ARTICLE: {text(info['article'], 'info.article')}\n\nTL;DR:"


def verdict(value: Any, name: str) -> float:
    """The probability that the second of two completions is better, according to a verdict.

    Example:
        >>> [verdict(said, "winner") for said in ("model_b", 1, 1.25, 0, "tie")]
        [1.0, 0.0, 0.25, 0.5, 0.5]
    """
    word = value.strip(" []\n").lower() if isinstance(value, str) else ""
    if word in _WINNERS:
        return _WINNERS[word]
    counted = as_number(value, name)
    if counted == 0:
        return 0.5
    if not 1 <= counted <= 2:
        raise RowError("bad_value", f"{name} must be 1, 2, a number between them, or 0 for a tie, got {counted:g}")
    return counted - 1


def _pku(row: Row, row_id: str, column: str) -> Preference:
    second = whole(need(row, column), column, 0, 1)
    prompt = content(need(row, "prompt"), "prompt")
    return _decided(row_id, prompt, _responses(row, "response_0", "response_1"), second)


def _by_strength(row: Row, row_id: str, prompt: Text, sides: tuple[Text, ...], column: str) -> Preference:
    strength = as_number(need(row, column), column, -3, 3)
    p_second = 0.5 if strength == 0 else float(strength > 0)
    return _decided(row_id, prompt, sides, p_second, abs(strength))


def _battle(row_id: str, sides: list[tuple[Message, ...]], p_second: float, both_desirable: bool | None) -> Preference:
    shared = shared_turns(*sides)
    if not shared:
        raise RowError("no_shared_prompt", "the two conversations share no leading turn that ends with the user's")
    first, second = (side[len(shared) :] for side in sides)
    chosen, rejected = (second, first) if p_second > 0.5 else (first, second)
    return Preference(
        id=row_id,
        prompt=shared,
        chosen=chosen,
        rejected=rejected,
        p_chosen=max(p_second, 1 - p_second),
        both_desirable=both_desirable,
    )


def _decided(
    row_id: str,
    prompt: Text,
    sides: Sequence[Text],
    p_second: float,
    margin: float | None = None,
) -> Preference:
    """A pair of two completions, of which the second is better with probability `p_second`."""
    prompt, (first, second) = divided(prompt, sides)
    chosen, rejected = (second, first) if p_second > 0.5 else (first, second)
    return Preference(
        id=row_id,
        prompt=prompt,
        chosen=chosen,
        rejected=rejected,
        p_chosen=max(p_second, 1 - p_second),
        margin=margin,
    )


def _responses(row: Row, first: str, second: str) -> tuple[Text, ...]:
    return tuple(content(need(row, name), name) for name in (first, second))


def _interleaved(asked: Sequence[Any], answers: Sequence[Any], name: str) -> tuple[Message, ...]:
    if len(asked) != len(answers):
        raise RowError("bad_value", f"prompt has {len(asked)} turns and {name} has {len(answers)}")
    messages: list[Message] = []
    for question, answer in zip(asked, answers, strict=True):
        messages.append({"role": "user", "content": text(question, "prompt")})
        messages.append({"role": "assistant", "content": text(answer or "", name)})
    return tuple(messages)


def _said(conversation: tuple[Message, ...]) -> tuple[Message, ...]:
    """Remove a platform's additions (ids, token counts) from turns, which would make equal turns differ."""
    return tuple({"role": turn["role"], "content": turn["content"]} for turn in conversation)
