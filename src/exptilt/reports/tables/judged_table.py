"""Win rates, judge accuracies and agreement, in a terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from exptilt.evaluation.power import minimum_detectable_difference
from exptilt.run_folder.estimate_record import Estimate
from exptilt.run_folder.judged_record import BestTemperature, JudgeColumn, Judged, JudgedCell
from exptilt.wording import counted


def print_work(
    pairs: int, work: Mapping[str, Any], total: Any, prompts: int, *, several: bool, unpriced: bool = False
) -> None:
    """What a command will do before it does it.

    Args:
        pairs: comparisons, each once.
        work: of each judge that is called, by name.
        total: all of it; None where nobody is called.
        prompts: that the smallest match has.
        several: whether policies will be compared with each other, and not only with one half.
        unpriced: whether a server elsewhere is called without prices.
    """
    say(f"{counted(pairs, 'comparison')}, each in both orders")
    for name, one in work.items():
        say(
            f"{name}: {one.calls} calls for {one.verdicts} verdicts ({one.stored} are stored), about "
            f"{one.prompt_tokens} prompt tokens and at most {one.completion_tokens} of replies; at most {one.cost:.4g} "
            "at the prices given"
        )
    if len(work) > 1:
        say(f"all together: {total.calls} calls, at most {total.cost:.4g}")
    if unpriced:
        say("no prices were given: --price-in and --price-out, per million tokens, say what it costs")
    from_half = minimum_detectable_difference(prompts, sd=0.5, correlation=0.5)  # sqrt(2 (1 - 1/2)) = 1: one mean alone
    say(f"smallest distance from one half that {counted(prompts, 'prompt')} can show (80 % power): {from_half:.3f}")
    if several:
        between = minimum_detectable_difference(prompts, sd=0.5, correlation=_CORRELATION)
        say(f"smallest difference between two policies on the same prompts: {between:.3f}")


_CORRELATION = 0.27
"""Of two models' wins against one opponent over prompts, the mean over 25 models of AlpacaEval."""


def print_judged(found: Mapping[str, Any], kin: Sequence[Any] = ()) -> None:
    """One table for each match, a row for each judge; then doubts, kin, differences and ratings."""
    names = list(dict.fromkeys(name for one in found.values() for name in one.matches))
    for name in names:
        table = new_table(
            name, "judge", "win rate", "slot-corrected", "length-controlled", "same in both orders", "ties", "unscored"
        )
        for judge, one in found.items():
            match = one.matches[name]
            rates, controlled = match.rates, match.length_controlled
            table.add_row(
                Text(judge),
                headline(rates.swap_average, rates.lower_bound, rates.upper_bound),
                told(rates.slot_corrected),
                told(None if controlled is None else controlled.win_rate),
                _share(rates.consistent),
                _share(rates.ties),
                f"{rates.unscored} of {rates.verdicts}",
            )
        Console().print(table)
        equal = next(iter(found.values())).matches[name].equal_answers
        if equal:
            say(f"{counted(equal, 'comparison')} of two equal answers: ties that nobody was asked about")
        for judge, one in found.items():
            for doubt in one.matches[name].doubts:
                say(f"{judge}: {doubt}")
    for note in kin:
        say(kin_sentence(note.judge, note.match, note.base, note.more_than_others))
    for judge, one in found.items():
        _print_differences(judge, one)
        if one.ratings is not None:
            _print_ratings(judge, one.ratings)


def print_grid(record: Judged) -> None:
    """A table for each real judge, a row for each cell; then best temperatures and gaps."""
    for judge in record.real_judges:
        table = new_table(
            judge.name, "data", "policy", "step", "T", "win rate", "slot-corrected", "length-controlled", "KL, nats",
            "same in both orders", "unscored",
        )  # fmt: skip
        for cell in judge.cells:
            table.add_row(
                Text(cell.data),
                Text(cell.policy),
                step_of(cell),
                "" if cell.temperature is None else f"{cell.temperature:g}",
                headline(cell.win_rate, cell.lower_bound, cell.upper_bound),
                told(cell.slot_corrected),
                told(cell.length_controlled),
                told(cell.kl),
                _share(cell.consistent),
                f"{cell.unscored} of {cell.verdicts}",
            )
        Console().print(table)
        _print_chosen(judge)
        for cell in judge.cells:
            for doubt in cell.doubts:
                say(f"{judge.name}, {cell.title}: {doubt}")
        for note in judge.kin:
            say(kin_sentence(judge.name, note.title, note.base, note.more_than_others))


def headline(rate: Estimate | None, lower: Estimate, upper: Estimate) -> str:
    """The win rate; where too many verdicts are missing, what it would be if all of them were lost, or won."""
    if rate is not None:
        return str(rate)
    return f"between {lower.value:.3f} and {upper.value:.3f}"


