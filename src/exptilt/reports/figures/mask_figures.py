"""Figures of segmenters: reliability of pixels, and Dice round by round."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from exptilt.reports.figures.svg import MUTED, PANEL, SERIES, SURFACE, Figure, draw
from exptilt.reports.numbers import number
from exptilt.run_folder.estimate_record import Estimate
from exptilt.run_folder.mask_evaluation_record import MaskEvaluation

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def reliability(found: MaskEvaluation) -> Figure | None:
    """Draw how often the likeliest class of a pixel is right, over its probability, before and after; None without true masks."""
    shown = [one for one in (found.reference, found.policy) if one.reliability]
    if not shown:
        return None

    def paint(axes: Axes) -> None:
        axes.plot([0, 1], [0, 1], color=MUTED, linewidth=1, dashes=(4, 3))
        for one, colour in zip(shown, (SERIES[1], SERIES[0]), strict=False):
            confidence, right, pixels = zip(*one.reliability, strict=True)
            sizes = [14 + 80 * count / max(pixels) for count in pixels]
            axes.plot(confidence, right, color=colour, linewidth=1.2, alpha=0.7)
            axes.scatter(confidence, right, s=sizes, color=colour, edgecolor=SURFACE, zorder=3, label=one.name)
        axes.set(
            xlabel="probability of the likeliest class",
            ylabel="share of pixels it is right of",
            xlim=(0, 1.02),
            ylim=(0, 1.02),
        )
        axes.legend(frameon=False, loc="upper left")

    errors = " ".join(f"{one.name}: error {number(one.ece)}." for one in shown if one.ece is not None)
    alt = f"Reliability of pixels on held-out images; the diagonal is perfect. {errors}"
    note = "Dashed: perfect. The larger a dot, the more pixels."
    return Figure(
        name="reliability",
        title="Are probabilities calibrated?",
        alt=alt,
        svg=draw("reliability", alt, paint, PANEL),
        note=note,
    )


def dice_by_round(points: Sequence[tuple[str, Estimate]], rivals: Sequence[tuple[str, Estimate]] = ()) -> Figure | None:
    """Draw Dice of every segmenter on the way through rounds, with intervals, and where rivals ended.

    Args:
        points: names and Dice, the start first.
        rivals: names and Dice after their last rounds.
    """
    known = [(name, one) for name, one in points if one.value is not None]
    if len(known) < 2:
        return None
    levels = [(name, float(one.value)) for name, one in rivals if one.value is not None]

    def paint(axes: Axes) -> None:
        values = [float(one.value or 0.0) for _, one in known]
        for at, (_, one) in enumerate(known):
            if one.low is not None and one.high is not None:
                axes.plot([at, at], [one.low, one.high], color=SERIES[0], linewidth=1.4, alpha=0.55)
        axes.plot(range(len(known)), values, color=SERIES[0], marker="o")
        for (name, value), colour in zip(levels, SERIES[1:], strict=False):
            axes.axhline(value, color=colour, linewidth=1.2, dashes=(4, 3), label=name)
        axes.set(ylabel="Dice")
        axes.set_xticks(range(len(known)), [name for name, _ in known])
        if levels:
            axes.legend(frameon=False, fontsize=9.5)

    alt = (
        "Dice on held-out images, round by round: "
        + ", ".join(f"{name} {number(one.value)}" for name, one in known)
        + "."
    )
    note = "Bars: intervals over images." + (" Dashed: rivals after their last round." if levels else "")
    return Figure(
        name="dice-by-round",
        title="Dice, round by round",
        alt=alt,
        svg=draw("dice-by-round", alt, paint, PANEL),
        note=note,
    )
