"""What was measured of a segmenter, as a table in the terminal."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from exptilt.run_folder.estimate_record import Estimate
from exptilt.run_folder.file_names import MASK_EVALUATION
from exptilt.run_folder.folder import RunFolder
from exptilt.run_folder.mask_evaluation_record import MaskEvaluation

ROWS = (
    ("Dice", "dice", 3),
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
    everyone = (found.policy, found.reference, *found.rivals)
    table = Table(box=None, pad_edge=False)
    table.add_column(f"{found.num_images} held-out images")
    for one in everyone:
        table.add_column(one.name, justify="right")
    for title, field, digits in ROWS:
        cells = [in_words(getattr(one, field), digits) for one in everyone]
        if any(cells):
            table.add_row(title, *cells)
    if any(one.ece is not None for one in everyone):
        table.add_row("calibration error", *("" if one.ece is None else f"{one.ece:.3f}" for one in everyone))
    console.print(table)


def in_words(estimate: Estimate | None, digits: int) -> str:
    """A value with its interval; empty where it was not measured."""
    if estimate is None or estimate.value is None:
        return ""
    if estimate.low is None or estimate.high is None:
        return f"{estimate.value:.{digits}f}"
    return f"{estimate.value:.{digits}f} [{estimate.low:.{digits}f}, {estimate.high:.{digits}f}]"
