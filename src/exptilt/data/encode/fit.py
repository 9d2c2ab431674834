"""Examples into the context: what is longer than it is left out or cut, as the settings say."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from exptilt.data.encode.tokens import Encoded
from exptilt.data.groups import Completion
from exptilt.data.stage_account import NOTHING, Account, Decisions

Fewer = Callable[[int], Encoded | None]
"""Encodes a row of turns without its oldest turns, within a number of tokens; None if that is impossible."""


def fit(
    encoded: Encoded, row_id: str, max_tokens: int | None, decisions: Decisions, fewer_turns: Fewer | None = None
) -> tuple[Encoded | None, Account]:
    """Make an example fit.

    Args:
        encoded: prompt and completions; each completion is read after the whole prompt.
        row_id: for the account.
        max_tokens: longest prompt and one completion together; None: no limit.
        decisions: about what does not fit.
        fewer_turns: for a prompt of turns, which is only cut between turns; a prompt of text is cut between tokens.

    Returns:
        The example, cut if need be, or None if it is left out; and the account of it. A cut completion has no end token.
    """
    account = NOTHING
    if max_tokens is not None:
        cut, account = _cut(encoded, row_id, max_tokens, decisions, fewer_turns)
        if cut is None:
            return None, account
        if cut is not encoded and _identical(cut) and not _identical(encoded):
            left_out = decisions.leave_out("identical")
            account += Account.of("identical", row_id, "identical once cut to max_tokens", left_out=left_out)
            if left_out:
                return None, account
        encoded = cut
    if any(completion.length == 0 for completion in encoded.completions):
        return None, account + Account.of("nothing_counted", row_id, left_out=True)
    return encoded, account


def _cut(
    encoded: Encoded, row_id: str, max_tokens: int, decisions: Decisions, fewer_turns: Fewer | None
) -> tuple[Encoded | None, Account]:
    num_prompt = len(encoded.prompt)
    longest = max((len(completion.ids) for completion in encoded.completions), default=0)
    if num_prompt + longest <= max_tokens:
        return encoded, NOTHING
    if num_prompt >= max_tokens:
        code, detail = "prompt_too_long", f"the prompt alone has {num_prompt} tokens and max_tokens is {max_tokens}"
    else:
        code, detail = (
            "too_long",
            f"{num_prompt} tokens of prompt and {longest} of completion, and max_tokens is {max_tokens}",
        )
    left_out = decisions.leave_out(code)
    account = Account.of(code, row_id, detail, left_out=left_out)
    if left_out:
        return None, account
    decision = decisions.on(code)
    if decision == "trim_completion_end":
        fitted = _trim_end(encoded, max_tokens)
    else:
        fitted = fewer_turns(max_tokens) if fewer_turns else _trim_prompt(encoded, max_tokens - longest)
    if fitted is None:
        detail = f"{detail}; {decision} cannot make it fit, so it is left out"
        account += Account.of("does_not_fit", row_id, detail, left_out=True)
    return fitted, account


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
