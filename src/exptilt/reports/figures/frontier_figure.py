"""The reward-KL plane: the best reachable reward, best-of-N, and each policy with its intervals both ways."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from exptilt.reports.figures.point_labels import place
from exptilt.reports.figures.svg import INK, MARKERS, MUTED, SERIES, SURFACE, Figure, draw
from exptilt.reports.numbers import joined, number
from exptilt.run_folder.frontier_record import Frontier, Optimum, Point, SeedSpread, is_reference, with_reference_point

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.transforms import Bbox

_FAR = 8.0
"""Nats from which on the KL axis is drawn on a square-root scale."""
_TICKS_APART = 0.05
"""Least distance of its ticks, of the axis; labels would overlap."""


def colour_keys(frontier: Frontier) -> dict[str, int]:
    """The colour index of each policy: its own while there are enough colours, else its method's."""
    policies = [point for point in frontier.points if not is_reference(point)]
    names = list(dict.fromkeys(point.name for point in policies))
    keys = names if len(names) <= len(SERIES) else list(dict.fromkeys(point.method or point.name for point in policies))
    return {key: index % len(SERIES) for index, key in enumerate(keys)}


def colour_index(point: Point, colours: dict[str, int]) -> int:
    """The index of a point's colour in the palette."""
    return colours.get(point.name, colours.get(point.method or point.name, 0))


def frontier_figure(frontier: Frontier) -> Figure | None:
    """Draw the plane; None if there is neither an optimum nor a point."""
    if frontier.optimum is None and not frontier.points:
        return None
    frontier = with_reference_point(frontier)
    alt = _in_words(frontier)
    wide = draw("frontier", alt, partial(_paint, frontier=frontier), (9.6, 5.4))
    narrow = draw("frontier-narrow", alt, partial(_paint, frontier=frontier), (4.8, 5.2))
    return Figure(
        name="frontier",
        title="What each policy gained, and what it cost",
        alt=alt,
        svg=wide,
        narrow=narrow,
        note=_note(frontier),
    )


def _paint(axes: Axes, *, frontier: Frontier) -> None:
    if max((point.kl.value or 0.0 for point in frontier.points), default=0.0) > _FAR:
        _square_root_scale(axes, frontier)
    if frontier.optimum is not None:
        _paint_optimum(axes, frontier.optimum)
    _paint_best_of_n(axes, frontier)
    colours = colour_keys(frontier)
    _paint_ways(axes, frontier, colours)
    for spread in frontier.spreads:
        _paint_spread(axes, spread, frontier, colours)
    for point in frontier.ends:
        _paint_point(axes, point, colours)
    axes.set(xlabel=f"KL(policy ‖ reference), nats per {frontier.each}", ylabel=frontier.reward_name)
    axes.set_xlim(left=0.0)
    axes.margins(y=0.12)
    _name_points(axes, frontier, colours)


def _name_points(axes: Axes, frontier: Frontier, colours: dict[str, int]) -> None:
    canvas = axes.get_figure(root=True)
    if canvas is not None:
        canvas.draw_without_rendering()
    taken = _obstacles(axes, frontier)
    if frontier.optimum is not None:
        place(axes, _end_of(frontier.optimum, axes.get_xlim()[1]), "optimum", MUTED, taken)
    for point in frontier.ends:
        if point.kl.value is not None and point.reward.value is not None:
            colour = INK if is_reference(point) else SERIES[colour_index(point, colours)]
            place(axes, (point.kl.value, point.reward.value), point.name, colour, taken)
    for best in frontier.best_of_n:
        if best.reward.value is not None:
            place(axes, (best.kl, best.reward.value), f"N={best.n}", MUTED, taken, size=9)


def _square_root_scale(axes: Axes, frontier: Frontier) -> None:
    """Use a square-root scale for KL: the optimum is straight on it, and far policies do not squeeze all others."""
    highs = [point.kl.high or point.kl.value or 0.0 for point in frontier.points]
    axes.set_xscale("function", functions=(lambda kl: np.sqrt(np.maximum(kl, 0)), np.square))
    top = 1.08 * max(highs)
    axes.set_xlim(0, top)
    ticks: list[float] = []
    for kl in (0, 0.1, 0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000, 20_000, 50_000):
        if kl <= top and (not ticks or np.sqrt(kl) - np.sqrt(ticks[-1]) > _TICKS_APART * np.sqrt(top)):
            ticks.append(kl)
    axes.set_xticks(ticks, [f"{kl:g}" for kl in ticks])


