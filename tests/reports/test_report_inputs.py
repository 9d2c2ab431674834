from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from exptilt.errors import CheckpointError
from exptilt.reports.report_inputs import read_inputs
from exptilt.run_folder.data_record import DataReport
from exptilt.run_folder.evaluation_record import Evaluation
from exptilt.run_folder.run_contents import read_run


def test_training_and_evaluation_lines_of_a_step_become_one_point(make_run: Callable[..., Path]) -> None:
    folder = make_run()
    (folder / "metrics.jsonl").write_text(
        '{"step": 10, "train/loss": 0.6}\n{"step": 10, "eval/loss": 0.61}\n{"step": 5, "train/loss": 0.7}\n'
        '{"step": 10, "train/loss": 0.5}\n'
    )
    run = read_run(folder)
    assert run.series("train/loss") == ([5, 10], [0.7, 0.5])
    assert run.series("eval/loss") == ([10], [0.61])
    assert run.series("train/grad_norm") == ([], [])


def test_a_last_line_torn_by_a_kill_is_left_out_and_said(make_run: Callable[..., Path]) -> None:
    folder = make_run()
    (folder / "metrics.jsonl").write_text('{"step": 1, "train/loss": 0.6}\n{"step": 2, "train/lo')
    run = read_run(folder)
    assert run.series("train/loss") == ([1], [0.6])
    assert "metrics.jsonl: line 2 is incomplete" in run.notices[0]


def test_values_that_are_not_finite_are_counted(make_run: Callable[..., Path]) -> None:
    folder = make_run()
    (folder / "metrics.jsonl").write_text(
        '{"step": 1, "train/loss": NaN, "train/lr": 1}\n{"step": 2, "train/loss": 0.5}\n'
    )
    run = read_run(folder)
    assert run.series("train/loss") == ([2], [0.5])
    assert run.notices == ("1 values in the files are NaN or infinite; they are shown as missing",)


@pytest.mark.parametrize(
    ("file", "content", "expected"),
    [
        ("metrics.jsonl", '{"step": 1}\n{"step": \n{"step": 3}\n', "metrics.jsonl, line 2: not valid JSON"),
        (
            "metrics.jsonl",
            '{"train/loss": 1}\n',
            'metrics.jsonl, line 1: every line must be an object with a number "step"',
        ),
        ("metrics.jsonl", '{"step": 1, "train/loss": "low"}\n', "line 1: train/loss must be a number, got 'low'"),
        ("config.yaml", "seed: 1\nloss: [\n", "config.yaml, line 3: not valid YAML"),
        ("evaluation.json", '{\n "kl": 1,\n}', "evaluation.json, line 3: not valid JSON"),
        (
            "evaluation.json",
            '{"margins": {"edges": [0, 1], "counts": [1, 2]}}',
            "margins: 2 counts need 3 edges, got 2",
        ),
        ("evaluation.json", '{"kl": {"value": 1, "low": 2, "high": 0}}', "kl: low 2 is above high 0"),
        ("samples.jsonl", '{"prompt": "a", "reference": "b"}\n', "samples.jsonl, line 1: policy: Field required"),
        ("run.json", '{"warnings": 3}', "run.json: warnings: must be a valid list"),
    ],
)
def test_a_broken_file_is_named_with_its_line(
    make_run: Callable[..., Path], file: str, content: str, expected: str
) -> None:
    folder = make_run()
    (folder / file).write_text(content)
    with pytest.raises(CheckpointError) as error:
        read_run(folder)
    assert expected in str(error.value)
    assert str(folder / file) in str(error.value)


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="holds none of config"):
        read_inputs([tmp_path])
    with pytest.raises(CheckpointError, match="is no folder"):
        read_inputs([tmp_path / "absent"])
    with pytest.raises(CheckpointError, match="name at least one"):
        read_inputs([])


def test_a_frontier_folder_brings_its_runs_and_samples(frontier_folder: Path) -> None:
    inputs = read_inputs([frontier_folder])
    assert [run.name for run in inputs.runs] == ["dpo-beta-0.05", "dpo-beta-0.1", "dpo-beta-0.5", "ipo-beta-0.1"]
    assert inputs.frontier is not None
    assert [name for name, _ in inputs.samples] == ["demo"]
    with pytest.raises(CheckpointError, match="make one report for each"):
        read_inputs([frontier_folder, frontier_folder])


def test_runs_of_one_name_are_told_apart_by_their_parents(make_run: Callable[..., Path], tmp_path: Path) -> None:
    folders = [make_run("dpo", parent=tmp_path / parent) for parent in ("a", "b")]
    assert [run.name for run in read_inputs(folders).runs] == ["a/dpo", "b/dpo"]


def test_an_optimum_must_be_a_curve(frontier_folder: Path, frontier: dict[str, Any]) -> None:
    frontier["optimum"]["kl"][3] = 0.0
    (frontier_folder / "frontier.json").write_text(json.dumps(frontier))
    with pytest.raises(CheckpointError, match="kl must be finite and increasing"):
        read_inputs([frontier_folder])


def test_left_out_before_and_after_conversion_in_both_spellings() -> None:
    spelled_out = DataReport.from_dict(
        {"train": {"rows_left_out": {"invalid_json": 2, "tie": 1}, "examples_left_out": {"tie": 3}}, "test": None}
    )
    train = spelled_out.splits["train"]
    assert (train.rows_left_out, train.examples_left_out) == ({"invalid_json": 2, "tie": 1}, {"tie": 3})
    short = DataReport.from_dict({"splits": {"train": {"rows": 9, "left_out": {"tie": 4}}}})
    assert short.splits["train"].rows_left_out == {"tie": 4}


def test_a_bare_number_is_an_estimate_without_interval() -> None:
    evaluation = Evaluation.from_dict({"kl": 2.5, "displacement": {"chosen": {"value": -1, "low": -2, "high": 0}}})
    assert evaluation.kl is not None
    assert (evaluation.kl.value, evaluation.kl.interval) == (2.5, None)
    assert evaluation.displacement.chosen is not None
    assert evaluation.displacement.chosen.interval == (-2, 0)
