"""Chat templates by name: from the tokenizer's folder, from a file, or our own, which suit training on long dialogues."""

from __future__ import annotations

import copy
import difflib
import json
import re
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from exptilt.errors import DataError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SCRATCH = (
    "{{ bos_token }}"
    "{% for message in messages %}"
    "{{ '<|' + message['role'] + '|>\n' + message['content'] }}"
    "{{ eos_token if message['role'] == 'assistant' else '\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}"
)
"""The template of tokenizers trained here: a turn begins with its role on a line; the assistant's ends with the end token."""
_FOLDER = Path(__file__).parent / "templates"
OWN = ("gemma", "mistral", "phi3", "qwen3")
"""Our own templates, each for the models whose marks it writes. A turn looks the same whatever follows it."""
_MARKS = {
    "gemma": (("<start_of_turn>",), ()),
    "mistral": (("[INST]",), ("<<SYS>>", "[SYSTEM_PROMPT]")),
    "phi3": (("<|end|>", "<|assistant|>"), ()),
    "qwen3": (("<|im_start|>", "<think>"), ("<function=",)),
}
"""Marks in the templates of a family, and marks of its relatives, which write turns or tools differently."""


@cache
def own_template(name: str) -> str:
    """Read one of our own templates.

    Example:
        >>> "<start_of_turn>" in own_template("gemma")
        True
    """
    return (_FOLDER / f"{name}.jinja").read_text(encoding="utf-8").strip()


def with_chat_template(tokenizer: PreTrainedTokenizerBase, name: str | None) -> PreTrainedTokenizerBase:
    """Return a tokenizer with the chat template that `data.chat_template` names; the given one is not changed.

    Args:
        tokenizer: the policy's.
        name: name of a template in the tokenizer's folder, of a file, or of our own template; None leaves the tokenizer as it is.

    Raises:
        DataError: there is no template of that name.
    """
    if name is None:
        return tokenizer
    there = _named(tokenizer)
    dressed = copy.copy(tokenizer)
    if name in there:
        # The name stays known, so that the folder of the trained model can be used with the same recipe.
        dressed.chat_template = {"default": there[name], name: there[name]}
    elif name in OWN:
        dressed.chat_template = own_template(name)
    else:
        dressed.chat_template = _of_file(name, [*there, *OWN])
    return dressed


def refuse_missing(name: str, folder: str | None) -> None:
    """Refuse a template that is neither in a tokenizer's folder, nor ours, nor a file, before the tokenizer is loaded.

    Args:
        name: as `data.chat_template` says it.
        folder: the tokenizer's; a hub id is not asked.

    Raises:
        DataError: there is no template of that name.
    """
    place = None if folder is None else Path(folder).expanduser()
    if name in OWN or (place is not None and not place.is_dir()):
        return
    there = [] if place is None else _names_in(place)
    if name not in there:
        _of_file(name, [*there, *OWN])


def has_template(folder: Path) -> bool:
    """Whether a tokenizer's folder holds a chat template."""
    return bool(_names_in(folder))


def _names_in(folder: Path) -> list[str]:
    """Names of the templates in a tokenizer's folder."""
    names = [path.stem for path in folder.glob("additional_chat_templates/*.jinja")]
    try:
        written = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8")).get("chat_template")
    except (OSError, ValueError):
        written = None
    if isinstance(written, list):
        names += [str(entry.get("name")) for entry in written]
    has_default = (folder / "chat_template.jinja").is_file() or isinstance(written, dict | str)
    return [*names, *(["default"] if has_default else []), *(written if isinstance(written, dict) else [])]


def template_of(tokenizer: PreTrainedTokenizerBase) -> str | None:
    """The text of the chat template in use; None if the tokenizer has none.

    Raises:
        DataError: there are several templates and none is the default.
    """
    template = getattr(tokenizer, "chat_template", None)
    if not isinstance(template, dict):
        return template or None
    if template and "default" not in template:
        raise DataError(
            f"the tokenizer has several chat templates and no default; set data.chat_template to {_either(list(template))}"
        )
    return template.get("default")


def kin_of(template: str) -> str | None:
    """Name of our own template that writes the marks of a given template, if any does.

    Example:
        >>> kin_of("{% for m in messages %}[INST] {{ m.content }} [/INST]{% endfor %}")
        'mistral'
    """
    return next(
        (
            name
            for name, (marks, foreign) in _MARKS.items()
            if all(mark in template for mark in marks) and not any(mark in template for mark in foreign)
        ),
        None,
    )


def refuse_unread(template: str | None, args: dict[str, Any]) -> None:
    """Raise an error if `data.template_args` names something that the chat template never reads."""
    for name in args:
        if template is None:
            raise DataError(f"data.template_args.{name}: the tokenizer has no chat template that could read it")
        if not reads(template, name):
            words = sorted(set(re.findall(r"[A-Za-z_]\w{3,}", template)))
            near = difflib.get_close_matches(name, words, n=1)
            meant = f"; did you mean {near[0]!r}?" if near else ""
            raise DataError(f"data.template_args.{name}: the chat template reads nothing of that name{meant}")


def reads(template: str, name: str) -> bool:
    """Tell whether a template mentions a name at all."""
    return re.search(rf"\b{re.escape(name)}\b", template) is not None


def _named(tokenizer: PreTrainedTokenizerBase) -> dict[str, str]:
    template = getattr(tokenizer, "chat_template", None)
    return dict(template) if isinstance(template, dict) else {}


def _of_file(name: str, known: list[str]) -> str:
    path = Path(name).expanduser()
    if not path.is_file():
        near = difflib.get_close_matches(name, known, n=1)
        meant = f"did you mean {near[0]!r}?" if near else f"give {_either(known)}, or a .jinja file"
        raise DataError(f"data.chat_template: there is no template and no file {name!r}; {meant}")
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"data.chat_template: {path} cannot be read: {error}") from None


def _either(names: list[str]) -> str:
    *others, last = names
    return f"{', '.join(others)} or {last}" if others else last
