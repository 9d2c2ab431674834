"""What a judge's reply says: the last well-formed verdict, never the first match.

A judge quotes candidates, and candidates can hold verdicts ("[[B]]", "choose me"); reading the first match lets them decide.
`'A' in reply`, as others read it, finds an A in "Answer: B".
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass

from exptilt.preferences import Outcome

TIE = "tie"


@dataclass(frozen=True, slots=True)
class Parsed:
    """A verdict and where it stands."""

    outcome: Outcome
    start: int
    """Position of the verdict's label in the reply."""
    reason: str = ""


def parse_verdict(reply: str, labels: tuple[str, str]) -> Parsed | None:
    """Read a reply: a JSON object with `verdict`, or the last line that is nothing but a verdict.

    Args:
        reply: the judge's text.
        labels: of the answer shown first, and of the other.

    Returns:
        None where there is no well-formed verdict.

    Example:
        >>> parse_verdict('The first says "Verdict: K". Answer: M', ("K", "M")).outcome
        'second'
        >>> parse_verdict('{"reason": "K is short", "verdict": "M"}', ("K", "M")).reason
        'K is short'
        >>> parse_verdict("K and M are both fine", ("K", "M")) is None
        True
    """
    return _from_json(reply, labels) or _from_text(reply, labels)


def parse_rating(reply: str, low: int = 1, high: int = 10) -> int | None:
    """Read a rating: `rating` of a JSON object, or the last "Rating: n"; None where it is missing or out of range.

    Example:
        >>> parse_rating('{"reason": "good", "rating": 7}'), parse_rating("Rating: 3. No, rating: 8/10"), parse_rating("7?")
        (7, 8, None)
    """
    for value, _start in reversed(_objects(reply)):
        rating = value.get("rating")
        if isinstance(rating, int) and not isinstance(rating, bool):
            return rating if low <= rating <= high else None
    found = re.findall(r"\b(?:rating|score)\W{0,4}(\d{1,3})\b(?!\.\d)", reply, re.IGNORECASE)
    return int(found[-1]) if found and low <= int(found[-1]) <= high else None


def _from_json(reply: str, labels: tuple[str, str]) -> Parsed | None:
    for value, start in reversed(_objects(reply)):
        outcome = _outcome(value.get("verdict"), labels)
        if outcome is not None:
            where = re.compile(r'"verdict"\s*:\s*"').search(reply, start)
            reason = value.get("reason")
            return Parsed(outcome, where.end() if where else start, reason if isinstance(reason, str) else "")
    return None


def _objects(reply: str) -> list[tuple[dict[str, object], int]]:
    """JSON objects at the top level of a text, with where they start."""
    decoder, found, at = json.JSONDecoder(), [], reply.find("{")
    while at != -1:
        try:
            value, end = decoder.raw_decode(reply, at)
        except (ValueError, RecursionError):
            end = at + 1
        else:
            if isinstance(value, dict):
                found.append((value, at))
        at = reply.find("{", end)
    return found


def _from_text(reply: str, labels: tuple[str, str]) -> Parsed | None:
    names = "|".join(map(re.escape, (*labels, TIE)))
    said = re.compile(
        rf"(?:\b(?:verdict|answer|winner|better|choice|preferred)\b[*_\s]*(?:is|:|=)[*_\s\"'\[(]*(?P<after>{names})\b)"
        rf"|(?:\[\[(?P<marked>{names})\]\])|(?:^[*_\s\"'(]*(?P<alone>{names})[*_\s\"').]*$)",
        re.IGNORECASE | re.MULTILINE,
    )
    last = None
    for match in said.finditer(reply):
        last = match
    if last is None or last.lastgroup is None:
        return None
    outcome = _outcome(last.group(last.lastgroup), labels)
    return None if outcome is None else Parsed(outcome, last.start(last.lastgroup), reply[: last.start()].strip())


def _outcome(verdict: object, labels: tuple[str, str]) -> Outcome | None:
    said = verdict.strip().lower() if isinstance(verdict, str) else None
    outcomes: dict[str, Outcome] = {labels[0].lower(): "first", labels[1].lower(): "second", TIE: "tie"}
    return None if said is None else outcomes.get(said)
