"""Configurations of other tools, read: YAML, JSON, and the literal arguments of a Python script."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from exptilt.errors import ConfigError

_CALLS = ("Config", "Arguments", "Trainer", "from_pretrained", "get_peft_model", "load_dataset")
"""Ends of the names of calls in a script whose keywords are settings."""
_OBJECTS = ("model", "tokenizer", "processing_class", "args", "peft_config", "train_dataset", "eval_dataset")
"""Keywords that pass objects which another call of the script has made."""


def read_source(path: Path) -> dict[str, Any]:
    """Read a configuration as one mapping.

    Of a script (`.py`) the keywords of calls that end in `Config`, `Arguments`, `Trainer`, `from_pretrained`, `get_peft_model` or
    `load_dataset` are read where they are literal; others are kept as the text that stands there.

    Raises:
        ConfigError: the file is missing, cannot be parsed, or is no mapping.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}") from None
    if path.suffix == ".py":
        return _of_script(path, text)
    try:
        content = json.loads(text) if path.suffix == ".json" else yaml.load(text, _Loader)  # noqa: S506 - a SafeLoader
    except (ValueError, yaml.YAMLError) as error:
        line = getattr(getattr(error, "problem_mark", None), "line", None)
        line = getattr(error, "lineno", 0) if line is None else line + 1
        raise ConfigError(f"{path} line {line}: cannot be parsed: {getattr(error, 'problem', error)}") from None
    if not isinstance(content, dict) or not content:
        raise ConfigError(f"{path}: holds no keys; give a YAML or JSON configuration, or a training script")
    return {str(key): value for key, value in content.items()}


class _Loader(yaml.SafeLoader):
    """YAML of which `1e-5` is a number, as these tools read it, since they convert to the type of their argument."""


_Loader.yaml_implicit_resolvers = {key: list(pairs) for key, pairs in yaml.SafeLoader.yaml_implicit_resolvers.items()}
for _first in "0123456789+-.":
    _Loader.yaml_implicit_resolvers.setdefault(_first, []).insert(
        0, ("tag:yaml.org,2002:float", re.compile(r"^[-+]?[0-9]+(?:\.[0-9]*)?[eE][-+]?[0-9]+$"))
    )


def _of_script(path: Path, text: str) -> dict[str, Any]:
    try:
        tree = ast.parse(text)
    except SyntaxError as error:
        raise ConfigError(f"{path} line {error.lineno}: cannot be parsed: {error.msg}") from None
    names = {
        target.id: node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Assign)
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    settings: dict[str, Any] = {}
    for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
        name = _name_of(call.func)
        if name.endswith(_CALLS):
            settings |= dict(_arguments(call, name, names))
    if not settings:
        raise ConfigError(f"{path}: no call with settings in it, such as DPOConfig(beta=0.1)")
    return settings


def _arguments(call: ast.Call, name: str, names: dict[str, ast.expr]) -> Iterator[tuple[str, Any]]:
    if name.endswith("Trainer"):
        yield "trainer", name
    if call.args and name in ("from_pretrained", "load_dataset"):
        owner = _name_of(call.func.value) if isinstance(call.func, ast.Attribute) else ""
        if "Tokenizer" not in owner:
            yield ("dataset_name" if name == "load_dataset" else "model_name_or_path"), _literal(call.args[0], names)
    for keyword in call.keywords:
        if keyword.arg is not None and keyword.arg not in _OBJECTS:
            key = "dataset_train_split" if (name, keyword.arg) == ("load_dataset", "split") else keyword.arg
            yield key, _literal(keyword.value, names)


def _name_of(node: ast.expr) -> str:
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""


def _literal(node: ast.expr, names: dict[str, ast.expr]) -> Any:
    """A literal, that of a name which the script assigns, or the text as it stands."""
    node = names.get(node.id, node) if isinstance(node, ast.Name) else node
    try:
        return ast.literal_eval(node)
    except ValueError:
        return f"`{ast.unparse(node)}`"
