from __future__ import annotations

import pytest

from exptilt.data.prepared import prepare_records
from exptilt.data.records import Preference, Ranking, Rating
from exptilt.errors import DataError
from exptilt.settings.data_settings import DataConfig

FIRST_LINE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content.split('#')[0] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""Leaves out what stands behind a number sign."""


def turn(role, text):
    return ({"role": role, "content": text},)


def pair(at, chosen, rejected, prompt="Q", **more):
    sides = {"chosen": turn("assistant", chosen), "rejected": turn("assistant", rejected)}
    return Preference(id=f"f:{at}", prompt=turn("user", prompt), **sides, **more)


def prepared(make_tokenizer, records, kind="pair", **settings):
    config = DataConfig(train="records", on_lost="keep", **settings)
    return prepare_records(records, make_tokenizer(bos=True, chat=FIRST_LINE), kind, config=config)


def counts(done):
    return {finding.code: finding.count for finding in done.report.findings}


def test_sides_that_differ_only_in_what_the_template_leaves_out_are_identical(make_tokenizer):
    rows = [pair(1, "yes#a", "yes#b"), pair(2, "yes", "no")]
    with pytest.raises(
        DataError, match="f:1: identical once it is rendered: the chat template leaves out what differs"
    ):
        prepared(make_tokenizer, rows)
    dropped = prepared(make_tokenizer, rows, on_identical="drop")
    assert [group.id for group in dropped.train] == ["f:2"]
    assert dropped.report.train.examples_left_out == {"identical": 1}
    assert len(prepared(make_tokenizer, rows, on_identical="keep").train) == 2


def test_rows_that_repeat_once_rendered(make_tokenizer):
    rows = [pair(1, "yes", "no"), pair(2, "yes#a", "no"), pair(3, "yes", "no", prompt="R"), pair(4, "yes#b", "no")]
    with pytest.raises(DataError, match="f:2: repeats f:1 once it is rendered"):
        prepared(make_tokenizer, rows)
    done = prepared(make_tokenizer, rows, on_duplicate="drop")
    assert [group.id for group in done.train] == ["f:1", "f:3"]
    assert counts(done)["duplicate"] == 2
    assert done.report.train.kept == 2
    assert done.report.train.examples_left_out == {"duplicate": 2}
    assert done.report.train.longer_chosen == 1.0, "the text is counted over the rows that stay"
    assert len(prepared(make_tokenizer, rows, on_duplicate="keep").train) == 4


def test_rows_that_contradict_each_other_once_rendered(make_tokenizer):
    rows = [pair(1, "yes", "no"), pair(2, "no", "yes#a", p_chosen=0.8), pair(3, "a", "b")]
    with pytest.raises(DataError, match="f:1: has the opposite label of f:2 once it is rendered"):
        prepared(make_tokenizer, rows)
    assert [group.id for group in prepared(make_tokenizer, rows, on_conflict="drop").train] == ["f:3"]
    soft = prepared(make_tokenizer, rows, on_conflict="soft")
    assert [(group.id, group.label.p_chosen) for group in soft.train] == [("f:1", pytest.approx(0.6)), ("f:3", 1.0)]
    assert soft.report.train.p_chosen == pytest.approx((0.6, 0.8, 1.0))


def test_rows_that_were_compared_as_text_are_not_counted_twice(make_tokenizer):
    rows = [pair(1, "yes", "no"), pair(2, "yes", "no"), pair(3, "no", "yes")]
    done = prepared(make_tokenizer, rows, on_duplicate="keep", on_conflict="keep")
    assert counts(done)["conflict"] == 3
    assert len(done.train) == 3


def test_ratings_and_rankings_can_contradict_each_other_too(make_tokenizer):
    ratings = [
        Rating(id=f"f:{at}", prompt=turn("user", "Q"), completion=turn("assistant", text), desirable=good)
        for at, (text, good) in enumerate([("yes", True), ("yes#a", False), ("no", False)])
    ]
    done = prepared(make_tokenizer, ratings, "unpaired", on_conflict="drop")
    assert [group.id for group in done.train] == ["f:2"]
    assert done.report.train.num_desirable == 0
    rankings = [
        Ranking(
            id=f"f:{at}",
            prompt=turn("user", "Q"),
            completions=(turn("assistant", a), turn("assistant", b)),
            ranks=(1, 2),
        )
        for at, (a, b) in enumerate([("yes", "no"), ("no", "yes#a"), ("a", "b")])
    ]
    assert [group.id for group in prepared(make_tokenizer, rankings, "list", on_conflict="drop").train] == ["f:2"]
