from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from exptilt.reports.report_inputs import read_inputs
from exptilt.reports.words.conclusion import conclusion_of, run_conclusion
from exptilt.reports.words.frontier_words import (
    above_optimum,
    frontier_conclusion,
    gained,
    reference_reward,
    trusted_at,
)
from exptilt.run_folder.frontier_record import Frontier
from exptilt.run_folder.run_contents import read_run

MakeRun = Callable[..., Path]
SIDES = ("chosen", "rejected")


def ranked(value: float, low: float | None = None, high: float | None = None) -> dict[str, Any]:
    return {"accuracy": {"with_reference": {"sum": {"value": value, "low": low, "high": high, "n": 500}}}}


@pytest.mark.parametrize(
    ("evaluation", "answer", "tone"),
    [
        (ranked(0.62, 0.58, 0.66), "Yes, better than a coin", "good"),
        (ranked(0.52, 0.48, 0.56), "Not shown", "unsure"),
        (ranked(0.41, 0.37, 0.45), "No, worse than a coin", "bad"),
        (ranked(0.90), "Not shown", "unsure"),
        ({"reward": {"gain": {"value": 0.2, "low": 0.1, "high": 0.3}}}, "Yes", "good"),
        ({"reward": {"gain": {"value": 0.1, "low": -0.1, "high": 0.3}}}, "Not distinguishable", "unsure"),
        ({"reward": {"gain": {"value": -0.2, "low": -0.3, "high": -0.1}}}, "No, it got worse", "bad"),
        ({"reward": {"gain": 0.4}}, "Not shown", "unsure"),
    ],
)
def test_yes_needs_an_interval_that_excludes_chance(
    make_run: MakeRun, evaluation: dict[str, Any], answer: str, tone: str
) -> None:
    worked = run_conclusion(read_run(make_run(evaluation=evaluation))).answers[0]
    assert (worked.answer, worked.tone) == (answer, tone)


def test_longest_wins_is_set_against_the_accuracy(make_run: MakeRun) -> None:
    evaluation = ranked(0.62, 0.58, 0.66) | {"longest_wins": {"value": 0.6, "low": 0.57, "high": 0.63}}
    detail = run_conclusion(read_run(make_run(evaluation=evaluation))).answers[0].detail
    assert detail.endswith("Always taking the longer reply gets 60.0 %: the two are not distinguishable.")


def test_where_the_shorter_side_is_chosen_more_often_that_is_what_must_be_beaten(make_run: MakeRun) -> None:
    evaluation = ranked(0.574, 0.53, 0.619) | {"longest_wins": {"value": 0.452, "low": 0.407, "high": 0.496}}
    detail = run_conclusion(read_run(make_run(evaluation=evaluation))).answers[0].detail
    assert detail.endswith("Always taking the shorter reply gets 54.8 %: the two are not distinguishable.")


def test_without_an_evaluation_the_log_is_quoted_without_a_claim(make_run: MakeRun) -> None:
    folder = make_run(without=("evaluation.json",))
    answers = run_conclusion(read_run(folder)).answers
    assert answers[0].answer == "Not shown"
    assert "(no interval)" in answers[0].detail
    assert [answer.tone for answer in answers[2:]] == ["none", "none"]
    (folder / "metrics.jsonl").write_text('{"step": 1, "train/loss": 2.0}\n{"step": 9, "train/loss": 1.5}\n')
    worked = run_conclusion(read_run(folder)).answers[0]
    assert worked.answer == "Not measured"
    assert "fell from 2 to 1.50 (no interval)" in worked.detail


def test_a_frontier_names_winners_only_where_intervals_are_apart(frontier: dict[str, Any]) -> None:
    conclusion = frontier_conclusion(Frontier.from_dict(frontier))
    assert conclusion.answers[0].answer == "Yes"
    assert conclusion.answers[1].answer == "No single winner"
    assert "do not set it apart from DPO beta=0.1." in conclusion.headline
    assert "spans two corrections" in conclusion.answers[3].detail  # the leader's 2.31 nats lie past the trusted 1.45
    frontier["points"][0]["kl_fraction"] = {"value": 0.4, "low": 0.3, "high": 0.5}
    distance = frontier_conclusion(Frontier.from_dict(frontier)).answers[3].detail
    assert distance.endswith("The optimum needs 40.0 % [30.0, 50.0] of that KL for the same reward.")
    frontier["points"][0]["reward"] = {"value": 0.93, "low": 0.92, "high": 0.94}
    assert frontier_conclusion(Frontier.from_dict(frontier)).answers[1].answer == "DPO beta=0.05"


def test_gain_is_paired_first_and_else_by_intervals(frontier: dict[str, Any]) -> None:
    point = frontier["points"][0]
    point["gain"] = {"value": 0.01, "low": -0.01, "high": 0.03}
    made = Frontier.from_dict(frontier)
    assert gained(made.points[0], made) == "overlaps"
    for reward, side in (((0.50, 0.52), "overlaps"), ((0.52, 0.55), "above"), ((0.40, 0.48), "below")):
        point["gain"], point["reward"] = None, {"value": sum(reward) / 2, "low": reward[0], "high": reward[1]}
        made = Frontier.from_dict(frontier)
        assert gained(made.points[0], made) == side


def test_the_reference_reward_can_be_read_off_the_start_of_the_optimum(frontier: dict[str, Any]) -> None:
    del frontier["reference_reward"]
    start = reference_reward(Frontier.from_dict(frontier))
    assert start is not None
    assert (start.value, start.low, start.high) == (0.5, 0.49, 0.51)
    frontier["optimum"] = {"kl": [0.5, 1.0], "reward": [0.7, 0.8]}
    assert reference_reward(Frontier.from_dict(frontier)) is None


