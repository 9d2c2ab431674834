"""Explicit conversions between kinds of records. Each docstring names what the conversion loses."""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations, pairwise
from typing import Any, Literal

from exptilt.data.records import Demonstration, DrawnIds, Preference, Prompt, Ranking, Rating, Record, Text, words_of
from exptilt.errors import DataError
from exptilt.kinds import Kind, kind_of
from exptilt.labels import Desirable, Label, Preferred, Ranked

PairChoice = Literal["all", "best_worst", "adjacent"]
Converted = tuple[Record, ...] | str
"""The records made of a record, or the code of the reason why there is none."""


def likelier(preference: Preference) -> Text:
    """The completion that is preferred with probability of at least 0.5; `chosen` in a tie."""
    return preference.completions[preference.label.best]


def preference_to_demonstration(preference: Preference) -> Demonstration:
    """Keep the likelier completion, to imitate it (Preferred-FT). It loses the other one."""
    return Demonstration(
        id=preference.id,
        prompt=preference.prompt,
        completion=likelier(preference),
        weight=preference.weight,
        drawn_ids=_ids_of(preference, preference.label.best),
        template_args=preference.template_args,
    )


def preference_to_ratings(preference: Preference) -> tuple[Rating, ...]:
    """Make a desirable and an undesirable completion; a tie gives none, unless the source rates both sides good or bad.

    It loses the certainty of the preference, and the fact that the two were compared.

    Example:
        >>> pair = Preference(id="a:1", prompt="Q", chosen="good", rejected="bad")
        >>> [(rating.completion, rating.desirable) for rating in preference_to_ratings(pair)]
        [('good', True), ('bad', False)]
    """
    tie = preference.p_chosen == 0.5
    if tie and preference.both_desirable is None:
        return ()
    sides = (("chosen", preference.chosen), ("rejected", preference.rejected))
    best = "chosen" if preference.p_chosen > 0.5 else "rejected"
    return tuple(
        Rating(
            id=f"{preference.id} {side}",
            prompt=preference.prompt,
            completion=completion,
            desirable=bool(preference.both_desirable) if tie else side == best,
            weight=preference.weight,
            drawn_ids=_ids_of(preference, at),
            template_args=preference.template_args,
        )
        for at, (side, completion) in enumerate(sides)
    )


def preference_to_ranking(preference: Preference) -> Ranking:
    """Make a ranking of two; a tie gives equal ranks. It loses p_chosen other than 0, 0.5 and 1."""
    p = preference.p_chosen
    ranks = (1, 1) if p == 0.5 else (1, 2) if p > 0.5 else (2, 1)
    return Ranking(
        id=preference.id,
        prompt=preference.prompt,
        completions=preference.completions,
        ranks=ranks,
        weight=preference.weight,
        section=preference.section,
        drawn_ids=preference.drawn_ids,
        template_args=preference.template_args,
    )


def ranking_to_preferences(ranking: Ranking, choice: PairChoice = "all") -> tuple[Preference, ...]:
    """Make pairs of a ranking; equal ranks give a tie, p_chosen 0.5. `all` loses only the common origin of the pairs.

    Args:
        ranking: K completions; ties allowed.
        choice: all K(K-1)/2 pairs; the best and the worst; or the K-1 neighbours in rank order.

    Returns:
        Preferences whose ids name the two positions, from 1; margins are differences of scores where there are scores.

    Example:
        >>> ranked = Ranking(id="a:1", prompt="Q", completions=("x", "y", "z"), ranks=(2, 1, 3))
        >>> [(pair.id, pair.chosen, pair.rejected) for pair in ranking_to_preferences(ranked, "adjacent")]
        [('a:1 2>1', 'y', 'x'), ('a:1 1>3', 'x', 'z')]
    """
    order = sorted(range(len(ranking.ranks)), key=lambda position: ranking.ranks[position])
    if choice == "best_worst":
        positions = [(order[0], order[-1])]
    elif choice == "adjacent":
        positions = list(pairwise(order))
    else:
        positions = list(combinations(order, 2))
    return tuple(_pair(ranking, better, worse) for better, worse in positions)


