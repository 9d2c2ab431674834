"""The prompts: how a review may open, and what must follow."""

from __future__ import annotations

from collections.abc import Iterator

SUBJECTS = (
    "it",
    "the film",
    "this film",
    "the movie",
    "this movie",
    "the drama",
    "this comedy",
    "the thriller",
    "this western",
    "the sequel",
    "this remake",
    "the musical",
    "this romance",
    "this charming comedy",
    "the clumsy remake",
    "this elegant thriller",
    "this tired sequel",
)
"""The last four have a mood of their own, evenly."""

PREDICATES = {
    "SCENE": ("opens with", "begins with", "ends with", "is built around", "spends an hour on"),
    "PERSON": ("follows", "is about", "tells the story of", "introduces", "is a portrait of", "begins when we meet"),
    "GRADE": ("is",),
    "LOOK": ("looks", "feels", "seems"),
}
"""What follows -> predicates that ask for it."""

LEADS = ("in the end ,", "at first ,", "to be fair ,", "on a second viewing ,", "from the start ,", "as a whole ,")
LED_SUBJECTS = (
    "it",
    "the film",
    "this movie",
    "the story",
    "the thriller",
    "this comedy",
    "the romance",
    "the western",
)
LED_PREDICATES = {"GRADE": ("is",), "LOOK": ("feels", "seems")}


def openings() -> dict[str, str]:
    """Every opening -> the grammar's symbol that continues it."""
    return dict(_all())


def _all() -> Iterator[tuple[str, str]]:
    for symbol, predicates in PREDICATES.items():
        for predicate in predicates:
            yield from ((f"{subject} {predicate}", symbol) for subject in SUBJECTS)
    for lead in LEADS:
        yield lead, "CLAUSE"
        for symbol, predicates in LED_PREDICATES.items():
            for predicate in predicates:
                yield from ((f"{lead} {subject} {predicate}", symbol) for subject in LED_SUBJECTS)
