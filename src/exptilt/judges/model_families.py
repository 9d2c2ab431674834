"""Which model a policy or a judge was made of, as far as names and files say: a judge may prefer its own kin.

Names are hub ids in small letters, whole paths of folders, and fingerprints of weights. Nothing is downloaded, no weights
are loaded: an adapter says its base, a run's recipe the model it started from, a folder of samples what drew them.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from exptilt.run_folder.file_names import CONFIG, SAMPLING

_DEEPEST = 8
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


def model_names(what: str) -> frozenset[str]:
    """Everything that a model is called and was made of.

    Args:
        what: a hub id, a model, adapter or run folder, or what a server calls a model.

    Example:
        >>> sorted(model_names("Qwen/Qwen2.5-0.5B"))
        ['qwen/qwen2.5-0.5b', 'qwen2.5-0.5b']
    """
    names: set[str] = set()
    waiting = [what]
    for _ in range(_DEEPEST):
        if not waiting:
            break
        name = waiting.pop()
        folder = Path(name).expanduser()
        if folder.is_dir():
            names.add(os.path.realpath(folder))
            waiting += _made_of(folder)
        elif name:
            names.add(name.lower())
            if _HUB_ID.fullmatch(name):
                names.add(name.rsplit("/", 1)[-1].lower())
    return frozenset(names)


def writer_names(where: str) -> frozenset[str]:
    """Everything that the writer of a file or folder of answers is called and was made of; empty where nothing says so."""
    folder = Path(where).expanduser()
    folder = folder if folder.is_dir() else folder.parent
    drawn_by = _yaml(folder / SAMPLING)
    names: set[str] = set()
    model, server = drawn_by.get("model") or {}, drawn_by.get("server") or {}
    for named in (model.get("path"), server.get("model")):
        names |= model_names(str(named)) if named else set()
    if drawn_by.get("identity"):
        names.add(str(drawn_by["identity"]))
    if (folder / CONFIG).is_file() and Path(where).is_dir():
        names |= model_names(where)
    return frozenset(names)


def shared_base(judge: frozenset[str], policy: frozenset[str]) -> str | None:
    """A name that both have, the most telling first; None where nothing says that they are kin.

    Example:
        >>> shared_base(model_names("Qwen/Qwen2.5-0.5B"), model_names("qwen2.5-0.5b"))
        'qwen2.5-0.5b'
    """
    both = sorted(judge & policy, key=lambda name: (name.startswith("/"), -len(name), name))
    return both[0] if both else None


def _made_of(folder: Path) -> Iterator[str]:
    """Names of what a folder's model was made from."""
    base = _json(folder / "adapter_config.json").get("base_model_name_or_path")
    if base:
        yield str(base)
    name = _json(folder / "config.json").get("_name_or_path")
    if name and name != str(folder):
        yield str(name)
    for run in (folder, folder.parent):
        started = _yaml(run / CONFIG).get("model")
        if isinstance(started, dict) and started.get("path"):
            yield str(started["path"])


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _yaml(path: Path) -> dict[str, Any]:
    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError):
        return {}
    return found if isinstance(found, dict) else {}
