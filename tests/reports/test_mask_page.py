"""The page of a run on masks: what its first screen says, and that it carries its pictures."""

import pytest

from exptilt.reports.mask_page import conclude
from exptilt.run_folder.estimate_record import Estimate
from exptilt.run_folder.mask_evaluation_record import MaskEvaluation, MaskMeasures


def estimate(value, half=0.02):
    return Estimate(value=value, low=value - half, high=value + half, level=0.95, n=40)


def evaluation(dice, start, agreement=(-0.3, -0.3)):
    policy, reference = (
        MaskMeasures(dice=estimate(one), agreement=estimate(level), kl=estimate(0.01), foreground=estimate(0.2))
        for one, level in ((dice, agreement[0]), (start, agreement[1]))
    )
    return MaskEvaluation(num_targets=40, policy=policy, reference=reference)


@pytest.mark.parametrize(
    ("dice", "start", "tone", "words"),
    [
        (0.80, 0.60, "good", "Better masks"),
        (0.50, 0.60, "bad", "Do not use it"),
        (0.61, 0.60, "unsure", "Cannot tell: the intervals overlap"),
    ],
)
def test_the_headline_follows_the_intervals(dice, start, tone, words):
    found = conclude(evaluation(dice, start))
    assert (found.tone, found.headline.startswith(words)) == (tone, True)
    assert f"{dice:.3f} [{dice - 0.02:.3f}, {dice + 0.02:.3f}]" in found.detail


def test_a_collapse_of_what_both_agree_on_is_told_with_a_setting():
    stayed, fell = (conclude(evaluation(0.8, 0.6, levels)).others[0] for levels in ((-0.35, -0.3), (-0.85, -0.3)))
    assert stayed[1] == "good"
    assert fell[1] == "bad"
    assert "lost 0.55 nats" in fell[2]
    assert "loss: mixture with nll" in fell[2]


def test_without_true_masks_nobody_can_say():
    assert conclude(None).tone == "unsure"
    assert "no sign of quality" in conclude(MaskEvaluation()).detail
