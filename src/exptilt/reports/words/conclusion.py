"""The conclusion in words: whether the run worked, how far it moved, its cost, and its distance from the best."""

from __future__ import annotations

from dataclasses import replace

from exptilt.reports.displacement_section import displacement
from exptilt.reports.numbers import estimate, joined, number
from exptilt.reports.report_inputs import Inputs
from exptilt.reports.tone import Conclusion, PageAnswer, Side, Tone, compare
from exptilt.reports.words.frontier_words import COST, WORKED, apart, distance, frontier_conclusion, point_of
from exptilt.reports.words.reward_words import RANKS, about_calibration, about_length, about_optimising, constant
from exptilt.run_folder.estimate_record import Estimate
from exptilt.run_folder.evaluation_record import Evaluation
from exptilt.run_folder.frontier_record import Frontier, Point
from exptilt.run_folder.run_contents import RunContents
from exptilt.wording import counted

MOVED = "How far did it move?"
ACCURACIES = (
    ("with_reference", "sum"),
    ("with_reference", "mean"),
    ("without_reference", "sum"),
    ("without_reference", "mean"),
    ("reward_model", "score"),
)
"""The accuracies that may represent a run; the first of them that was measured does."""
_GAINS: dict[Side, tuple[str, Tone]] = {
    "above": ("Yes", "good"),
    "below": ("No, it got worse", "bad"),
    "overlaps": ("Not distinguishable", "unsure"),
    "unknown": ("Not shown", "unsure"),
}


def conclusion_of(inputs: Inputs) -> Conclusion:
    """Conclude on the frontier if several policies share one, on a single run, or on the runs compared."""
    if inputs.frontier is not None and len(inputs.runs) != 1:
        return frontier_conclusion(inputs.frontier)
    if len(inputs.runs) == 1:
        return run_conclusion(inputs.runs[0], inputs.frontier)
    return Conclusion(_compared(inputs.runs), ())


def _compared(runs: tuple[RunContents, ...]) -> str:
    """Compare several runs in one sentence: the one that ranks most held-out pairs right, and those not set apart from it."""
    measured = {run.name: headline for run in runs if (headline := headline_accuracy(run)) is not None}
    if not runs or len({kind for kind, _ in measured.values()}) != 1:
        return f"{len(runs)} runs side by side; they have no common measurement that would rank them."
    best = max(measured, key=lambda name: measured[name][1].value or 0.0)
    kind, accuracy = measured[best]
    rivals = [name for name, (_, other) in measured.items() if name != best and not apart(accuracy, other)]
    without = len(runs) - len(measured)
    ends = [
        f"; intervals do not set it apart from {joined(rivals)}"
        if rivals
        else ", and its interval lies above all others"
    ]
    ends += [f". {without} of {len(runs)} runs have no such measurement"] if without else []
    refused = [run.name for run in runs if run.info and run.info.alarms]
    ends += [f". Do not use {joined(refused)}: guard rails raised an alarm"] if refused else []
    shown = f"{best} ranks most held-out pairs as their labels do ({kind}): {estimate(accuracy, percent=True)}"
    return f"{shown}{''.join(ends) if len(measured) > 1 or without or refused else ''}."


def run_conclusion(run: RunContents, frontier: Frontier | None = None) -> Conclusion:
    """The four answers for one run; the headline tells whether it worked, and its cost or else its distance."""
    if run.is_of_reward_model:
        return _reward_model_conclusion(run, frontier)
    point = point_of(run, frontier)
    worked, moved, cost, away = _worked(run, point), _moved(run), _cost(run, point), distance(point, frontier)
    known = [answer.detail for answer in (worked, moved if cost.tone == "none" else cost) if answer.tone != "none"]
    headline = " ".join(known) or "Nothing in this run folder says yet how good the model is."
    return Conclusion(headline, (worked, moved, cost, away))


def _reward_model_conclusion(run: RunContents, frontier: Frontier | None) -> Conclusion:
    """The four answers for a reward model; the headline tells whether it ranks as people do, and by more than length."""
    evaluation = run.evaluation or Evaluation()
    ranks = replace(_worked(run, None), question=RANKS)
    answers = (ranks, about_length(evaluation), about_calibration(evaluation), about_optimising(frontier))
    known = [answer.detail for answer in answers[:2] if answer.tone != "none"]
    return Conclusion(" ".join(known) or "Nothing in this run folder says yet how good the reward model is.", answers)


def _worked(run: RunContents, point: Point | None) -> PageAnswer:
    """An alarm, or weights that never moved, come before every measurement."""
    alarms = run.info.alarms if run.info else ()
    if alarms:
        first = alarms[0]
        phase = f"of the {first.phase} phase " if first.phase else ""
        where = "" if first.step is None else f"At step {first.step} {phase}"
        more = f" ({counted(len(alarms) - 1, 'more alarm')})" if len(alarms) > 1 else ""
        return PageAnswer(WORKED, "No, do not use it", f"{where}{first.message}{more}. Advice: {first.advice}.", "bad")
    best = run.info.kept if run.info else None
    if best is not None and best.step == 0:
        detail = (
            f"train.best kept step 0: no step was better than the untrained start by {best.metric} ({number(best.value)}), so "
            "the model is the one the run started from."
        )
        return PageAnswer(WORKED, "No, it is the untrained start", detail, "bad")
    return _with_step(run, constant(run.evaluation) or _measured_gain(run, point))


def _with_step(run: RunContents, answer: PageAnswer) -> PageAnswer:
    """Name the step that is judged where it is not the last."""
    best = run.info.kept if run.info else None
    if best is None:
        return answer
    return replace(
        answer, detail=f"{answer.detail} The model has the weights of step {best.step}, best by {best.metric}."
    )


