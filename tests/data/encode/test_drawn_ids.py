"""Token ids that rows carry are trained on exactly, in every format and through every conversion."""

from __future__ import annotations

import json

import pytest

from exptilt.data.prepared import prepare
from exptilt.kinds import COMPLETION, LIST, PAIR, UNPAIRED
from exptilt.policies.tokenizers import train_tokenizer
from exptilt.settings.data_settings import DataConfig

PROMPT = "the film"


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(["the film was good and the plot was bad"] * 4, 300)


def letters(tokenizer, text: str, end: bool = True) -> list[int]:
    """One token a letter: never how the tokenizer itself spells a word it knows."""
    ids = [tokenizer(letter, add_special_tokens=False)["input_ids"][0] for letter in text]
    return [*ids, tokenizer.eos_token_id] if end else ids


def prepared(path, row: dict, tokenizer, kind, **settings):
    path.write_text(json.dumps(row) + "\n")
    made = prepare(DataConfig(train=str(path), **settings), tokenizer, kind, None)
    codes = {finding.code: finding.count for finding in made.report.findings}
    return [[part.ids.tolist() for part in group.completions] for group in made.train], codes


def rows(tokenizer) -> dict[str, dict]:
    asked = {"prompt": PROMPT, "prompt_ids": tokenizer(PROMPT)["input_ids"]}
    good, bad, plot = (letters(tokenizer, text) for text in ("good", "bad", "plot"))
    return {
        "preference": {**asked, "chosen": "good", "rejected": "bad", "chosen_ids": good, "rejected_ids": bad},
        "ranking": {
            **asked, "completions": ["bad", "good", "plot"], "ranks": [3, 1, 2], "completions_ids": [bad, good, plot],
        },
        "rating": {**asked, "completion": "good", "label": True, "completion_ids": good},
        "demonstration": {**asked, "completion": "good", "completion_ids": good},
    }  # fmt: skip


@pytest.mark.parametrize(
    ("name", "kind", "expected"),
    [
        ("preference", PAIR, [["good", "bad"]]),
        ("preference", UNPAIRED, [["good"], ["bad"]]),
        ("preference", LIST, [["good", "bad"]]),
        ("preference", COMPLETION, [["good"]]),
        ("ranking", LIST, [["bad", "good", "plot"]]),
        ("ranking", PAIR, [["good", "plot"], ["good", "bad"], ["plot", "bad"]]),
        ("ranking", COMPLETION, [["good"]]),
        ("rating", UNPAIRED, [["good"]]),
        ("rating", COMPLETION, [["good"]]),
        ("demonstration", COMPLETION, [["good"]]),
    ],
)
def test_the_drawn_tokens_are_trained_on(tmp_path, tokenizer, name, kind, expected):
    found, codes = prepared(tmp_path / "rows.jsonl", rows(tokenizer)[name], tokenizer, kind)
    assert found == [[letters(tokenizer, text) for text in texts] for texts in expected]
    assert codes["drawn_ids"] == len(expected)
    assert "foreign_ids" not in codes


def test_ids_that_the_text_becomes_again_are_no_change(tmp_path, tokenizer):
    own = [*tokenizer("good", add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
    row = {"prompt": PROMPT, "prompt_ids": tokenizer(PROMPT)["input_ids"], "completion": "good", "completion_ids": own}
    found, codes = prepared(tmp_path / "rows.jsonl", row, tokenizer, COMPLETION)
    assert found == [[own]]
    assert "drawn_ids" not in codes


def test_a_completion_that_was_cut_has_no_end(tmp_path, tokenizer):
    cut = letters(tokenizer, "goo", end=False)
    row = rows(tokenizer)["rating"] | {"completion": "goo", "completion_ids": cut}
    found, _ = prepared(tmp_path / "rows.jsonl", row, tokenizer, UNPAIRED)
    assert found == [[cut]]


@pytest.mark.parametrize(
    "change",
    [
        {"system": "Be brief."},  # the ids are of a prompt without it
        {"prompt_ids": [5, 6, 7]},
        {"completion": "bad"},
        {"completion_ids": [10**6]},
    ],
)
def test_ids_of_another_row_are_named_and_not_trained_on(tmp_path, tokenizer, change):
    row = rows(tokenizer)["rating"] | change
    found, codes = prepared(tmp_path / "rows.jsonl", row, tokenizer, UNPAIRED)
    plain = {name: value for name, value in row.items() if not name.endswith("_ids")}
    assert found == prepared(tmp_path / "plain.jsonl", plain, tokenizer, UNPAIRED)[0]
    assert codes["foreign_ids"] == 1


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"completions_ids": [[5], [6]]}, "completions_ids must be a list for each of the 3 completions, got 2"),
        ({"completions_ids": [[5], [6], ["a"]]}, "an id of completions_ids[2] must be a finite number"),
        ({"prompt_ids": None}, "column 'prompt_ids' is null"),
    ],
)
def test_ids_of_a_wrong_shape_are_named(tmp_path, tokenizer, change, said):
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(rows(tokenizer)["ranking"] | change) + "\n")
    report = prepare(DataConfig(train=str(path)), tokenizer, LIST, None, strict=False).report
    assert any(said in finding.message or said in str(finding.examples) for finding in report.findings)
