"""`exptilt init`: write a recipe with the keys most people touch, each with its meaning; from data, with the objective that fits."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from exptilt.data.kind_of_rows import kind_of_rows
from exptilt.data.prepared import prepare
from exptilt.disk import write_whole
from exptilt.errors import ConfigError, DiskError
from exptilt.kinds import COMPLETION, PAIR, Kind
from exptilt.run_folder.data_record import DataReport
from exptilt.runs.method_advice import MethodAdvice, advise, base_model_remark, learning_rate
from exptilt.settings.data_settings import DataConfig
from exptilt.settings.load import load
from exptilt.settings.loss_choice import LossChoice
from exptilt.settings.mask_settings import MaskData, MaskRecipe, SegmenterConfig
from exptilt.settings.model_settings import AdapterConfig, ModelConfig
from exptilt.settings.recipe import Recipe, SFTPhase
from exptilt.settings.rounds_settings import RoundsConfig
from exptilt.settings.training_settings import OptimConfig
from exptilt.settings.yaml_source import read_yaml
from exptilt.verbs.config import commented_yaml
from exptilt.wording import counted

_HEAD = """\
# A recipe for exptilt: one run. Set model.path and data.train; everything else has a default.
#   exptilt doctor {path}    checks the data before it costs an hour
#   exptilt train {path}     trains, measures, writes the report; run again to go on after a stop
# Any key can be set on the command line too: exptilt train {path} loss.beta=0.2
# These are the keys most people touch. All keys: exptilt config. All objectives: exptilt config loss

"""
_KEYS = (
    "output", "seed",
    "model", "model.path", "model.dtype",
    "data", "data.train", "data.test", "data.test_fraction", "data.max_tokens",
    "data.on_empty", "data.on_identical", "data.on_duplicate", "data.on_conflict", "data.on_too_long",
    "loss", "loss.name", "loss.beta",
    "batch", "batch.size", "batch.tokens",
    "optim", "optim.learning_rate", "optim.schedule", "optim.warmup_ratio",
    "train", "train.epochs", "train.eval_every", "train.save_every",
    "evaluate", "evaluate.num_prompts", "evaluate.max_new_tokens",
)  # fmt: skip


_MASK_HEAD = """\
# A recipe for exptilt on masks: one run. Set segmenter.path (or a small U-Net) and data.train; docs/masks.md says what rows hold.
#   exptilt doctor {path}    reads every image and mask
#   exptilt train {path}     trains, measures, writes the report; run again to go on after a stop
# These are the keys most people touch. All keys: exptilt config --masks. All objectives: exptilt config loss

