"""The order of turns that a chat can have under any template."""

from __future__ import annotations

from collections.abc import Iterable

from exptilt.data.problems import RowError
from exptilt.data.records import Text

_BEGINNINGS = ("prefix", "partial")
"""Keys that say that a turn is the beginning of the reply: Mistral's and DeepSeek's, Moonshot's."""


def check_turn_order(prompt: Text, completions: Iterable[Text]) -> None:
    """Refuse a completion that does not begin and end with the assistant, and a system turn behind the first.

    Raises:
        RowError: the order is wrong; the message gives the roles.
    """
    asked = () if isinstance(prompt, str) else prompt
    if asked and asked[-1]["role"] == "assistant" and any(asked[-1].get(key) for key in _BEGINNINGS):
        raise RowError(
            "bad_roles",
            "the prompt ends with the beginning of a reply, and a completion cannot go on with it: put that text into the completions",
        )
    for completion in completions:
        if isinstance(completion, str):
            continue
        if not completion or completion[0]["role"] != "assistant" or completion[-1]["role"] != "assistant":
            roles = ", ".join(turn["role"] for turn in completion) or "no turn at all"
            raise RowError("bad_roles", f"a completion must begin and end with the assistant's turn, got {roles}")
        if any(turn["role"] == "system" for turn in (*asked[1:], *completion)):
            raise RowError("bad_roles", "a system turn can only be the first")
