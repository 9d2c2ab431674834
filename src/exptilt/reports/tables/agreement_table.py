"""Agreement of judges and people, in a terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.text import Text

from exptilt.reports.tables.judged_table import new_table, say, told
from exptilt.wording import counted

_SEVERAL = 0.05
"""Share of unscored votes above which an agreement is marked, since it is that of the rest alone."""


def print_agreement(found: Mapping[str, Any]) -> None:
    """Judges and people: agreement beside chance, each person left out in turn, and win rates by both."""
    _print_raters(found)
    if found["alpha"] is not None:
        say(f"Krippendorff's alpha of the people: {found['alpha']}")
    for name in found["without_people"]:
        say(f"{name}: has no item in common with people")
    for name, one in found["raters"].items():
        counts = one["counts"]
        if counts is not None and counts.unscored > _SEVERAL * (counts.votes + counts.unscored):
            share = f"{counts.unscored} of {counts.votes + counts.unscored}"
            say(f"{name}: {share} verdicts are unscored; its numbers are those of the rest")
    if found["leave_one_out"]:
        _print_leave_one_out(found["leave_one_out"])
    if found["policies"]:
        _print_policies(found["policies"])


def _print_raters(found: Mapping[str, Any]) -> None:
    table = new_table(
        f"agreement with people on {counted(found['items'], 'item')}",
        "rater", "agreement", "chance", "kappa", "with majority", "leans to length by", "Alt-Test",
        "votes", "ties", "skipped", "unscored", "missing",
    )  # fmt: skip
    for name, one in found["raters"].items():
        test, counts = one["alternative_test"], one["counts"]
        verdict = "" if test is None else f"{'passes' if test.passes else 'fails'} ({test.winning_rate:.2f})"
        numbers = ("votes", "ties", "skipped", "unscored", "missing")
        table.add_row(
            Text(name),
            told(one["pair"].agreement),
            f"{one['pair'].chance:.3f}",
            told(one["pair"].kappa),
            f"{one['majority']:.3f}",
            told(one["lean_to_length"]),
            verdict,
            *("" if counts is None else f"{getattr(counts, number)}" for number in numbers),
        )
    Console().print(table)


def _print_leave_one_out(found: Mapping[str, Any]) -> None:
    judges = list(dict.fromkeys(name for one in found.values() for name in one["gains"]))
    table = new_table(
        "each person left out: agreement with the majority of the others, and what a judge in that person's place gains",
        "person", "agreement", *judges,
    )  # fmt: skip
    for person, one in found.items():
        table.add_row(Text(person), f"{one['person']:.3f}", *(told(one["gains"].get(judge)) for judge in judges))
    Console().print(table)


def _print_policies(found: Mapping[str, Any]) -> None:
    table = new_table(
        "win rates by people and by judges, on the same items",
        "policy", "judge", "people", "judge's", "judge minus people", "both together (PPI++)",
    )  # fmt: skip
    for policy, by_judge in found.items():
        for judge, one in by_judge.items():
            powered = told(None if one.powered is None else one.powered.win_rate)
            table.add_row(Text(policy), Text(judge), told(one.people), told(one.judge), told(one.bias), powered)
    Console().print(table)
    for policy, by_judge in found.items():
        for judge, one in by_judge.items():
            if one.powered is not None:
                say(f"{policy} by {judge}: {one.powered.sentence}")
