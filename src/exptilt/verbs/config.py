"""`exptilt config`: every key of a recipe with its type, default and meaning, read from the settings themselves."""

from __future__ import annotations

import dataclasses
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from exptilt.errors import ConfigError
from exptilt.settings.declaration import as_dict
from exptilt.settings.load import schema
from exptilt.settings.objectives import SECTIONS, CatalogueEntry, entries
from exptilt.settings.own_parts import IMPORT, SOURCE
from exptilt.settings.yaml_source import to_yaml
from exptilt.wording import SURE, TYPO, nearest

_LOSS = "loss"
_COMMENT_WIDTH = 116
_REQUIRED = "required"


@dataclass(frozen=True)
class Key:
    """One key that a recipe may hold."""

    path: str
    type: str
    default: str
    meaning: str
    is_section: bool = False

    @property
    def parent(self) -> str:
        """The section that holds the key; empty at the top."""
        return self.path.rpartition(".")[0]


def keys_of(cls: type[Any]) -> list[Key]:
    """All keys, section by section; keys of a choice (`loss`) stand under `loss.NAME`."""
    whole = schema(cls)
    return list(_keys_below(whole, whole.get("$defs", {}), "", {}))


def config(cls: type[Any], prefix: str = "", console: Console | None = None) -> None:
    """Print the keys of a recipe: a block for each section, and the objectives by the data they are trained on.

    Args:
        cls: the recipe's class.
        prefix: only what stands under it: a section (`optim`), a key (`optim.learning_rate`), an objective (`loss.dpo`).
        console: console to print to.

    Raises:
        ConfigError: no key or section has this name.
    """
    console = console or Console()
    keys = keys_of(cls)
    objectives = {f"{_LOSS}.{entry.name}": entry for entry in entries()}
    chosen = _under(prefix, keys)
    if not chosen and prefix.startswith(f"{_LOSS}."):  # `loss.beta`: of the default objective
        default = next(field.default.name for field in dataclasses.fields(cls) if field.name == _LOSS)
        of_default = f"{_LOSS}.{default}.{prefix.removeprefix(f'{_LOSS}.')}"
        chosen = _under(of_default, keys)
        prefix = of_default if chosen else prefix
    if not chosen:
        raise ConfigError(_unknown(prefix, keys))
    own = {f"{_LOSS}.{IMPORT}", f"{_LOSS}.{SOURCE}"} if prefix not in ("", _LOSS) else set()
    top = [key for key in chosen if key.path in own or not key.path.startswith(f"{_LOSS}.")]
    for section in dict.fromkeys(key.parent for key in top if key.parent or not key.is_section):
        if prefix or not _repeats(section, keys):
            _print_block(section, top, keys, console, repeated=not prefix)
    for path in (path for path in objectives if path == prefix or prefix.startswith(f"{path}.")):
        _print_objective(objectives[path], [key for key in chosen if key.path != path], console)
    if prefix in ("", _LOSS):
        shown = {key.path for key in chosen}
        _print_catalogue([entry for path, entry in objectives.items() if path in shown], console, defaults=bool(prefix))


def commented_yaml(recipe: Any, paths: Sequence[str]) -> str:
    """Write some keys of a recipe as YAML, each with its meaning beside it.

    Args:
        recipe: a settings dataclass instance; its values are written.
        paths: the dotted keys to write; a section stands for nothing but its heading.
    """
    meanings = {key.path: key.meaning for key in keys_of(type(recipe))}
    values = as_dict(recipe)
    rows: list[tuple[str, str]] = []
    for path in paths:
        *parents, name = path.split(".")
        value: Any = values
        for part in (*parents, name):
            value = value[part]
        if isinstance(value, Mapping) and not parents:
            rows.append(("", ""))
        written = "" if isinstance(value, Mapping) else f" {scalar(value)}"
        choice = f"{parents[0]}.{values[parents[0]].get('name')}.{name}" if parents else ""
        rows.append((f"{'  ' * len(parents)}{name}:{written}", meanings.get(path) or meanings.get(choice, "")))
    edge = max(len(left) for left, _ in rows) + 2
    return "\n".join(line for row in rows for line in _commented(*row, edge)) + "\n"


