"""Which objective fits: on real files, and on made ones where the right answer is known."""

from __future__ import annotations

import json

import pytest

from exptilt.data.kind_of_rows import kind_of_rows
from exptilt.data.prepared import prepare
from exptilt.kinds import COMPLETION, PAIR
from exptilt.runs.method_advice import advise, base_model_remark, learning_rate
from exptilt.settings.data_settings import DataConfig

REAL = {
    "hh_rlhf/harmless-base.test.jsonl.gz": ("dpo", "2,308 pairs"),
    "pref_small/dpo_en_demo.sharegpt.jsonl.gz": ("dpo", "295 pairs"),
    "alpaca_eval/pairs.train.jsonl.gz": ("r_dpo", "the longer completion wins 70.6 % of 12,189 pairs (69.8 to 71.4)"),
    "alpaca_eval/kwise.jsonl.gz": ("plackett_luce", "792 rows rank"),
    "kto/kto_mix.test.jsonl.gz": ("kto", "545 good and 545 bad"),
    "sft/alpaca_en_demo.jsonl.gz": ("sft", "985 completions are to be imitated"),
    "math/gsm8k.test.jsonl.gz": ("dpo", "check=gsm8k reads the answer of 256 of 256 rows"),
    "sft/self_instruct_seed_tasks.jsonl.gz": ("", "175 prompts have no answers"),
}  # fmt: skip


def advice_on(path):
    config = DataConfig(train=str(path))
    kind = kind_of_rows(config)
    return advise(config, kind, prepare(config, None, kind, strict=False).report)


@pytest.mark.parametrize("name", REAL)
def test_real_data(name, data_folder):
    advice = advice_on(data_folder / name)
    loss, reason = REAL[name]
    assert advice.loss == loss
    assert reason in advice.reason
    assert (advice.reward is not None) == ("math" in name)


def written(tmp_path, rows):
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in rows))
    return path


def pair(n, longer="rejected", votes=1):
    sides = {"chosen": f"yes {n}", "rejected": f"no {n}"}
    sides[longer] += " and much more of it"
    return [{"prompt": f"ask {n}", **sides}] * votes


def mixed(count, share, **more):
    """Pairs of which this share is won by the longer completion."""
    return [row for n in range(count) for row in pair(n, "chosen" if n < share * count else "rejected", **more)]


def test_length_decides_only_where_the_interval_lies_above_the_limit(tmp_path):
    assert advice_on(written(tmp_path, mixed(200, 0.5))).loss == "dpo"
    assert advice_on(written(tmp_path, mixed(200, 0.64))).loss == "dpo"  # 57 to 70 %
    clear = advice_on(written(tmp_path, mixed(200, 0.7)))
    assert clear.loss == "r_dpo"
    assert "70.0 % of 200 pairs (63.3 to 75.9)" in clear.reason


def test_labels_given_again_and_never_contradicting_ask_for_ipo(tmp_path):
    twice = mixed(40, 0.5, votes=2)
    found = advice_on(written(tmp_path, twice))
    assert found.loss == "ipo"
    assert "40 pairs were labelled more than once and none contradicts (fewer than 7.5 % do)" in found.reason
    swapped = [{"prompt": "ask 3", "chosen": twice[6]["rejected"], "rejected": twice[6]["chosen"]}]
    assert advice_on(written(tmp_path, twice + swapped)).loss == "dpo"
    few_copies = mixed(400, 0.5) + mixed(35, 1.0)
    assert advice_on(written(tmp_path, few_copies)).loss == "dpo"


@pytest.mark.parametrize(
    ("good", "bad", "settings"),
    [(30, 90, {"desirable_weight": 3.0}), (90, 30, {"undesirable_weight": 3.0}), (40, 35, {})],
)
def test_marks_are_balanced_as_the_paper_of_kto_asks(tmp_path, good, bad, settings):
    rows = [{"prompt": f"p {n}", "completion": f"c {n}", "label": n < good} for n in range(good + bad)]
    advice = advice_on(written(tmp_path, rows))
    assert (advice.loss, dict(advice.settings)) == ("kto", settings)
    weighted = good * settings.get("desirable_weight", 1) / (bad * settings.get("undesirable_weight", 1))
    assert 1 <= weighted <= 4 / 3


def test_prompts_with_numbers_as_answers_can_be_checked_and_others_not(tmp_path):
    numbers = [{"prompt": f"{n} + 1 =", "answer": str(n + 1)} for n in range(40)]
    found = advice_on(written(tmp_path, numbers))
    assert found.reward is not None
    assert (found.loss, found.reward.check) == ("dpo", "gsm8k")
    words = [{"prompt": f"Who was number {n}?", "answer": f"Somebody called {n}"} for n in range(40)]
    assert advice_on(written(tmp_path, words)).reward is None


def test_a_model_without_a_chat_template_is_a_base_model(tmp_path, finished):
    assert base_model_remark(None) == ""
    assert base_model_remark("owner/model") == ""
    assert base_model_remark(str(finished.folder / "model")) == ""
    bare = tmp_path / "bare"
    bare.mkdir()
    (bare / "tokenizer_config.json").write_text("{}")
    assert "it is a base model" in base_model_remark(str(bare))


def test_fewer_steps_take_a_larger_rate():
    assert [learning_rate(PAIR, count) for count in (640, 6400, 64_000)] == [2e-5, 1e-5, 5e-6]
    assert learning_rate(COMPLETION, 64_000) == 2e-4
