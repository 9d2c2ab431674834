"""The folder of a run that was given none: equal for equal calls on equal content, and for no others."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from exptilt.disk import describe
from exptilt.settings.load import dump
from exptilt.settings.recipe import Recipe

HOME = "runs"
"""Where such runs go."""
UNNAMED = "no-output-yet"
"""Stands for the folder in a recipe that waits for its name."""


def default_folder(recipe: Recipe, callbacks: Sequence[Any] = ()) -> str:
    """`runs/<loss>-<digest>`, the digest of the recipe, the files it reads and the classes of callbacks.

    Args:
        recipe: its `output` does not count; objects in memory are in it by digests of their content.
        callbacks: the caller's.
    """
    digest = hashlib.sha256(dump(replace(recipe, output=UNNAMED)).encode())
    for each in callbacks:
        digest.update(f"{type(each).__module__}.{type(each).__qualname__}\n".encode())
    for path in _files(recipe):
        digest.update(f"{path.name} {json.dumps(describe(path))}\n".encode())
    return f"{HOME}/{recipe.loss.name}-{digest.hexdigest()[:8]}"


def _files(recipe: Recipe) -> Iterator[Path]:
    """The files of this machine that a recipe reads, in order: a file that was changed makes another run."""
    from exptilt.runs.run_inputs import inputs_of

    for path in map(Path, inputs_of(recipe).values()):
        if path.is_file():
            yield path
        elif path.is_dir():
            yield from sorted(file for file in path.rglob("*") if file.is_file() and not file.name.startswith("."))
