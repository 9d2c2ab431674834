"""A recipe's choice of a loss, made into the loss itself."""

from __future__ import annotations

import dataclasses
from typing import Any, get_args

from exptilt.losses import AnyLoss, AnyRewardLoss, Loss, Term
from exptilt.losses.calls import require_callable
from exptilt.settings.loss_choice import NamedLoss, OwnLoss

_BY_NAME: dict[str, type[Loss]] = {member.name: member for member in (*get_args(AnyLoss), *get_args(AnyRewardLoss))}


def build_loss(choice: NamedLoss) -> Any:
    """The loss that a recipe names; a loss object is returned as it is.

    Raises:
        ConfigError: it is one of your own whose source is not what the recipe was written with, or cannot be called.

    Example:
        >>> from exptilt.settings.loss_choice import LossChoice
        >>> build_loss(LossChoice.of("simpo", gamma=0.5))
        SimPO(name='simpo', beta=2.0, gamma=0.5)
    """
    if isinstance(choice, Loss):
        require_callable(choice)
        return choice
    return _built(choice)


def _fields(settings: Any) -> dict[str, Any]:
    return {field.name: _built(getattr(settings, field.name)) for field in dataclasses.fields(settings)}


def _built(value: Any) -> Any:
    """A setting; losses inside it, as in the terms of a mixture, are built too."""
    if isinstance(value, OwnLoss):
        value.require_unchanged("loss")
        require_callable(value.loss)
        return value.loss
    if isinstance(value, tuple):
        return tuple(_built(item) for item in value)
    if not dataclasses.is_dataclass(value):
        return value
    fields = _fields(value)
    return _BY_NAME[fields["name"]](**fields) if "name" in fields else Term(**fields)
