"""Benchmarks of judges in the schemas they are published in, with numbers added up by hand."""

import json
import math

import numpy as np
import pytest

from exptilt.errors import DataError
from exptilt.evaluation.intervals import Resampling
from exptilt.evaluation.judged.benchmark_accuracy import benchmark_accuracy
from exptilt.judges.benchmark_files import read_benchmark
from exptilt.verbs.judge import Asking, judge_benchmark

QUICK = Resampling(num_resamples=100)


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def measured(tmp_path, rows, by=(), judge="longest"):
    path = write(tmp_path / "benchmark.jsonl", rows)
    found = judge_benchmark(path, Asking(judges=by, store=tmp_path / "votes.db", resampling=QUICK))
    return found, found["judges"][judge]


def reward_bench(subset, chosen, rejected, number):
    return {
        "prompt": f"p{number}", "chosen": chosen, "chosen_model": "a", "rejected": rejected, "rejected_model": "b",
        "subset": subset, "id": number,
    }  # fmt: skip


def test_reward_bench_is_the_mean_of_sections_of_weighted_subsets(tmp_path):
    rows = [
        reward_bench("math-prm", "longer", "short", 0),
        reward_bench("math-prm", "short", "longer", 1),
        reward_bench("hep-python", "longer", "short", 2),
        reward_bench("alpacaeval-easy", "short", "longer", 3),
        reward_bench("llmbar-natural", "equal", "twice", 4),
    ]
    found, longest = measured(tmp_path, rows)
    assert (found["benchmark"], found["items"]) == ("RewardBench", 5)
    reasoning = (984 * 0.5 + 164) / (984 + 164)
    assert {name: one.value for name, one in longest.sections.items()} == pytest.approx(
        {"Chat": 0.0, "Chat Hard": 0.5, "Reasoning": reasoning}
    )
    assert longest.accuracy.value == pytest.approx((0 + 0.5 + reasoning) / 3)
    assert longest.subsets["math-prm"].value == 0.5
    assert longest.consistent.value == 1
    assert longest.pairs_right.value == pytest.approx(2 / 5)  # a tie is not right


def candidates(subset, chosen, rejected, name):
    return {
        "id": name, "prompt": f"prompt {name}", "chosen": chosen, "rejected": rejected, "num_correct": len(chosen),
        "num_incorrect": len(rejected), "total_completions": len(chosen) + len(rejected), "models": ["m"],
        "subset": subset, "additional_metadata": None,
    }  # fmt: skip


RB2 = [
    candidates("Math", ["aaaa"], ["a", "b", "c"], "0"),
    candidates("Math", ["aaaa"], ["a", "bbbb", "c"], "1"),
    candidates("Math", ["aaaa"], ["a", "bbbbb", "c"], "2"),
    candidates("Ties", ["aaaa"], ["a", "bb"], "ref:1"),
    candidates("Ties", ["aaaa", "ccc"], ["a", "bb"], "tied:1"),
    candidates("Ties", ["aaaaaa"], ["a", "bb"], "ref:2"),
    candidates("Ties", ["aaaaaa", "cc"], ["a", "bb"], "tied:2"),
]


def test_reward_bench_2_is_best_of_four_and_ties_for_verdicts(tmp_path):
    found, longest = measured(tmp_path, RB2)
    assert (found["benchmark"], found["items"], found["scored"]) == ("RewardBench 2", 9 + 2 + 4 + 2 + 4, 21)
    math_section = (1 + 1 / 2 + 0) / 3
    ties = (0.5 + 1.0) / 2  # of the tied questions one is right, of those with one right answer both are
    assert longest.sections["Math"].value == pytest.approx(math_section)
    assert longest.sections["Ties"].value == pytest.approx(ties)
    assert longest.accuracy.value == pytest.approx((math_section + ties) / 2)
    assert found["judges"]["oracle"].accuracy.value == 1


def test_reward_bench_2_has_its_own_score_of_ties_for_rewards(tmp_path):
    (tmp_path / "reward.yaml").write_text("reward: {kind: length}\n")
    _, length = measured(tmp_path, RB2, [f"reward:{tmp_path / 'reward.yaml'}"], "length")
    # Gaps between right and wrong: tied 1 and 0, ref 2 and 4; the right answers spread over 1 and 4.
    hard = [min(1, 2), min(0, 4)]
    spread = [1, 4]
    ties = (
        0.3 * 0.5
        + 0.3 * 1
        + 0.2 * 0
        + 0.2 * 0
        + 0.01 * np.mean([math.tanh(h / s - 1) for h, s in zip(hard, spread, strict=True)])
    )
    assert length.sections["Ties"].value == pytest.approx(ties)
    assert length.sections["Math"].value == pytest.approx(0.5)
    assert length.accuracy.value == pytest.approx((0.5 + ties) / 2)


