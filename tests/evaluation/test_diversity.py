import numpy as np
import pytest
from scipy.special import softmax

from exptilt.evaluation.diversity import distinct_counts, diversity


def test_entropy_of_whole_completions_over_their_mean_length():
    # A known law over 6 completions of 1 to 3 tokens: entropy / mean length is exact.
    rng = np.random.default_rng(0)
    lengths, law = np.array([1, 1, 2, 2, 3, 3]), softmax(rng.normal(size=6))
    drawn = rng.choice(6, size=(2000, 4), p=law).ravel()
    ids = [np.full(lengths[one], one, dtype=np.int32) for one in drawn]
    found = diversity(ids, np.log(law)[drawn], lengths[drawn], np.repeat(np.arange(2000), 4))
    exact = -(law * np.log(law)).sum() / (law * lengths).sum()
    assert not found.entropy_per_token.excludes(exact)
    assert found.entropy_per_token.value == pytest.approx(exact, rel=0.03)
    # Expected number of different ones among 4: sum of 1 - (1 - p)^4.
    assert found.distinct_per_prompt.value == pytest.approx((1 - (1 - law) ** 4).sum(), rel=0.03)
    assert found.num_samples == 4


def test_samples_are_told_apart_by_their_tokens_within_a_prompt():
    ids = [np.array(one, dtype=np.int32) for one in ([1], [1, 2], [1], [1], [1], [1])]
    assert distinct_counts(ids, ["a", "a", "a", "b", "b", "b"]).tolist() == [2, 1]
