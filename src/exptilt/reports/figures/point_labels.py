"""Labels of points in a figure, written where they touch nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.transforms import Bbox

_OFFSETS = (
    (9, 0, "left", "center"), (0, 10, "center", "bottom"), (0, -10, "center", "top"), (-9, 0, "right", "center"),
    (9, 12, "left", "bottom"), (9, -12, "left", "top"), (-9, 12, "right", "bottom"), (-9, -12, "right", "top"),
    (26, 30, "left", "bottom"), (26, -30, "left", "top"), (-26, 30, "right", "bottom"), (-26, -30, "right", "top"),
)  # fmt: skip


def place(axes: Axes, at: tuple[float, float], text: str, colour: str, taken: list[Bbox], size: float = 11) -> None:
    """Write `text` beside a point where it touches nothing; without room only the table names the point."""
    frame = axes.get_window_extent()
    for dx, dy, horizontal, vertical in _OFFSETS:
        label = axes.annotate(
            text, at, (dx, dy), textcoords="offset points", ha=horizontal, va=vertical, color=colour, fontsize=size
        )
        label.set(in_layout=False, annotation_clip=False, zorder=7)
        box = label.get_window_extent()
        inside = box.x0 >= frame.x0 and box.x1 <= frame.x1 + 2 and box.y0 >= frame.y0 and box.y1 <= frame.y1 + 6
        if inside and not any(box.overlaps(other) for other in taken):
            taken.append(box)
            if abs(dx) > 20:
                line = {"arrowstyle": "-", "color": colour, "linewidth": 0.8, "shrinkA": 0, "shrinkB": 5}
                axes.annotate("", at, (dx, dy), textcoords="offset points", arrowprops=line, zorder=4).set_in_layout(
                    False
                )
            return
        label.remove()
