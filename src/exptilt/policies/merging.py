"""Merge an adapter into the weights of its base, and check that the result computes the same."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from exptilt.errors import ModelError
from exptilt.policies.engine.forward import causal_lm, evaluating
from exptilt.policies.engine.pooled import has_score
from exptilt.policies.stacked import mark_ties
from exptilt.wording import in_one_line

_TOLERANCE = 2e-3
"""Nats of a token by which the order of float32 sums may move a log-probability."""

LOADED_TOLERANCE = 1e-4
"""Nats by which the same weights, saved and loaded again, may differ."""


@dataclass(frozen=True)
class Merged:
    """One plain model, with its distance from base and adapter."""

    model: Any
    difference: float
    """Largest difference of any log-probability on a probe, nats; of a reward model, of any score."""


def merge(model: Any) -> Merged:
    """Add an adapter to its base's weights in float32, and compare both on a probe.

    If the adapter changes the head of a model whose head is its embedding, the two are parted first: the embedding
    was not changed, so one matrix could not be both. Both are then saved.

    Args:
        model: a PEFT model; used up.

    Raises:
        ModelError: the base is in few bits, the adapter cannot be merged (prompts, prefixes), or the result differs by
            more than rounding.
    """
    inner = causal_lm(model)
    where = str(inner.name_or_path)
    if getattr(inner, "quantization_method", None) is not None:
        raise ModelError(
            f"{where}: its weights are in few bits, and an adapter cannot be added to them without rounding; merge it "
            "into the base it was quantised from"
        )
    if not hasattr(model, "merge_and_unload") or not hasattr(model.base_model, "merge_and_unload"):
        kind = next(iter(model.peft_config.values())).peft_type
        raise ModelError(
            f"an adapter of the kind {getattr(kind, 'value', kind)} is no change of weights, nothing can be merged"
        )
    model = model.float()
    before = probe(model)
    _part_head(model)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of tied heads, which were parted above
        try:
            merged = model.merge_and_unload(safe_merge=True)
        except (ValueError, RuntimeError, NotImplementedError) as error:
            raise ModelError(f"{where}: the adapter cannot be merged into it: {in_one_line(error)}") from error
    mark_ties(merged)
    difference = largest_difference(before, probe(merged))
    if not difference <= _TOLERANCE:
        what = f"{'scores' if has_score(merged) else 'log-probabilities'} differ by up to {difference:.3g}"
        raise ModelError(
            f"merging changed the model: its {what} from those of base and adapter (rounding explains {_TOLERANCE:g}); "
            "nothing was written. Use the adapter as it is"
        )
    return Merged(merged.requires_grad_(True), difference)


def _part_head(model: Any) -> None:
    """Give head and embedding separate matrices if an adapter sits on one of them."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    inner = causal_lm(model)
    ends: list[Any] = [inner.get_output_embeddings(), inner.get_input_embeddings()]
    if ends[0] is None or not any(isinstance(layer, BaseTunerLayer) for layer in ends):
        return
    bare: list[Any] = [layer.get_base_layer() if isinstance(layer, BaseTunerLayer) else layer for layer in ends]
    head, embedding = bare
    if head.weight is embedding.weight:
        head.weight = torch.nn.Parameter(head.weight.detach().clone(), requires_grad=False)


@torch.no_grad()
def probe(model: Any) -> Tensor:
    """(2, 24, V) log-probabilities of random tokens, or (2, 1) scores of a reward model; float32, by the model's own forward."""
    inner = causal_lm(model)
    vocabulary = int(inner.config.get_text_config().vocab_size)
    ids = torch.randint(vocabulary, (2, 24), generator=torch.Generator().manual_seed(0)).to(inner.device)
    with evaluating(model):
        logits: Tensor = model(input_ids=ids, use_cache=False).logits
    if has_score(model):
        return logits.float().cpu()
    return logits[:, -ids.shape[1] :].float().log_softmax(dim=-1).cpu()


def largest_difference(first: Tensor, second: Tensor) -> float:
    """The largest absolute difference of two tensors of log-probabilities or scores."""
    return float((first - second).abs().max())
