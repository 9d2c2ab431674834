"""The request for one verdict, its key, and what a server cannot do of it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from exptilt.judges.judge_templates import JudgeTemplate
from exptilt.judges.slots import AskedPair
from exptilt.judges.verdict_parsing import TIE

OPTIONAL = ("response_format", "logprobs", "top_logprobs", "temperature", "seed", "max_tokens")
"""What a server may refuse; a request without it still gets a verdict."""
_RENAMED = {"max_tokens": "max_completion_tokens"}
"""Reasoning models want the limit under another name."""
_TOP = 20


@dataclass(frozen=True, slots=True)
class Sampled:
    """How the judge model is sampled."""

    temperature: float = 0.0
    max_tokens: int = 512
    seed: int = 0


def pair_request(
    model: str, template: JudgeTemplate, one: AskedPair, sampled: Sampled, *, ties: bool
) -> dict[str, Any]:
    """The whole request, as a server that can do everything would get it."""
    text = template.pair(one.comparison.prompt, one.first, one.second, one.labels, tie=ties)
    verdicts = [*one.labels, *([TIE] if ties else [])]
    return _request(model, text, sampled, {"verdict": {"type": "string", "enum": verdicts}})


def rubric_request(model: str, template: JudgeTemplate, prompt: Any, answer: str, sampled: Sampled) -> dict[str, Any]:
    """The request that rates one answer from 1 to 10."""
    rating = {"rating": {"type": "integer", "minimum": 1, "maximum": 10}}
    return _request(model, template.single(prompt, answer), sampled, rating)


def request_key(request: dict[str, Any], base_url: str, template: JudgeTemplate, **asked: Any) -> str:
    """SHA-256 of everything that could change the reply: server, template, the whole request, order and replicate.

    It is of the request as it was meant, so that a second run needs no call to learn what the server refuses of it.
    """
    content = {"request": request, "server": base_url, "template": template.digest, **asked}
    return hashlib.sha256(json.dumps(content, sort_keys=True, ensure_ascii=True).encode()).hexdigest()


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


def named_in(message: str, parameter: str | None) -> str | None:
    """Which optional part of a request a server's refusal is about; None where it is about something else.

    Example:
        >>> named_in("Unsupported value: 'temperature' does not support 0.0", None)
        'temperature'
    """
    if parameter in OPTIONAL:
        return parameter
    found = [name for name in OPTIONAL if name in message]
    if not found and ("json_schema" in message or "guided" in message):
        return "response_format"
    return max(found, key=len) if found else None


def _request(model: str, text: str, sampled: Sampled, answer: dict[str, Any]) -> dict[str, Any]:
    schema = {
        "type": "object",
        "properties": {"reason": {"type": "string"}, **answer},  # the reason first, so that the verdict follows from it
        "required": ["reason", *answer],
        "additionalProperties": False,
    }
    return {
        "model": model,
        "messages": [{"role": "user", "content": text}],
        "temperature": sampled.temperature,
        "seed": sampled.seed,
        "max_tokens": sampled.max_tokens,
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": "verdict", "strict": True, "schema": schema},
        },
        "logprobs": True,
        "top_logprobs": _TOP,
    }
