"""The balance loss of a mixture of experts per group, so that the split of a batch does not change it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from exptilt.data.groups import Group
from exptilt.errors import ModelError
from exptilt.types import on_device

_OTHERWISE = ("doge",)
"""Architectures whose routers choose by product keys: their scores are no logits of experts."""


@dataclass(eq=False)
class Balance:
    """Adds the balance loss of a router to the gradient of the trained weights, and measures it.

        aux_g = E sum_i f_gi P_gi
        loss  = preference loss + coefficient * sum_g w_g aux_g / sum_g w_g

    f_gi is how many of the top-k choices of group g fell on expert i of E, and P_gi the sum of the router's
    probabilities of i, both divided by the tokens of g times layers; w_g is the group's weight. A perfect balance gives
    aux = k. Tokens are those the model is fed: the prompt once, every completion without its last token (KTO's
    mismatched one as well), no padding. It is a mean over groups also beside a loss that is a mean over tokens.

    Losses need not know of it: an identity on the hidden states hands the gradient in when backward comes by
    (`Routed.join`), so it also arrives where a loss is formed in chunks or replayed.

    Source: `load_balancing_loss_func` of transformers, with its normalisation, all layers together, and its choice: the
    top-k of a softmax of the logits, whatever bias a router adds before its own. Deviation: there it is taken over
    whatever micro-batch there is, and so changes with the split; here over each group, then averaged, as in the
    sequence-wise balance loss of DeepSeek-V3 (https://arxiv.org/abs/2412.19437, eq. 17-20), which takes layers one by one.

    Example:
        >>> balance = Balance(coefficient=0.01, top_k=1)
        >>> routed = Routed(balance, [Group(id="a", prompt=np.zeros(3, np.int32), completions=())])
        >>> routed.add([torch.tensor([[0.0, 9.0], [0.0, 9.0], [9.0, 0.0]])], routed.owners(3))
        >>> _ = routed.join(torch.zeros(1))
        >>> f, P = torch.tensor([1 / 3, 2 / 3]), torch.softmax(torch.tensor([[0.0, 9], [0, 9], [9, 0]]), 1).mean(0)
        >>> torch.allclose(balance.measured[0], 2 * (f * P).sum())
        True
    """

    coefficient: float
    """The factor of the loss."""
    top_k: int
    """Number of experts that a token is sent to."""
    factor: float = field(default=1.0, init=False)
    """The weight that the gradient of the whole batch will be divided by, over the sum of the groups' weights."""
    measured: Tensor | None = field(default=None, init=False)
    """(2,) sum over groups of w_g aux_g, and of w_g, since `begin`; None where no router was run with a graph."""

    @classmethod
    def of(cls, model: Any) -> Balance | None:
        """Read the balance loss from a config (`output_router_logits`, `router_aux_loss_coef`); None if the config has none."""
        settings = model.config.get_text_config()
        coefficient, top_k = (getattr(settings, name, None) for name in ("router_aux_loss_coef", "num_experts_per_tok"))
        if not asks(model) or coefficient is None or top_k is None or settings.model_type in _OTHERWISE:
            return None
        return cls(float(coefficient), int(top_k))

    def begin(self, factor: float) -> None:
        """Reset the sums before a step over one global batch."""
        self.factor, self.measured = factor, None


def asks(model: Any) -> bool:
    """Tell whether a model's config switches a balance loss on."""
    return bool(getattr(model.config.get_text_config(), "output_router_logits", False))


class Routed:
    """Choices of the routers on some groups, collected from one or several forward passes with a graph."""

    def __init__(self, balance: Balance, groups: Sequence[Group]) -> None:
        self.balance, self.groups = balance, groups
        self.chosen: Tensor | None = None
        """(G + 1, E) number of times each expert was chosen; the last row holds tokens that do not count."""
        self.probabilities: Tensor | None = None
        """(G + 1, E) sums."""

    @classmethod
    def watching(cls, balance: Balance | None, groups: Sequence[Group]) -> Routed | None:
        """Start to collect; None if there is no balance loss, no group or no graph."""
        return cls(balance, groups) if balance is not None and groups and torch.is_grad_enabled() else None

    def owners(self, num_tokens: int) -> NDArray[np.int64]:
        """(1, T) index of the group that each token of a packed row belongs to; filler tokens belong to none."""
        owners = np.full((1, num_tokens), len(self.groups))
        sizes = [group.num_fed for group in self.groups]
        owners[0, : sum(sizes)] = np.repeat(np.arange(len(sizes)), sizes)
        return owners

    def add(self, router_logits: Sequence[Tensor] | None, owners: NDArray[np.int64]) -> None:
        """Add the router outputs of a forward pass.

        Args:
            router_logits: logits of every layer, (B * T', E); positions beyond the last T of each row came in front.
            owners: (B, T) the group of each position; one more than the last for what does not count.

        Raises:
            ModelError: the model returned no router logits.
        """
        if not router_logits:
            raise ModelError(
                "the model's config asks for a balance loss of its router (output_router_logits: true), but the model "
                "returns no router logits; set output_router_logits to false in its config.json"
            )
        rows, width = owners.shape
        for layer in router_logits:
            where = on_device(torch.from_numpy(owners).flatten(), layer.device)
            logits = layer.reshape(rows, -1, layer.shape[-1])[:, -width:].flatten(0, 1)
            p = torch.softmax(logits, 1, dtype=torch.promote_types(logits.dtype, torch.float32))
            if self.chosen is None or self.probabilities is None:
                self.chosen = self.probabilities = p.new_zeros(len(self.groups) + 1, p.shape[1])
            top = p.detach().topk(self.balance.top_k).indices
            choices = torch.zeros_like(p).scatter_(1, top, 1.0)
            device = self.chosen.device
            self.chosen = self.chosen.index_add(0, where.to(device), choices.to(device))
            self.probabilities = self.probabilities.index_add(0, where.to(device), p.to(device))

    def join(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """Return these tensors unchanged; backward through any of them also adds the gradient of the balance loss."""
        if self.chosen is None or self.probabilities is None:
            return tensors
        chosen, probabilities = self.chosen[:-1], self.probabilities[:-1]
        rows = (chosen.sum(1) / self.balance.top_k).clamp(min=1)  # an empty prompt and one token: nothing was fed
        losses = chosen.shape[1] * (chosen * probabilities).sum(1) / rows**2
        weights = on_device([group.weight for group in self.groups], losses.device, losses.dtype)
        total, balance = (weights * losses).sum(), self.balance
        sums = torch.stack([total.detach(), weights.sum()])
        balance.measured = sums if balance.measured is None else balance.measured + sums
        loss = balance.factor * balance.coefficient * total
        joined: tuple[Tensor, ...] = _Joined.apply(loss, *tensors)  # type: ignore[no-untyped-call]
        return joined


class _Joined(torch.autograd.Function):
    """Returns tensors unchanged; the first backward through any of them gives the attached loss a gradient of 1."""

    @staticmethod
    def forward(ctx: Any, loss: Tensor, *tensors: Tensor) -> tuple[Tensor, ...]:
        ctx.set_materialize_grads(False)
        ctx.one = torch.ones_like(loss)
        return tensors

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        return (ctx.one, *gradients)
