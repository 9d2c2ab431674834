"""`exptilt evaluate`: a run's model, or another one, on held-out rows, against the run's reference."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import transformers
from rich.console import Console
from rich.table import Table

from exptilt.config import load
from exptilt.data.prepare import prepare
from exptilt.data.report import print_report
from exptilt.errors import CheckpointError, DataError
from exptilt.policies.forward import context_length
from exptilt.policies.models import ModelConfig, load_model, load_tokenizer
from exptilt.recipes.measure import measure_policy
from exptilt.recipes.recipe import Recipe
from exptilt.recipes.references import reference_table
from exptilt.recipes.run_folder import RunFolder
from exptilt.train.objective import Objective


def evaluate_run(run: Path, overrides: Sequence[str], policy: Path | None = None) -> dict[str, Any]:
    """Measure on held-out rows, print a table, and keep the numbers in the run folder.

    The run's own evaluation is written to `evaluation.json`; with overrides or another policy to a file of its own,
    named after the test source and the policy, so that no number loses what it was measured on.

    Args:
        run: a run folder.
        overrides: `key=value` over the run's recipe, for example `data.test=other.jsonl`.
        policy: another model folder to measure against the run's reference.

    Raises:
        ExptiltError: no run there, no held-out rows, or no finished model.
    """
    folder = RunFolder(run)
    if not (run / "config.yaml").is_file():
        raise CheckpointError(f"{run}: is not a run folder (it has no config.yaml)")
    transformers.utils.logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    recipe = replace(load(Recipe, run / "config.yaml", _instead(overrides)), output=str(run))
    if not (policy or folder.model / "config.json").exists():
        raise CheckpointError(f"{policy or folder.model}: there is no model; finish the run with `exptilt train` first")
    start = recipe.model
    if recipe.sft is not None:
        start = ModelConfig(path=str(recipe.sft_recipe().folder / "model"), dtype=recipe.model.dtype)
    measured = ModelConfig(path=str(policy or folder.model), dtype=recipe.model.dtype)
    tokenizer = load_tokenizer(measured)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model: Any = load_model(measured, tokenizer)

    def first() -> Any:
        weights: Any = load_model(start, tokenizer, seed=recipe.seed)
        return weights.to(device)

    model = model.to(device)
    objective = Objective(recipe.loss)
    rows = prepare(recipe.data, tokenizer, recipe.loss.kind, context_length(model))
    console = Console()
    print_report(rows.report, Console(stderr=True))
    if not rows.test:
        raise DataError(
            f"{recipe.data.train}: no held-out rows; name some with data.test=... or data.test_fraction=0.1"
        )
    held_out = objective.prepare(rows.test)
    table = reference_table(recipe, first(), held_out) if recipe.loss.name != "sft" else None
    found = measure_policy(recipe, model, first, tokenizer, held_out, table)
    name = _name_of(recipe, overrides, policy)
    folder.write(name, found.evaluation)
    if found.margins:
        folder.write_lines(f"{Path(name).stem}-margins.jsonl", found.margins)
    console.print(_shown(found.evaluation))
    console.print(f"written: {folder.path / name}", highlight=False)
    return found.evaluation


def _instead(overrides: Sequence[str]) -> list[str]:
    """Held-out rows named on the command line stand instead of the share the run held out."""
    names_rows = any(item.startswith(("data.test=", "data.test_split=")) for item in overrides)
    return [*(["data.test_fraction=0"] if names_rows else []), *overrides]


def _name_of(recipe: Recipe, overrides: Sequence[str], policy: Path | None) -> str:
    if not overrides and policy is None:
        return "evaluation.json"
    parts = [Path(recipe.data.test or recipe.data.train).name.split(".")[0]]
    if policy is not None:  # every run's model lies in a folder `model`
        parts.append(policy.resolve().parent.name if policy.name == "model" else policy.name)
    return "-".join(["evaluation", *parts]) + ".json"


def print_summary(folder: RunFolder) -> None:
    """Print the few numbers a finished run is judged by; nothing where nothing was measured."""
    evaluation = folder.read("evaluation.json")
    brief: dict[str, Any] = {name: evaluation[name] for name in ("longest_wins", "kl") if name in evaluation}
    accuracy = evaluation.get("accuracy", {})
    brief["accuracy"] = {family: {"sum": forms["sum"]} for family, forms in accuracy.items() if "sum" in forms}
    table = _shown(brief)
    if table.row_count:
        Console().print(table)


def _shown(evaluation: dict[str, Any]) -> Table:
    table = Table("measure", box=None, pad_edge=False, header_style="bold")
    for heading in ("value", "interval", "prompts"):
        table.add_column(heading, justify="right")
    rows = {
        f"accuracy {family.replace('_', ' ')}, {form.replace('_', ' ')}": estimate
        for family, forms in evaluation.get("accuracy", {}).items()
        for form, estimate in forms.items()
    }
    for name, key in (("longest wins", "longest_wins"), ("AUC of the margin", "auc"), ("KL, nats", "kl")):
        if key in evaluation:
            rows[name] = evaluation[key]
    rows |= {f"length, {name.replace('_', ' ')}": value for name, value in evaluation.get("lengths", {}).items()}
    for name, estimate in rows.items():
        low, high = estimate["low"], estimate["high"]
        interval = "unknown" if low is None or high is None else f"[{low:.3f}, {high:.3f}]"
        table.add_row(name, f"{estimate['value']:.3f}", interval, str(estimate["n"]))
    return table
