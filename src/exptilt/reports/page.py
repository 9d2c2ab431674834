"""The report: one HTML page that opens from disk without a request, and report.json with every number on it."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from exptilt.reports.displacement_section import DISPLACEMENT, is_this_normal
from exptilt.reports.figures.best_of_n_figure import best_of_n_figure, best_of_n_rows
from exptilt.reports.figures.curves import HEALTH, LEARNING, LEARNING_OF_SCORES, LIKELIHOOD, ROLLOUTS, Curve, curve
from exptilt.reports.figures.frontier_figure import colour_index, colour_keys, frontier_figure
from exptilt.reports.figures.held_out_figures import calibration, margin_histogram, score_histogram
from exptilt.reports.figures.proxy_figure import proxy_figure, proxy_rows
from exptilt.reports.figures.svg import SERIES, Figure
from exptilt.reports.judged_page import judged_section, write_judged_page
from exptilt.reports.page_files import environment, require_reports, write_files
from exptilt.reports.report_inputs import Inputs, read_inputs
from exptilt.reports.tables import page_sections
from exptilt.reports.tables.data_facts import data_groups
from exptilt.reports.tables.further_evaluations import further_evaluations
from exptilt.reports.tables.paired import paired_differences
from exptilt.reports.tables.rounds_table import round_rows
from exptilt.reports.tone import Conclusion, PageAnswer
from exptilt.reports.words.conclusion import conclusion_of, run_conclusion
from exptilt.reports.words.frontier_words import point_of
from exptilt.reports.words.remarks import Remark, alarms, cautions, commands, detectable, missing, remark_of
from exptilt.run_folder.file_names import REPORT_PAGE
from exptilt.run_folder.report_record import (
    AnswerRecord,
    ConclusionRecord,
    RemarkRecord,
    ReportedDifference,
    ReportedRun,
    ReportRecord,
)
from exptilt.run_folder.run_contents import RunContents
from exptilt.run_folder.run_record import RunRecord


def write_report(runs: Sequence[Path], out: Path | None = None) -> Path:
    """Read run folders and write report.html, with report.json beside it.

    Args:
        runs: run folders, or a frontier folder (frontier.json and `runs/*/`).
        out: the page to write, or a folder for it. By default in the run folder, for several in the folder they share.

    Returns:
        The path of the page.

    Raises:
        CheckpointError: if a folder is no run folder or a file in it is broken; the message names file and line. Or if a
            file would be replaced that is no report, or cannot be written.
    """
    inputs = read_inputs([Path(run) for run in runs])
    page = _target([Path(run) for run in runs], out)
    if inputs.judged is not None and not inputs.runs:
        return write_judged_page(inputs.judged, page, "--output")  # its numbers are in judged.json
    require_reports((page, page.with_suffix(".json")), "--output")
    conclusion = conclusion_of(inputs)
    html, content = render(inputs, conclusion), everything(inputs, conclusion).as_dict()
    numbers = json.dumps(_finite(content), indent=1, sort_keys=True, ensure_ascii=False)
    write_files({page: html, page.with_suffix(".json"): numbers + "\n"}, "--output")
    return page


def render(inputs: Inputs, conclusion: Conclusion) -> str:
    """Render the page as text; equal inputs give equal bytes."""
    return environment().get_template("template.html").render(context(inputs, conclusion))


def context(inputs: Inputs, conclusion: Conclusion) -> dict[str, Any]:
    """Collect the values that the template shows."""
    colours = run_colours(inputs)
    drawn, tokens = inputs.runs[: len(SERIES)], colours[: len(SERIES)]
    several = len(inputs.runs) > 1
    reward_models = bool(inputs.runs) and all(run.is_of_reward_model for run in inputs.runs)
    cards = page_sections.run_cards(inputs.runs)
    figures = {
        "learning": _present(curve(spec, drawn, tokens) for spec in _curves_of(drawn)),
        "displacement": _present([curve(DISPLACEMENT, drawn, tokens, large=True)]),
        "likelihood": _present([curve(LIKELIHOOD, drawn, tokens)]),
        "margins": _present([margin_histogram(drawn, tokens), score_histogram(drawn), calibration(drawn, tokens)]),
        "lengths": _present([page_sections.length_figure(inputs, tokens)]),
        "health": _present(curve(spec, drawn, tokens) for spec in HEALTH),
        "frontier": _present([frontier_figure(inputs.frontier)] if inputs.frontier else []),
        "proxies": _present([proxy_figure(inputs.frontier)] if inputs.frontier else []),
        "best_of_n": _present([best_of_n_figure(inputs.frontier)] if inputs.frontier else []),
    }
    return {
        "title": inputs.title,
        "conclusion": conclusion,
        "conclusions": [(run, run_conclusion(run, inputs.frontier)) for run in inputs.runs] if several else [],
        "runs": inputs.runs,
        "several": several,
        "reward_models": reward_models,
        "colours": {run.name: _variable(token) for run, token in zip(inputs.runs, colours, strict=True)},
        "num_drawn": len(drawn),
        "figures": figures,
        "judged": judged_section(inputs.judged) if inputs.judged else None,
        "frontier": inputs.frontier,
        "frontier_rows": page_sections.frontier_rows(inputs.frontier),
        "spread_rows": page_sections.spread_rows(inputs.frontier),
        "diversity_rows": page_sections.diversity_rows(inputs.frontier),
        "proxy_rows": proxy_rows(inputs.frontier),
        "round_rows": round_rows(inputs.rounds) if inputs.rounds else [],
        "best_of_n_rows": best_of_n_rows(inputs.frontier),
        "alarms": alarms(inputs),
        "same": [(name, values[0]) for name, values in cards if len(set(values)) == 1],
        "varying": [(name, values) for name, values in cards if len(set(values)) > 1],
        "differences": page_sections.differences(inputs.runs),
        "paired": paired_differences(inputs.runs),
        "data": data_groups(inputs.runs),
        "measured": page_sections.measured_tables(inputs.runs),
        "gaps": page_sections.gap_tables(inputs.runs),
        "further": further_evaluations(inputs.runs),
        "benchmarks": [(run.name, rows) for run in inputs.runs if (rows := page_sections.section_rows(run))],
        "gainers": [
            (run.name, run.evaluation.gainers) for run in inputs.runs if run.evaluation and run.evaluation.gainers
        ],
        "normal": [(run.name, answer) for run in inputs.runs if (answer := is_this_normal(run))],
        "samples": page_sections.sample_groups(inputs),
        "cautions": cautions(inputs),
        "commands": commands(inputs),
        "detectable": detectable(inputs),
        "missing": missing(inputs),
    }


def _curves_of(runs: Sequence[RunContents]) -> tuple[Curve, ...]:
    """What is drawn of training; a loss on rollouts says nothing by its value."""
    if runs and all(run.is_of_reward_model for run in runs):
        return LEARNING_OF_SCORES
    online = [run.is_online for run in runs]
    ranked = any(run.series("train/rewards/accuracies")[1] for run in runs)
    return (*(ROLLOUTS if any(online) else ()), *(LEARNING if ranked or not all(online) else LEARNING[1:]))


def run_colours(inputs: Inputs) -> list[str]:
    """The colour of each run: that of its point on the frontier, else the next free one."""
    keys = colour_keys(inputs.frontier) if inputs.frontier else {}
    points = [point_of(run, inputs.frontier) for run in inputs.runs]
    point_colours = [colour_index(point, keys) if point is not None else None for point in points]
    free = iter([index for index in range(len(SERIES)) if index not in point_colours] * (1 + len(point_colours)))
    return [
        SERIES[next(free, index % len(SERIES)) if colour is None else colour]
        for index, colour in enumerate(point_colours)
    ]


def everything(inputs: Inputs, conclusion: Conclusion) -> ReportRecord:
    """The content of report.json: the conclusion, and every number read, by run."""
    return ReportRecord(
        title=inputs.title,
        verdict=_conclusion(conclusion),
        runs=tuple(_numbers(run, inputs) for run in inputs.runs),
        frontier=inputs.frontier.known() if inputs.frontier else None,
        judged=inputs.judged.known() if inputs.judged else None,
        paired=tuple(
            ReportedDifference(
                **vars(row)
                | {"differences": {name: estimate.model_dump() for name, estimate in row.differences.items()}}
            )
            for row in paired_differences(inputs.runs)
        ),
        cautions=tuple(_remark(remark) for remark in cautions(inputs)),
        missing=tuple(missing(inputs)),
    )


def _numbers(run: RunContents, inputs: Inputs) -> ReportedRun:
    names = sorted({key for line in run.metrics for key in line} - {"step"})
    normal = is_this_normal(run)
    return ReportedRun(
        name=run.name,
        config=run.config,
        run=_run_of(run.info) if run.info else None,
        data=run.data.known() if run.data else None,
        metrics={
            "step": [line["step"] for line in run.metrics],
            **{name: [line.get(name) for line in run.metrics] for name in names},
        },
        evaluation=run.evaluation.known() if run.evaluation else None,
        further={name: one.known() for name, one in run.further.items()},
        samples=tuple(
            {"reference_score": sample.reference_score, "policy_score": sample.policy_score} for sample in run.samples
        ),
        verdict=_conclusion(run_conclusion(run, inputs.frontier)),
        is_this_normal=_answer(normal) if normal else None,
    )


def _run_of(info: RunRecord) -> dict[str, Any]:
    """The content of run.json, with its warnings in the page's words."""
    return info.known() | {"warnings": [vars(remark_of(caution)) for caution in info.warnings]}


def _conclusion(conclusion: Conclusion) -> ConclusionRecord:
    answers = tuple(_answer(answer) for answer in conclusion.answers)
    return ConclusionRecord(headline=conclusion.headline, answers=answers)


def _answer(answer: PageAnswer) -> AnswerRecord:
    return AnswerRecord(**vars(answer))


def _remark(remark: Remark) -> RemarkRecord:
    return RemarkRecord(**vars(remark))


def _present(figures: Iterable[Figure | None]) -> list[Figure]:
    return [figure for figure in figures if figure is not None]


def _variable(token: str) -> str:
    return f"var(--s{SERIES.index(token)})"


def _target(runs: Sequence[Path], out: Path | None) -> Path:
    if out is None:
        shared = runs[0] if len(runs) == 1 else Path(os.path.commonpath([run.resolve() for run in runs]))
        return shared / REPORT_PAGE
    return out if out.suffix in (".html", ".htm") else out / REPORT_PAGE


def _finite(value: Any) -> Any:
    """Replace numbers that are not finite by null, because JSON has no NaN."""
    if isinstance(value, Mapping):
        return {str(key): _finite(child) for key, child in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(child) for child in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, str | int | bool) else str(value)
