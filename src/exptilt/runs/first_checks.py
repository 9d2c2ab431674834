"""What is checked before torch is imported and before any weight is read: the folder, files of models, rows as text, free space.

A mistake there costs a second this way and not the minutes that a model takes to load. Nothing here imports torch, and what is checked is
checked again by the code that uses it.
"""

from __future__ import annotations

import importlib.util
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from exptilt.data.encode.chat_templates import refuse_missing
from exptilt.data.masks.mask_checks import prepare_masks, refused_masks
from exptilt.data.prepared import prepare
from exptilt.data.read.places import place_of
from exptilt.data.text_checks import check_texts
from exptilt.disk import require_space
from exptilt.errors import ConfigError, ModelError
from exptilt.policies.model_files import (
    ADAPTER,
    CONFIG,
    Weights,
    check_adapter_files,
    check_folder,
    check_model_files,
    check_tokenizer_files,
)
from exptilt.run_folder.data_record import DataReport
from exptilt.run_folder.folder import RunFolder
from exptilt.run_folder.ownership import require_apart, require_no_file, require_ours
from exptilt.runs.checks.stop_conditions import refuse_impossible
from exptilt.runs.disk_space import disk_space
from exptilt.runs.identity import is_finished, refuse_another_run
from exptilt.runs.run_inputs import inputs_of, rows_read
from exptilt.settings.any_recipe import AnyRecipe
from exptilt.settings.mask_settings import MaskRecipe
from exptilt.settings.model_settings import ModelConfig
from exptilt.settings.recipe import Recipe

_TRACKERS = {
    "tensorboard": ("tensorboard", "tensorboardX"), "wandb": ("wandb",), "trackio": ("trackio",), "mlflow": ("mlflow",),
}  # fmt: skip
"""Packages of which one must be installed, by tracker; others are looked at where they begin."""
_FIRST = 256
"""Rows that tell whether a format fits."""
_SEGMENTER_FILES = ("config.json", "unet.json", "model/unet.json")


def check_run(recipe: AnyRecipe) -> None:
    """Check all that can be checked of a run without torch; in a run of several processes the first one does.

    Raises:
        ExptiltError: what a run would refuse.
    """
    if not _is_first_process() or (recipe.train.resume != "never" and is_finished(_folder_of(recipe), recipe)):
        return
    _check_folder(recipe)
    refuse_impossible(recipe)
    _check_trackers(recipe.train.report_to)
    if isinstance(recipe, MaskRecipe):
        _check_masks(recipe)
        return
    weights = check_models(recipe)
    if recipe.rounds is not None:
        _check_sources(recipe)
        return
    kept = check_rows(recipe)
    if weights is not None and kept is not None and recipe.train.resume != "never":
        _check_space(recipe, weights, kept)


def check_rows_and_tokenizer(recipe: Recipe) -> None:
    """Check what `exptilt prepare` reads.

    Raises:
        ExptiltError: what it would refuse.
    """
    _check_tokenizer(recipe.model, "model")
    if recipe.rounds is None:
        check_rows(recipe)


def check_places(recipe: Recipe) -> DataReport | None:
    """Check that sources and model are there and can be told; which rows are wrong is for the report that follows.

    Returns:
        The report on the first rows; None of rounds, whose rows do not exist yet.

    Raises:
        ExptiltError: a file or folder is missing, or no format fits the first rows.
    """
    if recipe.model.path is not None:
        check_folder(recipe.model.path, "model", (CONFIG, ADAPTER))
    if recipe.model.path is not None or recipe.model.tokenizer is not None:
        _check_tokenizer(recipe.model, "model")
    if recipe.rounds is not None:
        _check_sources(recipe)
        return None
    for path in recipe.data.paths.values():
        place_of(path)
    data, kind = rows_read(recipe)
    first = replace(data, limit=min(_FIRST, data.limit or _FIRST), test_fraction=0.0)
    return prepare(first, None, kind, strict=False).report


def check_evaluated(recipe: Recipe, policy: str | None) -> None:
    """Check what `exptilt evaluate` reads: the model that is measured, None for a run's own, and the rows.

    Raises:
        ExptiltError: what it would refuse.
    """
    if policy is not None:
        check_model_files(policy)
    with _named("reference.model"):
        if recipe.reference.model is not None:
            check_model_files(recipe.reference.model)
    check_texts(recipe.data, recipe.loss.kind)


