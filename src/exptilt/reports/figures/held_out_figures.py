"""Figures of held-out measurements: margins, calibration, length. Each is None if its numbers are missing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from exptilt.evaluation.intervals import wilson
from exptilt.reports.figures.svg import INK, LINE, MUTED, PANEL, SERIES, SURFACE, Figure, draw
from exptilt.reports.numbers import number
from exptilt.run_folder.estimate_record import Estimate
from exptilt.run_folder.run_contents import RunContents

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def margin_histogram(runs: Sequence[RunContents], colours: Sequence[str]) -> Figure | None:
    """Share of held-out pairs by their implicit-reward margin; left of zero the pair is ranked wrong."""
    shown = [
        (run.name, run.evaluation.margins, colour)
        for run, colour in zip(runs, colours, strict=True)
        if run.evaluation and run.evaluation.margins
    ]
    shown = [(name, margins, colour) for name, margins, colour in shown if sum(margins.counts) > 0]
    if not shown:
        return None

    def paint(axes: Axes) -> None:
        for _, margins, colour in shown:
            total = sum(margins.counts)
            shares = [count / total for count in margins.counts]
            axes.stairs(shares, margins.edges, color=colour, linewidth=1.6, fill=False)
            if len(shown) == 1:
                axes.stairs(shares, margins.edges, color=colour, fill=True, alpha=0.22, linewidth=0)
        axes.axvline(0, color=INK, linewidth=1)
        axes.set(xlabel="margin: reward of chosen minus rejected", ylabel="share of pairs", ylim=(0, None))
        axes.locator_params(axis="x", nbins=6)
        top = axes.get_xaxis_transform()
        for text, offset, side in (("ranked wrong", -6, "right"), ("ranked right", 6, "left")):
            axes.annotate(
                text, (0, 1), (offset, 4), xycoords=top, textcoords="offset points", ha=side, color=MUTED, fontsize=10
            )

    alt = "Histogram of the margin on held-out pairs. " + " ".join(
        f"{name}: {sum(margins.counts):,} pairs between {number(margins.edges[0])} and {number(margins.edges[-1])}."
        for name, margins, _ in shown
    )
    return Figure(
        name="margin-histogram",
        title="Margins on held-out pairs",
        alt=alt,
        svg=draw("margin-histogram", alt, paint, PANEL),
    )


def score_histogram(runs: Sequence[RunContents]) -> Figure | None:
    """Draw a reward model's scores of the better and the worse completions; None for several runs, whose scales differ."""
    scores = runs[0].evaluation.scores if len(runs) == 1 and runs[0].evaluation else None
    if scores is None or not sum(scores.chosen):
        return None

    def paint(axes: Axes) -> None:
        for counts, colour in ((scores.chosen, SERIES[0]), (scores.rejected, SERIES[1])):
            shares = [count / sum(counts) for count in counts]
            axes.stairs(shares, scores.edges, color=colour, linewidth=1.6)
            axes.stairs(shares, scores.edges, color=colour, fill=True, alpha=0.22, linewidth=0)
        axes.set(xlabel="score", ylabel="share of completions", ylim=(0, None))
        axes.locator_params(axis="x", nbins=6)
        for place, (name, colour) in enumerate((("chosen", SERIES[0]), ("rejected", SERIES[1]))):
            axes.annotate(name, (1, 1), (-70 * (1 - place), 4), xycoords="axes fraction", textcoords="offset points",
                          ha="right", color=colour, fontsize=10)  # fmt: skip

    ends = f"between {number(scores.edges[0])} and {number(scores.edges[-1])}"
    alt = f"Histogram of scores on held-out completions, {sum(scores.chosen):,} pairs, {ends}; chosen and rejected."
    return Figure(
        name="score-histogram",
        title="Scores on held-out completions",
        alt=alt,
        svg=draw("score-histogram", alt, paint, PANEL),
        note="Only differences of scores of one prompt mean something, unless the loss centres them.",
    )