def scalar(value: Any) -> str:
    """Format a value as in a recipe: `1e-6`, `true`, `null`."""
    if isinstance(value, float) and value and not 1e-3 <= abs(value) < 1e5 and abs(value) < float("inf"):
        mantissa, _, exponent = f"{value:.12e}".partition("e")
        return f"{mantissa.rstrip('0').rstrip('.')}e{int(exponent)}"
    return to_yaml(value, flow=True)


def _commented(left: str, meaning: str, edge: int) -> Iterator[str]:
    lines = textwrap.wrap(meaning, _COMMENT_WIDTH - edge) or [""]
    for number, line in enumerate(lines):
        yield f"{left if number == 0 else '':{edge}}{'# ' if line else ''}{line}".rstrip()


def _under(prefix: str, keys: Sequence[Key]) -> list[Key]:
    return [key for key in keys if not prefix or key.path == prefix or key.path.startswith(f"{prefix}.")]


def _unknown(prefix: str, keys: Sequence[Key]) -> str:
    parent = prefix.rpartition(".")[0]
    beside = [key.path for key in keys if key.parent == parent] or [key.path for key in keys]
    near = nearest(prefix, beside, SURE if parent else TYPO)  # paths that share a section are alike by nature
    if near:
        return f"{prefix}: no key of a recipe; did you mean {near!r}?"
    return f"{prefix}: no key of a recipe; `exptilt config{f' {parent}' if parent else ''}` lists them"


def _repeats(section: str, keys: Sequence[Key]) -> str:
    """The section with the same name at the top (`optim` for `sft.optim`), if there is one."""
    parent, _, name = section.rpartition(".")
    return name if parent and any(key.path == name and key.is_section for key in keys) else ""


def _print_block(section: str, chosen: Sequence[Key], keys: Sequence[Key], console: Console, repeated: bool) -> None:
    key_at = {key.path: key for key in keys}
    heading = Text(section or "recipe", style="bold")
    if section:
        heading.append(f"  {key_at[section].meaning}", style="not bold")
    console.print(heading)
    table = _table(("key", "default", "meaning"))
    for key in (key for key in chosen if key.parent == section):
        twin = _repeats(key.path, keys)
        if key.is_section and repeated and twin:
            different = _different(key.path, twin, keys)
            note = f"Keys as in {twin}" + (f", but {different}." if different else ".")
            table.add_row(key.path, "", Text(f"{key.meaning} {note}"))
        elif not key.is_section:
            table.add_row(key.path, Text(key.default), _meaning(key))
    console.print(table)
    console.print()


def _different(section: str, twin: str, keys: Sequence[Key]) -> str:
    defaults = {key.path: key.default for key in keys}
    names = [path.removeprefix(f"{twin}.") for path in defaults if path.startswith(f"{twin}.")]
    return ", ".join(
        f"{name} {defaults[f'{section}.{name}']}"
        for name in names
        if defaults[f"{section}.{name}"] != defaults[f"{twin}.{name}"]
    )


def _print_catalogue(objectives: Sequence[CatalogueEntry], console: Console, defaults: bool) -> None:
    console.print(
        Text.assemble((_LOSS, "bold"), "  The objective: loss: NAME, or keys of it: loss: {name: NAME, beta: 0.2}.")
    )
    console.print(Text("One of your own: loss: {import: package.module:MyLoss, alpha: 0.3}; see docs/own_parts.md"))
    console.print(Text("What one does, needs and how it fails: exptilt config loss.NAME", style="dim"))
    for kind, title in SECTIONS.items():
        entries = [entry for entry in objectives if entry.kind == kind]
        if entries:
            console.print(Text(f"\n  {title}", style="italic"))
            table = _table(("name", "objective and defaults"))
            for entry in entries:
                settings = ", ".join(f"{setting.name} {_brief(setting.default)}" for setting in entry.settings)
                table.add_row(entry.name, Text.assemble(entry.summary, (f" {settings}" if defaults else "", "dim")))
            console.print(table)


