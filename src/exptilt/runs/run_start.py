"""The start of a run: its folder is locked for this process, its recipe written, and its end recorded in every case."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from rich.console import Console

from exptilt.errors import CheckpointError, ConfigError, DiskError, ExptiltError, Stopped
from exptilt.processes.interrupt import Terminated, ending_in_order
from exptilt.run_folder.file_names import CONFIG, RUN
from exptilt.run_folder.folder import RunFolder, manifest
from exptilt.run_folder.lock import claimed
from exptilt.runs.identity import changed_keys
from exptilt.settings.data_settings import DataConfig
from exptilt.settings.load import dump, load
from exptilt.settings.mask_settings import MaskRecipe
from exptilt.settings.model_settings import ModelConfig
from exptilt.settings.own_parts import OwnPart
from exptilt.settings.recipe import Recipe
from exptilt.settings.rounds_settings import RoundsConfig

_REASON = 2000
"""Most characters of an error that are kept in run.json."""


@contextmanager
def started(recipe: Recipe | MaskRecipe, folder: RunFolder, processes: int, console: Console) -> Iterator[None]:
    """Hold the run folder while the block trains, measures and reports; called in the process that writes.

    The end is recorded however it comes, SIGTERM included.

    Raises:
        CheckpointError: the folder is not ours, overlaps with an input, holds another run, or another process is in it.
        DiskError: the folder cannot be written.
    """
    with claimed(folder.path, "run", inputs_of(recipe)) as caution:
        if caution is not None:
            console.print(f"warning: {caution}", style="yellow", soft_wrap=True, highlight=False)
        _make_way(recipe, folder, console)
        folder.write_text(CONFIG, dump(recipe))
        before = folder.run
        known = manifest(recipe.seed).given() | before.given() | {"reason": None}
        folder.write(RUN, before.updated(**known | {"status": "running", "processes": processes}))
        with _end_recorded(folder), ending_in_order():
            yield


def inputs_of(recipe: Recipe | MaskRecipe) -> dict[str, str]:
    """Every path that a run reads and must not overwrite, by its key."""
    if isinstance(recipe, MaskRecipe):
        of_masks = {
            "segmenter.path": recipe.segmenter.path,
            "data.train": recipe.data.train,
            "data.test": recipe.data.test,
        }
        return {key: path for key, path in of_masks.items() if path}
    named = {"reference.model": recipe.reference.model, "adapter.path": recipe.adapter and recipe.adapter.path}
    named |= {} if recipe.rounds is None else _inputs_of_rounds(recipe.rounds)
    return model_inputs(recipe.model) | data_inputs(recipe.data) | {key: path for key, path in named.items() if path}


def _inputs_of_rounds(rounds: RoundsConfig) -> dict[str, str | None]:
    """Paths that `rounds:` names, by key."""
    return {"rounds.prompts": rounds.prompts, **reward_inputs(rounds.reward, "rounds.reward")}


def reward_inputs(reward: Any, prefix: str) -> dict[str, str]:
    """Paths that settings of a reward name, by key; of a name alone, the folder it is."""
    if isinstance(reward, str):
        return {prefix: reward} if Path(reward).expanduser().is_dir() else {}
    if reward is None or isinstance(reward, OwnPart):
        return {}
    named = {f"{prefix}.{name}": getattr(reward, name, None) for name in ("path", "policy", "reference")}
    return {key: path for key, path in named.items() if path}


def model_inputs(model: ModelConfig, prefix: str = "model") -> dict[str, str]:
    """Paths that settings of a model name, by key."""
    named = {f"{prefix}.path": model.path, f"{prefix}.tokenizer": model.tokenizer}
    return {key: path for key, path in named.items() if path}


def data_inputs(data: DataConfig, prefix: str = "data") -> dict[str, str]:
    """Paths that settings of data name, by key."""
    return {f"{prefix}.{key}": path for key, path in data.paths.items() if path}


def _make_way(recipe: Recipe | MaskRecipe, folder: RunFolder, console: Console) -> None:
    """Continue an earlier run in the folder, move it aside, or refuse if it is a different run."""
    if recipe.train.resume == "never":
        aside = folder.set_aside()
        if aside is not None:
            words = f"train.resume=never: the run that was here is now in {aside}; remove it when you need it no more"
            console.print(words, soft_wrap=True, highlight=False)
    elif recipe.train.resume == "auto":
        _refuse_another_run(recipe, folder)


def _refuse_another_run(recipe: Recipe | MaskRecipe, folder: RunFolder) -> None:
    written = folder.recipe_text()
    if written is None or written == dump(recipe) or not folder.has_results():
        return
    try:
        changed = changed_keys(load(type(recipe), folder.path / CONFIG), recipe)
    except ConfigError:
        changed = ["config.yaml, which this version of exptilt does not read"]
    if changed:
        raise CheckpointError(
            f"{folder.path}: holds a run of another recipe (different: {_listed(changed)}); set another output, "
            "or train.resume=never to move that run aside and start anew"
        )


def _listed(keys: list[str]) -> str:
    more = f" and {len(keys) - 3} more" if len(keys) > 3 else ""
    return ", ".join(keys[:3]) + more


@contextmanager
def _end_recorded(folder: RunFolder) -> Iterator[None]:
    """Write into run.json that a run failed or was interrupted, with the reason; a run that has ended is left alone."""
    try:
        yield
    except BaseException as error:
        interrupted = isinstance(error, Stopped | KeyboardInterrupt | SystemExit)
        with suppress(DiskError, CheckpointError):  # the error on its way says more
            if folder.run.status == "running":
                folder.update_manifest(status="stopped" if interrupted else "failed", reason=_words(error))
        raise


def _words(error: BaseException) -> str:
    words = (
        str(error)
        if isinstance(error, ExptiltError | Terminated)
        else f"{type(error).__name__}: {error}".removesuffix(": ")
    )
    return words[:_REASON]
