"""Options of `exptilt label`, each with its help: the command itself stands in `people_commands`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Sources = Annotated[
    list[str] | None, typer.Argument(metavar="FILE...", help="Pairs, rankings, samples, runs, or a store of votes.")
]
Store = Annotated[str | None, typer.Option(help="Where votes go: a file or a postgresql:// URL. Default: votes.db.")]
People = Annotated[list[str] | None, typer.Option(metavar="NAME...", help="Who votes; each gets a link. Default: you.")]
Wanted = Annotated[int, typer.Option(min=1, help="People who vote on each comparison.")]
Question = Annotated[list[str] | None, typer.Option(help="What is asked; repeatable.")]
Guide = Annotated[str | None, typer.Option(metavar="FILE", help="Guidelines, in Markdown.")]
Known = Annotated[
    str | None, typer.Option(metavar="FILE", help="Pairs whose chosen side is right, mixed in to measure people.")
]
Rank = Annotated[bool, typer.Option("--rank", help="Rank samples of a prompt, up to seven at once.")]
Next = Annotated[str, typer.Option("--next", metavar="random|uncertain|disagree", help="Which comparison comes first.")]
Repeats = Annotated[float, typer.Option(min=0, max=0.5, help="Share that is silently asked again, reversed.")]
Lease = Annotated[float, typer.Option(metavar="MINUTES", help="How long a comparison stays with a person.")]
Host = Annotated[str, typer.Option(help="0.0.0.0 opens it to other machines; needs --people.")]
Port = Annotated[int | None, typer.Option(help="Default: the first free one from 8765.")]
AllowHost = Annotated[list[str] | None, typer.Option(help="A further name of this machine; repeatable.")]
Browser = Annotated[bool, typer.Option("--browser/--no-browser", help="Open the page.")]
Seed = Annotated[int, typer.Option(min=0, help="Of the order of comparisons and sides.")]
Import = Annotated[
    str | None,
    typer.Option("--import", metavar="FILE", help="Add votes of Argilla, Label Studio or an arena, and end."),
]
Export = Annotated[Path | None, typer.Option(metavar="FILE", help="Write all votes to a .jsonl or .csv file, and end.")]
Names = Annotated[bool, typer.Option("--names", help="Export people's names instead of pseudonyms.")]
