"""Decoding with each prompt read once and held once, whatever its length and however many samples it gets.

Prompts are read as one packed row, so that none is padded. A model is asked once whether it decodes so as it does by its
own cache; where it does not (windows, caps, foreign layers), or where its positions depend on the longest row, `decode` pads.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor, nn
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from exptilt.data.groups import Completion, Group, TokenIds
from exptilt.policies.engine.attention import NAME, mask_of
from exptilt.policies.engine.forward import causal_lm, evaluating
from exptilt.policies.engine.inside import ENTRANCE
from exptilt.policies.engine.packing import pack
from exptilt.policies.engine.passes import rule_of
from exptilt.sampling.padded_decoding import PaddedState, forward_settings, padded_ids
from exptilt.sampling.prompt_cache import PromptCache

_READ_AT_ONCE = 8192
"""Tokens of prompts in one packed row."""
_COPY_LIMIT = 50_000_000
"""Half-precision models up to this size are checked on a float32 copy, where a mistake cannot hide in rounding."""
_TOLERANCE = {torch.float64: 1e-8, torch.float32: 1e-3}
_HALF_TOLERANCE = 0.1
"""Nats, of larger half-precision models."""
_GROWTH = 64

_CHECKED: WeakKeyDictionary[nn.Module, bool] = WeakKeyDictionary()


class SharedState:
    """The state of decoding B rows of P prompts between two tokens; see `decode.State`.

    Args:
        model: the model.
        prompts: (P,) token ids of each.
        prompt_of: (B,) the prompt of each row.
    """

    def __init__(self, model: Any, prompts: Sequence[TokenIds], prompt_of: Sequence[int]) -> None:
        self._model, self._settings = model, forward_settings(model)
        device = model.get_input_embeddings().weight.device
        logits, layers = _read(model, prompts, self._settings, device)
        self._cache = PromptCache(layers, prompt_of)
        rows = torch.tensor(prompt_of, dtype=torch.int64, device=device)
        self.logits: Tensor = logits[rows]
        self._positions = torch.tensor([len(prompt) for prompt in prompts], device=device)[rows]
        self._ids, self._count = padded_ids(prompts, device)[rows], max(map(len, prompts))

    @property
    def seen(self) -> Tensor:
        """(B, T) every id so far; shorter prompts are filled up with their first token."""
        return self._ids[:, : self._count]

    def select(self, rows: Tensor) -> None:
        """Select rows by index, in this order."""
        self._cache.select(rows)
        self.logits, self._positions, self._ids = self.logits[rows], self._positions[rows], self._ids[rows]

    def advance(self, tokens: Tensor) -> None:
        """Feed one token to every row."""
        if self._count == self._ids.shape[1]:
            self._ids = torch.cat([self._ids, self._ids.new_zeros((len(self._ids), _GROWTH))], dim=1)
        self._ids[:, self._count] = tokens
        self._count += 1
        mask = torch.ones((1, 1, 1, 1), dtype=torch.bool, device=tokens.device)
        mask.decoding = self._cache  # type: ignore[attr-defined]
        out = self._model(
            input_ids=tokens[:, None],
            position_ids=self._positions[:, None],
            attention_mask=mask,
            past_key_values=self._cache,
            use_cache=True,
            **self._settings,
        )
        self.logits = out.logits[:, -1]
        self._positions = self._positions + 1


def shares_prompts(model: Any) -> bool:
    """Whether a model decodes with prompts held once as it does by its own cache; the first call tries it."""
    inner = causal_lm(model)
    if rule_of(inner).kind or hasattr(model, ENTRANCE) or _learns_prompts(model):
        return False
    if inner not in _CHECKED:
        _CHECKED[inner] = _agrees(inner)
    if _CHECKED[inner] and inner.config._attn_implementation != NAME:
        inner.set_attn_implementation(NAME)
    return _CHECKED[inner]


def _learns_prompts(model: Any) -> bool:
    """Whether an adapter puts positions of its own in front of every row."""
    adapters = getattr(model, "peft_config", None) or {}
    return any(getattr(settings, "is_prompt_learning", False) for settings in adapters.values())


@torch.no_grad()
def _agrees(inner: Any) -> bool:
    """Decode two prompts of different lengths in both ways, and compare; `inner` is without the wrapper of an adapter."""
    if set(getattr(inner.config.get_text_config(), "layer_types", None) or ()) - {"full_attention"}:
        return False
    probed = inner
    if inner.dtype not in _TOLERANCE and inner.num_parameters() <= _COPY_LIMIT:
        probed = copy.deepcopy(inner).float()
    before, draw = inner.config._attn_implementation, np.random.default_rng(0)
    ids = draw.integers(0, inner.config.get_text_config().vocab_size, 14)
    prompts, steps = [ids[:5].astype(np.int32), ids[5:8].astype(np.int32)], ids[8:].reshape(2, 3)
    rows = (0, 0, 1)
    with evaluating(probed):
        expected = _logps_of(PaddedState(probed, prompts, rows), steps)
        try:
            probed.set_attn_implementation(NAME)
            if probed.config._attn_implementation != NAME:
                return False
            difference = max(
                float((mine - theirs).abs().max())
                for mine, theirs in zip(_logps_of(SharedState(probed, prompts, rows), steps), expected, strict=True)
            )
        except Exception:  # whatever a foreign architecture raises means the same: decode as its authors do
            difference = float("inf")
        finally:
            if probed is inner:
                inner.set_attn_implementation(before)
    return difference <= _TOLERANCE.get(probed.dtype, _HALF_TOLERANCE)


def _logps_of(state: PaddedState | SharedState, steps: np.ndarray[Any, Any]) -> list[Tensor]:
    logps = [state.logits.double().log_softmax(dim=-1)]
    for tokens in steps:
        state.advance(torch.as_tensor(tokens, device=state.logits.device))
        logps.append(state.logits.double().log_softmax(dim=-1))
    return logps


def _read(
    model: Any, prompts: Sequence[TokenIds], settings: dict[str, Any], device: torch.device
) -> tuple[Tensor, list[list[tuple[Tensor, Tensor]]]]:
    """Logits (P, V) after each prompt, and the keys and values of each layer and prompt, as `PromptCache` takes them."""
    logits: list[Tensor] = []
    layers: list[list[tuple[Tensor, Tensor]]] = []
    for part in _parts(prompts):
        packed = pack([_row(prompt) for prompt in part], device)
        at_last = {"logits_to_keep": packed.source} if "logits_to_keep" in settings else {}
        out = model(
            input_ids=packed.input_ids,
            position_ids=packed.position_ids,
            attention_mask=mask_of(packed.segments),
            past_key_values=DynamicCache(),
            use_cache=True,
            segments=packed.segments,
            **{**settings, **at_last},
        )
        if packed.segments.windows - {None} or any(
            type(layer) is not DynamicLayer for layer in out.past_key_values.layers
        ):
            raise TypeError("layers with windows or states of their own")
        logits.append(out.logits[0] if at_last else out.logits[0, packed.source])
        sizes = [*map(len, part), packed.input_ids.shape[1] - sum(map(len, part))]
        for number, layer in enumerate(out.past_key_values.layers):
            if number == len(layers):
                layers.append([])
            pieces = zip(layer.keys[0].split(sizes, dim=1), layer.values[0].split(sizes, dim=1), strict=True)
            layers[number] += list(pieces)[: len(part)]
    return torch.cat(logits), layers


def _row(prompt: TokenIds) -> Group:
    """A prompt with a completion of one token, which is not fed: the place that predicts it is the prompt's last."""
    return Group(id="prompt", prompt=prompt, completions=(Completion(prompt[:1], np.ones(1, np.bool_)),))


def _parts(prompts: Sequence[TokenIds]) -> Iterator[list[TokenIds]]:
    part: list[TokenIds] = []
    for prompt in prompts:
        if part and sum(map(len, part)) + len(prompt) > _READ_AT_ONCE:
            yield part
            part = []
        part.append(prompt)
    yield part