def judge_bench(source, a, b, label, number):
    return {
        "pair_id": str(number), "original_id": "7", "source": source, "question": f"q{number}",
        "response_model": "m", "response_A": a, "response_B": b, "label": label,
    }  # fmt: skip


def test_judge_bench_by_section_and_by_its_own_rule(tmp_path):
    rows = [
        judge_bench("mmlu-pro-law", "longer", "short", "A>B", 0),
        judge_bench("mmlu-pro-math", "short", "longer", "A>B", 1),
        judge_bench("livebench-reasoning", "short", "longer", "B>A", 2),
        judge_bench("livebench-math", "longer", "short", "B>A", 3),
        judge_bench("livecodebench", "longer", "short", "A>B", 4),
    ]
    _found, longest = measured(tmp_path, rows)
    assert {name: one.value for name, one in longest.sections.items()} == {
        "Knowledge": 0.5, "Reasoning": 1, "Math": 0, "Coding": 1,
    }  # fmt: skip
    assert longest.accuracy.value == pytest.approx(3 / 5)
    benchmark = read_benchmark(tmp_path / "benchmark.jsonl")
    nan = float("nan")
    # Shares for the smaller of the sorted answers ("longer"), shown first and second: always the first; right and a tie; one missing.
    said = [
        [(1.0, True), (0.0, False)],
        [(0.5, True), (0.0, False)],
        [(1.0, True), (nan, False)],
        [(0.0, True), (0.0, False)],
        [(nan, True), (nan, False)],
    ]
    answers = {item.comparison.id: each for item, each in zip(benchmark.items, said, strict=True)}
    one = benchmark_accuracy(benchmark, benchmark.items, answers, QUICK)
    assert one.pairs_right.value == pytest.approx(3 / 4)  # all but the first, of the four with a verdict
    assert one.consistent.value == pytest.approx(1 / 3)
    assert one.unscored == 3
    assert one.accuracy.value == pytest.approx((1 + 0 + 0.5 + 1 + 1 + 1 + 1) / 7)


def test_a_missing_verdict_leaves_a_row_out_only_if_it_could_matter(tmp_path):
    benchmark = read_benchmark(write(tmp_path / "b.jsonl", RB2[:2]))
    nan = float("nan")
    said = (
        [[(1.0, True), (1.0, False)]] * 2
        + [[(nan, True), (1.0, False)]]
        + [[(0.0, True), (nan, False)]]
        + [[(nan, True), (1.0, False)]] * 2
    )
    answers = {}
    for item, each in zip(benchmark.items, said, strict=True):
        right_is_smaller = item.better == min(item.comparison.answers)
        answers[item.comparison.id] = [(s if right_is_smaller else 1 - s, f == right_is_smaller) for s, f in each]
    one = benchmark_accuracy(benchmark, benchmark.items, answers, QUICK)
    # Row 1: unknown where the right one is shown first, 1 otherwise. Row 2: lost, and unknown.
    assert one.accuracy.value == pytest.approx(0.5)
    assert one.unscored == 4


def test_turns_as_prompt_and_whole_conversations_are_read(tmp_path):
    user, said = {"role": "user", "content": "q"}, [{"role": "assistant", "content": text} for text in ("yes", "no")]
    rows = [
        {"prompt": [user], "chosen": "yes", "rejected": "no"},
        {"chosen": [user, said[0]], "rejected": [user, said[1]]},
    ]
    items = read_benchmark(write(tmp_path / "b.jsonl", rows)).items
    assert items[0].comparison == items[1].comparison
    assert items[0].comparison.answers == ("yes", "no")


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"a": 1}], "no known benchmark has the columns a"),
        ([judge_bench("x", "a", "b", "B", 0) | {"label": "A<B"}], "benchmark.jsonl:1: the label 'A<B' is none"),
        ([judge_bench("x", 5, "b", "A>B", 0)], "an answer must be text, got int"),
        ([candidates("Math", ["a"], "b", "0")], "`rejected` must be a list"),
        ([reward_bench("x", "a", "b", 0) | {"prompt": 7}], "a prompt must be text or turns"),
        ([reward_bench("x", "a", "b", 0), judge_bench("x", "a", "b", "A>B", 0)], "a row of JudgeBench among rows of RewardBench"),
        ([reward_bench("x", "same", "same", 0)], "no item has a better answer"),
        ([{"instruction": "i", "response1": "a", "response2": "b", "annotators": 5}], "is no row of PandaLM"),
    ],
)  # fmt: skip
def test_a_benchmark_of_another_schema_is_one_line(tmp_path, rows, message):
    with pytest.raises(DataError, match=message) as error:
        measured(tmp_path, rows)
    assert len(str(error.value)) < 300
    with pytest.raises(DataError, match="no such benchmark"):
        judge_benchmark(tmp_path / "absent.jsonl", Asking(store=tmp_path / "v.db"))
