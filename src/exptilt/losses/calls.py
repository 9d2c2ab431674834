"""How a loss is called: from scores of all completions in one row of numbers, by what its kind says."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from torch import Tensor

from exptilt.errors import ConfigError
from exptilt.losses.base import Loss, State, batch_arguments, require_rows, seen_by
from exptilt.losses.soft_labels import BothOrders, with_soft_labels
from exptilt.types import Columns, LogProbs, LossResult, Pair, PairLoss

_SCORED = ("mismatched", "mismatched_reference", "prompt")
"""Inputs that are log-probabilities, and no columns of rows."""
_OF_TOKENS = ("behaviour", "advantages", "returns", "values")
"""Inputs with a number for every counted token."""
_COLUMNS = ("margin", "chosen_score", "rejected_score", "chosen_is_policy", "ranks", "scores", *_OF_TOKENS)
"""Inputs that are columns of rows."""


class Arguments(NamedTuple):
    """Scores of a batch in the form a loss takes them."""

    policy: Any
    reference: Any = None
    further: Mapping[str, LogProbs | None] = MappingProxyType({})
    """By name, those of the completions that are scored beside a row's own."""


def completions_per_row(loss: Loss) -> int | None:
    """How many completions of each row are scored; None where a row has any number of them.

    A loss that mixes rows reads one more, under the prompt of the row and written for another; one that reads the prompt,
    the prompt as the last.
    """
    own = loss.kind.num_completions
    return None if own is None else own + loss.extra_completions


def arguments_of(loss: Loss, policy: LogProbs | Tensor, reference: LogProbs | None = None) -> Arguments:
    """Cut scores of all completions of all rows into the sides that a loss of this kind takes.

    Args:
        loss: whose kind decides.
        policy: log-probabilities of all completions of all rows, in order; for a reward model their scores, (C,) or as
            `LogProbs` with one number for each.
        reference: the same of the reference, or None.

    Example:
        >>> import torch
        >>> from exptilt.losses import DPO
        >>> logps = LogProbs.from_sums(torch.tensor([-1.0, -2.0, -3.0, -4.0]), torch.ones(4, dtype=torch.int64))
        >>> [side.sum().tolist() for side in arguments_of(DPO(), logps, logps).policy]
        [[-1.0, -3.0], [-2.0, -4.0]]
    """
    if loss.kind.scores:
        scores = policy if isinstance(policy, Tensor) else policy.sum()
        return Arguments((scores[0::2], scores[1::2]) if loss.kind.is_paired else (scores,))
    if isinstance(policy, Tensor):
        raise TypeError(f"{loss.name} is formed from LogProbs; a tensor of scores is what a reward model's loss reads")
    count = completions_per_row(loss)
    if count is None or not (loss.kind.is_paired or loss.extra_completions):
        return Arguments(policy, reference)
    columns, anchors = policy.columns(count), None if reference is None else reference.columns(count)
    further: dict[str, LogProbs | None] = {}
    if loss.mixes_rows:
        place = count - loss.extra_completions
        further = {"mismatched": columns[place], "mismatched_reference": anchors[place] if anchors else None}
    if loss.reads_prompt:
        further["prompt"] = columns[-1]
    if loss.kind.is_paired:
        return Arguments(Pair(*columns[:2]), Pair(*anchors[:2]) if anchors else None, further)
    return Arguments(columns[0], anchors[0] if anchors else None, further)


def require_callable(loss: Loss) -> None:
    """Refuse a loss of one's own that could not be called as `call` calls it, before anything is loaded.

    Raises:
        ConfigError: it asks for what rows do not have, or does not take what it asks for.
    """
    unknown = [name for name in loss.inputs if name not in (*_SCORED, *_COLUMNS)]
    if unknown:
        known = ", ".join((*_COLUMNS, *_SCORED))
        raise ConfigError(f"loss {loss.name!r}: inputs: nothing is called {unknown[0]!r}; there are {known}")
    if loss.extra_completions and loss.kind.num_completions is None:
        raise ConfigError(
            f"loss {loss.name!r}: inputs: a loss of kind {loss.kind} cannot have {', '.join(loss.inputs)}, because its rows "
            "have any number of completions"
        )
    flags = {"couples_batch": "weights", "takes_keys": "keys", "is_stateful": "state"}
    asked = [("inputs", name) for name in loss.inputs]
    asked += [(flag, name) for flag, name in flags.items() if getattr(loss, flag)]
    taken = inspect.signature(type(loss).__call__).parameters
    takes_all = any(one.kind is inspect.Parameter.VAR_KEYWORD for one in taken.values())
    for attribute, name in [] if takes_all else asked:
        if name not in taken:
            raise ConfigError(
                f"loss {loss.name!r}: {attribute} says that it is called with {name}, but __call__ does not take that"
            )


