"""The conclusion on a reward model: whether it ranks by more than length, whether its margins are probabilities, what it leads to."""

from __future__ import annotations

from exptilt.reports.numbers import estimate, number
from exptilt.reports.tone import PageAnswer, Side, Tone, compare
from exptilt.run_folder.evaluation_record import Evaluation
from exptilt.run_folder.frontier_record import Frontier

RANKS = "Does it rank as people do?"
LENGTH = "Is it more than length?"
CALIBRATED = "Are its margins probabilities?"
OPTIMISED = "What if it is optimised?"
_BEATS_LENGTH: dict[Side, tuple[str, Tone]] = {
    "above": ("Yes", "good"),
    "below": ("No, length ranks better", "bad"),
    "overlaps": ("Not distinguishable", "unsure"),
    "unknown": ("Not shown", "unsure"),
}


def constant(evaluation: Evaluation | None) -> PageAnswer | None:
    """The answer about a reward model that says the same of everything; None about any other."""
    if evaluation is None or evaluation.scores is None or evaluation.scores.spread != 0:
        return None
    detail = (
        "This reward model gives every held-out completion the same score, so it prefers nothing; raise "
        "optim.learning_rate, or look at the rows with `exptilt doctor`."
    )
    return PageAnswer(RANKS, "No, it is constant", detail, "bad")


def about_length(evaluation: Evaluation) -> PageAnswer:
    """Compare the accuracy with that of length alone, in the direction in which length does better."""
    accuracy, longest = evaluation.accuracy.get("reward_model", {}).get("score"), evaluation.longest_wins
    if accuracy is None or longest is None or longest.value is None:
        return PageAnswer(LENGTH, "Not measured", "There are no held-out pairs to compare with their lengths.", "none")
    side, share = ("longer", longest.value) if longest.value >= 0.5 else ("shorter", 1 - longest.value)
    answer, tone = _BEATS_LENGTH[compare(accuracy, share)]
    detail = f"Always taking the {side} completion gets {number(100 * share, 1)} %."
    line = evaluation.reward_on_length.get("data")
    if line is not None:
        detail += f" Length explains {estimate(line.r_squared, percent=True)} of its scores."
    return PageAnswer(LENGTH, answer, detail, tone)


def about_calibration(evaluation: Evaluation) -> PageAnswer:
    """Tell whether sigmoid(margin) is the probability that people prefer the completion with the higher score."""
    found = evaluation.calibration
    if found is None or found.error is None or found.null_band is None:
        return PageAnswer(CALIBRATED, "Not measured", "Too few held-out pairs to tell.", "none")
    low, high = (number(end) for end in found.null_band)
    detail = (
        f"sigmoid(margin) is off by {estimate(found.error)} on average; an error of {number(found.ece)} was seen, and "
        f"{low} to {high} are seen by chance alone."
    )
    if compare(found.error, 0.0) == "above":
        return PageAnswer(CALIBRATED, "No", detail, "bad")
    return PageAnswer(CALIBRATED, "Not distinguishable", detail, "unsure")


def about_optimising(frontier: Frontier | None) -> PageAnswer:
    """Tell where the true reward turns down while this one is optimised, if samples with both were measured."""
    if frontier is None or not frontier.proxies:
        detail = (
            "Over-optimisation needs samples with a true reward: `exptilt frontier` with measure.proxy set to this model's "
            "folder draws where the true reward turns down."
        )
        return PageAnswer(OPTIMISED, "Not measured", detail, "none")
    proxy = frontier.proxies[0]
    detail = (
        f"The true reward is highest, {estimate(proxy.best)}, at {number(proxy.best_kl)} nats from the reference, and "
        f"{estimate(proxy.end)} at {number(proxy.kl[-1])} nats."
    )
    turns = proxy.best.low is not None and compare(proxy.end, proxy.best.low) == "below"
    return PageAnswer(OPTIMISED, "It turns down" if turns else "No turn seen", detail, "bad" if turns else "unsure")
