"""Meanings of column names, so that no column with a meaning is left unread silently."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

_WORDS = {
    "a prompt": "prompt prompts instruction instructions question query input",
    "a context": "context history conversation conversations dialogue dialog dialogues messages system sys persona trajectory "
    "turns document documents passage passages background article",
    "a preference": "preference preferences preferred dispreferred prefer prefers chosen rejected winner loser better worse "
    "best verdict choice vote votes judgement judgment flip flipped swap swapped",
    "a label": "label labels kto",
    "a score": "score scores rating ratings rank ranks ranking reward rewards grade margin quality strength weight "
    "weights",
    "a reason": "reason reasons reasoning rationale rationales explanation critique feedback thinking thought thoughts",
    "media": "image images video videos audio audios picture pictures photo photos",
}
_MEANINGS = {word: meaning for meaning, words in _WORDS.items() for word in words.split()}
_VERDICT_WORDS = (
    "good bad correct incorrect desirable undesirable accepted safe unsafe liked disliked helpful harmful harmless toxic "
    "positive negative thumbs thumb upvoted downvoted passed"
)
_VERDICTS = frozenset(_VERDICT_WORDS.split())
"""Words that name a label where a yes or no stands beside a single completion."""
_ABOUT_WORDS = (
    "id ids uid uuid hash sha sha1 sha256 md5 model models source sources count num number n length len size chars words "
    "tokens token date time timestamp created updated lang language url link version split subset dataset category index "
    "idx seconds ratio price cost author annotator worker batch config licence license status difficulty topic title "
    "policy generator name template kind type"
)
_ABOUT = frozenset(_ABOUT_WORDS.split())
"""Words of names that tell about a row and are no part of it: `prompt_id`, `chosen_model`."""
_TEXTUAL = ("a prompt", "a context", "a reason", "media")


def meaning_of(name: str, value: Any, imitates: bool = False) -> str | None:
    """The meaning of a column by its name, if a row could not do without it.

    Args:
        name: name of the column.
        value: one value of it that is not null; a yes or no is neither a prompt nor a reason.
        imitates: whether rows are imitated, so that a column may say that the reply is a bad one.

    Example:
        >>> [meaning_of(name, "x") for name in ("rejected_reason", "promptId", "KTO_tag", "source")]
        ['a preference', None, 'a label', None]
    """
    words = {word.lower() for word in re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])|\d+", name)}
    if words & _ABOUT or not _says_anything(value):
        return None
    for word, meaning in _MEANINGS.items():
        if word in words and not (meaning in _TEXTUAL and isinstance(value, bool | int | float)):
            return meaning
    if imitates and words & _VERDICTS and (isinstance(value, bool) or value in (0, 1)):
        return "a label"
    return None


def _says_anything(value: Any) -> bool:
    if isinstance(value, str):
        return bool(value.strip())
    if isinstance(value, Mapping):
        return any(map(_says_anything, value.values()))
    if isinstance(value, Sequence):
        return bool(len(value))
    return value is not None
