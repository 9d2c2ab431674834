"""The command line: one verb a function; torch is imported by the verb that needs it, never by `--help`."""

from __future__ import annotations

import importlib.util
import json
import logging
import os
import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from exptilt import __version__
from exptilt import cli_options as asked
from exptilt.errors import ConfigError, ExptiltError, Stopped
from exptilt.processes.allocator import set_torch_defaults
from exptilt.processes.cores import settle_threads
from exptilt.usage import is_usage_error, read_as_meant, usage_line

app = typer.Typer(
    name="exptilt",
    help="Tilt a model toward what people prefer, and see how far it is from the best that could be reached.",
    no_args_is_help=False,  # see _root
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

Overrides = Annotated[
    list[str] | None, typer.Argument(metavar="key=value", help="Laid over the recipe, e.g. loss.beta=0.2")
]


def main() -> None:
    """Run the command line; a user's mistake is one line and exit status 2, never a traceback."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "off")  # but while rows are tokenised, see data.encode
    set_torch_defaults()
    settle_threads()
    os.environ.setdefault("HF_HUB_VERBOSITY", "error")
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # it tells everybody about kernels it did not find
    try:
        sys.exit(app(args=read_as_meant(sys.argv[1:]), standalone_mode=False))
    except Stopped as stop:
        print(stop)
    except ExptiltError as error:
        for line in () if error.told else str(error).splitlines():
            print(f"exptilt: {line}", file=sys.stderr)
        sys.exit(2)
    except Exception as error:
        if is_usage_error(error):
            print(f"exptilt: {usage_line(error.format_message(), sys.argv[1:])}", file=sys.stderr)  # type: ignore[attr-defined]
            sys.exit(2)
        from exptilt.disk import is_refusal, reason

        if not is_refusal(error):  # a bug of ours keeps its traceback
            raise
        where = f"{error.filename}: " if isinstance(error, OSError) and error.filename else ""
        print(f"exptilt: {where}{reason(error)}", file=sys.stderr)
        sys.exit(2)
    except SystemExit as leaving:
        if leaving.code in _INTERRUPTED:
            print(f"exptilt: interrupted; to go on from what is done: {_this_command()}", file=sys.stderr)
        raise


_INTERRUPTED = (130, 143)
"""Exit statuses after SIGINT and SIGTERM."""


def _this_command() -> str:
    launcher = "torchrun ... -m " if int(os.environ.get("WORLD_SIZE", "1")) > 1 else ""
    return launcher + shlex.join(["exptilt", *sys.argv[1:]])


@app.callback(invoke_without_command=True)
def _root(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version and leave.")] = False,
) -> None:
    if version:
        print(f"exptilt {__version__}")
        raise typer.Exit
    if context.invoked_subcommand is None:
        print(context.get_help())
        raise typer.Exit(2)


def require_installed(extra: str, *modules: str) -> None:
    """Refuse, in one line, what needs an extra that is not installed."""
    missing = [name for name in modules if importlib.util.find_spec(name) is None]
    if missing:
        raise ConfigError(f"this needs {', '.join(missing)}: pip install 'exptilt[{extra}]'")


@app.command()
def demo(
    output: Annotated[
        Path | None, typer.Option(help="Where runs and report go. Default: runs/demo, runs/demo-masks.")
    ] = None,
    seed: Annotated[int, typer.Option(help="One seed gives one table, on one machine and number of threads.")] = 0,
    seeds: Annotated[int, typer.Option(help="Seeds every objective is trained with; each takes its time.")] = 1,
    of_masks: Annotated[
        bool, typer.Option("--masks", help="Image masks: a segmenter, rounds, rivals; a minute.")
    ] = False,
) -> None:
    """Run the whole path in small: a model, preferences, five runs, a report."""
    from exptilt.verbs import demo as run

    if of_masks:
        if seeds != 1:
            raise ConfigError("--seeds: the demo of masks has one; give another --seed")
        run.demo_of_masks(output or Path("runs/demo-masks"), seed)
        return
    run.demo(output or Path("runs/demo"), seed, seeds=seeds)


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
    examples: Annotated[int, typer.Option(help="Rendered examples to show.")] = 2,
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
def train(
    recipe: Annotated[Path, typer.Argument(help="The recipe, a YAML file.")], overrides: Overrides = None
) -> None:
    """Train by a recipe; run the command again to go on after a stop."""
    from exptilt.settings.any_recipe import load_recipe

    settings = load_recipe(recipe, overrides or [])
    from exptilt.runs.first_checks import check_run

    check_run(settings)  # a mistake does not wait for torch
    from exptilt.verbs.train import train as run

    run(settings, _this_command())


@app.command()
def sample(
    what: Annotated[
        str,
        typer.Argument(metavar="MODEL", help="A model, adapter or run, a hub id, a server's address, or a YAML file."),
    ],
    overrides: Overrides = None,
    output: Annotated[Path | None, typer.Option(help="The folder samples go to; run again to go on.")] = None,
) -> None:
    """Draw completions of prompts (data.train=prompts.jsonl num_samples=4), from a model or an OpenAI-compatible server."""
    from exptilt.verbs.sample import request_of
    from exptilt.verbs.sample import sample as run

    run(request_of(what, overrides or [], output))


@app.command()
def pair(
    samples: Annotated[
        list[str],
        typer.Argument(
            metavar="SAMPLES|VOTES [key=value]", help="Folders of samples or a store of votes, then settings."
        ),
    ],
    output: Annotated[Path | None, typer.Option(help="The .jsonl file to write.")] = None,
) -> None:
    """Make preferences of samples, by a reward (reward.kind=length) or by which model spoke (label=source); or of votes."""
    from exptilt.verbs.pair import pair as run
    from exptilt.verbs.pair import pair_request

    run(pair_request(samples, output))


@app.command()
def label(
    sources: Annotated[
        list[str] | None, typer.Argument(metavar="FILE...", help="Pairs, rankings, samples, runs, or a store of votes.")
    ] = None,
    store: Annotated[
        str | None, typer.Option(help="Where votes go: a file or a postgresql:// URL. Default: votes.db.")
    ] = None,
    people: Annotated[
        list[str] | None, typer.Option(metavar="NAME...", help="Who votes; each gets a link. Default: you.")
    ] = None,
    wanted: Annotated[int, typer.Option(min=1, help="People who vote on each comparison.")] = 1,
    question: Annotated[list[str] | None, typer.Option(help="What is asked; repeatable.")] = None,
    guide: Annotated[str | None, typer.Option(metavar="FILE", help="Guidelines, in Markdown.")] = None,
    known: Annotated[
        str | None, typer.Option(metavar="FILE", help="Pairs whose chosen side is right, mixed in to measure people.")
    ] = None,
    rank: Annotated[bool, typer.Option("--rank", help="Rank samples of a prompt, up to seven at once.")] = False,
    next_: Annotated[
        str, typer.Option("--next", metavar="random|uncertain|disagree", help="Which comparison comes first.")
    ] = "random",
    repeats: Annotated[
        float, typer.Option(min=0, max=0.5, help="Share that is silently asked again, reversed.")
    ] = 0.07,
    lease: Annotated[float, typer.Option(metavar="MINUTES", help="How long a comparison stays with a person.")] = 30.0,
    host: Annotated[str, typer.Option(help="0.0.0.0 opens it to other machines; needs --people.")] = "127.0.0.1",
    port: Annotated[int | None, typer.Option(help="Default: the first free one from 8765.")] = None,
    allow_host: Annotated[list[str] | None, typer.Option(help="A further name of this machine; repeatable.")] = None,
    browser: Annotated[bool, typer.Option("--browser/--no-browser", help="Open the page.")] = True,
    seed: Annotated[int, typer.Option(min=0, help="Of the order of comparisons and sides.")] = 0,
    import_: Annotated[
        str | None,
        typer.Option("--import", metavar="FILE", help="Add votes of Argilla, Label Studio or an arena, and end."),
    ] = None,
    export: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write all votes to a .jsonl or .csv file, and end.")
    ] = None,
    names: Annotated[bool, typer.Option("--names", help="Export people's names instead of pseudonyms.")] = False,
) -> None:
    """Open a page on which people say which answers are better; every vote is on disk before the page moves on."""
    from exptilt.settings.label_settings import LabelRequest
    from exptilt.settings.load import load

    require_installed("label", "fastapi", "uvicorn", "markdown_it", "nh3")
    from exptilt.verbs.label import export_votes, import_votes, sources_and_people
    from exptilt.verbs.label import label as run

    if import_ is not None or export is not None:
        if import_ is not None:
            import_votes(import_, store or "votes.db")
        if export is not None:
            export_votes(store or "votes.db", export, names=names)
        return
    files, raters = sources_and_people(sources or (), people or ())
    rules = {"wanted": wanted, "next": next_, "repeats": repeats, "lease_minutes": lease, "seed": seed}
    stated = {
        "sources": files,
        "people": raters,
        "store": store,
        "guide": guide,
        "known": known,
        "rank": rank,
        "host": host,
        "port": port,
        "allowed_hosts": allow_host or [],
        "rules": rules | ({"questions": question} if question else {}),
    }
    run(
        load(LabelRequest, None, [f"{key}={json.dumps(value)}" for key, value in stated.items() if value is not None]),
        browser=browser,
    )


@app.command()
def masks(
    segmenter: Annotated[str, typer.Argument(metavar="SEGMENTER", help="A run, a model folder, or a hub id.")],
    overrides: Overrides = None,
    output: Annotated[Path, typer.Option(help="The folder masks go to.")] = Path("masks"),
) -> None:
    """Make candidate masks near a segmenter's own (images=FOLDER), for people, or labelled (annotator.temperature=0.02)."""
    from exptilt.settings.load import load
    from exptilt.settings.mask_settings import MaskRequest

    stated = [f"segmenter={{path: {json.dumps(segmenter)}}}", f"output={json.dumps(str(output))}"]
    request = load(MaskRequest, None, [*stated, *(overrides or [])])
    from exptilt.verbs.masks import masks as run

    run(request)


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
def judge(
    policies: asked.Policies = None,
    against: asked.Against = None,
    by: asked.By = None,
    benchmark: asked.Benchmark = None,
    store: asked.Store = "votes.db",
    template: asked.Template = "better",
    question: asked.Question = None,
    base_url: asked.BaseUrl = "https://api.openai.com/v1",
    temperature: asked.Temperature = 0.0,
    max_tokens: asked.MaxTokens = 512,
    replicates: asked.Replicates = 1,
    ties: asked.Ties = True,
    concurrency: asked.Concurrency = 32,
    rate: asked.Rate = None,
    budget: asked.Budget = None,
    price_in: asked.PriceIn = 0.0,
    price_out: asked.PriceOut = 0.0,
    dry_run: asked.DryRun = False,
    yes: asked.Yes = False,
    common: asked.Common = False,
    seed: asked.Seed = 0,
    output: asked.Output = None,
    html: asked.Html = None,
) -> None:
    """Ask judges which answers are better: win rates with intervals, or a judge's accuracy on a benchmark."""
    from exptilt.judges.named_judges import JudgeOptions
    from exptilt.judges.server_request import Sampled
    from exptilt.judges.spending import Prices
    from exptilt.servers.endpoint import Endpoint
    from exptilt.verbs.judge import Asking, judge_as_told

    if budget is not None and price_in == price_out == 0:
        raise ConfigError("--budget needs the prices: --price-in and --price-out, per million tokens")
    endpoint = Endpoint(base_url=base_url, concurrency=concurrency, rate=rate)
    options = JudgeOptions(
        template=template, questions=question or (), endpoint=endpoint, budget=budget, replicates=replicates, ties=ties,
        sampled=Sampled(temperature, max_tokens, seed), prices=Prices(prompt=price_in, completion=price_out), seed=seed,
    )  # fmt: skip

    def confirm(text: str) -> bool:
        return yes or (sys.stdin.isatty() and typer.confirm(text))

    asking = Asking(judges=by or (), store=store, options=options, dry_run=dry_run, confirm=confirm)
    judge_as_told(
        policies or (), against, benchmark, asking, common=common, output=output, html=html, command=_this_command()
    )


@app.command()
def agree(
    stores: Annotated[list[str], typer.Argument(metavar="VOTES...", help="Stores of votes.")],
    epsilon: Annotated[
        float, typer.Option(min=0, max=0.999, help="Of the Alt-Test: what a person's time is worth.")
    ] = 0.1,
    policy: Annotated[
        str | None, typer.Option(help="Whose win rate people and judges are combined for; by default every known one.")
    ] = None,
    question: Annotated[str | None, typer.Option(help="Which question, where people were asked several.")] = None,
    output: Annotated[Path | None, typer.Option(help="Write the numbers to a JSON file.")] = None,
) -> None:
    """Show how well judges agree with people, beside chance, and what their labels are worth."""
    from exptilt.verbs.agree import agree as agree_stores

    agree_stores(stores, epsilon=epsilon, policy=policy, question=question, output=output)


@app.command()
def votes(
    files: asked.VoteFiles = None,
    store: asked.Store = "votes.db",
    form: asked.Form = None,
    output: asked.VotesOutput = None,
    baseline: asked.Baseline = None,
) -> None:
    """Look into a store of votes, fill it from other tools' files, or write it in their forms."""
    from exptilt.verbs.votes import votes as run

    run(files or (), store, form=form, output=output, baseline=baseline)


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
def chat(
    what: Annotated[str, typer.Argument(metavar="MODEL", help="A run, a model or adapter folder, a hub id.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="key=value", help="How answers are drawn, e.g. law.temperature=0.7")
    ] = None,
    against: Annotated[
        str | None,
        typer.Option(metavar="MODEL", help="Open a page that compares it blindly with this one, or with `reference`."),
    ] = None,
    system: Annotated[str, typer.Option(help="The system prompt.")] = "",
    store: Annotated[str, typer.Option(help="Where the page's votes go: a file or a postgresql:// URL.")] = "votes.db",
    port: Annotated[
        int | None, typer.Option(min=0, max=65535, help="Of the page. Default: the first free from 8765.")
    ] = None,
    browser: Annotated[bool, typer.Option("--browser/--no-browser", help="Open the page.")] = True,
) -> None:
    """Talk to a model in the terminal (/help lists commands), or on a page to two at once and vote for the better answer."""
    if against is not None:
        require_installed("label", "fastapi", "uvicorn", "markdown_it", "nh3")
    from exptilt.verbs.chat import chat as run
    from exptilt.verbs.chat import chat_page, chat_request

    request = chat_request(what, overrides or [], against=against, system=system)
    if against is None:
        run(request)
    else:
        chat_page(request, (what, against), store=store, port=port, browser=browser)


@app.command()
def serve(
    what: Annotated[str, typer.Argument(metavar="MODEL", help="A run, a model or adapter folder, a hub id.")],
    flags: Annotated[
        list[str] | None, typer.Argument(metavar="[-- FLAGS]", help="Handed to the server: -- --port 9000")
    ] = None,
    merge: Annotated[bool, typer.Option("--merge", help="Merge an adapter even where the server takes it.")] = False,
    merged: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Where a merged model goes. Default: RUN/merged.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the command, and end there.")] = False,
) -> None:
    """Serve a model over HTTP by `vllm serve` where it is installed, else by `transformers serve`."""
    from exptilt.verbs.serve import serve as run

    run(what, flags or (), merge=merge, merged=merged, dry_run=dry_run)


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


if __name__ == "__main__":
    main()
