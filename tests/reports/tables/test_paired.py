from __future__ import annotations

import json

import numpy as np
import pytest

from exptilt.reports.page import write_report
from exptilt.reports.tables.paired import paired_differences
from exptilt.run_folder.run_contents import read_run


def run(folder, name, margins, pairs=None):
    path = folder / name
    path.mkdir()
    (path / "config.yaml").write_text(f"loss: {{name: dpo, beta: {len(name)}}}\n")
    rows = [
        {"pair": f"p{at}", "prompt": f"q{at // 2}", "log_ratio": value, "likelihood": -value}
        for at, value in zip(pairs or range(len(margins)), margins, strict=True)
    ]
    (path / "evaluation-margins.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_differences_are_pair_by_pair_in_percentage_points(tmp_path):
    first = run(tmp_path, "first", [1, 1, -1, -1, -1, 1, 2, -3])
    second = run(tmp_path, "second", [1, 1, 1, 0, -1, 1, 2, -3])
    [row] = paired_differences([read_run(first), read_run(second)])
    assert (row.name, row.base, row.num_pairs, row.num_prompts) == ("second", "first", 8, 4)
    assert row.differences["Log-ratio accuracy"].value == pytest.approx(100 * 1.5 / 8)
    assert row.differences["Likelihood-ranking accuracy"].value == pytest.approx(-100 * 1.5 / 8)
    assert row.detectable == pytest.approx(100 * (1.959964 + 0.841621) * 0.5 * np.sqrt(2 / 4), rel=1e-5)


def test_only_common_pairs_count_and_runs_without_any_are_left_out(tmp_path):
    first = run(tmp_path, "first", [1, -1, 1, 1])
    shifted = run(tmp_path, "shifted", [1, 1, 1, 1], pairs=[1, 2, 3, 9])
    apart = run(tmp_path, "apart", [1, 1], pairs=[20, 21])
    found = paired_differences([read_run(path) for path in (first, shifted, apart)])
    assert [(row.name, row.num_pairs) for row in found] == [("shifted", 3)]
    assert found[0].differences["Log-ratio accuracy"].value == pytest.approx(100 / 3)
    assert paired_differences([read_run(first)]) == []


def test_the_page_about_two_runs_shows_them(tmp_path):
    paths = [run(tmp_path, "first", [1, -1, 1, 1]), run(tmp_path, "second", [1, 1, 1, 1])]
    page = write_report(paths)
    assert "Pair by pair against first" in page.read_text()
    numbers = json.loads(page.with_suffix(".json").read_text())
    assert numbers["paired"][0]["differences"]["Log-ratio accuracy"]["value"] == 25.0
