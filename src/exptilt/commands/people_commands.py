"""Commands about judgements: people who label, judges, votes and how far they agree."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from exptilt.commands import judge_options as asked
from exptilt.commands import label_options
from exptilt.commands.typed_words import require_installed, this_command
from exptilt.errors import ConfigError

app = typer.Typer()
"""The commands of this file; `exptilt.cli` puts those of all files together."""


@app.command()
def label(
    sources: label_options.Sources = None,
    store: label_options.Store = None,
    people: label_options.People = None,
    wanted: label_options.Wanted = 1,
    question: label_options.Question = None,
    guide: label_options.Guide = None,
    known: label_options.Known = None,
    rank: label_options.Rank = False,
    next_: label_options.Next = "random",
    repeats: label_options.Repeats = 0.07,
    lease: label_options.Lease = 30.0,
    host: label_options.Host = "127.0.0.1",
    port: label_options.Port = None,
    allow_host: label_options.AllowHost = None,
    browser: label_options.Browser = True,
    seed: label_options.Seed = 0,
    import_: label_options.Import = None,
    export: label_options.Export = None,
    names: label_options.Names = False,
) -> None:
    """Open a page on which people say which answers are better; every vote is on disk before the page moves on."""
    require_installed("label", "fastapi", "uvicorn", "markdown_it", "nh3")
    from exptilt.verbs.label import label as run
    from exptilt.verbs.label import label_request, move_votes

    if import_ is not None or export is not None:
        move_votes(store or "votes.db", import_, export, names=names)
        return
    rules = {"wanted": wanted, "next": next_, "repeats": repeats, "lease_minutes": lease, "seed": seed}
    stated: dict[str, Any] = {"store": store, "guide": guide, "known": known, "rank": rank, "host": host, "port": port}
    stated |= {"allowed_hosts": allow_host or [], "rules": rules | ({"questions": question} if question else {})}
    run(label_request(sources or (), people or (), stated), browser=browser)


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
        policies or (), against, benchmark, asking, common=common, output=output, html=html, command=this_command()
    )


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
