"""Win rates as a page: the figures, a column for each judge, and what makes a number doubtful."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from exptilt.reports.figures.svg import Figure
from exptilt.reports.figures.win_rate_figures import judge_figures, policy_colours
from exptilt.reports.numbers import estimate
from exptilt.reports.page_files import environment, require_reports, write_files
from exptilt.reports.tables.judged_table import headline, kin_sentence
from exptilt.run_folder.estimate_record import Estimate
from exptilt.run_folder.judged_record import JudgeColumn, Judged, JudgedCell

Rows = list[tuple[str, str, list[str]]]
"""Name, colour and cells of each row of a table."""


@dataclass(frozen=True, kw_only=True)
class JudgedSection:
    """What the page shows of one judged.json."""

    headline: str
    figures: list[tuple[str, list[Figure]]]
    """By judge."""
    judges: list[str]
    rates: list[tuple[str, Rows]]
    """By data set: a row for each policy and temperature, a column for each judge."""
    details: list[tuple[str, Rows]]
    """Everything a judge's cells hold, by judge."""
    best: list[tuple[str, Rows]]
    gaps: list[tuple[str, Rows]]
    remarks: list[str]


def write_judged_page(record: Judged, path: Path, option: str = "--html") -> Path:
    """Write the page; equal records give equal bytes.

    Raises:
        CheckpointError: if something else is there, or it cannot be written.
    """
    require_reports([path], option)
    template = environment().get_template("judged.html")
    write_files({path: template.render(record=record, judged=judged_section(record))}, option)
    return path


def judged_section(record: Judged) -> JudgedSection:
    """The record as a section of a page."""
    colours = policy_colours([cell for judge in record.judges for cell in judge.cells])
    real = record.real_judges
    return JudgedSection(
        headline=judged_headline(record),
        figures=[(judge.name, judge_figures(judge, colours)) for judge in real],
        judges=[judge.name for judge in record.judges],
        rates=_rates(record, colours),
        details=[
            (judge.name, [(_label(c), _variable(colours[c.policy]), _detail(c)) for c in judge.cells]) for judge in real
        ],
        best=[(judge.name, _best(judge, colours)) for judge in real if judge.best],
        gaps=[(judge.name, _gaps(judge)) for judge in real if judge.gaps],
        remarks=_remarks(record),
    )


def judged_headline(record: Judged) -> str:
    """One sentence: whether the best policy wins more than half, by the first judge that is no yardstick."""
    judge = record.real_judges[0]
    best = max(judge.best, key=lambda one: one.win_rate.value or 0.0, default=None)
    if best is not None:
        where = f"{best.policy} at T={best.temperature:g}, on prompts that did not choose it"
        return f"{where}: {_told(best.win_rate)} by {judge.name}."
    known = [cell for cell in judge.cells if cell.win_rate is not None]
    if not known:
        return f"No win rate by {judge.name}: more than 5 % of its verdicts are missing."
    top = max(known, key=lambda cell: (cell.win_rate.value if cell.win_rate else 0.0) or 0.0)
    chosen = f" It is the best of {len(known)}, and looks too good for that." if len(known) > 1 else ""
    return f"{_label(top)} against {top.against}: {_told(top.win_rate)} by {judge.name}.{chosen}"


def _told(rate: Estimate | None) -> str:
    if rate is None or rate.interval is None:
        return f"wins {estimate(rate, percent=True)}"
    side = "more than half" if rate.interval[0] > 0.5 else "less than half" if rate.interval[1] < 0.5 else "about half"
    return f"wins {side}, {estimate(rate, percent=True)}"


def _rates(record: Judged, colours: dict[str, str]) -> list[tuple[str, Rows]]:
    """A table for each data set, of policies as they ended."""
    first = [cell for cell in (record.judges[0].cells if record.judges else ()) if cell.final]
    by_judge = [{cell.title: cell for cell in judge.cells} for judge in record.judges]
    opponents = {cell.against for cell in first}
    tables = []
    for data in dict.fromkeys(cell.data for cell in first):
        rows: Rows = []
        for cell in (one for one in first if one.data == data):
            rates = [_headline(cells[cell.title]) if cell.title in cells else "—" for cells in by_judge]
            against = f" against {cell.against}" if len(opponents) > 1 else ""
            rows.append((_brief(cell) + against, _variable(colours[cell.policy]), rates))
        against = f"against {next(iter(opponents))}" if len(opponents) == 1 else ""
        tables.append((", ".join(part for part in (data, against) if part), rows))
    return tables


def _detail(cell: JudgedCell) -> list[str]:
    return [
        _headline(cell),
        estimate(cell.together, percent=True),
        estimate(cell.slot_corrected, percent=True),
        estimate(cell.length_controlled, percent=True),
        estimate(cell.kl),
        estimate(cell.consistent, percent=True),
        estimate(cell.ties, percent=True),
        f"{cell.unscored:,} of {cell.verdicts:,}",
    ]


def _headline(cell: JudgedCell) -> str:
    if cell.win_rate is None:
        return headline(None, cell.lower_bound, cell.upper_bound)
    return estimate(cell.win_rate, percent=True)


def _best(judge: JudgeColumn, colours: dict[str, str]) -> Rows:
    return [
        (
            ", ".join(part for part in (best.policy, best.data) if part),
            _variable(colours[best.policy]),
            [
                f"{best.temperature:g}",
                estimate(best.win_rate, percent=True),
                f"{100 * best.on_choosing_half:.1f} %",
                f"{100 * best.optimism:.1f} points",
            ],
        )
        for best in judge.best
        if best.final
    ]


def _gaps(judge: JudgeColumn) -> Rows:
    return [
        (", ".join(part for part in (f"{gap.first} minus {gap.second}", gap.data) if part), "",
         [estimate(gap.value, percent=True), gap.where])
        for gap in judge.gaps
    ]  # fmt: skip


def _remarks(record: Judged) -> list[str]:
    found = []
    for judge in record.real_judges:
        found += [f"{judge.name}, {cell.title}: {doubt}" for cell in judge.cells for doubt in cell.doubts]
        found += [kin_sentence(judge.name, note.title, note.base, note.more_than_others) for note in judge.kin]
    equal = sum(cell.equal_answers for cell in (record.judges[0].cells if record.judges else ()))
    if equal:
        found.append(f"{equal:,} comparisons are of two equal answers: ties that nobody was asked about.")
    return found


def _label(cell: JudgedCell) -> str:
    return f"{_brief(cell)}{f', {cell.data}' if cell.data else ''}"


def _brief(cell: JudgedCell) -> str:
    step = "" if cell.final else f" step {cell.step}"
    warmth = "" if cell.temperature is None else f" T={cell.temperature:g}"
    return f"{cell.policy}{step}{warmth}"


def _variable(token: str) -> str:
    return f"var(--s{int(token[-1])})"
