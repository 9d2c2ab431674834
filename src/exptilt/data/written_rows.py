"""Preferences, rankings and ratings as rows of a file, which the formats of the same names read again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from exptilt.data.records import Text


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """One completion that rows are made of.

    Example:
        >>> good, bad = (Candidate(prompt="2+2?", text=text) for text in ("4", "5"))
        >>> preference_row(good, bad, p_chosen=0.75)
        {'prompt': '2+2?', 'chosen': '4', 'rejected': '5', 'p_chosen': 0.75}
    """

    prompt: Text
    text: str
    prompt_ids: Sequence[int] | None = None
    """Token ids of the prompt when the completion was sampled."""
    ids: Sequence[int] | None = None
    """Token ids of the completion as it was sampled."""
    model: str | None = None
    """Who wrote it."""
    template_args: Mapping[str, Any] = field(default_factory=dict)


def preference_row(
    chosen: Candidate,
    rejected: Candidate,
    *,
    p_chosen: float,
    margin: float | None = None,
    both_desirable: bool | None = None,
    **more: Any,
) -> dict[str, Any]:
    """A row of the format `preference`; the keyword arguments `more` are further columns."""
    row = {
        **_question(chosen),
        "chosen": _completion(chosen),
        "rejected": _completion(rejected),
        "p_chosen": p_chosen,
        "margin": margin,
        "both_desirable": both_desirable,
        "chosen_model": chosen.model,
        "rejected_model": rejected.model,
        **more,
    }
    if _have_ids(chosen, rejected):
        row |= {
            "prompt_ids": list(chosen.prompt_ids or ()),
            "chosen_ids": list(chosen.ids or ()),
            "rejected_ids": list(rejected.ids or ()),
        }
    return _filled(row)


def ranking_row(
    candidates: Sequence[Candidate], ranks: Sequence[int], scores: Sequence[float], **more: Any
) -> dict[str, Any]:
    """A row of the format `ranking`."""
    models = [one.model for one in candidates]
    row = {
        **_question(candidates[0]),
        "completions": [_completion(one) for one in candidates],
        "ranks": list(ranks),
        "scores": [float(score) for score in scores],
        "models": models if any(models) else None,
        **more,
    }
    if _have_ids(*candidates):
        row |= {
            "prompt_ids": list(candidates[0].prompt_ids or ()),
            "completions_ids": [list(one.ids or ()) for one in candidates],
        }
    return _filled(row)


def rating_row(candidate: Candidate, *, desirable: bool, score: float | None = None, **more: Any) -> dict[str, Any]:
    """A row of the format `rating`."""
    row = {
        **_question(candidate),
        "completion": _completion(candidate),
        "label": desirable,
        "score": score,
        "model": candidate.model,
        **more,
    }
    if _have_ids(candidate):
        row |= {"prompt_ids": list(candidate.prompt_ids or ()), "completion_ids": list(candidate.ids or ())}
    return _filled(row)


def _question(candidate: Candidate) -> dict[str, Any]:
    prompt = candidate.prompt if isinstance(candidate.prompt, str) else [dict(turn) for turn in candidate.prompt]
    return {"prompt": prompt, "chat_template_kwargs": dict(candidate.template_args) or None}


def _completion(candidate: Candidate) -> Any:
    if isinstance(candidate.prompt, str):
        return candidate.text
    return [{"role": "assistant", "content": candidate.text}]


def _have_ids(*candidates: Candidate) -> bool:
    """Whether all have token ids, of one and the same prompt."""
    prompts = {None if one.prompt_ids is None else tuple(one.prompt_ids) for one in candidates}
    return len(prompts) == 1 and None not in prompts and all(one.ids for one in candidates)


def _filled(row: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if value is not None}
