"""The small twin of benchmarks/coverage.py: every way in which values spread, with few experiments; and the table it printed."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from typing import Any

import pytest
from scipy.stats import binom

from exptilt.evaluation.measured_coverage import COVERAGE, measured_coverage
from exptilt.run_folder.estimate_record import DOUBTFUL, Estimate

ROOT = Path(__file__).parents[2]


def benchmark() -> Any:
    spec = importlib.util.spec_from_file_location("coverage_benchmark", ROOT / "benchmarks" / "coverage.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


BENCHMARK = benchmark()
TRIALS = {(kind, name): trial for kind, trials in BENCHMARK.KINDS.items() for name, trial in trials.items()}
EXPERIMENTS = {
    "studentised": 200,
    "share": 200,
    "two seeds": 200,
    "seeds": 200,
    "calibration": 60,
    "frontier": 40,
    "frontier beyond": 40,
}


@pytest.mark.parametrize(("kind", "name"), TRIALS, ids=[", ".join(key) for key in TRIALS])
def test_intervals_hold_the_truth_as_often_as_the_table_says(kind, name):
    """At 10 prompts. Fewer hits than this come once in 10,000 times; a percentile bootstrap of the dashed optimum has them."""
    experiments = EXPERIMENTS[kind]
    hits = round(experiments * BENCHMARK.covered(TRIALS[kind, name], 10, experiments, 150))
    assert hits >= binom.ppf(1e-4, experiments, COVERAGE[kind][10])


def test_values_as_skewed_as_e_to_the_normal_are_covered_less_and_the_page_says_so():
    """No interval from few prompts covers these; the row stands in the table for everybody to see."""
    hits = BENCHMARK.covered(BENCHMARK.heavy, 10, 300, 150)
    row = table()["beyond the table", "e^normal"]
    assert hits == pytest.approx(row[BENCHMARK.SIZES.index(10)], abs=0.09)
    assert min(row) < DOUBTFUL


def table() -> dict[tuple[str, str], list[float]]:
    """Shares by kind and spread, from docs/intervals.md."""
    page = (ROOT / "docs" / "intervals.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| ([^,|]+), ([^|]+) \| ([\d. |]+) \|$", page, re.MULTILINE)
    return {(kind, name): [float(cell) / 100 for cell in cells.split("|")] for kind, name, cells in rows}


def test_the_numbers_that_are_printed_are_the_worst_of_the_page():
    assert table().keys() == {*TRIALS, ("beyond the table", "e^normal")}
    for kind, by_size in COVERAGE.items():
        rows = [row for (of, _), row in table().items() if of == kind]
        worst = [round(min(column), 3) for column in zip(*rows, strict=True)]
        assert dict(zip(BENCHMARK.SIZES, worst, strict=True)) == by_size, kind


def test_few_prompts_have_their_coverage_beside_the_interval():
    shaky = Estimate(value=0.5, low=0.2, high=0.8, n=10, coverage=0.88)
    assert str(shaky) == "0.500 [0.200, 0.800] (covers only 88 %)"
    assert str(shaky.model_copy(update={"coverage": 0.94})) == "0.500 [0.200, 0.800] (covers 94 %)"
    assert str(shaky.model_copy(update={"coverage": 0.94, "n": 30})) == "0.500 [0.200, 0.800]"
    assert str(shaky.model_copy(update={"n": 500})) == "0.500 [0.200, 0.800] (covers only 88 %)"


def test_one_prompt_and_other_levels_were_not_measured():
    assert measured_coverage("share", 1, 0.95) is None
    assert measured_coverage("share", 2, 0.95) == COVERAGE["share"][2]
    assert measured_coverage("share", 20, 0.9) is None
