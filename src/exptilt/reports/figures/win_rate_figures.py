"""Figures of win rates: against temperature, against steps, against KL, and policies below each other."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from exptilt.reports.figures.curves import spread
from exptilt.reports.figures.point_labels import place
from exptilt.reports.figures.svg import INK, LINE, MUTED, PANEL, SERIES, SURFACE, Figure, draw
from exptilt.reports.numbers import estimate, number
from exptilt.run_folder.judged_record import JudgeColumn, JudgedCell

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.transforms import Bbox

WIDE, NARROW = (9.6, 4.4), (4.8, 4.2)
BOUNDS = (
    " A bar without a point: more than 5 % of the verdicts are missing, and this is how far they could move the rate."
)
_EVEN = 0.5


def judge_figures(judge: JudgeColumn, colours: dict[str, str]) -> list[Figure]:
    """Every figure that a judge's cells allow.

    Args:
        judge: with its cells.
        colours: of the policies, see `policy_colours`.
    """
    figures: list[Figure] = []
    for position, data in enumerate(dict.fromkeys(cell.data for cell in judge.cells)):
        cells = [cell for cell in judge.cells if cell.data == data]
        name = f"{_slug(judge.name)}-{position}"
        where = f", {data}" if data else ""
        drawn = [
            _against_temperature(cells, colours, name, where),
            *_against_steps(cells, colours, name, where),
            _against_kl(cells, colours, name, where),
        ]
        found = [figure for figure in drawn if figure is not None]
        figures += found or [_below_each_other(cells, colours, name, where)]
    return figures


def policy_colours(cells: Sequence[JudgedCell]) -> dict[str, str]:
    """A colour token for each policy, in the order they come."""
    policies = dict.fromkeys(cell.policy for cell in cells)
    return {policy: SERIES[index % len(SERIES)] for index, policy in enumerate(policies)}


Lines = list[tuple[str, str, list[tuple[float, JudgedCell]]]]
"""Label, colour, and cells by their place on the axis."""


def _against_temperature(cells: Sequence[JudgedCell], colours: dict[str, str], name: str, where: str) -> Figure | None:
    ends = [cell for cell in cells if cell.final and cell.temperature is not None]
    if len({cell.temperature for cell in ends}) < 2:
        return None
    lines: Lines = []
    for policy in dict.fromkeys(cell.policy for cell in ends):
        line = [(cell.temperature or 0.0, cell) for cell in ends if cell.policy == policy]
        lines.append((policy, colours[policy], sorted(line, key=lambda at: at[0])))
    return _lines(f"win-temperature-{name}", f"Win rate against temperature{where}", "sampling temperature", lines)


def _against_steps(cells: Sequence[JudgedCell], colours: dict[str, str], name: str, where: str) -> list[Figure]:
    """One figure for each temperature, with one scale for all: ten lines in one are a knot."""
    trained = {cell.policy for cell in cells if not cell.final}
    stepped = [cell for cell in cells if cell.policy in trained and cell.step is not None]
    temperatures = list(dict.fromkeys(cell.temperature for cell in stepped))
    within = _span(stepped)
    figures = []
    for position, temperature in enumerate(temperatures):
        lines: Lines = []
        for policy in dict.fromkeys(cell.policy for cell in stepped):
            line = [(float(c.step or 0), c) for c in stepped if (c.policy, c.temperature) == (policy, temperature)]
            lines.append((policy, colours[policy], sorted(line, key=lambda at: at[0])))
        several = len(temperatures) > 1 and temperature is not None
        title = f"Win rate against steps of training{where}{f', T={temperature:g}' if several else ''}"
        figure = _lines(f"win-steps-{name}-{position}", title, "step", lines, within=within, small=several)
        figures.append(figure if position == 0 else replace(figure, note=""))  # the first says it for all
    return figures


def _lines(
    name: str, title: str, unit: str, lines: Lines, *, within: tuple[float, float] | None = None, small: bool = False
) -> Figure:
    lines = [line for line in lines if line[2]]
    alt = f"{title}. " + " ".join(f"{label}: {_in_words(line, unit)}." for label, _, line in lines)
    paint = partial(_paint_lines, lines=lines, unit=unit, within=within)
    return Figure(
        name=name,
        title=title,
        alt=alt,
        svg=draw(name, alt, paint, PANEL if small else WIDE),
        narrow=None if small else draw(f"{name}-narrow", alt, paint, NARROW),
        note="Dashed: neither is better. Bars: intervals over prompts."
        + (BOUNDS if any(cell.win_rate is None for _, _, line in lines for _, cell in line) else ""),
    )


def _span(cells: Sequence[JudgedCell]) -> tuple[float, float]:
    """The least and the greatest rate that is drawn, with one half and some room."""
    ends = [0.5]
    for cell in cells:
        known = cell.win_rate.interval if cell.win_rate is not None else None
        ends += known or (cell.lower_bound.value or 0.0, cell.upper_bound.value or 1.0)
    room = 0.05 * (max(ends) - min(ends))
    return min(ends) - room, max(ends) + room


def _paint_lines(axes: Axes, *, lines: Lines, unit: str, within: tuple[float, float] | None) -> None:
    axes.axhline(_EVEN, color=MUTED, linewidth=1, dashes=(4, 3), zorder=1)
    places = sorted({at for _, _, line in lines for at, _ in line})
    reach = (places[-1] - places[0]) or 1.0
    for number_of, (_, colour, line) in enumerate(lines):
        aside = reach * 0.008 * (number_of - (len(lines) - 1) / 2)  # so that bars at one place are told apart
        rates = [math.nan if cell.win_rate is None else _rate(cell) for _, cell in line]  # the line breaks there
        axes.plot(
            [at + aside for at, _ in line], rates, color=colour, linewidth=1.8, marker="o", markersize=6,
            markeredgecolor=SURFACE, zorder=4,
        )  # fmt: skip
        for at, cell in line:
            _paint_interval(axes, at + aside, cell, colour)
    axes.set(xlabel=unit, ylabel="win rate")
    if within is not None:
        axes.set(xlim=(0, places[-1] + 0.04 * reach), ylim=within)
        axes.locator_params(axis="x", nbins=6, integer=True)
    else:
        axes.set_xticks(places, [f"{at:g}" for at in places])
    axes.locator_params(axis="y", nbins=6)
    _label_ends(axes, lines)


def _paint_interval(axes: Axes, at: float, cell: JudgedCell, colour: str) -> None:
    if cell.win_rate is None:
        ends = [cell.lower_bound.value or 0.0, cell.upper_bound.value or 1.0]
        axes.plot([at, at], ends, color=colour, linewidth=5, alpha=0.3, solid_capstyle="butt", zorder=2)
    elif cell.win_rate.interval is not None:
        axes.plot([at, at], cell.win_rate.interval, color=colour, linewidth=1.2, alpha=0.6, zorder=3)


def _label_ends(axes: Axes, lines: Lines) -> None:
    """Write names beside the ends of the lines."""
    ends = sorted(
        (next((c.win_rate.value or 0.0 for _, c in reversed(line) if c.win_rate is not None), _EVEN), label, colour)
        for label, colour, line in lines
    )
    low, high = axes.get_ylim()
    heights = spread([value for value, _, _ in ends], 0.075 * (high - low))
    for height, (_, label, colour) in zip(heights, ends, strict=True):
        text = axes.annotate(
            _short(label), (1.015, height), xycoords=("axes fraction", "data"), va="center", color=colour, fontsize=10.5
        )
        text.set_annotation_clip(False)


def _against_kl(cells: Sequence[JudgedCell], colours: dict[str, str], name: str, where: str) -> Figure | None:
    points = [cell for cell in cells if cell.kl is not None and cell.kl.value is not None and cell.win_rate is not None]
    if len(points) < 2:
        return None
    title = f"Win rate, and what it cost in KL{where}"
    alt = f"{title}. " + " ".join(
        f"{cell.policy}{_step(cell)}: {estimate(cell.win_rate)} at {estimate(cell.kl)} nats." for cell in points
    )
    paint = partial(_paint_kl, points=points, colours=colours)
    return Figure(
        name=f"win-kl-{name}",
        title=title,
        alt=alt,
        svg=draw(f"win-kl-{name}", alt, paint, WIDE),
        narrow=draw(f"win-kl-{name}-narrow", alt, paint, NARROW),
        note="At temperature 1, nothing truncated: KL of other sampling laws is another number. Small points are checkpoints "
        "on the way. Bars: intervals over prompts, both ways.",
    )


def _paint_kl(axes: Axes, *, points: Sequence[JudgedCell], colours: dict[str, str]) -> None:
    axes.axhline(_EVEN, color=MUTED, linewidth=1, dashes=(4, 3), zorder=1)
    for policy, colour in colours.items():
        way = sorted((cell for cell in points if cell.policy == policy), key=lambda cell: cell.step or 0)
        axes.plot([_kl(cell) for cell in way], [_rate(cell) for cell in way], color=colour, linewidth=1, alpha=0.5)
        for cell in way:
            _paint_interval(axes, _kl(cell), cell, colour)
            if cell.kl is not None and cell.kl.interval is not None:
                axes.plot(cell.kl.interval, [_rate(cell)] * 2, color=colour, linewidth=1.2, alpha=0.6, zorder=3)
            size = 9 if cell.final else 5
            axes.plot(
                [_kl(cell)], [_rate(cell)], marker="o", color=colour, markersize=size, markeredgecolor=SURFACE, zorder=5
            )
    axes.set(xlabel="KL(policy ‖ reference), nats per reply", ylabel="win rate")
    ends = [cell.kl.high or _kl(cell) for cell in points if cell.kl is not None]
    axes.set_xlim(0.0, 1.12 * max(ends) or 1.0)  # room for names
    axes.margins(y=0.12)
    canvas = axes.get_figure(root=True)
    if canvas is not None:
        canvas.draw_without_rendering()
    taken = [box for cell in points for box in _boxes(axes, cell)]
    for cell in points:
        if cell.final:
            place(axes, (_kl(cell), _rate(cell)), _short(cell.policy), colours[cell.policy], taken)


def _boxes(axes: Axes, cell: JudgedCell) -> list[Bbox]:
    """What a point and its bars cover."""
    from matplotlib.transforms import Bbox

    x, y = _kl(cell), _rate(cell)
    across = (cell.kl.interval if cell.kl is not None else None) or (x, x)
    upward = (cell.win_rate.interval if cell.win_rate is not None else None) or (y, y)
    ends = [((x, y), (x, y)), ((across[0], y), (across[1], y)), ((x, upward[0]), (x, upward[1]))]
    corners = [(axes.transData.transform(one), axes.transData.transform(other)) for one, other in ends]
    return [Bbox.from_extents(one[0] - 3, one[1] - 3, other[0] + 3, other[1] + 3) for one, other in corners]


def _below_each_other(cells: Sequence[JudgedCell], colours: dict[str, str], name: str, where: str) -> Figure:
    title = f"Win rates{where}"
    rows = [(_row(cell, cells), cell, colours[cell.policy]) for cell in cells]
    alt = f"{title}. " + " ".join(f"{label}: {estimate(cell.win_rate)}." for label, cell, _ in rows)
    size = (WIDE[0], max(1.8, 1.0 + 0.42 * len(rows)))
    return Figure(
        name=f"win-rates-{name}",
        title=title,
        alt=alt,
        svg=draw(f"win-rates-{name}", alt, partial(_paint_rows, rows=rows), size),
        narrow=draw(f"win-rates-{name}-narrow", alt, partial(_paint_rows, rows=rows), (NARROW[0], size[1])),
        note="Dashed: neither is better." + (BOUNDS if any(cell.win_rate is None for cell in cells) else ""),
    )


def _paint_rows(axes: Axes, *, rows: Sequence[tuple[str, JudgedCell, str]]) -> None:
    axes.axvline(_EVEN, color=MUTED, linewidth=1, dashes=(4, 3), zorder=1)
    for height, (_, cell, colour) in enumerate(reversed(rows)):
        axes.axhline(height, color=LINE, linewidth=0.8, zorder=0)
        if cell.win_rate is None:
            ends = [cell.lower_bound.value or 0.0, cell.upper_bound.value or 1.0]
            axes.plot(ends, [height, height], color=colour, linewidth=6, alpha=0.3, solid_capstyle="butt")
            continue
        if cell.win_rate.interval is not None:
            axes.plot(cell.win_rate.interval, [height, height], color=colour, linewidth=2)
        axes.plot([_rate(cell)], [height], marker="o", color=colour, markersize=9, markeredgecolor=SURFACE)
    axes.set(xlabel="win rate", ylim=(-0.6, len(rows) - 0.4), xlim=(0, 1))
    axes.set_yticks(range(len(rows)), [_short(label, 34) for label, _, _ in reversed(rows)])
    axes.tick_params(axis="y", labelcolor=INK)
    axes.grid(visible=False)


def _row(cell: JudgedCell, cells: Sequence[JudgedCell]) -> str:
    """What tells a row from the others."""
    several = len({one.against for one in cells}) > 1
    warmth = "" if cell.temperature is None else f" T={cell.temperature:g}"
    return f"{cell.policy}{_step(cell)}{warmth}" + (f" against {cell.against}" if several else "")


def _in_words(line: Sequence[tuple[float, JudgedCell]], unit: str) -> str:
    told = [f"{estimate(cell.win_rate)} at {unit} {number(at)}" for at, cell in line if cell.win_rate is not None]
    return ", ".join(told[:8]) or "no rate"


def _step(cell: JudgedCell) -> str:
    return "" if cell.final else f" step {cell.step}"


def _kl(cell: JudgedCell) -> float:
    return 0.0 if cell.kl is None else cell.kl.value or 0.0


def _rate(cell: JudgedCell) -> float:
    return 0.0 if cell.win_rate is None else cell.win_rate.value or 0.0


def _short(name: str, limit: int = 24) -> str:
    return name if len(name) <= limit else name[: limit - 1] + "…"


def _slug(name: str) -> str:
    return "".join(letter if letter.isascii() and letter.isalnum() else "-" for letter in name.lower())