def columns_needed(loss: Loss) -> tuple[str, ...]:
    """Names of the columns that `call` must be given: those of the kind, and those this loss asks for besides."""
    return (*loss.kind.columns, *(name for name in loss.inputs if name not in _SCORED))


def call(loss: Loss, arguments: Arguments, columns: Columns, state: State | None = None) -> LossResult:
    """The loss of each row.

    Args:
        loss: any loss, of any kind.
        arguments: as `arguments_of` gives them.
        columns: what `columns_needed` names; `p_chosen`, (B,) in [0, 1], where a row of pairs is not sure; `weights`
            and `keys`, (B,), what rows count for and what their draws belong to, for losses that take them.
        state: of a stateful loss.

    Example:
        >>> import torch
        >>> from exptilt.losses import BradleyTerry
        >>> rewards = arguments_of(BradleyTerry(), torch.tensor([2.0, 1.0]))
        >>> round(call(BradleyTerry(), rewards, {}).loss.item(), 6)  # log(1 + e^-1)
        0.313262
        >>> round(call(BradleyTerry(), rewards, {"p_chosen": torch.tensor([0.0])}).loss.item(), 6)  # log(1 + e)
        1.313262
    """
    form: Any = loss
    needed = columns_needed(loss)[len(loss.kind.columns) :]
    named: dict[str, Any] = {name: columns[name] for name in needed if name in columns or name not in loss.if_missing}
    named |= {**arguments.further, **batch_arguments(loss, columns.get("weights"), columns.get("keys"))}
    if loss.is_stateful:
        named["state"] = state
    by_position = [columns[name] for name in loss.kind.columns]
    soft = columns.get("p_chosen")
    if loss.kind.scores:
        scores = arguments.policy
        return form(*scores, *by_position, **named) if soft is None else _soft(form, scores, soft, named)
    policy, reference = seen_by(loss, arguments.policy, arguments.reference)
    if soft is not None:
        return with_soft_labels(loss, policy, reference, soft, **named)
    result: LossResult = form(policy, reference, *by_position, **named)
    require_rows(loss, result, _num_rows(loss, arguments.policy, columns))
    return result


def _num_rows(loss: Loss, policy: Any, columns: Columns) -> int:
    if "sizes" in loss.kind.columns:
        return len(columns["sizes"])
    if loss.kind.is_paired:
        return len(policy.chosen)
    return len(policy) // (loss.kind.num_completions or 1)


def next_state(loss: Any, arguments: Arguments, columns: Columns, state: State) -> State:
    """The state of a stateful loss after the step that formed it with these arguments."""
    policy, reference, weights = arguments.policy, arguments.reference, columns.get("weights")
    if "p_chosen" in columns and loss.couples_batch:
        orders = BothOrders.of(columns["p_chosen"])
        policy, reference, weights = orders.pairs(policy), orders.pairs(reference), orders.weights(weights)
    advanced: State = loss.next_state(state, policy, reference, **batch_arguments(loss, weights))
    return advanced


def _soft(form: Any, rewards: tuple[Tensor, Tensor], p_chosen: Tensor, named: dict[str, Any]) -> PairLoss:
    """The expected loss of a reward model's pairs: with probability 1 - p_chosen the sides are exchanged."""
    given, swapped = form(*rewards, **named), form(*rewards[::-1], **named)
    p = p_chosen.to(given.loss)
    return PairLoss(p * given.loss + (1 - p) * swapped.loss, given.chosen_reward, given.rejected_reward)
