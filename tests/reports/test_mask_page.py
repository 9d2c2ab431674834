"""The page of a run on masks: what its first screen says, and that it carries its pictures."""

import pytest

from exptilt.reports.words.mask_conclusion import mask_conclusion
from exptilt.run_folder.estimate_record import Estimate
from exptilt.run_folder.mask_evaluation_record import MaskEvaluation, MaskMeasures
from exptilt.run_folder.run_record import Caution, RunRecord


def estimate(value, half=0.02):
    return Estimate(value=value, low=value - half, high=value + half, level=0.95, n=40)


def evaluation(dice, start, agreement=(-0.3, -0.3), gain=None, rivals=()):
    policy, reference = (
        MaskMeasures(
            dice=estimate(one), agreement=estimate(level), kl=estimate(0.01), foreground=estimate(0.2), gain=moved
        )
        for one, level, moved in ((dice, agreement[0], gain or estimate(dice - start)), (start, agreement[1], None))
    )
    others = tuple(MaskMeasures(name=name, dice=estimate(value)) for name, value in rivals)
    return MaskEvaluation(num_targets=40, policy=policy, reference=reference, rivals=others)


@pytest.mark.parametrize(
    ("dice", "start", "tone", "words"),
    [
        (0.80, 0.60, "good", "Better masks"),
        (0.50, 0.60, "bad", "Do not use it"),
        (0.61, 0.60, "unsure", "Cannot tell whether masks are better"),
    ],
)
def test_the_headline_follows_the_interval_of_the_difference(dice, start, tone, words):
    found = mask_conclusion(evaluation(dice, start))
    assert (found.answers[0].tone, found.headline.startswith(words)) == (tone, True)
    assert f"{dice:.3f} [{dice - 0.02:.3f}, {dice + 0.02:.3f}]" in found.answers[0].detail


def test_a_difference_image_by_image_decides_where_the_two_intervals_overlap():
    found = mask_conclusion(evaluation(0.61, 0.60, gain=estimate(0.01, 0.005)))
    assert found.answers[0].tone == "good"
    assert "difference is 0.010 [0.005, 0.015]" in found.answers[0].detail


def test_a_collapse_of_what_both_agree_on_is_told_with_a_setting():
    stayed, fell = (
        mask_conclusion(evaluation(0.8, 0.6, levels)).answers[1] for levels in ((-0.35, -0.3), (-0.85, -0.3))
    )
    assert stayed.tone == "good"
    assert fell.tone == "bad"
    assert "lost 0.55 nats" in fell.detail
    assert "loss: mixture with nll" in fell.detail


@pytest.mark.parametrize(
    ("imitation", "tone", "answer"),
    [(0.7, "good", "Yes"), (0.79, "unsure", "Not distinguishable"), (0.9, "bad", "No: imitation is better")],
)
def test_the_best_rival_decides_and_true_masks_are_none(imitation, tone, answer):
    found = mask_conclusion(
        evaluation(0.8, 0.6, rivals=(("imitation", imitation), ("bias", 0.5), ("true masks", 0.95)))
    )
    card = found.answers[1]
    assert (card.tone, card.answer) == (tone, answer)
    assert f"imitation, has Dice {imitation:.3f}" in card.detail
    assert "True masks reach 0.950" in card.detail


def test_an_alarm_comes_before_everything():
    alarm = Caution(step=7, name="runaway", message="all is background", advice="lower optim.learning_rate", alarm=True)
    found = mask_conclusion(evaluation(0.8, 0.6), RunRecord(warnings=(alarm,)))
    assert found.headline.startswith("Do not use it")
    assert found.answers[0].detail == "At step 7 all is background; lower optim.learning_rate."


def test_without_true_masks_nobody_can_say():
    assert mask_conclusion(None).answers[0].tone == "unsure"
    assert "no sign of quality" in mask_conclusion(MaskEvaluation()).answers[0].detail