def calibration(runs: Sequence[RunContents], colours: Sequence[str]) -> Figure | None:
    """Draw reliability: the share of pairs ranked right among those with sigma(margin) near p."""
    shown = []
    for run, colour in zip(runs, colours, strict=True):
        bins = run.evaluation.calibration.bins if run.evaluation and run.evaluation.calibration else []
        points = [
            (bin_.predicted, bin_.observed, bin_.count)
            for bin_ in bins
            if bin_.predicted is not None and bin_.observed is not None
        ]
        if points:
            shown.append((run.name, points, colour))
    if not shown:
        return None

    def paint(axes: Axes) -> None:
        axes.plot([0, 1], [0, 1], color=MUTED, linewidth=1, dashes=(4, 3))
        for _, points, colour in shown:
            predicted, observed, counts = zip(*points, strict=True)
            largest = max(counts) or 1
            for share_predicted, share, count in points if len(shown) == 1 else ():
                around = wilson(share * count, count).interval or (share, share)
                axes.plot([share_predicted, share_predicted], around, color=colour, linewidth=1.2, alpha=0.55)
            if len(shown) > 1:
                axes.plot(predicted, observed, color=colour, linewidth=1, alpha=0.6)
            axes.scatter(
                predicted,
                observed,
                s=[18 + 90 * count / largest for count in counts],
                color=colour,
                edgecolor=SURFACE,
                zorder=3,
            )
        axes.set(xlabel="predicted: sigma(margin)", ylabel="share the label agrees with", xlim=(0, 1), ylim=(0, 1))

    alt = "Reliability of sigma(margin) on held-out pairs; the diagonal is perfect. " + " ".join(
        f"{name}: {len(points)} bins, observed {number(points[0][1])} where {number(points[0][0])} was predicted, "
        f"{number(points[-1][1])} where {number(points[-1][0])} was."
        for name, points, _ in shown
    )
    return Figure(
        name="calibration",
        title="Are the margins calibrated?",
        alt=alt,
        svg=draw("calibration", alt, paint, PANEL),
        note="Dashed: perfect. The larger a dot, the more pairs."
        + (" Bars: 95 % for that many pairs." if len(shown) == 1 else ""),
    )


def lengths(rows: Sequence[tuple[str, Estimate, str]], unit: str = "tokens") -> Figure | None:
    """Draw mean lengths below each other, a row each: (name, length, colour)."""
    rows = [row for row in rows if row[1].value is not None]
    if not rows:
        return None

    def paint(axes: Axes) -> None:
        for height, (_, length, colour) in enumerate(reversed(rows)):
            axes.plot([0, length.value or 0], [height, height], color=LINE, linewidth=1.2, solid_capstyle="butt")
            if length.interval:
                axes.plot(length.interval, [height, height], color=colour, linewidth=2)
            axes.plot([length.value or 0], [height], marker="o", color=colour, markersize=8, markeredgecolor=SURFACE)
            axes.annotate(
                number(length.value),
                (max(length.value or 0, length.high or 0), height),
                (9, 0),
                textcoords="offset points",
                va="center",
            )
        axes.set(
            xlabel=unit,
            ylim=(-0.6, len(rows) - 0.4),
            xlim=(0, 1.15 * max(max(row[1].value or 0, row[1].high or 0) for row in rows)),
        )
        axes.set_yticks(range(len(rows)), [_short(name) for name, _, _ in reversed(rows)])
        axes.tick_params(axis="y", labelcolor=INK)
        axes.grid(visible=False)

    alt = "Mean length. " + " ".join(f"{name}: {number(length.value)} {unit}." for name, length, _ in rows)
    size = (PANEL[0], max(1.7, 0.9 + 0.36 * len(rows)))
    return Figure(name="lengths", title="Mean length", alt=alt, svg=draw("lengths", alt, paint, size))


def _short(name: str, limit: int = 26) -> str:
    return name if len(name) <= limit else name[: limit - 1] + "…"
