"""The recipe of an evaluation: a run's own with overrides, or one for a model that belongs to no run. Read before torch is imported."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from exptilt.errors import CheckpointError, ConfigError
from exptilt.settings.load import load
from exptilt.settings.recipe import Recipe


def is_run(what: str) -> bool:
    """Whether this is a run folder, and not a model."""
    return (Path(what) / "config.yaml").is_file()


def with_reference(overrides: Sequence[str], reference: str | None) -> list[str]:
    """Overrides with another model to measure against, where one is named."""
    return [*overrides, *([] if reference is None else [f"reference.model={json.dumps(reference)}"])]


def recipe_of_run(run: Path, overrides: Sequence[str]) -> Recipe:
    """A run's recipe with `key=value` laid over it.

    Raises:
        CheckpointError: there is no run, or there are several.
        ConfigError: an override is wrong.
    """
    if not is_run(str(run)):
        raise CheckpointError(f"{run}: is not a run folder (it has no config.yaml)")
    recipe = load(Recipe, run / "config.yaml", instead_of_share(overrides))
    if recipe.rounds is not None:
        last = run / f"round-{recipe.rounds.num_rounds}"
        raise CheckpointError(
            f"{run}: holds {recipe.rounds.num_rounds} rounds, each a run of its own; name one of them, such as {last} (and "
            "--reference with the first model, to compare with that)"
        )
    return replace(recipe, output=str(run))


def recipe_of_model(what: str, overrides: Sequence[str], output: Path | None) -> Recipe:
    """The recipe by which a model is evaluated that belongs to no run.

    Args:
        what: a model folder, a PEFT adapter's folder or a hub id.
        overrides: `key=value`; `data.train` (or `data.test`) names the rows.
        output: where files go; by default a folder beside the model, or here for a hub id.

    Raises:
        CheckpointError: it is neither a model nor a hub id.
        ConfigError: an override is wrong, no rows are named, or the objective is not trained on pairs.
    """
    _require_model(what)
    given = _rows_named(what, overrides)
    folder = output or _beside(what, given)
    stated = [f"output={json.dumps(str(folder))}", f"model.path={json.dumps(what)}"]
    if is_reward_model(what) and not any(item.startswith("loss") for item in given):
        stated.append("loss=bradley_terry")
    recipe = load(Recipe, None, [*stated, *given])
    if not (recipe.loss.kind.is_paired or recipe.loss.kind.scores):
        raise ConfigError(
            f"loss: {recipe.loss.name} is not trained on pairs, and only pairs are evaluated without a run"
        )
    return recipe


def is_reward_model(what: str) -> bool:
    """Tell by its files whether a folder holds a reward model, or the adapter of one; a hub id is not asked."""
    folder = Path(what).expanduser()
    for name, says in (("adapter_config.json", _is_score_adapter), ("config.json", _is_classifier)):
        path = folder / name
        if path.is_file():
            try:
                return says(json.loads(path.read_text(encoding="utf-8")))
            except (OSError, ValueError):
                return False
    return False


def _is_score_adapter(settings: dict[str, Any]) -> bool:
    return settings.get("task_type") == "SEQ_CLS"


def _is_classifier(settings: dict[str, Any]) -> bool:
    return any("ForSequenceClassification" in name for name in settings.get("architectures") or ())


def instead_of_share(overrides: Sequence[str]) -> list[str]:
    """Held-out rows named on the command line stand instead of the share the run held out."""
    names_rows = any(item.startswith(("data.test=", "data.test_split=")) for item in overrides)
    return [*(["data.test_fraction=0"] if names_rows else []), *overrides]


def _require_model(what: str) -> None:
    """Tell a place that is neither apart from a hub id."""
    path = Path(what).expanduser()
    if path.exists() and not any((path / name).is_file() for name in ("config.json", "adapter_config.json")):
        raise CheckpointError(
            f"{what}: is not a run folder (config.yaml) and not a model folder (config.json or adapter_config.json)"
        )


def _rows_named(what: str, overrides: Sequence[str]) -> list[str]:
    """Overrides with rows in `data.train`: where only `data.test` is given, these are the rows.

    Raises:
        ConfigError: none are named.
    """
    names = {item.partition("=")[0] for item in overrides}
    if "data.train" in names or "data" in names:
        return list(overrides)
    if "data.test" not in names:
        raise ConfigError(f"{what}: is not a run folder; for a model, name the rows too, e.g. data.train=pairs.jsonl")
    return [item.replace("data.test", "data.train", 1) if item.startswith("data.test=") else item for item in overrides]


def _beside(what: str, overrides: Sequence[str]) -> Path:
    """A folder named after model and rows: beside a model's folder, here for a hub id."""
    source = next(item.partition("=")[2] for item in overrides if item.startswith(("data.train=", "data=")))
    rows = Path(source.strip("\"'")).name.split(".")[0] or "rows"
    folder = Path(what).expanduser()
    if folder.is_dir():
        return folder.resolve().parent / f"{folder.resolve().name}-on-{rows}"
    return Path(f"{folder.name}-on-{rows}")
