"""Counts on real files, which are not part of the repository; each was found by a program that shares no code with this one."""

from __future__ import annotations

import pytest

from exptilt.data.prepared import prepare
from exptilt.data.splits import read_records
from exptilt.settings.data_settings import DataConfig

DROP = {f"on_{name}": "drop" for name in ("invalid", "empty", "identical", "tie", "duplicate", "conflict")}


def looked_at(path, kind, tokenizer=None, **settings):
    prepared = prepare(DataConfig(train=str(path), **settings), tokenizer, kind, strict=False)
    train = prepared.report.train
    assert train.examples - sum(train.examples_left_out.values()) == train.kept
    return train, {finding.code: finding.count for finding in prepared.report.findings}


def test_hh_every_row_is_accounted_for_and_the_oddities_are_counted(real_data):
    train, found = looked_at(real_data / "hh_rlhf/harmless-base.test.jsonl.gz", "pair", on_empty="keep")
    assert (train.format, train.rows, train.kept) == ("hh", 2312, 2312)
    assert (found["empty"], found["prefix"], found["same_role_twice"], found["duplicate_prompt"]) == (4, 5, 9, 2)
    left_out, _ = looked_at(real_data / "hh_rlhf/harmless-base.test.jsonl.gz", "pair", on_empty="drop")
    assert (left_out.examples_left_out, left_out.kept) == ({"empty": 4}, 2308)


def test_alpaca_eval_pairs_triples_labels_and_length(real_data):
    path = real_data / "alpaca_eval/pairs.train.jsonl.gz"
    train, found = looked_at(path, "pair", on_conflict="keep", on_duplicate="keep")
    assert train.rows == train.kept == 12239
    assert train.longer_chosen == pytest.approx(0.70569, abs=5e-6)
    assert found["length_bias"] == round(train.longer_chosen * train.kept)
    assert train.p_chosen[0] > 0.5
    assert (found["duplicate"], found["conflict"]) == (46, 5)
    softened, _ = looked_at(path, "pair", on_conflict="soft", on_duplicate="drop")
    assert softened.rows_left_out == {"conflict": 3, "duplicate": 45}
    assert softened.examples_left_out == {"tie": 1}  # one yes and one no


def test_alpaca_eval_rankings(real_data):
    records = read_records(
        DataConfig(train=str(real_data / "alpaca_eval/kwise.jsonl.gz"), **DROP | {"on_identical": "keep"})
    )
    assert len(records.train) == 805
    assert {len(record.completions) for record in records.train} == {7}
    assert sum(len(set(record.ranks)) < 7 for record in records.train) == 15


def test_alpaca_eval_failed_and_equal_judgements(real_data):
    train, _ = looked_at(
        real_data / "alpaca_eval/ties_and_oddities.jsonl.gz",
        "pair",
        columns={"response_1": "response_baseline", "response_2": "response_model"},
        on_duplicate="keep",
        on_conflict="keep",
    )
    assert (train.format, train.rows, train.rows_left_out["unjudged"]) == ("judgement", 118, 8)
    assert train.examples_left_out == {"identical": 106, "empty": 4}
    assert train.kept == 0


def test_kto_mix_has_both_labels_in_equal_number(real_data):
    train, found = looked_at(real_data / "kto/kto_mix.test.jsonl.gz", "unpaired", on_conflict="keep")
    assert (train.num_desirable, train.num_undesirable) == (546, 546)
    assert found["label_balance"] == 1092


def test_sharegpt_pairs_and_rated_conversations(real_data):
    config = DataConfig(train=str(real_data / "pref_small/dpo_en_demo.sharegpt.jsonl.gz"), on_duplicate="keep")
    records = read_records(config).train
    assert len(records) == 300
    assert sum(record.prompt[0]["role"] == "system" for record in records) == 80
    train, _ = looked_at(real_data / "kto/kto_en_demo.jsonl.gz", "unpaired")
    assert (train.num_desirable, train.num_undesirable) == (150, 150)


def test_dialogues_count_every_turn_of_the_system_and_none_of_the_user(real_data, base_tokenizer):
    path = real_data / "sft/sgd_dialogues.test.jsonl.gz"
    config = DataConfig(train=str(path), limit=40)
    for record, group in zip(
        read_records(config).train, prepare(config, base_tokenizer, "completion").train, strict=True
    ):
        (completion,) = group.completions
        replies = [turn["content"] for turn in record.completion if turn["role"] == "assistant"]
        counted = base_tokenizer.decode(completion.ids[completion.counted])
        assert counted == "".join(f" {reply}" for reply in replies) + "<eos>"
    whole, _ = looked_at(path, "completion")
    assert (whole.rows, whole.kept) == (800, 800)


def test_panda_votes_and_their_ties(real_data):
    path = real_data / "judge/pandalm_testset_v1.jsonl.gz"
    records = read_records(
        DataConfig(
            train=str(path),
            **DROP
            | {
                "on_tie": "keep",
                "on_empty": "keep",
                "on_identical": "keep",
                "on_conflict": "keep",
                "on_duplicate": "keep",
            },
        )
    ).train
    train, found = looked_at(path, "pair", on_duplicate="keep", on_conflict="keep")
    assert (train.format, train.rows, len(records)) == ("votes", 999, 999)
    assert found["empty"] == 54
    assert sum(record.p_chosen == 0.5 for record in records) == 85


def test_qa_feedback_comparisons_and_rankings(real_data):
    path = real_data / "kwise/qa_feedback_dev.jsonl.gz"
    train, _ = looked_at(path, "pair", on_duplicate="keep", on_conflict="keep", on_identical="keep", on_empty="keep")
    assert (train.format, train.rows, train.examples) == ("comparisons", 500, 3000)
    assert train.examples_left_out == {"tie": 384}
    ranked, _ = looked_at(path, "list", format="copeland", on_identical="keep", on_empty="keep")
    assert (ranked.rows, ranked.kept) == (500, 500)


def test_reviews_carry_tags_and_both_labels(real_data):
    path = real_data / "sentiment/imdb.test.jsonl.gz"
    train, _ = looked_at(path, "unpaired", format="rated_text", on_duplicate="keep", on_conflict="keep")
    assert (train.num_desirable, train.num_undesirable) == (5000, 5000)
    texts = read_records(DataConfig(train=str(path), ignore_columns=("label", "rating"), on_duplicate="keep")).train
    assert sum("<br />" in record.completion for record in texts) == 5824
