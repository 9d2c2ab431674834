"""Wording that messages share: the name that was meant, counted nouns, the first line of a foreign error."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

TYPO = 0.6
"""Likeness (difflib's ratio) from which one name is taken for a misspelling of another."""
SURE = 0.8
"""Likeness for advice that changes what is read, and for names that are alike by nature: columns and files."""


def nearest(name: str, known: Iterable[str], likeness: float = TYPO) -> str | None:
    """The known name that was most likely meant; upper and lower case count as the same.

    Args:
        name: as it was written.
        known: the names that are allowed.
        likeness: least ratio, from 0 to 1.

    Returns:
        One of `known`, or None where none is near.

    Example:
        >>> nearest("Learnin_rate", ["learning_rate", "max_steps"]), nearest("x", ["learning_rate"])
        ('learning_rate', None)
    """
    spelled = {each.lower(): each for each in known}
    near = difflib.get_close_matches(name.lower(), spelled, n=1, cutoff=likeness)
    return spelled[near[0]] if near else None


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """The end of a message about an unknown name: a question where a known name is near, else all of them.

    Example:
        >>> did_you_mean("ipoo", ["dpo", "ipo"]), did_you_mean("x", ["dpo", "ipo"])
        ("; did you mean 'ipo'?", ' (known: dpo, ipo)')
    """
    names = list(known)
    near = nearest(name, names)
    if near:
        return f"; did you mean {near!r}?"
    return f" (known: {', '.join(names)})" if names else ""


def counted(number: int, noun: str, plural: str = "") -> str:
    """A number and its noun.

    Args:
        number: how many.
        noun: of one.
        plural: of several; by default the noun with an s.

    Example:
        >>> counted(1, "row"), counted(1200, "row"), counted(2, "micro-batch", "micro-batches")
        ('1 row', '1,200 rows', '2 micro-batches')
    """
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"


def first_line(error: BaseException) -> str:
    """The first line of another library's error, without its full stop; the error's type where it has no text.

    Example:
        >>> first_line(ValueError(" no such column. ")), first_line(KeyError())
        ('no such column', 'KeyError')
    """
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(". ") if lines else type(error).__name__
