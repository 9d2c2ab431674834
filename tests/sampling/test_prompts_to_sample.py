"""Prompts of any data source, each once, and what became of the other rows."""

from __future__ import annotations

import json
import sys

import pytest

from exptilt.cli import main
from exptilt.data.prepared import prepare
from exptilt.errors import DataError
from exptilt.kinds import COMPLETION, PAIR, PROMPT
from exptilt.policies.tokenizers import train_tokenizer
from exptilt.sampling.prompts_to_sample import prompts_of
from exptilt.settings.data_settings import DataConfig

USER = {"role": "user", "content": "Q"}
SYSTEM = {"role": "system", "content": "S"}
TOOLS = [{"type": "function", "function": {"name": "add", "description": "adds", "parameters": {}}}]


def asked(path, *rows: dict, **settings):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return prompts_of(DataConfig(train=str(path), **settings))


@pytest.mark.parametrize(
    ("row", "prompt", "answer"),
    [
        ({"prompt": "Q"}, "Q", None),
        ({"prompt": "Q", "solution": "4", "source": "x", "id": 7}, "Q", "4"),
        ({"question": "Q", "ground_truth": 4}, "Q", "4"),
        ({"question": "Q", "answer": "so\n#### 4"}, "Q", "so\n#### 4"),
        ({"prompt": [SYSTEM, USER]}, (SYSTEM, USER), None),
        ({"messages": [SYSTEM, USER], "answer": "4"}, (SYSTEM, USER), "4"),
        ({"messages": [USER, {"role": "assistant", "content": "a"}]}, (USER,), "a"),
        ({"system": "S", "prompt": "Q"}, (SYSTEM, USER), None),
        ({"prompt": "Q", "chosen": "a", "rejected": "b"}, "Q", None),
        ({"prompt": "Q", "completions": ["a", "b"], "ranks": [1, 2]}, "Q", None),
        ({"prompt": "Q", "completion": "a", "label": True}, "Q", None),
    ],
)
def test_the_prompt_and_the_right_answer_are_found(tmp_path, row, prompt, answer):
    (only,), left_out = asked(tmp_path / "rows.jsonl", row)
    assert (only.prompt, only.answer) == (prompt, answer)
    assert not left_out


def test_tools_make_another_prompt_and_repeats_are_counted(tmp_path):
    rows = [{"prompt": [USER]}, {"prompt": [USER], "tools": TOOLS}, {"prompt": [USER]}, {"prompt": [USER]}]
    prompts, left_out = asked(tmp_path / "rows.jsonl", *rows)
    assert [dict(one.template_args) for one in prompts] == [{}, {"tools": TOOLS}]
    assert left_out == {"a prompt that an earlier row asks": 2}


def test_rows_that_were_dropped_are_counted(tmp_path):
    rows = [{"prompt": "Q"}, {"prompt": 7}, {"prompt": "R"}]
    prompts, left_out = asked(tmp_path / "rows.jsonl", *rows, on_invalid="drop")
    assert [one.prompt for one in prompts] == ["Q", "R"]
    assert left_out == {"wrong_type": 1}
    with pytest.raises(DataError, match="1 row cannot be read"):
        asked(tmp_path / "rows.jsonl", *rows)


def test_what_may_be_a_misspelled_completion_is_no_prompt_alone(tmp_path):
    with pytest.raises(DataError, match=r"did you mean 'data\.columns="):
        asked(tmp_path / "rows.jsonl", {"prompt": "Q", "chosn": "a", "rejectd": "b"})
    with pytest.raises(DataError, match="no known format"):
        asked(tmp_path / "rows.jsonl", {"prompt": "Q", "best_answer": "a"})


def test_prompts_are_a_kind_of_their_own_and_nothing_to_train_on(tmp_path):
    tokenizer = train_tokenizer(["the film was good and the plot was bad"] * 4, 300)
    path = tmp_path / "rows.jsonl"
    path.write_text('{"prompt": "the film"}\n{"prompt": "the plot"}\n{"prompt": "a", "completion": "b"}\n')
    prepared = prepare(DataConfig(train=str(path), format="demonstration", on_invalid="drop"), tokenizer, PROMPT, None)
    assert len(prepared.train) == 1
    path.write_text('{"prompt": "the film"}\n{"prompt": "the plot"}\n')
    prepared = prepare(DataConfig(train=str(path)), tokenizer, PROMPT, None)
    assert [group.prompt.tolist() for group in prepared.train] == [
        tokenizer(text)["input_ids"] for text in ("the film", "the plot")
    ]
    assert [group.completions for group in prepared.train] == [(), ()]
    assert prepared.report.train.lengths["prompt"].total == sum(len(group.prompt) for group in prepared.train)
    for kind in (PAIR, COMPLETION):
        report = prepare(DataConfig(train=str(path)), tokenizer, kind, None, strict=False).report
        assert report.train.rows_left_out == {"prompt_only": 2}
        assert [(finding.code, finding.severity) for finding in report.findings] == [("prompt_only", "error")]


def test_a_reply_missing_in_one_row_is_one_finding(tmp_path):
    path = tmp_path / "rows.jsonl"
    whole = {"messages": [USER, {"role": "assistant", "content": "a"}]}
    path.write_text("".join(json.dumps(row) + "\n" for row in (whole, {"messages": [USER, USER]})))
    report = prepare(DataConfig(train=str(path)), None, COMPLETION, strict=False).report
    assert report.train.rows_left_out == {"prompt_only": 1}
    assert report.train.kept == 1
    assert report.refusal


@pytest.mark.parametrize("verb", ["plan", "train"])
def test_a_run_on_prompts_alone_is_told_what_to_do(tmp_path, monkeypatch, capsys, verb):
    (tmp_path / "rows.jsonl").write_text('{"prompt": "the film"}\n{"prompt": "the plot"}\n')
    recipe = tmp_path / "r.yaml"
    recipe.write_text(
        f"output: {tmp_path / 'run'}\nmodel: {{config: {{hidden_size: 16, num_layers: 1, num_heads: 2}}}}\n"
        f"data: {{train: {tmp_path / 'rows.jsonl'}}}\n"
    )
    monkeypatch.setattr(sys, "argv", ["exptilt", verb, str(recipe)])
    with pytest.raises(SystemExit) as leaving:
        main()
    assert leaving.value.code
    assert "`exptilt sample`" in capsys.readouterr().err


def test_the_doctor_knows_prompts(tmp_path, monkeypatch, capsys):
    (tmp_path / "rows.jsonl").write_text('{"prompt": "the film"}\n{"prompt": "the film"}\n')
    monkeypatch.setattr(sys, "argv", ["exptilt", "doctor", str(tmp_path / "rows.jsonl")])
    with pytest.raises(SystemExit) as leaving:
        main()
    assert not leaving.value.code
    said = " ".join(capsys.readouterr().out.split())
    assert "2 rows read, 1 examples kept; left out: 1 duplicate" in said
    assert "these are prompts alone" in said
