"""Commands about recipes and runs; torch is imported by the verb that needs it, never by `--help`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from exptilt.commands.typed_words import Overrides, this_command
from exptilt.errors import ConfigError

app = typer.Typer()
"""The commands of this file; `exptilt.cli` puts those of all files together."""


@app.command()
def demo(
    output: Annotated[Path, typer.Option(help="Where runs and report go.")] = Path("runs/demo"),
    seed: Annotated[int, typer.Option(help="One seed gives one table, on one machine and number of threads.")] = 0,
    seeds: Annotated[int, typer.Option(help="Seeds every objective is trained with; each takes its time.")] = 1,
) -> None:
    """Run the whole path in small: a model, preferences, five runs, a report."""
    from exptilt.verbs.demo import demo as run

    run(output, seed, seeds=seeds)


@app.command()
def init(
    path: Annotated[Path, typer.Argument(help="Where to write the recipe.")] = Path("recipe.yaml"),
    source: Annotated[
        list[str] | None,
        typer.Option("--from", metavar="DATA", help="Read these rows and choose the objective that fits; repeatable."),
    ] = None,
    model: Annotated[str | None, typer.Option(help="With --from: folder or hub id of the model to train.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite an existing file.")] = False,
    masks: Annotated[bool, typer.Option("--masks", help="A recipe for preferences between masks.")] = False,
) -> None:
    """Write a commented recipe to edit, or with --from one that fits your data, with the reason."""
    if source:
        from exptilt.verbs.init import init_from

        print(init_from(path, source, model, force=force))
        print(f"wrote {path}; {'' if model else 'set model.path, '}then: exptilt doctor {path} && exptilt train {path}")
        return
    if model is not None:
        raise ConfigError("--model needs --from DATA: without rows, set model.path in the recipe")
    from exptilt.verbs.init import init as run
    from exptilt.verbs.init import init_masks

    (init_masks if masks else run)(path, force)
    first = "segmenter.path" if masks else "model.path"
    print(f"wrote {path}; set {first} and data.train, then: exptilt doctor {path} && exptilt train {path}")


@app.command()
def doctor(
    source: Annotated[str, typer.Argument(help="A recipe, or a data file, folder or hub id.")],
    overrides: Overrides = None,
    model: Annotated[str | None, typer.Option(help="Model folder or hub id whose tokenizer is used.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
    examples: Annotated[int, typer.Option(min=0, help="Rendered examples to show.")] = 2,
    html: Annotated[Path | None, typer.Option(metavar="FILE", help="Write the report as a page, too.")] = None,
    reference_check: Annotated[
        bool,
        typer.Option("--reference-check", help="Load the model: does it know such text, which pairs may displace."),
    ] = False,
) -> None:
    """Check data before a run; exit status 1 if it would be refused."""
    if Path(source).suffix in (".yaml", ".yml"):
        from exptilt.settings.any_recipe import load_recipe
        from exptilt.settings.mask_settings import MaskRecipe

        recipe = load_recipe(source, overrides or [])  # a mistake in it does not wait for the libraries that read rows
        if isinstance(recipe, MaskRecipe):
            from exptilt.verbs.masks import doctor_of_masks

            raise typer.Exit(doctor_of_masks(recipe, as_json))
        from exptilt.runs.first_checks import check_places

        check_places(recipe)
    from exptilt.verbs.doctor import doctor as run

    status = run(source, overrides or [], model, as_json, examples, html=html, reference_check=reference_check)
    raise typer.Exit(status)


@app.command()
def prepare(
    recipe: Annotated[Path, typer.Argument(help="The recipe, a YAML file.")], overrides: Overrides = None
) -> None:
    """Read, check and tokenise the rows of a recipe before GPUs are held; `train` finds them on disk."""
    from exptilt.settings.any_recipe import load_text_recipe

    instead = "its files are read when it trains, and `exptilt doctor` checks them all"
    settings = load_text_recipe(recipe, overrides or [], instead)
    from exptilt.runs.first_checks import check_rows_and_tokenizer

    check_rows_and_tokenizer(settings)  # a mistake does not wait for torch
    from exptilt.verbs.prepare import prepare as run

    run(settings)


@app.command()
def plan(
    recipe: Annotated[Path, typer.Argument(help="The recipe, a YAML file.")],
    overrides: Overrides = None,
    gpus: Annotated[
        str | None, typer.Option(metavar="8xH100-80GB", help="Devices it would run on, or cpu. Default: this machine.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the plan as JSON.")] = False,
) -> None:
    """Estimate memory and time of a run before it starts; exit status 1 if it would not fit."""
    from exptilt.settings.any_recipe import load_recipe
    from exptilt.settings.mask_settings import MaskRecipe

    settings = load_recipe(recipe, overrides or [])
    if isinstance(settings, MaskRecipe):
        from exptilt.verbs.masks import plan_of_masks

        raise typer.Exit(plan_of_masks(settings, gpus, as_json))
    from exptilt.planning.planned_rows import refuse_nothing
    from exptilt.runs.first_checks import check_places

    first_rows = check_places(settings)
    if first_rows is not None:
        refuse_nothing(settings.data, first_rows)
    from exptilt.verbs.plan import plan as run

    raise typer.Exit(run(settings, gpus, as_json))


@app.command()
def train(
    recipe: Annotated[Path, typer.Argument(help="The recipe, a YAML file.")], overrides: Overrides = None
) -> None:
    """Train by a recipe; run the command again to go on after a stop."""
    from exptilt.settings.any_recipe import load_recipe

    settings = load_recipe(recipe, overrides or [])
    from exptilt.runs.first_checks import check_run

    check_run(settings)  # a mistake does not wait for torch
    from exptilt.verbs.train import train as run

    run(settings, this_command())


@app.command()
def evaluate(
    what: Annotated[str, typer.Argument(metavar="RUN_OR_MODEL", help="A run, a model or adapter folder, a hub id.")],
    overrides: Overrides = None,
    policy: Annotated[str | None, typer.Option(help="Measure this model instead of the run's.")] = None,
    reference: Annotated[
        list[str] | None, typer.Option(help="Measure against this model instead of the run's start; may be repeated.")
    ] = None,
    output: Annotated[Path | None, typer.Option(help="Where the files go: by default the run, or beside it.")] = None,
) -> None:
    """Measure a run on its held-out rows or others (data.test=other.jsonl), or any model (data.train=pairs.jsonl)."""
    from exptilt.settings.any_recipe import is_run_on_masks
    from exptilt.settings.evaluated_recipe import is_run, recipe_of_model, recipe_of_run, with_reference

    if is_run_on_masks(what):
        from exptilt.verbs.masks import evaluate_masks_of

        evaluate_masks_of(Path(what), overrides or [], policy, reference or (), output)
        return
    wanted = with_reference(overrides or [], reference[0] if reference else None)
    from exptilt.runs.first_checks import check_evaluated  # a mistake does not wait for torch

    if is_run(what):
        check_evaluated(recipe_of_run(Path(what), wanted), policy)
    elif policy is None:
        check_evaluated(recipe_of_model(what, wanted, output), what)
    from exptilt.verbs.evaluate import evaluate as run

    run(what, overrides or [], policy=policy, reference=reference or None, output=output)


@app.command()
def frontier(
    recipe: Annotated[Path, typer.Argument(help="A grid recipe, a YAML file.")], overrides: Overrides = None
) -> None:
    """Train a grid from one reference; reward against KL of all, beside the optimum."""
    from exptilt.settings.any_recipe import load_grid

    settings = load_grid(recipe, overrides or [])
    from exptilt.verbs.frontier import frontier as run

    run(settings)


@app.command()
def report(
    runs: Annotated[list[Path], typer.Argument(help="One or more run folders.")],
    output: Annotated[Path | None, typer.Option(help="Where to write; by default the first run's report.html.")] = None,
) -> None:
    """Write one self-contained page about one or several runs."""
    from exptilt.verbs.report import report as run

    run(runs, output)


@app.command()
def export(
    run: Annotated[Path, typer.Argument(help="A finished run folder.")],
    merge: Annotated[bool, typer.Option("--merge", help="Work the adapter into its base: one plain model.")] = False,
    output: Annotated[Path | None, typer.Option(help="Where to; with --merge by default RUN/merged.")] = None,
    push: Annotated[str | None, typer.Option(metavar="OWNER/NAME", help="Upload it to the hub as well.")] = None,
    private: Annotated[bool, typer.Option("--private", help="Make the hub repository a private one.")] = False,
) -> None:
    """Write a run's model as a plain folder, or put it on the hub."""
    from exptilt.settings.any_recipe import is_run_on_masks
    from exptilt.verbs.export import export as export_run

    if not (merge or output or push):
        raise ConfigError("nothing to do: add --merge, --output FOLDER or --push OWNER/NAME")
    if is_run_on_masks(run):
        from exptilt.verbs.masks import export_masks

        folder = export_masks(run, merge=merge, output=output)
    else:
        folder = export_run(run, merge=merge, output=output, card_for=push)
    print(f"model: {folder}")
    if push is not None:
        from exptilt.policies.publish import publish

        print(f"published: {publish(folder, push, private=private)}")


