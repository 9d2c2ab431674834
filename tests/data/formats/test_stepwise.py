"""Solutions in steps as ratings, by every rule, from hand-computed numbers."""

from __future__ import annotations

import json

import pytest

from exptilt.data.prepared import prepare
from exptilt.kinds import UNPAIRED
from exptilt.policies.tokenizers import train_tokenizer
from exptilt.settings.data_settings import DataConfig


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(["the film was good and the plot was bad"] * 4, 300)


@pytest.mark.parametrize(
    ("rule", "labels", "score", "desirable"),
    [
        ("prefix", [True, True, False, True], 0.5, False),
        ("prefix", [True, True], 1.0, True),
        ("prefix", [0.9, 0.4, 1], 1 / 3, False),
        ("min", [True, True, False, True], 0.0, False),
        ("min", [0.9, 0.6, 0.8], 0.6, True),
        ("product", [0.9, 0.6, 0.8], 0.432, False),
        ("mean", [True, False, True], 2 / 3, True),
        ("last", [False, False, True], 1.0, True),
        ("last", [True, True, 0.25], 0.25, False),
    ],
)
def test_labels_of_steps_become_one_score(tmp_path, tokenizer, rule, labels, score, desirable):
    steps = [f"step {at}" for at in range(len(labels))]
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps({"prompt": "the film", "completions": steps, "labels": labels}) + "\n")
    (group,) = prepare(DataConfig(train=str(path), steps=rule), tokenizer, UNPAIRED, None).train
    assert group.label.desirable is desirable
    assert group.completions[0].score == pytest.approx(score)


@pytest.mark.parametrize("labels", [[1.5, 1], ["maybe", True], [True]])
def test_labels_that_are_none_are_named(tmp_path, tokenizer, labels):
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps({"prompt": "the film", "completions": ["a", "b"], "labels": labels}) + "\n")
    report = prepare(DataConfig(train=str(path)), tokenizer, UNPAIRED, None, strict=False).report
    assert report.train.kept == 0
    assert "labels" in report.findings[0].message
