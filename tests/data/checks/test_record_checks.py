from __future__ import annotations

import gzip
import json

import pytest

from exptilt.data.checks.across_records import check_across, check_leak
from exptilt.data.checks.record_checks import check_record, is_held_out, longer_side, prompt_key
from exptilt.data.formats.pairs import preference, transcripts
from exptilt.data.records import Demonstration, Preference, Ranking, Rating
from exptilt.data.stage_account import NOTHING, Decisions
from exptilt.settings.data_settings import DataConfig


def decisions(**settings):
    return Decisions(DataConfig(train="x", **settings).decisions)


def pair(row_id="f:1", prompt="Q", chosen="good", rejected="bad", **extra):
    return Preference(id=row_id, prompt=prompt, chosen=chosen, rejected=rejected, **extra)


def counts(account):
    return {code: noted.count for code, noted in account.noted.items()}


TURNS = ({"role": "assistant", "content": "a"}, {"role": "user", "content": "q"}, {"role": "assistant", "content": " "})


@pytest.mark.parametrize(
    ("record", "code", "detail"),
    [
        (pair(chosen=""), "empty", "chosen is empty"),
        (pair(rejected=" \n"), "empty", "rejected is empty"),
        (pair(chosen=TURNS), "empty", "chosen is empty"),
        (Demonstration(id="f:1", prompt="Q", completion="\t"), "empty", "completion is empty"),
        (Ranking(id="f:1", prompt="Q", completions=("a", ""), ranks=(1, 2)), "empty", "completions[1] is empty"),
        (pair(chosen="same ", rejected=" same"), "identical", "chosen and rejected are identical"),
        (Ranking(id="f:1", prompt="Q", completions=("a", "b", "a"), ranks=(1, 2, 3)), "identical", "two completions"),
        (pair(p_chosen=0.5), "tie", "neither side is preferred (p_chosen is 0.5)"),
        (pair(p_chosen=0.5, margin=0.0), "tie", "the scores are equal"),
    ],
)
def test_what_keeps_a_record_out(record, code, detail):
    account = check_record(record, decisions())
    assert account.left_out == {code: 1}
    (finding,) = account.findings(decisions())
    assert (finding.code, finding.severity, finding.examples) == (code, "error", ("f:1",))
    assert f"set data.on_{code} to " in str(finding)
    assert detail in finding.message
    assert check_record(record, decisions(**{f"on_{code}": "drop"})).left_out == {code: 1}
    keeping = decisions(**{f"on_{code}": "keep"})
    kept = check_record(record, keeping)
    assert kept.left_out == {}
    assert kept.findings(keeping)[0].severity == "warning"


@pytest.mark.parametrize(
    ("record", "code"),
    [
        (pair(chosen="yes", rejected="yes, but"), "prefix"),
        (pair(chosen="yes, but", rejected="yes"), "prefix"),
        (pair(p_chosen=0.3), "unlikely_chosen"),
        (pair(margin=-1.0), "negative_margin"),
        (pair(prompt="What is a fjord, please?", chosen="What is a fjord, please? A bay."), "prompt_repeated"),
        (pair(prompt=({"role": "user", "content": "a"}, {"role": "user", "content": "b"})), "same_role_twice"),
    ],
)
def test_what_is_worth_knowing(record, code):
    account = check_record(record, decisions())
    assert (counts(account), account.left_out) == ({code: 1}, {})


def test_a_clean_record_has_no_finding():
    assert check_record(pair(), decisions()) == NOTHING


def test_repeated_rows():
    records = [pair("f:1"), pair("f:2", chosen=" good"), pair("f:3", prompt="other")]
    kept, account = check_across(records, decisions())
    assert [record.id for record in kept] == ["f:1", "f:3"]
    assert account.left_out == {"duplicate": 1}
    assert str(account.findings(decisions())[0]).startswith(
        "f:2: repeats f:1; remove the copies, or set data.on_duplicate to drop or keep"
    )
    assert len(check_across(records, decisions(on_duplicate="keep"))[0]) == 3


def test_opposite_labels():
    swapped = pair("f:2", chosen="bad", rejected="good")
    records = [pair("f:1"), swapped, pair("f:3"), pair("f:4", prompt="other")]
    kept, account = check_across(records, decisions())
    assert [record.id for record in kept] == ["f:4"]
    assert account.left_out == counts(account) == {"conflict": 3}
    soft, account = check_across(records, decisions(on_conflict="soft"))
    assert [(record.id, record.p_chosen) for record in soft] == [("f:1", pytest.approx(2 / 3)), ("f:4", 1.0)]
    assert account.left_out == {"conflict": 2}
    kept, account = check_across(records, decisions(on_conflict="keep", on_duplicate="drop"))
    assert [record.id for record in kept] == ["f:1", "f:2", "f:4"]
    assert account.left_out == {"duplicate": 1}


def test_both_labels_for_one_rating_and_two_orders_of_one_ranking():
    ratings = [Rating(id=f"f:{n}", prompt="Q", completion="a", desirable=bool(n)) for n in range(2)]
    assert check_across(ratings, decisions())[1].left_out == {"conflict": 2}
    rankings = [
        Ranking(id="f:1", prompt="Q", completions=("a", "b"), ranks=(1, 2)),
        Ranking(id="f:2", prompt="Q", completions=("b", "a"), ranks=(2, 1)),
        Ranking(id="f:3", prompt="R", completions=("a", "b"), ranks=(1, 2)),
        Ranking(id="f:4", prompt="R", completions=("b", "a"), ranks=(1, 2)),
    ]
    assert check_across(rankings, decisions())[1].left_out == {"duplicate": 1, "conflict": 2}


