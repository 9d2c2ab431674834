"""Shortening a row of turns: whole exchanges are removed from the beginning of its prompt."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from exptilt.data.encode.tokens import Encoded, Encoder
from exptilt.data.records import Record, Text, align


def has_turns(encoder: Encoder, record: Record) -> bool:
    """Tell whether a record is rendered turn by turn, so that it is only cut between turns."""
    prompt, _ = align(record.prompt, record.completions)
    return not isinstance(prompt, str) or encoder.renderer.uses_template(prompt)


def fewer_turns(encoder: Encoder, record: Record, max_tokens: int) -> Encoded | None:
    """Remove the oldest turns of a record's prompt, as few as needed to make it fit.

    The rest begins with a user's turn. The system turn stays, and so do the headers of turns, which a cut between
    tokens would take.

    Args:
        encoder: of the run; the account of the attempts is not kept.
        record: whose prompt has turns.
        max_tokens: longest prompt and one completion together.

    Returns:
        None where even the last exchange does not fit, or cannot be rendered alone.
    """
    for prompt in _shorter(record.prompt):
        (encoded,), _ = encoder.encode([replace(record, prompt=prompt)])
        if encoded is None:
            return None
        if len(encoded.prompt) + max((len(part.ids) for part in encoded.completions), default=0) <= max_tokens:
            return encoded
    return None


def _shorter(prompt: Text) -> Iterator[Text]:
    """Iterate over prompts with ever fewer turns, each from a user's turn on, behind the system turn."""
    if isinstance(prompt, str):
        return
    lead = prompt[:1] if prompt and prompt[0]["role"] == "system" else ()
    for at in range(len(lead) + 1, len(prompt)):
        if prompt[at]["role"] == "user":
            yield (*lead, *prompt[at:])
