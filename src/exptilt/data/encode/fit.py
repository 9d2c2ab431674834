"""Fitting examples into the context: longer ones are left out or cut, as the policy says."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from exptilt.data.encode.tokens import Encoded
from exptilt.data.groups import Completion
from exptilt.data.problems import Ledger

Fewer = Callable[[int], Encoded | None]
"""Encodes a row of turns without its oldest turns, within a number of tokens; None if that is impossible."""


def fit(
    encoded: Encoded, row_id: str, max_tokens: int | None, ledger: Ledger, fewer_turns: Fewer | None = None
) -> Encoded | str:
    """Make an example fit.

    Args:
        encoded: prompt and completions; each completion is read after the whole prompt.
        row_id: for the ledger.
        max_tokens: longest prompt and one completion together; None: no limit.
        ledger: counts, and knows the policy.
        fewer_turns: for a prompt of turns, which is only cut between turns; a prompt of text is cut between tokens.

    Returns:
        The example, cut if need be, or the code of the reason why it is left out. A cut completion has no end token.
    """
    if max_tokens is not None:
        cut = _cut(encoded, row_id, max_tokens, ledger, fewer_turns)
        if isinstance(cut, str):
            return cut
        made_identical = cut is not encoded and _identical(cut) and not _identical(encoded)
        if made_identical and ledger.leaves_out("identical", row_id, "identical once cut to max_tokens"):
            return "identical"
        encoded = cut
    if any(completion.length == 0 for completion in encoded.completions):
        ledger.note("nothing_counted", row_id)
        return "nothing_counted"
    return encoded


def _cut(encoded: Encoded, row_id: str, max_tokens: int, ledger: Ledger, fewer_turns: Fewer | None) -> Encoded | str:
    num_prompt = len(encoded.prompt)
    longest = max(len(completion.ids) for completion in encoded.completions)
    if num_prompt + longest <= max_tokens:
        return encoded
    if num_prompt >= max_tokens:
        code, detail = "prompt_too_long", f"the prompt alone has {num_prompt} tokens and max_tokens is {max_tokens}"
    else:
        code, detail = (
            "too_long",
            f"{num_prompt} tokens of prompt and {longest} of completion, and max_tokens is {max_tokens}",
        )
    policy = ledger.decide(code, row_id, detail)
    if policy in ("error", "drop"):
        return code
    if policy == "trim_completion_end":
        fitted = _trim_end(encoded, max_tokens)
    else:
        fitted = fewer_turns(max_tokens) if fewer_turns else _trim_prompt(encoded, max_tokens - longest)
    if fitted is None:
        ledger.note("does_not_fit", row_id, f"{detail}; {policy} cannot make it fit, so it is left out")
        return "does_not_fit"
    return fitted


def _trim_prompt(encoded: Encoded, room: int) -> Encoded | None:
    """Drop the first tokens of the prompt, but keep BOS and at least one token besides."""
    num_kept = room - encoded.num_leading
    if num_kept < 1:
        return None
    parts = (encoded.prompt[: encoded.num_leading], encoded.prompt[-num_kept:])
    return encoded._replace(prompt=np.concatenate(parts))


def _trim_end(encoded: Encoded, max_tokens: int) -> Encoded | None:
    """Cut every completion at one length; a completion of several turns is cut behind its last whole turn before that."""
    room = max_tokens - len(encoded.prompt)
    if room < 1:
        return None
    return encoded._replace(completions=tuple(_first_tokens(part, room) for part in encoded.completions))


def _first_tokens(part: Completion, room: int) -> Completion:
    """At most `room` tokens, up to the end of the last whole turn that counts; without such a turn, `room` tokens."""
    if len(part.ids) <= room:
        return part
    ends = np.flatnonzero(np.diff(part.counted.astype(np.int8)) == -1) + 1
    whole_turns = ends[ends <= room]
    room = int(whole_turns[-1]) if len(whole_turns) else room
    return part.cut(room)


def _identical(encoded: Encoded) -> bool:
    return len({completion.ids.tobytes() for completion in encoded.completions}) < len(encoded.completions)
