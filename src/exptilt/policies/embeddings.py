"""New rows of a model's embeddings for tokens that it lacks."""

from __future__ import annotations

from typing import Any

import torch


@torch.no_grad()
def add_rows(model: Any, size: int) -> int:
    """Give a model as many embedding rows as the tokenizer has tokens; new rows are the mean of the old, ties remain.

    At the mean a new token starts as likely as an average one, and no random number is drawn. A model with more rows
    than tokens stays unchanged, because many models are padded to a round number of rows.

    Args:
        model: a causal language model of transformers.
        size: tokens of the tokenizer.

    Returns:
        How many rows were added.

    Source: Hewitt, "Initializing New Word Embeddings for Pretrained Language Models", 2021,
        https://www.cs.columbia.edu/~johnhew/vocab-expansion.html

    Example:
        >>> from transformers import GPT2Config, GPT2LMHeadModel
        >>> model = GPT2LMHeadModel(GPT2Config(vocab_size=5, n_embd=4, n_layer=1, n_head=1, n_positions=4))
        >>> add_rows(model, 7), model.config.vocab_size, add_rows(model, 6)
        (2, 7, 0)
    """
    old = len(model.get_input_embeddings().weight)
    if size <= old:
        return 0
    model.resize_token_embeddings(size, mean_resizing=False)
    for layer in (model.get_input_embeddings(), model.get_output_embeddings()):
        if layer is None:
            continue
        for values in (layer.weight, getattr(layer, "bias", None)):
            if values is not None and len(values) == size:
                values[old:] = values[:old].float().mean(dim=0).to(values.dtype)
    return size - old
