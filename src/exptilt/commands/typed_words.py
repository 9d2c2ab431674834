"""What several commands share: overrides, the words that were typed, and what an extra must be installed for."""

from __future__ import annotations

import importlib.util
import os
import shlex
import sys
from typing import Annotated

import typer

from exptilt.errors import ConfigError

Overrides = Annotated[
    list[str] | None, typer.Argument(metavar="key=value", help="Laid over the recipe, e.g. loss.beta=0.2")
]


def this_command() -> str:
    """The command as it was typed, to be repeated after a stop."""
    launcher = "torchrun ... -m " if int(os.environ.get("WORLD_SIZE", "1")) > 1 else ""
    return launcher + shlex.join(["exptilt", *sys.argv[1:]])


def require_installed(extra: str, *modules: str) -> None:
    """Refuse, in one line, what needs an extra that is not installed.

    Raises:
        ConfigError: naming the extra.
    """
    missing = [name for name in modules if importlib.util.find_spec(name) is None]
    if missing:
        raise ConfigError(f"this needs {', '.join(missing)}: pip install 'exptilt[{extra}]'")
