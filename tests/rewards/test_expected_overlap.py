"""Expected overlap under independent pixels, beside enumeration of all masks and draws of many."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from exptilt.rewards.expected_overlap import ExpectedOverlap, PixelAccuracy, mask_reward
from exptilt.rewards.mask_annotator import MaskAnnotator


def law(random, classes, pixels, sharpness=1.0):
    logits = sharpness * random.normal(size=(classes, pixels))
    probabilities = np.exp(logits)
    return probabilities / probabilities.sum(0)


def by_enumeration(probabilities, value):
    """E[r] and E[r | y_i = k] - E[r | y_i = 0], mask by mask."""
    classes, pixels = probabilities.shape
    masks = np.array(list(product(range(classes), repeat=pixels)))
    chances = probabilities[masks, np.arange(pixels)]
    rewards = np.array([value(mask) for mask in masks])
    given = np.zeros((classes, pixels))
    for label in range(classes):
        for at in range(pixels):
            rows = masks[:, at] == label
            weights = np.delete(chances[rows], at, 1).prod(1)
            given[label, at] = (weights * rewards[rows]).sum()
    return float((chances.prod(1) * rewards).sum()), given - given[:1]


@pytest.mark.parametrize("overlap", ["dice", "iou"])
@pytest.mark.parametrize("true", [[1, 1, 0, 0, 0, 1, 0, 0], [1] * 8, [0] * 8, [0, 0, 0, 1, 0, 0, 0, 0]])
def test_two_classes_are_as_enumerated(overlap, true):
    """The 2^8 masks of eight pixels, valued by the annotator's own overlap."""
    true = np.array(true)
    probabilities = law(np.random.default_rng(0), 2, 8, 2.0)
    annotator = MaskAnnotator(overlap)
    expected, adds = by_enumeration(probabilities, lambda mask: annotator.utility(mask, true))
    value, its_adds = ExpectedOverlap(overlap).moments(probabilities, true)
    assert value == pytest.approx(expected, abs=1e-12)
    assert its_adds == pytest.approx(adds, abs=1e-12)


def test_more_classes_are_the_weighted_mean_over_those_the_truth_holds():
    true, weights = np.array([0, 1, 3, 3, 0]), (1.0, 5.0, 3.0)
    probabilities = law(np.random.default_rng(1), 4, 5)

    def value(mask):
        of_class = [
            2 * ((mask == label) & (true == label)).sum() / ((mask == label).sum() + (true == label).sum())
            for label in (1, 3)
        ]
        return (1.0 * of_class[0] + 3.0 * of_class[1]) / 4

    expected, adds = by_enumeration(probabilities, value)
    found, its_adds = ExpectedOverlap("dice", weights).moments(probabilities, true)
    assert found == pytest.approx(expected, abs=1e-12)
    assert its_adds == pytest.approx(adds, abs=1e-12)


def test_weighted_accuracy_is_as_enumerated():
    true, weights = np.array([0, 1, 2, 1, 0]), (1.0, 4.0, 2.0)
    probabilities = law(np.random.default_rng(2), 3, 5)
    worth = np.asarray(weights)[true]
    expected, adds = by_enumeration(probabilities, lambda mask: (worth * (mask == true)).sum() / worth.sum())
    value, its_adds = mask_reward("accuracy", weights).moments(probabilities, true)
    assert isinstance(mask_reward("accuracy"), PixelAccuracy)
    assert value == pytest.approx(expected, abs=1e-12)
    assert its_adds == pytest.approx(adds, abs=1e-12)


@pytest.mark.parametrize("overlap", ["dice", "iou"])
def test_few_nodes_are_enough_for_many_pixels(overlap):
    """A certain mask of a large image has its own overlap to 1e-10, and soft pixels the mean of 4000 draws."""
    random = np.random.default_rng(3)
    true = (random.random(20000) < 0.15).astype(int)
    mask = np.where(random.random(20000) < 0.1, 1 - true, true)
    annotator = MaskAnnotator(overlap)
    certain = np.stack([1.0 - mask, 1.0 * mask])
    assert ExpectedOverlap(overlap).moments(certain, true)[0] == pytest.approx(annotator.utility(mask, true), abs=1e-10)
    soft = np.clip(0.8 * certain + 0.1, 0, 1)[:, :400]
    draws = [annotator.utility((random.random(400) < soft[1]).astype(int), true[:400]) for _ in range(4000)]
    error = np.std(draws) / np.sqrt(len(draws))
    assert ExpectedOverlap(overlap).moments(soft, true[:400])[0] == pytest.approx(np.mean(draws), abs=4 * error)
