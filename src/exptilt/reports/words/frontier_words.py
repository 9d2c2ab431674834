"""Conclusions on a frontier: which policies gained, which one leads, and which lie where no policy can be."""

from __future__ import annotations

import math

import numpy as np

from exptilt.reports.numbers import estimate, joined, number
from exptilt.reports.tone import Conclusion, PageAnswer, Side, compare
from exptilt.run_folder.estimate_record import Estimate
from exptilt.run_folder.frontier_record import Frontier, Point, is_reference
from exptilt.run_folder.run_contents import RunContents

_NAMED = 4
"""Rivals named one by one; more are counted."""
WORKED, COST, DISTANCE = "Did it work?", "What did it cost in KL?", "How far from the best possible?"


def frontier_conclusion(frontier: Frontier) -> Conclusion:
    """The answers for policies compared on one reward."""
    points = [point for point in frontier.ends if not is_reference(point) and point.reward.value is not None]
    if not points:
        return Conclusion("The frontier holds no measured policy yet, only what could be reached.", ())
    best = max(points, key=lambda point: point.reward.value or -math.inf)
    spent = _spent(best, points, frontier)
    answers = (_gains(points, frontier), _leader(best, points), spent, distance(best, frontier))
    return Conclusion(f"{answers[0].detail} {answers[1].detail}", answers)


def gained(point: Point, frontier: Frontier) -> Side:
    """Tell whether a policy's reward is above the reference's.

    The paired gain decides if there is one, else the two intervals must be apart.
    """
    if point.gain is not None:
        return compare(point.gain, 0.0)
    start = reference_reward(frontier)
    if start is None or start.interval is None or point.reward.interval is None:
        return "unknown"
    if point.reward.interval[0] > start.interval[1]:
        return "above"
    return "below" if point.reward.interval[1] < start.interval[0] else "overlaps"


def reference_reward(frontier: Frontier) -> Estimate | None:
    """The reference's reward: the given one, else its own point's, else the optimum's at the start if that has no KL."""
    if frontier.reference_reward is not None:
        return frontier.reference_reward
    own_reward = next((point.reward for point in frontier.points if is_reference(point)), None)
    best = frontier.optimum
    if own_reward is not None or best is None or not best.kl or best.kl[0] > 0.01:
        return own_reward
    low, high = (best.low[0], best.high[0]) if best.low and best.high else (None, None)
    return Estimate(value=best.reward[0], low=low, high=high)


def above_optimum(frontier: Frontier) -> list[str]:
    """Points above the optimum beyond both intervals: impossible, so an estimator is wrong.

    The measured excess decides if there is one. Else the optimum is read at the upper end of the point's KL, which is the
    kindest reading, and only where its samples carry it: elsewhere the curve is too low and says nothing.
    """
    return [
        point.name if point.final else f"{point.name} at step {point.steps}"
        for point in frontier.points
        if _is_above(point, frontier)
    ]


def _is_above(point: Point, frontier: Frontier) -> bool:
    if point.above_optimum is not None:
        return compare(point.above_optimum, 0.0) == "above"
    best, reward = frontier.optimum, point.reward.low
    kl = point.kl.value if point.kl.high is None else point.kl.high
    if best is None or best.high is None or reward is None or kl is None or not trusted_at(frontier, kl):
        return False
    return reward > float(np.interp(kl, best.kl, best.high))


def is_trusted(point: Point, frontier: Frontier) -> bool:
    """Tell whether the optimum's samples carry it at this point's KL."""
    if point.solid is not None:
        return point.solid
    return point.kl.value is not None and trusted_at(frontier, point.kl.value)


def trusted_at(frontier: Frontier, kl: float) -> bool:
    """Tell whether the optimum's samples carry it at this KL; false beyond the range it was computed on."""
    best = frontier.optimum
    if best is None or not best.kl or not 0 <= kl <= best.kl[-1]:
        return False
    right = int(np.searchsorted(best.kl, kl))
    return best.trusted is None or all(best.trusted[max(0, right - 1) : right + 1])


def point_of(run: RunContents, frontier: Frontier | None) -> Point | None:
    """The frontier's point of a run: the point that the run names, or the point with its name up to spelling."""
    folder = run.path.resolve().name
    for point in frontier.ends if frontier else []:
        if point.run in (folder, run.name) or _spelled(point.name) in (_spelled(run.name), _spelled(folder)):
            return point
    return None


