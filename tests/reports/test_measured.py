"""What an evaluation says beside accuracy: guard rails, lengths, gainers, sections, models without a reference."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from exptilt.reports.figures.curves import spread
from exptilt.reports.numbers import factor
from exptilt.reports.page import write_report
from exptilt.reports.report_inputs import read_inputs
from exptilt.reports.tables.page_sections import measured_tables, section_rows
from exptilt.run_folder.run_contents import read_run

MakeRun = Callable[..., Path]
ALARM = {
    "step": 40,
    "name": "displacement",
    "message": "Chosen replies <b>fall</b> too fast.",
    "advice": "Lower optim.learning_rate.",
    "value": 1.4321,
    "limit": 1.0,
}


def around(value: float) -> dict[str, Any]:
    return {"value": value, "low": value - 0.01, "high": value + 0.01, "n": 50}


def with_entries(folder: Path, **entries: Any) -> Path:
    path = folder / "evaluation.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | entries))
    return folder


def test_guard_rails_speak_below_the_verdict_and_in_report_json(make_run: MakeRun) -> None:
    folder = make_run()
    manifest = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(
        json.dumps(manifest | {"warnings": [ALARM, ALARM | {"value": None, "limit": None}]})
    )
    page = write_report([folder])
    html = page.read_text()
    header = html[: html.index("<nav")]
    assert "2 warnings while training" in header
    assert "step 40, displacement (1.43, limit 1)" in header
    assert "Chosen replies &lt;b&gt;fall&lt;/b&gt; too fast." in header
    assert "Lower optim.learning_rate." in header
    found = json.loads(page.with_suffix(".json").read_text())["cautions"]
    assert found[0] == {
        "number": "step 40, displacement (1.43, limit 1)",
        "message": ALARM["message"],
        "fix": ALARM["advice"],
    }
    assert found[1]["number"] == "step 40, displacement"
    (folder / "run.json").write_text(json.dumps(manifest | {"warnings": []}))
    assert "while training" not in write_report([folder]).read_text()


def test_length_and_displacement_have_tables_of_their_own(make_run: MakeRun) -> None:
    line = {"slope": around(0.036), "r_squared": around(0.228)}
    folder = with_entries(
        make_run(),
        reward_on_length={"data": None, "samples": line},
        length_change=around(4.4),
        length_difference=around(-0.4),
        ended={"policy_samples": around(0.9)},
    )
    tables = measured_tables([read_run(folder)])
    length = dict(tables["length"])
    assert length["Implicit reward for each token, its own samples"] == ["0.036 [0.026, 0.046]"]
    assert length["Share of that reward which length explains, its own samples"] == ["22.8 % [21.8, 23.8]"]
    assert "Implicit reward for each token, held-out pairs" not in length
    assert length["Policy samples less reference samples, tokens"] == ["4.400 [4.390, 4.410]"]
    assert length["Ended by themselves, policy samples"] == ["90.0 % [89.0, 91.0]"]
    moved = dict(tables["displacement"])
    assert list(moved) == ["Chosen, nats per reply", "Rejected, nats per reply"]
    assert not {"length", "displacement"} & {name.split(",")[0].lower() for name, _ in tables["accuracy"]}


def test_where_the_probability_went_is_shown_as_text(make_run: MakeRun) -> None:
    rows = [{"prompt": "Is it <i>wet</i>?", "completion": " Yes \u202e", "log_ratio": 30.0}]
    folder = with_entries(make_run(), displacement={"chosen": -4.0, "rejected": -9.0, "gainers": rows})
    html = write_report([folder]).read_text()
    assert "Is it &lt;i&gt;wet&lt;/i&gt;?" in html
    assert " Yes ⟨U+202E⟩" in html
    assert "10<sup>13</sup>" in html
    assert factor(-2.302585) == "0.100"


def test_sections_are_listed_with_their_subsets_and_weights(make_run: MakeRun) -> None:
    found = {
        "subsets": {"hep-go": around(0.7), "math-prm": around(0.5), "kind": around(0.9)},
        "sections": {"Reasoning": around(0.53), "kind": around(0.9)},
        "overall": around(0.715),
        "weights": {"Reasoning": {"math-prm": 984, "hep-go": 164, "hep-js": 164}, "kind": {"kind": 1}},
    }
    run = read_run(with_entries(make_run(), sections=found))
    assert section_rows(run) == [
        ("Reasoning", "53.0 % [52.0, 54.0]", ""),
        ("\u2003math-prm", "50.0 % [49.0, 51.0]", "984"),
        ("\u2003hep-go", "70.0 % [69.0, 71.0]", "164"),
        ("kind", "90.0 % [89.0, 91.0]", ""),
        ("All sections, alike", "71.5 % [70.5, 72.5]", ""),
    ]
    assert "Accuracy by section" in write_report([run.path]).read_text()


def test_what_the_prompts_can_show_is_said(make_run: MakeRun) -> None:
    folder = with_entries(make_run(), detectable_difference=0.1304)
    assert "two models must differ by 13.0 points" in write_report([folder]).read_text()


def test_a_model_without_a_reference_has_a_page_of_its_own(make_run: MakeRun) -> None:
    """An evaluation made without a run: no recipe, no log, no side to compare samples with."""
    folder = make_run(without=("config.yaml", "metrics.jsonl"))
    evaluation = json.loads((folder / "evaluation.json").read_text())
    evaluation["accuracy"] = {"without_reference": evaluation["accuracy"]["without_reference"]}
    evaluation = {name: evaluation[name] for name in ("accuracy", "longest_wins", "auc", "lengths")}
    (folder / "evaluation.json").write_text(json.dumps(evaluation))
    (folder / "samples.jsonl").write_text(json.dumps({"prompt": "a", "reference": None, "policy": "only this"}) + "\n")
    command = "exptilt evaluate models/x data.train=pairs.jsonl"
    manifest = json.loads((folder / "run.json").read_text()) | {"command": command}
    (folder / "run.json").write_text(json.dumps(manifest))
    html = write_report([folder]).read_text()
    assert "only this" in html
    assert command in html
    assert read_inputs([folder]).runs[0].evaluation is not None


def test_names_beside_lines_keep_their_distance_and_their_mean() -> None:
    placed = spread([0.0, 0.1, 0.2, 5.0], 1.0)
    assert placed == pytest.approx([-0.9, 0.1, 1.1, 5.0])
    assert spread([3.0], 1.0) == [3.0]
    assert sum(spread([1.0, 1.0, 1.4, 2.6], 1.0)) == pytest.approx(6.0)
