"""The true reward: how much a text praises, as a function of its words that anyone can check by hand."""

from __future__ import annotations

import math

STRONG, MILD = 1.0, 0.5

PRAISE = {
    "adjective": {
        STRONG: "superb brilliant wonderful excellent delightful magnificent splendid dazzling",
        MILD: "good fine charming clever fresh moving lively elegant memorable honest graceful lovely",
    },
    "verb": {STRONG: "soar dazzle delight", MILD: "shine sparkle please convince"},
    "noun": {STRONG: "brilliance magic", MILD: "charm wit warmth grace energy tension"},
    "feeling": {STRONG: "love adore", MILD: "like enjoy admire"},
}
BLAME = {
    "adjective": {
        STRONG: "awful terrible dreadful horrible unbearable atrocious dismal hopeless",
        MILD: "bad dull weak clumsy tired stale lazy flat bland silly shallow forgettable",
    },
    "verb": {STRONG: "flop collapse infuriate", MILD: "drag sag stumble bore"},
    "noun": {STRONG: "garbage nonsense", MILD: "padding noise confusion clutter gloom malice"},
    "feeling": {STRONG: "hate loathe", MILD: "dislike resent regret"},
}
"""Part of speech -> strength -> words. The two sides mirror each other, so only mood moves the reward."""

NEGATION = -0.5
"""`not superb` is a small reproach, and `never dull` a small praise."""
STRONGER = 1.5
WEAKER = 0.5
MODIFIERS = {
    word: factor
    for factor, words in (
        (NEGATION, "not never hardly no lacks lack free far"),
        (STRONGER, "very really truly utterly"),
        (WEAKER, "rather fairly slightly somewhat"),
    )
    for word in words.split()
}
REACH = 3
"""How many words before a judging word a modifier may stand."""
BARRIERS = frozenset({".", ",", "but", "and"})
CEILING = 3.0
"""Rewards lie between -3 and 3."""


def third_person(verb: str) -> str:
    """`drag` -> `drags`, `collapse` -> `collapses`."""
    return verb + "s"


def past(verb: str) -> str:
    """`love` -> `loved`, `regret` -> `regretted`."""
    if verb.endswith("e"):
        return verb + "d"
    return verb + "ted" if verb == "regret" else verb + "ed"


def words_of(side: dict[str, dict[float, str]], part: str, *strengths: float) -> list[str]:
    """The words of one side (PRAISE or BLAME) and part of speech in base form; all strengths if none is given."""
    return [word for strength in strengths or side[part] for word in side[part][strength].split()]


def _valences() -> dict[str, float]:
    table: dict[str, float] = {}
    for sign, side in ((1.0, PRAISE), (-1.0, BLAME)):
        for part, levels in side.items():
            for strength, words in levels.items():
                for word in words.split():
                    forms = {"verb": [word, third_person(word)], "feeling": [word, past(word)]}.get(part, [word])
                    table.update(dict.fromkeys(forms, sign * strength))
    return table


VALENCE: dict[str, float] = _valences()
"""What each judging word, in each of its forms, is worth alone; every other word is worth 0."""


def valence_sum(text: str) -> float:
    """Sum of the valences of a text's words, modifiers applied.

    A judging word is worth its valence times every modifier among the three words before it, looking back no further
    than punctuation, `and`, `but` or another judging word. Negation is times -0.5, `very` times 1.5, `rather` times
    0.5. Any text has a value, whatever its grammar; unknown words are worth 0.

    Example:
        >>> valence_sum("superb"), valence_sum("not superb"), valence_sum("never a dull moment")
        (1.0, -0.5, 0.25)
        >>> valence_sum("truly superb , but not very good")  # 1.5 * 1 - 0.5 * 1.5 * 0.5
        1.125
    """
    words = text.lower().split()
    return sum(VALENCE[word] * _factor(words, place) for place, word in enumerate(words) if word in VALENCE)


def reward(text: str) -> float:
    """The ground-truth reward of a text, opening and continuation together: 3 * tanh(valence_sum / 3).

    Nearly the plain sum where reviews live (|sum| about 1), so it is not saturated there; bounded beyond, so that
    piling up praise stops paying. The sum of words, not their mean, so that a neutral remark neither helps nor harms;
    praise and blame mirror each other, so a longer text is not a better one.

    Example:
        >>> round(reward("the acting is superb , but the plot is dull ."), 4)
        0.4954
    """
    return CEILING * math.tanh(valence_sum(text) / CEILING)


def _factor(words: list[str], place: int) -> float:
    factor = 1.0
    for before in reversed(words[max(0, place - REACH) : place]):
        if before in BARRIERS or before in VALENCE:
            break
        factor *= MODIFIERS.get(before, 1.0)
    return factor
