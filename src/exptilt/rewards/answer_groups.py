"""Answers as groups of token ids, for rewards that run a model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from transformers import PreTrainedTokenizerBase

from exptilt.data.encode.tokens import Encoded, Encoder
from exptilt.data.groups import Completion, Group
from exptilt.data.records import Demonstration
from exptilt.data.stage_account import Decisions
from exptilt.errors import DataError
from exptilt.preferences import Answer
from exptilt.settings.data_settings import DataConfig

_DECISIONS = Decisions(DataConfig(train="answers", on_lost="keep", on_missing_end="keep").decisions)
"""An answer is scored as the template renders it."""


def groups_of(answers: Sequence[Answer], tokenizer: PreTrainedTokenizerBase, *, whole: bool = False) -> Iterator[Group]:
    """Groups of neighbouring answers with one prompt; completions keep the order of the answers.

    Every answer is rendered by this tokenizer's own template. Token ids that come with an answer are taken where this
    tokenizer reads its text in them, so that a sample keeps the tokens it was drawn with. With `whole`, answers are read as
    reward models read them: prompt and answer are tokenised together, up to what the template writes after the last turn.

    Raises:
        DataError: an answer cannot be rendered by the template.
    """
    encoder = Encoder(tokenizer, decisions=_DECISIONS, whole=whole)
    records = [
        Demonstration(id=f"answer {number}", prompt=answer.prompt, completion=answer.messages or answer.text)
        for number, answer in enumerate(answers, start=1)
    ]
    run: list[Completion] = []
    prompt, first = np.zeros(0, np.int32), 1
    rows, account = encoder.encode(records)
    for number, (answer, encoded) in enumerate(zip(answers, rows, strict=True), start=1):
        if encoded is None:
            raise DataError("; ".join(finding.message for finding in account.findings(_DECISIONS)))
        if run and not np.array_equal(encoded.prompt, prompt):
            yield Group(id=f"answer {first}", prompt=prompt, completions=tuple(run))
            run = []
        if not run:
            prompt, first = encoded.prompt, number
        run.append(_completion(answer, encoded, tokenizer))
    if run:
        yield Group(id=f"answer {first}", prompt=prompt, completions=tuple(run))


def _completion(answer: Answer, encoded: Encoded, tokenizer: PreTrainedTokenizerBase) -> Completion:
    (completion,) = encoded.completions
    if (
        answer.ids is None
        or not len(answer.ids)
        or answer.messages is not None
        or int(answer.ids.max()) >= len(tokenizer)
    ):
        return completion
    spoken = str(tokenizer.decode(answer.ids.tolist(), skip_special_tokens=True))
    if spoken != answer.text:
        return completion
    ids = np.append(answer.ids, _after_end(completion.ids, answer.ids[-1])).astype(np.int32)
    return Completion(ids, np.ones(len(ids), dtype=np.bool_))


def _after_end(rendered: np.ndarray, end: np.int32) -> np.ndarray:
    """What the template writes after a turn's end token; nothing if the sample has no end."""
    ends = np.flatnonzero(rendered == end)
    return rendered[ends[-1] + 1 :] if len(ends) else rendered[:0]
