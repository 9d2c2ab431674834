"""`exptilt serve`: hands a model to vLLM, else to transformers' own server, with the flags that it needs."""

from __future__ import annotations

import importlib.util
import json
import os
import shlex
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from exptilt.data.read.hub import is_reachable
from exptilt.errors import ConfigError, ModelError
from exptilt.run_folder.file_names import CONFIG
from exptilt.runs.text_model import model_of_texts
from exptilt.settings.evaluated_recipe import is_reward_model, is_run

Server = Literal["vllm", "transformers"]
_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""What vLLM takes for --max-lora-rank."""
_MERGED_ALONE = (
    *("use_dora", "modules_to_save", "rank_pattern", "alpha_pattern", "lora_bias"),
    *("trainable_token_indices", "target_parameters", "layer_replication"),
)
"""Settings of an adapter that vLLM refuses or does not read."""
_TRANSFORMERS_SERVING = ("fastapi", "uvicorn", "pydantic", "openai")


@dataclass(frozen=True)
class ServerCommand:
    """What is run, and the model that has to be written first."""

    words: tuple[str, ...]
    merge_to: Path | None = None
    """Where the adapter is merged with its base; None where the server takes the model as it is."""

    @property
    def line(self) -> str:
        """As one types it."""
        return shlex.join(self.words)


def serve(
    what: str, flags: Sequence[str] = (), *, merge: bool = False, merged: Path | None = None, dry_run: bool = False
) -> ServerCommand:
    """Print the server's command and become it; where it is a dry run, end there.

    Args:
        what: a run folder, a model or adapter folder, or a hub id.
        flags: further flags for the server.
        merge: merge an adapter with its base even where the server could take it.
        merged: where a merged model goes; by default `merged` in the run folder.
        dry_run: print the command alone; nothing is merged or started.

    Raises:
        ConfigError: no server is installed, or an adapter needs a folder to be merged into.
        ModelError: it is a reward model, or an adapter whose base is gone.
    """
    server, program = _installed()
    command = server_command(what, server, program, flags, merge=merge, merged=merged)
    if not dry_run:
        _require_findable(what)
    if command.merge_to is not None and not dry_run:
        _merge(what, command.merge_to)
    note = "" if command.merge_to is None else f"  # the adapter merged with its base: {command.merge_to}"
    print(f"{command.line}{note}", flush=True)
    if not dry_run:
        os.execvp(command.words[0], command.words)  # noqa: S606 - the program named above, without a shell
    return command


def _require_findable(path: str) -> None:
    """Refuse what is no folder and no hub id that can be had: the server would end in a traceback."""
    from huggingface_hub import try_to_load_from_cache

    if Path(path).expanduser().is_dir():
        return
    is_cached = path.count("/") <= 1 and isinstance(try_to_load_from_cache(path, "config.json"), str)
    if not is_cached and not is_reachable():
        raise ModelError(f"{path}: no such folder, and the hub, where it would be looked for, cannot be reached")


def server_command(
    what: str,
    server: Server,
    program: str,
    flags: Sequence[str] = (),
    *,
    merge: bool = False,
    merged: Path | None = None,
) -> ServerCommand:
    """The command of a server for a model.

    vLLM gets an adapter as `--lora-modules` beside its base, with the adapter's rank, tokenizer and chat template; an adapter
    that it cannot take, and every adapter for transformers, which reads whole models alone, is merged.

    Args:
        what: a run folder, a model or adapter folder, or a hub id.
        server: which kind.
        program: path of its program.
        flags: further flags, last.
        merge: merge an adapter in any case.
        merged: where a merged model goes.
    """
    path = model_of_texts(what)
    if is_reward_model(path):
        raise ModelError(f"{what}: is a reward model, which gives scores and no text; ask it with `exptilt evaluate`")
    from exptilt.policies.adapters import base_of, find_adapter, revision_of
    from exptilt.policies.model_files import check_folder

    name = Path(what).expanduser().resolve().name if Path(what).expanduser().is_dir() else what
    adapter = find_adapter(path)
    if adapter is None:
        check_folder(path, "model", ("config.json",))
        return ServerCommand((program, "serve", path, *_named(server, name), *flags))
    base, revision = base_of(adapter), revision_of(adapter)
    settings = json.loads((adapter / "adapter_config.json").read_text(encoding="utf-8"))
    if merge or server == "transformers" or not _vllm_takes(settings):
        target = merged or (Path(what) / "merged" if is_run(what) else None)
        if target is None:
            raise ConfigError(
                f"{what}: this adapter has to be merged with its base; name a folder with --merged FOLDER"
            )
        return ServerCommand((program, "serve", str(target), *_named(server, name), *flags), target)
    words = [program, "serve", base, *(("--revision", revision) if revision else ())]
    words += ["--enable-lora", "--max-lora-rank", str(next(rank for rank in _RANKS if rank >= settings["r"]))]
    words += ["--lora-modules", f"{name}={adapter}"]
    if (adapter / "tokenizer_config.json").is_file():
        words += ["--tokenizer", str(adapter)]
    if (adapter / "chat_template.jinja").is_file():
        words += ["--chat-template", str(adapter / "chat_template.jinja")]
    return ServerCommand((*words, *flags))


def _named(server: Server, name: str) -> tuple[str, ...]:
    return ("--served-model-name", name) if server == "vllm" else ()


def _vllm_takes(settings: dict[str, Any]) -> bool:
    plain = settings.get("peft_type") == "LORA" and settings.get("bias", "none") == "none"
    return plain and settings.get("r", 0) <= _RANKS[-1] and not any(settings.get(name) for name in _MERGED_ALONE)


def _installed() -> tuple[Server, str]:
    """The server that is here, and its program."""
    beside = os.pathsep.join((str(Path(sys.executable).parent), os.environ.get("PATH", "")))
    vllm = shutil.which("vllm", path=beside)
    if vllm is not None:
        return "vllm", vllm
    transformers = shutil.which("transformers", path=beside)
    lacking = [name for name in _TRANSFORMERS_SERVING if importlib.util.find_spec(name) is None]
    if transformers is None or lacking:
        missing = f" (transformers' own server lacks {', '.join(lacking)})" if lacking else ""
        raise ConfigError(f"no server is installed{missing}; pip install vllm, or: pip install 'transformers[serving]'")
    return "transformers", transformers


def _merge(what: str, target: Path) -> None:
    """Write the merged model, unless it is there and no older than the adapter."""
    from exptilt.policies.adapters import find_adapter
    from exptilt.verbs.export import export, merge_adapter

    adapter = find_adapter(model_of_texts(what))
    assert adapter is not None  # noqa: S101 - for mypy
    if _is_newer(target, adapter):
        return
    if (Path(what) / CONFIG).is_file():
        export(Path(what), merge=True, output=None if target == Path(what) / "merged" else target)
        return
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise ConfigError(f"{target}: is not an empty folder; choose another --merged")
    from exptilt.processes.surroundings import left_as_found

    with left_as_found():
        merge_adapter(adapter, target)


def _is_newer(merged: Path, adapter: Path) -> bool:
    written = merged / "config.json"  # of an earlier merge; export and merge_adapter refuse what is something else
    weights = max(adapter.glob("adapter_model.*"), key=lambda file: file.stat().st_mtime, default=None)
    return written.is_file() and weights is not None and written.stat().st_mtime >= weights.stat().st_mtime
