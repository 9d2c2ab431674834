from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from exptilt.data.problems import finding_of
from exptilt.errors import CheckpointError
from exptilt.reports.page import write_report
from exptilt.run_folder.data_record import DataReport, Example, SourceReport, SplitReport
from exptilt.run_folder.estimate_record import Estimate
from exptilt.run_folder.evaluation_record import BestOf, Evaluation

MakeRun = Callable[..., Path]
ATTACK = "</p><script>alert(1)</script><img src=http://evil.test/x onerror=alert(2)>\u202e{{ 7*7 }}"


def assert_self_contained(html: str) -> None:
    assert not re.search(r"<script|<iframe|<img|<object|javascript:|@import|\bsrc=", html)
    references = re.findall(r'(?:href|xlink:href)="([^"]*)"|url\(([^)]*)\)', html)
    assert all((left or right).startswith(("#", "data:,")) for left, right in references)


def test_a_report_is_one_page_with_the_same_bytes_each_time(make_run: MakeRun, tmp_path: Path) -> None:
    folder = make_run()
    page = write_report([folder])
    assert page == folder / "report.html"
    again = write_report([folder], tmp_path / "again")
    for suffix in (".html", ".json"):
        assert page.with_suffix(suffix).read_bytes() == again.with_suffix(suffix).read_bytes()
    html = page.read_text()
    assert_self_contained(html)
    for name in ("loss", "accuracy", "displacement", "margin-histogram", "calibration", "lengths", "gradient"):
        assert f'id="{name}-figure_1"' in html
    assert len(set(re.findall(r'\bid="([^"]+)"', html))) == len(re.findall(r'\bid="([^"]+)"', html))
    assert "68.4\u00a0%\u00a0[65.5,\u00a071.3]" in html
    assert "<td>2 invalid json</td>" in html
    assert "<td>11 identical, 4 too long</td>" in html


def test_the_page_says_of_the_data_all_that_the_data_report_says(make_run: MakeRun) -> None:
    account = SplitReport(
        source="a.jsonl + b.jsonl",
        format="preference",
        rows=1000,
        rows_left_out={"leak": 13},
        examples=987,
        examples_left_out={"too_long": 4},
        kept=983,
        longer_chosen=0.614,
        more_markup_chosen=0.7,
        p_chosen=(0.5, 0.9, 1.0),
        num_desirable=30,
        num_undesirable=10,
        repeated=17,
        columns_not_read=("source_url",),
        sources=(SourceReport(path="b.jsonl", format="shp", rows=90, records=80, weight=0.5, licence=None),),
    )
    found = [
        finding_of("batches", "micro-batches are 91 % full", 50),
        finding_of("familiarity", "the model gives the chosen text -3 nats", 32),
        finding_of("few", "there are only 983 examples", 983),
    ]
    example = Example(id="a.jsonl:1", prompt="Is it <b>red</b>?", completions=((("Yes", True),), (("No", False),)))
    report = DataReport(kind="pair", train=account, test=None, findings=tuple(found), examples=(example,))
    folder = make_run()
    (folder / "data.json").write_text(json.dumps(report.as_dict()), encoding="utf-8")
    html = write_report([folder]).read_text()
    section = html[html.index('<section id="data">') : html.index('<section id="learning">')]
    said = " ".join(re.sub(r"<[^>]+>", " ", section).split())
    for words in (
        "Read as pair data.",
        "1,000 13 leak 987 4 too long 983",
        "Micro-batches micro-batches are 91 % full",
        "Does the reference know such text? the model gives the chosen text -3 nats",
        "The longer completion is chosen 61.4 % of pairs",
        "The one with more markup is chosen 70.0 % of pairs that differ in it",
        "p_chosen 0.500 to 1, 0.900 on average",
        "Labels 30 desirable, 10 not",
        "Copies made by weights 17",
        "Columns not read source_url",
        "Source b.jsonl format shp, 90 rows, 80 records, weight 0.500, licence not known",
        "prompt a.jsonl:1 Is it &lt;b&gt;red&lt;/b&gt;? chosen Yes rejected No",
        "What the checks found (1)",
    ):
        assert words in said
    assert '<span class="uncounted">No</span>' in section


def test_report_json_has_every_number(make_run: MakeRun) -> None:
    folder = make_run()
    found = json.loads(write_report([folder]).with_suffix(".json").read_text())["runs"][0]
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    logged = {
        (line["step"], key): value
        for line in lines
        for key, value in line.items()
        if key.startswith(("train/", "eval/"))
    }
    shown = {
        (step, key): value
        for key, column in found["metrics"].items()
        for step, value in zip(found["metrics"]["step"], column, strict=True)
        if value is not None and key.startswith(("train/", "eval/"))
    }
    assert shown == logged
    assert found["evaluation"]["by_length_gap"][1]["n"] == 402
    assert found["config"]["optim"]["learning_rate"] == 0.0001
    assert found["verdict"]["answers"][0]["tone"] == "good"


