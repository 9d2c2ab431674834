"""`exptilt doctor`: the first phase of a run alone, so that data faults cost seconds and not hours."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from exptilt.config import config, load
from exptilt.data.prepare import prepare
from exptilt.data.report import print_report, show_examples
from exptilt.data.sources import DataConfig
from exptilt.errors import ConfigError


def examine(source: str, overrides: Sequence[str], model: str | None, as_json: bool, num_examples: int) -> int:
    """Check data and print the report.

    Args:
        source: a recipe (.yaml), or a data file, folder or hub id.
        overrides: `key=value`, over the recipe or, for data alone, over the `data` section (`data.limit=100`).
        model: folder or hub id whose tokenizer is used; by default the recipe's own.
        as_json: print data.json's content instead of text.
        num_examples: rendered examples to show, where there is a tokenizer.

    Returns:
        0, or 1 if a run would refuse this data.
    """
    settings, kind, tokenizer = _subject(source, overrides, model)
    prepared = prepare(settings, tokenizer, kind, strict=False)
    console = Console()
    if as_json:
        print(json.dumps(prepared.report.as_dict(), indent=1))
    else:
        print_report(prepared.report, console)
        if tokenizer is not None:
            show_examples(prepared.train, tokenizer, console, num_examples)
    report = prepared.report
    nothing_left = any(split.kept == 0 for split in (report.train, report.test) if split is not None)
    refused = bool(report.errors) or nothing_left
    if not as_json:
        count = len(report.errors)
        why = f"{count} kind{'s' if count > 1 else ''} of error" if count else "nothing is left to use"
        verdict = f"a run would refuse these data: {why}" if refused else "a run would take these data"
        console.print(verdict, style="bold red" if refused else "green")
    return int(refused)


@config
class _Alone:
    """Data without a recipe."""

    data: DataConfig


def _subject(source: str, overrides: Sequence[str], model: str | None) -> tuple[DataConfig, Any, Any]:
    from exptilt.policies.models import ModelConfig
    from exptilt.recipes.vocabulary import named_tokenizer

    if Path(source).suffix in (".yaml", ".yml"):
        from exptilt.recipes.recipe import Recipe

        recipe = load(Recipe, source, overrides)
        named = ModelConfig(path=model) if model else recipe.model
        has_tokenizer = named.path is not None or named.tokenizer is not None
        return recipe.data, recipe.loss.kind, named_tokenizer(named) if has_tokenizer else None
    wrong = [item for item in overrides if not item.startswith("data.")]
    if wrong:
        raise ConfigError(f"command line: {wrong[0]!r}: without a recipe only data.* keys can be set (data.limit=100)")
    settings = load(_Alone, None, [f"data.train={json.dumps(source)}", *overrides]).data
    tokenizer = named_tokenizer(ModelConfig(path=model)) if model else None
    return settings, _kind_of(settings), tokenizer


def _kind_of(settings: DataConfig) -> str:
    """What objective rows of this source would be trained with, from the first of them."""
    from exptilt.data.intake import Split, read_splits
    from exptilt.data.problems import Ledger
    from exptilt.data.records import Demonstration, Ranking, Rating

    first: Split = read_splits(settings, Ledger(settings.policies))[0]
    kinds = {Ranking: "list", Rating: "unpaired", Demonstration: "completion"}
    return kinds.get(type(first.records[0]), "pair") if first.records else "pair"
