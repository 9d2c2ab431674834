"""Speed of a run beside the speed of its hardware: floating point operations per token, and a peak to compare with.

    operations of a token = 2 per weight forward, 2 per weight for the gradient of its input, 2 per trained weight for
                            its own gradient; so 6 where everything is trained, 4 on frozen weights
                          + 12 * layers * width * (mean number of positions a token attends to), which has no weights

Only what the mathematics needs is counted: not activations computed again, not the second pass of a coupled loss, not
the reference. Source: Chowdhery et al., "PaLM", https://arxiv.org/abs/2204.02311, appendix B; they count attention over
the whole window, here it is over the positions of each token's own prompt and completion.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from exptilt.data.groups import Group
from exptilt.policies.engine.forward import causal_lm

TIMINGS = tuple(
    f"train/{name}"
    for name in (
        "tokens_per_second",
        "unique_tokens_per_second",
        "seconds_per_step",
        "seconds_left",
        "peak_memory_gb",
        "matmul_floor_share",
        "model_flop_utilisation",
    )
)
"""Metrics of the machine and the moment: the only ones in which two equal runs differ."""

_PEAKS = {
    "B200": 2250e12,
    "GH200": 989e12,
    "H200": 989e12,
    "H100 NVL": 835e12,
    "H100 PCIe": 756e12,
    "H100": 989e12,
    "A100": 312e12,
    "L40S": 362e12,
    "RTX 4090": 165e12,
    "RTX 3090": 71e12,
    "A10G": 70e12,
    "A10": 125e12,
    "L4": 121e12,
}
"""Dense bfloat16 operations per second by a part of the device's name, from the makers' data sheets; first match."""

_FLOOR_SECONDS = 0.05
_FLOOR_SIZE = 512


@dataclass(frozen=True)
class Work:
    """Operations of training on one token, and operations per second that the hardware could do."""

    name: str
    """Name of the metric: matmul_floor_share on a CPU, model_flop_utilisation on a GPU."""
    per_token: float
    """Floating point operations per unique token, forward and backward."""
    per_second: float
    """Operations per second of all processes together."""

    def share(self, tokens_per_second: float) -> float:
        """The share of the hardware's speed that is used for the model."""
        return tokens_per_second * self.per_token / self.per_second


def work_of(model: Any, groups: Sequence[Group], precision: torch.dtype, num_processes: int = 1) -> Work | None:
    """Compute the work per token of these rows on this model and device; None for an unknown device.

    On a CPU the comparison is a matrix product of this process, measured here in less than a fifth of a second; on a
    GPU it is the data sheet's bfloat16 speed, so float32 runs get None.

    Args:
        model: on its device, its trainable weights marked as such; before it is sharded.
        groups: the rows of the run.
        precision: precision of its matrix products.
        num_processes: number of such devices in the run.
    """
    device = next(model.parameters()).device
    per_token = weight_operations(model) + attention_operations(model, groups)
    if device.type == "cpu":
        return Work("matmul_floor_share", per_token, measured_speed(precision) * num_processes)
    peak = peak_of(_name(device)) if precision == torch.bfloat16 else None
    return None if peak is None else Work("model_flop_utilisation", per_token, peak * num_processes)


def weight_operations(model: Any) -> float:
    """Operations per token of everything that multiplies a matrix: the head is included, an embedding's look-up is not.

    Example:
        >>> weight_operations(nn.Linear(10, 20))
        1200.0
    """
    looked_up = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
    head = getattr(causal_lm(model), "get_output_embeddings", lambda: None)()
    if head is not None:
        looked_up -= {id(head.weight)}  # tied weights are looked up and multiplied
    matrices = [weight for weight in model.parameters() if weight.ndim >= 2 and id(weight) not in looked_up]
    return float(sum(_size(weight) * (6 if weight.requires_grad else 4) for weight in matrices))


def attention_operations(model: Any, groups: Sequence[Group]) -> float:
    """Operations per unique token of attention between positions: 12 * layers * width * mean reach."""
    settings = causal_lm(model).config.get_text_config()
    tokens = sum(group.num_tokens for group in groups)
    if not tokens:
        return 0.0
    heads = getattr(settings, "num_attention_heads", 0) or 0
    width = heads * (getattr(settings, "head_dim", None) or settings.hidden_size // max(1, heads))
    layers = int(settings.num_hidden_layers)
    return 12 * layers * int(width) * sum(_reach(group) for group in groups) / tokens


def _reach(group: Group) -> float:
    """Number of positions attended to by all unique tokens of a group: a completion's token sees the prompt, too."""
    prompt = len(group.prompt)
    lengths = [len(completion.ids) for completion in group.following]
    return prompt * (prompt + 1) / 2 + sum(length * prompt + length * (length + 1) / 2 for length in lengths)


def _size(weight: Any) -> int:
    """Number of elements of a matrix, also if it is stored packed in four bits (bitsandbytes)."""
    state = getattr(weight, "quant_state", None)
    return int(weight.numel() if state is None else torch.Size(state.shape).numel())


def measured_speed(precision: torch.dtype) -> float:
    """Operations per second of a square matrix product on this CPU, with the threads torch has now."""
    generator = torch.Generator().manual_seed(0)
    matrix = torch.randn(_FLOOR_SIZE, _FLOOR_SIZE, generator=generator).to(precision)
    torch.mm(matrix, matrix)
    best, end = float("inf"), time.perf_counter() + _FLOOR_SECONDS
    while best == float("inf") or time.perf_counter() < end:
        began = time.perf_counter()
        torch.mm(matrix, matrix)
        best = min(best, time.perf_counter() - began)
    return 2 * _FLOOR_SIZE**3 / best


def peak_of(name: str) -> float | None:
    """Dense bfloat16 operations per second of a GPU by its name; None for an unknown GPU.

    Example:
        >>> peak_of("NVIDIA H100 PCIe")
        756000000000000.0
    """
    return next((peak for part, peak in _PEAKS.items() if part in name), None)


def _name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else ""
