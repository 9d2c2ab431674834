"""Every public function: mistakes in its arguments are one line, and its messages name objects in words."""

from __future__ import annotations

import functools
import inspect
import logging
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from exptilt.errors import ConfigError, ExptiltError
from exptilt.in_memory import PREFIX, kind_in
from exptilt.progress import in_notebook
from exptilt.settings.key_hints import hint_for
from exptilt.settings.recipe import Recipe
from exptilt.wording import did_you_mean

if TYPE_CHECKING:
    from rich.console import Console

P = ParamSpec("P")
T = TypeVar("T")
_NAME = re.compile(rf"{re.escape(PREFIX)}[\w-]+-[0-9a-f]{{16}}")
_OPTION = re.compile(r"--(against|by|reference|output)\b")
_KEY = re.compile(r"'([a-z]\w*)\.([\w.]+)'")


def public_call(function: Callable[P, T]) -> Callable[P, T]:
    """Tell a wrong call as a wrong command is told; the signature stays."""
    signature, name = inspect.signature(function), f"xt.{function.__name__}"

    @functools.wraps(function)
    def called(*args: P.args, **given: P.kwargs) -> T:
        unknown = next((key for key in given if key not in signature.parameters), None)
        if unknown is not None:
            raise ConfigError(f"{name}: {unknown}: unknown keyword{_meant(signature, given, unknown)}")
        try:
            signature.bind(*args, **given)
        except TypeError as error:
            raise ConfigError(f"{name}: {_spelled(error)}; {name}{_short(signature)}") from None
        with objects_in_words(), _without_chatter():
            return function(*args, **given)

    return called


def messages(*, quiet: bool) -> Console:
    """The console for messages of a call: standard error, in a notebook the cell's plain text."""
    from rich.console import Console

    return Console(quiet=quiet, file=sys.stdout if in_notebook() else sys.stderr, force_jupyter=False)


@contextmanager
def _without_chatter() -> Iterator[None]:
    """Leave out what bitsandbytes tells everybody, when peft imports it, about kernels that it did not find."""
    logger = logging.getLogger("bitsandbytes")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)


@contextmanager
def objects_in_words() -> Iterator[None]:
    """In messages `rows` stands for `memory:rows-1f0c2ab49d03e517`."""
    try:
        yield
    except ExptiltError as error:
        error.args = tuple(in_words(arg) if isinstance(arg, str) else arg for arg in error.args)
        raise


def in_words(text: str) -> str:
    """A message with objects by what they are, and with keywords for options of the command line.

    Example:
        >>> in_words("memory:rows-1f0c2ab49d03e517: none of its 3 rows is left")
        'rows: none of its 3 rows is left'
    """
    return _OPTION.sub(r"\1", _NAME.sub(lambda match: kind_in(match.group()), text)).replace(
        "add --yes", "set confirmed=True"
    )


def _meant(signature: inspect.Signature, given: Mapping[str, Any], name: str) -> str:
    """What was meant by an unknown keyword: a key of a recipe as Python writes it, or a keyword that is spelled alike."""
    keywords = [key for key in signature.parameters if key not in ("model", "rows")]
    if "optim" not in keywords:
        return did_you_mean(name, signature.parameters)
    key = {"train_dataset": "rows", "eval_dataset": "test", "processing_class": "tokenizer", "ref_model": "reference",
           "peft_config": "adapter", "args": "recipe", "output_dir": "output"}.get(name)  # fmt: skip
    if key is not None:
        return f"; it is {key!r} here"
    hint = hint_for(Recipe, {}, [name], given[name])
    return _KEY.sub(lambda match: f"{match[1]}={{{match[2]!r}: ...}}", hint)


def _spelled(error: TypeError) -> str:
    return str(error).replace("a required argument", "the argument").replace("missing the argument:", "there is no")


def _short(signature: inspect.Signature) -> str:
    """The signature without its keywords."""
    names = [name for name, part in signature.parameters.items() if part.kind is part.POSITIONAL_OR_KEYWORD]
    return f"({', '.join(names)}, ...)"
