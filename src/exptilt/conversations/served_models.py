"""The models of a server by name, and the one adapter that is put beside the first and taken away while it runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from threading import Lock
from typing import Any

from exptilt.conversations.served_model import ServedModel
from exptilt.errors import ConfigError
from exptilt.policies.adapters import AdapterOff, has_adapter, load_adapter


class ServedModels:
    """Models by name.

    One adapter at a time is loaded, as vLLM with `--max-loras 1`; whoever draws by its name draws with it, and whoever draws
    by the name of the first model draws without it.

    Args:
        models: by name; adapters belong to the first.
    """

    def __init__(self, models: Mapping[str, ServedModel]) -> None:
        self._models = dict(models)
        self._base_name = next(iter(models))
        self._base = models[self._base_name]
        self._adapter = self._root = ""
        self._exchange = Lock()

    @property
    def names(self) -> list[str]:
        """All names that a request may give."""
        return list(self._models)

    def get(self, name: str) -> ServedModel | None:
        """The model of this name."""
        return self._models.get(name)

    def listed(self) -> list[dict[str, Any]]:
        """All models as `/v1/models` describes them; an adapter with the folder it was read from."""
        of_adapter = {"root": self._root, "parent": self._base_name}
        return [
            {"id": name, "object": "model", **(of_adapter if name == self._adapter else {})} for name in self._models
        ]

    def load(self, name: str, folder: str) -> None:
        """Put an adapter beside the first model.

        Raises:
            ConfigError: the name is taken, there is an adapter already, or the model has one of its own.
            ModelError: the folder holds no adapter for this model.
        """
        with self._exchange, self._base.turn:
            if name in self._models:
                raise ConfigError(f"{name} is loaded already")
            if self._adapter:
                raise ConfigError(f"this server holds one adapter at a time: unload {self._adapter} first")
            if has_adapter(self._base.model):
                raise ConfigError("the model is an adapter itself; serve its base")
            adapted = load_adapter(self._base.model, folder)
            adapted.eval()
            self._models[self._base_name] = replace(self._base, model=AdapterOff(adapted))
            self._models[name] = replace(self._base, model=adapted)
            self._adapter, self._root = name, folder

    def unload(self, name: str) -> bool:
        """Take the adapter away; False where there is none of this name."""
        with self._exchange, self._base.turn:
            if name != self._adapter:
                return False
            adapted = self._models.pop(name)
            adapted.is_gone = True
            self._base.model = adapted.model.unload()
            self._models[self._base_name] = self._base
            self._adapter = self._root = ""
            return True
