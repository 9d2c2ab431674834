import numpy as np
import pytest

from exptilt.evaluation.pairs.ches import ches

RNG = np.random.default_rng(0)


def padded(rows, width, padding):
    states = np.full((len(rows), width, 5), padding)
    mask = np.zeros((len(rows), width), dtype=bool)
    for at, row in enumerate(rows):
        states[at, at : at + len(row)] = row
        mask[at, at : at + len(row)] = True
    return states, mask


def test_the_score_is_its_formula():
    chosen, rejected = RNG.normal(size=(3, 5)), RNG.normal(size=(2, 5))
    found = ches(chosen[None], np.ones((1, 3)), rejected[None], np.ones((1, 2)))
    won, lost = chosen.sum(axis=0), rejected.sum(axis=0)
    assert found.score[0] == pytest.approx(won @ lost - won @ won)
    assert found.normalised[0] == pytest.approx(won @ lost / 6 - won @ won / 9)
    same = ches(chosen[None], np.ones((1, 3)), chosen[None], np.ones((1, 3)))
    assert same.score[0] == pytest.approx(0)


@pytest.mark.parametrize("padding", [0.0, 7.0, np.nan])
def test_a_pairs_score_does_not_depend_on_its_batch(padding):
    chosen = [RNG.normal(size=(length, 5)) for length in (2, 6, 1)]
    rejected = [RNG.normal(size=(length, 5)) for length in (4, 3, 5)]
    batch = ches(*padded(chosen, 10, padding), *padded(rejected, 9, padding))
    for at in range(3):
        alone = ches(
            chosen[at][None], np.ones((1, len(chosen[at]))), rejected[at][None], np.ones((1, len(rejected[at])))
        )
        assert batch.score[at] == pytest.approx(alone.score[0])
        assert batch.normalised[at] == pytest.approx(alone.normalised[0])


def test_what_has_no_score_is_refused():
    states, mask = np.ones((2, 3, 5)), np.ones((2, 3))
    empty = mask.copy()
    empty[1] = 0
    with pytest.raises(ValueError, match="the rejected side of pair 1 has no state that counts"):
        ches(states, mask, states, empty)
    with pytest.raises(ValueError, match=r"chosen must be \(N, T, D\) with a mask"):
        ches(states, mask[:1], states, mask)
    with pytest.raises(ValueError, match="the chosen states must be finite"):
        ches(states * np.inf, mask, states, mask)
    with pytest.raises(ValueError, match="one N and one D"):
        ches(states, mask, states[:, :, :4], mask)