def test_further_evaluations_of_a_run_stand_beside_its_own(make_run: MakeRun) -> None:
    """Of other rows, another policy or another reference: each file `evaluation-NAME.json` is a column."""
    folder = make_run()
    right = Estimate(value=0.625, low=0.5, high=0.75, level=0.95, n=40)
    ties = Estimate(value=0.4, low=0.1, high=0.7, level=0.95, n=12, coverage=0.88)
    measured = Evaluation(best_of=BestOf(sections={"Ties": ties}, overall=right, num_questions=40), num_pairs=120)
    (folder / "evaluation-rewardbench.json").write_text(measured.model_dump_json())
    (folder / "evaluation-mmlu.json").write_text(Evaluation(auc=right).model_dump_json())
    page = write_report([folder])
    section = page.read_text().split("Further evaluations")[1].split("</table>")[0]
    assert re.findall(r'<th scope="col">(.*?)</th>', section) == ["", "mmlu", "rewardbench"]
    assert "40.0 % [10.0, 70.0] (covers only 88 %)" in section
    further = json.loads(page.with_suffix(".json").read_text())["runs"][0]["further"]
    assert further["rewardbench"]["best_of"]["overall"]["value"] == 0.625
    assert further["mmlu"]["auc"]["n"] == 40


def test_a_missing_part_is_said_and_not_drawn(make_run: MakeRun) -> None:
    folder = make_run(without=("run.json", "data.json", "evaluation.json", "samples.jsonl"))
    html = write_report([folder]).read_text()
    for line in (
        "No run card (run.json)",
        "No data report (data.json)",
        "No evaluation (evaluation.json)",
        "No reward-KL frontier",
    ):
        assert line in html
    for name in ("calibration", "margin-histogram", "frontier"):
        assert f'id="{name}-figure_1"' not in html
    assert 'id="data"' not in html
    assert 'id="loss-figure_1"' in html


def test_a_run_without_a_log_still_gives_a_page(make_run: MakeRun) -> None:
    folder = make_run(without=("metrics.jsonl",))
    assert "No curves (metrics.jsonl): no step was logged." in write_report([folder]).read_text()


def test_a_supervised_run_shows_likelihood_and_no_sides(make_run: MakeRun) -> None:
    folder = make_run(loss="sft", without=("evaluation.json",))
    (folder / "metrics.jsonl").write_text(
        "".join(f'{{"step": {k}, "train/loss": {3 - k / 9}, "train/logps": {-60 + k}}}\n' for k in range(1, 9))
    )
    html = write_report([folder]).read_text()
    assert 'id="logps-figure_1"' in html
    assert 'id="displacement"' not in html


def test_foreign_text_is_shown_and_never_run(make_run: MakeRun) -> None:
    folder = make_run(ATTACK.replace("/", "_"))
    (folder / "samples.jsonl").write_text(json.dumps({"prompt": ATTACK, "reference": ATTACK, "policy": ATTACK}) + "\n")
    (folder / "run.json").write_text(
        json.dumps({"name": ATTACK, "warnings": [{"message": ATTACK, "fix": ATTACK}], "model": {"name": ATTACK}})
    )
    (folder / "config.yaml").write_text(f"loss:\n  name: {json.dumps(ATTACK)}\n")
    html = write_report([folder]).read_text()
    assert "<script" not in html
    assert "<img" not in html
    assert "\u202e" not in html
    assert "{{ 7*7 }}" in html
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in html


def test_a_frontier_folder_is_drawn_first_with_its_runs_in_the_same_colours(frontier_folder: Path) -> None:
    page = write_report([frontier_folder])
    html = page.read_text()
    assert_self_contained(html)
    assert html.index('id="frontier"') < html.index('id="runs"') < html.index('id="learning"')
    for label in ("DPO beta=0.05", "DPO beta=0.1", "DPO beta=0.5", "IPO beta=0.1", "Preferred-FT", "optimum", "N=16"):
        assert f">{label}</text>" in html
    colour = re.search(r'--c: (var\(--s\d\))"></span>IPO beta=0.1', html)
    assert colour is not None
    assert f'--c: {colour[1]}"></span>ipo-beta-0.1' in html
    assert '86.0 % *<br><span class="muted">[82.5,\u00a089.5]</span>' in html  # past the trusted part
    numbers = json.loads(page.with_suffix(".json").read_text())
    assert [point["name"] for point in numbers["frontier"]["points"]][-1] == "Preferred-FT"
    assert len(numbers["runs"]) == 4


def test_a_point_above_the_optimum_is_a_warning(frontier_folder: Path) -> None:
    path = frontier_folder / "frontier.json"
    frontier = json.loads(path.read_text())
    frontier["points"][4]["reward"] = {"value": 0.95, "low": 0.94, "high": 0.96}
    path.write_text(json.dumps(frontier))
    assert (
        "Preferred-FT: the whole interval lies above the optimum&#39;s" in write_report([frontier_folder]).read_text()
    )


def test_several_runs_share_a_page_in_the_folder_they_share(make_run: MakeRun, tmp_path: Path) -> None:
    folders = [make_run("one"), make_run("two", beta=0.5, seed=2)]
    page = write_report(folders)
    assert page == tmp_path.resolve() / "report.html"
    html = page.read_text()
    assert '<tr><th scope="row">Beta</th><td>0.1</td><td>0.5</td></tr>' in html
    assert html.count("pairs.jsonl:17: the completions of a row are identical (11 rows)") == 1


def test_many_long_runs_stay_small_and_the_curves_left_out_are_said(make_run: MakeRun) -> None:
    folders = [make_run(f"run-{k}", num_steps=5000, seed=k) for k in range(9)]
    page = write_report(folders)
    assert page.stat().st_size < 1_500_000
    assert "Curves show the first 8 of 9 runs" in page.read_text()


def test_a_place_that_cannot_be_written_is_named(make_run: MakeRun, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match="the report cannot be written"):
        write_report([make_run()], tmp_path / "file" / "report.html")


def test_reports_import_neither_torch_nor_matplotlib() -> None:
    code = "import sys, exptilt.reports; print([name for name in ('torch', 'matplotlib') if name in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
