"""The report of a run on masks: one page that opens from disk without a request."""

from __future__ import annotations

from base64 import b64encode
from dataclasses import dataclass
from pathlib import Path

from markupsafe import Markup

from exptilt.reports.figures.curves import LEARNING, Curve, curve
from exptilt.reports.figures.svg import SERIES, Figure
from exptilt.reports.page_files import environment, require_reports, write_files
from exptilt.reports.tables.mask_table import ROWS, in_words, mask_evaluation_of
from exptilt.reports.tone import Tone
from exptilt.run_folder.file_names import PICTURES, REPORT_PAGE
from exptilt.run_folder.folder import RunFolder
from exptilt.run_folder.mask_evaluation_record import MaskEvaluation
from exptilt.run_folder.run_contents import read_run

_MASK_LIKELIHOOD = Curve(
    "logps", "Log-probability of masks, nats a pixel", "nats a pixel", ("logps/chosen", "logps/rejected")
)


_COLLAPSE = 0.1
"""Nats a pixel that agreement may lose."""


@dataclass(frozen=True)
class MaskConclusion:
    """What the first screen says."""

    headline: str
    tone: Tone
    detail: str
    others: tuple[tuple[str, Tone, str], ...] = ()
    """Further questions, each with its tone and answer."""


def write_mask_report(folder: Path, out: Path | None = None) -> Path:
    """Write report.html of a run on masks.

    Raises:
        CheckpointError: the folder is no run folder, or a file would be replaced that is no report.
    """
    page = out or folder / REPORT_PAGE
    require_reports([page], "--output")
    run, found = read_run(folder), mask_evaluation_of(RunFolder(folder, writes=False))
    figures = [curve(spec, [run], SERIES[:1]) for spec in (*LEARNING, _MASK_LIKELIHOOD)]
    html = (
        environment()
        .get_template("mask_template.html")
        .render(
            title=run.name,
            conclusion=conclude(found),
            evaluation=found,
            rows=[] if found is None else _table(found),
            names=[] if found is None else [one.name for one in (found.policy, found.reference, *found.rivals)],
            classes=[] if found is None else _classes(found),
            pictures=[_embedded(path) for path in sorted((folder / PICTURES).glob("*.png"))],
            figures=[figure for figure in figures if isinstance(figure, Figure)],
            data=run.data,
            config=run.config_text,
        )
    )
    write_files({page: html}, "--output")
    return page


def conclude(found: MaskEvaluation | None) -> MaskConclusion:
    """Say whether the segmenter is better than its start, by Dice with intervals; without true masks nobody can say."""
    if found is None:
        return MaskConclusion("Cannot tell: no image was held out.", "unsure", "Set data.test or data.test_fraction.")
    now, before = found.policy.dice, found.reference.dice
    if now is None or before is None:
        detail = "Held-out rows have no true masks (`target`); preference accuracy is no sign of quality."
        return MaskConclusion("Cannot tell whether masks are better.", "unsure", detail)
    both = f"Dice {in_words(now, 3)}, and {in_words(before, 3)} at the start, on {found.num_targets} images."
    others = (_rest(found), _distance(found))
    shape = f" At the best threshold {in_words(found.policy.dice_at_best, 3)}." if found.policy.dice_at_best else ""
    if now.low is not None and before.high is not None and now.low > before.high:
        return MaskConclusion("Better masks than at the start.", "good", both + shape, others)
    if now.high is not None and before.low is not None and now.high < before.low:
        return MaskConclusion("Do not use it: masks are worse than at the start.", "bad", both + shape, others)
    return MaskConclusion("Cannot tell: the intervals overlap.", "unsure", both + shape, others)


def _rest(found: MaskEvaluation) -> tuple[str, Tone, str]:
    question, now, before = "Did the rest stay?", found.policy.agreement, found.reference.agreement
    if now is None or before is None or now.value is None or before.value is None:
        return question, "none", "Held-out rows are no pairs."
    fall = before.value - now.value
    if fall <= _COLLAPSE:
        return question, "good", f"Pixels on which both masks agree changed by {-fall:+.3f} nats each."
    advice = "it changes where nobody disagreed; add or strengthen an anchor (loss: mixture with nll)"
    return question, "bad", f"Pixels on which both masks agree lost {fall:.2f} nats each: {advice}."


def _distance(found: MaskEvaluation) -> tuple[str, Tone, str]:
    share = f" Foreground {in_words(found.policy.foreground, 3)}, before {in_words(found.reference.foreground, 3)} of the pixels."
    return "How far did it go?", "none", f"KL to the start {in_words(found.policy.kl, 4)} nats a pixel.{share}"


def _table(found: MaskEvaluation) -> list[tuple[str, list[str]]]:
    everyone = (found.policy, found.reference, *found.rivals)
    rows = [(title, [in_words(getattr(one, field), digits) for one in everyone]) for title, field, digits in ROWS]
    rows.append(("calibration error", ["" if one.ece is None else f"{one.ece:.3f}" for one in everyone]))
    return [(title, cells) for title, cells in rows if any(cells)]


def _classes(found: MaskEvaluation) -> list[tuple[str, str, str, str]]:
    policy, reference = found.policy, found.reference
    return [
        (
            name,
            in_words(policy.dice_of_class.get(name), 3),
            in_words(reference.dice_of_class.get(name), 3),
            in_words(policy.iou_of_class.get(name), 3),
        )
        for name in found.classes
        if name in policy.dice_of_class
    ]


def _embedded(path: Path) -> Markup:
    return Markup(f"data:image/png;base64,{b64encode(path.read_bytes()).decode('ascii')}")  # noqa: S704 - our own bytes
