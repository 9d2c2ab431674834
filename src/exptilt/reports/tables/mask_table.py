"""What was measured of a segmenter, as a table in the terminal."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from exptilt.reports.numbers import with_interval
from exptilt.run_folder.file_names import MASK_EVALUATION
from exptilt.run_folder.folder import RunFolder
from exptilt.run_folder.mask_evaluation_record import MaskEvaluation, MaskMeasures
from exptilt.run_folder.run_record import RoundRecord

ROWS = (
    ("Dice", "dice", 3),
    ("Dice less that of the start, image by image", "gain", 3),
    ("Dice at the best threshold", "dice_at_best", 3),
    ("boundary F", "boundary", 3),
    ("negative log-likelihood, nats a pixel", "nll", 3),
    ("foreground, share of pixels", "foreground", 3),
    ("KL to the reference, nats a pixel", "kl", 4),
    ("chosen mask where the two differ, nats a pixel", "chosen_on_difference", 3),
    ("pixels both agree on, nats a pixel", "agreement", 3),
    ("rejected mask where the two differ, nats a pixel", "rejected_on_difference", 3),
    ("held-out pairs ranked right (no sign of quality)", "accuracy", 3),
)
"""Title, field of `MaskMeasures`, decimals."""


def mask_evaluation_of(folder: RunFolder) -> MaskEvaluation | None:
    """What was measured; None where there were no held-out rows."""
    return folder.record(MaskEvaluation, MASK_EVALUATION)


def print_masks(folder: RunFolder, console: Console | None = None) -> None:
    """Print the measures of a run beside those of its start and of its rivals."""
    console = console or Console()
    found = mask_evaluation_of(folder)
    if found is None:
        console.print(f"no held-out images: set data.test or data.test_fraction. model: {folder.model}", soft_wrap=True)
        return
    print_measures(found, console)


def print_measures(found: MaskEvaluation, console: Console) -> None:
    """Print what was measured of a segmenter, its start and its rivals."""
    table = Table(box=None, pad_edge=False)
    table.add_column(f"{found.num_images} held-out images")
    for one in (found.policy, found.reference, *found.rivals):
        table.add_column(one.name, justify="right")
    for title, cells in measure_rows(found):
        table.add_row(title, *cells)
    console.print(table)


def measure_rows(found: MaskEvaluation) -> list[tuple[str, list[str]]]:
    """What was measured and the cells of the segmenter, its start and its rivals, for terminal and page."""
    everyone = (found.policy, found.reference, *found.rivals)
    rows = [(title, [with_interval(getattr(one, field), digits) for one in everyone]) for title, field, digits in ROWS]
    rows.append(("calibration error", ["" if one.ece is None else f"{one.ece:.3f}" for one in everyone]))
    return [(title, cells) for title, cells in rows if any(cells)]


def class_rows(found: MaskEvaluation) -> list[tuple[str, str, str, str, str]]:
    """Dice and IoU of every class, now and at the start."""
    policy, reference = found.policy, found.reference
    return [
        (
            name,
            with_interval(policy.dice_of_class.get(name), 3),
            with_interval(reference.dice_of_class.get(name), 3),
            with_interval(policy.iou_of_class.get(name), 3),
            with_interval(reference.iou_of_class.get(name), 3),
        )
        for name in found.classes
        if name in policy.dice_of_class
    ]


def mask_rounds_table(folder: RunFolder) -> Table:
    """Every segmenter on the way through rounds: Dice, KL to the one before it, and the rows trained on next."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    for at, name in enumerate(ROUND_COLUMNS):
        table.add_column(name, justify="right" if at else "left", no_wrap=True)
    for row in mask_round_rows(folder):
        table.add_row(*row)
    return table


ROUND_COLUMNS = ("segmenter", "Dice", "KL to the one before", "foreground", "then rows")


def mask_round_rows(folder: RunFolder) -> list[tuple[str, ...]]:
    """The cells of that table, for terminal and page."""
    rows: list[tuple[str, ...]] = []
    for one, found in measured_rounds(folder):
        if not rows:
            rows.append(
                (
                    "at the start",
                    *_of_round(None if found is None else found.reference, is_first=True),
                    f"{one.num_rows or 0:,}",
                )
            )
        else:
            rows[-1] = (*rows[-1][:-1], f"{one.num_rows or 0:,}")
        rows.append((f"after round {one.number}", *_of_round(None if found is None else found.policy), ""))
    return rows


def measured_rounds(folder: RunFolder) -> list[tuple[RoundRecord, MaskEvaluation | None]]:
    """The rounds of a folder that have been trained, with what was measured after each."""
    trained = (one for one in folder.run.rounds if one.run is not None)
    return [(one, mask_evaluation_of(RunFolder(folder.path / str(one.run), writes=False))) for one in trained]


def _of_round(found: MaskMeasures | None, *, is_first: bool = False) -> tuple[str, str, str]:
    if found is None:
        return "", "", ""
    kl, foreground = (None if one is None else one.updated(low=None, high=None) for one in (found.kl, found.foreground))
    return with_interval(found.dice, 3), "0" if is_first else with_interval(kl, 4), with_interval(foreground, 3)
