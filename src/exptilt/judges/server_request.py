"""The request for one verdict, and its key."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Any

from exptilt.judges.judge_templates import JudgeTemplate
from exptilt.judges.slots import AskedPair
from exptilt.judges.verdict_parsing import TIE

OPTIONAL = ("response_format", "logprobs", "top_logprobs", "temperature", "seed", "max_tokens")
"""What a server may refuse; a request without it still gets a verdict."""
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
