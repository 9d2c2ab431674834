"""Matplotlib figures as inline SVG that takes its colours and its font from the page.

Figures are drawn in token colours (hex values that mean a role); the tokens become CSS variables in the SVG text, so
one figure serves the light and the dark theme. The output is byte-stable: ids are salted with a constant, coordinates
are rounded.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from markupsafe import Markup, escape

from exptilt.reports.numbers import visible

if TYPE_CHECKING:
    from matplotlib.axes import Axes

INK, MUTED, LINE, SURFACE = "#0a0a01", "#0a0a02", "#0a0a03", "#0a0a04"
SERIES = tuple(f"#0a0b0{index}" for index in range(8))
_VARIABLES = {INK: "var(--ink)", MUTED: "var(--muted)", LINE: "var(--line)", SURFACE: "var(--surface)"} | {
    token: f"var(--s{index})" for index, token in enumerate(SERIES)
}
MARKERS = "osD^vPX*"
MAX_POINTS = 500
PANEL = (5.0, 3.1)
"""Size of a small figure, inches."""

_STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "exptilt",
    "text.parse_math": False,
    "axes.unicode_minus": True,
    "font.family": ["DejaVu Sans"],
    "font.size": 11,
    "text.color": INK,
    "axes.edgecolor": LINE,
    "axes.facecolor": "none",
    "axes.labelcolor": MUTED,
    "axes.labelsize": 11,
    "axes.labelpad": 6,
    "axes.linewidth": 1,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "axes.xmargin": 0.02,
    "grid.color": LINE,
    "grid.linewidth": 0.8,
    "xtick.color": LINE,
    "ytick.color": LINE,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": MUTED,
    "xtick.labelsize": 10.5,
    "ytick.labelsize": 10.5,
    "ytick.major.size": 0,
    "xtick.major.size": 3,
    "lines.linewidth": 2,
    "lines.solid_capstyle": "round",
    "figure.facecolor": "none",
    "figure.dpi": 72,
}


@dataclass(frozen=True, kw_only=True)
class Figure:
    """A drawn figure: its title, a description in words, and the SVG, wide and (if worthwhile) narrow."""

    name: str
    title: str
    alt: str
    svg: Markup
    narrow: Markup | None = None
    note: str = ""


def draw(name: str, alt: str, paint: Callable[[Axes], None], size: tuple[float, float] = PANEL) -> Markup:
    """Let `paint` fill one set of axes and return it as inline SVG.

    Args:
        name: prefix of every id, unique on the page.
        alt: description for readers who cannot see the figure.
        paint: draws with the tokens of this module.
        size: (width, height) in inches; 72 units of the view box each.
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure as Canvas

    style: Any = _STYLE
    with rc_context(style), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        canvas = Canvas(figsize=size, layout="constrained")
        paint(canvas.subplots())
        buffer = io.BytesIO()
        canvas.savefig(buffer, format="svg", metadata={"Date": None})
    return _inline(buffer.getvalue().decode("utf-8"), name, alt)


def thin(steps: list[float], values: list[float], limit: int = MAX_POINTS) -> tuple[list[float], list[float]]:
    """Reduce a curve to at most `limit` points: the lowest and highest of each stretch, so no spike is lost, and both ends.

    Example:
        >>> thin([0, 1, 2, 3, 4, 5, 6, 7], [0, 0, 9, 0, 0, 0, 0, 1], limit=4)
        ([0, 1, 2, 7], [0, 0, 9, 1])
    """
    count = len(values)
    if count <= limit:
        return steps, values
    stretches = max(1, (limit - 2) // 2)
    chosen = {0, count - 1}
    for part in range(stretches):
        stretch = range(1 + part * (count - 2) // stretches, 1 + (part + 1) * (count - 2) // stretches)
        chosen |= {min(stretch, key=values.__getitem__), max(stretch, key=values.__getitem__)}
    order = sorted(chosen)
    return [steps[index] for index in order], [values[index] for index in order]


def running_mean(values: list[float], width: int) -> list[float]:
    """Mean over up to `width` neighbours on both sides together, fewer at the ends.

    Example:
        >>> running_mean([0.0, 3.0, 6.0], 3)
        [1.5, 3.0, 4.5]
    """
    half = width // 2
    totals = [0.0]
    for value in values:
        totals.append(totals[-1] + value)
    ends = [(max(0, index - half), min(len(values), index + half + 1)) for index in range(len(values))]
    return [(totals[high] - totals[low]) / (high - low) for low, high in ends]


def _inline(svg: str, name: str, alt: str) -> Markup:
    svg = visible(svg[svg.index("<svg") :], len(svg))
    svg = re.sub(r"<metadata>.*?</metadata>\s*", "", svg, flags=re.S)
    svg = re.sub(r"<defs>\s*<style type=\"text/css\">.*?</style>\s*</defs>\s*", "", svg, flags=re.S)
    svg = re.sub(r"font-family: [^;\"]*", "font-family: inherit", svg)
    svg = re.sub(r"\b(d|x|y|transform|points|stroke-dasharray)=\"[^\"]*\"", _shorter, svg)
    svg = re.sub(r"\n\s+", "\n", svg)
    svg = re.sub(r"\bid=\"([^\"]+)\"", rf'id="{name}-\1"', svg)
    svg = re.sub(r"(url\(|xlink:href=\")#", rf"\1#{name}-", svg)
    for token, variable in _VARIABLES.items():
        svg = svg.replace(token, variable)
    svg = re.sub(r"(<text style=\"[^\"]*fill: var\(--)s(\d)", r"\1t\2", svg)
    box = re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', svg)
    if box is None:
        raise ValueError("matplotlib wrote an SVG without a viewBox")
    head = f'<svg class="plot" role="img" aria-label="{escape(visible(alt, 10_000))}" viewBox="0 0 {box[1]} {box[2]}">'
    return Markup(re.sub(r"<svg[^>]*>", lambda _: head, svg, count=1).strip())  # noqa: S704 - our own drawing; its text is escaped by matplotlib


def _shorter(attribute: re.Match[str]) -> str:
    """Shorten one attribute: a tenth of a point is enough, and after `M` a pair of numbers already means a line."""
    text = re.sub(r"-?\d+\.\d{2,}", lambda match: f"{float(match[0]):.1f}".removesuffix(".0"), attribute[0])
    if attribute[1] != "d":
        return text
    text = re.sub(r"\s+", " ", text)
    return text if re.search(r"[CQ]", text) else text.replace(" L ", " ")