def step_of(cell: JudgedCell | BestTemperature) -> str:
    """The step of training; the end is called so."""
    step = "" if cell.step is None else f"{cell.step:,}"
    return step if not cell.final else f"end ({step})" if step else "end"


def kin_sentence(judge: str, match: str, base: str, more: Estimate | None) -> str:
    """What is said where a judge is asked about its own kin."""
    seen = f"its win rate is {more} above the other judges'" if more is not None else "no other judge stands beside it"
    return f"{judge} judges its own kin in {match} (both come from {base}): {seen}"


def _print_chosen(judge: JudgeColumn) -> None:
    if judge.best:
        table = new_table(
            f"{judge.name}: the best temperature of one half of the prompts, measured on the other half",
            "data", "policy", "step", "T", "win rate", "where it was chosen", "the maximum of all is too good by",
        )  # fmt: skip
        for best in (one for one in judge.best if one.final):
            table.add_row(
                Text(best.data),
                Text(best.policy),
                step_of(best),
                f"{best.temperature:g}",
                told(best.win_rate),
                f"{best.on_choosing_half:.3f}",
                f"{best.optimism:.3f}",
            )
        Console().print(table)
    if judge.gaps:
        table = new_table(f"{judge.name}: paired differences on the same prompts", "data", "difference", "value", "")
        for gap in judge.gaps:
            table.add_row(Text(gap.data), Text(f"{gap.first} minus {gap.second}"), told(gap.value), Text(gap.where))
        Console().print(table)


def print_faults(faults: Mapping[str, Mapping[str, int]]) -> None:
    """Why calls gave no verdict, judge by judge."""
    for judge, reasons in faults.items():
        said = "; ".join(
            f"{count:,} {reason}" for reason, count in sorted(reasons.items(), key=lambda item: -item[1])[:4]
        )
        if said:
            say(f"{judge}: calls without a verdict: {said}")


def print_benchmark(result: Mapping[str, Any]) -> None:
    """Accuracy of judges, by section."""
    sections = list(dict.fromkeys(name for one in result["judges"].values() for name in one.sections))
    few = sections if 1 < len(sections) <= 6 else []
    title = f"{result['benchmark']}: {result['scored']} of {result['items']} items have a better answer"
    table = new_table(title, "judge", "accuracy", "pairs right", "same in both orders", "unscored", *few)
    for judge, one in result["judges"].items():
        cells = [told(one.sections.get(name)) for name in few]
        orders = (_share(one.pairs_right), _share(one.consistent))
        table.add_row(Text(judge), told(one.accuracy), *orders, str(one.unscored), *cells)
    Console().print(table)


def _print_differences(judge: str, found: Any) -> None:
    if not found.pairs:
        return
    table = new_table(f"{judge}: win rates with intervals that hold together", "match", "value")
    for name, estimate in found.together.items():
        table.add_row(Text(name), told(estimate))
    Console().print(table)
    table = new_table(f"{judge}: paired differences on the same prompts", "difference", "value")
    for name, estimate in found.pairs.items():
        table.add_row(Text(name), told(estimate))
    Console().print(table)


def _print_ratings(judge: str, ratings: Any) -> None:
    table = new_table(
        f"{judge}: Bradley-Terry ratings, log-odds", "policy", "rating", "share in the mixture that never loses"
    )
    for k, policy in enumerate(ratings.policies):
        share = "" if ratings.von_neumann is None else f"{ratings.von_neumann[k]:.2f}"
        table.add_row(Text(policy), "none" if ratings.ratings is None else told(ratings.ratings[k]), share)
    Console().print(table)
    if ratings.ratings is None:
        groups = "; ".join(", ".join(group) for group in ratings.groups)
        say(f"no scale: these do not beat each other both ways: {groups}")
    if ratings.triples:
        say(f"{ratings.cycles} of {ratings.triples} triples are cycles")


def say(text: str) -> None:
    """One line, whose brackets are no markup."""
    Console().print(text, highlight=False, soft_wrap=True, markup=False)


def new_table(title: str, *headings: str) -> Table:
    """A table for a terminal: bold headings, no box."""
    table = Table(box=None, pad_edge=False, header_style="bold", title=Text(title, style="bold"), title_justify="left")
    for heading in headings:
        table.add_column(heading)
    return table


def told(estimate: Estimate | None) -> Text:
    """An estimate as text, whose brackets are no markup; empty where there is none."""
    return Text("" if estimate is None else str(estimate))


def _share(estimate: Estimate | None) -> str:
    return "" if estimate is None or estimate.value is None else f"{estimate.value:.3f}"
