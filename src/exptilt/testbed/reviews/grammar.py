"""A grammar of short film reviews.

A production is a line of words. A word in capitals is a symbol, replaced by one of its own productions. A clause has a
mood, good or bad: `=` after a symbol hands the mood on, `!` turns it round (`not ADJECTIVE!`), and symbols without
either have none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from exptilt.testbed.reviews.sentiment import BLAME, MILD, PRAISE, STRONG, past, third_person, words_of


def _words(text: str) -> list[str]:
    """One production per word."""
    return text.split()


def _lines(text: str) -> list[str]:
    """One production per line."""
    return [line.strip() for line in text.strip().splitlines()]


PLAIN: dict[str, Sequence[str]] = {
    "THING": _words("""
        plot script story acting dialogue music editing direction ending humor pacing score photography lighting casting
        """),
    "THINGS": _words("""
        jokes characters scenes costumes effects songs actors performances twists stunts sets conversations flashbacks
        """),
    "STAR": _lines("""
        the lead
        the young lead
        the director
        the villain
        the whole cast
        the hero
        the heroine
        the writer
        """),
    "KIND": _words("film movie story picture tale comedy drama piece"),
    "MOMENT": _words("moment scene minute line"),
    "TRULY": _words("truly utterly really"),
    "VERY": _words("very really"),
    "ROLE": _words("""
        detective widow teacher soldier painter nurse pianist farmer lawyer thief sailor dancer student doctor
        baker priest pilot boxer librarian gardener clockmaker photographer
        """),
    "ROLES": _words("brothers sisters friends strangers students soldiers neighbors thieves cousins rivals"),
    "SORT": _words("young old retired quiet lonely wealthy stubborn nervous famous"),
    "NUMBER": _words("two three four"),
    "KIN": _words("son daughter brother sister dog twin horse"),
    "WHERE": _lines("""
        in a small town
        on an island
        by the sea
        in the desert
        during the war
        in the mountains
        on the road
        in an old hotel
        in the north
        in a village
        """),
    "DOES": _lines("""
        who comes home
        who opens a shop
        who hunts a ROLE
        who learns to sing
        who leaves the city
        who finds a map
        who buys a boat
        who meets a ROLE
        who writes letters
        who waits for a train
        who keeps a secret
        """),
    "EVENT": _words("""
        wedding chase dinner funeral storm robbery party trial journey race fire election walk game
        speech
        """),
    "INCIDENT": _words("quarrel fight dance kiss fall joke"),
    "SHAPE": _words("long short strange sudden slow silent"),
    "HOW": _lines("""
        in the rain
        at night
        in the snow
        WHERE
        WHERE
        at dawn
        under a bridge
        near the border
        """),
    "PERSON": _lines("""
        a ROLE
        a SORT ROLE
        a ROLE DOES
        a SORT ROLE DOES
        a ROLE WHERE
        a ROLE and a SORT ROLE
        a ROLE with a KIN
        NUMBER ROLES
        NUMBER SORT ROLES WHERE
        NUMBER ROLES WHERE
        """),
    "SCENE": _lines("""
        a EVENT
        a SHAPE EVENT
        a EVENT HOW
        a SHAPE EVENT HOW
        a EVENT and a INCIDENT
        a phone call HOW
        a letter from a ROLE
        """),
    "FACT": _lines("""
        it was shot WHERE
        it runs for NUMBER hours
        the story moves from the city to the coast
        the second half takes place WHERE
        there are NUMBER songs
        it is based on a book
        the camera seldom moves
        most of it happens at night
        we saw it with friends
        """),
}
"""Symbols without a mood."""

MOODY: dict[str, Sequence[str]] = {
    "ADJECTIVE": ["MILD=", "STRONG="],
    "LOOK": _lines("""
        MILD=
        STRONG=
        VERY MILD=
        TRULY STRONG=
        MILDLY= MILD=
        far from ADJECTIVE!
        """),
    "GRADE": _lines("""
        LOOK=
        LOOK=
        LOOK=
        not ADJECTIVE!
        never ADJECTIVE!
        hardly ADJECTIVE!
        not very MILD!
        """),
    "CLAUSE": _lines("""
        the THING is GRADE=
        the THING is GRADE=
        the THING is GRADE=
        the THINGS are GRADE=
        the THINGS are GRADE=
        the THINGS are GRADE=
        the THING VERBS=
        the THING never VERBS!
        the THINGS VERB=
        the THINGS do not VERB!
        the THINGS never VERB!
        STAR VERBS=
        STAR is GRADE=
        STAR gives a ADJECTIVE= performance
        i FELT= the THING
        we FELT= the THINGS
        i really FELT= the THINGS
        i did not FEEL! the THING
        we did not FEEL! the THINGS
        it is a ADJECTIVE= KIND
        it is a VERY MILD= KIND
        it is a TRULY STRONG= KIND
        it is not a ADJECTIVE! KIND
        there is never a ADJECTIVE! MOMENT
        there is hardly a ADJECTIVE! MOMENT
        there is NOUN= in the THING
        there is real NOUN= in the THINGS
        there is no NOUN! in the THING
        the THING is full of NOUN=
        the THINGS are full of NOUN=
        the THING LACKS= NOUN!
        the THINGS LACK= NOUN!
        """),
}
"""Symbols with a mood; both moods use the same lines, which keeps the world even-handed."""

WORDS: dict[int, dict[str, Sequence[str]]] = {
    mood: {
        "MILD": words_of(side, "adjective", MILD),
        "STRONG": words_of(side, "adjective", STRONG),
        "VERB": words_of(side, "verb"),
        "VERBS": [third_person(verb) for verb in words_of(side, "verb")],
        "NOUN": words_of(side, "noun"),
        "FEEL": words_of(side, "feeling"),
        "FELT": [past(verb) for verb in words_of(side, "feeling")],
    }
    for mood, side in ((1, PRAISE), (-1, BLAME))
}
WORDS[1] |= {"MILDLY": ["rather", "fairly"], "LACKS": ["is free of"], "LACK": ["are free of"]}
WORDS[-1] |= {"MILDLY": ["rather", "slightly", "somewhat"], "LACKS": ["lacks"], "LACK": ["lack"]}
"""What judging symbols become in a good (1) and in a bad (-1) mood."""

PRODUCTIONS: dict[int, Mapping[str, Sequence[str]]] = {mood: {**PLAIN, **MOODY, **WORDS[mood]} for mood in WORDS}
ASPECTS = frozenset({*PLAIN["THING"], *PLAIN["THINGS"]})
"""What a review judges; it speaks of each at most once."""
SILENT_H = frozenset({"honest"})


def expand(symbol: str, mood: int, rng: np.random.Generator) -> list[str]:
    """One random text of a symbol, as words; `a` becomes `an` where it must.

    Args:
        symbol: a key of PLAIN, MOODY or WORDS, without its suffix.
        mood: 1 good, -1 bad.
        rng: where the randomness comes from.
    """
    lines = PRODUCTIONS[mood][symbol]
    words: list[str] = []
    for item in lines[int(rng.integers(len(lines)))].split():
        name = item.rstrip("=!")
        if name.isupper():
            words += expand(name, -mood if item.endswith("!") else mood, rng)
        else:
            words.append(item)
    return with_articles(words)


def with_articles(words: Sequence[str]) -> list[str]:
    """The words with each `a` or `an` as the next word's sound asks."""
    fixed = list(words)
    for place, after in enumerate(words[1:]):
        if fixed[place] in ("a", "an"):
            fixed[place] = "an" if after[0] in "aeiou" or after in SILENT_H else "a"
    return fixed


def terminals() -> set[str]:
    """Every word the grammar can produce."""
    lines = [line for table in PRODUCTIONS.values() for choices in table.values() for line in choices]
    words = {word for line in lines for word in line.split()}
    return {word for word in words if not word.rstrip("=!").isupper()} | {"an"}
