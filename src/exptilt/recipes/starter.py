"""The recipe `exptilt init` writes: the defaults, with the meaning of every key above it."""

from __future__ import annotations

from pathlib import Path

from exptilt.data.sources import DataConfig
from exptilt.errors import ConfigError
from exptilt.policies.models import ModelConfig
from exptilt.recipes.describe import commented_yaml
from exptilt.recipes.recipe import Recipe

_HEAD = """\
# A recipe for exptilt: everything one run needs. Edit model.path and data.train; the rest are defaults.
#   exptilt doctor {path}      checks the data before it costs an hour
#   exptilt train {path}       trains, measures and writes the report; run again to go on after an interruption
# Any key can be set on the command line: exptilt train {path} loss.beta=0.2
# Other objectives: exptilt config

"""


def write_starter(path: Path, force: bool) -> None:
    """Write a commented recipe.

    Raises:
        ConfigError: the file exists and `force` was not given, or it cannot be written.
    """
    if path.exists() and not force:
        raise ConfigError(f"{path}: exists already; choose another name or add --force")
    recipe = Recipe(
        output="runs/first",
        model=ModelConfig(path="path/to/model-folder-or-hub-id"),
        data=DataConfig(train="preferences.jsonl"),
    )
    try:
        path.write_text(_HEAD.format(path=path) + commented_yaml(recipe, {}), encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{path}: cannot be written: {error}") from None
