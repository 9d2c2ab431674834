"""The language model that a word on the command line names: that of a run, a folder, or a hub id."""

from __future__ import annotations

from pathlib import Path

from exptilt.errors import ConfigError
from exptilt.run_folder.file_names import MODEL
from exptilt.settings.any_recipe import is_run_on_masks
from exptilt.settings.evaluated_recipe import is_run


def model_of_texts(what: str) -> str:
    """The model of a run folder, and everything else as it is.

    Raises:
        ConfigError: it is a run on masks, which has no language model.
    """
    if is_run_on_masks(what):
        raise ConfigError(
            f"{what}: a run on masks, whose segmenter writes no text; `exptilt masks` makes masks, `exptilt evaluate` measures it"
        )
    return str(Path(what) / MODEL) if is_run(what) else what