"""
_MASK_KEYS = (
    "output", "seed",
    "segmenter", "segmenter.path",
    "data", "data.train", "data.test", "data.test_fraction", "data.classes", "data.ignore", "data.foreground",
    "data.units", "data.reduce", "data.on_invalid", "data.on_identical", "data.on_duplicate", "data.on_conflict",
    "batch", "batch.size", "batch.images",
    "optim", "optim.learning_rate", "optim.schedule", "optim.warmup_ratio",
    "train", "train.epochs", "train.eval_every", "train.best", "train.save_every",
    "evaluate", "evaluate.rivals", "evaluate.pictures",
)  # fmt: skip
_ANY_MODEL = "path/to/model-folder-or-hub-id"
_DECISIONS = {
    "duplicate": ("on_duplicate", "drop"), "identical": ("on_identical", "drop"), "empty": ("on_empty", "drop"),
    "tie": ("on_tie", "keep"), "conflict": ("on_conflict", "soft"),
}  # fmt: skip
"""What a recipe decides about rows that a run would refuse, by problem; about others a person has to."""
_OF_ADAPTER = ("adapter", "adapter.rank", "adapter.alpha")
_OF_SFT = ("sft", "sft.optim", "sft.optim.learning_rate", "sft.train", "sft.train.epochs")
_OF_ROUNDS = (
    "rounds", "rounds.num_rounds", "rounds.num_samples", "rounds.law", "rounds.law.max_new_tokens", "rounds.reward",
    "rounds.reward.kind", "rounds.reward.check", "rounds.reward.column",
)  # fmt: skip


def init(path: Path, force: bool) -> None:
    """Write a commented recipe.

    Raises:
        ConfigError: the file exists and `force` was not given, or it is no YAML and `force` may not replace it; or it
            cannot be written.
    """
    _require_free(path, force)
    recipe = Recipe(
        output="runs/first",
        model=ModelConfig(path=_ANY_MODEL),
        data=DataConfig(train="preferences.jsonl", test_fraction=0.1),
    )
    _write(path, _HEAD.format(path=path) + commented_yaml(recipe, _KEYS))


def init_masks(path: Path, force: bool) -> None:
    """Write a commented recipe for masks.

    Raises:
        ConfigError: as `init`.
    """
    _require_free(path, force)
    segmenter, data = SegmenterConfig(path="path/to/segmenter"), MaskData(train="pairs.jsonl", test_fraction=0.1)
    recipe = MaskRecipe(output="runs/masks", segmenter=segmenter, data=data)
    _write(path, _MASK_HEAD.format(path=path) + commented_yaml(recipe, _MASK_KEYS))


def init_from(path: Path, sources: Sequence[str], model: str | None = None, *, force: bool = False) -> MethodAdvice:
    """Read data and write a recipe with the objective that fits them and the reason, for LoRA on one GPU.

    Args:
        path: of the recipe.
        sources: files, folders or hub ids of rows.
        model: folder or hub id of the model to train; a folder without a chat template gets a supervised phase.
        force: whether a recipe that is there may be replaced.

    Raises:
        ConfigError: the file may not be written, or the rows are prompts without answers.
        DataError: the rows cannot be read.
    """
    _require_free(path, force)
    data = DataConfig(train=sources[0] if len(sources) == 1 else list(sources))
    kind = kind_of_rows(data)
    report = prepare(data, None, kind, strict=False).report
    advice = advise(data, kind, report)
    if not advice.loss:
        raise ConfigError(f"{data.named}: {advice.reason}")
    base = base_model_remark(model)
    recipe = _fitting(
        advice, data, report, kind, model, sft=bool(base) and not (kind is COMPLETION and advice.reward is None)
    )
    keys = _keys_of(recipe, set(advice.settings))
    _write(path, _reasons(path, advice, report, base, model) + commented_yaml(recipe, keys))
    load(Recipe, path)  # what was written can be read
    return advice


def _fitting(
    advice: MethodAdvice, data: DataConfig, report: DataReport, kind: Kind, model: str | None, *, sft: bool
) -> Recipe:
    """The recipe for an advice: LoRA, a tenth of the prompts held out, decisions about rows that a run would refuse."""
    decided: dict[str, Any] = {
        key: choice for code, (key, choice) in _DECISIONS.items() if code in {one.code for one in report.errors}
    }
    trained = COMPLETION if LossChoice.of(advice.loss).kind.imitates else PAIR if advice.reward is not None else kind
    if kind is not PAIR and "on_conflict" in decided:
        decided["on_conflict"] = "keep"  # marks of one completion have no mean
    rounds = None if advice.reward is None else RoundsConfig(num_rounds=2, reward=advice.reward)
    # Rounds train on pairs of their own; the completions there are teach the model to answer at all.
    first = (
        SFTPhase(optim=OptimConfig(learning_rate=2e-4)) if sft or (rounds is not None and kind is COMPLETION) else None
    )
    return Recipe(
        output=f"runs/{_stem(data.sources[0].path)}",
        model=ModelConfig(path=model or _ANY_MODEL),
        data=replace(data, test_fraction=0.0 if rounds is not None else 0.1, on_too_long="drop", **decided),
        sft=first,
        adapter=AdapterConfig(rank=16, alpha=32.0),
        loss=LossChoice.of(advice.loss, **advice.settings),
        optim=OptimConfig(learning_rate=learning_rate(trained, report.train.kept or 0)),
        rounds=rounds,
    )


def _keys_of(recipe: Recipe, of_loss: set[str]) -> list[str]:
    """The keys to write, section by section."""
    decided = [f"data.{key}" for key, choice in recipe.data.decisions.items() if choice != "error"]
    keys = [key for key in _KEYS if not key.startswith("data.on_") and key != "data.test"]
    if not hasattr(recipe.loss, "beta"):
        keys.remove("loss.beta")
    for after, more in (
        ("data.max_tokens", decided),
        ("loss.name", [f"loss.{name}" for name in sorted(of_loss)]),
    ):
        keys[keys.index(after) + 1 : keys.index(after) + 1] = more
    at = keys.index("loss")
    sections = [
        *(_OF_ROUNDS if recipe.rounds is not None else ()),
        *(_OF_SFT if recipe.sft is not None else ()),
        *_OF_ADAPTER,
    ]
    return [*keys[:at], *sections, *keys[at:]]


def _reasons(path: Path, advice: MethodAdvice, report: DataReport, base: str, model: str | None) -> str:
    """The comment at the head of a recipe: the objective, the reason for it, and what a person has to look at."""
    undecided = [one for one in report.errors if one.code not in _DECISIONS]
    notes = [
        str(advice),
        *advice.remarks,
        *([base] if base else []),
        *(["a base model, without a chat template, needs `sft:` first; --model PATH tells"] if model is None else []),
        *(f"a run refuses {counted(one.count or 0, 'row')} ({one.code}): {one.fix}" for one in undecided),
    ]
    head = ["# Written from the data by exptilt init --from. Set model.path; then:" if model is None else
            "# Written from the data by exptilt init --from. Then:",
            f"#   exptilt doctor {path} && exptilt train {path}"]  # fmt: skip
    wrapped = [
        line for note in notes for line in textwrap.wrap(note, 110, initial_indent="# - ", subsequent_indent="#   ")
    ]
    return "\n".join([*head, *wrapped, "", ""])


def _stem(path: str) -> str:
    """A name for the run: that of the file, folder or data set."""
    return re.sub(r"[^\w-]+", "-", Path(path).name.split(".")[0]).strip("-") or "first"


def _require_free(path: Path, force: bool) -> None:
    if path.is_dir():
        raise ConfigError(f"{path}: is a folder; name a file in it, such as {path / 'recipe.yaml'}")
    if path.exists() and not force:
        raise ConfigError(f"{path}: exists already; choose another name or add --force")
    if path.exists() and not _is_recipe(path):
        raise ConfigError(f"{path}: is no recipe, and --force replaces nothing else; choose another name")


def _write(path: Path, text: str) -> None:
    try:
        write_whole(path, text)
    except DiskError as error:
        raise ConfigError(str(error)) from None


def _is_recipe(path: Path) -> bool:
    """Tell whether a file is YAML by its name, empty, or a recipe, perhaps with mistakes in it."""
    if path.suffix in (".yaml", ".yml"):
        return True
    try:
        values = read_yaml(path).values
    except ConfigError:
        return False
    return not values or bool(values.keys() & {field.name for field in (*fields(Recipe), *fields(MaskRecipe))})