def test_a_point_above_the_optimum_is_reported_only_where_the_optimum_is_known(frontier: dict[str, Any]) -> None:
    assert above_optimum(Frontier.from_dict(frontier)) == []
    frontier["points"][3]["reward"] = {"value": 0.99, "low": 0.98, "high": 1.0}  # at 0.86 nats, optimum about 0.86
    frontier["points"][0]["reward"] = {"value": 0.99, "low": 0.98, "high": 1.0}  # at 2.31 nats, past the trusted part
    assert above_optimum(Frontier.from_dict(frontier)) == ["IPO beta=0.1"]


def test_a_measured_excess_decides_before_the_curve(frontier: dict[str, Any]) -> None:
    frontier["points"][3]["reward"] = {"value": 0.99, "low": 0.98, "high": 1.0}
    frontier["points"][3]["above_optimum"] = {"value": 0.01, "low": -0.01, "high": 0.03}
    assert above_optimum(Frontier.from_dict(frontier)) == []
    frontier["points"][4]["above_optimum"] = {"value": 0.02, "low": 0.01, "high": 0.03}
    assert above_optimum(Frontier.from_dict(frontier)) == ["Preferred-FT"]


def test_nothing_is_trusted_beyond_the_curve(frontier: dict[str, Any]) -> None:
    made = Frontier.from_dict(frontier)
    assert [trusted_at(made, kl) for kl in (0.0, 1.2, 1.6, 3.5)] == [True, True, False, False]


def test_several_runs_are_compared_by_their_intervals(make_run: MakeRun) -> None:
    folders = [
        make_run("one", evaluation=ranked(0.60, 0.57, 0.63)),
        make_run("two", evaluation=ranked(0.70, 0.67, 0.73)),
        make_run("three", evaluation=ranked(0.68, 0.65, 0.71)),
    ]
    headline = conclusion_of(read_inputs(folders)).headline
    assert headline.startswith("two ranks most held-out pairs as their labels do (with reference): 70.0 % [67.0, 73.0]")
    assert headline.endswith("intervals do not set it apart from three.")
    assert conclusion_of(read_inputs(folders[:2])).headline.endswith("and its interval lies above all others.")


def test_an_empty_run_claims_nothing(make_run: MakeRun) -> None:
    folder = make_run(without=("evaluation.json", "metrics.jsonl"))
    assert run_conclusion(read_run(folder)).headline == "Nothing in this run folder says yet how good the model is."


def test_best_of_n_that_has_more_for_less_is_named(frontier: dict[str, Any]) -> None:
    best = max(frontier["points"], key=lambda point: point["reward"]["value"])
    value, cost = best["reward"]["value"], best["kl"]["value"]
    better = {"value": value + 0.2, "low": value + 0.15, "high": value + 0.25}
    near = {"value": value + 0.01, "low": value - 0.05, "high": value + 0.05}
    frontier["best_of_n"] = [
        {"n": 2, "kl": 0.1, "reward": near},
        {"n": 4, "kl": 0.5 * cost, "reward": better},
        {"n": 8, "kl": 2 * cost, "reward": better},
    ]
    spent = frontier_conclusion(Frontier.from_dict(frontier)).answers[2].detail
    assert "The best of 4 samples of the reference has more reward" in spent
    assert "best of 2" not in spent
    frontier["best_of_n"] = frontier["best_of_n"][::2]
    assert "best of" not in frontier_conclusion(Frontier.from_dict(frontier)).answers[2].detail


ALARM = {"step": 60, "name": "runaway", "message": "it left", "advice": "lower optim.learning_rate", "alarm": True}


@pytest.mark.parametrize(
    ("kept", "answer"),
    [
        (None, "No, do not use it"),
        ({"step": 60, "metric": "eval/loss", "value": 0.6}, "No, do not use it"),
        ({"step": 40, "metric": "eval/loss", "value": 0.6}, "Yes, better than a coin"),  # from before the alarm
        ({"step": 0, "metric": "eval/loss", "value": 0.6}, "No, it is the untrained start"),
    ],
)
def test_an_alarm_comes_before_every_measurement(make_run: MakeRun, kept: dict[str, Any] | None, answer: str) -> None:
    folder = make_run(evaluation=ranked(0.62, 0.58, 0.66))
    info = {"format": 1, "steps": 100, "warnings": [ALARM]} | ({} if kept is None else {"kept": kept})
    (folder / "run.json").write_text(json.dumps(info))
    run = read_run(folder)
    worked = run_conclusion(run).answers[0]
    assert worked.answer == answer
    if kept is None:
        assert worked.detail == "At step 60 it left. Advice: lower optim.learning_rate."
    elif kept["step"] == 40:
        assert worked.detail.endswith("The model has the weights of step 40, best by eval/loss.")


def test_the_log_speaks_of_the_kept_step(make_run: MakeRun) -> None:
    """Held-out accuracy 0.9 at the kept step, 0.3 at the last one; the same of displacement."""
    folder = make_run()
    for name in ("evaluation.json", "metrics.jsonl"):
        (folder / name).unlink(missing_ok=True)
    lines = [
        {
            "step": step,
            "epoch": 1.0,
            "eval/rewards/accuracies": value,
            **{f"eval/displacement/{side}": value for side in SIDES},
        }
        for step, value in ((0, 0.5), (40, 0.9), (60, 0.3))
    ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    info = {"format": 1, "steps": 60, "kept": {"step": 40, "metric": "eval/loss", "value": 0.6}}
    (folder / "run.json").write_text(json.dumps(info))
    worked, moved, *_ = run_conclusion(read_run(folder)).answers
    assert "accuracy in the log is 90.0 %" in worked.detail
    assert "chosen replies moved by 0.900" in moved.detail
