"""The table of TRL's keywords, as a page of the documentation: the answer of the converters to every one of them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from exptilt.converters.conversion import draft_of
from exptilt.converters.draft import Draft, Fate, Outcome
from exptilt.converters.trl_keywords import BESIDE, BY_TRAINER, EVERY, KINDS, OBJECTS, OWN, SHARDED
from exptilt.settings.yaml_source import to_yaml

_SAYS: Mapping[Outcome, str] = {
    "used": "used",
    "default": "equal",
    "no effect": "no effect here",
    "refused": "refused",
}
_ROWS = 1000
"""Training rows that the examples have, for what is counted in epochs."""


def fate_of(kind: str, keyword: str, value: Any) -> Fate:
    """What becomes of one keyword of one configuration, alone or beside those without which it means nothing.

    Example:
        >>> fate_of("DPO", "beta", 0.5).says
        'loss.beta'
    """
    if keyword in BY_TRAINER:
        return Fate(keyword, value, "used", BY_TRAINER[keyword])
    source = {"trainer": f"{kind}Trainer", **BESIDE.get(keyword, {}), keyword: value}
    draft = Draft(source, frozenset(source), rows=_ROWS)
    draft_of(draft, Path(), processes=1)
    fate = draft.fates[keyword]
    if fate.outcome == "used" and draft.settings.get("parallel.kind") == "fsdp":
        return Fate(keyword, value, "refused", SHARDED)
    return fate


def page() -> str:
    """The page."""
    counts = len(EVERY) + sum(len(own) for own in OWN.values())
    lines = [
        "# Every keyword of TRL",
        "",
        "What `exptilt.trl` makes of the keywords of TRL 0.7 to 1.16, each with a value that is not its default. `exptilt convert`",
        "goes by the same rules. This page is made by `make docs` from `converters/trl_keywords.py` and the rules beside it.",
        "",
        "- **used**: it sets the keys of a recipe that are named;",
        "- **equal**: it says what holds here anyway;",
        "- **no effect here**: nothing that is computed depends on it, for the reason given;",
        "- **refused**: a run would differ; the trainer says so by name, with what to set, unless it is switched off.",
        "",
        f"{counts} keywords of configurations and {len(OBJECTS)} of trainers.",
        "",
    ]
    lines += _table("Keywords of every configuration", [(fate_of("DPO", key, value)) for key, value in EVERY.items()])
    for kind in KINDS:
        fates = [fate_of(kind, key, value) for key, value in OWN[kind].items()]
        lines += _table(f"Keywords of {kind}Config", fates)
    rows = [f"| `{name}` | {_SAYS[outcome]} | {says} |" for name, (outcome, says) in OBJECTS.items()]
    lines += ["## Keywords of trainers", "", "| keyword | here | how |", "|---|---|---|", *rows, ""]
    return "\n".join(lines)


def _table(title: str, fates: list[Fate]) -> list[str]:
    rows = [
        f"| `{fate.key}` | `{to_yaml(fate.value, flow=True)}` | {_SAYS[fate.outcome]} | {_how(fate)} |"
        for fate in fates
    ]
    return [f"## {title}", "", "| keyword | e.g. | here | how |", "|---|---|---|---|", *rows, ""]


def _how(fate: Fate) -> str:
    if fate.outcome != "used" or fate.key in BY_TRAINER:
        return fate.says.replace("|", "\\|")
    keys, semicolon, because = fate.says.partition("; ")
    return f"`{keys}`{semicolon}{because}".replace("|", "\\|")


if __name__ == "__main__":
    Path("docs/trl_keywords.md").write_text(page(), encoding="utf-8")
