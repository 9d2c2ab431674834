"""Checks of one completion against the right answer: pure functions that give True, False, or None where nothing can be said.

gsm8k    the number after the last `####`, or after `A:` in the last line that begins so
exact    the same text but for white space around it
regex    a pattern; its first group is compared with the right answer
json     JSON that fits a schema
math     equal as mathematics, by math-verify
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable, Mapping
from decimal import Decimal, InvalidOperation
from functools import cache
from typing import Any

from exptilt.errors import ConfigError

Check = Callable[[str, str], bool | None]
"""A completion and the right answer to a verdict."""

_FINAL = re.compile(r"####\s*(.+)|^\s*A:\s*(.+)", re.MULTILINE)
_NUMBER = re.compile(r"[-+]?\$?\s*[-+]?(\d[\d,]*\.?\d*|\.\d+)")
_COMMAND = re.compile(r"\\[A-Za-z]+")
_WORDS = re.compile(r"[A-Za-z]{2,}")
_IN_MATHS = re.compile(r"\$|\\boxed|\\\[|\\\(|\\begin")


def gsm8k(text: str, answer: str) -> bool | None:
    r"""Whether the final numbers are equal; a completion without one is wrong, a right answer without one says nothing.

    Commas between digits, a dollar sign and zeros at the end do not count: `$1,200.00` is 1200. A right answer may be
    a whole solution or the number alone.

    Example:
        >>> gsm8k("so 3 * 6 = 18\n#### 18", "18"), gsm8k("A: $1,200.00", "It is\n#### 1200"), gsm8k("18", "18")
        (True, True, False)
    """
    right = _final_number(answer) or _number(answer)
    if right is None:
        return None
    return _final_number(text) == right


def exact(text: str, answer: str, *, ignore_case: bool = False) -> bool:
    """Whether both are the same text but for white space around them.

    Example:
        >>> exact(" Paris ", "Paris"), exact("paris", "Paris"), exact("paris", "Paris", ignore_case=True)
        (True, False, True)
    """
    one, other = text.strip(), answer.strip()
    return one.casefold() == other.casefold() if ignore_case else one == other


def regex(text: str, answer: str, *, pattern: str) -> bool:
    """Whether the pattern occurs and the first group of its last match is the right answer; without a group a match is enough.

    Example:
        >>> regex("x = 3, so x = 4", "4", pattern=r"x = (\\d)"), regex("<think>a</think>", "", pattern="</think>")
        (True, True)
    """
    matches = list(re.finditer(pattern, text))
    if not matches:
        return False
    return matches[-1].re.groups == 0 or (matches[-1].group(1) or "").strip() == answer.strip()


def json_by_schema(text: str, answer: str, *, schema: Mapping[str, Any]) -> bool:
    """Whether the whole completion is JSON that fits the schema; NaN and infinity are no JSON.

    Example:
        >>> json_by_schema('{"a": 1}', "", schema={"required": ["a"]}), json_by_schema("a: 1", "", schema={})
        (True, False)
    """
    from jsonschema import validators

    try:
        value = json.loads(text, parse_constant=_refuse_constant)
    except ValueError:
        return False
    return bool(validators.validator_for(schema)(schema).is_valid(value))


def maths(text: str, answer: str) -> bool | None:
    r"""Whether both are equal as mathematics; None where the right answer cannot be read.

    Time is not bounded here: call it in a process that can be ended (`bounded_calls`).

    Example:
        >>> maths(r"It is $\frac{1}{2}$.", "0.5"), maths("the answer is 7", "8"), maths("7", "")
        (True, False, None)
    """
    math_verify = _math_verify()
    gold = math_verify.parse(_as_maths(answer), parsing_timeout=None)
    if not gold:
        return None
    given = math_verify.parse(_as_maths(text), parsing_timeout=None)
    return bool(math_verify.verify(gold, given, timeout_seconds=None))


def check_by_name(name: str, settings: Mapping[str, Any]) -> Check:
    """A check with its settings filled in.

    Raises:
        ConfigError: a library that it needs is not installed.

    Example:
        >>> check_by_name("exact", {"ignore_case": True})("YES", "yes")
        True
    """
    if name == "math":
        _math_verify()
    if name == "json":
        _require_jsonschema()
    function: Callable[..., bool | None] = _CHECKS[name]
    return lambda text, answer: function(text, answer, **settings)


_CHECKS: dict[str, Callable[..., bool | None]] = {
    "gsm8k": gsm8k,
    "exact": exact,
    "regex": regex,
    "json": json_by_schema,
    "math": maths,
}
BOUNDED = frozenset({"regex", "json", "math"})
"""Checks that may run for ever on some text, so that they need a process of their own."""


def _final_number(text: str) -> Decimal | None:
    found = _FINAL.findall(text)
    return _number(next(filter(None, found[-1]))) if found else None


def _number(text: str) -> Decimal | None:
    """The number that a text begins with; None where something else stands there, or something behind it changes it."""
    said = text.strip()
    match = _NUMBER.match(said)
    if match is None or re.match(r"\s*[/*+^=]|\s*-\s*\d|\d|%?\s*(million|billion|thousand)", said[match.end() :]):
        return None
    try:
        return Decimal(re.sub(r"[$,\s]", "", match.group())).normalize()
    except InvalidOperation:
        return None


def _as_maths(text: str) -> str:
    """A bare formula (`2^{10}`) is put into mathematics, as math-verify reads LaTeX nowhere else."""
    bare = ("\\" in text or "^" in text) and "\n" not in text.strip() and not _IN_MATHS.search(text)
    bare = bare and not _WORDS.search(_COMMAND.sub("", text))
    return f"${text.strip()}$" if bare else text


def _refuse_constant(name: str) -> Any:
    raise ValueError(name)


@cache
def _math_verify() -> Any:
    try:
        import math_verify
    except ImportError:
        raise ConfigError("check=math needs math-verify: pip install 'exptilt[verify]'") from None
    for name in (
        "math_verify",
        "math_verify.parser",
        "math_verify.grader",
    ):  # warns of every call without its own time-out
        logging.getLogger(name).setLevel(logging.ERROR)
    return math_verify


def _require_jsonschema() -> None:
    try:
        import jsonschema  # noqa: F401
    except ImportError:
        raise ConfigError("check=json needs jsonschema: pip install 'exptilt[verify]'") from None
