"""The report of a run on masks, or of rounds of them: one page that opens from disk without a request."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from markupsafe import Markup

from exptilt.reports.figures.curves import HEALTH, LEARNING, Curve, curve
from exptilt.reports.figures.mask_figures import dice_by_round, reliability
from exptilt.reports.figures.svg import SERIES, Figure
from exptilt.reports.page_files import environment, require_reports, write_files
from exptilt.reports.tables.mask_table import (
    ROUND_COLUMNS,
    class_rows,
    mask_evaluation_of,
    mask_round_rows,
    measure_rows,
    measured_rounds,
)
from exptilt.reports.words.mask_conclusion import mask_conclusion
from exptilt.run_folder.estimate_record import Estimate
from exptilt.run_folder.file_names import PICTURES, REPORT_PAGE
from exptilt.run_folder.folder import RunFolder
from exptilt.run_folder.mask_evaluation_record import MaskEvaluation
from exptilt.run_folder.run_contents import RunContents, read_run

_OF_MASKS = (
    Curve("logps", "Log-probability of masks", "nats a pixel", ("logps/chosen", "logps/rejected", "logps")),
    Curve("dice", "Dice", "Dice", ("dice",)),
    Curve("agreement", "Pixels on which both masks agree", "nats a pixel", ("agreement",)),
    Curve("differing", "Where masks differ", "nats a pixel", ("chosen_on_difference", "rejected_on_difference")),
    Curve("kl", "KL to the start", "nats a pixel", ("kl",), 0.0),
    Curve("foreground", "Foreground", "share of pixels", ("foreground",)),
    HEALTH[0],
)


def write_mask_report(folder: Path, out: Path | None = None) -> Path:
    """Write report.html of a run on masks, or of the folder of all rounds.

    Raises:
        CheckpointError: the folder is no run folder, or a file would be replaced that is no report.
    """
    page = folder / REPORT_PAGE if out is None else out if out.suffix in (".html", ".htm") else out / REPORT_PAGE
    require_reports([page], "--output")
    write_files({page: environment().get_template("mask_template.html").render(_context(folder))}, "--output")
    return page


def _context(folder: Path) -> dict[str, Any]:
    """The values that the template shows."""
    run, own = read_run(folder), RunFolder(folder, writes=False)
    found, rounds = mask_evaluation_of(own), measured_rounds(own)
    runs = [run] if not rounds else [read_run(folder / str(one.run)) for one, _ in rounds]
    warnings = [(one.name, caution) for one in runs for caution in (one.info.warnings if one.info else ())]
    return {
        "title": run.name,
        "conclusion": mask_conclusion(found, _last_info(runs)),
        "warnings": warnings,
        "several": len(runs) > 1,
        "round_columns": ROUND_COLUMNS,
        "round_rows": mask_round_rows(own) if rounds else [],
        "evaluation": found,
        "rows": [] if found is None else measure_rows(found),
        "names": [] if found is None else [one.name for one in (found.policy, found.reference, *found.rivals)],
        "classes": [] if found is None else class_rows(found),
        "tiles": () if found is None else found.tiles,
        "pictures": [_embedded(path) for path in sorted((folder / PICTURES).glob("*.png"))],
        "measured_figures": _present(_measured(found, _dice_on_the_way(rounds))),
        "curves": _present(curve(spec, runs, SERIES[: len(runs)]) for spec in (*LEARNING, *_OF_MASKS)),
        "data": [(one.name, one.data) for one in runs if one.data],
        "info": run.info,
        "config": run.config_text,
    }


def _last_info(runs: list[RunContents]) -> Any:
    return runs[-1].info if runs else None


def _measured(found: MaskEvaluation | None, on_the_way: list[tuple[str, Estimate]]) -> Iterable[Figure | None]:
    if found is None:
        return
    rivals = [(one.name, one.dice) for one in found.rivals if one.dice is not None]
    yield dice_by_round(on_the_way, rivals)
    yield reliability(found)


def _dice_on_the_way(rounds: list[Any]) -> list[tuple[str, Estimate]]:
    points: list[tuple[str, Estimate]] = []
    for one, found in rounds:
        if found is None or found.policy.dice is None:
            continue
        if not points and found.reference.dice is not None:
            points.append(("start", found.reference.dice))
        points.append((f"round {one.number}", found.policy.dice))
    return points


def _present(figures: Iterable[Figure | None]) -> list[Figure]:
    return [figure for figure in figures if figure is not None]


def _embedded(path: Path) -> Markup:
    return Markup(f"data:image/png;base64,{b64encode(path.read_bytes()).decode('ascii')}")  # noqa: S704 - our own bytes