def _measured_gain(run: RunContents, point: Point | None) -> PageAnswer:
    gain = ((run.evaluation.reward if run.evaluation else None) or {}).get("gain") or (point.gain if point else None)
    if gain is not None:
        answer, tone = _GAINS[compare(gain, 0.0)]
        return PageAnswer(
            WORKED, answer, f"Reward gained over the reference on held-out prompts: {estimate(gain)}.", tone
        )
    measured = headline_accuracy(run)
    return _from_curves(run) if measured is None else _from_accuracy(run, *measured)


def headline_accuracy(run: RunContents) -> tuple[str, Estimate] | None:
    """The first accuracy that was measured, log-ratios of whole replies first, and its name."""
    accuracy = run.evaluation.accuracy if run.evaluation else {}
    for scores, reduction in ACCURACIES:
        estimate = accuracy.get(scores, {}).get(reduction)
        if estimate is not None and estimate.value is not None:
            return scores.replace("_", " ") + (", by mean" if reduction == "mean" else ""), estimate
    return None


def _from_accuracy(run: RunContents, kind: str, accuracy: Estimate) -> PageAnswer:
    count = f", {accuracy.n:,} measured" if accuracy.n else ""
    if run.is_of_reward_model:
        shown = f"This reward model ranks {estimate(accuracy, percent=True)} of held-out pairs as their labels do"
    else:
        shown = f"It ranks {estimate(accuracy, percent=True)} of held-out pairs as their labels do ({kind}{count})"
    side = compare(accuracy, 0.5)
    if side == "above":
        beside = "" if run.is_of_reward_model else _against_length(run, accuracy)
        return PageAnswer(WORKED, "Yes, better than a coin", f"{shown}.{beside}", "good")
    if side == "below":
        advice = "worse than a coin: check that chosen and rejected are not swapped"
        return PageAnswer(WORKED, "No, worse than a coin", f"{shown}, {advice}.", "bad")
    doubt = "not distinguishable from a coin" if side == "overlaps" else "which without an interval shows nothing yet"
    return PageAnswer(WORKED, "Not shown", f"{shown}, {doubt}.", "unsure")


def _against_length(run: RunContents, accuracy: Estimate) -> str:
    """Compare with the accuracy of length alone, in the direction in which it scores more: a run must beat that."""
    longest = run.evaluation.longest_wins if run.evaluation else None
    if longest is None or longest.value is None:
        return ""
    words: dict[Side, str] = {
        "above": "this is better",
        "below": "that is better than this",
        "overlaps": "the two are not distinguishable",
        "unknown": "to compare with",
    }
    side = "longer" if longest.value >= 0.5 else "shorter"
    share = max(longest.value, 1 - longest.value)
    return f" Always taking the {side} reply gets {number(100 * share, 1)} %: {words[compare(accuracy, share)]}."


def _from_curves(run: RunContents) -> PageAnswer:
    _, accuracies = run.series_of_model("eval/accuracy" if run.is_of_reward_model else "eval/rewards/accuracies")
    if accuracies:
        shown = f"The last held-out accuracy in the log is {number(100 * accuracies[-1], 1)} % (no interval)."
        return PageAnswer(WORKED, "Not shown", f"{shown} `exptilt evaluate` measures it with one.", "unsure")
    _, rewards = run.series_of_model("train/rollout/reward")
    if rewards:
        shown = (
            f"The mean reward of its rollouts went from {number(rewards[0])} to {number(rewards[-1])} (no interval)."
        )
        return PageAnswer(
            WORKED, "Not shown", f"{shown} Held-out prompts (data.test_fraction) would show the gain.", "unsure"
        )
    for split, words in (("eval", "Held-out"), ("train", "Training")):
        _, losses = run.series_of_model(f"{split}/loss")
        if len(losses) > 1:
            went = "fell" if losses[-1] < losses[0] else "did not fall: it went"
            shown = f"{words} loss {went} from {number(losses[0])} to {number(losses[-1])} (no interval)."
            return PageAnswer(
                WORKED, "Not measured", f"{shown} A loss does not say whether replies are better.", "unsure"
            )
    return PageAnswer(
        WORKED, "Not measured", "There is no evaluation and no loss curve: see `exptilt evaluate`.", "none"
    )


def _moved(run: RunContents) -> PageAnswer:
    moved = displacement(run)
    if moved is None and run.is_online and run.evaluation and run.evaluation.length_change:
        change = run.evaluation.length_change
        detail = f"Completions of held-out prompts are {estimate(change)} tokens longer than the reference's."
        return PageAnswer(MOVED, f"{number(change.value)} tokens in length", detail, "unsure")
    if moved is None:
        return PageAnswer(MOVED, "Not measured", "The log has no log-probabilities against a reference.", "none")
    gap = (moved[0].value or 0.0) - (moved[1].value or 0.0)
    chosen, rejected = (estimate(side) for side in moved)
    detail = f"Against the reference, chosen replies moved by {chosen} nats and rejected by {rejected} nats."
    return PageAnswer(MOVED, f"{number(gap)} nats between the sides", detail, "unsure")


def _cost(run: RunContents, point: Point | None) -> PageAnswer:
    kl = (run.evaluation.kl if run.evaluation else None) or (point.kl if point else None)
    if kl is None or kl.value is None:
        return PageAnswer(
            COST, "Not measured", "KL needs samples of the trained model: see `exptilt evaluate`.", "none"
        )
    return PageAnswer(
        COST, f"{number(kl.value)} nats", f"KL(policy ‖ reference) is {estimate(kl)} nats per reply.", "unsure"
    )
