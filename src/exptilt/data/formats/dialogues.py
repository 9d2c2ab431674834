"""The border between prompt and completions of a row, whichever of them repeats a part of the context."""

from __future__ import annotations

from collections.abc import Sequence

from exptilt.data.formats import hh
from exptilt.data.problems import RowError
from exptilt.data.records import Message, Text, as_turns
from exptilt.data.turns import said_by

Turns = tuple[Message, ...]


def divided(prompt: Text | None, sides: Sequence[Text]) -> tuple[Text, tuple[Text, ...]]:
    """Separate the prompt from the completions, which lose any context they repeat.

    Sides of text stay text under a prompt of text. Else all become turns, and a side that begins with somebody else's turn
    than the assistant's repeats context: wholly, in part (the last user's turn under a longer prompt), or more of it than
    the prompt has (a system turn before it). Sides that repeat none take the context of those that do.

    Args:
        prompt: the prompt in the row; None if it has none.
        sides: its completions.

    Returns:
        Prompt and completions, all of them text or all of them turns.

    Raises:
        RowError: where the contexts contradict each other, so that a person could not tell either.

    Example:
        >>> ask, good, bad = ({"role": r, "content": c} for r, c in (("user", "Q"), ("assistant", "a"), ("assistant", "b")))
        >>> divided("Q", [(ask, good), (bad,)]) == ((ask,), ((good,), (bad,)))
        True
    """
    prompt, sides = _parsed(prompt, sides)
    if isinstance(prompt, str | None) and all(isinstance(side, str) for side in sides):
        return prompt or "", tuple(sides)
    prompt_turns = as_turns(prompt or "", "user")
    replies = [as_turns(side, "assistant") for side in sides]
    whole = [reply for reply in replies if reply and reply[0]["role"] != "assistant"]
    if not whole:
        if prompt is None:
            raise RowError("no_shared_prompt", _NO_PROMPT)
        return prompt_turns, tuple(replies)
    context, repeated = _shared_context(prompt_turns, prompt, whole)
    return context, tuple(reply[repeated:] if reply and reply[0]["role"] != "assistant" else reply for reply in replies)


_NO_PROMPT = "chosen and rejected share no leading turn that ends with the user's, and there is no prompt"


def shared_turns(*sides: Turns) -> Turns:
    """The longest shared list of whole leading turns that ends with a user's or tool's turn.

    Never a prefix of characters: replies often begin with the same letters (444 of 2,312 rows in one HH-RLHF split).
    """
    count = 0
    for turns in zip(*sides, strict=False):
        if not all(same_turn(turns[0], turn) for turn in turns[1:]):
            break
        count += 1
    while count and sides[0][count - 1]["role"] not in ("user", "tool"):
        count -= 1
    return sides[0][:count]


def same_turn(first: Message, second: Message) -> bool:
    """Tell whether two turns have equal content, apart from outer white space and a platform's own keys (ids, times)."""
    return bool(first["role"] == second["role"]) and said_by(first).strip() == said_by(second).strip()


def same_turns(first: Turns, second: Turns) -> bool:
    """Tell whether two lists of turns have equal content."""
    return len(first) == len(second) and all(map(same_turn, first, second))


def _parsed(prompt: Text | None, sides: Sequence[Text]) -> tuple[Text | None, Sequence[Text]]:
    """Parse transcripts into turns, if sides are transcripts that hold their context, or if there are turns beside one."""
    some_turns = any(not isinstance(side, str) for side in sides)
    whole = [hh.is_transcript(side) for side in sides]
    if any(whole) and (all(whole) or hh.is_transcript(prompt)):
        sides = [hh.parse(side) if isinstance(side, str) and hh.is_transcript(side) else side for side in sides]
        sides = [side.removeprefix(" ") if isinstance(side, str) else side for side in sides]
        some_turns = True
    if some_turns and isinstance(prompt, str) and hh.is_transcript(prompt):
        prompt = hh.asked(prompt)
    return prompt, sides


def _shared_context(prompt_turns: Turns, prompt: Text | None, whole: Sequence[Turns]) -> tuple[Turns, int]:
    """The context of all sides, and the number of turns that a side repeats of it."""
    if len(whole) > 1:
        shared = shared_turns(*whole)
        if not shared:
            raise RowError("no_shared_prompt", "the sides share no leading turn that ends with the user's")
        cuts = [len(shared)]
    else:
        turns = whole[0]
        cuts = [at for at in range(len(turns) - 1, 0, -1) if _may_end(turns, at)]
        if prompt_turns and len(prompt_turns) in cuts and same_turns(turns[: len(prompt_turns)], prompt_turns):
            return prompt_turns, len(prompt_turns)
    if not cuts:
        raise RowError("bad_roles", "a completion ends before the assistant says anything")
    if not prompt_turns:
        return whole[0][: cuts[0]], cuts[0]
    for cut in cuts:
        context = _merged(prompt_turns, whole[0][:cut], isinstance(prompt, str))
        if context:
            return context, cut
    raise RowError("prompt_mismatch", "the completions repeat a context, but the prompt is not what it says")


def _may_end(turns: Turns, at: int) -> bool:
    """Tell whether the context may end before this turn: an assistant's turn after somebody else's."""
    return bool(turns[at]["role"] == "assistant" and turns[at - 1]["role"] != "assistant")


def _merged(prompt_turns: Turns, repeated: Turns, any_turn: bool) -> Turns:
    """The prompt and a side's repeated context as one context; empty if they contradict each other."""
    if _holds(repeated, prompt_turns, any_turn):
        return repeated
    starts = prompt_turns[:1] if prompt_turns[0]["role"] == "system" else ()
    rest = repeated[1:] if starts and same_turns(repeated[:1], starts) else repeated
    for overlap in range(min(len(prompt_turns), len(rest)), 0, -1):
        if same_turns(prompt_turns[-overlap:], rest[:overlap]):
            return (*prompt_turns, *rest[overlap:])
    return ()


def _holds(context: Turns, prompt_turns: Turns, any_turn: bool) -> bool:
    """Tell whether a context holds the prompt: its beginning, its end after other turns or, for text, any user's turn."""
    if any_turn:
        return any(same_turn(turn, prompt_turns[0]) for turn in context)
    starts = (
        at
        for at in range(len(context) - len(prompt_turns) + 1)
        if same_turns(context[at : at + len(prompt_turns)], prompt_turns)
    )
    start = next(starts, None)
    return start is not None and (
        start == 0 or context[0]["role"] == "system" or start + len(prompt_turns) == len(context)
    )
