from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest

from exptilt.errors import ConfigError
from exptilt.settings.load import dump
from exptilt.settings.model_settings import ModelConfig
from exptilt.verbs.doctor import doctor

DATA = Path(os.environ.get("EXPTILT_DATA", Path(__file__).parents[3] / "shared" / "data"))
REAL = {  # file: rows, whether a run would take them as they are, left out
    "hh_rlhf/harmless-base.test.jsonl.gz": (2312, False, {"empty": 4}),
    "pref_small/dpo_en_demo.sharegpt.jsonl.gz": (300, None, None),
    "alpaca_eval/pairs.train.jsonl.gz": (12239, False, None),
    "kto/kto_en_demo.jsonl.gz": (300, None, None),
    "kto/kto_mix.test.jsonl.gz": (1092, None, None),
    "judge/pandalm_testset_v1.jsonl.gz": (999, False, {"duplicate": 131, "conflict": 7, "empty": 24, "tie": 60}),
    "judge/llmbar.jsonl.gz": (885, False, {"duplicate": 5, "identical": 1, "empty": 1}),
    "judge/autoj_pairwise.jsonl.gz": (1392, False, None),
    "kwise/qa_feedback_dev.jsonl.gz": (500, False, {"tie": 384}),
    "alpaca_eval/kwise.jsonl.gz": (805, False, {"identical": 13}),
}
EXAMPLES = {"kwise/qa_feedback_dev.jsonl.gz": 3000}
"""Where a row gives several."""


def looked_at(capsys, source, *overrides):
    status = doctor(str(source), list(overrides), None, True, 0)
    return status, json.loads(capsys.readouterr().out)


@pytest.mark.parametrize("name", REAL)
def test_real_files(capsys, name):
    if not (DATA / name).is_file():
        pytest.skip(f"no real data at {DATA}; set EXPTILT_DATA")
    rows, takes, left_out = REAL[name]
    status, report = looked_at(capsys, DATA / name)
    train = report["train"]
    assert train["rows"] == rows
    assert train["examples"] == EXAMPLES.get(name, rows - sum(train["rows_left_out"].values()))
    assert train["examples"] - sum(train["examples_left_out"].values()) == train["kept"] > 0
    errors = [finding["code"] for finding in report["findings"] if finding["severity"] == "error"]
    assert status == (1 if errors else 0)
    if takes is not None:
        assert (status == 0) is takes
    if left_out is not None:
        assert train["rows_left_out"] | train["examples_left_out"] == left_out


def test_a_clean_file_is_taken(capsys, write_rows, pairs):
    status, report = looked_at(capsys, write_rows("good.jsonl", pairs()))
    assert (status, report["kind"], report["train"]["kept"]) == (0, "pair", 30)


def test_every_kind_of_row_is_examined_as_what_it_trains(capsys, write_rows):
    rated = [{"prompt": f"{n}?", "completion": f"{n}.", "label": bool(n % 2)} for n in range(4)]
    shown = [{"prompt": f"{n}?", "completion": f"{n}."} for n in range(4)]
    assert looked_at(capsys, write_rows("rated.jsonl", rated))[1]["kind"] == "unpaired"
    assert looked_at(capsys, write_rows("shown.jsonl", shown))[1]["kind"] == "completion"


def test_errors_are_named_and_a_policy_settles_them(capsys, write_rows, pairs):
    path = write_rows("bad.jsonl", [*pairs(), pairs()[0], {"prompt": "a", "chosen": "b"}])
    assert doctor(str(path), [], None, False, 0) == 1
    text = " ".join(capsys.readouterr().out.split())
    assert "bad.jsonl:31: repeats bad.jsonl:1 -> remove the copies, or set data.on_duplicate to drop or keep" in text
    assert "bad.jsonl:32: column 'rejected' is missing" in text
    assert "a run would refuse these data: 2 kinds of error" in text
    status, report = looked_at(capsys, path, "data.on_duplicate=drop", "data.on_invalid=drop")
    assert (status, report["train"]["kept"]) == (0, 30)
    assert report["train"]["rows_left_out"] == {"duplicate": 1, "missing_column": 1}


def test_a_model_shows_lengths_and_examples(capsys, finished, tmp_path):
    assert doctor(finished.data.train, [], str(finished.folder / "model"), False, 1) == 0
    text = capsys.readouterr().out
    assert max(map(len, text.splitlines())) <= 80
    assert "chosen (" in text
    assert "tokens count)" in text
    assert "% full, and nothing is padded" in " ".join(text.split())
    assert "a run would take these data" in text
    assert any(line.split()[:1] == ["prompt"] for line in text.splitlines())


