"""Win rates, judge accuracies and agreement, in a terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from exptilt.run_folder.estimate_record import Estimate


def print_work(pairs: int, work: Mapping[str, Any], total: Any, detectable: float) -> None:
    """What a command will do before it does it."""
    say = Console().print
    say(f"{pairs} comparisons, each in both orders", highlight=False)
    for name, one in work.items():
        say(
            f"{name}: {one.calls} calls for {one.verdicts} verdicts ({one.stored} are stored), about "
            f"{one.prompt_tokens} prompt tokens and at most {one.completion_tokens} of replies; at most {one.cost:.4g} "
            "at the prices given",
            highlight=False,
            soft_wrap=True,
        )
    if len(work) > 1:
        say(f"all together: {total.calls} calls, at most {total.cost:.4g}", highlight=False)
    say(f"smallest difference between two policies that this can find (80 % power): {detectable:.3f}", highlight=False)


def print_judged(found: Mapping[str, Any]) -> None:
    """One table for each match, a row for each judge; then differences and ratings."""
    names = list(dict.fromkeys(name for one in found.values() for name in one["matches"]))
    for name in names:
        table = _table(
            name, "judge", "win rate", "slot-corrected", "length-controlled", "same in both orders", "ties", "unscored"
        )
        for judge, one in found.items():
            match = one["matches"][name]
            rates, controlled = match["rates"], match["length_controlled"]
            headline = _said(rates.swap_average)
            if rates.swap_average is None:
                headline = f"between {rates.lower_bound.value:.3f} and {rates.upper_bound.value:.3f}"
            table.add_row(
                Text(judge),
                headline,
                _said(rates.slot_corrected),
                _said(None if controlled is None or rates.swap_average is None else controlled.win_rate),
                _share(rates.consistent),
                _share(rates.ties),
                f"{rates.unscored} of {rates.verdicts}",
            )
        Console().print(table)
    for judge, one in found.items():
        _print_differences(judge, one["differences"])
        if one["ratings"] is not None:
            _print_ratings(judge, one["ratings"])


def print_faults(faults: Mapping[str, Mapping[str, int]]) -> None:
    """Why calls gave no verdict, judge by judge."""
    for judge, reasons in faults.items():
        said = "; ".join(
            f"{count:,} {reason}" for reason, count in sorted(reasons.items(), key=lambda item: -item[1])[:4]
        )
        if said:
            Console().print(f"{judge}: calls without a verdict: {said}", highlight=False, soft_wrap=True, markup=False)


def print_benchmark(result: Mapping[str, Any]) -> None:
    """Accuracy of judges, by section."""
    sections = list(dict.fromkeys(name for one in result["judges"].values() for name in one.sections))
    few = sections if 1 < len(sections) <= 6 else []
    title = f"{result['benchmark']}: {result['scored']} of {result['items']} items have a better answer"
    table = _table(title, "judge", "accuracy", "pairs right", "same in both orders", "unscored", *few)
    for judge, one in result["judges"].items():
        cells = [_said(one.sections.get(name)) for name in few]
        orders = (_share(one.pairs_right), _share(one.consistent))
        table.add_row(Text(judge), _said(one.accuracy), *orders, str(one.unscored), *cells)
    Console().print(table)


def _print_differences(judge: str, found: Mapping[str, Any]) -> None:
    if not found:
        return
    table = _table(f"{judge}: paired differences on the same prompts", "difference", "value")
    for name, estimate in found["pairs"].items():
        table.add_row(Text(name), _said(estimate))
    Console().print(table)


def _print_ratings(judge: str, ratings: Any) -> None:
    table = _table(
        f"{judge}: Bradley-Terry ratings, log-odds", "policy", "rating", "share in the mixture that never loses"
    )
    for k, policy in enumerate(ratings.policies):
        share = "" if ratings.von_neumann is None else f"{ratings.von_neumann[k]:.2f}"
        table.add_row(Text(policy), "none" if ratings.ratings is None else _said(ratings.ratings[k]), share)
    Console().print(table)
    if ratings.ratings is None:
        groups = "; ".join(", ".join(group) for group in ratings.groups)
        Console().print(f"no scale: these do not beat each other both ways: {groups}", highlight=False)
    if ratings.triples:
        Console().print(f"{ratings.cycles} of {ratings.triples} triples are cycles", highlight=False)


def print_agreement(found: Mapping[str, Any]) -> None:
    """Judges and people: agreement beside chance."""
    table = _table(
        f"agreement with people on {found['items']} items",
        "rater",
        "agreement",
        "chance",
        "kappa",
        "majority",
        "bias",
        "Alt-Test",
    )
    for name, one in found["raters"].items():
        test = one["alternative_test"]
        said = "" if test is None else f"{'passes' if test.passes else 'fails'} ({test.winning_rate:.2f})"
        table.add_row(
            Text(name),
            _said(one["pair"].agreement),
            f"{one['pair'].chance:.3f}",
            _said(one["pair"].kappa),
            f"{one['majority']:.3f}",
            _said(one["bias"]),
            said,
        )
    Console().print(table)
    if found["alpha"] is not None:
        Console().print(f"Krippendorff's alpha of the people: {found['alpha']}", highlight=False)
    for name, powered in found["powered"].items():
        Console().print(f"{name}: win rate {powered.win_rate}; {powered.sentence}", highlight=False, soft_wrap=True)


def _table(title: str, *headings: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold", title=Text(title, style="bold"), title_justify="left")
    for heading in headings:
        table.add_column(heading)
    return table


def _said(estimate: Estimate | None) -> str:
    return "" if estimate is None else str(estimate)


def _share(estimate: Estimate | None) -> str:
    return "" if estimate is None or estimate.value is None else f"{estimate.value:.3f}"
