"""Wording that messages share: the name that was meant, counted nouns, the first line of a foreign error."""

from __future__ import annotations

import difflib
import re
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


_LONGEST = 240
"""Characters of a foreign error that are kept, so that the message around it stays readable."""
_MISFIT = re.compile(
    r"size mismatch for (\S+?): copying a param with shape (?:torch\.Size\()?[\[(]([^\])]*)[\])]+ from checkpoint, "
    r"the shape in current model is (?:torch\.Size\()?[\[(]([^\])]*)[\])]+"
)


def in_one_line(error: BaseException | str, longest: int = _LONGEST) -> str:
    r"""What another library raised, all its lines in one.

    What did not fit what is said first, with both shapes; what is too long loses its middle, never its end.

    Example:
        >>> in_one_line(ValueError("cannot read it:\n\tthe file is empty"))
        'cannot read it: the file is empty'
        >>> in_one_line(KeyError())
        'KeyError'
        >>> in_one_line("size mismatch for w: copying a param with shape torch.Size([2, 3]) from checkpoint, "
        ...             "the shape in current model is torch.Size([4, 3]).")
        '1 tensor does not fit: w is (2, 3) in the file, (4, 3) in the model'
    """
    text = " ".join(str(error).split()).rstrip(". ") or type(error).__name__
    misfits = _MISFIT.findall(text)
    if misfits:
        name, stored, expected = misfits[0]
        count = "1 tensor does not fit:" if len(misfits) == 1 else f"{len(misfits)} tensors do not fit, first"
        return f"{count} {name} is ({stored}) in the file, ({expected}) in the model"
    if len(text) <= longest:
        return text
    end = longest // 3
    return f"{text[: longest - end - 5].rstrip()} ... {text[-end:].lstrip()}"
