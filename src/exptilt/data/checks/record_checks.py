"""Checks on one record. What is done about each finding is up to the settings."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from itertools import pairwise

from exptilt.data.memory.digests import Digest, digest
from exptilt.data.records import Preference, Prompt, Ranking, Record, Text, words_of
from exptilt.data.stage_account import NOTHING, Account, Decisions
from exptilt.data.turns import calls_of, content_of, reasoning_of, said_by

_MARKER = re.compile(r"\n\n(Human|Assistant):")
_TEMPLATE_MARK = re.compile(
    r"<\|[a-z_]+\|>|\[/?INST\]|<</?SYS>>|<(?:start|end)_of_turn>|</s>\s*\Z|^### (?:Instruction|Response):", re.MULTILINE
)
"""Spellings that only chat templates put into a text."""
_NEAR = 0.97
"""Two sides that agree in this share of their characters, at their two ends, are nearly identical."""
_MANY_CHARACTERS = 20
"""A prompt shorter than this may well begin its own answer."""


def prompt_key(record: Record) -> Digest:
    """Digest of the prompt for telling whether two rows ask the same: case, white space and Unicode form set aside.

    Where there is no prompt, the completions stand for it.
    """
    said = words_of(record.prompt) or "\n".join(words_of(completion) for completion in record.completions)
    return digest(" ".join(unicodedata.normalize("NFKC", said).casefold().split()))


def is_held_out(record: Record, fraction: float) -> bool:
    """Whether a record falls into the held-out part: a hash of its prompt below `fraction`, the same in every run."""
    return int.from_bytes(prompt_key(record)[:8], "big") < fraction * 2**64


def share_of(name: str) -> float:
    """A number in [0, 1) that depends on the name alone, the same in every run."""
    return int.from_bytes(digest(name)[:6], "big") / 2**48


def check_record(record: Record, decisions: Decisions) -> Account:
    """What is wrong within one record; it is left out where its account says so."""
    account = NOTHING
    for code, detail in _decided(record):
        left_out = decisions.leave_out(code)
        account += Account.of(code, record.id, detail, left_out=left_out)
        if left_out:
            return account
    for code, detail in _noted(record):
        account += Account.of(code, record.id, detail)
    return account


def template_mark(record: Record, own: str = "") -> str | None:
    r"""The first mark of a chat template in a record's text; None where there is none but those in `own`.

    Example:
        >>> from exptilt.data.records import Demonstration
        >>> template_mark(Demonstration(id="a:1", prompt="[INST] Hi [/INST]", completion="Hello</s>"), own="[INST]")
        '[/INST]'
    """
    for text in (record.prompt, *record.completions):
        for found in _TEMPLATE_MARK.finditer(words_of(text)):
            mark = found[0].strip()
            if mark not in own:
                return mark
    return None


def has_tools_without_template(record: Record, template: str) -> bool:
    """Whether a row's tools are lost for certain, whichever tokenizer reads it: no chat template is used for the row.

    Args:
        record: of any kind.
        template: the setting `data.template`.
    """
    is_text = all(isinstance(text, str) for text in (record.prompt, *record.completions))
    return bool(record.template_args.get("tools")) and (template == "plain" or (is_text and template != "chat"))


def _decided(record: Record) -> Iterator[tuple[str, str]]:
    for name, completion in _named(record):
        if _is_empty(completion):
            yield "empty", f"{name} is empty or only white space"
            return
    said = [stripped(completion) for completion in record.completions]
    if len(set(said)) < len(said):
        pair = isinstance(record, Preference)
        yield "identical", "chosen and rejected are identical" if pair else "two completions are identical"
    if isinstance(record, Preference) and record.p_chosen == 0.5:
        why = "the scores are equal" if record.margin == 0 else "p_chosen is 0.5"
        yield "tie", f"neither side is preferred ({why})"


def _noted(record: Record) -> Iterator[tuple[str, str]]:
    if isinstance(record, Ranking) and len(set(record.ranks)) == 1:
        yield "all_tied", "all completions share one rank"
    if isinstance(record, Preference):
        yield from _noted_of_pair(record)
    prompt = _last_words(record.prompt)
    repeats = [name for name, completion in _named(record) if _first_words(completion).startswith(prompt)]
    all_do = len(repeats) == len(record.completions) > 1
    if repeats and prompt and (all_do or len(prompt) >= _MANY_CHARACTERS):
        yield "prompt_repeated", f"{repeats[0]} begins with its own prompt"
    if any(_has_marker(completion) for completion in record.completions):
        yield "marker_in_text", ""
    if _ends_with_a_reply(record.prompt):
        yield (
            "same_role_twice",
            "the prompt ends with an assistant's turn, so the completion is a second reply, not more of the first",
        )
    elif any(_same_role_twice(text) for text in (record.prompt, *record.completions)):
        yield "same_role_twice", ""


def _noted_of_pair(record: Preference) -> Iterator[tuple[str, str]]:
    chosen, rejected = words_of(record.chosen).rstrip(), words_of(record.rejected).rstrip()
    if chosen != rejected and chosen.startswith(rejected):
        yield "prefix", "rejected is the beginning of chosen"
    elif chosen != rejected and rejected.startswith(chosen):
        yield "prefix", "chosen is the beginning of rejected"
    elif chosen.strip() != rejected.strip() and _nearly_identical(chosen, rejected):
        yield "nearly_identical", ""
    if record.p_chosen < 0.5:
        yield "unlikely_chosen", f"p_chosen is {record.p_chosen:g}, so the rejected side is the likelier one"
    if record.margin is not None and record.margin < 0:
        yield "negative_margin", f"the margin is {record.margin:g}, so the source scores the rejected side higher"


def _nearly_identical(one: str, other: str) -> bool:
    """Whether two texts differ only in case, spaces and punctuation, or in a few characters in one place."""
    shorter, longer = sorted((len(one), len(other)))
    if shorter < _NEAR * longer - 8:
        return False
    if _letters(one) == _letters(other):
        return True
    start = _num_shared(one, other)
    end = _num_shared(one[start:][::-1], other[start:][::-1])
    return start + end >= _NEAR * longer


def _num_shared(one: str, other: str) -> int:
    """How many first characters two texts share."""
    low, high = 0, min(len(one), len(other))
    while low < high:
        middle = (low + high + 1) // 2
        if one[:middle] == other[:middle]:
            low = middle
        else:
            high = middle - 1
    return low


def _letters(text: str) -> str:
    return "".join(filter(str.isalnum, text)).casefold()


def _has_marker(completion: Text) -> bool:
    if isinstance(completion, str):
        return bool(_MARKER.search(completion))
    return any(_MARKER.search(said_by(turn)) for turn in completion if turn["role"] == "assistant")


def longer_side(record: Preference) -> int:
    """1 if the preferred completion has more characters, -1 if fewer, 0 if as many."""
    chosen, rejected = len(words_of(record.chosen)), len(words_of(record.rejected))
    return (chosen > rejected) - (chosen < rejected)


def _named(record: Record) -> Iterator[tuple[str, Text]]:
    if isinstance(record, Preference):
        yield "chosen", record.chosen
        yield "rejected", record.rejected
    elif isinstance(record, Ranking):
        yield from ((f"completions[{at}]", completion) for at, completion in enumerate(record.completions))
    elif not isinstance(record, Prompt):
        yield "completion", record.completion


def _is_empty(completion: Text) -> bool:
    if isinstance(completion, str):
        return not completion.strip()
    return any(not said_by(turn).strip() for turn in completion if turn["role"] == "assistant")


def stripped(text: Text) -> str:
    """What completions are compared by: roles, reasoning, words and tool calls, without white space around them."""
    if isinstance(text, str):
        return text.strip()
    return "\x1e".join(
        f"{turn['role']}\x1f{reasoning_of(turn).strip()}\x1f{content_of(turn).strip()}\x1f{calls_of(turn) or ''}"
        for turn in text
    )


def _last_words(prompt: Text) -> str:
    return prompt.strip() if isinstance(prompt, str) else (content_of(prompt[-1]).strip() if prompt else "")


def _first_words(completion: Text) -> str:
    said = completion if isinstance(completion, str) else (content_of(completion[0]) if completion else "")
    return said.lstrip()


def _ends_with_a_reply(prompt: Text) -> bool:
    return not isinstance(prompt, str) and bool(prompt) and prompt[-1]["role"] == "assistant"


def _same_role_twice(text: Text) -> bool:
    if isinstance(text, str):
        return False
    pairs = pairwise(text)
    return any(one["role"] == other["role"] != "tool" for one, other in pairs)
