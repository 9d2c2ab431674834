"""The conclusion of one run as a small piece of HTML, for the output of a notebook's cell."""

from __future__ import annotations

from pathlib import Path

from exptilt.reports.page_files import environment
from exptilt.reports.tone import Conclusion


def conclusion_card(name: str, conclusion: Conclusion, page: Path | None = None) -> str:
    """Render the card; styles stay inside it, and colours follow the notebook's theme.

    Args:
        name: what the run is called.
        conclusion: of the run.
        page: the report, which is named where there is one.
    """
    template = environment().get_template("conclusion_card.html")
    return template.render(name=name, conclusion=conclusion, page=None if page is None else str(page))