def ranking_to_demonstration(ranking: Ranking) -> Demonstration:
    """Keep the best completion, the first of them in a tie. It loses the others."""
    return Demonstration(
        id=ranking.id,
        prompt=ranking.prompt,
        completion=ranking.completions[ranking.label.best],
        weight=ranking.weight,
        drawn_ids=_ids_of(ranking, ranking.label.best),
        template_args=ranking.template_args,
    )


def rating_to_demonstration(rating: Rating) -> Demonstration:
    """Keep the completion, to imitate it. It loses the rating, so only desirable completions should be converted."""
    return Demonstration(
        id=rating.id,
        prompt=rating.prompt,
        completion=rating.completion,
        weight=rating.weight,
        drawn_ids=rating.drawn_ids,
        template_args=rating.template_args,
    )


def record_to_prompt(record: Record) -> Prompt:
    """Keep the prompt, and of a completion to imitate its words as the right answer. It loses completions and labels."""
    answer = words_of(record.completion) if isinstance(record, Demonstration) else None
    return Prompt(
        id=record.id,
        prompt=record.prompt,
        answer=answer or None,
        weight=record.weight,
        template_args=record.template_args,
    )


_CONVERSIONS: dict[tuple[type[Record], type[Label] | None], Callable[[Any, PairChoice], Converted]] = {
    (Preference, None): lambda record, _: (preference_to_demonstration(record),),
    (Preference, Desirable): lambda record, _: preference_to_ratings(record) or "unlabelled",
    (Preference, Ranked): lambda record, _: (preference_to_ranking(record),),
    (Ranking, None): lambda record, _: (ranking_to_demonstration(record),),
    (Ranking, Preferred): lambda record, choice: ranking_to_preferences(record, choice),
    (Rating, None): lambda record, _: (rating_to_demonstration(record),) if record.desirable else "undesirable",
}
"""Conversions by type of record and target label. Any other conversion would have to invent something."""

_CONTENT: dict[type[Record], str] = {
    Preference: "a chosen and a rejected completion",
    Demonstration: "one completion",
    Rating: "one rated completion",
    Ranking: "ranked completions",
}
"""Descriptions of records for messages to people."""


def convert(record: Record, kind: Kind | str, choice: PairChoice = "all") -> Converted:
    """Convert a record for an objective of `kind`: into records with the label that the kind names.

    Returns:
        The examples, or the code of the reason why there is none.

    Raises:
        DataError: where such a conversion would have to invent something (pairs of single completions).
    """
    kind = kind_of(kind)
    if isinstance(record, Prompt):
        return "prompt_only" if kind.is_trained else (record,)
    if not kind.is_trained:
        return (record_to_prompt(record),)
    if isinstance(record.label, kind.label or type(None)):
        return (record,)
    conversion = _CONVERSIONS.get((type(record), kind.label))
    if conversion is None:
        raise DataError(
            f"{record.id}: the row has {_CONTENT[type(record)]}, but the objective is trained on {kind.rows}"
        )
    return conversion(record, choice)


def _pair(ranking: Ranking, better: int, worse: int) -> Preference:
    tie = ranking.ranks[better] == ranking.ranks[worse]
    scores = None if ranking.scores is None else (ranking.scores[better], ranking.scores[worse])
    return Preference(
        id=f"{ranking.id} {better + 1}{'=' if tie else '>'}{worse + 1}",
        prompt=ranking.prompt,
        chosen=ranking.completions[better],
        rejected=ranking.completions[worse],
        p_chosen=0.5 if tie else 1.0,
        margin=None if scores is None else scores[0] - scores[1],
        scores=scores,
        weight=ranking.weight,
        section=ranking.section,
        drawn_ids=_ids_of(ranking, better, worse),
        template_args=ranking.template_args,
    )


def _ids_of(record: Record, *positions: int) -> DrawnIds | None:
    """The token ids of some of a record's completions, where the record has any."""
    return None if record.drawn_ids is None else record.drawn_ids.only(*positions)
