"""What the first screen says of a segmenter: whether masks are better, than what, and whether the rest stayed."""

from __future__ import annotations

from exptilt.reports.numbers import with_interval
from exptilt.reports.tone import Conclusion, PageAnswer, compare
from exptilt.run_folder.mask_evaluation_record import TRUTH, MaskEvaluation, MaskMeasures
from exptilt.run_folder.run_record import RunRecord

_COLLAPSE = 0.1
"""Nats a pixel that agreement may lose."""


def mask_conclusion(found: MaskEvaluation | None, info: RunRecord | None = None) -> Conclusion:
    """Say whether the segmenter is better than its start, by Dice; without true masks nobody can say.

    Args:
        found: what was measured.
        info: run.json, whose alarms come before everything else.
    """
    alarm = next(iter(info.alarms), None) if info is not None else None
    if alarm is not None:
        said = PageAnswer(
            "Can it be used?", "No, do not use it", f"At step {alarm.step} {alarm.message}; {alarm.advice}.", "bad"
        )
        return Conclusion("Do not use it: an alarm came while it trained.", (said, *_others(found)))
    if found is None:
        headline, advice = "Cannot tell: no image was held out.", "Set data.test or data.test_fraction."
        return Conclusion(headline, (PageAnswer("Are the masks better?", "Cannot tell", advice, "unsure"),))
    better = _better(found)
    headline = {
        "good": "Better masks than at the start.",
        "bad": "Do not use it: masks are worse than at the start.",
    }.get(better.tone, "Cannot tell whether masks are better than at the start.")
    return Conclusion(headline, (better, *_others(found)))


def _others(found: MaskEvaluation | None) -> tuple[PageAnswer, ...]:
    if found is None:
        return ()
    rivals = () if not found.rivals else (_beside_rivals(found),)
    return (*rivals, _rest(found), _distance(found))


def _better(found: MaskEvaluation) -> PageAnswer:
    question, policy = "Are the masks better?", found.policy
    if policy.dice is None or found.reference.dice is None:
        detail = "Held-out rows have no true masks (`target`); preference accuracy is no sign of quality."
        return PageAnswer(question, "Cannot tell", detail, "unsure")
    shape = f" At the best threshold {with_interval(policy.dice_at_best, 3)}." if policy.dice_at_best else ""
    detail = (
        f"Dice {with_interval(policy.dice, 3)}, at the start {with_interval(found.reference.dice, 3)}, on {found.num_targets} images; "
        f"image by image the difference is {with_interval(policy.gain, 3)}.{shape}"
    )
    side = compare(policy.gain, 0.0)
    if side == "above":
        return PageAnswer(question, "Yes", detail, "good")
    if side == "below":
        return PageAnswer(question, "No, worse", detail, "bad")
    return PageAnswer(question, "Not distinguishable", detail, "unsure")


def _beside_rivals(found: MaskEvaluation) -> PageAnswer:
    """The best of the rivals that learned from the same comparisons; true masks are the ceiling and no rival."""
    question = "Better than simpler ways?"
    rivals = [one for one in found.rivals if one.dice is not None and one.dice.value is not None and one.name != TRUTH]
    if not rivals or found.policy.dice is None:
        return PageAnswer(question, "Cannot tell", "Held-out rows have no true masks (`target`).", "none")
    best = max(rivals, key=_dice)
    ceiling = next(
        (f" True masks reach {with_interval(one.dice, 3)}." for one in found.rivals if one.name == TRUTH), ""
    )
    detail = f"The best of them, {best.name}, has Dice {with_interval(best.dice, 3)}.{ceiling}"
    over, under = compare(found.policy.dice, best.dice.high or 1.0), compare(found.policy.dice, best.dice.low or 0.0)  # type: ignore[union-attr]
    if over == "above":
        return PageAnswer(question, "Yes", detail, "good")
    if under == "below":
        return PageAnswer(question, f"No: {best.name} is better", detail, "bad")
    return PageAnswer(question, "Not distinguishable", detail, "unsure")


def _dice(one: MaskMeasures) -> float:
    return (one.dice.value or 0.0) if one.dice is not None else 0.0


def _rest(found: MaskEvaluation) -> PageAnswer:
    question, now, before = "Did the rest stay?", found.policy.agreement, found.reference.agreement
    if now is None or before is None or now.value is None or before.value is None:
        return PageAnswer(question, "Not measured", "Held-out rows are no pairs.", "none")
    fall = before.value - now.value
    if fall <= _COLLAPSE:
        return PageAnswer(
            question, "Yes", f"Pixels on which both masks agree changed by {-fall:+.3f} nats each.", "good"
        )
    advice = "it changes where nobody disagreed; add or strengthen an anchor (loss: mixture with nll)"
    return PageAnswer(question, "No", f"Pixels on which both masks agree lost {fall:.2f} nats each: {advice}.", "bad")


def _distance(found: MaskEvaluation) -> PageAnswer:
    share = f"Foreground {with_interval(found.policy.foreground, 3)}, before {with_interval(found.reference.foreground, 3)} of the pixels."
    return PageAnswer("How far did it go?", f"KL {with_interval(found.policy.kl, 4)} nats a pixel", share, "none")