def _paint_optimum(axes: Axes, optimum: Optimum) -> None:
    trusted = optimum.trusted or (True,) * len(optimum.kl)
    if optimum.low is not None and optimum.high is not None:
        axes.fill_between(optimum.kl, optimum.low, optimum.high, color=MUTED, alpha=0.14, linewidth=0)
    for start, stop, solid in _stretches(trusted):
        style = "-" if solid else (0, (5, 4))
        axes.plot(
            optimum.kl[start:stop], optimum.reward[start:stop], linestyle=style, color=INK, linewidth=1.8, zorder=2
        )


def _stretches(trusted: Sequence[bool]) -> list[tuple[int, int, bool]]:
    """Slices of equal trust that share their border point, so that the line has no gap."""
    slices: list[tuple[int, int, bool]] = []
    start = 0
    for index in range(1, len(trusted) + 1):
        if index == len(trusted) or trusted[index] != trusted[start]:
            slices.append((max(0, start - 1), index, trusted[start]))
            start = index
    return slices


def _paint_best_of_n(axes: Axes, frontier: Frontier) -> None:
    drawn = [(best.kl, best.reward.value) for best in frontier.best_of_n if best.reward.value is not None]
    if drawn:
        kl, reward = zip(*drawn, strict=True)
        axes.plot(
            kl,
            reward,
            ":",
            color=MUTED,
            linewidth=1.2,
            marker="o",
            markersize=4,
            markerfacecolor=SURFACE,
            markeredgecolor=MUTED,
            zorder=3,
        )


def _paint_point(axes: Axes, point: Point, colours: dict[str, int]) -> None:
    x, y = point.kl.value, point.reward.value
    if x is None or y is None:
        return
    index = colour_index(point, colours)
    colour = INK if is_reference(point) else SERIES[index]
    if point.kl.interval:
        axes.plot(point.kl.interval, (y, y), color=colour, linewidth=1.4, zorder=5, solid_capstyle="butt")
    if point.reward.interval:
        axes.plot((x, x), point.reward.interval, color=colour, linewidth=1.4, zorder=5, solid_capstyle="butt")
    marker = "o" if is_reference(point) else MARKERS[index % len(MARKERS)]
    axes.plot(
        [x],
        [y],
        marker=marker,
        markersize=8.5,
        color=colour,
        markeredgecolor=SURFACE,
        markeredgewidth=0.8,
        zorder=6,
        clip_on=False,
    )


def _paint_spread(axes: Axes, spread: SeedSpread, frontier: Frontier, colours: dict[str, int]) -> None:
    """Intervals over seeds and prompts, both ways, about the mean of an objective's runs."""
    own = next((point for point in frontier.ends if point.objective == spread.objective), None)
    x, y = spread.kl.mean.value, spread.reward.mean.value
    if own is None or x is None or y is None:
        return
    colour = SERIES[colour_index(own, colours)]
    for interval, flat in ((spread.kl.mean.interval, True), (spread.reward.mean.interval, False)):
        if interval is not None:
            across = (interval, (y, y)) if flat else ((x, x), interval)
            axes.plot(*across, color=colour, linewidth=5, alpha=0.25, zorder=3, solid_capstyle="butt")


def _paint_ways(axes: Axes, frontier: Frontier, colours: dict[str, int]) -> None:
    """Paint the way of runs measured at several steps: a thin line through small markers, to the end."""
    for run in dict.fromkeys(point.run for point in frontier.points if not point.final):
        stops = sorted((point for point in frontier.points if point.run == run), key=lambda point: point.steps or 0)
        placed = [
            (point.kl.value, point.reward.value, point.final)
            for point in stops
            if point.kl.value is not None and point.reward.value is not None
        ]
        colour = SERIES[colour_index(stops[0], colours)]
        axes.plot(
            [x for x, _, _ in placed], [y for _, y, _ in placed], color=colour, linewidth=0.9, alpha=0.6, zorder=4
        )
        way = [(x, y) for x, y, is_end in placed if not is_end]
        axes.plot(
            [x for x, _ in way],
            [y for _, y in way],
            linestyle="none",
            marker=".",
            markersize=6,
            color=colour,
            alpha=0.8,
            zorder=4,
        )


