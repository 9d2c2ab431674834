import numpy as np
import pytest
import torch

from exptilt.evaluation.pairs.pair_scores import log_ratios, scores, side_of
from exptilt.types import LogProbs, Pair

POLICY = Pair(side_of([[-1.0, -2.0, -6.0], [-4.0]]), side_of([[-2.0, -2.0], [-1.0, -1.0]]))
REFERENCE = Pair(side_of([[-2.0, -2.0, -2.0], [-3.0]]), side_of([[-1.0, -1.0], [-3.0, -1.0]]))


def test_all_six_scores_by_hand():
    found = scores(POLICY, REFERENCE)
    assert next(iter(found)) == "with_reference/sum"
    expected = {
        "with_reference/sum": ([-3.0, -1.0], [-2.0, 2.0]),
        "with_reference/mean": ([-1.0, -1.0], [-1.0, 1.0]),
        "with_reference/shared_length": ([1.0, -1.0], [-2.0, 2.0]),
        "without_reference/sum": ([-9.0, -4.0], [-4.0, -2.0]),
        "without_reference/mean": ([-3.0, -4.0], [-2.0, -1.0]),
        "without_reference/shared_length": ([-3.0, -4.0], [-4.0, -1.0]),
    }
    assert {name: (chosen.tolist(), rejected.tolist()) for name, (chosen, rejected) in found.items()} == expected


def test_sums_alone_give_what_they_can():
    def sums(side):
        return LogProbs.from_sums(side.sum(), side.lengths)

    found = scores(Pair(*map(sums, POLICY)), Pair(*map(sums, REFERENCE)))
    assert set(found) == {f"{kind}_reference/{form}" for kind in ("with", "without") for form in ("sum", "mean")}
    assert found["with_reference/mean"][0].tolist() == [-1.0, -1.0]


def test_long_sums_keep_their_digits():
    long = [np.full(20_000, -0.1), np.full(3, -1.0)]
    single = LogProbs(values=side_of(long).values.float(), lengths=side_of(long).lengths)
    chosen, _ = scores(Pair(single, single), None)["without_reference/sum"]
    assert chosen[0] == pytest.approx(20_000 * float(np.float32(-0.1)), abs=1e-9)


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="2 chosen but 1 rejected completions"):
        scores(Pair(POLICY.chosen, side_of([[-1.0]])), None)
    with pytest.raises(ValueError, match="not scored on the same completions"):
        log_ratios(POLICY, Pair(REFERENCE.rejected, REFERENCE.chosen))
    broken = Pair(side_of([[-1.0]]), LogProbs.from_sums(torch.tensor([float("nan")]), torch.tensor([1])))
    with pytest.raises(ValueError, match="the sums of rejected log-probabilities must be finite"):
        scores(broken, None)
