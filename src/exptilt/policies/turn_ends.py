"""Tokens that end a turn; sampling, KL, evaluation and reports all take them from here.

A tokenizer has one end token, and chat models end their turns with another one: Llama 3 with `<|eot_id|>`, ChatML with
`<|im_end|>`. If only the first is known, samples run on behind the answer. Three sources are read together:

    the tokenizer          eos_token
    the model              the list in its generation_config, of which only special tokens count
    the data               the special token that its completions, as rendered, end with
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from exptilt.data.groups import Group
from exptilt.policies.engine.forward import causal_lm

_TRAILING = 3
"""Tokens behind the end of a turn that a template may still write, such as a newline."""
_LEAST = 0.05
"""Share of completions that must end with a token before it is taken for an end of turns."""


def turn_ends(tokenizer: Any, model: Any = None, groups: Sequence[Group] = ()) -> tuple[int, ...]:
    """The ids after which a completion is over, in ascending order; the first of them in a completion ends it.

    Args:
        tokenizer: its eos_token is always one of them.
        model: whose generation_config is asked, if there is one; a PEFT model's is its base's.
        groups: rows as prepared; up to 256 of them, spread evenly, are looked at.

    Example:
        >>> from exptilt.policies.tokenizers import train_tokenizer
        >>> tokenizer = train_tokenizer(["a b"], 259)
        >>> turn_ends(tokenizer) == (tokenizer.eos_token_id,)
        True
    """
    special = {int(token) for token in getattr(tokenizer, "all_special_ids", ())}
    special |= {int(token) for token in getattr(tokenizer, "added_tokens_decoder", {})}
    ids = set() if tokenizer.eos_token_id is None else {int(tokenizer.eos_token_id)}
    ids |= _of_model(model) & special
    ids |= _of_rows(groups, special - _no_end(tokenizer))
    return tuple(sorted(ids))


def _of_model(model: Any) -> set[int]:
    if model is None:
        return set()
    named = getattr(getattr(causal_lm(model), "generation_config", None), "eos_token_id", None)
    return {int(token) for token in (named if isinstance(named, Iterable) else [] if named is None else [named])}


def _of_rows(groups: Sequence[Group], special: set[int]) -> set[int]:
    """The special tokens that completions end with, apart from a few trailing tokens."""
    count = min(len(groups), 256)
    ends: Counter[int] = Counter()
    total = 0
    for group in (groups[at * len(groups) // count] for at in range(count)):
        for completion in group.completions:
            total += 1
            tail = np.asarray(completion.ids)[-_TRAILING:][::-1]
            ends.update([token for token in map(int, tail) if token in special][:1])
    return {token for token, times in ends.items() if times >= max(1, _LEAST * total)}


def _no_end(tokenizer: Any) -> set[int]:
    """Special tokens that begin a text or fill a row."""
    names = ("bos_token_id", "unk_token_id", "mask_token_id", "cls_token_id")
    return {int(getattr(tokenizer, name)) for name in names if getattr(tokenizer, name, None) is not None} - {
        tokenizer.eos_token_id
    }