def _print_objective(entry: CatalogueEntry, keys: Sequence[Key], console: Console) -> None:
    console.print(Text.assemble((f"{_LOSS}: {entry.name}", "bold"), f"  {entry.summary}\n"))
    console.print(Text(textwrap.indent(entry.formula, "    ") + "\n"))
    table = _table(("key", "default", "meaning"))
    for key in keys:
        if not key.path.endswith(".name"):
            table.add_row(f"{_LOSS}.{key.path.rpartition('.')[2]}", Text(key.default), _meaning(key))
    if table.row_count:
        console.print(table)
        console.print()
    needs = ", ".join(entry.needs) or "log-probabilities only"
    for label, text in (
        ("trained on", SECTIONS[entry.kind].lower()),
        ("needs", needs),
        ("use when", entry.use_when),
        ("known failure", entry.known_failure),
        ("source", entry.source),
    ):
        console.print(Text.assemble((f"{label}: ", "dim"), text))


def _table(headings: Sequence[str]) -> Table:
    table = Table(box=None, pad_edge=False, show_header=False, padding=(0, 2, 0, 0))
    for heading in headings[:-1]:
        table.add_column(
            heading, no_wrap=heading != "default", overflow="fold", style="cyan" if heading != "default" else ""
        )
    table.add_column(headings[-1], overflow="fold", ratio=1)
    return table


def _meaning(key: Key) -> Text:
    return Text.assemble(key.meaning, (f" ({key.type})", "dim"))


def _brief(value: Any) -> str:
    return scalar(value) if isinstance(value, bool | int | float | str) else "..."


def _keys_below(
    node: Mapping[str, Any], definitions: Mapping[str, Any], prefix: str, defaults: Mapping[str, Any]
) -> Iterator[Key]:
    for name, entry in node.get("properties", {}).items():
        path = f"{prefix}{name}"
        inner = _follow(entry, definitions)
        variants = [_follow(variant, definitions) for variant in (*inner.get("oneOf", []), *inner.get("anyOf", []))]
        sections = [variant for variant in (inner, *variants) if "properties" in variant]
        default = defaults.get(name, entry.get("default"))
        shown = (
            _REQUIRED
            if name in node.get("required", ())
            else scalar({} if default is None and _is_map(entry) else default)
        )
        meaning = " ".join(str(entry.get("description") or inner.get("description", "")).split("\n\n")[0].split())
        yield Key(path, _type(entry, definitions), "" if sections and default else shown, meaning, bool(sections))
        for section in sections:
            tag = section["properties"].get("name", {}).get("const") if len(sections) > 1 else None
            inside = (
                default if isinstance(default, Mapping) and default.get("name") == (tag or default.get("name")) else {}
            )
            if tag:
                summary = str(section.get("description", "")).split("\n")[0]
                yield Key(f"{path}.{tag}", "section", "", summary, is_section=True)
            yield from _keys_below(section, definitions, f"{path}.{tag}." if tag else f"{path}.", inside)


def _follow(entry: Mapping[str, Any], definitions: Mapping[str, Any]) -> Mapping[str, Any]:
    reference = entry.get("$ref")
    return definitions[reference.rsplit("/", 1)[-1]] if reference else entry


def _is_map(entry: Mapping[str, Any]) -> bool:
    return entry.get("type") == "object"


def _type(entry: Mapping[str, Any], definitions: Mapping[str, Any]) -> str:
    if "const" in entry:
        return str(entry["const"])
    if "enum" in entry:
        return " | ".join(str(value) for value in entry["enum"])
    variants = [*entry.get("oneOf", []), *entry.get("anyOf", [])]
    if variants:
        return " or ".join(dict.fromkeys(_type(variant, definitions) for variant in variants))
    if "$ref" in entry:
        return "section"
    return {"string": "text", "boolean": "true or false", "array": "list", "object": "section"}.get(
        str(entry.get("type")), str(entry.get("type", "any"))
    )
