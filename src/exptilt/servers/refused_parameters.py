"""What a server cannot do of a request, learnt from what it refuses."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

_RENAMED = {"max_tokens": "max_completion_tokens"}
"""Reasoning models want the limit under another name."""


def as_refused(request: dict[str, Any], refused: Iterable[str]) -> dict[str, Any]:
    """The request without what this server refuses.

    Example:
        >>> as_refused({"model": "m", "max_tokens": 5, "seed": 0}, ["max_tokens", "seed"])
        {'model': 'm', 'max_completion_tokens': 5}
    """
    without = set(refused) | ({"top_logprobs"} if "logprobs" in refused else set())
    kept = {name: value for name, value in request.items() if name not in without}
    renamed = {_RENAMED[name]: request[name] for name in without if name in _RENAMED and name in request}
    return kept | renamed


def named_in(message: str, parameter: str | None, optional: Iterable[str]) -> str | None:
    """Which optional part of a request a server's refusal is about; None where it is about something else.

    Example:
        >>> named_in("Unsupported value: 'temperature' does not support 0.0", None, ["temperature", "seed"])
        'temperature'
    """
    names = list(optional)
    if parameter in names:
        return parameter
    found = [name for name in names if name in message]
    if not found and "response_format" in names and ("json_schema" in message or "guided" in message):
        return "response_format"
    return max(found, key=len) if found else None
