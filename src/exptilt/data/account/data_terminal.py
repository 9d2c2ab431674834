"""The data report in a terminal."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table
from rich.text import Text

from exptilt.data.account.data_report import _pieces, decoded
from exptilt.data.groups import Group
from exptilt.in_memory import shown_name
from exptilt.run_folder.data_record import DataReport, Finding, SplitReport

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_STYLES = {"error": "bold red", "warning": "yellow", "info": "dim"}
_FEW = 20
"""Least number of pairs for which a share is shown."""


def split_table(name: str, split: SplitReport) -> Table:
    """The account of one split as a table: rows read and kept, and facts about the kept ones."""
    table = Table.grid(padding=(0, 1))
    table.add_column(overflow="fold")
    title = Text(f"{name}: ", style="bold")
    title.append(f"{shown_name(split.source or 'rows')} (format {split.format})", style="not bold")
    table.add_row(title)
    for line in _facts(split):
        table.add_row(Text(f"  {line}"))
    return table


def _facts(split: SplitReport) -> Iterator[str]:
    left_out = {**split.rows_left_out}
    for code, count in split.examples_left_out.items():
        left_out[code] = left_out.get(code, 0) + count
    reasons = ", ".join(f"{count} {code}" for code, count in left_out.items()) or "none"
    yield f"{split.rows} rows read, {split.kept} examples kept; left out: {reasons}"
    shares, num_kept = [], split.kept or 0
    if split.longer_chosen is not None and num_kept >= _FEW:
        shares.append(f"the longer completion is chosen in {100 * split.longer_chosen:.1f} % of pairs")
    if split.more_markup_chosen is not None and num_kept >= _FEW:
        shares.append(f"the one with more markup in {100 * split.more_markup_chosen:.1f} % of those that differ in it")
    if shares:
        yield "; ".join(shares)
    if split.num_desirable or split.num_undesirable:
        yield f"{split.num_desirable} are desirable, {split.num_undesirable} not"
    if split.repeated:
        yield f"{split.repeated} of them are copies made by weights"
    if split.columns_not_read:
        yield f"columns not read: {', '.join(split.columns_not_read)}"
    for source in split.sources if len(split.sources) > 1 or any(each.licence for each in split.sources) else ():
        yield (
            f"{shown_name(source.path)} ({source.format}): {source.rows} rows, {source.records} records, "
            f"weight {source.weight:g}, licence {source.licence or 'not known'}"
        )


def lengths_table(split: SplitReport) -> Table:
    """Lengths of prompts and completions."""
    table = Table("  tokens", box=None, pad_edge=False, header_style="dim")
    for heading in ("least", "median", "95 %", "most", "total"):
        table.add_column(heading, justify="right")
    for name, lengths in split.lengths.items():
        cells = (lengths.least, lengths.median, lengths.p95, lengths.most, lengths.total)
        table.add_row(f"  {name}", *("-" if value is None else f"{value:,.0f}" for value in cells))
    return table


def findings_table(findings: tuple[Finding, ...]) -> Table:
    """The findings as a table: name and count, the first row in words, further rows, the remedy."""
    table = Table.grid(padding=(0, 1))
    table.add_column(justify="right", no_wrap=True)
    table.add_column(overflow="fold")
    for finding in findings:
        style = _STYLES[finding.severity]
        table.add_row(Text(finding.severity, style=style), _finding(finding, style))
    return table


def _finding(finding: Finding, style: str) -> Text:
    text = Text(finding.code, style=style)
    if finding.examples and (finding.count or 0) > 1:
        text.append(f", {finding.count} rows")
    text.append(f"\n{finding.message}", style="default" if finding.severity != "info" else "dim")
    if finding.also:
        text.append(f"\nalso {finding.also}", style="dim not bold")
    if finding.fix:
        text.append(f"\n-> {finding.fix}", style="not bold default" if finding.severity != "info" else "dim")
    return text


def print_report(report: DataReport, console: Console) -> None:
    """Print the account, the lengths and the findings."""
    for name, split in (("train", report.train), ("test", report.test)):
        if split is not None:
            console.print(split_table(name, split))
            if split.lengths:
                console.print(lengths_table(split))
    if report.findings:
        console.print(findings_table(report.findings))
    else:
        console.print("nothing to report", style="green")


def show_examples(
    groups: Sequence[Group], tokenizer: PreTrainedTokenizerBase, console: Console, num_examples: int = 2
) -> None:
    """Print groups as the model reads them: the prompt dim, tokens that count green, tokens that do not yellow."""
    for group in groups[:num_examples]:
        title = _rich_text()
        title.append(group.id)
        console.rule(title)
        prompt = _rich_text()
        prompt.append(decoded(tokenizer, group.prompt), style="dim")
        console.print(prompt)
        names = ("chosen", "rejected") if len(group.completions) == 2 else ()
        for position, completion in enumerate(group.completions):
            text = _rich_text()
            name = names[position] if names else f"completion {position + 1}"
            text.append(f"{name} ({completion.length} tokens count): ", style="bold")
            for piece, counted in _pieces(completion, tokenizer):
                text.append(piece, style="green" if counted else "yellow")
            console.print(text)


def _rich_text() -> Text:
    from rich.text import Text

    return Text()