def distance(point: Point | None, frontier: Frontier | None) -> PageAnswer:
    """The share of the optimum's gain that a policy reached at its own KL."""
    if frontier is None:
        return PageAnswer(
            DISTANCE, "Not measured", "It needs a reward on samples of the reference: see `exptilt frontier`.", "none"
        )
    if point is None:
        return PageAnswer(DISTANCE, "Not measured", "The frontier has no point for this run.", "none")
    if point.fraction is None or point.fraction.value is None:
        detail = f"The samples of the reference do not show what the optimum is at the KL of {point.name}."
        return PageAnswer(DISTANCE, "Cannot be said", detail, "none")
    doubt = ""
    if not is_trusted(point, frontier):
        doubt = " Few samples carry the optimum there, so its interval spans two corrections."
    share = estimate(point.fraction, percent=True)
    detail = f"{point.name} reached {share} of the gain the optimum has at the same KL.{doubt}"
    if point.kl_fraction is not None and point.kl_fraction.value is not None:
        detail += f" The optimum needs {estimate(point.kl_fraction, percent=True)} of that KL for the same reward."
    return PageAnswer(DISTANCE, f"{number(100 * point.fraction.value, 0)} % of the optimum", detail, "unsure")


def _gains(points: list[Point], frontier: Frontier) -> PageAnswer:
    up = [point.name for point in points if gained(point, frontier) == "above"]
    down = [point.name for point in points if gained(point, frontier) == "below"]
    loss = f" {joined(down)} lost reward." if down else ""
    if up:
        who = "The one policy" if len(points) == 1 else f"{len(up)} of {len(points)} policies"
        detail = f"{who} gained reward over the reference, with an interval that excludes no gain.{loss}"
        return PageAnswer(
            WORKED, "Yes" if len(up) == len(points) else f"Yes, {len(up)} of {len(points)}", detail, "good"
        )
    if down:
        return PageAnswer(WORKED, "No", f"No policy gained reward over the reference.{loss}", "bad")
    detail = "No policy's gain over the reference is distinguishable from zero, or the intervals are missing."
    return PageAnswer(WORKED, "Not shown", detail, "unsure")


def _leader(best: Point, points: list[Point]) -> PageAnswer:
    question = "Which is best?"
    rivals = [point.name for point in points if point is not best and not apart(best.reward, point.reward)]
    shown = f"{best.name} has the highest reward, {estimate(best.reward)}"
    if rivals:
        who = joined(rivals) if len(rivals) <= _NAMED else f"{len(rivals)} others"
        return PageAnswer(question, "No single winner", f"{shown}; intervals do not set it apart from {who}.", "unsure")
    others = ", and its interval lies above all others" if len(points) > 1 else ""
    return PageAnswer(question, best.name, f"{shown}{others}.", "good" if others else "unsure")


def apart(best: Estimate, other: Estimate) -> bool:
    """Tell whether the first interval lies wholly above the second; false if an interval is missing."""
    return best.interval is not None and other.interval is not None and best.interval[0] > other.interval[1]


def _spent(best: Point, points: list[Point], frontier: Frontier) -> PageAnswer:
    if best.kl.value is None:
        return PageAnswer(COST, "Not measured", f"{best.name} has no KL.", "none")
    costs = [point.kl.value for point in points if point.kl.value is not None]
    span = f"; all lie between {number(min(costs))} and {number(max(costs))}" if len(costs) > 1 else ""
    detail = f"{best.name} moved {estimate(best.kl)} nats per {frontier.each} away from the reference{span}."
    for cheap in sorted(frontier.best_of_n, key=lambda candidate: candidate.n):
        if cheap.kl < best.kl.value and apart(cheap.reward, best.reward):
            reward, cost = number(cheap.reward.value), number(cheap.kl)
            detail += f" The best of {cheap.n} samples of the reference has more reward, {reward}, for {cost} nats."
            break
    return PageAnswer(COST, f"{number(best.kl.value)} nats", detail, "unsure")


def _spelled(name: str) -> str:
    return "".join(letter for letter in name.lower() if letter.isalnum())
