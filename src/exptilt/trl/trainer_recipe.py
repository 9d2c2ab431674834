"""The recipe of a trainer: its keywords by the converters' rules, its objects by their names in memory."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from exptilt.converters.conversion import convert_keywords
from exptilt.converters.draft import Fate
from exptilt.converters.trl_keywords import BY_TRAINER, SHARDED
from exptilt.errors import ConfigError
from exptilt.in_memory import InMemory
from exptilt.policies.adapters import has_adapter
from exptilt.policies.models_in_memory import model_in_memory, tokenizer_in_memory
from exptilt.settings.declaration import as_dict
from exptilt.settings.load import build
from exptilt.settings.loss_choice import choice_of
from exptilt.settings.recipe import Recipe
from exptilt.settings.yaml_source import Source
from exptilt.trl.given_rows import GivenRows
from exptilt.trl.lora_keys import lora_keys
from exptilt.trl.trainer_configs import TrainerConfig

_AS_TRL: Mapping[str, Any] = {
    **{
        f"data.on_{problem}": "keep"
        for problem in ("lost", "empty", "identical", "tie", "duplicate", "conflict", "leak")
    },
    "data.on_missing_end": "keep",
    "data.template": "messages",
    "data.boundary": "merge",
    "batch.order": "torch",
    "optim.max_grad_norm": 1.0,
}
"""What TRL does where it has no keyword: it trains on every row as it stands, and says nothing of it. Here data.json counts them."""


@dataclass(frozen=True)
class Parts:
    """The objects of a trainer."""

    model: Any
    tokenizer: Any
    train: GivenRows
    held_out: GivenRows | None = None
    ref_model: Any = None
    peft_config: Any = None


@dataclass(frozen=True)
class TrainerRecipe:
    """A recipe, the objects whose names stand in it, and what became of the keywords."""

    recipe: Recipe
    held: tuple[InMemory, ...]
    fates: tuple[Fate, ...]
    remarks: tuple[str, ...]

    @property
    def without_effect(self) -> list[str]:
        """Given keywords on which nothing here depends."""
        return [fate.key for fate in self.fates if fate.outcome == "no effect" and fate.stated]


def recipe_for(config: TrainerConfig, parts: Parts, *, resume: bool = False) -> TrainerRecipe:
    """Make the recipe of a run that trains the given model in place.

    Args:
        config: the keywords.
        parts: the objects.
        resume: whether to go on with the run in the output folder; else it is moved aside.

    Raises:
        ConfigError: a keyword has no counterpart, or a value cannot be used; each is named, with what to set.
    """
    stated = {key: value for key, value in config.stated.items() if key not in BY_TRAINER}
    adapter = {} if parts.peft_config is None else lora_keys(parts.peft_config, parts.model)
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    conversion = convert_keywords(config.kind, stated | adapter, parts.train.count, processes)
    refuse([fate for fate in conversion.fates if fate.outcome == "refused"], config.kind)
    if conversion.settings.get("parallel.kind") == "fsdp":
        raise ConfigError(f"{config.kind}Config: fsdp and deepspeed: {SHARDED}")
    model = model_in_memory(parts.model, in_place=True)
    tokenizer = tokenizer_in_memory(parts.tokenizer)
    held = [model, tokenizer, *(rows.held for rows in (parts.train, parts.held_out) if rows and rows.held)]
    named = {
        "output": config.output_dir,
        "model.path": model.name,
        "model.tokenizer": tokenizer.name,
        "data.train": parts.train.path,
        "train.resume": "auto" if resume else "never",
        "train.gradient_checkpointing": _checkpoints_gradients(config),
    }
    named |= {} if parts.held_out is None else {"data.test": parts.held_out.path}
    named |= {"adapter.path": model.name} if has_adapter(parts.model) else {}
    if isinstance(parts.ref_model, str):
        named["reference.model"] = parts.ref_model
    elif parts.ref_model is not None:
        reference = model_in_memory(parts.ref_model, in_place=True, what="ref_model")
        held.append(reference)
        named["reference.model"] = reference.name
    settings = {**_AS_TRL, **conversion.settings, **named}
    recipe = _built(_overridden(settings, config.recipe), config.kind)
    return TrainerRecipe(recipe, tuple(held), conversion.fates, conversion.remarks)


def refuse(fates: Sequence[Fate], kind: str) -> None:
    """Refuse keywords without a counterpart, each in one line.

    Raises:
        ConfigError: there is one.
    """
    if fates:
        raise ConfigError("\n".join(f"{kind}Config: {fate.key}={fate.value!r}: {fate.says}"[:299] for fate in fates))


def _checkpoints_gradients(config: TrainerConfig) -> bool:
    """TRL's default is on, where memory is short."""
    import torch

    stated = config.stated.get("gradient_checkpointing")
    return torch.cuda.is_available() if stated is None else bool(stated)


def _overridden(settings: Mapping[str, Any], recipe: Mapping[str, Any]) -> dict[str, Any]:
    """The settings with keys of exptilt's own laid over them; a section may be given whole."""
    flat = dict(settings)
    for key, value in recipe.items():
        if key == "loss" and not isinstance(value, str | Mapping):
            value = as_dict(choice_of(value))
        if key == "loss" or not isinstance(value, Mapping):
            flat = {name: old for name, old in flat.items() if name != key and not name.startswith(f"{key}.")}
            flat[key] = value
        else:
            flat |= {f"{key}.{name}": inner for name, inner in value.items()}
    return flat


def _built(settings: Mapping[str, Any], kind: str) -> Recipe:
    try:
        return build(Recipe, Source(label=f"{kind}Config", values=_sections(settings)))
    except ConfigError as error:
        raise ConfigError(str(error)) from None


def _sections(settings: Mapping[str, Any]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for key, value in settings.items():
        *sections, name = key.split(".")
        node = values
        for section in sections:
            node = node.setdefault(section, {})
        node[name] = value
    return values