def test_a_row_the_model_cannot_hold_is_an_error_before_the_run(capsys, finished, write_rows, pairs):
    long = {"prompt": "Is it long?", "chosen": " it is" * 300, "rejected": " it is not"}
    path = write_rows("long.jsonl", [*pairs(), long])
    model = str(finished.folder / "model")
    assert doctor(str(path), [], model, True, 0) == 1
    (error,) = [one for one in json.loads(capsys.readouterr().out)["findings"] if one["severity"] == "error"]
    assert (error["code"], error["examples"]) == ("too_long", ["long.jsonl:31"])
    assert "and max_tokens is " in error["message"]
    assert doctor(str(path), ["data.on_too_long=drop"], model, True, 0) == 0


def test_the_budget_of_the_recipe_is_the_one_spoken_of(capsys, finished, tmp_path):
    named = [f"model.tokenizer={finished.folder / 'model'}", f"output={tmp_path / 'other'}"]
    _, report = looked_at(capsys, finished.folder / "config.yaml", *named, "batch.tokens=20", "batch.size=5")
    (found,) = [one for one in report["findings"] if one["code"] in ("batches", "over_budget")]
    assert (found["code"], found["severity"]) == ("over_budget", "warning")
    assert "a step of 5 examples is " in found["message"]
    assert "longer than batch.tokens=20 alone" in found["message"]


def test_a_recipe_is_examined_with_its_own_settings(capsys, make_recipe, tmp_path):
    recipe = make_recipe()
    (tmp_path / "mine.yaml").write_text(dump(recipe))
    _, report = looked_at(capsys, tmp_path / "mine.yaml", "data.limit=20")
    assert report["train"]["rows"] + report["test"]["rows"] == 20
    assert looked_at(capsys, tmp_path / "mine.yaml", "loss=sft")[1]["kind"] == "completion"


def test_a_page_is_written_beside_what_is_printed(capsys, write_rows, pairs, tmp_path):
    page = tmp_path / "report.html"
    bad = write_rows("bad.jsonl", [*pairs(), pairs()[0]])
    assert doctor(str(bad), [], None, True, 0, html=page) == 1
    assert json.loads(capsys.readouterr().out)["train"]["kept"] == 30
    assert "A run would refuse these data:" in page.read_text()
    assert doctor(str(bad), ["data.on_duplicate=drop"], None, False, 0, html=page) == 0
    assert capsys.readouterr().out.splitlines()[-1] == str(page)
    assert "A run would take these data." in page.read_text()


def test_the_reference_is_asked_whether_it_knows_such_text(capsys, finished, tmp_path):
    def found(source, *overrides, model=None):
        assert doctor(str(source), list(overrides), model, True, 0, reference_check=True) == 0
        findings = json.loads(capsys.readouterr().out)["findings"]
        return next(one for one in findings if one["code"] in ("familiarity", "unfamiliar"))

    model = str(finished.folder / "model")
    alone = found(finished.data.train, model=model)
    assert (alone["code"], alone["count"]) == ("unfamiliar", 30)
    assert "run a supervised phase first" in alone["fix"]
    named = [f"model.tokenizer={model}", f"output={tmp_path / 'other'}"]
    first = found(finished.folder / "config.yaml", *named)
    assert first["code"] == "familiarity"
    assert "the supervised phase of this run is the cure" in first["message"]
    assert first["count"] == 23
    assert found(finished.folder / "config.yaml", *named, "sft=null")["code"] == "unfamiliar"


def test_a_reference_check_needs_a_model(write_rows, pairs, make_recipe, tmp_path):
    (tmp_path / "mine.yaml").write_text(dump(replace(make_recipe(), model=ModelConfig())))
    for source in (write_rows("good.jsonl", pairs()), tmp_path / "mine.yaml"):
        with pytest.raises(ConfigError, match="--reference-check needs a model: name one with --model"):
            doctor(str(source), [], None, False, 0, reference_check=True)


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("loss=ipo", "'loss=ipo': without a recipe only data.* keys can be set"),
        ("data.limt=3", "command line: data.limt: unknown key; did you mean 'limit'?"),
        ("data.limit=0", "command line: data.limit must be at least 1, got 0"),
    ],
)
def test_a_wrong_override_names_its_key(write_rows, pairs, override, expected):
    with pytest.raises(ConfigError) as caught:
        doctor(str(write_rows("good.jsonl", pairs())), [override], None, False, 0)
    assert expected in str(caught.value)
