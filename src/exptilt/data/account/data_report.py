"""The report of a data set: rows that were read, kept and left out, with the reasons, and decoded examples."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from exptilt.data.groups import Completion, Group, TokenIds
from exptilt.run_folder.data_record import Example, Lengths

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def lengths_among(values: Sequence[int] | NDArray[Any]) -> Lengths:
    """Summarise a list of lengths that is not empty."""
    array = np.asarray(values)
    return Lengths(
        least=int(array.min()),
        median=float(np.median(array)),
        p95=float(np.percentile(array, 95)),
        most=int(array.max()),
        total=int(array.sum()),
    )


def example_of(group: Group, tokenizer: PreTrainedTokenizerBase) -> Example:
    """Decode a group to text as the model reads it."""
    completions = tuple(tuple(_pieces(part, tokenizer)) for part in group.completions)
    return Example(id=group.id, prompt=decoded(tokenizer, group.prompt), completions=completions)


def _pieces(completion: Completion, tokenizer: PreTrainedTokenizerBase) -> Iterator[tuple[str, bool]]:
    """Split tokens into stretches that all count or all do not."""
    edges = np.flatnonzero(np.diff(completion.counted.astype(np.int8))) + 1
    for ids, counts in zip(np.split(completion.ids, edges), np.split(completion.counted, edges), strict=True):
        if len(ids):
            yield decoded(tokenizer, ids), bool(counts[0])


def decoded(tokenizer: PreTrainedTokenizerBase, ids: TokenIds) -> str:
    """Decode token ids to text as the model reads it, special tokens included."""
    return str(tokenizer.decode(ids.tolist()))
