"""Speed of a run beside the speed of its hardware: floating point operations per token, and a peak to compare with.

    operations of a weight = 2 forward, 2 for the gradient of its input, 2 for its own gradient where it is trained;
                             so 6 where everything is trained, 4 on frozen weights
    of all rows            = blocks * tokens fed + head * tokens that count + 12 * width * positions attended to, of all layers

divided by the unique tokens of the rows. Only what the mathematics needs is counted: the last token of a completion predicts
nothing and is not fed, tokens outside the loss need no logits, of experts those in use, under a window no position beyond
it; not activations computed again, not the second pass of a coupled loss, not the reference. Source: Chowdhery et al.,
"PaLM", https://arxiv.org/abs/2204.02311, appendix B; they count head and attention for every token of the whole window.
"""

from __future__ import annotations

import time
from collections import Counter
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
        "rollout/seconds_drawing",
        "rollout/seconds_learning",
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
    per_token = operations_per_token(model, groups)
    if device.type == "cpu":
        return Work("matmul_floor_share", per_token, measured_speed(precision) * num_processes)
    peak = peak_of(_name(device)) if precision == torch.bfloat16 else None
    return None if peak is None else Work("model_flop_utilisation", per_token, peak * num_processes)


def operations_per_token(model: Any, groups: Sequence[Group]) -> float:
    """Operations that training on these rows needs, forward and backward, per unique token."""
    unique = sum(group.num_tokens for group in groups)
    if not unique:
        return 0.0
    blocks, head = weight_operations(model)
    counted = sum(side.length for group in groups for side in group.completions)
    return (
        blocks * sum(group.num_fed for group in groups) + head * counted + attention_operations(model, groups)
    ) / unique


def weight_operations(model: Any) -> tuple[float, float]:
    """Operations of a token that is fed to the blocks, and of one whose logits are formed; a look-up is none.

    Example:
        >>> weight_operations(nn.Linear(10, 20))
        (1200.0, 0.0)
    """
    looked_up = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
    output = getattr(causal_lm(model), "get_output_embeddings", lambda: None)()
    head = None if output is None else output.weight
    matrices = [one for one in model.parameters() if one.ndim >= 2 and id(one) not in looked_up and one is not head]
    settings = getattr(getattr(causal_lm(model), "config", None), "get_text_config", lambda: None)()
    blocks = sum(_operations(one) * _share_in_use(one, settings) for one in matrices)
    return float(blocks), 0.0 if head is None else float(_operations(head))


def _operations(weight: Any) -> int:
    return _size(weight) * (6 if weight.requires_grad else 4)


_EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts")


def _share_in_use(weight: Any, settings: Any) -> float:
    """The share of stacked experts that one token passes through; 1 for other weights."""
    experts: int | None = next((count for key in _EXPERTS if (count := getattr(settings, key, None))), None)
    if experts is None or weight.ndim != 3 or weight.shape[0] != experts:
        return 1.0
    return float(getattr(settings, "num_experts_per_tok", experts)) / experts


def attention_operations(model: Any, groups: Sequence[Group]) -> float:
    """Operations of attention between positions: 12 * width * positions attended to, of all layers and rows."""
    settings = causal_lm(model).config.get_text_config()
    heads = getattr(settings, "num_attention_heads", 0) or 0
    width = heads * (getattr(settings, "head_dim", None) or settings.hidden_size // max(1, heads))
    reaches = Counter(_windows(settings)).items()
    return float(12.0 * width * sum(count * _reach(group, window) for window, count in reaches for group in groups))


def _windows(settings: Any) -> list[int | None]:
    """For each layer that attends between positions, how many it sees at most; None where there is no window."""
    window = getattr(settings, "sliding_window", None)
    kinds = getattr(settings, "layer_types", None)
    if kinds is None:
        is_used = getattr(settings, "use_sliding_window", True)
        return [window if is_used else None] * int(settings.num_hidden_layers)
    seen = {"full_attention": None, "sliding_attention": window}
    return [seen[kind] for kind in kinds if kind in seen]


def _reach(group: Group, window: int | None = None) -> int:
    """Number of positions attended to by all tokens fed of a group: a completion's token sees the prompt, too."""
    prompt = len(group.prompt)
    ends = [prompt + max(0, len(completion.ids) - 1) for completion in group.following]
    return _seen(prompt, window) + sum(_seen(end, window) - _seen(prompt, window) for end in ends)


def _seen(length: int, window: int | None) -> int:
    """Positions that all tokens of a sequence attend to, themselves included.

    Example:
        >>> _seen(4, None), _seen(4, 2)  # 1 + 2 + 3 + 4, and 1 + 2 + 2 + 2
        (10, 7)
    """
    near = length if window is None else min(length, window)
    return near * (near + 1) // 2 + (length - near) * near


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
