import numpy as np
import pytest

from exptilt.evaluation.pairs.benchmark import REWARD_BENCH, section_accuracy, sections_of


def test_sections_are_weighted_means_of_their_subsets_and_overall_is_their_plain_mean():
    margins = np.array([1, 1, -1, 0, -1, 1, 1, 1], dtype=float)
    subsets = ["easy"] * 4 + ["hard"] * 2 + ["code"] * 2
    found = section_accuracy(margins, subsets, range(8), {"Chat": {"easy": 3, "hard": 1}, "Reasoning": {"code": 5}})
    assert found.subsets["easy"].value == 2.5 / 4
    assert found.sections["Chat"].value == pytest.approx((3 * 2.5 / 4 + 1 * 0.5) / 4)
    assert found.sections["Reasoning"].value == 1
    assert found.overall.value == pytest.approx((found.sections["Chat"].value + 1) / 2)
    assert found.sections["Chat"].low < found.sections["Chat"].value < found.sections["Chat"].high
    assert found.absent == ()


def test_a_missing_subset_is_named_and_its_weight_goes_to_the_others():
    found = section_accuracy([1.0, -1.0], ["a", "b"], [0, 1], {"X": {"a": 1, "b": 1, "c": 8}})
    assert found.sections["X"].value == 0.5
    assert found.absent == ("c",)


def test_rewardbench_counts_math_as_much_as_code():
    reasoning = REWARD_BENCH["Reasoning"]
    assert reasoning["math-prm"] == sum(weight for name, weight in reasoning.items() if name != "math-prm") == 984
    assert [sum(REWARD_BENCH[name].values()) for name in ("Chat", "Chat Hard", "Safety")] == [358, 456, 740]


def test_labels_that_are_all_of_the_benchmark_get_its_sections_and_others_stand_alone():
    assert sections_of(["hep-js", "donotanswer", "hep-js"]) == {
        "Safety": REWARD_BENCH["Safety"],
        "Reasoning": REWARD_BENCH["Reasoning"],
    }
    assert sections_of(["hep-js", "mine"]) == {"hep-js": {"hep-js": 1.0}, "mine": {"mine": 1.0}}
    # The filtered benchmark has 2,985 pairs, 447 of them mathematics.
    assert sum(sum(parts.values()) for parts in REWARD_BENCH.values()) - 984 + 447 == 2985


@pytest.mark.parametrize(
    ("subsets", "sections", "message"),
    [
        (["a", "z"], {"X": {"a": 1}}, "'z' is in no section"),
        (["a", "a"], {"X": {"a": 1}, "Y": {"b": 1}}, "section 'Y' has no pair"),
        (["a", "a"], {"X": {"a": 0}}, "must be > 0"),
        (["a"], {"X": {"a": 1}}, "give one each"),
    ],
)
def test_what_does_not_fit_is_refused(subsets, sections, message):
    with pytest.raises(ValueError, match=message):
        section_accuracy([1.0, -1.0], subsets, [0, 1], sections)
