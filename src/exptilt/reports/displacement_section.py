"""The report's section on displacement: whether falling chosen rewards are normal, with their curve and their rows."""

from __future__ import annotations

import math

from exptilt.reports.figures.curves import Curve
from exptilt.reports.numbers import MINUS, estimate, number
from exptilt.reports.tone import PageAnswer
from exptilt.run_folder.estimate_record import Estimate
from exptilt.run_folder.evaluation_record import Displacement, Evaluation
from exptilt.run_folder.run_contents import RunContents

QUESTION = "Chosen replies lose probability: is this normal?"
STILL = 0.05
"""nats per reply below which a side counts as not moved."""
DISPLACEMENT = Curve(
    "displacement",
    "Log-probability minus the reference's",
    "nats per reply",
    ("displacement/chosen", "displacement/rejected"),
    0.0,
    with_average=True,
)
"""The section's figure."""
WINDOW = 5
"""Logged training steps averaged for a final value where nothing held out was logged."""


def is_this_normal(run: RunContents) -> PageAnswer | None:
    """Describe how both sides moved and whether to worry; None if it was never logged.

    Both sides falling is normal as long as chosen lost no more than the difference gained. Past that, most of the mass
    went to replies in neither column (likelihood displacement, Razin et al., 2410.08847). The forced part is the
    identity E_ref[log-ratio] = -KL(reference || policy), which holds for pairs sampled from the reference.
    """
    moved = displacement(run)
    if moved is None:
        return None
    up, down = (side.value or 0.0 for side in moved)
    facts = (
        f"Against the reference, chosen replies moved by {estimate(moved[0])} nats and rejected replies by "
        f"{estimate(moved[1])} nats (mean per reply)."
    )
    if max(abs(up), abs(down)) < STILL:
        advice = f"That is less than {STILL} nats on either side: train longer, or raise the learning rate."
        return PageAnswer(QUESTION, "Nothing moved yet.", f"{facts} {advice}", "unsure")
    if up <= down:
        advice = (
            "The rejected side is now favoured. Check that chosen and rejected are not swapped, and that the learning "
            "rate is not far too high."
        )
        return PageAnswer(QUESTION, "No: the wrong side gained.", f"{facts} {advice}", "bad")
    if up >= 0:
        advice = "Chosen replies are at least as likely as under the reference, so the question does not arise here."
        return PageAnswer(QUESTION, "Here they did not fall.", f"{facts} {advice}", "good")
    return _both_fell(run, facts, up, down)


def displacement(run: RunContents) -> tuple[Estimate, Estimate] | None:
    """Log-probability of chosen and of rejected replies minus the reference's, nats per reply.

    The evaluation is read first, then the last held-out value of the log, then its last training values.
    """
    measured = run.evaluation.displacement if run.evaluation else Displacement()
    chosen, rejected = measured.chosen or _last(run, "chosen"), measured.rejected or _last(run, "rejected")
    if chosen is None or rejected is None or chosen.value is None or rejected.value is None:
        return None
    return chosen, rejected


def _last(run: RunContents, side: str) -> Estimate | None:
    _, held_out = run.series_of_model(f"eval/displacement/{side}")
    _, training = run.series_of_model(f"train/displacement/{side}")
    last = held_out[-1:] or training[-WINDOW:]
    return Estimate(value=sum(last) / len(last)) if last else None


def _both_fell(run: RunContents, facts: str, up: float, down: float) -> PageAnswer:
    gap = up - down
    share = -up / gap
    average = (
        f"The average of both sides is {number((up + down) / 2)} nats. If the pairs were sampled from the reference, "
        f"this average is forced on every method: it equals {MINUS}KL(reference ‖ policy). Pairs from elsewhere are "
        f"under no such law.{_measured_part(run)}"
    )
    if share <= 1:
        detail = (
            f"{facts} The loss asks only for the difference, {number(gap)} nats here, and the two sides share most of "
            "their words, so pushing the rejected side down takes the chosen side along. Chosen lost "
            f"{number(share)} nats for each nat of difference gained; below 1 is usual.{_per_token(run, up)}\n{average}"
        )
        return PageAnswer(QUESTION, "Yes, this is normal.", detail, "good")
    detail = (
        f"{facts} Chosen lost {number(share)} nats for each nat of difference gained. Above 1, most of the probability "
        "left both sides and went to replies in neither column: read the samples to see which."
        f"{_per_token(run, up)}\n{average}\nIf the samples look worse, try a lower learning rate, fewer steps, a "
        "larger beta, an added SFT term on the chosen replies, or leaving out pairs whose two sides are nearly the same."
    )
    return PageAnswer(QUESTION, "Common, but worth watching.", detail, "unsure")


def _measured_part(run: RunContents) -> str:
    measured = run.evaluation.displacement if run.evaluation else Displacement()
    forced, rest = measured.forced, measured.remainder
    if forced is None or rest is None:
        return ""
    return (
        f" Measured on samples of the reference, the forced part is {estimate(forced)} nats; "
        f"the other {estimate(rest)} nats come from the pairs not being such samples."
    )


def _per_token(run: RunContents, up: float) -> str:
    for split in ("eval", "train"):
        _, lengths = run.series_of_model(f"{split}/lengths/chosen")
        if lengths and lengths[-1] > 0:
            lost = number(100 * (1 - math.exp(up / lengths[-1])), 1)
            spread = f" Spread over {number(lengths[-1])} tokens, each chosen token is {lost} % less likely than under"
            return f"{spread} the reference."
    return ""


def displacement_rows(evaluation: Evaluation | None) -> dict[str, str]:
    """The section's table for one run: names and values with their intervals."""
    moved = evaluation.displacement if evaluation else Displacement()
    named = {
        "Chosen, nats per reply": moved.chosen,
        "Rejected, nats per reply": moved.rejected,
        "Average of both": moved.mean,
        "Forced: \N{MINUS SIGN}KL(reference ‖ policy)": moved.forced,
        "Remainder: the pairs are not samples of the reference": moved.remainder,
        "CHES per token (higher: the two sides look more alike)": moved.ches.normalised if moved.ches else None,
    }
    return {label: estimate(value) for label, value in named.items() if value is not None}
