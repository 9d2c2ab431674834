"""Where the prompt of a row ends and its completions begin, whichever of them repeats how much of the context."""

from __future__ import annotations

from collections.abc import Sequence

from exptilt.data.formats import hh
from exptilt.data.problems import RowError
from exptilt.data.records import Message, Text, as_turns
from exptilt.data.turns import said_by

Turns = tuple[Message, ...]


def divided(prompt: Text | None, sides: Sequence[Text]) -> tuple[Text, tuple[Text, ...]]:
    """The prompt, and every side without the context it repeats.

    Sides of text stay text under a prompt of text. Else all become turns, and a side that begins with somebody else's turn
    than the assistant's repeats context: wholly, in part (the last user's turn under a longer prompt), or more of it than
    the prompt has (a system turn before it). Sides that repeat none take the context of those that do.

    Args:
        prompt: what the row gives as the prompt; None where it has none.
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
    given = as_turns(prompt or "", "user")
    replies = [as_turns(side, "assistant") for side in sides]
    whole = [reply for reply in replies if reply and reply[0]["role"] != "assistant"]
    if not whole:
        if prompt is None:
            raise RowError("no_shared_prompt", _NO_PROMPT)
        return given, tuple(replies)
    context, repeated = _shared_context(given, prompt, whole)
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


def same_turn(one: Message, other: Message) -> bool:
    """Whether two turns say the same; white space around it and a platform's own keys (ids, times) set aside."""
    return bool(one["role"] == other["role"]) and said_by(one).strip() == said_by(other).strip()


def same_turns(one: Turns, other: Turns) -> bool:
    """Whether two lists of turns say the same."""
    return len(one) == len(other) and all(map(same_turn, one, other))


def _parsed(prompt: Text | None, sides: Sequence[Text]) -> tuple[Text | None, Sequence[Text]]:
    """Transcripts as turns, where sides are transcripts that hold their context, or turns stand beside one."""
    some_turns = any(not isinstance(side, str) for side in sides)
    whole = [hh.is_transcript(side) for side in sides]
    if any(whole) and (all(whole) or hh.is_transcript(prompt)):
        sides = [hh.parse(side) if isinstance(side, str) and hh.is_transcript(side) else side for side in sides]
        sides = [side.removeprefix(" ") if isinstance(side, str) else side for side in sides]
        some_turns = True
    if some_turns and isinstance(prompt, str) and hh.is_transcript(prompt):
        prompt = hh.asked(prompt)
    return prompt, sides


def _shared_context(given: Turns, prompt: Text | None, whole: Sequence[Turns]) -> tuple[Turns, int]:
    """The context of all sides, and how many of the first turns of a side that repeats context are of it."""
    if len(whole) > 1:
        shared = shared_turns(*whole)
        if not shared:
            raise RowError("no_shared_prompt", "the sides share no leading turn that ends with the user's")
        cuts = [len(shared)]
    else:
        turns = whole[0]
        cuts = [at for at in range(len(turns) - 1, 0, -1) if _may_end(turns, at)]
        if given and len(given) in cuts and same_turns(turns[: len(given)], given):
            return given, len(given)
    if not cuts:
        raise RowError("bad_roles", "a completion ends before the assistant says anything")
    if not given:
        return whole[0][: cuts[0]], cuts[0]
    for cut in cuts:
        context = _merged(given, whole[0][:cut], isinstance(prompt, str))
        if context:
            return context, cut
    raise RowError("prompt_mismatch", "the completions repeat a context, but the prompt is not what it says")


def _may_end(turns: Turns, at: int) -> bool:
    """Whether the context may end before this turn: the assistant's, after somebody else's."""
    return bool(turns[at]["role"] == "assistant" and turns[at - 1]["role"] != "assistant")


def _merged(given: Turns, repeated: Turns, any_turn: bool) -> Turns:
    """The prompt and what a side repeats of the context as one context; empty where they contradict each other."""
    if _holds(repeated, given, any_turn):
        return repeated
    starts = given[:1] if given[0]["role"] == "system" else ()
    rest = repeated[1:] if starts and same_turns(repeated[:1], starts) else repeated
    for overlap in range(min(len(given), len(rest)), 0, -1):
        if same_turns(given[-overlap:], rest[:overlap]):
            return (*given, *rest[overlap:])
    return ()


def _holds(context: Turns, given: Turns, any_turn: bool) -> bool:
    """Whether a context holds the prompt: its beginning, or its end after other turns; of text, any user's turn."""
    if any_turn:
        return any(same_turn(turn, given[0]) for turn in context)
    starts = (at for at in range(len(context) - len(given) + 1) if same_turns(context[at : at + len(given)], given))
    found = next(starts, None)
    return found is not None and (found == 0 or context[0]["role"] == "system" or found + len(given) == len(context))