def check_rows(recipe: Recipe) -> int | None:
    """Check the rows of all phases as text.

    Returns:
        The number of training rows of the last phase; None where these rows passed before.

    Raises:
        DataError: what a run would refuse.
    """
    if recipe.data.chat_template is not None:
        refuse_missing(recipe.data.chat_template, recipe.model.tokenizer or recipe.model.path)
    if recipe.sft is not None:
        phase = recipe.sft_recipe()
        check_texts(phase.data, phase.loss.kind)
    report = check_texts(*rows_read(recipe))
    return None if report is None else report.train.kept


def check_models(recipe: Recipe) -> Weights | None:
    """Check the files of every model that a recipe names.

    Returns:
        The weights that training starts from; None where files do not tell.

    Raises:
        ModelError: naming the key and the file.
    """
    weights = check_model(recipe.model)
    with _named("reference.model"):
        if recipe.reference.model is not None:
            check_model_files(recipe.reference.model)
    with _named("adapter.path"):
        if recipe.adapter is not None and recipe.adapter.path is not None:
            check_adapter_files(recipe.adapter.path)
    return weights


def check_model(model: ModelConfig, key: str = "model") -> Weights | None:
    """Check the files of a model and of its tokenizer.

    Raises:
        ModelError: naming the key and the file.
    """
    weights = None
    if model.path is None and model.config is None:
        raise ModelError(
            f"no model given: set {key}.path to a folder or hub id, or {key}.config to train one from scratch"
        )
    if model.path is not None:
        with _named(f"{key}.path"):
            weights = check_model_files(model.path, revision=model.revision)
    _check_tokenizer(model, key)
    return weights


def _check_tokenizer(model: ModelConfig, key: str) -> None:
    tokenizer = model.tokenizer or model.path
    if tokenizer is not None:
        with _named(f"{key}.path" if model.tokenizer is None else f"{key}.tokenizer"):
            check_tokenizer_files(tokenizer, revision=model.revision if model.tokenizer is None else None)


@contextmanager
def _named(key: str) -> Iterator[None]:
    """Put the key of a recipe before what is wrong with its file."""
    try:
        yield
    except ModelError as error:
        raise ModelError(f"{key}: {error}") from None


def _is_first_process() -> bool:
    return int(os.environ.get("RANK", os.environ.get("SLURM_PROCID", "0"))) == 0


def _folder_of(recipe: AnyRecipe) -> RunFolder:
    return RunFolder(recipe.folder, writes=False)


def _check_folder(recipe: AnyRecipe) -> None:
    require_no_file(recipe.folder)
    require_apart(recipe.folder, inputs_of(recipe))
    require_ours(recipe.folder, "run")
    if recipe.train.resume == "auto":
        refuse_another_run(recipe, _folder_of(recipe))


def _check_trackers(names: tuple[str, ...]) -> None:
    for name in names:
        packages = _TRACKERS.get(name, ())
        if packages and not any(importlib.util.find_spec(package) for package in packages):
            raise ConfigError(
                f"train.report_to: {name} is not installed; pip install 'exptilt[{name}]', or take it out (metrics.jsonl is "
                "always written)"
            )


def _check_sources(recipe: Recipe) -> None:
    """Rows of rounds do not exist yet; their prompts must."""
    assert recipe.rounds is not None  # noqa: S101 - the caller looked
    for path in [recipe.rounds.prompts] if recipe.rounds.prompts is not None else recipe.data.paths.values():
        place_of(path)


def _check_masks(recipe: MaskRecipe) -> None:
    segmenter = recipe.segmenter
    if segmenter.path is not None:
        with _named("segmenter.path"):
            check_folder(segmenter.path, "segmenter", _SEGMENTER_FILES)
    channels = recipe.data.channels or (None if segmenter.config is None else segmenter.config.channels)
    if channels is not None:  # else the segmenter says it, once it is loaded
        refused_masks(prepare_masks(recipe.data, recipe.loss.kind, channels))


def _check_space(recipe: Recipe, weights: Weights, rows: int) -> None:
    """Refuse a disk that lacks the space of checkpoints and models; those of an interrupted run are there already."""
    if _folder_of(recipe).has_results():
        return
    steps = max(1, round(recipe.train.epochs * math.ceil(rows / recipe.batch.size)))
    adapter = recipe.adapter
    moved = weights.total if adapter is None else weights.trained_by_adapter(adapter.rank, adapter.targets)
    size = disk_space(
        replace(recipe, sft=None), (weights.total, moved), min(steps, recipe.train.max_steps or steps), trained=4,
        saved=max(1, weights.size // max(1, weights.total)),
    )  # fmt: skip
    require_space(recipe.folder, size, "checkpoints and model of the run")