def test_prompts_are_compared_without_case_space_and_unicode_form():
    assert prompt_key(pair(prompt="\uff37hat  is\nthis")) == prompt_key(pair(prompt="what is THIS "))
    assert prompt_key(pair(prompt="a")) != prompt_key(pair(prompt="b"))
    texts = [Demonstration(id="f:1", prompt="", completion=said) for said in ("x", "y")]
    assert prompt_key(texts[0]) != prompt_key(texts[1])


def test_leaks_are_taken_out_of_training():
    train = [pair("f:1", prompt="Same?"), pair("f:2", prompt="new")]
    kept, account = check_leak(train, [pair("g:7", prompt="same?", chosen="x")], decisions())
    assert ([record.id for record in kept], account.left_out) == (["f:2"], {"leak": 1})
    assert str(account.findings(decisions())[0]).startswith("f:1: has the prompt of g:7, which is in the test set;")
    kept, account = check_leak(train, [pair("g:7", prompt="same?")], decisions(on_leak="keep"))
    assert (len(kept), account.left_out, counts(account)) == (2, {}, {"leak": 1})


def test_held_out_share_is_near_what_was_asked_and_grows_with_it():
    records = [pair(f"f:{n}", prompt=f"prompt {n}") for n in range(2000)]
    small = {record.id for record in records if is_held_out(record, 0.1)}
    large = {record.id for record in records if is_held_out(record, 0.3)}
    assert 150 < len(small) < 250
    assert small < large


def test_real_alpaca_pairs(real_data):
    with gzip.open(real_data / "alpaca_eval" / "pairs.train.jsonl.gz") as file:
        records = [preference(json.loads(line), f"f:{n}") for n, line in enumerate(file)]
    kept, account = check_across(records, decisions(on_duplicate="drop", on_conflict="soft"))
    # counted with a plain dictionary of stripped (prompt, chosen, rejected)
    triples = [tuple(side.strip() for side in (r.prompt, r.chosen, r.rejected)) for r in records]
    known = set(triples)
    both = {(prompt, one, other) for prompt, one, other in known if (prompt, other, one) in known}
    distinct = {(p, *sorted(sides)) for p, *sides in triples}
    assert len(kept) == len(distinct)
    assert sum(account.left_out.values()) == len(records) - len(distinct)
    assert counts(account)["conflict"] == sum(triple in both for triple in triples)
    assert sum(longer_side(record) > 0 for record in records) / len(records) == pytest.approx(0.7057, abs=5e-5)


def test_real_transcripts(real_data):
    with gzip.open(real_data / "hh_rlhf" / "harmless-base.test.jsonl.gz") as file:
        records = [transcripts(json.loads(line), f"f:{n}") for n, line in enumerate(file)]
    keeping = decisions(on_empty="keep")
    account = sum((check_record(record, keeping) for record in records), NOTHING)
    assert account.left_out == {}
    kept, across = check_across(records, keeping)
    assert len(kept) == 2312
    assert counts(account + across) == {
        "empty": 4,
        "prefix": 5,
        "same_role_twice": 9,
        "duplicate_prompt": 2,
        "prompt_repeated": 2,
        "nearly_identical": 3,
    }


def spoken(text, **more):
    return ({"role": "assistant", "content": text, **more},)


def test_reasoning_and_calls_take_part_in_every_comparison():
    good, bad = spoken("4", reasoning="two and two are four"), spoken("4", reasoning_content="a guess")
    assert check_record(pair(chosen=good, rejected=bad), decisions()) == NOTHING
    assert longer_side(pair(chosen=good, rejected=bad)) == 1
    rows = [
        pair("f:1", chosen=good, rejected=bad),
        pair("f:2", chosen=bad, rejected=good),
        pair("f:3", chosen=bad, rejected=spoken("4")),
    ]
    _, account = check_across(rows, decisions())
    assert account.left_out == {"conflict": 2}
    call = {"function": {"name": "f", "arguments": '{"a": 1}'}}
    same = {"function": {"name": "f", "arguments": {"a": 1}}}
    alike = pair(chosen=spoken("", tool_calls=[call]), rejected=spoken("", tool_calls=[same]))
    assert check_record(alike, decisions()).left_out == {"identical": 1}
    thought = Demonstration(id="f:1", prompt="Q", completion=spoken("", thinking="so"))
    assert check_record(thought, decisions()).left_out == {}


def test_a_prompt_is_told_by_its_calls_too():
    def asked(city):
        call = {"function": {"name": "weather", "arguments": {"city": city}}}
        return (
            {"role": "user", "content": "Q"},
            {"role": "assistant", "content": "", "tool_calls": [call]},
            *spoken("A"),
        )

    keys = {
        prompt_key(Demonstration(id="f:1", prompt=asked(city), completion="A")) for city in ("Bern", "Paris", "Bern")
    }
    assert len(keys) == 2


def test_a_prompt_that_ends_with_a_reply_is_told():
    turn = {"role": "assistant", "content": "Sure,"}
    asked = ({"role": "user", "content": "Q"}, turn)
    assert "same_role_twice" in counts(
        check_record(pair(prompt=asked, chosen=(turn,), rejected=TURNS[:1]), decisions())
    )
    assert "same_role_twice" not in counts(
        check_record(pair(prompt=asked[:1], chosen=(turn,), rejected=TURNS[:1]), decisions())
    )
