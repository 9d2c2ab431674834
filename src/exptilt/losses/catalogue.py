"""The catalogue's documents, generated from the losses: what recipes are checked against, and the documentation page.

Nothing is typed twice. One line, formula, advice and source come from a loss's docstring, defaults, ranges and help from its fields,
needs from its class attributes. `python -m exptilt.losses.catalogue` (`make docs`) writes both documents.
"""

from __future__ import annotations

import inspect
import json
import re
from pathlib import Path
from typing import Any, get_args

from pydantic import TypeAdapter
from pydantic.json_schema import GenerateJsonSchema

from exptilt.kinds import PAIR
from exptilt.losses import AnyLoss, AnyRewardLoss, Loss
from exptilt.losses.mixture import Term, WeightedSum
from exptilt.settings.declaration import as_dict
from exptilt.settings.objectives import LABELS, PATH, SECTIONS, CatalogueEntry, document, entries

BYPRODUCTS = {
    "divergence": "full distributions (KL from the reference)",
    "kl": "full distributions (KL to the reference)",
    "log_sum_squares": "full distribution (sum of squares)",
    "entropy": "full distribution (entropy)",
}


class _Generator(GenerateJsonSchema):
    """Pydantic's JSON Schema; which losses another loss may hold is added when all definitions are together."""

    def is_instance_schema(self, schema: Any) -> dict[str, Any]:
        return {}

    def encode_default(self, dft: Any) -> Any:
        return [as_dict(item) for item in dft] if isinstance(dft, tuple) else dft


def objectives_document() -> dict[str, Any]:
    """The content of `settings/objectives.json`: what a recipe is checked against without torch, and what `exptilt config` shows."""
    policy, reward = get_args(AnyLoss), get_args(AnyRewardLoss)
    definitions: dict[str, Any] = {}
    for cls in (*policy, *reward):
        described = TypeAdapter(cls).json_schema(schema_generator=_Generator)
        definitions |= described.pop("$defs", {})
        definitions[cls.__name__] = described | {
            "description": re.split(r"\n+Example:", inspect.getdoc(cls) or "")[0],
            "x-objective": _facts(cls()),
        }
    pairs = [cls for cls in policy if cls.kind == PAIR and not issubclass(cls, WeightedSum)]
    definitions[Term.__name__]["properties"]["loss"] |= {"oneOf": [_reference(cls) for cls in pairs]}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$comment": "Generated from the losses by `make docs`; do not edit.",
        "title": "Objective of a recipe",
        "oneOf": [_reference(cls) for cls in policy],
        "x-reward-models": [_reference(cls) for cls in reward],
        "$defs": definitions,
    }


def write_documents(root: Path) -> None:
    """Write `settings/objectives.json` and the page `docs/objectives.md` of a checkout."""
    PATH.write_text(json.dumps(objectives_document(), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    document.cache_clear()
    (root / "docs" / "objectives.md").write_text(catalogue_markdown(), encoding="utf-8")


def _reference(cls: type[Any]) -> dict[str, str]:
    return {"$ref": f"#/$defs/{cls.__name__}"}


def catalogue_markdown() -> str:
    """The page `docs/objectives.md`."""
    lines = [
        "# Objectives",
        "",
        "Every objective, its formula, what it needs, its defaults, its source, when to use it and how it fails.",
        "This page is generated from the code: `make docs`.",
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


def _section(entry: CatalogueEntry) -> list[str]:
    lines = ["", f"### {entry.name}", "", f"{entry.summary} (`exptilt.losses.{entry.class_name}`)"]
    lines += ["", entry.definition, "", f"- Needs: {', '.join(entry.needs) or 'log-probabilities only'}."]
    advice = (entry.use_when, entry.known_failure, entry.source)
    lines += [f"- {label}: {text}" for label, text in zip(LABELS, advice, strict=False)]
    if entry.settings:
        lines += ["", "| setting | default | meaning |", "|---|---|---|"]
        lines += [
            f"| `{s.name}` | `{_default_in_yaml(s.default)}` | {s.help.replace('|', chr(92) + '|')} |"
            for s in entry.settings
        ]
    return lines


def _facts(loss: Loss) -> dict[str, Any]:
    paragraphs = _paragraphs(type(loss))
    return {
        "kind": loss.kind.name,
        "summary": paragraphs["summary"],
        "formula": paragraphs["formula"],
        "definition": paragraphs["definition"],
        "use_when": paragraphs["Use when"],
        "known_failure": paragraphs["Known failure"],
        "source": paragraphs["Source"],
        "needs": _needs(loss),
    }


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


def _needs(loss: Loss) -> list[str]:
    flags = {
        "reference": loss.needs_reference,
        "lengths": loss.needs_lengths,
        "tokens": loss.needs_tokens,
        "whole batch": loss.couples_batch,
        "state": loss.is_stateful,
    }
    full = [BYPRODUCTS[name] for name in loss.byproducts]
    return [*(name for name, needed in flags.items() if needed), *full, *loss.inputs]


def _default_in_yaml(value: Any) -> str:
    """A default as it is written in a recipe."""
    if isinstance(value, list):
        return "[" + ", ".join(_default_in_yaml(item) for item in value) + "]"
    if isinstance(value, dict):
        return f"{{weight: {value['weight']:g}, loss: {value['loss']['name']}}}"
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    write_documents(Path(__file__).parents[3])
