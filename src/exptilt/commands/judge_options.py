"""Options of `exptilt judge` and `exptilt votes`, each with its help: the commands themselves stand in `cli`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Policies = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[ANSWERS...]", help="Files of answers, or run folders; or a grid: a YAML file, then key=value."
    ),
]
Against = Annotated[
    str | None, typer.Option(help="A file, a run folder, `reference` or `chosen`; without it all pairs are compared.")
]
By = Annotated[
    list[str] | None,
    typer.Option(
        metavar="JUDGE",
        help="server:MODEL[@URL], local:FOLDER, reward:FILE.yaml, reward:MODULE:NAME, votes[:RATER]; repeatable.",
    ),
]
Benchmark = Annotated[Path | None, typer.Option(metavar="FILE", help="Measure the judges on labelled pairs.")]
Store = Annotated[str, typer.Option(help="The store of votes: a file or a postgresql:// URL.")]
Template = Annotated[str, typer.Option(help="better, summary, concise-summary, dialogue, rubric, or a Jinja2 file.")]
Question = Annotated[list[str] | None, typer.Option(help="What is asked; repeatable.")]
BaseUrl = Annotated[str, typer.Option(help="Of the server.")]
Temperature = Annotated[float, typer.Option(help="Of the judge.")]
MaxTokens = Annotated[int, typer.Option(min=1, help="Of a judge's reply.")]
Replicates = Annotated[int, typer.Option(min=1, help="Times each order is asked.")]
Ties = Annotated[bool, typer.Option("--ties/--no-ties", help="Whether a judge may call a tie.")]
Concurrency = Annotated[int, typer.Option(min=1, help="Calls in flight.")]
Rate = Annotated[float | None, typer.Option(min=0.001, help="Calls a second at most.")]
Budget = Annotated[float | None, typer.Option(min=0, help="Money that may be spent, in the prices' currency.")]
PriceIn = Annotated[float, typer.Option(min=0, help="Of a million prompt tokens.")]
PriceOut = Annotated[float, typer.Option(min=0, help="Of a million reply tokens.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what it would do and cost, and end there.")]
Yes = Annotated[bool, typer.Option("--yes", help="Send texts to a host that is not this machine.")]
Common = Annotated[bool, typer.Option("--common", help="Compare on the prompts both sides have.")]
Seed = Annotated[int, typer.Option(min=0, help="Of labels, and of the coin.")]
Output = Annotated[Path | None, typer.Option(help="Write the numbers to a JSON file; a grid has a folder for them.")]
Html = Annotated[Path | None, typer.Option(metavar="FILE", help="Write a page with figures, too; a grid has one.")]

VoteFiles = Annotated[
    list[Path] | None,
    typer.Argument(
        metavar="[FILES]",
        help="AlpacaEval's annotations.json, Chatbot Arena's rows, folders of MT-Bench and Arena-Hard.",
    ),
]
Form = Annotated[
    str | None,
    typer.Option(
        "--as", metavar="FORM", help="Write alpaca_eval, chatbot_arena, mt_bench, arena_hard or model_outputs."
    ),
]
VotesOutput = Annotated[Path | None, typer.Option(help="The file or folder to write.")]
Baseline = Annotated[str | None, typer.Option(help="Of arena_hard; by default the policy compared most often.")]
