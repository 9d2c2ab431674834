"""The catalogue as data, read from the losses themselves: for the documentation page and for `exptilt config`.

Nothing is typed twice. One line, formula, advice and source come from a loss's docstring, defaults and their help from its fields,
needs from its class attributes. `python -m exptilt.losses.catalogue` prints the page.
"""

from __future__ import annotations

import dataclasses
import inspect
import re
from dataclasses import dataclass
from typing import Any, get_args

from exptilt.kinds import KINDS
from exptilt.losses import AnyLoss, AnyRewardLoss, Loss, Term
from exptilt.settings.load import schema

SECTIONS = {kind.name: kind.title for kind in KINDS}
BYPRODUCTS = {
    "divergence": "full distributions (KL to the reference)",
    "log_sum_squares": "full distribution (sum of squares)",
    "entropy": "full distribution (entropy)",
}
LABELS = ("Use when", "Known failure", "Source", "Example")


@dataclass(frozen=True, kw_only=True)
class Setting:
    """One hyper-parameter."""

    name: str
    default: Any
    help: str


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One loss as the catalogue shows it."""

    name: str
    class_name: str
    kind: str
    summary: str
    formula: str
    definition: str
    """Markdown: what the symbols mean, the formula, and what follows from it."""
    use_when: str
    known_failure: str
    source: str
    needs: tuple[str, ...]
    settings: tuple[Setting, ...]


def entries() -> tuple[Entry, ...]:
    """Every loss of the catalogue, in its order.

    Example:
        >>> entry = next(entry for entry in entries() if entry.name == "simpo")
        >>> entry.needs, [(setting.name, setting.default) for setting in entry.settings]
        (('lengths',), [('beta', 2.0), ('gamma', 1.0)])
    """
    members = (*get_args(get_args(AnyLoss)[0]), *get_args(get_args(AnyRewardLoss)[0]))
    return tuple(_entry(member()) for member in members)


def catalogue_markdown() -> str:
    """The page `docs/objectives.md`."""
    lines = [
        "# Objectives",
        "",
        "Every objective, its formula, what it needs, its defaults, its source, when to use it and how it fails.",
        "This page is generated from the code: `python -m exptilt.losses.catalogue > docs/objectives.md`.",
        "How the formulas relate to the papers, and where circulating ones differ, is in [papers.md](papers.md).",
        "",
        "Choose one in a recipe by its name: `loss: ipo`, or `loss: {name: ipo, beta: 0.2}`.",
    ]
    for kind, title in SECTIONS.items():
        chosen = [entry for entry in entries() if entry.kind == kind]
        lines += ["", f"## {title}", "", "| name | objective | needs |", "|---|---|---|"]
        lines += [f"| [`{e.name}`](#{e.name}) | {e.summary} | {', '.join(e.needs) or '-'} |" for e in chosen]
        for entry in chosen:
            lines += _section(entry)
    return "\n".join(lines) + "\n"


def _section(entry: Entry) -> list[str]:
    lines = ["", f"### {entry.name}", "", f"{entry.summary} (`exptilt.losses.{entry.class_name}`)"]
    lines += ["", entry.definition, "", f"- Needs: {', '.join(entry.needs) or 'log-probabilities only'}."]
    advice = (entry.use_when, entry.known_failure, entry.source)
    lines += [f"- {label}: {text}" for label, text in zip(LABELS, advice, strict=False)]
    if entry.settings:
        lines += ["", "| setting | default | meaning |", "|---|---|---|"]
        lines += [
            f"| `{s.name}` | `{_plain(s.default)}` | {s.help.replace('|', chr(92) + '|')} |" for s in entry.settings
        ]
    return lines


def _entry(loss: Loss) -> Entry:
    paragraphs = _paragraphs(type(loss))
    return Entry(
        name=loss.name,
        class_name=type(loss).__name__,
        kind=loss.kind.name,
        summary=paragraphs["summary"],
        formula=paragraphs["formula"],
        definition=paragraphs["definition"],
        use_when=paragraphs["Use when"],
        known_failure=paragraphs["Known failure"],
        source=paragraphs["Source"],
        needs=_needs(loss),
        settings=_settings(loss),
    )


def _paragraphs(cls: type[Loss]) -> dict[str, str]:
    """The parts of a loss's docstring; the formula is every indented block before the first label."""
    text = inspect.getdoc(cls) or ""
    head, *parts = re.split(rf"^({'|'.join(LABELS)}): ?", text, flags=re.MULTILINE)
    found = {label: " ".join(body.split()) for label, body in zip(parts[::2], parts[1::2], strict=True)}
    found["summary"], _, rest = head.strip().partition("\n")
    blocks = [block.strip("\n") for block in rest.split("\n\n") if block.strip()]
    formulas = [inspect.cleandoc("\n" + block) for block in blocks if block.startswith("    ")]
    found["formula"] = "\n".join(formulas)
    prose = [f"```text\n{formulas.pop(0)}\n```" if block.startswith("    ") else block for block in blocks]
    found["definition"] = "\n\n".join(prose)
    return found


def _needs(loss: Loss) -> tuple[str, ...]:
    flags = {
        "reference": loss.needs_reference,
        "lengths": loss.needs_lengths,
        "tokens": loss.needs_tokens,
        "whole batch": loss.couples_batch,
        "state": loss.is_stateful,
    }
    full = [BYPRODUCTS[name] for name in loss.byproducts]
    return (*(name for name, needed in flags.items() if needed), *full, *loss.inputs)


def _settings(loss: Loss) -> tuple[Setting, ...]:
    described = schema(type(loss))["properties"]
    names = [field.name for field in dataclasses.fields(loss) if field.name != "name"]  # type: ignore[arg-type]
    return tuple(
        Setting(name=name, default=getattr(loss, name), help=described[name].get("description", "")) for name in names
    )


def _plain(value: Any) -> str:
    """A default as it is written in a recipe."""
    if isinstance(value, tuple):
        return "[" + ", ".join(_plain(item) for item in value) + "]"
    if isinstance(value, Term):
        return f"{{weight: {value.weight:g}, loss: {value.loss.name}}}"
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    print(catalogue_markdown(), end="")
