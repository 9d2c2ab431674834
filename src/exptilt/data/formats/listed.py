"""Rows with several completions of one prompt, under the columns of one published data set each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from exptilt.data.formats import hh
from exptilt.data.formats.dialogues import divided
from exptilt.data.formats.fields import (
    as_number,
    content,
    first_of,
    items,
    need,
    prompt_of,
    section_of,
    text,
    under,
    whole,
)
from exptilt.data.formats.ranked import ranks_of
from exptilt.data.formats.structured_text import structure_in
from exptilt.data.problems import RowError
from exptilt.data.records import Preference, Ranking, Text

Row = Mapping[str, Any]
_ASPECTS = ("instruction_following", "honesty", "truthfulness", "helpfulness")


def ultrafeedback(row: Row, row_id: str) -> Ranking:
    """UltraFeedback as published: `instruction` and up to four `completions` with `annotations`.

    The score is the mean of the aspects' ratings, which leaves out `N/A`; where none is rated it is `fine-grained_score`.
    `overall_score` is not read: 2,628 completions had 10 there where 1 was meant. The four replies were made under
    different system prompts, which are not part of the prompt here.
    """
    options = [
        under(each, f"completions[{at}]") for at, each in enumerate(items(need(row, "completions"), "completions", 2))
    ]
    scores = [_mean_rating(option, f"completions[{at}]") for at, option in enumerate(options)]
    completions = [text(option.get("response"), f"completions[{at}].response") for at, option in enumerate(options)]
    return _scored(row_id, text(need(row, "instruction"), "instruction"), completions, scores)


def answers(row: Row, row_id: str) -> Ranking:
    r"""Nectar and its like: `prompt` or `question`, and `answers` with `rank` (1 is best) or `score`, `pm_score`, `is_correct`.

    A prompt that is a Human/Assistant transcript becomes turns.
    """
    options = [under(each, f"answers[{at}]") for at, each in enumerate(items(need(row, "answers"), "answers", 2))]
    prompt = first_of(row, "prompt", "question")
    asked: Text = hh.asked(prompt) if hh.is_transcript(prompt) else content(prompt, "prompt")
    completions = [
        content(first_of(option, "answer", "response", "text"), f"answers[{at}]") for at, option in enumerate(options)
    ]
    if all(option.get("rank") is not None for option in options):
        return _ranked(row_id, asked, completions, [option["rank"] for option in options])
    column = next((name for name in ("score", "pm_score", "is_correct") if name in options[0]), "rank")
    scores = [option.get(column) for option in options]
    return _scored(row_id, asked, completions, [int(score) if isinstance(score, bool) else score for score in scores])


def generations(row: Row, row_id: str) -> Ranking:
    """distilabel: `instruction` or `prompt`, `generations` and `ratings`."""
    completions = [
        content(each, f"generations[{at}]") for at, each in enumerate(items(need(row, "generations"), "generations", 2))
    ]
    return _scored(row_id, prompt_of(row), completions, need(row, "ratings"))


def on_policy(row: Row, row_id: str) -> Ranking:
    """On-policy sets: `all_generated_responses` and `all_rm_scores` instead of the pair made of them."""
    replies = items(need(row, "all_generated_responses"), "all_generated_responses", 2)
    completions = [content(each, f"all_generated_responses[{at}]") for at, each in enumerate(replies)]
    return _scored(row_id, content(need(row, "prompt"), "prompt"), completions, need(row, "all_rm_scores"))


def best_of(row: Row, row_id: str) -> Ranking:
    """RewardBench 2: `chosen` and `rejected` as lists of texts; every chosen one is better than every rejected one.

    One of them may be a single text.

    The section is the column `section` or `subset`; an `id` like `ref:7` or `tied:7` joins it, since such rows are scored
    together.
    """
    values = [need(row, name) for name in ("chosen", "rejected")]
    sides = [
        [value] if isinstance(value, str) and not isinstance(structure_in(value), list) else items(value, name)
        for name, value in zip(("chosen", "rejected"), values, strict=True)
    ]
    completions = [
        content(each, name) for side, name in zip(sides, ("chosen", "rejected"), strict=True) for each in side
    ]
    ranks = [1] * len(sides[0]) + [1 + len(sides[0])] * len(sides[1])
    section, name = section_of(row) or section_of({"section": row.get("subset")}), row.get("id")
    if section is not None and isinstance(name, str) and name.startswith(("ref:", "tied:")):
        section = f"{section}/{name}"
    return replace(_ranked(row_id, content(need(row, "prompt"), "prompt"), completions, ranks), section=section)


def compared(row: Row, row_id: str) -> tuple[Preference, ...]:
    """Answers compared two by two: `prompt` or `question`, `answers`, `pair_labels` with `i`, `j` and `label` i, j or tie.

    Each comparison is a pair, so nothing is lost, cycles included.
    """
    prompt, completions = _compared(row)
    pairs = []
    for at, each in enumerate(items(need(row, "pair_labels"), "pair_labels")):
        i, j, p_second = _comparison(each, f"pair_labels[{at}]", len(completions))
        better, worse = (j, i) if p_second == 1 else (i, j)
        pairs.append(
            Preference(
                id=f"{row_id} {better + 1}{'=' if p_second == 0.5 else '>'}{worse + 1}",
                prompt=prompt,
                chosen=completions[better],
                rejected=completions[worse],
                p_chosen=max(p_second, 1 - p_second),
            )
        )
    return tuple(pairs)


def copeland(row: Row, row_id: str) -> Ranking:
    """Answers compared two by two, as a single ranking by the number of comparisons won, ties half (Copeland's score)."""
    prompt, completions = _compared(row)
    won = [0.0] * len(completions)
    for at, each in enumerate(items(need(row, "pair_labels"), "pair_labels")):
        i, j, p_second = _comparison(each, f"pair_labels[{at}]", len(completions))
        won[i] += 1 - p_second
        won[j] += p_second
    return _scored(row_id, prompt, completions, won)


def _compared(row: Row) -> tuple[Text, tuple[Text, ...]]:
    completions = [content(each, f"answers[{at}]") for at, each in enumerate(items(need(row, "answers"), "answers", 2))]
    return divided(content(first_of(row, "prompt", "question"), "prompt"), completions)


def _comparison(value: Any, name: str, count: int) -> tuple[int, int, float]:
    each = under(value, name)
    i, j = (whole(each.get(side), f"{name}.{side}", 0, count - 1) for side in ("i", "j"))
    shares = {"i": 0.0, "j": 1.0, "tie": 0.5}
    if str(each.get("label")) not in shares or i == j:
        raise RowError(
            "bad_value", f"{name} must compare two answers with label i, j or tie, got {each.get('label')!r}"
        )
    return i, j, shares[each["label"]]


def _mean_rating(option: Row, name: str) -> float:
    rated = under(option.get("annotations") or {}, f"{name}.annotations")
    ratings = []
    for aspect in _ASPECTS:
        value = (rated.get(aspect) or {}).get("Rating") if isinstance(rated.get(aspect) or {}, Mapping) else None
        if value is not None and str(value).strip().upper() not in ("N/A", "NA", ""):
            ratings.append(as_number(value, f"{name}.{aspect}.Rating"))
    if ratings:
        return sum(ratings) / len(ratings)
    if option.get("fine-grained_score") is None:
        raise RowError("unjudged", f"{name} has no rating, so it has no place in a ranking")
    return as_number(option["fine-grained_score"], f"{name}.fine-grained_score")


def _scored(row_id: str, prompt: Text, sides: Sequence[Text], scores: Any) -> Ranking:
    values = items(scores, "the scores")
    if any(value is None for value in values):
        raise RowError("unjudged", "a completion has no score, so it has no place in a ranking")
    numbers = tuple(as_number(value, f"score {at + 1}") for at, value in enumerate(values))
    if len(numbers) != len(sides):
        raise RowError("wrong_type", f"there are {len(sides)} completions and {len(numbers)} scores")
    prompt, completions = divided(prompt, sides)
    return Ranking(
        id=row_id,
        prompt=prompt,
        completions=completions,
        ranks=ranks_of(numbers),
        scores=numbers,
    )


def _ranked(row_id: str, prompt: Text, sides: Sequence[Text], ranks: Sequence[Any]) -> Ranking:
    numbers = tuple(whole(rank, f"rank {at + 1}", 1) for at, rank in enumerate(ranks))
    prompt, completions = divided(prompt, sides)
    return Ranking(id=row_id, prompt=prompt, completions=completions, ranks=numbers)
