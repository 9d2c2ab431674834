"""A server's LoRA adapters, exchanged while it runs, by the endpoints of vLLM."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from exptilt.errors import ConfigError, ServerError
from exptilt.servers.background_calls import BackgroundCalls
from exptilt.servers.server_client import ServerReply

_LOAD, _UNLOAD, _MODELS = "/load_lora_adapter", "/unload_lora_adapter", "/models"


class AdapterSwap:
    """Exchanges the one adapter that a run draws with.

    Args:
        calls: of the server.
        url: of the server, for messages.
        home: folder of the adapters; what a killed run has left loaded from there is unloaded first.
    """

    def __init__(self, calls: BackgroundCalls, url: str, home: Path) -> None:
        self._calls, self._url = calls, url
        self._loaded: str | None = None
        for name, entry in self._listed():
            if _is_inside(entry.get("root"), home):
                self._unload(name)

    def load(self, name: str, folder: Path) -> None:
        """Load the adapter of a folder in the place of the one before.

        Raises:
            ServerError: the server has no such endpoint, cannot read the folder, or does not list the adapter afterwards.
        """
        self.unload()
        reply = self._asked("POST", _LOAD, {"lora_name": name, "lora_path": str(folder)})
        entry = dict(self._listed()).get(name)
        if entry is None:
            why = reply.fault or "it says nothing, and does not list the adapter"
            raise ServerError(
                f"{self._url}: did not take the adapter {folder} ({why}); vLLM needs VLLM_ALLOW_RUNTIME_LORA_UPDATING=1, "
                "--enable-lora, a large enough --max-lora-rank, and this disk"
            )
        root = entry.get("root")
        if isinstance(root, str) and Path(root).is_absolute() and Path(root) != folder:
            raise ServerError(
                f"{self._url}: lists {name} with the weights of {root}, not of {folder}; restart the server"
            )
        self._loaded = name

    def unload(self) -> None:
        """Unload the adapter; nothing where none is loaded."""
        name, self._loaded = self._loaded, None
        if name is not None:
            self._unload(name)

    def _unload(self, name: str) -> None:
        self._asked(
            "POST", _UNLOAD, {"lora_name": name}
        )  # a server that was started again does not know it, which is as well

    def _listed(self) -> Iterator[tuple[str, Mapping[str, Any]]]:
        """Names and descriptions of what the server has."""
        reply = self._asked("GET", _MODELS)
        if reply.fault:
            raise ServerError(f"{self._url}: {reply.fault}")
        entries = reply.body.get("data")
        for entry in entries if isinstance(entries, list) else []:
            if isinstance(entry, dict) and isinstance(entry.get("id"), str):
                yield entry["id"], entry

    def _asked(self, method: Any, path: str, body: dict[str, Any] | None = None) -> ServerReply:
        try:
            return self._calls.control(method, path, body)
        except ConfigError as error:
            raise ServerError(str(error)) from None


def _is_inside(root: object, home: Path) -> bool:
    return isinstance(root, str) and Path(root).is_absolute() and Path(root).is_relative_to(home)
