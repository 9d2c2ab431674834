"""Commands that ask models: samples and preferences of them, masks, conversations, servers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from exptilt.commands.typed_words import Overrides, require_installed

app = typer.Typer()
"""The commands of this file; `exptilt.cli` puts those of all files together."""


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
