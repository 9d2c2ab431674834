"""Candidate masks, and the annotator who compares them."""

import numpy as np
import pytest
import torch

from exptilt.policies.segmenters.candidates import CandidateLaw, candidates
from exptilt.policies.segmenters.segmenter import Segmenter
from exptilt.policies.segmenters.unet import UNet, UNetConfig
from exptilt.rewards.mask_annotator import MaskAnnotator
from exptilt.testbed.blobs import blobs, thickened


def segmenter():
    torch.manual_seed(3)
    return Segmenter(UNet(UNetConfig(channels=1, width=4, levels=2)))


def test_the_segmenters_own_mask_comes_first_and_all_differ():
    images, _ = blobs(1)
    drawn = candidates(segmenter(), images, 5, CandidateLaw(), (0, 1, 2))
    with torch.no_grad():
        own = segmenter().log_probabilities(torch.from_numpy(images[None] / np.float32(255)))[0].argmax(0)
    assert (drawn[0] == own.numpy()).all()
    assert len({mask.tobytes() for mask in drawn}) == len(drawn) == 5


def test_draws_belong_to_image_round_and_seed():
    images, _ = blobs(1)
    first, again, other = (
        candidates(segmenter(), images, 3, CandidateLaw(), seed) for seed in ((0, 1), (0, 1), (0, 2))
    )
    assert (first == again).all()
    assert not (first[1:] == other[1:]).all()


def test_the_annotator_prefers_by_overlap_as_often_as_it_says():
    _, (true,) = blobs(1, seed=4)
    better, worse = thickened(true[None], 1)[0], thickened(true[None], 2)[0]
    annotator = MaskAnnotator(temperature=0.1, flip=0.1)
    gap = annotator.utility(better, true) - annotator.utility(worse, true)
    sure = 1 / (1 + np.exp(-gap / 0.1))
    expected = 0.9 * sure + 0.1 * (1 - sure)
    assert annotator.preference(better, worse, true) == pytest.approx(expected)
    random = np.random.default_rng(0)
    share = np.mean([annotator.prefers_first(better, worse, true, random) for _ in range(4000)])
    assert share == pytest.approx(expected, abs=4 * np.sqrt(expected * (1 - expected) / 4000))
    assert MaskAnnotator(flip=0.5).preference(better, worse, true) == 0.5


def test_iou_weights_and_ignored_pixels():
    true = np.array([[1, 2, -1], [1, 0, 0]])
    mask = np.array([[1, 0, 2], [0, 0, 0]])
    assert MaskAnnotator(overlap="iou").utility(mask, true) == pytest.approx((1 / 2 + 0) / 2)
    assert MaskAnnotator(overlap="iou", weights=(3.0, 1.0)).utility(mask, true) == pytest.approx(3 / 8)
    assert MaskAnnotator().utility(np.zeros((2, 2), int), np.zeros((2, 2), int)) == 1.0
