"""docs/first_run.ipynb runs from top to bottom, in a kernel as people have it."""

from __future__ import annotations

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOK = Path(__file__).parents[2] / "docs" / "first_run.ipynb"
MORE = [
    "from exptilt.progress import in_notebook, is_watched\n(in_notebook(), is_watched())",
    "try:\n    xt.train(small, rows, learning_rate=1e-5)\n"
    "except xt.ExptiltError as error:\n    print(*error._render_traceback_(), sep='\\n')",
]
"""Cells that are run behind it: bars are seen in a notebook, and a mistake is two lines."""


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of the kernel's client
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_the_notebook_runs_from_top_to_bottom(tmp_path):
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    assert all(not cell.get("outputs") for cell in notebook.cells)
    notebook.cells += [nbformat.v4.new_code_cell(source) for source in MORE]
    NotebookClient(
        notebook, timeout=240, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}
    ).execute()
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    shown = {cell.source: cell.outputs for cell in cells}
    errors = [output for outputs in shown.values() for output in outputs if output.output_type == "error"]
    assert errors == []
    assert "UserWarning" not in str(notebook)
    card = _data(shown, "run = xt.train(", "text/html")
    assert "It ranks" in card
    assert "<table" in _data(shown, "run.metrics", "text/html")
    assert _data(shown, MORE[0], "text/plain") == "(True, True)"
    told = next(outputs for source, outputs in shown.items() if source == MORE[1])[0].text.splitlines()
    assert told[0] == "line 2: xt.train(small, rows, learning_rate=1e-5)"
    assert told[1].endswith("learning_rate: unknown keyword; did you mean optim={'learning_rate': ...}?")


def _data(shown, start: str, kind: str) -> str:
    outputs = next(outputs for source, outputs in shown.items() if start in source)
    return "".join(output.data[kind] for output in outputs if "data" in output and kind in output.data)
