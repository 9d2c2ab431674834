"""`exptilt prepare`: read, check and tokenise the rows of a recipe before GPUs are held; the run then finds them on disk."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from rich.console import Console

from exptilt.data.account.data_terminal import print_report
from exptilt.data.cache import LEAST_GROUPS, DataCache
from exptilt.data.prepared import Prepared, refused
from exptilt.data.prepared import prepare as prepare_data
from exptilt.errors import ConfigError
from exptilt.policies.architecture import declared_context
from exptilt.runs.run_tokenizer import find_tokenizer
from exptilt.settings.recipe import Recipe


@dataclass(frozen=True, kw_only=True)
class PreparedPhase:
    """The rows of one phase, and the folder that holds them; None where they are not kept."""

    name: str
    rows: Prepared
    folder: Path | None


def prepare(recipe: Recipe, console: Console | None = None) -> tuple[PreparedPhase, ...]:
    """Prepare the rows of every phase of a run, the supervised one first, as the run itself does, and keep them.

    No weight is loaded. Rows are kept under `EXPTILT_CACHE` (`~/.cache/exptilt`), named by the content of the sources,
    the tokenizer and the settings of the data, so that the run finds them as long as none of these changes.

    Args:
        recipe: of the run.
        console: where the account of the rows is printed.

    Raises:
        ConfigError: the recipe has rounds, whose rows do not exist yet.
        DataError: rows are wrong and no setting says what to do, or nothing is left; as `train` would say.
        ModelError: the recipe names no model, or its tokenizer cannot be read.
    """
    if recipe.rounds is not None:
        raise ConfigError("rounds: the rows of a round are sampled when it begins, so there are none to prepare")
    console = console or Console()
    tokenizer = find_tokenizer(recipe.model, recipe.data)
    context = declared_context(recipe.model, tokenizer)
    phases = [*([recipe.sft_recipe()] if recipe.sft is not None else []), replace(recipe, sft=None)]
    made = []
    for phase in phases:
        kind = phase.loss.kind
        rows = prepare_data(phase.data, tokenizer, kind, context, strict=False)
        print_report(rows.report, console)
        refused(rows)
        cached = DataCache.of(phase.data, tokenizer, kind.name, context)
        kept = cached.folder if cached is not None and cached.folder.is_dir() else None
        name = "sft" if phase is not phases[-1] else phase.loss.name
        console.print(f"{name}: {_where(rows, kept)}")
        made.append(PreparedPhase(name=name, rows=rows, folder=kept))
    return tuple(made)


def _where(rows: Prepared, kept: Path | None) -> str:
    count = f"{len(rows.train):,} examples to train on and {len(rows.test):,} held out"
    if kept is not None:
        return f"{count}, kept in {kept}"
    if len(rows.train) < LEAST_GROUPS:
        return f"{count}; so few are made again in a moment and not kept"
    return f"{count}; not kept: the disk did not take them, or the source or tokenizer cannot be told by its files"
