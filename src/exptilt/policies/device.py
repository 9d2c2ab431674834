"""The device a model runs on: this process's own GPU, else the CPU; every model gets it here."""

from __future__ import annotations

from typing import Any

import torch

from exptilt.policies.engine.forward import causal_lm
from exptilt.processes.world import local_device


def is_quantized(model: Any) -> bool:
    """Tell whether the weights are stored in few bits, so that they cannot be cast to another dtype."""
    return _quantization(model) is not None


def model_on_device(model: Any, device: torch.device | None = None) -> Any:
    """Move a model to its device and return it; 4-bit weights stay where bitsandbytes loaded them.

    Args:
        model: any causal language model, an adapter around one included; it is moved in place.
        device: another device than this process's own.

    Returns:
        The same model.
    """
    return model if _quantization(model) == "bitsandbytes" else model.to(device or local_device())


def _quantization(model: Any) -> str | None:
    return getattr(causal_lm(model), "quantization_method", None)
