from __future__ import annotations

import gzip
import json
import os
from collections import Counter
from pathlib import Path

import pytest

from exptilt.rewards.answer_checks import exact, gsm8k, json_by_schema, maths, regex

DATA = Path(os.environ.get("EXPTILT_DATA", Path(__file__).parents[3] / "shared" / "data"))


@pytest.mark.skipif(not (DATA / "math").is_dir(), reason="the data set GSM8K is not here")
def test_every_model_solution_of_gsm8k_is_graded_as_the_file_says():
    disagreements, right = [], Counter()
    with gzip.open(DATA / "math" / "gsm8k_model_solutions.jsonl.gz", "rt") as file:
        for number, line in enumerate(file, start=1):
            row = json.loads(line)
            for answer in row["answers"]:
                verdict = gsm8k(answer["response"], row["ground_truth"])
                right[answer["model"]] += bool(verdict)
                if verdict is not answer["is_correct"]:
                    disagreements.append((number, answer["model"], verdict))
    assert disagreements == []
    assert right == {"6b_finetuning": 286, "6b_verification": 515, "175b_finetuning": 458, "175b_verification": 742}


@pytest.mark.parametrize(
    ("text", "answer", "verdict"),
    [
        ("#### 18", "#### 18", True),
        ("#### 18\n#### 19", "19", True),  # the last one counts
        ("A: 1,234", "1234", True),
        ("A: 12.50", "12.5", True),
        ("A: -3", "3", False),
        ("A: 1/2", "1", False),  # a fraction is not its numerator
        ("A: 5 million", "5", False),
        ("18", "18", False),  # no final answer is marked
        ("#### none", "18", False),
        ("#### 18", "eighteen", None),  # nothing to compare with
    ],
)
def test_final_numbers_are_compared_as_numbers(text, answer, verdict):
    assert gsm8k(text, answer) is verdict


def test_a_pattern_without_a_group_asks_for_a_match_and_with_one_for_the_answer():
    assert regex("<think>so</think> 4", "", pattern=r"^<think>.*</think>")
    assert not regex("4", "", pattern=r"^<think>.*</think>")
    assert regex("(A) or (B)", "B", pattern=r"\((\w)\)")  # the last match counts
    assert not regex("(A) or (B)", "A", pattern=r"\((\w)\)")


def test_json_is_the_whole_text_and_fits_the_schema():
    schema = {"type": "object", "required": ["name"], "properties": {"name": {"type": "string"}}}
    assert json_by_schema('{"name": "x"}', "", schema=schema)
    assert not json_by_schema('{"name": 3}', "", schema=schema)
    assert not json_by_schema('Here: {"name": "x"}', "", schema=schema)
    assert not json_by_schema("NaN", "", schema={})


def test_exact_minds_case_unless_it_is_told_not_to():
    assert exact("Paris\n", "Paris")
    assert not exact("PARIS", "Paris")
    assert exact("STRASSE", "straße", ignore_case=True)


def test_mathematics_whose_right_answer_cannot_be_read_says_nothing():
    pytest.importorskip("math_verify", reason="the extra `verify` is not installed")
    assert maths("7", "") is None
    assert maths(r"2^{10}", "1024") is True
