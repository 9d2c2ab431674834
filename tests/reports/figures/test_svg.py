from __future__ import annotations

import re

import pytest
from matplotlib.axes import Axes

from exptilt.reports.figures.svg import SERIES, draw, running_mean, thin


def paint(axes: Axes) -> None:
    axes.plot([0, 1, 2], [0.123456789, 1.0, 0.5], color=SERIES[2], marker="o")
    axes.text(1, 0.5, "<script>$x 日 beta=0.0125", color=SERIES[2])


def test_a_figure_is_the_same_bytes_each_time() -> None:
    assert draw("a", "words", paint) == draw("a", "words", paint)


def test_a_figure_takes_its_colours_from_the_page_and_asks_for_nothing() -> None:
    svg = draw("panel", 'a "quoted" <alt>', paint)
    assert "var(--s2)" in svg
    assert "fill: var(--t2)" in svg  # text has its own, darker shade
    assert "#0a0b02" not in svg
    assert not re.search(r"http|DOCTYPE|<\?xml|metadata|DejaVu", svg)
    assert 'aria-label="a &#34;quoted&#34; &lt;alt&gt;"' in svg


def test_text_survives_as_written() -> None:
    svg = draw("panel", "", paint)
    assert "&lt;script&gt;$x 日 beta=0.0125" in svg
    assert "<script" not in svg


def test_ids_carry_the_name_and_references_point_at_them() -> None:
    svg = draw("panel", "", paint)
    ids = set(re.findall(r'\bid="([^"]+)"', svg))
    used = set(re.findall(r'url\(#([^)]+)\)|href="#([^"]+)"', svg))
    assert all(name.startswith("panel-") for name in ids)
    assert {left or right for left, right in used} <= ids


def test_thin_keeps_spikes_and_ends() -> None:
    values = [0.0] * 5000
    values[1234], values[4321] = 50.0, -50.0
    steps, kept = thin(list(range(5000)), values, limit=100)
    assert len(kept) <= 100
    assert (max(kept), min(kept)) == (50.0, -50.0)
    assert (steps[0], steps[-1]) == (0, 4999)
    assert steps == sorted(steps)


@pytest.mark.parametrize("width", [1, 3, 4, 7])
def test_running_mean_of_a_line_is_the_line_inside(width: int) -> None:
    line = [2.0 * k for k in range(20)]
    assert running_mean(line, width)[5:15] == pytest.approx(line[5:15])
