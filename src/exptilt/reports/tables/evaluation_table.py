"""What was measured, in a terminal."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from exptilt.run_folder.folder import RunFolder

_GAINERS = 3


def print_summary(folder: RunFolder) -> None:
    """Print the few numbers a finished run is judged by; nothing where nothing was measured."""
    evaluation = folder.read("evaluation.json")
    brief: dict[str, Any] = {name: evaluation[name] for name in ("longest_wins", "kl") if name in evaluation}
    accuracy = evaluation.get("accuracy", {})
    brief["accuracy"] = {family: {"sum": forms["sum"]} for family, forms in accuracy.items() if "sum" in forms}
    table = evaluation_table(brief)
    if table.row_count:
        Console().print(table)


def evaluation_table(evaluation: dict[str, Any]) -> Table:
    """Every estimate of an evaluation with its interval, in 80 columns."""
    table = Table("measure", box=None, pad_edge=False, header_style="bold")
    for heading in ("value", "interval", "prompts"):
        table.add_column(heading, justify="right", no_wrap=True)
    for name, estimate in _rows(evaluation).items():
        low, high = estimate["low"], estimate["high"]
        interval = "unknown" if low is None or high is None else f"[{low:.3f}, {high:.3f}]"
        value = "undefined" if estimate["value"] is None else f"{estimate['value']:.3f}"
        table.add_row(Text(name), value, interval, str(estimate["n"]))
    return table


def _rows(evaluation: dict[str, Any]) -> dict[str, Any]:
    rows = {
        f"accuracy {family.replace('_', ' ')}, {form.replace('_', ' ')}": estimate
        for family, forms in evaluation.get("accuracy", {}).items()
        for form, estimate in forms.items()
    }
    sections = evaluation.get("sections", {})
    rows |= {f"accuracy, section {name}": estimate for name, estimate in sections.get("sections", {}).items()}
    rows |= {"accuracy, all sections alike": sections["overall"]} if "overall" in sections else {}
    for name, key in (("longest wins", "longest_wins"), ("AUC of the margin", "auc"), ("KL, nats", "kl")):
        if key in evaluation:
            rows[name] = evaluation[key]
    moved = evaluation.get("displacement", {})
    for side in ("chosen", "rejected", "forced", "remainder"):
        if side in moved:
            rows[f"log-ratio, {side}" if side in ("chosen", "rejected") else f"their mean, {side} part"] = moved[side]
    rows |= {f"length, {name.replace('_', ' ')}": value for name, value in evaluation.get("lengths", {}).items()}
    for where, line in evaluation.get("reward_on_length", {}).items():
        if line is not None:
            of = "data" if where == "data" else "own samples"
            rows[f"reward for each token, {of}"] = line["slope"]
            rows[f"share of it explained by length, {of}"] = line["r_squared"]
    return rows


def gainers_text(evaluation: dict[str, Any]) -> Text:
    """Where the probability went: the policy's samples that gained most; empty where none were drawn."""
    rows = evaluation.get("displacement", {}).get("gainers", [])[:_GAINERS]
    text = Text()
    if rows:
        text.append("where the probability went (fresh samples that gained most, nats):", style="bold")
    for row in rows:
        said = " ".join(f"{row['prompt'][-60:]}|{row['completion'][:160]}".split())
        text.append(f"\n  {row['log_ratio']:+.1f}  {said}")
    return text
