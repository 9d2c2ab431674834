"""Short names for a model's weights and settings, equal exactly when its log-probabilities would be."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import torch
from torch import Tensor

from exptilt.policies.adapters import has_adapter
from exptilt.policies.engine.forward import causal_lm

_FULL_BYTES = 256 * 2**20
"""Models up to this size are hashed byte by byte; half a second."""
_NUM_BLOCKS = 64
_BLOCK_BYTES = 4096

_IGNORED = {"transformers_version", "architectures", "dtype", "torch_dtype", "use_cache"}


def fingerprint(model: Any, *, as_float32: bool = False) -> str:
    """64 hexadecimal digits of all weights and of the settings that shape the forward pass.

    It covers names, shapes, dtypes and contents. Models up to 256 MB are hashed in full. In larger ones, each tensor gives
    64 blocks of 4 KB spread evenly and the exact integer sum of all its bits read as 32-bit words, so a changed value
    changes the result wherever it is; only changes that cancel in that sum and miss every block would go unseen.
    The device of the weights, dropout rates and the folder of the model change nothing.

    Args:
        model: whole.
        as_float32: the fingerprint that `model.float()` would have; one weight at a time is widened.

    Example:
        >>> from transformers import GPT2Config, GPT2LMHeadModel
        >>> model = GPT2LMHeadModel(GPT2Config(vocab_size=5, n_embd=4, n_layer=1, n_head=1, n_positions=4))
        >>> before = fingerprint(model)
        >>> _ = model.transformer.wpe.weight.data[3, 3].add_(1e-3)
        >>> before == fingerprint(model)
        False
    """
    state = {name: tensor for name, tensor in model.state_dict().items() if isinstance(tensor, Tensor)}
    sizes = (
        one.numel() * (4 if as_float32 and one.is_floating_point() else one.element_size()) for one in state.values()
    )
    full = sum(sizes) <= _FULL_BYTES
    digest = hashlib.sha256(json.dumps(_settings(model), sort_keys=True, default=str).encode())
    for name in sorted(state):
        tensor = state[name].detach()
        tensor = tensor.float() if as_float32 and tensor.is_floating_point() else tensor
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}\n".encode())
        raw = tensor.contiguous().reshape(-1).view(torch.uint8)
        digest.update(_bytes(raw) if full else _sampled(raw))
    return digest.hexdigest()


def identity_of(model: Any, *, as_float32: bool = False) -> str:
    """Fingerprint of a model's computation, including its adapters and their scales; `as_float32` as in `fingerprint`."""
    weights = fingerprint(model, as_float32=as_float32)
    if not has_adapter(model):
        return weights
    return hashlib.sha256((weights + adapter_fingerprint(model)).encode()).hexdigest()


def adapter_fingerprint(model: Any) -> str:
    """Hash of the settings of an adapter that shape its result beside its weights: its scale, its layers and its kind."""
    configs = {name: config.to_dict() for name, config in model.peft_config.items()}
    ignored = {"base_model_name_or_path", "inference_mode", "lora_dropout", "revision", "peft_version"}
    settings = {
        name: {key: value for key, value in config.items() if key not in ignored} for name, config in configs.items()
    }
    return hashlib.sha256(json.dumps(settings, sort_keys=True, default=_json_value).encode()).hexdigest()


def _json_value(value: Any) -> Any:
    return sorted(value) if isinstance(value, set) else str(value)


def _settings(model: Any) -> dict[str, Any]:
    settings = causal_lm(model).config.to_dict()
    return {
        name: value
        for name, value in settings.items()
        if not (name.startswith("_") or name in _IGNORED or "dropout" in name or name.endswith("pdrop"))
    }


def _bytes(raw: Tensor) -> bytes:
    return raw.cpu().numpy().tobytes()


def _sampled(raw: Tensor) -> bytes:
    words = raw[: raw.numel() // 4 * 4].view(torch.int32)
    total = int(words.sum(dtype=torch.int64)) + int(raw[raw.numel() // 4 * 4 :].sum(dtype=torch.int64))
    last = max(raw.numel() - _BLOCK_BYTES, 0)
    starts = sorted({last * number // (_NUM_BLOCKS - 1) for number in range(_NUM_BLOCKS)})
    blocks = torch.cat([raw[start : start + _BLOCK_BYTES] for start in starts])
    return str(total).encode() + _bytes(blocks)
