import json

import numpy as np
import pytest
from scipy.special import expit

from exptilt.evaluation.intervals import Clusters, Resampling
from exptilt.evaluation.pairs.accuracy import margin_auc, preference_accuracy, share_above_zero
from exptilt.evaluation.pairs.pair_scores import side_of
from exptilt.types import Pair

HOW = Resampling(num_resamples=300)


def one_token_pairs(margins):
    return Pair(side_of([[margin - 5.0] for margin in margins]), side_of([[-5.0]] * len(margins)))


def pairs_of_lengths(chosen, rejected, margins):
    """Completions of given lengths whose summed log-probabilities differ by `margins`."""
    first = side_of([[(-20.0 + margin) / length] * length for length, margin in zip(chosen, margins, strict=True)])
    return Pair(first, side_of([[-20.0 / length] * length for length in rejected]))


def test_ties_count_one_half():
    found = share_above_zero([1.0, -1.0, 0.0, 2.0], Clusters(range(4)), HOW)
    assert found.value == 0.625


def test_agreement_on_all_pairs_is_not_certainty():
    found = share_above_zero([1.0] * 10, Clusters(range(10)), HOW)
    # Wilson's end n / (n + z^2), with Student's quantile of 9 degrees for z.
    assert (found.value, found.low, found.high) == (1.0, pytest.approx(10 / (10 + 2.262157**2)), 1.0)
    assert share_above_zero([-1.0] * 10, Clusters([0] * 5 + [1] * 5), HOW).high == pytest.approx(
        1 / (1 + 2 / 12.70620**2)
    )
    tied = share_above_zero([0.0, 0.0], Clusters([0, 1]), HOW)
    # Wilson's around one half with 2 units: z / (1 + z^2 / 2) * sqrt(1 / 8 + z^2 / 16) = 0.4969 with z = 12.706.
    assert (tied.value, tied.low, tied.high) == (0.5, pytest.approx(0.0031, abs=1e-4), pytest.approx(0.9969, abs=1e-4))


def test_auc_is_the_share_of_mirrored_pairs_in_order():
    margins = np.array([2.0, 1.0, -1.0, 0.5, -3.0, 0.0])
    by_hand = np.mean([[(a > -b) + 0.5 * (a == -b) for b in margins] for a in margins])
    assert margin_auc(margins, Clusters(range(6)), HOW).value == pytest.approx(by_hand)
    copied = np.repeat(margins, [2, 0, 1, 1, 0, 2])
    by_hand = np.mean([[(a > -b) + 0.5 * (a == -b) for b in copied] for a in copied])
    weighted = margin_auc(copied, Clusters(range(6)), HOW).value
    assert weighted == pytest.approx(by_hand)


def test_auc_sees_more_than_accuracy():
    margins = np.array([5.0, 4.0, 3.0, -0.1])
    assert margin_auc(margins, Clusters(range(4)), HOW).value > share_above_zero(margins, Clusters(range(4)), HOW).value


def test_every_score_gets_its_accuracy_and_the_reference_matters():
    policy, reference = one_token_pairs([1.0, -1.0, 2.0]), one_token_pairs([2.0, -2.0, 0.0])
    found = preference_accuracy(policy, reference, ["a", "b", "c"], resampling=HOW)
    assert {name: round(estimate.value, 4) for name, estimate in found.accuracy.items()} == {
        "with_reference/sum": 0.6667,
        "with_reference/mean": 0.6667,
        "with_reference/shared_length": 0.6667,
        "without_reference/sum": 0.6667,
        "without_reference/mean": 0.6667,
        "without_reference/shared_length": 0.6667,
    }
    first = preference_accuracy(one_token_pairs([-1.0]), one_token_pairs([-3.0]), ["a"], resampling=HOW)
    assert first.accuracy["with_reference/sum"].value == 1.0
    assert first.accuracy["without_reference/sum"].value == 0.0


def test_accuracy_by_length_and_the_longest_wins_baseline():
    chosen, rejected = [5, 6, 2, 3, 4, 9], [3, 3, 4, 9, 4, 1]
    policy = pairs_of_lengths(chosen, rejected, [1.0, 1.0, -1.0, 1.0, -1.0, 1.0])
    found = preference_accuracy(policy, None, range(6), resampling=HOW)
    assert found.longest_wins.value == pytest.approx((3 + 0.5) / 6)
    assert {part.name: (part.accuracy.value, part.num_pairs) for part in found.by_longer} == {
        "chosen longer": (1.0, 3),
        "rejected longer": (0.5, 2),
        "equal length": (0.0, 1),
    }
    # Gaps 2, 3, 2, 6, 0, 8; their quarters end at 2, 2, 6 and 8.
    gaps = {part.name: (round(part.accuracy.value, 3), part.num_pairs) for part in found.by_length_gap}
    assert gaps == {"0-2 tokens": (0.333, 3), "3-6 tokens": (1.0, 2), "7-8 tokens": (1.0, 1)}


def test_intervals_are_clustered_by_prompt():
    margins = np.random.default_rng(0).normal(0.5, 1, size=100)
    prompts = np.arange(100)
    once = preference_accuracy(one_token_pairs(margins), None, prompts, resampling=HOW)
    copied = preference_accuracy(one_token_pairs(np.repeat(margins, 5)), None, np.repeat(prompts, 5), resampling=HOW)
    for name, estimate in once.accuracy.items():
        assert copied.accuracy[name] == estimate
        assert copied.auc[name].low == pytest.approx(once.auc[name].low)
    assert (copied.num_pairs, copied.num_prompts) == (500, 100)


def test_calibration_needs_beta_and_uses_it():
    rng = np.random.default_rng(1)
    size = np.abs(rng.normal(0, 2, size=4000))
    margins = np.where(rng.random(4000) < expit(size), size, -size)
    reference = one_token_pairs([0.0] * 4000)
    scaled = preference_accuracy(one_token_pairs(margins / 0.1), reference, range(4000), beta=0.1, resampling=HOW)
    assert scaled.calibration.error.value < 0.03
    wrong = preference_accuracy(one_token_pairs(margins / 0.1), reference, range(4000), beta=0.5, resampling=HOW)
    assert wrong.calibration.error.low > 0.08
    assert (
        preference_accuracy(one_token_pairs(margins), None, range(4000), beta=0.1, resampling=HOW).calibration is None
    )
    assert preference_accuracy(one_token_pairs(margins), reference, range(4000), resampling=HOW).calibration is None


def test_the_result_goes_into_json():
    policy, reference = one_token_pairs([1.0, -1.0]), one_token_pairs([0.0, 0.0])
    found = preference_accuracy(policy, reference, ["a", "b"], beta=0.1, resampling=HOW).as_dict()
    again = json.loads(json.dumps(found))
    assert again["accuracy"]["with_reference/sum"]["value"] == 0.5
    assert again["by_longer"][0]["name"] == "equal length"
    assert again["calibration"]["bins"][0]["count"] == 2


def test_labels_must_fit_the_pairs():
    with pytest.raises(ValueError, match="2 pairs but 3 prompt labels"):
        preference_accuracy(one_token_pairs([1.0, 2.0]), None, ["a", "b", "c"])
