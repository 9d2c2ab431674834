"""`exptilt demo --masks` in small: rounds on blobs gain what a coin does not, and a second call does nothing again."""

from __future__ import annotations

import json

from typer.testing import CliRunner

from exptilt.cli import app
from exptilt.studies.tasks.blobs_task import BlobsSize
from exptilt.verbs.demo import demo_of_masks

SMALL = BlobsSize(images=24, held_out=16, start_steps=120, rounds=2, epochs=5.0)


def test_two_rounds_on_blobs(tmp_path, capsys):
    measured = demo_of_masks(tmp_path / "demo", 0, SMALL)
    printed = capsys.readouterr().out
    assert "report: " in printed
    rivals = {one.name: one.dice.value for one in measured.rivals}
    assert len(rivals) == 4
    assert measured.policy.dice.value > measured.reference.dice.value + 0.05
    assert measured.policy.dice.low > measured.reference.dice.value
    assert max(rivals.values()) > measured.policy.dice.value > min(rivals.values())
    page = tmp_path / "demo" / "rounds" / "report.html"
    runs = {path: path.read_bytes() for path in (tmp_path / "demo").rglob("metrics.jsonl")}
    assert page.is_file()
    assert len(runs) >= 3
    again = demo_of_masks(tmp_path / "demo", 0, SMALL)
    assert again == measured
    assert {path: path.read_bytes() for path in runs} == runs
    rows = [json.loads(line) for line in (tmp_path / "demo" / "data" / "train.jsonl").read_text().splitlines()]
    assert len(rows) == 24


def test_several_seeds_are_refused(tmp_path):
    done = CliRunner().invoke(app, ["demo", "--masks", "--seeds", "2", "--output", str(tmp_path / "d")])
    assert done.exit_code != 0
    assert "the demo of masks has one" in str(done.exception) + done.output
    assert not (tmp_path / "d").exists()
