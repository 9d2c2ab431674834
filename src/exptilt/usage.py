"""Mistakes in the words of a command: what was typed, read as it was meant, or told in one line."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

_OVERRIDE = re.compile(r"--([A-Za-z_]\w*(?:\.[\w-]+)+=.*)", re.DOTALL)
_NO_OPTION = re.compile(r"[Nn]o such option:? '?--?([\w.-]+)'?")
_MISSING = re.compile(r"[Mm]issing argument '?\W*(\w+)\W*'?")


def read_as_meant(words: Sequence[str]) -> list[str]:
    """The words of a command, with `--loss.beta=0.2` taken for `loss.beta=0.2`.

    Example:
        >>> read_as_meant(["train", "recipe.yaml", "--loss.beta=0.2", "--help"])
        ['train', 'recipe.yaml', 'loss.beta=0.2', '--help']
    """
    return [found[1] if (found := _OVERRIDE.fullmatch(word)) else word for word in words]


def usage_line(message: str, words: Sequence[str]) -> str:
    """One line for a command that cannot be read: what is wrong, what was meant, where the help is.

    Args:
        message: what the command line's library says.
        words: the words after `exptilt`.

    Example:
        >>> usage_line("No such option: --beta", ["train", "recipe.yaml", "--beta", "0.2"])
        "train: no such option --beta; did you mean 'loss.beta', written key=value? (see exptilt train --help)"
        >>> usage_line("Missing argument 'recipe'.", ["train"])
        'train: the recipe is missing; `exptilt init` writes one (see exptilt train --help)'
    """
    verb = next((word for word in words if not word.startswith("-")), "")
    verb = "" if message.lower().startswith("no such command") else verb
    more = f"see exptilt {verb} --help" if verb else "see exptilt --help"
    option, missing = _NO_OPTION.search(message), _MISSING.search(message)
    begin = f"{verb}: " if verb else ""
    if option:
        return f"{begin}no such option --{option[1]}{_meant(option[1], message)} ({more})"
    if missing and missing[1].lower() == "recipe":
        return f"{verb}: the recipe is missing; `exptilt init` writes one ({more})"
    said = " ".join(message.split()).rstrip(". ")
    return f"{begin}{said[:1].lower()}{said[1:]} ({more})"


def _meant(option: str, message: str) -> str:
    """A key of a recipe, of whatever tool it is the name, else the option that the library names."""
    from exptilt.settings.key_hints import hint_for
    from exptilt.settings.recipe import Recipe

    hint = hint_for(Recipe, {}, option.split("."))
    if "(known" not in hint:
        return f"{hint.rstrip('?')}, written key=value{'?' * hint.endswith('?')}"
    other = re.search(r"(?:Did you mean|\(Possible options:)[^-]*(--[\w-]+)", message)
    return f"; did you mean {other[1]}?" if other else ""


def is_usage_error(error: Any) -> bool:
    """Whether an exception is the command line library's own, which is a copy of click inside typer or click itself."""
    return hasattr(error, "format_message") and hasattr(error, "exit_code")
