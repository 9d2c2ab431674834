"""Rows of samples from a model in this process."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from exptilt.data.encode.chat_templates import with_chat_template
from exptilt.data.encode.tokens import encode_prompts
from exptilt.data.groups import TokenIds
from exptilt.errors import DataError
from exptilt.policies.engine.forward import context_length
from exptilt.sampling.generate import Sample, sample
from exptilt.sampling.prompts_to_sample import AskedPrompt
from exptilt.sampling.sample_request import SampleRequest
from exptilt.sampling.sample_rows import SampleRow
from exptilt.settings.data_settings import DataConfig

_BATCHES = 4
"""Batches that are drawn together, so that prompts of like length share one; what is drawn together is written together."""


def local_rows(
    model: Any, tokenizer: Any, asked: Sequence[AskedPrompt], request: SampleRequest, done: set[tuple[str, int]]
) -> Iterator[list[SampleRow]]:
    """Draw all completions that are not done, some prompts at a time.

    Which prompts are drawn together does not depend on what is done: what was in flight when a process was killed is
    drawn again, and is equal to the last bit.

    Args:
        model: a causal language model.
        tokenizer: of the model.
        asked: the prompts.
        request: how many completions, and how.
        done: completions that are there, by prompt and number.

    Yields:
        Rows of some neighbouring prompts, those that are done among them.

    Raises:
        DataError: a prompt does not fit the context with the completion.
    """
    ids = ids_of_prompts(tokenizer, asked, request.data)
    _require_room(model, asked, ids, request.law.max_new_tokens)
    size = max(1, _BATCHES * request.batch_size // request.num_samples)
    for start in range(0, len(asked), size):
        part = asked[start : start + size]
        wanted = [(one.id, index) for one in part for index in range(request.num_samples)]
        if all(key in done for key in wanted):
            continue
        drawn = sample(
            model,
            tokenizer,
            ids[start : start + size],
            num_samples=request.num_samples,
            law=request.law,
            seed=request.seed,
            batch_size=request.batch_size,
            keys=[one.id.encode() for one in part],
            with_logps=True,
        )
        yield [_row(part[one.prompt_index], one, tokenizer) for one in drawn]


def ids_of_prompts(tokenizer: Any, asked: Sequence[AskedPrompt], data: DataConfig) -> list[TokenIds]:
    """(N,) token ids of each prompt, as the settings of the data render it."""
    return encode_prompts(
        with_chat_template(tokenizer, data.chat_template),
        [one.prompt for one in asked],
        data.template,
        [one.template_args for one in asked],
        template_args_of_all=data.template_args,
        fold_system=data.fold_system,
    )


def _row(asked: AskedPrompt, drawn: Sample, tokenizer: Any) -> SampleRow:
    return SampleRow(
        prompt_id=asked.id,
        prompt=asked.prompt,
        sample_index=drawn.sample_index,
        completion=drawn.text(tokenizer),
        ended=drawn.ended,
        prompt_ids=tuple(drawn.prompt.tolist()),
        completion_ids=tuple(drawn.ids.tolist()),
        logps=None if drawn.logps is None else tuple(round(float(value), 6) for value in drawn.logps),
        answer=asked.answer,
        template_args=dict(asked.template_args) or None,
    )


def _require_room(model: Any, asked: Sequence[AskedPrompt], ids: Sequence[TokenIds], new_tokens: int) -> None:
    context = context_length(model)
    too_long = [number for number, prompt in enumerate(ids, start=1) if context and len(prompt) + new_tokens > context]
    if too_long:
        first = too_long[0]
        raise DataError(
            f"prompt {first} of {len(asked)} has {len(ids[first - 1])} tokens, and {len(too_long)} leave no room for "
            f"law.max_new_tokens={new_tokens} in the model's context of {context}; lower it, or leave these prompts out"
        )
