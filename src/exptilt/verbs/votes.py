"""`exptilt votes`: look into a store of votes, fill it from other tools' files, write it in their forms."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from exptilt.errors import ConfigError
from exptilt.votes.exchange.vote_files import VoteFile
from exptilt.votes.exchange.written_votes import write_votes
from exptilt.votes.vote_records import Rater
from exptilt.votes.vote_store import VoteStore
from exptilt.wording import counted


def votes(
    files: Sequence[Path],
    store: str | Path,
    *,
    form: str | None = None,
    output: Path | None = None,
    baseline: str | None = None,
) -> None:
    """Import files into a store, or write the store in the form of another tool; then say what the store holds.

    Args:
        files: AlpacaEval's annotations.json, Chatbot Arena's rows, folders of MT-Bench and Arena-Hard.
        store: made where there is none and files are given.
        form: what is written, see `write_votes`.
        output: where it goes.
        baseline: of Arena-Hard.

    Raises:
        ExptiltError: a file of another form, an output that is there, a store that cannot be used.
    """
    if (form is None) != (output is None):
        raise ConfigError("--as FORM and --output go together: one says what is written, the other where")
    if form is not None and files:
        raise ConfigError("give files to import, or --as FORM to write the store, one after the other")
    with VoteStore(store, create=bool(files)) as opened:
        for path in files:
            file = VoteFile(path)
            total, added = file.import_into(opened)
            known = f", {total - added:,} of them were there" if added < total else ""
            print(f"{path}: {counted(total, 'vote')}{known}")
            _say_left_out(file.left_out)
        if form is not None and output is not None:
            done = write_votes(opened, form, output, baseline)
            written = "answer" if form == "model_outputs" else "vote"
            print(f"{output}: {counted(done.count, written)}")
            _say_left_out(done.left_out)
        else:
            _print_contents(opened)


def _say_left_out(left_out: Counter[str]) -> None:
    for reason, count in left_out.most_common():
        print(f"left out: {count:,} with {reason}")


def _print_contents(store: VoteStore) -> None:
    """Who voted on how many comparisons, and how."""
    by_rater: dict[Rater, Counter[str]] = defaultdict(Counter)
    compared: dict[Rater, set[str]] = defaultdict(set)
    for vote in store.votes():
        by_rater[vote.rater][vote.outcome or "ranking"] += 1
        compared[vote.rater].add(vote.comparison)
    table = Table(
        box=None, pad_edge=False, header_style="bold", title=Text(store.name, style="bold"), title_justify="left"
    )
    for heading in ("rater", "is a", "votes", "comparisons", "outcomes"):
        table.add_column(heading)
    for rater, outcomes in sorted(by_rater.items(), key=lambda item: -item[1].total()):
        said = ", ".join(f"{count:,} {outcome}" for outcome, count in outcomes.most_common())
        table.add_row(Text(rater.name), rater.kind, f"{outcomes.total():,}", f"{len(compared[rater]):,}", said)
    Console().print(table)
