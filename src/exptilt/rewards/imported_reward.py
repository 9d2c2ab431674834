"""A reward of the user's own, by its import path."""

from __future__ import annotations

import hashlib
import importlib
import inspect
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from exptilt.errors import ConfigError
from exptilt.preferences import Answer, Reward
from exptilt.wording import in_one_line


@dataclass(frozen=True, eq=False)
class FunctionReward:
    """A function of a list of answers that gives as many numbers."""

    function: Callable[[Sequence[Answer]], Any]
    name: str
    identity: str
    """Import path and digest of the source file."""
    scale: str = "its own"

    def __call__(self, answers: Sequence[Answer]) -> Any:
        """What the function gives."""
        return self.function(answers)


def imported_reward(path: str) -> Reward:
    """The reward that `module:name` names: a reward as it is, a class called without arguments, or a function.

    Raises:
        ConfigError: it cannot be imported, or cannot be called with answers.

    Example:
        >>> imported_reward("exptilt.rewards.length_reward:Length").name
        'length'
    """
    module, colon, attribute = path.partition(":")
    if not colon or not module or not attribute:
        raise ConfigError(f"reward: must be `module:name`, got {path!r}")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        found = getattr(importlib.import_module(module), attribute)
        found = found() if inspect.isclass(found) else found
    except Exception as error:  # a module of the user's may raise anything
        raise ConfigError(f"reward: {path} cannot be imported: {in_one_line(error)}") from error
    if not callable(found):
        raise ConfigError(f"reward: {path} is a {type(found).__name__}; it must be a reward, or a function of answers")
    if all(hasattr(found, name) for name in ("name", "identity", "scale")):
        reward: Reward = found
        return reward
    return FunctionReward(found, name=attribute, identity=f"{path} {_source_digest(found)}")


def _source_digest(function: Any) -> str:
    try:
        return hashlib.sha256(Path(inspect.getfile(function)).read_bytes()).hexdigest()
    except (OSError, TypeError):
        return "without a source file"
