"""One completion drawn token by token, as `sample` draws it, and its text as it grows."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import torch

from exptilt.data.groups import TokenIds
from exptilt.sampling.decode import read_prompts
from exptilt.sampling.generate import checked_law, draw_tokens, uniforms_of
from exptilt.sampling.sampling_law import SamplingLaw

_HALF = "\ufffd"
"""Stands at the end of a text whose last character has not all of its bytes yet."""


@torch.no_grad()
def stream_ids(
    model: Any, tokenizer: Any, prompt: TokenIds, *, law: SamplingLaw, seed: int, key: bytes, index: int = 0
) -> Iterator[int]:
    """Draw one completion, a token at a time, the end token included.

    It is bitwise what `sample(model, tokenizer, [prompt], keys=[key], ...)` draws as its completion `index` if it draws that
    one alone.

    Args:
        model: a causal language model in evaluation mode; nobody else may use it meanwhile.
        tokenizer: of the model.
        prompt: at least one id.
        law: to draw by.
        seed: >= 0.
        key: names the random stream together with the seed and the index.
        index: the number of the completion.

    Raises:
        ValueError: the prompt is empty, or does not fit the model's context with `max_new_tokens`.
    """
    law = checked_law(model, tokenizer, [prompt], law)
    uniforms = torch.as_tensor(np.stack([uniforms_of(seed, 0, index, law.max_new_tokens, [key])]))
    state, ends = read_prompts(model, [prompt], [0]), set(law.eos_ids or ())
    for step in range(law.max_new_tokens):
        tokens, _ = draw_tokens(state, law, uniforms[:, step], step)
        token = int(tokens[0])
        yield token
        if token in ends or step + 1 == law.max_new_tokens:
            return
        state.advance(tokens)


def stream_text(tokenizer: Any, ids: Iterable[int], ends: Iterable[int]) -> Iterator[str]:
    """The text of a completion in pieces; together they are `Sample.text`.

    Args:
        tokenizer: of the model.
        ids: as they are drawn.
        ends: ids that end a completion, and are no part of its text.
    """
    spoken: list[int] = []
    given, closing = "", frozenset(ends)
    for token in ids:
        if token in closing:
            break
        spoken.append(token)
        text = str(tokenizer.decode(spoken, skip_special_tokens=True))
        if text.startswith(given) and not text.endswith(_HALF):
            yield text[len(given) :]
            given = text
    text = str(tokenizer.decode(spoken, skip_special_tokens=True))
    if len(text) > len(given):
        yield text[len(given) :]