@app.command()
def convert(
    files: Annotated[list[Path], typer.Argument(help="Configurations that belong together, or a training script.")],
    output: Annotated[Path, typer.Option(help="The recipe to write.")] = Path("recipe.yaml"),
    processes: Annotated[int | None, typer.Option(min=1, help="Processes it ran on there.")] = None,
) -> None:
    """Make a recipe of a configuration of TRL, Axolotl, LLaMA-Factory, alignment-handbook, Unsloth, accelerate, DeepSpeed."""
    from exptilt.verbs.convert import convert as run

    run(files, output, processes)


@app.command()
def config(
    prefix: Annotated[
        str, typer.Argument(metavar="key", help="A section, key or objective: optim, optim.learning_rate, loss.dpo")
    ] = "",
    json_schema: Annotated[bool, typer.Option("--json-schema", help="Print JSON Schema, for editors.")] = False,
    masks: Annotated[bool, typer.Option("--masks", help="The keys of a recipe for masks.")] = False,
) -> None:
    """List the keys of a recipe with type, default and meaning."""
    from exptilt.settings.mask_settings import MaskRecipe
    from exptilt.settings.recipe import Recipe

    of_masks = masks or prefix.partition(".")[0] == "segmenter"
    cls: type[Recipe] | type[MaskRecipe] = MaskRecipe if of_masks else Recipe
    if json_schema:
        from exptilt.settings.load import schema

        print(json.dumps(schema(cls), indent=2))
        return
    from exptilt.verbs.config import config as run

    run(cls, prefix)
