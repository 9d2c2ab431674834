r"""Transcripts as one string: turns that begin with `\n\nHuman:` or `\n\nAssistant:` (HH-RLHF)."""

from __future__ import annotations

import re
from typing import Any

from exptilt.data.problems import RowError
from exptilt.data.records import Message

_MARKER = re.compile(r"\n\n(Human|Assistant):[ ]?")
_STRIPPED = re.compile(r"\s*Human:")
_ROLES = {"Human": "user", "Assistant": "assistant"}


def is_transcript(value: Any) -> bool:
    """Tell whether a value begins like a transcript; the empty line at its start may have been stripped."""
    if not isinstance(value, str):
        return False
    return value.startswith("\n\nHuman:") or (_STRIPPED.match(value) is not None and "\n\nAssistant:" in value)


def _parts(transcript: str) -> list[str]:
    """Split a transcript into: nothing, role, content, role, content and so on."""
    return _MARKER.split(transcript if transcript.startswith("\n\n") else f"\n\n{transcript.lstrip()}")


def parse(transcript: str) -> tuple[Message, ...]:
    r"""Split a transcript into turns.

    A marker counts only after an empty line, so `Human:` inside a reply stays text. One space after the marker belongs
    to the marker; everything else is kept as it stands.

    Example:
        >>> [turn["content"] for turn in parse("\n\nHuman: Hi\n\nAssistant: Hello. Human: is a word.")]
        ['Hi', 'Hello. Human: is a word.']

    Raises:
        RowError: if it does not begin with a human's turn or does not end with an assistant's.
    """
    if not is_transcript(transcript):
        raise RowError(
            "not_a_transcript", rf"the transcript does not begin with '\n\nHuman:' but with {transcript[:30]!r}"
        )
    parts = _parts(transcript)
    turns = tuple(
        {"role": _ROLES[role], "content": content} for role, content in zip(parts[1::2], parts[2::2], strict=True)
    )
    if turns[-1]["role"] != "assistant":
        raise RowError("bad_roles", "the transcript ends with a human's turn, so there is no reply to learn")
    return turns


def asked(transcript: str) -> tuple[Message, ...]:
    r"""The turns of a transcript that ends before the reply, with or without an open `Assistant:` (Nectar).

    Example:
        >>> asked("\n\nHuman: Hi \n\nAssistant: ")
        ({'role': 'user', 'content': 'Hi'},)
    """
    if not is_transcript(transcript):
        raise RowError("not_a_transcript", rf"the prompt does not begin with '\n\nHuman:' but with {transcript[:30]!r}")
    parts = _parts(transcript)
    turns = [
        {"role": _ROLES[role], "content": content.rstrip(" ")}
        for role, content in zip(parts[1::2], parts[2::2], strict=True)
    ]
    if turns[-1]["role"] == "assistant" and not turns[-1]["content"].strip():
        turns.pop()
    if not turns or turns[-1]["role"] != "user":
        raise RowError("bad_roles", "the prompt does not end with a human's turn")
    return tuple(turns)
