"""Calls of a model whose rows may be run together; some models' forward depends on the longest row of the call.

Two kinds of rotary positions take their frequencies from the longest row they are given:

    longrope  one set of frequencies up to the original context, another beyond it
    dynamic   (NTK) beyond the context it was trained with, other frequencies for every length

A call in which short and long rows lie together would change the short ones, so each side of the border goes in a pass of
its own, packed or padded; a group with completions on both sides is cut in two, and its prompt is read twice.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import product
from typing import Any
from weakref import WeakSet

import torch
from torch import Tensor, nn

from exptilt.data.groups import Completion, Group
from exptilt.errors import ModelError
from exptilt.policies.engine.inside import ENTRANCE

_ALONE: WeakSet[nn.Module] = WeakSet()
"""Models whose rows change each other in any company."""


@dataclass(frozen=True)
class LengthRule:
    """The dependence of a model's forward on the longest row of a call."""

    kind: str = ""
    """longrope, dynamic, alone, or empty where it does not depend on it."""
    border: int = 0
    """Tokens of the longest row up to which nothing changes."""

    def key(self, fed: int) -> int:
        """The key of a row with `fed` tokens; rows of equal keys may share a call."""
        if self.kind == "longrope":
            return int(fed > self.border)
        return max(fed, self.border) if self.kind == "dynamic" else 0

    def begin(self, model: Any) -> None:
        """Reset the longest row that dynamic positions remember, before a call."""
        if self.kind == "dynamic":
            for module in model.modules():
                _forget(module)


def rule_of(model: Any) -> LengthRule:
    """The rule of a causal language model, from its configuration and its self-check."""
    if model in _ALONE:
        return LengthRule("alone")
    text = model.config.get_text_config()
    parameters = getattr(text, "rope_parameters", None) or {}
    for rope in [parameters, *(value for value in parameters.values() if isinstance(value, dict))]:
        kind = str(rope.get("rope_type", ""))
        if kind == "longrope":
            return LengthRule(kind, int(rope["original_max_position_embeddings"]))
        if kind == "dynamic":
            return LengthRule(kind, int(text.max_position_embeddings))
    return LengthRule()


def run_alone(model: Any) -> None:
    """Run every sequence of this model in a call of its own from now on."""
    _ALONE.add(model)


@dataclass(frozen=True)
class Pass:
    """Rows that share a call."""

    groups: Sequence[Group]
    completions: Sequence[int]
    """Place of each completion among those of all passes."""


@dataclass(frozen=True)
class Passes:
    """The calls that some groups need, with the way back to the order of the groups."""

    parts: Sequence[Pass]
    rules: tuple[tuple[Any, LengthRule], ...]

    def __len__(self) -> int:
        return len(self.parts)

    def __iter__(self) -> Iterator[Pass]:
        """Iterate over the calls; before each, the models forget the longest row of the call before."""
        for part in self.parts:
            for model, rule in self.rules:
                rule.begin(model)
            yield part

    def in_order(self, results: Sequence[Tensor], *, per_completion: bool = False) -> Tensor:
        """Put the results of the passes, (units of the pass, ...) each, into the order of the groups.

        Args:
            results: one tensor for each pass.
            per_completion: whether it has one entry for each completion, and not one for each counted token.
        """
        if len(results) == 1:
            return results[0]
        places = [index for part in self.parts for index in part.completions]
        each = [completion.length for part in self.parts for group in part.groups for completion in group.completions]
        sizes = [1] * len(places) if per_completion else each
        pieces = torch.split(torch.cat(list(results)), sizes)
        order = sorted(range(len(places)), key=places.__getitem__)
        return torch.cat([pieces[at] for at in order])


def passes(models: Sequence[Any], groups: Sequence[Group]) -> Passes:
    """Cut groups into calls within which no row changes another, for all of these models.

    Where weights are sharded every process makes the same number of calls, some of them without groups.

    Raises:
        ModelError: a sharded model that needs as many calls as there are lengths.
    """
    inner = [model.get_base_model() if hasattr(model, "get_base_model") else model for model in models]
    rules = tuple((completion, rule_of(completion)) for completion in inner)
    if not any(rule.kind for _, rule in rules):
        return Passes([Pass(groups, range(sum(len(group.completions) for group in groups)))], ())
    parts: dict[tuple[int, ...], _Growing] = {}
    if any(hasattr(model, ENTRANCE) for model in models):
        parts = _same_for_all(rules)
    index = 0
    for group in groups:
        before: dict[tuple[int, ...], list[Completion]] = {}
        for completion in group.completions:
            beside = group.completions[0] if completion.repeats_prompt else completion  # read in the same call
            fed = len(group.prompt) + len(beside.ids) - 1
            key = tuple(index if rule.kind == "alone" else rule.key(fed) for _, rule in rules)
            before.setdefault(key, []).append(completion)
            parts.setdefault(key, _Growing([], [])).completions.append(index)
            index += 1
        for key, some in before.items():
            whole = len(some) == len(group.completions)
            parts[key].groups.append(group if whole else replace(group, completions=tuple(some)))
    calls = [Pass(part.groups, part.completions) for part in parts.values()]
    return Passes(calls or [Pass([], [])], rules)


@dataclass
class _Growing:
    groups: list[Group]
    completions: list[int]


def _same_for_all(rules: Sequence[tuple[Any, LengthRule]]) -> dict[tuple[int, ...], _Growing]:
    if any(rule.kind in ("dynamic", "alone") for _, rule in rules):
        raise ModelError(
            "a model whose rows need calls of their own (dynamic rope, rows that change each other) cannot be sharded; "
            "set parallel.kind=ddp"
        )
    keys = product((0, 1), repeat=len(rules))
    return {key: _Growing([], []) for key in keys}


@contextmanager
def lowered_border(model: Any, border: int) -> Iterator[None]:
    """Let longrope change its frequencies at `border` tokens already, while a short probe runs."""
    text, name = model.config.get_text_config(), "original_max_position_embeddings"
    parameters = getattr(text, "rope_parameters", None) or {}
    # Transformers copies the number from the configuration itself into the parameters again.
    homes = [parameters, *(value for value in parameters.values() if isinstance(value, dict)), vars(text)]
    before = [(home, home[name]) for home in homes if isinstance(home.get(name), int) and home[name] > border]
    if rule_of(model).kind != "longrope":
        before = []
    try:
        for home, _ in before:
            home[name] = border
        yield
    finally:
        for home, value in before:
            home[name] = value


def _forget(module: Any) -> None:
    """Give dynamic positions the frequencies of the model's original context again."""
    for name in [name for name in vars(module) if name.endswith("max_seq_len_cached")]:
        prefix = name.removesuffix("max_seq_len_cached")
        original = getattr(module, f"{prefix}original_inv_freq", None)
        current = getattr(module, f"{prefix}inv_freq", None)
        if original is None or current is None:
            continue
        module.register_buffer(f"{prefix}inv_freq", original.to(current.device), persistent=False)
        setattr(module, name, module.original_max_seq_len)
