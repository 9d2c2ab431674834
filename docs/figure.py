"""Write a frontier.json's figure as one SVG file with its own colours, for pages that cannot style it.

python docs/figure.py runs/demo docs/images/frontier.svg
"""

from __future__ import annotations

import re
import sys
from importlib.resources import files
from pathlib import Path

from exptilt.reports.figures.frontier_figure import frontier_figure
from exptilt.reports.report_inputs import read_inputs


def main(folder: Path, target: Path) -> None:
    """Draw the folder's frontier with the report's light and dark palette inside the file."""
    frontier = read_inputs([folder]).frontier
    figure = frontier_figure(frontier) if frontier else None
    if figure is None:
        raise SystemExit(f"{folder}: there is no frontier.json to draw")
    css = files("exptilt.reports").joinpath("report.css").read_text(encoding="utf-8")
    root = re.search(r":root \{.*?\n\}", css, re.S)
    dark = re.search(r"@media \(prefers-color-scheme: dark\) \{.*?\n\}", css, re.S)
    if root is None or dark is None:
        raise SystemExit("report.css: the palette is not where it was")
    style = f"<style>{root[0]}\n{dark[0]}\nsvg {{ color: var(--ink); background: var(--surface); font-family: sans-serif; }}</style>"
    svg = re.sub(r"(<svg[^>]*>)", rf"\1{style}", str(figure.svg), count=1)
    if "xmlns=" not in svg.split(">", 1)[0]:
        svg = svg.replace(
            "<svg", '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"', 1
        )
    target.write_text(svg + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
