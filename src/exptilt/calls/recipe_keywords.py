"""A recipe from keywords: sections as mappings, settings or objects, over a recipe file where one is given."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from contextlib import ExitStack
from os import PathLike, fspath
from typing import Any

from exptilt.data.read.rows_in_memory import rows_in_memory
from exptilt.errors import ConfigError, ModelError
from exptilt.in_memory import InMemory
from exptilt.settings.declaration import as_dict
from exptilt.settings.load import build
from exptilt.settings.loss_choice import choice_of
from exptilt.settings.model_settings import ModelConfig, SmallModel
from exptilt.settings.recipe import Recipe
from exptilt.settings.yaml_source import Source, read_yaml

Path = str | PathLike[str]


class RecipeKeywords:
    """Collects what a call was given, and the objects among it, and builds the recipe.

    Args:
        call: name of the call, for messages.
        recipe: the recipe that keywords are laid over: a YAML file or a `Recipe`.
    """

    def __init__(self, call: str, recipe: Path | Recipe | None = None) -> None:
        self.call = call
        self.held: list[InMemory] = []
        """Objects that stand in the recipe by name."""
        if isinstance(recipe, Recipe):
            self._source = Source(label=call, values=as_dict(recipe))
        elif recipe is None:
            self._source = Source(label=call)
        elif isinstance(recipe, str | PathLike):
            self._source = read_yaml(fspath(recipe))
        else:
            raise ConfigError(f"{call}: recipe: give a YAML file or a Recipe, got {_shown(recipe)}")

    def put(self, key: str, value: Any) -> None:
        """Lay a value over a dotted key; None was not given."""
        if value is not None:
            self._source.lay_over([(key, value)])
            self._source.places[key] = self.call

    def section(self, name: str, value: Any, bare: str = "") -> None:
        """Lay a section over the recipe's: a mapping or settings object, key by key.

        Args:
            name: of the section.
            value: what the call was given; None was not given.
            bare: the key that a value which is no section stands for.
        """
        if value is None:
            return
        if isinstance(value, type):
            raise ConfigError(f"{self.call}: {name}: {value.__name__} is a class; write {value.__name__}()")
        if dataclasses.is_dataclass(value):
            value = as_dict(value)
        if isinstance(value, Mapping):
            for key, item in value.items():
                self.put(f"{name}.{key}", item)
            if not value and name not in self._source.values:
                self.put(name, {})
        else:
            self.put(f"{name}.{bare}" if bare else name, value)

    def loss(self, loss: Any) -> None:
        """The objective: a loss, its name, or a mapping with its name or import path."""
        if isinstance(loss, type):
            raise ConfigError(f"{self.call}: loss: {loss.__name__} is a class; write loss=xt.{loss.__name__}()")
        if loss is None or isinstance(loss, str):
            self.put("loss", loss)
        elif isinstance(loss, Mapping):
            self.section("loss", loss)
        else:
            self._source.values.pop("loss", None)
            self.put("loss", as_dict(choice_of(loss)))

    def adapter(self, adapter: Any) -> None:
        """The adapter to train."""
        if type(adapter).__module__.startswith("peft."):
            raise ConfigError(
                f"{self.call}: adapter: a {type(adapter).__name__} of peft is no section of a recipe; write "
                "xt.LoRA(rank=16, alpha=32, targets=[...])"
            )
        self.section("adapter", adapter)

    def model(self, model: Any, tokenizer: Any = None, lends: ExitStack | None = None) -> None:
        """The model to start from: an object, a path or hub id, a section of a recipe, or a size to train from scratch.

        Args:
            model: as the call was given it.
            tokenizer: an object, a path or a hub id; None takes the one of the folder that the model is from.
            lends: where an object is only used and not copied; it is given back when this is closed.
        """
        if model is None:
            pass
        elif isinstance(model, str | PathLike):
            self.put("model.path", fspath(model))
        elif isinstance(model, SmallModel):
            self.put("model.config", as_dict(model))
        elif isinstance(model, ModelConfig | Mapping):
            self.section("model", {key: value for key, value in _plain(model).items() if value is not None})
        else:
            self._model_object(model, tokenizer, lends)
        if isinstance(tokenizer, str | PathLike):
            self.put("model.tokenizer", fspath(tokenizer))
        elif tokenizer is not None:
            from exptilt.policies.models_in_memory import tokenizer_in_memory

            self.put("model.tokenizer", self._name(tokenizer_in_memory(tokenizer)))

    def reference(self, reference: Any, lends: ExitStack | None = None) -> None:
        """What the policy is measured against: an object, a path or hub id, or a section of a recipe."""
        if reference is None or isinstance(reference, Mapping) or dataclasses.is_dataclass(reference):
            self.section("reference", reference)
        elif isinstance(reference, str | PathLike):
            self.put("reference.model", fspath(reference))
        else:
            self.put("reference.model", self._name(_held(_no_type(reference, "reference"), "reference", lends)))

    def rows(self, rows: Any, key: str = "data.train", what: str = "rows") -> None:
        """Rows under a key of the data: a list of mappings, a data set, a table; or a path or hub id."""
        if isinstance(rows, str | PathLike):
            self.put(key, fspath(rows))
        elif rows is not None:
            self.put(key, self._name(rows_in_memory(rows, what)))

    def build(self, cls: type[Any] = Recipe) -> Any:
        """The recipe.

        Raises:
            ConfigError: a line for each problem, as the command line has it.
        """
        return build(cls, self._source)

    def has(self, key: str) -> bool:
        """Whether a dotted key stands in the recipe, and not as none."""
        node: Any = self._source.values
        for part in key.split("."):
            node = node.get(part) if isinstance(node, Mapping) else None
        return node is not None

    def _model_object(self, model: Any, tokenizer: Any, lends: ExitStack | None) -> None:
        held = _held(_no_type(model, "model"), "model", lends)
        if tokenizer is None and not getattr(model, "name_or_path", ""):
            raise ModelError(
                f"{self.call}: a model that was made here and not loaded needs its tokenizer beside it: tokenizer=tokenizer, or "
                "tokenizer='folder or hub id'"
            )
        self.put("model.path", self._name(held))
        if tokenizer is None:
            self.put("model.tokenizer", str(model.name_or_path))
        if lends is not None:
            self._source.values["model"]["dropout"] = None  # changes nothing where nothing is trained
        elif hasattr(model, "peft_config") and not self.has("adapter"):
            self.put("adapter.path", held.name)

    def _name(self, held: InMemory) -> str:
        self.held.append(held)
        return held.name


def _held(model: Any, what: str, lends: ExitStack | None) -> InMemory:
    from exptilt.policies.models_in_memory import lent, model_in_memory

    return model_in_memory(model, what=what) if lends is None else lends.enter_context(lent(model, what))


def _no_type(value: Any, what: str) -> Any:
    if isinstance(value, type):
        raise ModelError(f"{what}: {value.__name__} is a class; give a model, {value.__name__}.from_pretrained(...)")
    return value


def _plain(section: Any) -> dict[str, Any]:
    return dict(section) if isinstance(section, Mapping) else as_dict(section)


def _shown(value: Any) -> str:
    shown = repr(value)
    return shown if len(shown) <= 60 else f"{shown[:57]}..."