def _obstacles(axes: Axes, frontier: Frontier) -> list[Bbox]:
    """Boxes that labels must avoid: points with their bars, best-of-N circles, the optimum's line."""
    from matplotlib.transforms import Bbox

    boxes = []
    for point in frontier.ends:
        x, y = point.kl.value or 0.0, point.reward.value or 0.0
        left, right = point.kl.interval or (x, x)
        low, high = point.reward.interval or (y, y)
        boxes += [(x, y, x, y, 6), (left, y, right, y, 2), (x, low, x, high, 2)]
    boxes += [(best.kl, best.reward.value or 0.0, best.kl, best.reward.value or 0.0, 4) for best in frontier.best_of_n]
    lines = [[(best.kl, best.reward.value or 0.0) for best in frontier.best_of_n]]
    for run in dict.fromkeys(point.run for point in frontier.points if not point.final):
        way = sorted((point for point in frontier.points if point.run == run), key=lambda point: point.steps or 0)
        lines.append([(point.kl.value or 0.0, point.reward.value or 0.0) for point in way])
    if frontier.optimum is not None:
        lines.append(list(zip(frontier.optimum.kl, frontier.optimum.reward, strict=True)))
    for (a, b), (c, d) in (piece for line in lines for piece in pairwise(line)):
        boxes += [
            (a + t * (c - a), b + t * (d - b), a + t * (c - a), b + t * (d - b), 2)
            for t in (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
        ]
    obstacles = []
    for left, bottom, right, top, margin in boxes:
        corners = axes.transData.transform([(left, bottom), (right, top)])
        obstacles.append(Bbox([corners[0] - margin, corners[1] + margin]))
    return obstacles


def _end_of(optimum: Optimum, right: float) -> tuple[float, float]:
    """A point on the curve with room for its name."""
    inside = [index for index, kl in enumerate(optimum.kl) if kl <= 0.8 * right] or [0]
    return optimum.kl[inside[-1]], optimum.reward[inside[-1]]


def _note(frontier: Frontier) -> str:
    parts = []
    if frontier.optimum is not None and frontier.optimum.exact_for is not None:
        parts.append(
            f"Line: the most reward {frontier.optimum.exact_for} can have at that KL, computed on these "
            f"{frontier.prompts} without samples, shaded by its interval."
        )
    elif frontier.optimum is not None:
        pooled = frontier.pooled
        source = "reference samples"
        if pooled is not None:
            source += (
                f" and {pooled.samples_each} samples each of {joined(pooled.policies)}, reweighted to stand for it"
            )
        parts.append(
            f"Line: the most reward any policy can have at that KL, estimated from {source}; solid where the "
            "samples carry it, dashed where they do not, shaded by its interval."
        )
        parts.append("It is corrected for what so few samples cannot show; dashed, the shade spans two corrections.")
    if frontier.best_of_n:
        parts.append("Open circles: best of N reference samples, no training.")
    if any(point.kl.interval or point.reward.interval for point in frontier.points):
        parts.append(f"Bars: intervals both ways, over {frontier.prompts}.")
    if frontier.spreads:
        parts.append(f"Pale bars: the same over seeds and {frontier.prompts}, about the mean of the seeds.")
    if max((point.kl.value or 0.0 for point in frontier.points), default=0.0) > _FAR:
        parts.append("The KL axis has a square-root scale.")
    on_the_way = len(frontier.points) - len(frontier.ends)
    if on_the_way:
        parts.append(f"Dots on thin lines: {on_the_way} checkpoints on the way; report.json has their numbers.")
    if frontier.log_m is not None:
        parts.append(f"With these samples no optimum beyond {number(frontier.log_m)} nats (log M) can be seen.")
    return " ".join(parts)


def _in_words(frontier: Frontier) -> str:
    sentences = [f"{frontier.reward_name} against KL in nats."]
    if frontier.optimum is not None and frontier.optimum.kl:
        best = frontier.optimum
        sentences.append(
            f"The optimum rises from {number(best.reward[0])} at {number(best.kl[0])} nats "
            f"to {number(best.reward[-1])} at {number(best.kl[-1])} nats."
        )
    sentences += [
        f"{point.name}: {number(point.reward.value)} at {number(point.kl.value)} nats." for point in frontier.ends[:12]
    ]
    if len(frontier.ends) > 12:
        sentences.append(f"And {len(frontier.ends) - 12} more.")
    if frontier.best_of_n:
        sentences.append(f"Best of N is shown for N = {joined([str(best.n) for best in frontier.best_of_n])}.")
    return " ".join(sentences)
